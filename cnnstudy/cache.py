"""One folder for what is costly and shared by all studies: decoded images, source weights, features of frozen layers.

Every entry is a folder under a content address. It is built under a temporary name beside its final one and renamed
when whole, so that an entry that exists is complete; a lock keeps two processes from building the same entry at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import filelock
import platformdirs

#: The file of an entry that says in a line what it is.
ABOUT = "about.txt"


def cache_folder() -> Path:
    """`$CNNSTUDY_CACHE`, or the platform's folder for caches."""
    given = os.environ.get("CNNSTUDY_CACHE")
    return Path(given or platformdirs.user_cache_dir("cnnstudy", appauthor=False)).expanduser().absolute()


def content_address(description: Any) -> str:
    """A digest (24 hexadecimal digits) of a JSON-like description, whatever the order of its keys."""
    text = json.dumps(description, sort_keys=True, ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def entry_folder(kind: str, address: str) -> Path:
    """Where the entry lies, or would lie."""
    return cache_folder() / kind / address


def entry_folders(kind: str) -> list[Path]:
    """The whole entries of a kind."""
    return [
        folder
        for folder in sorted((cache_folder() / kind).glob("*"))
        if folder.is_dir() and re.fullmatch(r"[0-9a-f]{24}", folder.name)
    ]


def lock_beside(path: Path) -> filelock.FileLock:
    """The lock of a file or folder, not taken yet."""
    return filelock.FileLock(f"{path}.lock", thread_local=False)


@contextlib.contextmanager
def locked_or_none(path: Path, patience: float = 0.0) -> Iterator[filelock.FileLock | None]:
    """The lock beside the path, held for the block; None where another process, or another part of this one, has it.

    Args:
        patience: seconds to wait for it.
    """
    lock = lock_beside(path)
    try:
        lock.acquire(timeout=patience)
    except filelock.Timeout:
        yield None
        return
    try:
        yield lock
    finally:
        lock.release()


def building_folders() -> dict[Path, bool]:
    """The folders in which entries of this user are, or were, being built, and whether a living process does so."""
    found = {}
    for folder in sorted(cache_folder().glob("*/.*-*")):
        with contextlib.suppress(OSError):  # gone since, or not ours to look at
            if re.fullmatch(r"\.[0-9a-f]{24}-.*", folder.name) and is_own(folder):
                with locked_or_none(_entry_of(folder)) as lock:
                    found[folder] = lock is None
    return found


def is_own(folder: Path) -> bool:
    """Whether it is this user's.

    Raises:
        OSError: it is gone, or out of reach.
    """
    return not hasattr(os, "getuid") or folder.stat().st_uid == os.getuid()


def remove_unfinished(folder: Path) -> bool:
    """Remove what was being built there, unless a living process still does; whether it is gone."""
    with locked_or_none(_entry_of(folder)) as lock:
        if lock is not None:
            shutil.rmtree(folder, ignore_errors=True)
        return lock is not None


def _entry_of(building: Path) -> Path:
    return building.parent / building.name[1:].partition("-")[0]


def build_entry(kind: str, address: str, build: Callable[[Path], None]) -> Path:
    """The entry's folder; `build(folder)` fills it first where there is none.

    Raises whatever `build` raises; nothing is left behind then.
    """
    build_entries(kind, [address], lambda folders: build(folders[address]))
    return entry_folder(kind, address)


def build_entries(kind: str, addresses: Sequence[str], build: Callable[[dict[str, Path]], None]) -> None:
    """Make several entries in one go: `build({address: folder})` fills those that are not there yet."""
    with contextlib.ExitStack() as stack:
        missing = sorted({address for address in addresses if not entry_folder(kind, address).is_dir()})
        for address in missing:  # one order for all processes, so that none waits for the other
            final = entry_folder(kind, address)
            final.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(lock_beside(final))
        # some may have been built by another process while this one waited
        missing = [address for address in missing if not entry_folder(kind, address).is_dir()]
        if not missing:
            return
        parent = entry_folder(kind, missing[0]).parent
        for address in missing:  # the lock is ours: what lies there was left by a process that was killed
            for left in parent.glob(f".{address}-*"):
                shutil.rmtree(left, ignore_errors=True)
        building = {address: Path(tempfile.mkdtemp(prefix=f".{address}-", dir=parent)) for address in missing}
        try:
            build(building)
            for address, folder in building.items():
                folder.rename(entry_folder(kind, address))
        finally:
            for folder in building.values():
                shutil.rmtree(folder, ignore_errors=True)
