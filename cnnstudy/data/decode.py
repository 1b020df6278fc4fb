"""Decode one image file to RGB pixels, or say why it can't be used.

The bytes are not trusted: `decoder_process` runs this module under limits.
"""

from __future__ import annotations

import functools
import importlib
import io
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.util import find_spec
from typing import Any

import PIL

# Pillow loads some formats on demand: importing their plug-ins makes all of FORMATS known
from PIL import ExifTags, Image, ImageFilter, ImageStat, TiffImagePlugin, WebPImagePlugin, features  # noqa: F401

from cnnstudy.data.file_types import HEAD_BYTES, identify
from cnnstudy.records import BadImage, Decoded, ImageFacts

#: Part of the address of a cache entry: raise it when the same file would decode to different pixels.
DECODER_VERSION = 4
#: The formats that are tried, whatever a file's name; `_formats` adds those that not every Pillow has. Not all of
#: Pillow's: for PostScript it would start Ghostscript.
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM")
#: Larger images are refused by their header, before any pixels are decoded.
MAX_PIXELS = 100_000_000
#: Larger files are not read into memory.
MAX_FILE_BYTES = 512 * 2**20
#: An image is measured at no more pixels than this in height and width, about what a network sees of it.
MEASURED_SIZE = 256

#: EXIF orientation -> how to turn the image upright. ImageOps.exif_transpose would also rewrite the EXIF data, and fail
#: where that is impossible.
_ROTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
#: The sum of the four neighbours minus four times the pixel. Pillow clips what is beyond the offset, in sharp images.
_LAPLACIAN = ImageFilter.Kernel((3, 3), (0, 1, 0, 1, -4, 1, 0, 1, 0), scale=1, offset=128)


@dataclass(frozen=True)
class _Opened:
    """A picture in RGB, upright, and what its file says; the fields are those of ImageFacts."""

    picture: Image.Image
    size: tuple[int, int]
    mode: str
    rotated: bool
    taken: float | None
    camera: str


def describe_input(size: int, classes: Sequence[str] | None) -> dict[str, Any]:
    """Return what a model of this size takes, and how this module prepares it: the contract stored with each model.

    `prepare` does the same in a few lines, for programs without cnnstudy.

    Args:
        classes: the class names in the order of the model's outputs; None if they are not known.
    """
    return {
        "size": size,
        "colour": "red, green, blue, in this order, each 0 to 255 (uint8); the model scales them itself",
        "resize": f"to {size} x {size} pixels whatever the aspect ratio, nothing cropped; Pillow's BILINEAR filter",
        "jpeg": "decoded at 1/2, 1/4 or 1/8 of its size where that is at least twice the model's (Pillow's draft mode)",
        "orientation": "turned upright as the EXIF data says",
        "alpha": "composited on white; so is a palette's or a grey image's transparent colour",
        "16 bit": "the upper 8 bits of each value",
        "conversion": "CMYK, palettes and grey by Pillow's convert('RGB'); colour profiles are ignored",
        "animation": "the first frame",
        "decoder": DECODER_VERSION,
        "pillow": PIL.__version__,
        "classes": None if classes is None else list(classes),
    }


