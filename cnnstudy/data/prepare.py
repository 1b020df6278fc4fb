"""Prepare a photo for a model, with Pillow and NumPy alone; the card of each model shows this file."""

import numpy as np
from PIL import Image, ImageOps


def prepare(photo: str, size: int) -> np.ndarray:
    """Return the pixels [size, size, 3] uint8 that cnnstudy sees in a photo."""
    with Image.open(photo) as opened:
        opened.draft("RGB", (2 * size, 2 * size))  # JPEG is decoded at a fraction of its size
        picture = ImageOps.exif_transpose(opened)
    if picture.mode.startswith("I"):  # 16-bit grey
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    elif picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return np.asarray(picture.convert("RGB").resize((size, size), Image.Resampling.BILINEAR))
