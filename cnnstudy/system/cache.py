"""What lies in the cache, and how it is cleared: nothing in it is lost for good, only made again."""

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


def lock_for(path: Path) -> filelock.FileLock:
    """The lock of a file or folder, not taken yet."""
    return filelock.FileLock(f"{path}.lock", thread_local=False)


@contextlib.contextmanager
def try_lock(path: Path, patience: float = 0.0) -> Iterator[filelock.FileLock | None]:
    """The lock beside the path, held for the block; None where another process, or another part of this one, has it.

    Args:
        patience: seconds to wait for it.
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


def find_unfinished() -> dict[Path, bool]:
    """The folders in which entries of this user are, or were, being built, and whether a living process does so."""
    found = {}
    for folder in sorted(cache_folder().glob("*/.*-*")):
        with contextlib.suppress(OSError):  # gone since, or not ours to look at
            if re.fullmatch(r"\.[0-9a-f]{24}-.*", folder.name) and is_owned_by_user(folder):
                with try_lock(_entry_of(folder)) as lock:
                    found[folder] = lock is None
    return found


def is_owned_by_user(folder: Path) -> bool:
    """Whether it is this user's.

    Raises:
        OSError: it is gone, or out of reach.
    """
    return not hasattr(os, "getuid") or folder.stat().st_uid == os.getuid()


def remove_unfinished(folder: Path) -> bool:
    """Remove what was being built there, unless a living process still does; whether it is gone."""
    with try_lock(_entry_of(folder)) as lock:
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
            stack.enter_context(lock_for(final))
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


#: Folders of the cache that hold entries, and what they are.
KINDS = {
    "images": "decoded images",
    "weights": "source weights",
    "features": "outputs of frozen backbones",
    "prefixes": "first epochs that trials share",
    "checkpoints": "trials under way",
    "forecasts": "what `--dry-run` foretold",
}


@dataclass(frozen=True)
class CacheEntry:
    """One entry: a whole folder under its content address."""

    kind: str
    address: str
    about: str
    bytes: int
    used: float  # seconds since 1970


def list_entries(kind: str | None = None) -> list[CacheEntry]:
    """What lies there, the largest first.

    Raises:
        InputError: no such kind.
    """
    if kind is not None and kind not in KINDS:
        raise InputError(f"there is no kind {kind!r}{did_you_mean(kind, KINDS)} The cache has {', '.join(KINDS)}.")
    found = [_entry(name, folder) for name in KINDS if kind in (None, name) for folder in _folders(name)]
    return sorted(found, key=lambda entry: (-entry.bytes, entry.address))


def clear_entries(chosen: Sequence[CacheEntry]) -> None:
    """Remove entries; what a study needs again is made again.

    Raises:
        StudyBusyError: a study is being run on this machine, and may be using them.
    """
    for lock in sorted((cache_folder() / "locks").glob("*.lock")):
        probe = filelock.FileLock(lock, timeout=0)
        try:
            probe.acquire()
        except filelock.Timeout:
            holder = lock.with_suffix(".holder")
            who = holder.read_text(encoding="utf-8") if holder.is_file() else "unknown"
            raise StudyBusyError(
                f"a study is being run on this machine ({who}) and may use the cache; wait for it, or stop it first."
            ) from None
        probe.release()
    for entry in chosen:
        folder = cache_folder() / entry.kind / entry.address
        # an entry that exists is complete: it goes by its name first
        leaving = folder.with_name(f".{entry.address}-cleared")
        shutil.rmtree(leaving, ignore_errors=True)  # left by a clearing that was killed
        with contextlib.suppress(FileNotFoundError):  # another process was quicker
            folder.rename(leaving)
            shutil.rmtree(leaving)


def unused_for(found: Sequence[CacheEntry], days: float) -> list[CacheEntry]:
    """Those that were not used for so many days."""
    return [entry for entry in found if time.time() - entry.used > days * 24 * 3600]


def _folders(kind: str) -> Iterator[Path]:
    parent = cache_folder() / kind
    if parent.is_dir():
        yield from (path for path in sorted(parent.iterdir()) if path.is_dir() and not path.name.startswith("."))


def _entry(kind: str, folder: Path) -> CacheEntry:
    sizes, used, text = [], [], KINDS[kind]
    with contextlib.suppress(OSError):  # a study that runs may remove any of it meanwhile
        text = (folder / ABOUT).read_text(encoding="utf-8", errors="replace")
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                file = os.stat(Path(parent, name))
                sizes.append(file.st_size)
                used.append(max(file.st_mtime, file.st_atime))
    return CacheEntry(kind, folder.name, text.strip(), sum(sizes), max(used, default=time.time()))