def read_file(path: str | os.PathLike[str], name: str) -> bytes | BadImage:
    """Return the bytes of a regular file, or why they can't be read; never wait for a pipe or a device.

    Args:
        name: the name of the image in a BadImage.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with open(descriptor, "rb", buffering=0) as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                return BadImage(name, "it is not a regular file", "unreadable")
            if status.st_size > MAX_FILE_BYTES:
                return BadImage(name, f"a file of {status.st_size:,} bytes; the most is {MAX_FILE_BYTES:,}")
            return file.readall()
    except (OSError, ValueError) as error:  # a ValueError: a path with a null character
        return BadImage(name, getattr(error, "strerror", None) or str(error), "unreadable")


def resize(picture: Image.Image, size: int) -> Image.Image:
    """Return the picture resized to a square of `size` pixels, whatever its aspect ratio."""
    return picture.resize((size, size), Image.Resampling.BILINEAR)


def measure_image(
    picture: Image.Image, size: tuple[int, int] | None = None, mode: str = "", rotated: bool = False
) -> ImageFacts:
    """Return the facts of an upright picture.

    Brightness and contrast are the mean and the standard deviation of its grey values; sharpness is the variance of
    their Laplacian (Pech-Pacheco et al. 2000, "Diatom autofocusing in brightfield microscopy"), which is low where
    there are no edges. All are measured at up to MEASURED_SIZE pixels in height and width, never enlarged.

    Args:
        size: width and height of the image as stored, upright; None: those of the picture.
        mode: as in ImageFacts; "": told from the picture.
    """
    width, height = min(picture.width, MEASURED_SIZE), min(picture.height, MEASURED_SIZE)
    grey = picture.convert("L").resize((width, height), Image.Resampling.BILINEAR)
    values = ImageStat.Stat(grey)
    # Pillow leaves the border unfiltered
    edges = grey.filter(_LAPLACIAN).crop((1, 1, max(2, width - 1), max(2, height - 1)))
    return ImageFacts(
        *(size or picture.size),
        mode=mode or _name_mode(picture),
        rotated=rotated,
        brightness=values.mean[0],
        contrast=values.stddev[0],
        sharpness=ImageStat.Stat(edges).var[0] if min(width, height) > 2 else 0.0,
    )


def decode_image(name: str, content: bytes, sizes: Sequence[int], measured: bool = False) -> Decoded | BadImage:
    """Return the image upright, at each size in pixels, or why it can't be decoded; of an animation the first frame.

    Args:
        name: the name of the image in a BadImage.
        measured: return its facts, too.

    Raises:
        MemoryError: decoding takes more memory than there is.
    """
    try:
        opened: dict[tuple[int, int], _Opened] = {}  # by the scale at which it is decoded
        pixels = tuple(resize(_open(content, size, opened).picture, size).tobytes() for size in sizes)
        if not measured:
            return Decoded(pixels)
        one = _open(content, MEASURED_SIZE, opened)
        facts = measure_image(one.picture, one.size, one.mode, one.rotated)
        return Decoded(pixels, replace(facts, taken=one.taken, camera=one.camera))
    except Image.UnidentifiedImageError:
        return BadImage(name, _describe_content(content))
    except Image.DecompressionBombError:  # Pillow's own limit, for even larger images
        return BadImage(name, f"can't be decoded (far more than {MAX_PIXELS:,} pixels, the most)")
    except MemoryError:
        raise
    except Exception as reason:  # Pillow raises a dozen kinds on broken files, struct.error and TypeError among them
        return BadImage(name, f"can't be decoded ({reason or type(reason).__name__})")


def _open(content: bytes, size: int, opened: dict[tuple[int, int], _Opened]) -> _Opened:
    """Return the picture in RGB, decoded for this size only: its scale must not depend on a study's other sizes."""
    with Image.open(io.BytesIO(content), formats=_formats()) as picture:
        width, height = picture.size
        if width * height > MAX_PIXELS:
            raise ValueError(f"{width} x {height} pixels; the most is {MAX_PIXELS:,}")
        mode = _name_mode(picture)
        # a JPEG can be decoded at a half, quarter or eighth of its size: at least twice the size that is needed
        picture.draft("RGB", (2 * size, 2 * size))
        scale = picture.size
        if scale not in opened:
            picture.load()
            upright = _turn_upright(picture)
            rotated = upright is not picture
            turned = rotated and upright.size != picture.size
            size_upright = (height, width) if turned else (width, height)
            when = _read_shooting_time(picture)
            opened[scale] = _Opened(_convert_to_rgb(upright), size_upright, mode, rotated, *when)
        return opened[scale]


