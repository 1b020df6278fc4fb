"""A model's mistakes and their neighbours, on images whose mistakes are known."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import colours
import keras
import numpy as np
import pytest
from colours import CLASSES, SPLIT, keys_in
from PIL import Image

from cnnstudy.data.images import image_keys
from cnnstudy.errors import DataError, ModelError
from cnnstudy.records import PreparedImages, TrialSpec
from cnnstudy.training.mistakes import PICTURE, explain_mistakes, spread_over_pairs
from cnnstudy.training.trial import load_images

MakeSpec = Callable[..., TrialSpec]

RED, GREEN = keys_in("validation", "red"), keys_in("validation", "green")
#: Of the pair red-green three, of the others one each, in the order of their brightness.
WRONG = {
    RED[0]: ("green", 200),
    RED[1]: ("green", 180),
    RED[2]: ("green", 160),
    RED[3]: ("blue", 120),
    GREEN[0]: ("red", 80),
}
IN_TURN = [RED[0], RED[3], GREEN[0], RED[1], RED[2]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.keras"
    colours.classifier().save(path)
    return path


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> PreparedImages:
    return colours.prepared(tmp_path_factory.mktemp("colours"), WRONG, {})


@pytest.fixture
def spec(make_spec: MakeSpec, images: PreparedImages) -> TrialSpec:
    return make_spec(images=images, split=SPLIT)


def gallery(spec: TrialSpec, model: Path, folder: Path, count: int = 12, **more: Any) -> dict[str, Any]:
    found = explain_mistakes(spec, model, folder, count, lambda *_: None, **more)
    assert json.loads(json.dumps(found)) == found, "not plain data"
    return found


def pictures(found: dict[str, Any]) -> list[Path]:
    paths = []
    for entry in found["entries"]:
        paths += [entry["image"], entry["cam_predicted"], entry["cam_true"]]
        paths += [neighbour["image"] for neighbour in entry["neighbours"]]
    return [Path(path) for path in paths]


# ---- which mistakes


def test_every_mistake_is_one_and_none_is_left_out(spec: TrialSpec, model: Path, tmp_path: Path) -> None:
    found = gallery(spec, model, tmp_path)
    assert (found["wrong"], found["validation"]) == (5, 12)
    assert found["map"] == [16, 16]
    assert {entry["key"] for entry in found["entries"]} == set(WRONG)
    validation = load_images(spec).validation
    rows = dict(
        zip(
            [image_keys(spec.images)[place] for place in validation.places],
            keras.saving.load_model(model).predict_on_batch(validation.pixels[:]),
            strict=True,
        )
    )
    for entry in found["entries"]:
        shares = rows[entry["key"]]
        assert entry["true"] == entry["key"].split("/")[0]
        assert entry["predicted"] == CLASSES[shares.argmax()] == WRONG[entry["key"]][0] != entry["true"]
        assert entry["probability"] == pytest.approx(shares.max(), rel=1e-5)


def test_the_pairs_take_turns_and_the_surest_comes_first(spec: TrialSpec, model: Path, tmp_path: Path) -> None:
    found = gallery(spec, model, tmp_path / "all")
    assert [entry["key"] for entry in found["entries"]] == IN_TURN
    few = gallery(spec, model, tmp_path / "few", count=3)
    assert few["wrong"] == 5
    assert [entry["key"] for entry in few["entries"]] == IN_TURN[:3]
    pairs = [(entry["true"], entry["predicted"]) for entry in few["entries"]]
    assert pairs == [("red", "green"), ("red", "blue"), ("green", "red")]


def test_turns_of_pairs_of_any_size() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1, 2])
    predicted = np.array([1, 1, 1, 2, 0, 0, 2])
    sure = np.array([0.5, 0.9, 0.7, 0.6, 0.8, 0.8, 1.0])
    assert spread_over_pairs(np.array([0, 1, 2, 3, 4, 5]), labels, predicted, sure) == [1, 4, 3, 5, 2, 0]
    assert spread_over_pairs(np.array([], dtype=int), labels, predicted, sure) == []


def test_without_mistakes_nothing_is_drawn(make_spec: MakeSpec, model: Path, tmp_path: Path) -> None:
    right = colours.prepared(tmp_path / "colours", {}, {})
    found = gallery(make_spec(images=right, split=SPLIT), model, tmp_path / "gallery")
    assert (found["wrong"], found["validation"], found["entries"]) == (0, 12, [])
    assert not (tmp_path / "gallery").exists()


# ---- neighbours


@pytest.mark.parametrize(
    "changes", [{}, {"data_fraction": 0.5, "block": 3}, {"shuffled_labels": 1.0, "seed": 4}], ids=str
)
def test_neighbours_are_the_most_alike_of_the_trials_own_training_images(
    make_spec: MakeSpec, images: PreparedImages, model: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    spec = make_spec(images=images, split=SPLIT, **changes)
    whole = keras.saving.load_model(model)
    features = keras.Model(whole.inputs[0], whole.get_layer("flatten").output)
    loaded, keys = load_images(spec), image_keys(images)
    train = dict(
        zip(
            [keys[place] for place in loaded.train.places],
            zip(features.predict_on_batch(loaded.train.pixels[:]), loaded.train.labels, strict=True),
            strict=True,
        )
    )
    validation = dict(
        zip(
            [keys[place] for place in loaded.validation.places],
            features.predict_on_batch(loaded.validation.pixels[:]),
            strict=True,
        )
    )
    tested = {key for name in CLASSES for key in keys_in("test", name)}
    found = gallery(spec, model, tmp_path, neighbours=4)
    assert found["entries"]
    for entry in found["entries"]:
        assert entry["key"] in validation.keys() - tested
        own = validation[entry["key"]]
        alike = {
            key: float(own @ other / np.linalg.norm(own) / np.linalg.norm(other)) for key, (other, _) in train.items()
        }
        assert [one["key"] for one in entry["neighbours"]] == sorted(alike, key=lambda key: -alike[key])[:4]
        for one in entry["neighbours"]:
            assert one["key"] in train.keys() - validation.keys() - tested
            assert one["similarity"] == pytest.approx(alike[one["key"]], abs=1e-5)
            assert one["class"] == CLASSES[train[one["key"]][1]], "the label that training saw"


def test_a_copy_of_a_training_image_under_another_label_is_found(
    make_spec: MakeSpec, model: Path, tmp_path: Path
) -> None:
    original, copy = keys_in("train", "green")[5], RED[2]
    images = colours.prepared(tmp_path / "colours", {}, {copy: original})
    (entry,) = gallery(make_spec(images=images, split=SPLIT), model, tmp_path / "gallery")["entries"]
    first, second, _ = entry["neighbours"]
    assert (entry["key"], entry["true"], entry["predicted"]) == (copy, "red", "green")
    assert (first["key"], first["class"]) == (original, "green")
    assert first["similarity"] == pytest.approx(1, abs=1e-6)
    assert second["similarity"] < 0.9999
    assert Path(first["image"]).read_bytes() == Path(entry["image"]).read_bytes()


def test_fewer_training_images_than_neighbours(spec: TrialSpec, model: Path, tmp_path: Path) -> None:
    few = dataclasses.replace(spec, levels=spec.levels | {"data_fraction": 0.01})
    found = gallery(few, model, tmp_path, neighbours=5)
    assert {len(entry["neighbours"]) for entry in found["entries"]} == {3}, "one of each class"


# ---- pictures


def test_pictures_are_png_files_of_one_size(spec: TrialSpec, model: Path, tmp_path: Path) -> None:
    paths = pictures(gallery(spec, model, tmp_path / "new" / "folder"))
    assert len(set(paths)) == len(paths) == 5 * 6
    assert set(paths) == set((tmp_path / "new" / "folder").iterdir())
    for path in paths:
        with Image.open(path) as picture:
            picture.load()
            assert (picture.format, picture.mode, picture.size) == ("PNG", "RGB", (PICTURE, PICTURE))


def test_a_picture_is_the_image(spec: TrialSpec, model: Path, tmp_path: Path) -> None:
    entry = gallery(spec, model, tmp_path, count=1)["entries"][0]
    validation = load_images(spec).validation
    (row,) = [i for i, place in enumerate(validation.places) if image_keys(spec.images)[place] == entry["key"]]
    small = Image.open(entry["image"]).resize((16, 16), Image.Resampling.BOX)
    assert np.abs(np.asarray(small).astype(int) - validation.pixels[row]).mean() < 8


def test_heat_lies_where_the_square_is(spec: TrialSpec, model: Path, tmp_path: Path) -> None:
    """The square, at the lower right, is all of what speaks for the predicted class."""
    for entry in gallery(spec, model, tmp_path)["entries"]:
        predicted, true = (np.asarray(Image.open(entry[name])).astype(int) for name in ("cam_predicted", "cam_true"))
        warm = predicted[..., 0] - predicted[..., 2]
        half, border = PICTURE // 2, PICTURE // 16
        inside = warm[half + border : -border, half + border : -border]
        outside = np.concatenate([warm[: half - border].ravel(), warm[:, : half - border].ravel()])
        assert inside.min() > 2 * outside.max()
        assert not np.array_equal(predicted, true)


def test_the_same_twice(spec: TrialSpec, model: Path, tmp_path: Path) -> None:
    first, second = (gallery(spec, model, tmp_path / name) for name in ("first", "second"))
    assert json.loads(json.dumps(second).replace(str(tmp_path / "second"), str(tmp_path / "first"))) == first
    for one, other in zip(pictures(first), pictures(second), strict=True):
        assert one.read_bytes() == other.read_bytes()


# ---- what can't be explained


def test_a_model_of_other_images(make_spec: MakeSpec, model: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"takes images of 16 pixels and has 3 classes, but test/alexnet-000 has im"):
        gallery(make_spec(), model, tmp_path)


def test_images_that_are_gone(spec: TrialSpec, model: Path, tmp_path: Path) -> None:
    gone = dataclasses.replace(spec, images=dataclasses.replace(spec.images, folder=str(tmp_path / "gone")))
    with pytest.raises(DataError, match=r"the decoded images in .*gone are gone"):
        gallery(gone, model, tmp_path)


def test_a_file_that_is_no_model(spec: TrialSpec, tmp_path: Path) -> None:
    (tmp_path / "broken.keras").write_text("no model")
    with pytest.raises(ModelError, match=r"not a complete \.keras file"):
        gallery(spec, tmp_path / "broken.keras", tmp_path)


def test_progress_ends_whole(spec: TrialSpec, model: Path, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    explain_mistakes(spec, model, tmp_path, 2, lambda *event: told.append(event))
    assert ("looking for mistakes", 12, 12) in told
    assert ("comparing with training images", 24, 24) in told
    assert told[-1] == ("drawing mistakes", 2, 2)
