"""One image file to pixels, or the reason why not. The bytes are not trusted: decoder.py runs this under limits."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Sequence

# those of FORMATS: without them Pillow would not know the formats that it loads on demand
from PIL import ExifTags, Image, TiffImagePlugin, WebPImagePlugin  # noqa: F401

from cnnstudy.records import BadImage, Decoded

#: Part of the cache's address: raise it when the same file would decode to other pixels.
DECODER_VERSION = 3
#: What is tried, whatever a file's name. Not all that Pillow knows: for PostScript it would start Ghostscript.
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM")
#: Larger images are refused from their header, before a byte of pixels is decoded.
MOST_PIXELS = 100_000_000
#: Larger files are not read into memory.
MOST_FILE_BYTES = 512 * 2**20

#: By EXIF's orientation. ImageOps.exif_transpose would also write the EXIF anew, and fail where that can't be done.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

#: How kinds that are not read begin, after so many bytes: people rename them to .jpg.
_OTHER_KINDS = (
    (4, (b"ftyphei", b"ftyphev", b"ftypmif1", b"ftypmsf1"), "HEIC"),
    (4, (b"ftypavi",), "AVIF"),
    (0, (b"\xff\x0a", b"\0\0\0\x0cJXL "), "JPEG XL"),
    (0, (b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  "), "JPEG 2000"),
    (0, (b"8BPS",), "Photoshop"),
    (0, (b"%!PS", b"\xc5\xd0\xd3\xc6"), "PostScript"),
    (0, (b"%PDF",), "PDF"),
    (0, (b"\0\0\1\0",), "ICO"),
)


def read_file(path: str | os.PathLike[str], name: str) -> bytes | BadImage:
    """Return a regular file's bytes, or why they can't be had; never wait for a pipe or a device.

    Args:
        name: what a bad image is called.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with open(descriptor, "rb", buffering=0) as file:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                return BadImage(name, "it is no regular file", "unreadable")
            if found.st_size > MOST_FILE_BYTES:
                return BadImage(name, f"a file of {found.st_size:,} bytes; the most is {MOST_FILE_BYTES:,}")
            return file.readall()
    except OSError as error:
        return BadImage(name, error.strerror or str(error), "unreadable")


def resize(picture: Image.Image, size: int) -> Image.Image:
    """Square, whatever its shape was."""
    return picture.resize((size, size), Image.Resampling.BILINEAR)


def decode_image(name: str, content: bytes, sizes: Sequence[int]) -> Decoded | BadImage:
    """Return the image upright, at each size in pixels; of an animation the first frame.

    Args:
        name: what a bad image is called.

    Raises:
        MemoryError: it takes more memory than there is.
    """
    try:
        # each size from a decoding of its own: what JPEG leaves out must not depend on a study's other sizes
        return Decoded(tuple(resize(_open(content, size), size).tobytes() for size in sizes))
    except Image.UnidentifiedImageError:
        return BadImage(name, _kind_of(content))
    except Image.DecompressionBombError:  # Pillow refuses by itself what is larger still
        return BadImage(name, f"can't be decoded (far more than {MOST_PIXELS:,} pixels, the most)")
    except MemoryError:
        raise
    except Exception as reason:  # Pillow raises a dozen kinds on broken files, struct.error and TypeError among them
        return BadImage(name, f"can't be decoded ({reason or type(reason).__name__})")


def _open(content: bytes, size: int) -> Image.Image:
    with Image.open(io.BytesIO(content), formats=FORMATS) as picture:
        width, height = picture.size
        if width * height > MOST_PIXELS:
            raise ValueError(f"{width} x {height} pixels; the most is {MOST_PIXELS:,}")
        # JPEG can decode straight to a half, quarter or eighth of its size: no smaller than twice what is needed
        picture.draft("RGB", (2 * size, 2 * size))
        picture.load()
        return _to_rgb(_upright(picture))


def _kind_of(content: bytes) -> str:
    """What a file is that is none of FORMATS."""
    if not content:
        return "an empty file"
    for start, beginnings, name in _OTHER_KINDS:
        if content.startswith(beginnings, start):
            return f"{name}, which is not read; save it as JPEG or PNG"
    text = content[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(b"<") and b"<svg" in text:
        return "SVG, which is not read; save it as JPEG or PNG"
    if text.startswith((b"<!doctype html", b"<html")):
        return "a web page and not an image"
    return "not an image that Pillow can read"


def _upright(picture: Image.Image) -> Image.Image:
    """Turned as its EXIF says; as it is stored where the EXIF is broken, which is how viewers show it."""
    try:
        turn = _TURNS.get(picture.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # Pillow raises whatever comes of reading a broken one
        turn = None
    return picture if turn is None else picture.transpose(turn)


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode == "F":
        raise ValueError("its pixels are floating-point numbers without a known white; save it with 8 or 16 bits")
    if picture.mode.startswith("I;16") or picture.mode == "I":
        # 16-bit grey: Pillow's own conversion clips at 255 instead of scaling. A decoder starts faster without NumPy
        import numpy as np

        deep = np.asarray(picture)
        if deep.min() < 0 or deep.max() > 65535:
            raise ValueError("its pixels are 32-bit numbers without a known white; save it with 8 or 16 bits")
        return Image.fromarray((deep >> 8).astype(np.uint8)).convert("RGB")
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        layer = picture.convert("RGBA")
        paper = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(paper, layer).convert("RGB")
    return picture.convert("RGB")
