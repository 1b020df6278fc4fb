"""What is told of images before the first trial, from a real worker."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from PIL import Image

from cnnstudy.config import load_study
from cnnstudy.display import PlainDisplay
from cnnstudy.errors import DataError
from cnnstudy.execution.local import LocalExecutor
from cnnstudy.preparation import Preparation

STUDY = """\
name: probe
data: {name: folder, path: photos, bad_images: skip}
image_size: 64
architectures: [alexnet]
training: {epochs: 1}
budget: {trials: 1}
"""


def test_skipped_images_and_copies_are_told_before_the_first_trial(own_places: Path) -> None:
    for label, name in enumerate(("apple", "pear")):
        (own_places / "photos" / name).mkdir(parents=True)
        for number in range(6):
            Image.new("RGB", (9, 9), (number, label, 0)).save(own_places / "photos" / name / f"{number}.png")
    (own_places / "photos" / "pear" / "\x1b[31mred.png").write_bytes(b"")
    (own_places / "photos" / "pear" / "same.png").write_bytes((own_places / "photos/apple/0.png").read_bytes())
    (own_places / "probe.yaml").write_text(STUDY)
    config = load_study("probe.yaml", ()).config
    told: list[str] = []
    with contextlib.closing(LocalExecutor(1, own_places / "trials")) as executor:
        preparation = Preparation(config, executor, None, PlainDisplay(told.append))  # type: ignore[arg-type]
        found = preparation.images(config.data, ("alexnet",))
        assert found["alexnet"].skipped == found["alexnet"].warnings == ()  # not for every trial's specification
        assert "folder: 1 images can't be used and are skipped:\n  pear/\\x1b[31mred.png: an empty file" in told
        copies = "WARNING: folder: an image is in more than one class, byte for byte the same; remove the wrong ones:"
        assert f"{copies}\n  apple/0.png = pear/same.png" in told
        refusing = config.data.model_copy(update={"bad_images": "refuse"})
        with pytest.raises(DataError, match=r"pear/\\x1b\[31mred.png: an empty file"):
            preparation.images(refusing, ("alexnet",))
