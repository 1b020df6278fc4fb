"""What a file is, told from its first bytes, because names lie or have no suffix; and what was not used, by kind."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable

from cnnstudy.errors import printable

#: As many bytes as `identify` looks at.
HEAD_BYTES = 1024

#: (offset in bytes, possible signatures there, format).
_SIGNATURES = (
    (0, (b"\xff\xd8\xff",), "JPEG"),
    (0, (b"\x89PNG\r\n\x1a\n",), "PNG"),
    (0, (b"GIF87a", b"GIF89a"), "GIF"),
    (8, (b"WEBPVP8",), "WEBP"),
    (0, (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), "TIFF"),
    (0, (b"\xff\x0a", b"\0\0\0\x0cJXL "), "JPEG XL"),
    (0, (b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  "), "JPEG 2000"),
    (0, (b"8BPS",), "Photoshop"),
    (0, (b"%!PS", b"\xc5\xd0\xd3\xc6"), "PostScript"),
    (0, (b"%PDF",), "PDF"),
    (0, (b"\0\0\1\0",), "ICO"),
)
#: The formats of photos. In a file of another format, nobody keeps them; such a file is passed over.
_PHOTOS = ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "HEIC", "AVIF", "JPEG XL", "JPEG 2000")
#: The sizes of the second header of a BMP: text, too, may begin with BM.
_BMP_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)


def identify(head: bytes) -> str:
    """Return the format of a file that begins with these bytes; "" if it is none that people take for an image."""
    for offset, signatures, name in _SIGNATURES:
        if head.startswith(signatures, offset):
            return name
    if head[4:8] == b"ftyp":
        brands = head[8 : max(12, min(int.from_bytes(head[:4], "big"), HEAD_BYTES))]
        if b"avif" in brands or b"avis" in brands:
            return "AVIF"
        return "HEIC" if brands.startswith((b"hei", b"hev", b"mif1", b"msf1")) else ""
    if head.startswith(b"BM") and int.from_bytes(head[14:18], "little") in _BMP_HEADERS:
        return "BMP"
    if re.match(rb"P[1-6](\s+#[^\n]*)*\s+\d+(\s+#[^\n]*)*\s+\d+\s", head):
        return "PPM"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return "web page"
    return "SVG" if text.startswith(b"<") and b"<svg" in text else ""


def is_photo(head: bytes) -> bool:
    """Check whether a file that begins with these bytes is an image, of a format that can be read or not."""
    return identify(head) in _PHOTOS


def read_head(path: str | os.PathLike[str]) -> bytes | None:
    """Return the first bytes of a regular file; None if it can't be read. Never wait for a pipe or a device."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with open(descriptor, "rb", buffering=0) as file:
            return file.read(HEAD_BYTES) if stat.S_ISREG(os.fstat(descriptor).st_mode) else None
    except OSError:
        return None


class PassedOver:
    """Counts what is not used, by kind, with the first name of each kind in the order of the alphabet."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[int, str]] = {}

    def add(self, kind: str, name: str, count: int = 1) -> None:
        """Count something, of a kind such as `hidden`."""
        before, first = self._found.get(kind, (0, name))
        self._found[kind] = before + count, min(first, name)

    def add_file(self, name: str) -> None:
        """Count a file that is no image, by its suffix."""
        suffix = os.path.splitext(name)[1].lower()
        self.add(suffix if 1 < len(suffix) <= 12 else "without a known suffix", name)

    def add_images(self, why: str, parts: Iterable[tuple[str, ...]]) -> None:
        """Count images that are not used, by their paths, for a reason such as `outside the class folders`."""
        names = ["/".join(one) for one in parts]
        if names:
            self.add(f"{'images' if len(names) > 1 else 'image'} {why}", min(names), len(names))

    def describe(self) -> tuple[str, ...]:
        """Return each kind with its count and first name, the most frequent first: `3 .txt (notes.txt, ...)`."""
        order = sorted(self._found.items(), key=lambda found: (-found[1][0], found[0]))
        return tuple(
            f"{count} {kind} ({printable(first)}{', ...' if count > 1 else ''})" for kind, (count, first) in order
        )
