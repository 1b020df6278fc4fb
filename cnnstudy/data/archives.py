"""Read the files of an archive, member by member, into memory. Nothing is unpacked, so no name can write anywhere.

What an archive says about itself is not trusted: sizes, counts and names have limits, and a compression method that can
expand without limit is refused.
"""

from __future__ import annotations

import gzip
import os
import stat
import tarfile
import zipfile
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

from cnnstudy.data.file_types import HEAD_BYTES, PassedOver
from cnnstudy.errors import DataError

ARCHIVE_SUFFIXES = (".tgz", ".tar.gz", ".tar", ".zip")
#: A member, and all members together, that claim more are treated as a decompression bomb.
MAX_MEMBER_BYTES = 512 * 2**20
MAX_TOTAL_BYTES = 4 * 2**30
MAX_MEMBERS = 500_000
#: Characters in a member's path; Linux accepts no longer ones.
MAX_NAME_LENGTH = 4096
#: Bytes of a member read at a time.
_CHUNK_BYTES = 2**20
#: Bytes that tarfile may read at a time: for a long name it would read however many a header claims.
_MOST_HEADER_BYTES = 16 * 2**20
#: Methods of compression in a zip; others expand without a limit.
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
#: The folders and the name of a file, from the root.
Parts = tuple[str, ...]


#: Folders that operating systems create; those of a NAS hold small copies of the images.
_SYSTEM_FOLDERS = ("__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found")


def is_hidden(name: str) -> bool:
    """Check whether a file or folder of that name is hidden, or made by the operating system."""
    return name.startswith(".") or name in _SYSTEM_FOLDERS


@dataclass(frozen=True)
class _Member:
    """A file, folder or other entry, as the archive describes it."""

    name: str
    size: int
    is_folder: bool
    is_file: bool
    is_plain: bool  # neither encrypted nor compressed by a method that is refused
    open: Callable[[], IO[bytes] | None]


def archive_members(
    path: Path,
    wanted: Callable[[Parts], bool],
    wanted_content: Callable[[bytes], bool] | None = None,
    passed_over: PassedOver | None = None,
) -> Iterator[tuple[Parts, bytes | None]]:
    """Yield the wanted files of an archive with their bytes, and its folders with None, in the archive's order.

    Hidden members are ignored. Absolute paths, paths with `..`, links and devices are ignored too, unless they are
    wanted: those raise, because leaving them out would go unnoticed.

    Args:
        wanted: says by its path that a file is wanted.
        wanted_content: says so by the first bytes of any other file; default: no other file is wanted.
        passed_over: counts the files that are not used.

    Raises:
        DataError: the archive is damaged or exceeds the limits above, or a wanted member is refused.
    """
    total, passed_over = 0, passed_over or PassedOver()
    members = _zip_members(path) if path.name.lower().endswith(".zip") else _tar_members(path)
    try:
        _check_totals(path, os.path.getsize(path), 0)
        with closing(members):
            for count, member in enumerate(members, 1):
                total += member.size
                _check_totals(path, total, count)
                _check_name(path, member.name)
                parts = tuple(part for part in member.name.split("/") if part not in ("", "."))
                if not parts or any(is_hidden(part) for part in parts if part != ".."):
                    if parts and not member.is_folder:
                        passed_over.add("hidden", "/".join(parts))
                    continue
                content = None if member.is_folder else _read_wanted(path, member, parts, wanted, wanted_content)
                if content is not None:
                    yield parts, content
                    continue
                if not member.is_folder:
                    passed_over.add_file("/".join(parts))
                folder = parts if member.is_folder else parts[:-1]
                if folder and not _leads_out(member, parts):
                    yield folder, None
    except DataError:
        raise
    except Exception as reason:  # tarfile, zipfile and the decompressors raise a dozen kinds on damaged files
        first_line = (str(reason) or type(reason).__name__).splitlines()[0].rstrip(":.")  # tarfile's have several
        raise DataError(
            f"can't read the archive {path}: {first_line}. It may be damaged, cut off or encrypted; get a new copy, or "
            f"give a folder. Archives are {', '.join(ARCHIVE_SUFFIXES)}."
        ) from reason


def _check_totals(path: Path, size: int, count: int) -> None:
    excess = ""
    if size > MAX_TOTAL_BYTES:
        excess = f"{MAX_TOTAL_BYTES / 2**30:g} GiB"
    elif count > MAX_MEMBERS:
        excess = f"{MAX_MEMBERS:,} files"
    if excess:
        raise DataError(f"{path} holds more than {excess}; unpack it and give the folder.")


