"""A worker that finds the network of tests/networks/ too."""

from __future__ import annotations

import sys
from pathlib import Path

from cnnstudy import architectures
from cnnstudy.execution import worker

if __name__ == "__main__":
    architectures.__path__.append(str(Path(sys.argv[0]).parent.parent / "networks"))
    worker.main()
