"""Scratch folders: temporary folders, each with a lock that its process holds, which shows whether it is in use.

`cnnstudy-<16 hexadecimal digits>` in the system's temporary folder, and its lock beside it. The system releases the
lock when the process ends, however it ends: a folder's age says nothing about whether it is in use.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from cnnstudy.errors import CacheError, CnnstudyError, DiskFullError, printable
from cnnstudy.system.cache import cache_folder, describe_cache_trouble, is_owned_by_user, lock_for, try_lock
from cnnstudy.system.display import format_size
from cnnstudy.system.files import NO_ROOM

_NAME = re.compile(r"cnnstudy-[0-9a-f]{16}")


class Scratch:
    """A scratch folder of this process; `close` removes it with its content."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.gettempdir()) / f"cnnstudy-{secrets.token_hex(8)}"
        self._lock = lock_for(self.folder)
        self._lock.acquire()  # first, or the folder could be taken for abandoned
        self.folder.mkdir(mode=0o700)

    def close(self) -> None:
        """Remove the folder, if it still exists, and release its lock."""
        remove_tree(self.folder)
        self._lock.release()
        _remove_lock_file(self.folder)


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yield a scratch folder that is removed at the end of the block."""
    with contextlib.closing(Scratch()) as scratch:
        yield scratch.folder


def restate_os_error(error: OSError) -> CnnstudyError | None:
    """Return an error that says where a file can't be written, and what to do; None if the system's own says enough."""
    cache = cache_folder()
    if isinstance(error.filename, str | os.PathLike) and cache in (Path(error.filename), *Path(error.filename).parents):
        return CacheError(describe_cache_trouble(Path(error.filename), error))
    if error.errno in NO_ROOM:
        return DiskFullError(_describe_full_disk(error))
    if "temporary directory" in str(error):  # from tempfile, which tried several
        return DiskFullError(
            f"there is no folder for temporary files that can be written and has room ({error.strerror}); set TMPDIR "
            "to one."
        )
    return None


def describe_unusable_tmpdir() -> str:
    """Say that Python passes over the folder that TMPDIR names; "" if it is used, or not set."""
    given, used = os.environ.get("TMPDIR"), tempfile.gettempdir()
    if not given or os.path.abspath(given) == os.path.abspath(used):
        return ""
    return f"WARNING: TMPDIR, {printable(given)}, can't be written or has no room; temporary files go to {used}"


def _describe_full_disk(error: OSError) -> str:
    temporary = Path(tempfile.gettempdir())
    temporary = temporary.parent if is_scratch(temporary) else temporary  # a worker's is in its driver's
    places = {"the working folder": Path.cwd(), "the cache": cache_folder(), "temporary files": temporary}
    free = []
    for what, place in places.items():
        existing = next(path for path in (place, *place.parents) if path.exists())
        free.append(f"{format_size(shutil.disk_usage(existing).free)} free for {what}, {printable(str(place))}")
    which = f"{printable(str(error.filename))}: " if error.filename else ""
    return (
        f"a disk has no room left ({which}{error.strerror}). There are {'; '.join(free)}. Free some space, or set "
        "CNNSTUDY_CACHE or TMPDIR to folders on another disk; then run the same command to continue."
    )


def scratch_folders() -> dict[Path, bool]:
    """Return this user's scratch folders, and whether a living process holds each."""
    folders = {}
    for folder in sorted(Path(tempfile.gettempdir()).glob("cnnstudy-*")):
        with contextlib.suppress(OSError):  # removed meanwhile, or not readable
            if is_scratch(folder) and folder.is_dir() and is_owned_by_user(folder):
                folders[folder] = is_held(folder)
    return folders


def is_scratch(folder: Path) -> bool:
    """Check by its name whether a folder is, or was, a scratch folder."""
    return _NAME.fullmatch(folder.name) is not None


def is_held(folder: Path) -> bool:
    """Check whether a living process holds a scratch folder, or may: without its lock file, that can't be known."""
    if not _has_lock_file(folder):  # trying the lock would create the file
        return folder.exists()
    with try_lock(folder) as lock:
        return lock is None


def is_abandoned(folder: Path) -> bool:
    """Check whether the process that made a scratch folder is known to have ended."""
    return folder.is_dir() and _has_lock_file(folder) and not is_held(folder)


def _has_lock_file(folder: Path) -> bool:
    return Path(f"{folder}.lock").exists()


def remove_abandoned(folder: Path) -> bool:
    """Remove a scratch folder unless a living process holds it, or may; return whether it was removed."""
    if folder.exists() and not _has_lock_file(folder):
        return False
    with try_lock(folder) as lock:
        if lock is not None:
            remove_tree(folder)
    if lock is not None:
        _remove_lock_file(folder)
    return lock is not None


def _remove_lock_file(folder: Path) -> None:
    """Remove a folder's lock file, unless the folder could not be removed: then it shows that no process holds it."""
    if not folder.exists():
        Path(f"{folder}.lock").unlink(missing_ok=True)


def remove_tree(folder: Path) -> None:
    """Remove a folder with its content, as far as possible."""
    shutil.rmtree(folder, ignore_errors=True)
