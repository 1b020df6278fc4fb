from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cnnstudy.data.images import image_keys
from cnnstudy.records import TrialSpec
from cnnstudy.training import image_tables, trial
from cnnstudy.training.metrics import Measurement

MakeSpec = Callable[..., TrialSpec]


def read_split(spec: TrialSpec, path: Path) -> dict[str, tuple[str, str, str]]:
    image_tables.write_split(path, spec, trial.load_images(spec))
    header, *rows = csv.reader(path.read_text(encoding="utf-8").splitlines())
    assert header == ["image", "class", "part", "trained on"]
    assert len({row[0] for row in rows}) == len(rows)
    return {row[0]: (row[1], row[2], row[3]) for row in rows}


def test_every_image_is_in_one_part(make_spec: MakeSpec, tmp_path: Path) -> None:
    spec = make_spec(data_fraction=0.5)
    split = read_split(spec, tmp_path / "split.csv")
    assert sorted(split) == sorted(image_keys(spec.images))
    keys, images = image_keys(spec.images), trial.load_images(spec)
    for name, counts in (
        ("train", spec.images.train),
        ("validation", spec.images.validation),
        ("test", spec.images.test),
    ):
        of_part = [of_class for of_class, part, _ in split.values() if part == name]
        assert [of_part.count(of_class) for of_class in spec.images.classes] == list(counts)
    assert {key for key, row in split.items() if row[2] == "yes"} == {keys[place] for place in images.train.places}
    assert {row[1] for row in split.values() if row[2] == "yes"} == {"train"}
    assert {key for key, row in split.items() if row[1] == "validation"} == {keys[i] for i in images.validation.places}
    other = read_split(make_spec(data_fraction=0.5, block=7), tmp_path / "other.csv")
    assert {key for key, row in other.items() if row[1] == "test"} == {k for k, r in split.items() if r[1] == "test"}
    assert other != split, "each block divides train and validation afresh"


def test_predictions_are_a_table_of_mlflow(make_spec: MakeSpec, tmp_path: Path) -> None:
    spec = make_spec()
    images, classes = trial.load_images(spec), len(spec.images.classes)
    logits = np.zeros((len(images.validation), classes))
    logits[np.arange(len(logits)), images.validation.labels] = 3.0
    logits[0] = np.roll(logits[0], 1)  # the first is wrong
    of_probe = np.zeros((len(images.probe), classes))
    of_probe[:, 0] = 1.0
    measured = Measurement(of_probe, images.probe.labels, logits, images.validation.labels)
    image_tables.write_predictions(tmp_path / "predictions.json", spec, images, measured)
    table = json.loads((tmp_path / "predictions.json").read_text())
    assert table["columns"] == ["image", "part", "class", "predicted", "probability", "right"]
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    validation = [row for row in rows if row["part"] == "validation"]
    keys = image_keys(spec.images)
    assert [row["image"] for row in validation] == [keys[place] for place in images.validation.places]
    assert [row["right"] for row in validation] == [False] + [True] * (len(logits) - 1)
    assert all((row["class"] == row["predicted"]) == row["right"] for row in rows)
    expected = np.exp(3) / (np.exp(3) + classes - 1)
    assert [row["probability"] for row in validation] == pytest.approx([expected] * len(logits), abs=1e-4)
    assert {row["predicted"] for row in rows if row["part"] == "probe"} == {spec.images.classes[0]}
