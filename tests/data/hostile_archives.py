"""Malicious archives: they try to write elsewhere, take all memory, or keep a reader busy for ever."""

from __future__ import annotations

import bz2
import gzip
import io
import os
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

from .samples import picture, tree, write_tar, write_zip

GOOD = tree(*[f"{name}/{number}.png" for name in ("apple", "pear") for number in range(6)])


def header(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, target: str = "") -> bytes:
    """Return a member's header of 512 bytes with any claimed size, which Python's tarfile would not always write."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    block = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    block[124:136] = b"\x80" + size.to_bytes(11, "big") if size >= 0 else b"\xff" + (256**11 + size).to_bytes(11, "big")
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def tar_with(folder: Path, *blocks: bytes, name: str = "1.tgz") -> Path:
    """The good images, and before them these blocks."""
    whole = b"".join(blocks) + gzip.decompress(write_tar(folder / "good.tgz", GOOD).read_bytes())
    (folder / "good.tgz").unlink()
    (folder / name).write_bytes(gzip.compress(whole, 1) if name.endswith("gz") else whole)
    return folder / name


def _linked(kind: bytes, target: str) -> Callable[[Path], Path]:
    return lambda folder: tar_with(folder, header("pear/9.png", 0, kind, target))


def zip_with(folder: Path, *extra: tuple[zipfile.ZipInfo | str, bytes, int]) -> Path:
    path = write_zip(folder / "1.zip", GOOD)
    with zipfile.ZipFile(path, "a") as archive:
        for name, content, method in extra:
            archive.writestr(name, content, method)
    return path


def _named(name: str) -> dict[str, Callable[[Path], Path]]:
    """An image of that name in an archive of either kind; {here} is the test's own folder."""

    def files(folder: Path) -> dict[str, bytes]:
        return GOOD | {name.format(here=folder.parent): picture(0, "PNG")}

    return {
        f"tar {name}": lambda folder: write_tar(folder / "1.tgz", files(folder)),
        f"zip {name}": lambda folder: write_zip(folder / "1.zip", files(folder)),
    }


def _zip_link(folder: Path) -> Path:
    info = zipfile.ZipInfo("pear/9.png")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return zip_with(folder, (info, b"/etc/passwd", zipfile.ZIP_STORED))


def patched(folder: Path, name: str, change: Callable[[bytearray, int], None]) -> Path:
    """A zip whose directory says something else of a member than is in it."""
    path = zip_with(folder, (name, bytes(1000), zipfile.ZIP_DEFLATED))
    content = bytearray(path.read_bytes())
    change(content, content.rindex(b"PK\x01\x02"))
    path.write_bytes(content)
    return path


def _smaller(content: bytearray, entry: int) -> None:
    content[entry + 24 : entry + 28] = struct.pack("<I", 10)


def _larger(content: bytearray, entry: int) -> None:
    content[entry + 24 : entry + 28] = struct.pack("<I", 2**29)


def _encrypted(content: bytearray, entry: int) -> None:
    content[entry + 8] |= 1


def _overlapping(folder: Path) -> Path:
    """A thousand names for the same ten megabytes of zeros, as in Fifield's bomb."""
    path = write_zip(folder / "1.zip", {"pear/0.png": bytes(10_000_000)})
    content = path.read_bytes()
    start, end = content.index(b"PK\x01\x02"), content.index(b"PK\x05\x06")
    entry = content[start:end]
    entries = b"".join(entry.replace(b"pear/0.png", b"pear/%05d" % number) for number in range(1000))
    tail = struct.pack("<4s4HIIH", b"PK\x05\x06", 0, 0, 1000, 1000, len(entries), start, 0)
    path.write_bytes(content[:start] + entries + tail)
    return path


def _nested(folder: Path) -> Path:
    """A zip in a zip in a zip: none is opened, so that nothing is left of it."""
    inner = b"x" * 1000
    for depth in range(3):
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(f"pear/{depth}.zip", inner * 100)
        inner = stream.getvalue()
    return zip_with(folder, ("pear/inner.zip", inner, zipfile.ZIP_STORED))


def _many(folder: Path) -> Path:
    """More names than there may be (in the tests 10,000), packed into a few kilobytes."""
    return tar_with(folder, header("pear/nothing.txt") * 10_001)


def _sparse(folder: Path) -> Path:
    with open(folder / "1.zip", "wb") as file:
        file.truncate(2**40)
    return folder / "1.zip"


def _random(folder: Path, name: str) -> Path:
    (folder / name).write_bytes(os.urandom(5000))
    return folder / name


def written(folder: Path, name: str, content: bytes) -> Path:
    (folder / name).write_bytes(content)
    return folder / name


def _each(made: Iterable[dict[str, Callable[[Path], Path]]], why: str) -> dict[str, tuple[Callable[[Path], Path], str]]:
    return {name: (make, why) for one in made for name, make in one.items()}


