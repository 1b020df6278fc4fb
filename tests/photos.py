"""One photo in each mode in which photos come: what a careless conversion to RGB makes something else of."""

from __future__ import annotations

import functools
import io
from typing import Any

import numpy as np
from PIL import Image, features


def encoded(picture: Image.Image, file_format: str, **settings: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, file_format, **settings)
    return stream.getvalue()


@functools.cache
def photos() -> dict[str, bytes]:
    """File name -> content."""
    dice = np.random.default_rng(0)
    colour = Image.fromarray(dice.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((400, 300), 3)
    grey = colour.convert("L")
    mask = Image.fromarray(dice.integers(0, 256, (3, 4), dtype=np.uint8)).resize(colour.size, 3)
    see_through, grey_see_through = colour.copy(), grey.copy()
    see_through.putalpha(mask)
    grey_see_through.putalpha(mask)
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 200)
    turned = Image.Exif()
    turned[0x0112] = 6
    avif = {"rgba.avif": encoded(see_through, "AVIF")} if features.check("avif") else {}
    return {
        **avif,
        "rgb.png": encoded(colour, "PNG"),
        "rgba.png": encoded(see_through, "PNG"),
        "rgba.webp": encoded(see_through, "WEBP", lossless=True),
        "la.png": encoded(grey_see_through, "PNG"),
        "palette.png": encoded(colour.quantize(4), "PNG", transparency=1),
        "palette-alpha.png": encoded(colour.quantize(4), "PNG", transparency=b"\x00\x80\xff\x40"),
        "animation.gif": encoded(colour, "GIF", save_all=True, append_images=[grey.convert("RGB")]),
        "cmyk.jpg": encoded(colour.convert("CMYK"), "JPEG"),
        "cmyk.tiff": encoded(colour.convert("CMYK"), "TIFF"),
        "sixteen.png": encoded(deep, "PNG"),
        "sixteen.tiff": encoded(deep, "TIFF"),
        "grey.png": encoded(grey, "PNG"),
        "grey-colour-key.png": encoded(grey, "PNG", transparency=128),
        "one-bit.png": encoded(grey.convert("1"), "PNG"),
        "rotated.jpg": encoded(colour, "JPEG", exif=turned),
        "rotated-rgba.png": encoded(see_through, "PNG", exif=turned),
        "rotated-palette.png": encoded(colour.quantize(4), "PNG", transparency=1, exif=turned),
    }
