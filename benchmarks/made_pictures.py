"""Pictures that are like photos, or are not, and six ways in which copies of a picture differ from it."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

SIDE = 96


def smooth(rng: np.random.Generator) -> Image.Image:
    """A few soft colours."""
    return Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize(
        (SIDE, SIDE), Image.Resampling.BICUBIC
    )


def leaves(rng: np.random.Generator) -> Image.Image:
    """Discs of all sizes over each other: edges and spectrum are those of photos (Lee, Mumford and Huang 2001)."""
    picture = Image.new("RGB", (SIDE, SIDE), tuple(rng.integers(0, 256, 3).tolist()))
    draw = ImageDraw.Draw(picture)
    for _ in range(150):
        radius, (x, y) = SIDE / 2 / np.sqrt(rng.uniform(1, 400)), rng.uniform(0, SIDE, 2)
        colour = np.clip(rng.normal(120, 60) + rng.normal(0, 25, 3), 0, 255).astype(int)
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=tuple(colour.tolist()))
    return picture


def landscape(rng: np.random.Generator) -> Image.Image:
    """A bright sky above dark ground, as many photos share it, under a texture with the spectrum of photos."""
    frequency = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.fftfreq(SIDE))
    frequency[0, 0] = 1

    def texture() -> np.ndarray:
        found: np.ndarray = np.fft.ifft2(np.fft.fft2(rng.normal(size=(SIDE, SIDE))) / frequency).real
        return (found - found.mean()) / found.std()

    shared = texture()
    detail = np.stack([shared + 0.3 * texture() for _ in range(3)], axis=-1)
    height = np.linspace(1, -1, SIDE)[:, None, None]
    sky, ground = rng.normal((140, 170, 220), 15), rng.normal((90, 100, 60), 20)
    pixels = np.where(height > rng.uniform(-0.4, 0.4), sky, ground) + 25 * detail
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def compress(picture: Image.Image, quality: int) -> Image.Image:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=quality)
    return Image.open(stream).convert("RGB")


def resize(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    return picture.resize((int(picture.width * rng.uniform(0.5, 0.95)), int(picture.height * rng.uniform(0.5, 0.95))))


def crop(picture: Image.Image, rng: np.random.Generator, share: float = 0.05) -> Image.Image:
    """Cut off a share of width and height, divided at random between both sides."""
    (left, top), (width, height) = rng.uniform(0, share, 2), picture.size
    box = (left * width, top * height, (1 - share + left) * width, (1 - share + top) * height)
    return picture.crop(tuple(map(round, box)))  # type: ignore[arg-type]


def brighten(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    return ImageEnhance.Brightness(picture).enhance(float(rng.choice((0.7, 1.3))))


KINDS: dict[str, Callable[[np.random.Generator], Image.Image]] = {
    "smooth": smooth,
    "leaves": leaves,
    "landscape": landscape,
}
CHANGES: dict[str, Callable[[Image.Image, np.random.Generator], Image.Image]] = {
    "re-saved": lambda picture, rng: compress(picture, 92),
    "resized": resize,
    "recompressed": lambda picture, rng: compress(picture, 40),
    "cropped": crop,
    "mirrored": lambda picture, rng: ImageOps.mirror(picture),
    "brightened": brighten,
}


def photo_crops() -> list[Image.Image]:
    """Pieces of the photos that come with scikit-learn, none of which overlap."""
    from sklearn.datasets import load_sample_images

    photos = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    return [
        photo.crop((left, top, left + SIDE, top + SIDE))
        for photo in photos
        for left in range(0, photo.width - SIDE + 1, SIDE)
        for top in range(0, photo.height - SIDE + 1, SIDE)
    ]


def digits() -> list[Image.Image]:
    """Handwritten digits of 8 x 8 pixels."""
    from sklearn.datasets import load_digits

    return [Image.fromarray((image * 15.9).astype(np.uint8)).convert("RGB") for image in load_digits().images]
