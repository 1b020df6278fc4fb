"""Which code and which packages made a result."""

from __future__ import annotations

import functools
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import cnnstudy

#: Of an installed package: it reads files, and what runs stays what it was when it was imported.
_version = functools.cache(metadata.version)


def code_version() -> str:
    """`0.1.0`, and in a git checkout the commit too: `0.1.0+g1a2b3c4d5e6f`, with `.dirty` after uncommitted changes."""
    root = Path(cnnstudy.__file__).parent.parent
    if not (root / ".git").exists():
        return cnnstudy.__version__
    try:
        commit = _git(root, "rev-parse", "--short=12", "HEAD")
        dirty = ".dirty" if _git(root, "status", "--porcelain", "--", "cnnstudy") else ""
    except (OSError, subprocess.SubprocessError):  # no git, or no commit yet
        return cnnstudy.__version__
    return f"{cnnstudy.__version__}+g{commit}{dirty}"


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=30)
    return done.stdout.strip()


def driver_versions() -> dict[str, str]:
    """Of what runs in the driver; a worker adds its own."""
    return {"python": platform.python_version(), **{name: _version(name) for name in ("optuna", "mlflow")}}
