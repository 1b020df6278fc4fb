"""The test split is out of reach of everything but `confirm`."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import cnnstudy
from cnnstudy.data.images import load_for_training, open_decoded
from cnnstudy.errors import DataError, ModelError
from cnnstudy.records import PreparedImages, TrialResult, TrialSpec
from cnnstudy.system import cache
from cnnstudy.training import test_split
from cnnstudy.training.trial import run_trial

from .tries import shared_networks

PACKAGE = Path(cnnstudy.__file__).parent


def users_of(pattern: str) -> set[str]:
    return {
        path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py") if re.search(pattern, path.read_text())
    }


def test_only_confirm_asks_for_the_test_split() -> None:
    """One module computes which images it has, one function of the worker calls that, one job leads there."""
    assert users_of(r"\b(list_test_indices|load_test_images)\(") == {"training/test_split.py"}
    assert users_of(r"import test_split\b|training\.test_split import") == {"execution/worker.py"}
    assert users_of(r"\"open_test\"") == {"execution/__init__.py", "execution/worker.py", "study/confirmation.py"}
    assert users_of(r"[^_]\bopen_test\(") == {"study/confirmation.py"}
    assert users_of(r"\bconfirm\(\s*resources") == {"study/confirmation.py", "study/run.py"}
    assert users_of(r"count_held_out|rank_for_split") == {
        "training/test_split.py",
        "data/part_counts.py",  # how many they are
        "data/splits.py",  # to leave them out
    }


@pytest.fixture
def poisoned(make_spec: Callable[..., TrialSpec], tmp_path: Path) -> tuple[PreparedImages, PreparedImages]:
    """The same images twice; in the second everything held out is noise of another class."""
    spec = make_spec()
    before, folder = Path(spec.images.folder), tmp_path / "poisoned"
    shutil.copytree(before, folder)
    rows = test_split.load_test_images(spec.images, spec.split).places
    pixels = np.load(folder / "images.npy", mmap_mode="r+")
    pixels[rows] = np.random.default_rng(0).integers(0, 256, pixels[rows].shape)
    pixels.flush()
    (folder / cache.SEAL).write_text(json.dumps(cache._measure_files(folder)))
    return spec.images, dataclasses.replace(spec.images, folder=str(folder))


@pytest.mark.parametrize("block", [None, 0, 3, 10_000])
def test_no_block_and_no_fraction_reaches_a_held_out_image(
    make_spec: Callable[..., TrialSpec], poisoned: tuple[PreparedImages, PreparedImages], block: int | None
) -> None:
    spec = make_spec()
    test = set(test_split.load_test_images(spec.images, spec.split).places.tolist())
    assert len(test) == sum(spec.images.test) == 25
    for fraction in (0.3, 1.0):
        clean, dirty = (load_for_training(images, spec.split, fraction, block, 0.5, 1) for images in poisoned)
        for part in ("train", "validation", "probe"):
            ours, theirs = getattr(clean, part), getattr(dirty, part)
            assert not test & set(ours.places.tolist())
            assert np.array_equal(ours.pixels, theirs.pixels)
    decoded = open_decoded(spec.images)
    whole = load_for_training(spec.images, spec.split, 1.0, block)
    everything = test | set(whole.train.places.tolist()) | set(whole.validation.places.tolist())
    assert everything == set(decoded.usable.tolist()), "each image is in one of the three"


def test_a_trial_does_not_depend_on_held_out_images(
    make_spec: Callable[..., TrialSpec], poisoned: tuple[PreparedImages, PreparedImages], tmp_path: Path
) -> None:
    results: list[TrialResult] = []
    for number, images in enumerate(poisoned):
        spec = dataclasses.replace(make_spec(epochs=2), images=images)
        results.append(run_trial(spec, tmp_path / str(number), lambda record: True, shared_networks()))
    assert results[0].summary == results[1].summary
    assert results[0].confusion == results[1].confusion
    clean, dirty = (
        test_split.evaluate_on_test(
            [Path(results[0].files["model"]) / "data" / "model.keras"], images, spec.split, print
        )
        for images in poisoned
    )
    assert clean["digest"] != dirty["digest"], "the hash tells"
    assert clean["loss"] != dirty["loss"]


def test_what_it_says_is_what_the_model_says_of_each_image(make_spec: Callable[..., TrialSpec], tmp_path: Path) -> None:
    import keras

    spec = make_spec(epochs=3, learning_rate=0.001, batch_size=8)
    result = run_trial(spec, tmp_path / "trial", lambda record: True, shared_networks())
    file = Path(result.files["model"]) / "data" / "model.keras"
    told = test_split.evaluate_on_test([file, file], spec.images, spec.split, lambda *_: None)
    test = test_split.load_test_images(spec.images, spec.split)
    chances = np.asarray(keras.saving.load_model(file).predict(test.pixels[:], verbose=0), dtype=np.float64)
    right = chances.argmax(axis=1) == test.labels
    assert told["accuracy"] == [pytest.approx(right.mean())] * 2
    assert told["loss"] == [pytest.approx(-np.log(chances[np.arange(25), test.labels]).mean(), rel=1e-4)] * 2
    assert np.array(told["confusion"]).trace() == 2 * right.sum()
    assert np.array(told["confusion"]).sum(axis=1).tolist() == [10] * 5
    with pytest.raises(ModelError, match=r"has 5 classes, but the study has images of 64 pixels and 2 classes"):
        test_split.evaluate_on_test(
            [file], dataclasses.replace(spec.images, classes=("a", "b")), spec.split, lambda *_: None
        )
    with pytest.raises(DataError, match="are gone"):
        test_split.load_test_images(dataclasses.replace(spec.images, folder="/gone"), spec.split)
