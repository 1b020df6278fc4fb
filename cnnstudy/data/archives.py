"""The files of an archive, read member by member into memory and never unpacked: no name in it can write anywhere.

What an archive says of itself is not trusted: sizes, numbers and names have limits, and members that would expand
without one are refused.
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

from cnnstudy.errors import DataError

ARCHIVE_SUFFIXES = (".tgz", ".tar.gz", ".tar", ".zip")
#: A member, and all members together, that claim more are taken for a bomb.
MOST_MEMBER_BYTES = 512 * 2**20
MOST_TOTAL_BYTES = 4 * 2**30
MOST_MEMBERS = 500_000
#: Of a member's path. Linux takes no longer ones.
MOST_NAME = 4096
#: What is read in one go.
_AT_ONCE = 2**20
#: What tarfile may read in one go: it would read a name of as many bytes as a header says.
_MOST_AT_ONCE = 16 * 2**20
#: The folders and the name of a file, from the root.
Parts = tuple[str, ...]


#: Folders that systems make by themselves; those of a NAS hold small copies of the images.
_SYSTEM_FOLDERS = ("__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found")


def is_hidden(name: str) -> bool:
    return name.startswith(".") or name in _SYSTEM_FOLDERS


@dataclass(frozen=True)
class _Member:
    name: str
    size: int
    is_folder: bool
    is_file: bool
    open: Callable[[], IO[bytes] | None]


def archive_members(path: Path, wanted: Callable[[Parts], bool]) -> Iterator[tuple[Parts, bytes | None]]:
    """The wanted files of an archive with their bytes, and its folders with None, in the archive's order.

    Hidden members are ignored. Of absolute paths, paths with `..`, links and devices, those that are wanted are
    refused (leaving them out would go unnoticed) and the others are ignored.

    Raises:
        DataError: damaged, larger than the limits above, or a wanted member that is refused.
    """
    total = count = 0
    members = _zip_members(path) if path.name.lower().endswith(".zip") else _tar_members(path)
    try:
        if os.path.getsize(path) > MOST_TOTAL_BYTES:
            raise DataError(_too_much(path, f"more than {MOST_TOTAL_BYTES / 2**30:g} GiB"))
        with closing(members):
            for member in members:
                total, count = total + member.size, count + 1
                if total > MOST_TOTAL_BYTES:
                    raise DataError(_too_much(path, f"more than {MOST_TOTAL_BYTES / 2**30:g} GiB"))
                if count > MOST_MEMBERS:
                    raise DataError(_too_much(path, f"more than {MOST_MEMBERS:,} files"))
                if "\0" in member.name:  # who unpacks it may take what is before for the name
                    raise DataError(f"{member.name!r} in {path} has a zero byte in its name; pack the archive anew.")
                if len(member.name) > MOST_NAME:
                    raise DataError(f"{member.name[:40]!r}... in {path} is a name of more than {MOST_NAME:,} letters.")
                parts = tuple(part for part in member.name.split("/") if part not in ("", "."))
                leads_out = ".." in parts or member.name.startswith("/") or (parts[:1] and parts[0].endswith(":"))
                if not parts or any(is_hidden(part) for part in parts if part != ".."):
                    continue
                if member.is_folder or not wanted(parts):
                    folder = parts if member.is_folder else parts[:-1]
                    if folder and not leads_out:
                        yield folder, None
                    continue
                if leads_out or not member.is_file:
                    what = "leads out of the archive" if leads_out else "is a link or no regular file"
                    raise DataError(f"{member.name!r} in {path} {what}; unpack the archive, mend it, give the folder.")
                yield parts, _content(path, member)
    except DataError:
        raise
    except Exception as reason:  # tarfile, zipfile and the decompressors raise a dozen kinds on what is damaged
        said = (str(reason) or type(reason).__name__).splitlines()[0].rstrip(":.")  # tarfile goes on for lines
        raise DataError(
            f"can't read the archive {path}: {said}. It may be damaged, cut off or "
            f"encrypted; get it again, or give a folder. Archives are {', '.join(ARCHIVE_SUFFIXES)}."
        ) from reason


def _too_much(path: Path, what: str) -> str:
    return f"{path} holds {what}; unpack it and give the folder."


def _content(path: Path, member: _Member) -> bytes:
    if member.size > MOST_MEMBER_BYTES:
        raise DataError(
            f"{member.name!r} in {path} has {member.size:,} bytes unpacked; the most is {MOST_MEMBER_BYTES:,}."
        )
    stream = member.open()
    assert stream is not None  # it is a regular file
    content = bytearray()
    with stream:
        # no more than it said, whatever is in there; and no memory for what it only said
        while len(content) <= member.size and (read := stream.read(min(_AT_ONCE, member.size + 1 - len(content)))):
            content += read
    if len(content) != member.size:
        raise DataError(f"{member.name!r} in {path} does not have the {member.size:,} bytes that the archive says.")
    return bytes(content)


class _Stream:
    """Gives tarfile no more at once than a header may need."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.seek, self.tell = stream.seek, stream.tell

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _MOST_AT_ONCE:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        return self._stream.read(size)


def _tar_members(path: Path) -> Generator[_Member]:
    with open(path, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    unpacked: IO[bytes] = gzip.open(path) if packed else open(path, "rb")  # type: ignore[assignment] # noqa: SIM115
    with unpacked, tarfile.open(fileobj=_Stream(unpacked), mode="r:") as archive:  # type: ignore[call-overload]
        last = -1
        for info in archive:
            if info.size < 0 or info.offset <= last:  # tarfile would go back, and round and round
                raise tarfile.ReadError(f"the header at byte {info.offset:,} leads back")
            last = info.offset
            yield _Member(info.name, info.size, info.isdir(), info.isreg(), partial(archive.extractfile, info))
        # tarfile takes a damaged header for the end of the archive
        unpacked.seek(archive.offset)
        if any(unpacked.read(tarfile.BLOCKSIZE)):
            raise tarfile.ReadError(f"no file header at byte {archive.offset:,}, though more follows")


def _zip_members(path: Path) -> Generator[_Member]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)  # 0 where the zip comes from no Unix
            yield _Member(
                info.orig_filename.replace("\\", "/"),  # some packers on Windows write these
                info.file_size,
                info.is_dir(),
                kind in (0, stat.S_IFREG),
                partial(_open_zipped, archive, info),
            )


def _open_zipped(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> IO[bytes]:
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others are unpacked without a limit
        raise zipfile.BadZipFile(f"{info.filename!r} is compressed by another method than deflate")
    return archive.open(info)
