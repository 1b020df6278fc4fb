"""Files and arrays to pixels, in parallel threads (Pillow releases the interpreter lock); the bad ones are named."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

from cnnstudy.datasets import SourceImage

#: Part of the cache's address: raise it when the same file would decode to other pixels.
DECODER_VERSION = 1
#: Larger images are refused from their header, before a byte of pixels is decoded.
MOST_PIXELS = 100_000_000

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
    """Decode every image once and hand its pixels, at every size, to `store(index, size, pixels)`.

    Pixels are [size, size, 3] uint8, RGB; `store` is called from several threads, once for each index and size.
    """
    bad: list[BadImage] = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for index, outcome in enumerate(pool.map(lambda image: _decode_or_reason(image, sizes), images)):
            if isinstance(outcome, str):
                bad.append(BadImage(images[index].key, outcome))
            else:
                for size, pixels in zip(sizes, outcome, strict=True):
                    store(index, size, pixels)
            if index % 64 == 63 or index + 1 == len(images):
                progress("decoding images", index + 1, len(images))
    return bad


def _decode_or_reason(image: SourceImage, sizes: Sequence[int]) -> list[np.ndarray] | str:
    try:
        picture = _open(image.content, largest=max(sizes))
        return [np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR)) for size in sizes]
    except Image.UnidentifiedImageError:
        return "not an image that Pillow can read"
    except Image.DecompressionBombError as reason:
        return str(reason)
    except (OSError, ValueError, SyntaxError, EOFError) as reason:  # Pillow raises all of them on broken files
        return f"can't be decoded ({reason})"


def _open(content: object, largest: int) -> Image.Image:
    """The image upright, in RGB; of an animation the first frame."""
    if isinstance(content, np.ndarray):
        return Image.fromarray(content).convert("RGB")
    file = io.BytesIO(content) if isinstance(content, bytes) else content
    with Image.open(file) as picture:  # type: ignore[arg-type]
        width, height = picture.size
        if width * height > MOST_PIXELS:
            raise ValueError(f"{width} x {height} pixels; the most is {MOST_PIXELS:,}")
        # JPEG can decode straight to a half, quarter or eighth of its size: no smaller than twice what is needed
        picture.draft("RGB", (2 * largest, 2 * largest))
        picture.load()
        return _to_rgb(ImageOps.exif_transpose(picture))


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I;16") or picture.mode == "I":
        # 16-bit grey: Pillow's own conversion clips at 255 instead of scaling
        return Image.fromarray((np.asarray(picture).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        layer = picture.convert("RGBA")
        paper = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(paper, layer).convert("RGB")
    return picture.convert("RGB")
