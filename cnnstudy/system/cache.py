"""The cache: folders under content addresses, each complete or absent. Clearing it costs only time.

    cache_folder() / kind / address         an entry
    cache_folder() / kind / .address-xxxx   an entry that is being built, or was when its process was killed

A process that builds or removes an entry holds the lock beside it. An entry has a seal: the size and the hash of each
of its files, written before it gets its address, and checked in each process before it is used.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import platformdirs
import xxhash

from cnnstudy.errors import CacheError, InputError, StudyBusyError, did_you_mean, printable
from cnnstudy.system.output import print_note

#: The file in an entry with a one-line description of it.
ABOUT = "about.txt"
#: The file in an entry with its seal.
SEAL = "seal.json"
#: Kinds without seals: a checkpoint is replaced in place and has checksums of its own, a forecast is of no consequence.
_UNSEALED = {"checkpoints", "forecasts"}
#: Kinds whose files have checksums of their own, so that entries from before there were seals stay in use.
_MAY_LACK_SEAL = {"weights", "prefixes"}
#: Entries that this process has found intact, with the time and the inode of their seals.
_intact: dict[Path, tuple[int, int]] = {}


def cache_folder() -> Path:
    """Return `$CNNSTUDY_CACHE`, or the platform's cache folder, as an absolute path.

    In a folder that belongs to another user, each user has a cache of their own: one does not trust what others wrote.
    """
    given = os.environ.get("CNNSTUDY_CACHE")
    folder = Path(given or platformdirs.user_cache_dir("cnnstudy", appauthor=False)).expanduser().absolute()
    try:
        return folder if is_owned_by_user(folder) else folder / f"user-{os.getuid()}"
    except OSError:  # it does not exist yet
        return folder


def require_cache(part: str) -> Path:
    """Return a folder of the cache that can be written; it is created if need be.

    Raises:
        CacheError: it can't be.
    """
    folder = cache_folder() / part
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise CacheError(describe_cache_trouble(folder, error)) from error


def describe_cache_trouble(place: Path, error: OSError) -> str:
    """Say why the cache can't be used, and what to do.

    Args:
        place: in the cache.
    """
    existing = place
    with contextlib.suppress(OSError):  # the folder above can't be looked into
        existing = next(path for path in (place, *place.parents) if path.exists())
    whose = "" if is_owned_by_user(existing) else f": {printable(str(existing))} belongs to another user"
    return (
        f"the cache folder {printable(str(cache_folder()))} can't be used ({error.strerror or error}{whose}); set "
        "CNNSTUDY_CACHE to a folder that you can write, on a disk with room."
    )


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


def build_entry(
    kind: str, address: str, build: Callable[[Path], None], tell: Callable[[str], None] = print_note
) -> Path:
    """Return an entry's folder; if there is none, or a damaged one, let `build(folder)` fill it first.

    What `build` raises is passed on, and nothing is left behind.

    Args:
        tell: is told of a damaged entry.

    Raises:
        CacheError: others could have changed the entry.
    """
    build_entries(kind, [address], lambda folders: build(folders[address]), tell)
    return entry_folder(kind, address)


def build_entries(
    kind: str,
    addresses: Sequence[str],
    build: Callable[[dict[str, Path]], None],
    tell: Callable[[str], None] = print_note,
) -> None:
    """Build several entries together: `build({address: folder})` fills the folders of those that are missing."""
    with contextlib.ExitStack() as stack:
        missing = sorted({address for address in addresses if not is_intact(kind, address)})
        for address in missing:  # the same order in all processes, to avoid deadlock
            final = entry_folder(kind, address)
            final.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(lock_for(final))
        # another process may have built some while this one waited
        missing = [address for address in missing if not is_intact(kind, address)]
        if not missing:
            return
        for folder in (entry_folder(kind, address) for address in missing):
            with contextlib.suppress(FileNotFoundError):
                tell(f"the cache entry {folder} is damaged ({why_damaged(folder)}); it is removed and made anew")
                _remove(folder)
        parent = entry_folder(kind, missing[0]).parent
        for address in missing:  # we hold the lock: these were left by a killed process
            for left in parent.glob(f".{address}-*"):
                shutil.rmtree(left, ignore_errors=True)
        building = {address: Path(tempfile.mkdtemp(prefix=f".{address}-", dir=parent)) for address in missing}
        try:
            build(building)
            for address, folder in building.items():
                final = entry_folder(kind, address)
                if kind in _UNSEALED:
                    folder.rename(final)
                    continue
                (folder / SEAL).write_text(json.dumps(_measure_files(folder)), encoding="utf-8")
                written = _when_sealed(folder)
                folder.rename(final)
                _intact[final] = written
        finally:
            for folder in building.values():
                shutil.rmtree(folder, ignore_errors=True)


# ---- what an entry must hold


def is_intact(kind: str, address: str) -> bool:
    """Check whether there is an entry and it holds what was written.

    Raises:
        CacheError: others could have changed the entry.
    """
    try:
        return not why_damaged(entry_folder(kind, address))
    except FileNotFoundError:
        return False


def why_damaged(folder: Path, again: bool = False) -> str:
    """Return what differs between an entry and its seal; "" if nothing does. Each process looks once.

    Args:
        again: look even if this process has looked.

    Raises:
        CacheError: others could have changed the entry.
        FileNotFoundError: there is no such entry.
    """
    if folder.is_symlink() or not folder.is_dir():
        folder.lstat()
        return "it is no folder"
    if why := why_untrusted(folder):
        raise CacheError(why)
    if folder.parent.name in _UNSEALED:
        return ""
    try:
        written = _when_sealed(folder)
    except FileNotFoundError:
        folder.stat()
        return "" if folder.parent.name in _MAY_LACK_SEAL else f"no {SEAL}; earlier versions wrote none"
    if _intact.get(folder) == written and not again:
        return ""
    try:
        sealed = json.loads((folder / SEAL).read_text(encoding="utf-8"))
        found = _measure_files(folder)
        differ = sorted(name for name, measures in sealed.items() if measures != found.get(name))
    except (OSError, ValueError, AttributeError) as error:
        return str(error)
    if differ:
        return ", ".join(f"{name} is {'not what was written' if name in found else 'missing'}" for name in differ)
    _intact[folder] = written
    return ""


def _when_sealed(folder: Path) -> tuple[int, int]:
    """Return the time and the inode of an entry's seal; they are others once the entry is made anew."""
    status = (folder / SEAL).stat()
    return status.st_mtime_ns, status.st_ino


