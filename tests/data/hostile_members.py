"""More malicious archives: members of every kind and name, and contradictions between two parts of an archive."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from .hostile_archives import GOOD, header, patched, tar_with, written, zip_with
from .samples import picture, write_tar, write_zip

PICTURE = picture(0, "PNG")
_LINK, _OUT, _BROKEN = "is a link or not a regular file", "points outside the archive", "can't read the archive"


def _kind(kind: bytes, size: int = 0) -> Callable[[Path], Path]:
    return lambda folder: tar_with(folder, header("pear/9.png", size, kind))


def _extended(**said: str) -> Callable[[Path], Path]:
    """A tar whose extended header says something else of a picture than its own."""

    def make(folder: Path) -> Path:
        with tarfile.open(folder / "extra.tar", "w", format=tarfile.PAX_FORMAT) as archive:
            info = tarfile.TarInfo("pear/9.png")
            info.size, info.pax_headers = len(PICTURE), said
            archive.addfile(info, io.BytesIO(PICTURE))
        blocks = 3 + -(-len(PICTURE) // tarfile.BLOCKSIZE)  # two headers, what the first one says, the picture
        member = (folder / "extra.tar").read_bytes()[: tarfile.BLOCKSIZE * blocks]
        (folder / "extra.tar").unlink()
        return tar_with(folder, member)

    return make


def _sparse(size: int) -> Callable[[Path], Path]:
    """A tar whose file is a hole of so many bytes."""
    block = bytearray(header("pear/9.png", 0, tarfile.GNUTYPE_SPARSE))
    block[386:410] = b"%011o\0%011o\0" % (0, 0)
    block[483:495] = b"\x80" + size.to_bytes(11, "big")
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return lambda folder: tar_with(folder, bytes(block))


def _cut(pack: Callable[[Path, dict[str, bytes]], Path], name: str, share: float) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        whole = pack(folder / name, GOOD).read_bytes()
        return written(folder, name, whole[: int(share * len(whole))])

    return make


def _of_directory(at: int, value: bytes) -> Callable[[Path], Path]:
    """A zip whose directory has these bytes in the entry of a picture."""

    def change(content: bytearray, entry: int) -> None:
        content[entry + at : entry + at + len(value)] = value

    return lambda folder: patched(folder, "pear/9.png", change)


def _of_end(at: int, value: bytes) -> Callable[[Path], Path]:
    """A zip whose last record has these bytes."""

    def make(folder: Path) -> Path:
        content = bytearray(write_zip(folder / "1.zip", GOOD).read_bytes())
        end = content.rindex(b"PK\x05\x06") + at
        content[end : end + len(value)] = value
        return written(folder, "1.zip", bytes(content))

    return make


def _twice(folder: Path) -> Path:
    """The same name with two contents: which one is meant can't be told."""
    path = write_zip(folder / "1.zip", GOOD | {"pear/8.png": PICTURE, "pear/9.png": PICTURE})
    return written(folder, "1.zip", path.read_bytes().replace(b"pear/8.png", b"pear/9.png"))


def _behind_a_picture(folder: Path) -> Path:
    """An image that is a zip as well; by its name it is the zip."""
    return written(folder, "1.zip", PICTURE + write_zip(folder / "1.zip", GOOD).read_bytes())


def _parts(folder: Path) -> Path:
    """Gzip in several parts, and zeros behind, as tape drives leave them."""
    whole = gzip.decompress(write_tar(folder / "1.tgz", GOOD).read_bytes())
    half = len(whole) // 2
    return written(folder, "1.tgz", gzip.compress(whole[:half]) + gzip.compress(whole[half:]) + bytes(512))


def _garbage(folder: Path) -> Path:
    return written(folder, "1.tgz", write_tar(folder / "1.tgz", GOOD).read_bytes() + b"more of something else")


def _named(name: str | bytes) -> dict[str, Callable[[Path], Path]]:
    """A picture of that name in an archive of either kind."""
    text = name if isinstance(name, str) else name.decode(errors="surrogateescape")

    def zipped(folder: Path) -> Path:
        raw = name if isinstance(name, bytes) else name.encode()
        stand_in = "n" * len(raw)
        content = write_zip(folder / "1.zip", GOOD | {stand_in: PICTURE}).read_bytes()
        marked = bytearray(content.replace(stand_in.encode(), raw))
        for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
            marked[marked.rindex(mark) + at + 1] |= 8  # its name is UTF-8
        return written(folder, "1.zip", bytes(marked))

    shown = ascii(text)[:40]
    return {f"tar {shown}": lambda folder: write_tar(folder / "1.tgz", GOOD | {text: PICTURE}), f"zip {shown}": zipped}


