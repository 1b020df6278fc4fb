"""Files and arrays to pixels, in parallel threads (Pillow releases the interpreter lock); the bad ones are named."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import ExifTags, Image

from cnnstudy.datasets import SourceImage

#: Part of the cache's address: raise it when the same file would decode to other pixels.
DECODER_VERSION = 2
#: Larger images are refused from their header, before a byte of pixels is decoded.
MOST_PIXELS = 100_000_000

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

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class BadImage:
    """An image that can't be used, and why."""

    key: str
    reason: str

    def __str__(self) -> str:
        return f"{self.key}: {self.reason}"


def decode_all(
    images: Sequence[SourceImage],
    sizes: Sequence[int],
    store: Callable[[int, int, np.ndarray], None],
    progress: Progress,
) -> list[BadImage]:
    """Decode every image and hand its pixels, at every size, to `store(index, size, pixels)`.

    Pixels are [size, size, 3] uint8, RGB; `store` is called from several threads, once for each index and size.
    """
    bad: list[BadImage] = []

    def decode(index: int) -> str | None:
        outcome = _decode_or_reason(images[index], sizes)
        if isinstance(outcome, str):
            return outcome
        for size, pixels in zip(sizes, outcome, strict=True):
            store(index, size, pixels)
        return None

    with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
        # Pillow warns of odd metadata and of large images; what can be used is decided here
        warnings.filterwarnings("ignore", module=r"PIL\.")
        for index, reason in enumerate(pool.map(decode, range(len(images)))):
            if reason is not None:
                bad.append(BadImage(images[index].key, reason))
            if index % 64 == 63 or index + 1 == len(images):
                progress("decoding images", index + 1, len(images))
    return bad


def _decode_or_reason(image: SourceImage, sizes: Sequence[int]) -> list[np.ndarray] | str:
    try:
        # each size from a decoding of its own: what JPEG leaves out must not depend on a study's other sizes
        return [
            np.asarray(_open(image.content, size).resize((size, size), Image.Resampling.BILINEAR)) for size in sizes
        ]
    except Image.UnidentifiedImageError:
        return "not an image that Pillow can read"
    except Image.DecompressionBombError:  # Pillow refuses by itself what is larger still
        return f"can't be decoded (far more than {MOST_PIXELS:,} pixels, the most)"
    except MemoryError:  # says nothing about the image
        raise
    except Exception as reason:  # Pillow raises a dozen kinds on broken files, struct.error and TypeError among them
        return f"can't be decoded ({reason or type(reason).__name__})"


def _open(content: object, size: int) -> Image.Image:
    """The image upright, in RGB; of an animation the first frame."""
    if isinstance(content, np.ndarray):
        return Image.fromarray(content).convert("RGB")
    file = io.BytesIO(content) if isinstance(content, bytes) else content
    with Image.open(file) as picture:  # type: ignore[arg-type]
        width, height = picture.size
        if width * height > MOST_PIXELS:
            raise ValueError(f"{width} x {height} pixels; the most is {MOST_PIXELS:,}")
        # JPEG can decode straight to a half, quarter or eighth of its size: no smaller than twice what is needed
        picture.draft("RGB", (2 * size, 2 * size))
        picture.load()
        return _to_rgb(_upright(picture))


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
        # 16-bit grey: Pillow's own conversion clips at 255 instead of scaling
        return Image.fromarray((np.asarray(picture).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        layer = picture.convert("RGBA")
        paper = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(paper, layer).convert("RGB")
    return picture.convert("RGB")
