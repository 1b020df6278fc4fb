"""Files: hard-linked folders, files written in chunks or whole, memory-mapped arrays, and cells of CSV files."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import re
import shutil
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
from numpy.typing import DTypeLike

from cnnstudy.errors import printable

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


# ---- hard links


def hardlink_tree(source: Path, target: Path, durable: bool = False) -> None:
    """Link the files of a folder into another, replacing files of the same names; copy them where that is needed.

    Neither folder's files may be written to afterwards, only renamed or removed. A hard link keeps the file's group and
    permissions: if new files in the target get others, from its setgid bit or its default access control list, files
    are copied. They are also copied across disks, and on file systems without hard links.

    Args:
        durable: sync the files to disk, so that they survive a power cut.

    Raises:
        OSError: a file can be neither linked nor copied; part of the target may exist.
    """
    target.mkdir(parents=True, exist_ok=True)
    is_copied = _sets_permissions(target)
    with os.scandir(source) as scan:
        entries = list(scan)
    for entry in entries:
        destination = target / entry.name
        if entry.is_dir():
            hardlink_tree(Path(entry.path), destination, durable)
            continue
        if is_copied:
            destination.unlink(missing_ok=True)  # it may be a hard link, which must not be written to
            shutil.copyfile(entry.path, destination)
        else:
            _link(entry.path, destination)
        if durable:
            with destination.open("r+b") as file:
                os.fsync(file.fileno())


def _sets_permissions(folder: Path) -> bool:
    """Check whether new files in the folder get their group or permissions from it."""
    if folder.stat().st_mode & stat.S_ISGID:
        return True
    with contextlib.suppress(
        AttributeError, OSError
    ):  # another operating system, or a file system without access control lists
        return bool(os.getxattr(folder, "system.posix_acl_default"))
    return False


def _link(source: str, target: Path) -> None:
    try:
        os.link(source, target)
    except FileExistsError:
        target.unlink()
        _link(source, target)
    except OSError:  # another disk, or a file system without hard links
        target.unlink(missing_ok=True)
        shutil.copyfile(source, target)


# ---- large files

#: Bytes per write call. With 4 MB and more per call, writing 71 MB took 0.19 s instead of 0.014 s (Linux 6.18, ext4, in
#: a virtual machine).
CHUNK_BYTES = 1 << 20


class ChunkedWriter(io.BufferedWriter):
    """A new binary file that is written in chunks; `str()` gives its path."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path, "w"))
        self._path = path

    def __str__(self) -> str:
        return str(self._path)  # Keras chooses the format by the suffix

    def write(self, content: ReadableBuffer) -> int:
        """Write all of the content; return the number of bytes."""
        whole = memoryview(content).cast("B")
        for start in range(0, len(whole), CHUNK_BYTES):
            super().write(whole[start : start + CHUNK_BYTES])
        return len(whole)


#: `errno` of an OSError: the disk is full, or the user's quota is exhausted.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


def allocate_memmap(path: Path, shape: tuple[int, ...], dtype: DTypeLike) -> np.memmap:
    """Create an .npy file of zeros and return it as a writable memory map, with its disk space reserved.

    If the disk became full while the map is written, a signal would end the process.

    Raises:
        OSError: one of NO_ROOM, or the file can't be created.
    """
    mapped = np.lib.format.open_memmap(path, mode="w+", dtype=np.dtype(dtype), shape=shape)
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return mapped


# ---- files that a user asked for

#: The names that `find_place_beside` gives.
_HALF_WRITTEN = re.compile(r"\.cnnstudy-[0-9a-f]{12}\.(?P<process>\d+)\.part")


def write_whole(path: Path, text: str | bytes) -> None:
    """Write a file, text as UTF-8, that never holds a part of it: written beside and renamed, it is old or new.

    A link keeps pointing at the file, which is replaced. Pipes and devices are written to directly; a terminal gets
    text without control characters.

    Raises:
        OSError: it can't be written; the file is as it was.
        KeyboardInterrupt: it is a pipe whose reader has gone.
    """
    target = Path(os.path.realpath(path))
    content = text if isinstance(text, bytes) else text.encode("utf-8", errors="backslashreplace")
    if path.exists() and not path.is_file():
        _write_to_device(path, content)
        return
    beside = find_place_beside(target)
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            shutil.copymode(target, beside)
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)


def _write_to_device(path: Path, content: bytes) -> None:
    # a pipe without a name (/dev/stdout) has had its reader: opening it must not wait for one
    at_once = 0 if os.path.exists(os.path.realpath(path)) else os.O_NONBLOCK
    try:
        with open(os.open(path, os.O_WRONLY | at_once), "wb") as device:
            os.set_blocking(device.fileno(), True)
            if device.isatty():
                content = "\n".join(map(printable, content.decode(errors="replace").split("\n"))).encode()
            device.write(content)
    except OSError as error:
        if error.errno in (errno.EPIPE, errno.ENXIO):
            raise KeyboardInterrupt from error
        raise


def find_place_beside(target: Path) -> Path:
    """Return where this process writes what is then renamed to `target`; remove what killed ones have left there."""
    # the target's own name may be as long as is allowed
    name = f".cnnstudy-{hashlib.sha256(os.fsencode(target.name)).hexdigest()[:12]}"
    for left in find_half_written(target.parent, name):
        remove_half_written(left)
    return target.with_name(f"{name}.{os.getpid()}.part")


def find_half_written(folder: Path, pattern: str) -> list[Path]:
    """Return what killed processes have left in places that `find_place_beside` gave.

    Args:
        pattern: of their names below the folder, without the process and the suffix.
    """
    named = ((left, _HALF_WRITTEN.fullmatch(left.name)) for left in sorted(folder.glob(f"{pattern}.*.part")))
    return [left for left, name in named if name and not psutil.pid_exists(int(name["process"]))]


def remove_half_written(left: Path) -> None:
    """Remove a file or folder that `find_half_written` gave."""
    shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)


# ---- cells of CSV files


def escape_formula(value: Any) -> Any:
    """Return a CSV cell's value, with an apostrophe before a text that spreadsheets would take for a formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value