def _device(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = 0o020666 << 16
    return info


#: A picture's name, and the key that it gets or why it is refused, in a tar and in a zip.
_NAMES: list[tuple[str | bytes, str | list[str]]] = [
    ("pear/line\nbreak.png", ["pear/line\nbreak.png"]),
    ("pear/\x1b[2J.png", ["pear/\x1b[2J.png"]),
    ("pear/\u202egnp.9.png", ["pear/\u202egnp.9.png"]),
    ("pear/$(touch escaped).png", ["pear/$(touch escaped).png"]),
    ("pear/CON.png", ["pear/CON.png"]),
    ("pear/ .. /9.png", ["pear/ .. /9.png"]),
    ("./pear//9.png", ["pear/9.png"]),
    (f"pear/{'n' * 300}.png", [f"pear/{'n' * 300}.png"]),
    (b"pear/\xff\xfe9.png", "1."),
    ("line\nbreak/9.txt", "the name of the class folder 'line\\nbreak'"),
    ("\x1b[2J/9.png", "the name of the class folder '\\x1b[2J'"),
    ("\u202eraep/9.png", "the name of the class folder '\\u202eraep'"),
    ("//host/share/9.png", _OUT),
    ("pear/9.png/../../../escaped.png", _OUT),
]
#: As hostile_archives.ARCHIVES; a list: it is read, and these images are in it besides.
MEMBERS: dict[str, tuple[Callable[[Path], Path], str | list[str]]] = {
    "tar block device": (_kind(tarfile.BLKTYPE), _LINK),
    "tar folder like an image": (_kind(tarfile.DIRTYPE), ""),
    "tar with a hole of a terabyte": (_sparse(2**40), "more than 4 GiB"),
    "tar with a hole of a gigabyte": (_sparse(2**30), "has 1,073,741,824 bytes unpacked"),
    "tar of a kind that nobody knows": (_kind(b"Z"), _LINK),
    "tar that renames a picture to escape": (_extended(path="../../escaped.png"), _OUT),
    "tar that renames a picture to the root": (_extended(path="/escaped.png"), _OUT),
    "tar that gives another size": (_extended(size="99999999999999"), "more than 4 GiB"),
    "tar that gives a size of letters": (_extended(size="many"), _BROKEN),
    "tar that gives a link": (_extended(linkpath="/etc/passwd"), ["pear/9.png"]),
    "tar with a hole by an extended header": (
        _extended(**{"GNU.sparse.map": "0,1", "GNU.sparse.size": str(2**40)}),
        "more than 4 GiB",
    ),
    "tar cut": (_cut(write_tar, "1.tar", 0.5), _BROKEN),
    "tar packed and cut": (_cut(write_tar, "1.tgz", 0.5), _BROKEN),
    "zip cut": (_cut(write_zip, "1.zip", 0.5), _BROKEN),
    "zip without its last byte": (_cut(write_zip, "1.zip", 0.999), _BROKEN),
    "tar in parts, with zeros behind": (_parts, ""),
    "tar with garbage behind": (_garbage, ""),
    "zip of a name twice": (_twice, "two images in"),
    "zip behind a picture": (_behind_a_picture, ""),
    "zip of 65,535 files, so it says": (_of_end(8, b"\xff" * 4), ""),
    "zip with its directory elsewhere": (_of_end(16, b"\xf0" * 4), _BROKEN),
    "zip of several disks": (_of_end(4, b"\x07\0\x07\0"), ""),
    "zip with a file elsewhere": (_of_directory(42, b"\xf0" * 4), _BROKEN),
    "zip that names a file otherwise": (_of_directory(46, b"pear/7.png"), _BROKEN),
    "zip packed in a way that nobody knows": (_of_directory(10, b"\x63\0"), "a method other than deflate"),
    "zip with a wrong sum": (_of_directory(16, b"\1\2\3\4"), _BROKEN),
    "zip encrypted by AES": (_of_directory(8, b"\x41\0"), _BROKEN),
    "zip in a picture's clothes": (lambda folder: written(folder, "1.zip", PICTURE), _BROKEN),
    "tar in a picture's clothes": (lambda folder: written(folder, "1.tar", PICTURE), _BROKEN),
    "tar of zeros": (lambda folder: written(folder, "1.tar", bytes(10**6)), "no folder of images"),
    "zip with a comment like a zip": (
        lambda folder: written(folder, "1.zip", write_zip(folder / "1.zip", GOOD).read_bytes()[:-2] + b"\4\0PK\5\6"),
        _BROKEN,
    ),
    "zip with a device": (
        lambda folder: zip_with(folder, (_device("pear/9.png"), b"", zipfile.ZIP_STORED)),
        _LINK,
    ),
    **{kind: (make, becomes) for name, becomes in _NAMES for kind, make in _named(name).items()},
    "zip of a picture with a zero byte in its name": (
        _named("pear/n\0ul.png")["zip 'pear/n\\x00ul.png'"],
        "a zero byte",
    ),
    "tar of a picture with a zero byte in its name": (_named("pear/n\0ul.png")["tar 'pear/n\\x00ul.png'"], ["pear/n"]),
}
