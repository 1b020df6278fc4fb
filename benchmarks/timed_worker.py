"""A worker that also writes the time to package each trial's model, to package_seconds.json beside the model."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from cnnstudy.execution import worker


class TimedWorker(worker.Worker):
    def _set_up_tensorflow(self) -> None:
        super()._set_up_tensorflow()
        from cnnstudy.training import model_package

        original = model_package.save_model
        if original.__name__ == "timed":
            return

        def timed(model: Any, folder: Path, *more: Any) -> None:
            began = time.perf_counter()
            original(model, folder, *more)
            seconds = time.perf_counter() - began
            (folder.parent / "package_seconds.json").write_text(json.dumps(seconds), encoding="utf-8")

        model_package.save_model = timed


if __name__ == "__main__":
    worker.Worker = TimedWorker  # type: ignore[misc]
    worker.main()
