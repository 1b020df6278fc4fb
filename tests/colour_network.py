"""A network made by hand that knows only the colours of a picture, not where they are, and pictures to try it on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

BINS = 64
#: The network as a user's file; its weights are beside it.
FILE = f"""
def build(image_size):
    from keras import Model, layers

    images = layers.Input((image_size, image_size, 3))
    return Model(images, layers.Conv2D({BINS}, 1, activation="relu", name="bins")(images))
"""


def write_network(folder: Path) -> tuple[Path, Path]:
    """The network's file and its weights: soft bins of colours, which the network averages over the picture."""
    numbers = np.random.default_rng(0)
    directions = numbers.normal(size=(3, BINS))
    directions /= np.linalg.norm(directions, axis=0)
    limits = -(directions * numbers.uniform(0, 255, (3, BINS))).sum(axis=0)
    (folder / "colours.py").write_text(FILE, encoding="utf-8")
    arrays = {"bins/0": directions[None, None].astype(np.float32), "bins/1": limits.astype(np.float32)}
    np.savez(folder / "colours.npz", **arrays)  # type: ignore[arg-type]
    return folder / "colours.py", folder / "colours.npz"


def picture(seed: int, size: int = 64) -> Image.Image:
    """A few soft colours: no two seeds look alike."""
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC)