def why_untrusted(folder: Path) -> str:
    """Return why an entry's content may be others' work, and what to do; "" if only this user can have written it.

    Raises:
        FileNotFoundError: there is no such entry.
    """
    if not is_owned_by_user(folder):
        who, remedy = "belongs to another user", "Set CNNSTUDY_CACHE to a folder of your own"
    elif hasattr(os, "getuid") and folder.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        who, remedy = "can be written by other users", f"Remove it (`rm -r {folder}`)"
    else:
        return ""
    return f"the cache entry {folder} {who}, so what it holds is not trusted. {remedy}, and run the command again."


def _measure_files(folder: Path) -> dict[str, list[int | str]]:
    """Return the size and the XXH3 hash of each sealed file in an entry."""
    measured: dict[str, list[int | str]] = {}
    for path in (Path(parent, name) for parent, _, names in os.walk(folder) for name in names):
        if path not in (folder / SEAL, folder / ABOUT):
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, xxhash.xxh3_128).hexdigest()
                measured[path.relative_to(folder).as_posix()] = [file.tell(), digest]
    return measured


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
    "networks": "networks of your own, as studies began with them",
    "features": "outputs of frozen backbones",
    "prefixes": "first epochs shared by trials",
    "checkpoints": "unfinished trials",
    "received": "files from drivers on other machines",
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
        _remove(entry_folder(entry.kind, entry.address))


def _remove(folder: Path) -> None:
    # renamed first: an entry that exists must be complete
    leaving = folder.with_name(f".{folder.name}-cleared")
    _delete(leaving)  # left when the process that cleared it was killed
    with contextlib.suppress(FileNotFoundError):  # another process removed it meanwhile
        folder.rename(leaving)
        _delete(leaving)


def _delete(path: Path) -> None:
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path)


def entries_unused_for(found: Sequence[CacheEntry], days: float) -> list[CacheEntry]:
    """Return the entries that have not been used for more than this many days."""
    return [entry for entry in found if time.time() - entry.used > days * 24 * 3600]


def _describe(kind: str, folder: Path) -> CacheEntry:
    sizes, used, text = [], [], KINDS[kind]
    with contextlib.suppress(OSError):  # a running study may remove files meanwhile
        text = (folder / ABOUT).read_text(encoding="utf-8", errors="replace")
    for parent, _, names in os.walk(folder):
        for name in set(names) - {SEAL}:
            with contextlib.suppress(OSError):
                file = os.stat(Path(parent, name))
                sizes.append(file.st_size)
                used.append(max(file.st_mtime, file.st_atime))
    return CacheEntry(kind, folder.name, text.strip(), sum(sizes), max(used, default=time.time()))