_LINK, _OUT = "is a link or not a regular file", "points outside the archive"
_ESCAPES = ["../../escaped.png", "{here}/escaped.png", "pear/../../../escaped.png", "C:/escaped.png"]

#: By name: makes the archive in a folder, and a part of the message that refuses it; "" where it is read without harm.
ARCHIVES: dict[str, tuple[Callable[[Path], Path], str]] = {
    **_each(map(_named, _ESCAPES), _OUT),
    "zip ..\\": (lambda folder: write_zip(folder / "1.zip", GOOD | {"..\\..\\escaped.png": picture(0)}), _OUT),
    "tar symbolic link": (_linked(tarfile.SYMTYPE, "/etc/passwd"), _LINK),
    "tar hard link": (_linked(tarfile.LNKTYPE, "../../escaped.png"), _LINK),
    "tar pipe": (_linked(tarfile.FIFOTYPE, ""), _LINK),
    "tar device": (_linked(tarfile.CHRTYPE, ""), _LINK),
    "tar linked folder, then a file in it": (
        lambda folder: tar_with(
            folder, header("pear/up", 0, tarfile.SYMTYPE, str(folder.parent)), header("pear/up/escaped.txt")
        ),
        "",
    ),
    "zip symbolic link": (_zip_link, _LINK),
    "tar bomb": (
        lambda folder: write_tar(folder / "1.tgz", {"pear/9.png": bytes(2**29 + 1)}),
        "has 536,870,913 bytes unpacked",
    ),
    "zip bomb": (
        lambda folder: zip_with(folder, ("pear/9.png", bytes(2**29 + 1), zipfile.ZIP_DEFLATED)),
        "has 536,870,913 bytes unpacked",
    ),
    "zip bomb by bzip2": (
        lambda folder: zip_with(folder, ("pear/9.png", bytes(2**27), zipfile.ZIP_BZIP2)),
        "a method other than deflate",
    ),
    "zip of overlapping files": (_overlapping, "more than 4 GiB"),
    "zip in a zip in a zip": (_nested, ""),
    "zip that says less": (lambda folder: patched(folder, "pear/9.png", _smaller), "can't read the archive"),
    "zip that says more": (
        lambda folder: patched(folder, "pear/9.png", _larger),
        "does not have the 536,870,912 bytes",
    ),
    "zip with a password": (lambda folder: patched(folder, "pear/9.png", _encrypted), "damaged, cut off or encrypted"),
    "zip of a terabyte of nothing": (_sparse, "more than 4 GiB"),
    "tar with a huge file": (lambda folder: tar_with(folder, header("pear/9.png", 2**62)), "more than 4 GiB"),
    "tar with a huge text": (lambda folder: tar_with(folder, header("pear/9.txt", 2**62)), "more than 4 GiB"),
    "tar that says more": (lambda folder: tar_with(folder, header("pear/9.png", 2**28)), "can't read the archive"),
    "tar with a negative file": (lambda folder: tar_with(folder, header("pear/9.png", -512)), "points backwards"),
    "tar that goes round": (
        lambda folder: tar_with(folder, header("a"), header("b", -1024), name="1.tar"),
        "points backwards",
    ),
    "tar with a huge name": (
        lambda folder: tar_with(folder, header("long", 2**40, tarfile.GNUTYPE_LONGNAME)),
        "a header of 1,099,511,627,776 bytes",
    ),
    "tar with a huge extended header": (
        lambda folder: tar_with(folder, header("pax", 2**33, tarfile.XHDTYPE)),
        "a header of 8,589,934,592 bytes",
    ),
    "tar with a negative extended header": (
        lambda folder: tar_with(folder, header("pax", -1024, tarfile.XHDTYPE)),
        "a header of -1,024 bytes",
    ),
    "tar with headers of headers": (
        lambda folder: tar_with(folder, *[header("long", 0, tarfile.GNUTYPE_LONGNAME)] * 5000),
        "can't read the archive",
    ),
    "tar with deep folders": (
        lambda folder: write_tar(folder / "1.tgz", GOOD | {"pear/" + "d/" * 20_000 + "9.png": picture(0, "PNG")}),
        "a name of more than 4,096 characters",
    ),
    "tar of many names": (_many, "more than 10,000 files"),
    "tar of a name twice": (lambda folder: tar_with(folder, header("pear/1.png")), "two images in"),
    "tar that is a page": (lambda folder: written(folder, "1.tgz", b"<html>"), "can't read the archive"),
    "zip that is a page": (lambda folder: written(folder, "1.zip", b"<html>"), "can't read the archive"),
    "zip that is empty": (lambda folder: written(folder, "1.zip", b""), "can't read the archive"),
    "tar of chance": (lambda folder: _random(folder, "1.tar"), "can't read the archive"),
    "zip of chance": (lambda folder: _random(folder, "1.zip"), "can't read the archive"),
    "tar packed by bzip2": (
        lambda folder: written(folder, "1.tgz", bz2.compress(bytes(10**7))),
        "can't read the archive",
    ),
}
