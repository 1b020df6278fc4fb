"""Folders for what does not last, each with a lock that its process holds: whoever looks knows whether it is in use.

`cnnstudy-<16 digits>` in the system's temporary folder, and its lock beside it. The lock goes with the process,
whatever ends that: no folder is taken for abandoned because it is old, nor for in use because it is young.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from cnnstudy.system.cache import is_owned_by_user, lock_for, try_lock

_NAME = re.compile(r"cnnstudy-[0-9a-f]{16}")


class Scratch:
    """A folder of this process; `close` removes it with all that it holds."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.gettempdir()) / f"cnnstudy-{secrets.token_hex(8)}"
        self._lock = lock_for(self.folder)
        self._lock.acquire()  # before there is a folder that could be taken for abandoned
        self.folder.mkdir(mode=0o700)

    def close(self) -> None:
        """Remove the folder; nothing happens where it is gone already."""
        remove_tree(self.folder)
        self._lock.release()
        _remove_lock_of_none(self.folder)


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder that goes at the end of the block."""
    with contextlib.closing(Scratch()) as scratch:
        yield scratch.folder


def scratch_folders() -> dict[Path, bool]:
    """Those of this user that are there, and whether a living process holds them."""
    found = {}
    for folder in sorted(Path(tempfile.gettempdir()).glob("cnnstudy-*")):
        with contextlib.suppress(OSError):  # gone since, or not ours to look at
            if is_scratch(folder) and folder.is_dir() and is_owned_by_user(folder):
                found[folder] = is_held(folder)
    return found


def is_scratch(folder: Path) -> bool:
    """Whether a folder of that name is, or was, one of these."""
    return _NAME.fullmatch(folder.name) is not None


def is_held(folder: Path) -> bool:
    """Whether a living process holds the scratch folder, or may: where its lock was tidied away, nobody can tell."""
    if not _lock_is_there(folder):  # to ask for the lock would make it, and leave it
        return folder.exists()
    with try_lock(folder) as lock:
        return lock is None


def is_abandoned(folder: Path) -> bool:
    """Whether the process that made the scratch folder is known to be gone."""
    return folder.is_dir() and _lock_is_there(folder) and not is_held(folder)


def _lock_is_there(folder: Path) -> bool:
    """Whether the scratch folder has its lock beside it."""
    return Path(f"{folder}.lock").exists()


def remove_abandoned(folder: Path) -> bool:
    """Remove a scratch folder unless a living process holds it, or may; whether it is gone."""
    if folder.exists() and not _lock_is_there(folder):
        return False
    with try_lock(folder) as lock:
        if lock is not None:
            remove_tree(folder)
    if lock is not None:
        _remove_lock_of_none(folder)
    return lock is not None


def _remove_lock_of_none(folder: Path) -> None:
    """The lock of a folder that is gone; of one that could not be removed it tells the next call that nobody has it."""
    if not folder.exists():
        Path(f"{folder}.lock").unlink(missing_ok=True)


def remove_tree(folder: Path) -> None:
    """The folder with all that it holds, as far as that can be."""
    shutil.rmtree(folder, ignore_errors=True)
