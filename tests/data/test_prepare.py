"""The lines for programs without cnnstudy give the pixels that training sees."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from photos import photos
from PIL import Image

import cnnstudy
from cnnstudy.data.decode import decode_image
from cnnstudy.data.prepare import prepare
from cnnstudy.records import Decoded


@pytest.mark.parametrize("size", [16, 64, 350])
@pytest.mark.parametrize("name", photos())
def test_the_pixels_are_those_of_training(name: str, size: int, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(photos()[name])
    decoded = decode_image(name, photos()[name], [size])
    assert isinstance(decoded, Decoded)
    expected = np.frombuffer(decoded.pixels[0], np.uint8).reshape(size, size, 3)
    assert np.array_equal(prepare(str(tmp_path / name), size), expected)


def test_most_photos_need_more_than_a_conversion_to_rgb(tmp_path: Path) -> None:
    """Else the test above could not fail."""
    plain = set()
    for name, content in photos().items():
        (tmp_path / name).write_bytes(content)
        with Image.open(tmp_path / name) as opened, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about transparency in palettes
            careless = opened.convert("RGB").resize((64, 64), Image.Resampling.BILINEAR)
        if np.array_equal(careless, prepare(str(tmp_path / name), 64)):
            plain.add(name)
    assert plain == {"rgb.png", "animation.gif", "cmyk.tiff", "grey.png", "one-bit.png"}


def test_the_pages_show_these_lines() -> None:
    root = Path(cnnstudy.__file__).parent
    shown = (root.parent / "docs" / "commands.md").read_text(encoding="utf-8")
    assert (root / "data" / "prepare.py").read_text(encoding="utf-8").partition("\n\n")[2] in shown
