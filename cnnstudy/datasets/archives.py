"""The files of an archive, read member by member into memory and never unpacked: no name in it can write anywhere."""

from __future__ import annotations

import stat
import tarfile
import zipfile
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

from cnnstudy.errors import DataError

ARCHIVE_SUFFIXES = (".tgz", ".tar.gz", ".tar", ".zip")
#: A member, and all members together, that claim more are taken for a bomb.
MOST_MEMBER_BYTES = 512 * 2**20
MOST_TOTAL_BYTES = 4 * 2**30
#: The folders and the name of a file, from the root.
Parts = tuple[str, ...]


def is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


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
    total = 0
    members = _zip_members(path) if path.name.lower().endswith(".zip") else _tar_members(path)
    try:
        with closing(members):
            for member in members:
                total += member.size
                if total > MOST_TOTAL_BYTES:
                    raise DataError(
                        f"{path} holds more than {MOST_TOTAL_BYTES / 2**30:g} GiB; unpack it and give the folder."
                    )
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


def _content(path: Path, member: _Member) -> bytes:
    if member.size > MOST_MEMBER_BYTES:
        raise DataError(
            f"{member.name!r} in {path} has {member.size:,} bytes unpacked; the most is {MOST_MEMBER_BYTES:,}."
        )
    stream = member.open()
    assert stream is not None  # it is a regular file
    with stream:
        content = stream.read(member.size + 1)  # no more than it said, whatever is in there
    if len(content) != member.size:
        raise DataError(f"{member.name!r} in {path} does not have the {member.size:,} bytes that the archive says.")
    return content


def _tar_members(path: Path) -> Generator[_Member]:
    with tarfile.open(path, "r:*") as archive:
        for info in archive:
            yield _Member(info.name, info.size, info.isdir(), info.isreg(), partial(archive.extractfile, info))
        # tarfile takes a damaged header for the end of the archive
        stream: Any = archive.fileobj
        stream.seek(archive.offset)
        if any(stream.read(tarfile.BLOCKSIZE)):
            raise tarfile.ReadError(f"no file header at byte {archive.offset:,}, though more follows")


def _zip_members(path: Path) -> Generator[_Member]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)  # 0 where the zip comes from no Unix
            yield _Member(
                info.filename.replace("\\", "/"),  # some packers on Windows write these
                info.file_size,
                info.is_dir(),
                kind in (0, stat.S_IFREG),
                partial(archive.open, info),
            )
