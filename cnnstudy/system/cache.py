"""The cache: folders under content addresses, each complete or absent. Clearing it costs only time.

    cache_folder() / kind / address         an entry
    cache_folder() / kind / .address-xxxx   an entry that is being built, or was when its process was killed

A process that builds or removes an entry holds the lock beside it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import platformdirs

from cnnstudy.errors import InputError, StudyBusyError, did_you_mean

#: The file in an entry with a one-line description of it.
ABOUT = "about.txt"


def cache_folder() -> Path:
    """Return `$CNNSTUDY_CACHE`, or the platform's cache folder, as an absolute path."""
    given = os.environ.get("CNNSTUDY_CACHE")
    return Path(given or platformdirs.user_cache_dir("cnnstudy", appauthor=False)).expanduser().absolute()


def content_address(description: Any) -> str:
    """Return a digest (24 hexadecimal digits) of a JSON-like description; the order of its keys does not matter."""
    text = json.dumps(description, sort_keys=True, ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def entry_folder(kind: str, address: str) -> Path:
    """Return the folder of an entry, which need not exist."""
    return cache_folder() / kind / address


def entry_folders(kind: str) -> list[Path]:
    """List the folders of the complete entries of a kind."""
    return [
        folder
        for folder in sorted((cache_folder() / kind).glob("*"))
        if folder.is_dir() and re.fullmatch(r"[0-9a-f]{24}", folder.name)
    ]


def lock_for(path: Path) -> filelock.FileLock:
    """Return the lock of a file or folder, not yet acquired."""
    return filelock.FileLock(f"{path}.lock", thread_local=False)


@contextlib.contextmanager
def try_lock(path: Path, patience: float = 0.0) -> Iterator[filelock.FileLock | None]:
    """Hold the lock beside a path for the block; yield None if another process, or another part of this one, holds it.

    Args:
        patience: seconds to wait for the lock.
    """
    lock = lock_for(path)
    try:
        lock.acquire(timeout=patience)
    except filelock.Timeout:
        yield None
        return
    try:
        yield lock
    finally:
        lock.release()


# ---- building entries


def build_entry(kind: str, address: str, build: Callable[[Path], None]) -> Path:
    """Return an entry's folder; if there is none, let `build(folder)` fill it first.

    What `build` raises is passed on, and nothing is left behind.
    """
    build_entries(kind, [address], lambda folders: build(folders[address]))
    return entry_folder(kind, address)


def build_entries(kind: str, addresses: Sequence[str], build: Callable[[dict[str, Path]], None]) -> None:
    """Build several entries together: `build({address: folder})` fills the folders of those that are missing."""
    with contextlib.ExitStack() as stack:
        missing = sorted({address for address in addresses if not entry_folder(kind, address).is_dir()})
        for address in missing:  # the same order in all processes, to avoid deadlock
            final = entry_folder(kind, address)
            final.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(lock_for(final))
        # another process may have built some while this one waited
        missing = [address for address in missing if not entry_folder(kind, address).is_dir()]
        if not missing:
            return
        parent = entry_folder(kind, missing[0]).parent
        for address in missing:  # we hold the lock: these were left by a killed process
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


# ---- unfinished entries


def find_unfinished() -> dict[Path, bool]:
    """Return the folders of this user's unfinished entries, and whether a living process is building each."""
    unfinished = {}
    for folder in sorted(cache_folder().glob("*/.*-*")):
        with contextlib.suppress(OSError):  # removed meanwhile, or not readable
            if re.fullmatch(r"\.[0-9a-f]{24}-.*", folder.name) and is_owned_by_user(folder):
                with try_lock(_finished_folder(folder)) as lock:
                    unfinished[folder] = lock is None
    return unfinished


def is_owned_by_user(folder: Path) -> bool:
    """Check whether a folder belongs to this user; always true on systems without user ids.

    Raises:
        OSError: the folder does not exist or can't be reached.
    """
    return not hasattr(os, "getuid") or folder.stat().st_uid == os.getuid()


def remove_unfinished(folder: Path) -> bool:
    """Remove an unfinished entry unless a living process is building it; return whether it was removed."""
    with try_lock(_finished_folder(folder)) as lock:
        if lock is not None:
            shutil.rmtree(folder, ignore_errors=True)
        return lock is not None


def _finished_folder(building: Path) -> Path:
    return building.parent / building.name[1:].partition("-")[0]


# ---- listing and clearing entries

#: The kinds of entries, each a folder of the cache.
KINDS = {
    "images": "decoded images",
    "groups": "copies and groups among images",
    "weights": "source weights",
    "features": "outputs of frozen backbones",
    "prefixes": "first epochs shared by trials",
    "checkpoints": "unfinished trials",
    "forecasts": "estimates by `--dry-run`",
}


@dataclass(frozen=True)
class CacheEntry:
    """A complete entry of the cache."""

    kind: str
    address: str
    about: str
    bytes: int
    used: float  # when it was last used, in seconds since 1970


def list_entries(kind: str | None = None) -> list[CacheEntry]:
    """List the entries of one kind or of all, the largest first.

    Raises:
        InputError: there is no such kind.
    """
    if kind is not None and kind not in KINDS:
        raise InputError(f"the cache has no kind {kind!r}{did_you_mean(kind, KINDS)} The kinds are {', '.join(KINDS)}.")
    entries = [_describe(name, folder) for name in KINDS if kind in (None, name) for folder in entry_folders(name)]
    return sorted(entries, key=lambda entry: (-entry.bytes, entry.address))


def clear_entries(chosen: Sequence[CacheEntry]) -> None:
    """Remove entries; studies rebuild those that they need.

    Raises:
        StudyBusyError: a study is running on this machine and may be using them.
    """
    for lock in sorted((cache_folder() / "locks").glob("*.lock")):
        probe = filelock.FileLock(lock, timeout=0)
        try:
            probe.acquire()
        except filelock.Timeout:
            holder = lock.with_suffix(".holder")
            who = holder.read_text(encoding="utf-8") if holder.is_file() else "unknown"
            raise StudyBusyError(
                f"a study is running on this machine ({who}) and may use the cache; wait until it ends, or stop it."
            ) from None
        probe.release()
    for entry in chosen:
        folder = cache_folder() / entry.kind / entry.address
        # renamed first: an entry that exists must be complete
        leaving = folder.with_name(f".{entry.address}-cleared")
        shutil.rmtree(leaving, ignore_errors=True)  # left when the process that cleared it was killed
        with contextlib.suppress(FileNotFoundError):  # another process removed it meanwhile
            folder.rename(leaving)
            shutil.rmtree(leaving)


def entries_unused_for(found: Sequence[CacheEntry], days: float) -> list[CacheEntry]:
    """Return the entries that have not been used for more than this many days."""
    return [entry for entry in found if time.time() - entry.used > days * 24 * 3600]


def _describe(kind: str, folder: Path) -> CacheEntry:
    sizes, used, text = [], [], KINDS[kind]
    with contextlib.suppress(OSError):  # a running study may remove files meanwhile
        text = (folder / ABOUT).read_text(encoding="utf-8", errors="replace")
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                file = os.stat(Path(parent, name))
                sizes.append(file.st_size)
                used.append(max(file.st_mtime, file.st_atime))
    return CacheEntry(kind, folder.name, text.strip(), sum(sizes), max(used, default=time.time()))
