"""What a file is, told from its first bytes, because names lie or have no suffix; and what was not used, by kind."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass

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
#: So many names of what is not used are kept of each kind.
MOST_NAMES = 3
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


#: What to do about what can't be read for its rights.
RIGHTS_ADVICE = (
    "Give yourself the right to read it (`ls -l` shows the rights), or move it away; `bad_images: skip` is for files "
    "that can be read."
)


def read_head(path: str | os.PathLike[str]) -> bytes | None:
    """Return the first bytes of a regular file; None if it can't be read. Never wait for a pipe or a device.

    Raises:
        PermissionError: its rights forbid it.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with open(descriptor, "rb", buffering=0) as file:
            return file.read(HEAD_BYTES) if stat.S_ISREG(os.fstat(descriptor).st_mode) else None
    except PermissionError:
        raise
    except OSError:
        return None


@dataclass(frozen=True)
class PassedKind:
    """What was found and is not used, of one kind, with the first names in the order of the alphabet."""

    count: int
    kind: str
    names: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.describe(1)

    def describe(self, names: int) -> str:
        """Return the count with so many names: `3 .txt (notes.txt, ...)`."""
        shown = [*self.names[:names], *(["..."] if self.count > min(names, len(self.names)) else ())]
        return printable(f"{self.count} {self.kind}" + (f" ({', '.join(shown)})" if self.names else ""))


class PassedOver:
    """Counts what is not used, by kind, with the first names of each kind in the order of the alphabet."""

    def __init__(self) -> None:
        self._found: dict[str, PassedKind] = {}

    def add(self, kind: str, *names: str) -> None:
        """Count something, of a kind such as `hidden`."""
        before = self._found.get(kind, PassedKind(0, kind))
        first = tuple(sorted((*before.names, *names))[:MOST_NAMES])
        self._found[kind] = PassedKind(before.count + len(names), kind, first)

    def add_file(self, name: str) -> None:
        """Count a file that is no image, by its suffix."""
        suffix = os.path.splitext(name)[1].lower()
        self.add(suffix if 1 < len(suffix) <= 12 else "without a known suffix", name)

    def add_images(self, why: str, parts: Iterable[tuple[str, ...]]) -> None:
        """Count images that are not used, by their paths, for a reason such as `outside the class folders`."""
        names = ["/".join(one) for one in parts]
        if names:
            self.add(f"{'images' if len(names) > 1 else 'image'} {why}", *names)

    def list_kinds(self) -> tuple[PassedKind, ...]:
        """Return each kind, the most frequent first."""
        return tuple(sorted(self._found.values(), key=lambda found: (-found.count, found.kind)))