@functools.cache
def _formats() -> tuple[str, ...]:
    """Return FORMATS, with AVIF if this Pillow reads it, and HEIF if the package pillow-heif is installed."""
    more = []
    if "avif" in features.modules and features.check("avif"):  # Pillow before 11.2 does not know it
        plugin = importlib.import_module("PIL.AvifImagePlugin")
        plugin.DEFAULT_MAX_THREADS = 1  # type: ignore[attr-defined]  # the pool has a process per core
        more.append("AVIF")
    if find_spec("pillow_heif") is not None:
        importlib.import_module("pillow_heif").register_heif_opener()
        more.append("HEIF")
    return (*FORMATS, *more)


def _describe_content(content: bytes) -> str:
    """Describe a file that can't be read in any of the formats."""
    if not content:
        return "an empty file"
    found = identify(content[:HEAD_BYTES])
    if found == "web page":
        return "a web page, not an image"
    if {"HEIC": "HEIF"}.get(found, found) in ("", *_formats()):
        return "not an image that Pillow can read"
    hint = ", or install the package pillow-heif" if found == "HEIC" else ""
    return f"{found}, which is not supported; save it as JPEG or PNG{hint}"


def _turn_upright(picture: Image.Image) -> Image.Image:
    """Turn a picture as its EXIF data says; leave it as stored if that data is broken, as image viewers do."""
    try:
        rotation = _ROTATIONS.get(picture.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # on broken EXIF data Pillow raises errors of any kind
        rotation = None
    return picture if rotation is None else picture.transpose(rotation)


def _read_shooting_time(picture: Image.Image) -> tuple[float | None, str]:
    """Return when a picture was taken, in seconds by the camera's clock, and the camera; None if it does not say."""
    try:
        exif = picture.getexif()
        details = exif.get_ifd(ExifTags.IFD.Exif)
        text = str(details[ExifTags.Base.DateTimeOriginal]).strip("\0 ")
        fraction = str(details.get(ExifTags.Base.SubsecTimeOriginal, "")).strip("\0 ")
        time = datetime.strptime(text, "%Y:%m:%d %H:%M:%S").replace(tzinfo=UTC).timestamp()
        names = [
            exif.get(ExifTags.Base.Make),
            exif.get(ExifTags.Base.Model),
            details.get(ExifTags.Base.BodySerialNumber),
        ]
        camera = " ".join(str(name).strip("\0 ") for name in names if name)
    except Exception:  # without EXIF data there is no such key; on broken data Pillow raises errors of any kind
        return None, ""
    return time + (float(f"0.{fraction}") if fraction.isdecimal() else 0.0), camera


def _name_mode(picture: Image.Image) -> str:
    """Return in people's words how the pixels of a picture are stored; of a file, before they are loaded."""
    stored = str(getattr(picture, "tile", [])[:1])  # Pillow reads colours of 16 bit as 8 bit, and names them only here
    if picture.mode.startswith("I") or ";16" in stored:
        return "16 bit"
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        return "alpha"
    return {"1": "grey", "L": "grey", "P": "palette"}.get(picture.mode, picture.mode)


def _convert_to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode == "F":
        raise ValueError("its pixels are floating-point numbers with an unknown white level; save it with 8 or 16 bits")
    if picture.mode.startswith("I;16") or picture.mode == "I":
        # 16-bit grey: Pillow's own conversion clips at 255 instead of scaling. A decoder starts faster without NumPy
        import numpy as np

        grey = np.asarray(picture)
        if grey.min() < 0 or grey.max() > 65535:
            raise ValueError("its pixels are 32-bit numbers with an unknown white level; save it with 8 or 16 bits")
        return Image.fromarray((grey >> 8).astype(np.uint8)).convert("RGB")
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        foreground = picture.convert("RGBA")
        background = Image.new("RGBA", foreground.size, "white")
        return Image.alpha_composite(background, foreground).convert("RGB")
    return picture.convert("RGB")
