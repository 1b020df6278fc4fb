"""What lies in the cache, and how it is cleared: nothing in it is lost for good, only made again."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import filelock

from cnnstudy.cache import ABOUT, cache_folder
from cnnstudy.errors import InputError, StudyBusyError, did_you_mean

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
class Entry:
    """One entry: a whole folder under its content address."""

    kind: str
    address: str
    about: str
    bytes: int
    used: float  # seconds since 1970


def entries(kind: str | None = None) -> list[Entry]:
    """What lies there, the largest first.

    Raises:
        InputError: no such kind.
    """
    if kind is not None and kind not in KINDS:
        raise InputError(f"there is no kind {kind!r}{did_you_mean(kind, KINDS)} The cache has {', '.join(KINDS)}.")
    found = [_entry(name, folder) for name in KINDS if kind in (None, name) for folder in _folders(name)]
    return sorted(found, key=lambda entry: (-entry.bytes, entry.address))


def clear(chosen: Sequence[Entry]) -> None:
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


def older_than(found: Sequence[Entry], days: float) -> list[Entry]:
    """Those that were not used for so many days."""
    return [entry for entry in found if time.time() - entry.used > days * 24 * 3600]


def _folders(kind: str) -> Iterator[Path]:
    parent = cache_folder() / kind
    if parent.is_dir():
        yield from (path for path in sorted(parent.iterdir()) if path.is_dir() and not path.name.startswith("."))


def _entry(kind: str, folder: Path) -> Entry:
    sizes, used, text = [], [], KINDS[kind]
    with contextlib.suppress(OSError):  # a study that runs may remove any of it meanwhile
        text = (folder / ABOUT).read_text(encoding="utf-8", errors="replace")
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                file = os.stat(Path(parent, name))
                sizes.append(file.st_size)
                used.append(max(file.st_mtime, file.st_atime))
    return Entry(kind, folder.name, text.strip(), sum(sizes), max(used, default=time.time()))