def _check_name(path: Path, name: str) -> None:
    if "\0" in name:  # other programs may take the part before it for the name
        raise DataError(f"{name!r} in {path} has a zero byte in its name; create the archive again.")
    if len(name) > MAX_NAME_LENGTH:
        raise DataError(f"{name[:40]!r}... in {path} has a name of more than {MAX_NAME_LENGTH:,} characters.")


def _leads_out(member: _Member, parts: Parts) -> bool:
    return ".." in parts or member.name.startswith("/") or parts[0].endswith(":")


def _read_wanted(
    path: Path,
    member: _Member,
    parts: Parts,
    wanted: Callable[[Parts], bool],
    wanted_content: Callable[[bytes], bool] | None,
) -> bytes | None:
    """Return the bytes of a file that is wanted by its path or its first bytes; None if it is not.

    Raises:
        DataError: it is wanted by its path, and is refused.
    """
    leads_out = _leads_out(member, parts)
    if not wanted(parts):
        may_be_opened = member.is_file and member.is_plain and not leads_out and member.size <= MAX_MEMBER_BYTES
        return _read_member(path, member, wanted_content) if wanted_content and may_be_opened else None
    if leads_out or not member.is_file:
        what = "points outside the archive" if leads_out else "is a link or not a regular file"
        raise DataError(f"{member.name!r} in {path} {what}; unpack the archive, fix that, and give the folder.")
    return _read_member(path, member)


def _read_member(path: Path, member: _Member, wanted: Callable[[bytes], bool] = lambda head: True) -> bytes | None:
    """Return the bytes of a member; None if its first bytes are not wanted."""
    if member.size > MAX_MEMBER_BYTES:
        raise DataError(
            f"{member.name!r} in {path} has {member.size:,} bytes unpacked; the most is {MAX_MEMBER_BYTES:,}."
        )
    stream = member.open()
    assert stream is not None  # it is a regular file
    content = bytearray()
    with stream:
        content += stream.read(HEAD_BYTES)
        if not wanted(bytes(content)):
            return None
        # in chunks, so that memory is only taken for what is there; and one byte more than claimed, to detect excess
        while len(content) <= member.size and (chunk := stream.read(min(_CHUNK_BYTES, member.size + 1 - len(content)))):
            content += chunk
    if len(content) != member.size:
        raise DataError(f"{member.name!r} in {path} does not have the {member.size:,} bytes that the archive claims.")
    return bytes(content)


class _LimitedReader:
    """A stream that gives tarfile no more at a time than a header can need."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.seek, self.tell = stream.seek, stream.tell

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _MOST_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        return self._stream.read(size)


def _tar_members(path: Path) -> Generator[_Member]:
    with open(path, "rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    unpacked: IO[bytes] = gzip.open(path) if compressed else open(path, "rb")  # type: ignore[assignment] # noqa: SIM115
    with unpacked, tarfile.open(fileobj=_LimitedReader(unpacked), mode="r:") as archive:  # type: ignore[call-overload]
        last_offset = -1
        for info in archive:
            if info.size < 0 or info.offset <= last_offset:  # tarfile would go back, and loop for ever
                raise tarfile.ReadError(f"the header at byte {info.offset:,} points backwards")
            last_offset = info.offset
            yield _Member(info.name, info.size, info.isdir(), info.isreg(), True, partial(archive.extractfile, info))
        # tarfile mistakes a damaged header for the end of the archive
        unpacked.seek(archive.offset)
        if any(unpacked.read(tarfile.BLOCKSIZE)):
            raise tarfile.ReadError(f"no file header at byte {archive.offset:,}, though more follows")


def _zip_members(path: Path) -> Generator[_Member]:
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        _check_totals(path, sum(info.file_size for info in members), len(members))  # before any of them is opened
        for info in members:
            kind = stat.S_IFMT(info.external_attr >> 16)  # 0 in a zip that was not made on Unix
            yield _Member(
                info.orig_filename.replace("\\", "/"),  # written by some programs on Windows
                info.file_size,
                info.is_dir(),
                kind in (0, stat.S_IFREG),
                not info.flag_bits & 1 and info.compress_type in _METHODS,
                partial(_open_zipped, archive, info),
            )


def _open_zipped(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> IO[bytes]:
    if info.compress_type not in _METHODS:
        raise zipfile.BadZipFile(f"{info.filename!r} is compressed with a method other than deflate")
    return archive.open(info)
