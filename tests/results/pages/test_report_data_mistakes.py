"""Pictures of mistakes in the page."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import pytest
from PIL import Image

from cnnstudy.errors import DataError
from cnnstudy.results.pages.report_data import MOST_SHOWN, decode_mistakes

from .example_study import entry, png


def picture(address: str) -> Image.Image:
    kind, _, data = address.partition(",")
    assert kind == "data:image/webp;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_files_become_pictures_of_the_page(tmp_path: Path) -> None:
    (one,) = decode_mistakes([entry(tmp_path, image=png(tmp_path, 600), cam_true=png(tmp_path, 32))])
    assert (one.true, one.predicted, one.probability, one.key) == ("rose", "tulip", 0.93, "rose/12.jpg")
    assert picture(one.picture).size == (144, 144)
    assert [(name, picture(cam).size) for name, cam in one.cams] == [("tulip", (16, 16)), ("rose", (32, 32))]
    (near,) = one.neighbours
    assert (near.name, near.similarity, near.key) == ("tulip", 0.97, "tulip/3.jpg")
    assert picture(near.picture).size == (16, 16)


def test_a_page_has_no_more_than_it_can_carry(tmp_path: Path) -> None:
    assert len(decode_mistakes([entry(tmp_path)] * (MOST_SHOWN + 5))) == MOST_SHOWN


def test_what_is_no_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_text("no image")
    with pytest.raises(DataError, match=r"can't decode an image of the gallery, .*broken\.png"):
        decode_mistakes([entry(tmp_path, image=str(tmp_path / "broken.png"))])
    with pytest.raises(DataError, match=r"gone\.png"):
        decode_mistakes([entry(tmp_path, image=str(tmp_path / "gone.png"))])
