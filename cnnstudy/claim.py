"""One driver per study: who runs it, and nobody else while it lives."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from cnnstudy.cache import cache_folder, content_address, locked_or_none
from cnnstudy.errors import StudyBusyError

#: Seconds: who only looks whether somebody runs the study has the lock for a moment.
PATIENCE = 2.0


@contextlib.contextmanager
def one_driver(name: str, uri: str) -> Iterator[None]:
    """Hold the study on this machine; the lock goes with the process, whatever ends it.

    Raises:
        StudyBusyError: another process holds it.
    """
    path = _path(name, uri)
    with locked_or_none(path, PATIENCE) as lock:
        if lock is None:
            raise StudyBusyError(
                f"study {name!r} is being run by another process, {holder_of(name, uri)}; wait for it, or stop it "
                "first."
            )
        path.with_suffix(".holder").write_text(f"pid {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
        yield


@contextlib.contextmanager
def while_nobody_runs(name: str, uri: str) -> Iterator[bool]:
    """Whether no process of this machine runs the study; then none can begin to within the block."""
    with locked_or_none(_path(name, uri)) as lock:
        yield lock is not None


def holder_of(name: str, uri: str) -> str:
    """`pid 123 on host`: the process that holds the study, or the last that did."""
    holder = _path(name, uri).with_suffix(".holder")
    return holder.read_text(encoding="utf-8") if holder.is_file() else "unknown"


def _path(name: str, uri: str) -> Path:
    folder = cache_folder() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    absolute = str(Path(uri.removeprefix("sqlite:///")).absolute()) if uri.startswith("sqlite:///") else uri
    return folder / content_address([name, absolute])
