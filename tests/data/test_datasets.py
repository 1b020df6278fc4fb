"""The contract of every data set; a new one needs only an entry in samples.MAKERS that writes files of its format."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from cnnstudy.data import datasets
from cnnstudy.data.datasets import DataOptions
from cnnstudy.data.images import load_for_training, prepare_images
from cnnstudy.data.splits import split_indices
from cnnstudy.errors import UnknownNameError
from cnnstudy.records import Split
from cnnstudy.training import test_split

from .samples import MAKERS

SPLIT = Split(validation=0.2, test=0.2, seed=3)


@pytest.fixture(params=datasets.names())
def options(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DataOptions:
    """Options that read small files of each data set's format."""
    monkeypatch.setenv("CNNSTUDY_CACHE", str(tmp_path / "cache"))
    given = MAKERS[request.param](tmp_path, monkeypatch)
    return datasets.find(request.param).Options.model_validate(
        {"name": request.param, "validation": SPLIT.validation, "test": SPLIT.test} | given
    )


def test_every_data_set_has_samples() -> None:
    assert sorted(MAKERS) == datasets.names()


def test_an_unknown_name_is_answered_with_a_near_one() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'flowers'"):
        datasets.find("flower")


@pytest.mark.parametrize("name", datasets.names())
def test_import_is_light(name: str) -> None:
    code = (
        f"import sys, cnnstudy.data.datasets.{name}\n"
        "print(sorted({'tensorflow', 'keras', 'sklearn', 'scipy', 'numpy', 'PIL'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_unknown_keys_are_refused(options: DataOptions) -> None:
    with pytest.raises(ValidationError, match="unknown key; did you mean 'bad_images'"):
        type(options).model_validate(options.model_dump() | {"bad_image": "skip"})


def test_options_survive_the_way_to_a_worker(options: DataOptions) -> None:
    assert type(options).model_validate(options.model_dump(mode="json")) == options


def test_images_have_labels_and_unique_keys(options: DataOptions) -> None:
    source = datasets.find(options.name).load(options)
    assert len(source.classes) >= 2
    assert len(set(source.classes)) == len(source.classes)
    assert {image.label for image in source.images} == set(range(len(source.classes)))
    keys = [image.key for image in source.images]
    assert len(set(keys)) == len(keys)
    assert not any(key.startswith("/") or "\\" in key for key in keys)


def test_loading_twice_gives_the_same(options: DataOptions) -> None:
    first, second = (datasets.find(options.name).load(options) for _ in range(2))
    assert first.classes == second.classes
    assert [(i.key, i.label) for i in first.images] == [(i.key, i.label) for i in second.images]
    for one, other in zip(first.images, second.images, strict=True):
        assert np.array_equal(one.content, other.content)  # type: ignore[arg-type]


def test_images_can_be_prepared_and_trained_on(options: DataOptions) -> None:
    (prepared,) = prepare_images(options, [32], SPLIT.seed, lambda what, done, total: None)
    assert prepared.size == 32
    assert prepared.skipped == ()
    assert min(prepared.train + prepared.validation + prepared.test) >= 1
    images = load_for_training(prepared, SPLIT, data_fraction=1.0)
    assert images.train.pixels.shape == (sum(prepared.train), 32, 32, 3)
    assert images.train.pixels.dtype == np.uint8
    assert images.train.pixels[:].std() > 1
    assert tuple(np.bincount(images.validation.labels)) == prepared.validation


def test_splits_are_disjoint_stratified_and_need_no_order(options: DataOptions) -> None:
    source = datasets.find(options.name).load(options)

    def split(order: list[int]) -> dict[str, list[list[str]]]:
        keys, labels = [source.images[i].key for i in order], [source.images[i].label for i in order]
        held_out = test_split.list_test_indices(keys, labels, SPLIT)
        by_label = [[i for i in held_out if labels[i] == label] for label in range(len(source.classes))]
        return {
            part: [sorted(keys[i] for i in members) for members in by_class]
            for part, by_class in {**split_indices(keys, labels, SPLIT), "test": by_label}.items()
        }

    order = list(range(len(source.images)))
    parts = split(order)
    everything = [key for by_class in parts.values() for members in by_class for key in members]
    assert sorted(everything) == sorted(image.key for image in source.images)
    per_class = Counter(image.label for image in source.images)
    for label, count in per_class.items():
        assert len(parts["validation"][label]) == len(parts["test"][label]) == max(1, round(0.2 * count))
    random.Random(1).shuffle(order)
    assert split(order) == parts
