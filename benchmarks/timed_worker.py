"""A worker that also writes how long the last trial's model took to package: package_seconds.json in its folder."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from cnnstudy.execution import worker


class TimedWorker(worker.Worker):
    def _set_up_tensorflow(self) -> None:
        super()._set_up_tensorflow()
        from cnnstudy.training import package

        if not hasattr(package, "untimed"):
            package.untimed = package.save

            def save(*given: Any, **more: Any) -> None:
                began = time.perf_counter()
                package.untimed(*given, **more)
                spent = time.perf_counter() - began
                Path(self.folder, "package_seconds.json").write_text(json.dumps(spent), encoding="utf-8")

            package.save = save


if __name__ == "__main__":
    worker.Worker = TimedWorker  # type: ignore[misc]
    worker.main()
