"""The study that `init` chooses for a folder of photos: what it holds, why it says so, and that it is read back."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from odd_photos import photo, save, write_photos

from cnnstudy.config.load import load_study
from cnnstudy.data.datasets import folder
from cnnstudy.errors import DataError, InputError
from cnnstudy.records import PreparedImages, Speed
from cnnstudy.study.estimate import TrialKind
from cnnstudy.study.new_study import look_at_photos
from cnnstudy.study.suggestion import (
    MOST_SEEDS,
    Machine,
    Photos,
    Suggestion,
    cap_images,
    choose_epochs,
    choose_image_size,
    suggest_study,
)
from cnnstudy.study.suggestion_text import name_study, write_study_file
from cnnstudy.system.display import SilentDisplay

HOUR = 3600.0
SPEED = Speed(1_000_000, 0.2, (8, 32), ((0.01, 0.02),), 0.0005, compile_seconds=2.0)
SPEEDS: Mapping[TrialKind, Speed] = {
    (network, mode, augmentation): SPEED
    for network, modes in {"alexnet": ("scratch",), "vgg16": ("frozen", "fine-tune")}.items()
    for mode in modes
    for augmentation in ("none", "strong")
}
#: A folder -> the images of its classes, with options to write them.
FOLDERS: dict[str, Callable[[Path], Any]] = {
    "small": lambda root: write_photos(root, {"a": 6, "b": 7}),
    "two-classes": lambda root: write_photos(root, {"a": 100, "b": 100}),
    "imbalanced": lambda root: write_photos(root, {"a": 30, "b": 10}),
    "thirty-classes": lambda root: write_photos(root, {f"class {i}": 5 for i in range(30)}),
    "tiny": lambda root: [save(photo(i, (24, 20)), root / "ab"[i % 2] / f"{i}.png") for i in range(12)],
    "copies": lambda root: [
        save(photo(i // 2), root / "ab"[i // 2 % 2] / f"{i}.{'png' if i % 2 else 'jpg'}") for i in range(40)
    ],
    "divided": lambda root: [
        write_photos(root / part, {"a": count, "b": count}, first)
        for part, count, first in (("train", 12, 0), ("val", 6, 3000), ("test", 6, 6000))
    ],
    "broken": lambda root: [
        write_photos(root, {"a": 8, "b": 8}),
        (root / "a/broken.jpg").write_bytes(b"none"),
    ],
}


def look(root: Path, kind: str) -> Photos:
    FOLDERS[kind](root / kind)
    return look_at_photos(folder.Options(name="folder", path=root / kind), SilentDisplay())[1]


def made(train: int, classes: int = 2, side: int = 300, **parts: int) -> Photos:
    """Photos that nobody looked at: so many training images of each class."""
    held = {part: (parts.get(part, max(1, train // 5)),) * classes for part in ("validation", "test")}
    names = tuple(f"class {i}" for i in range(classes))
    images = PreparedImages("folder", "", "d" * 64, 0, names, (train,) * classes, **held)
    options = folder.Options.model_construct(
        name="folder", path=Path(__file__).parent, copies="together", validation=0.15
    )
    return Photos(options, images, side)


def suggest(photos: Photos, seconds: float = HOUR, machine: Machine | None = None, speeds: Any = SPEEDS) -> Suggestion:
    return suggest_study("photos", photos, machine or Machine(), speeds, seconds)


def comment_at(text: str, key: str) -> str:
    """The comment above a key, on one line."""
    lines = text.splitlines()
    place = next(number for number, line in enumerate(lines) if line.strip().startswith(f"{key}:"))
    words: list[str] = []
    while place and lines[place - 1].strip().startswith("#"):
        place -= 1
        words.insert(0, lines[place].strip()[2:])
    return " ".join(words)


@pytest.mark.parametrize("kind", FOLDERS)
def test_the_file_is_accepted_and_read_back_as_the_same_study(own_places: Path, kind: str) -> None:
    found = suggest(look(own_places, kind))
    file = own_places / "photos.yaml"
    file.write_text(write_study_file(found, "python -m cnnstudy init photos"), encoding="utf-8")
    assert load_study(str(file)).config == found.config
    assert max(map(len, file.read_text("utf-8").splitlines())) <= 120
    parts = found.images.train, found.images.validation, found.images.test
    assert min(min(counts) for counts in parts) >= 1
    assert found.seconds <= HOUR


@pytest.mark.parametrize(
    ("kind", "key", "comment", "value"),
    [
        ("small", "validation", "4 validation images: still fewer than the 59", "validation: 0.3"),
        ("small", "data_fraction", "50 % of them", "data_fraction: [0.5, 1.0]"),
        ("small", "batch_size", "The larger one still fits", "batch_size: [4, 16]"),
        ("two-classes", "validation", "60 validation images: enough", "validation: 0.3"),
        ("two-classes", "data_fraction", "25 % of them", "data_fraction: [0.25, 1.0]"),
        ("imbalanced", "data", "10 to 30 of each", "name: folder"),
        ("imbalanced", "data", "balanced accuracy", "name: folder"),
        ("thirty-classes", "data", "150 photos of 30 classes, 5 of each", "name: folder"),
        ("tiny", "image_size", "the photos are smaller, 20 pixels", "image_size: 64"),
        ("copies", "copies", "40 photos have a copy", "copies: together"),
        ("divided", "data", "validation and test as given", "name: folder"),
        ("broken", "bad_images", "1 files can't be decoded, such as a/broken.jpg", "bad_images: skip"),
        ("small", "strategy", "16 cells, every combination", "kind: factorial"),
        ("small", "seeds", "power: with 12 seeds", "seeds: 12"),
        ("small", "architectures", "ImageNet weights are not on this machine", "architectures: [alexnet]"),
        ("small", "epochs", "updates with batches of 16", "epochs: 60"),
    ],
)
def test_each_choice_says_why(own_places: Path, kind: str, key: str, comment: str, value: str) -> None:
    text = write_study_file(suggest(look(own_places, kind)), "init")
    assert comment in comment_at(text, key)
    assert f"{value}\n" in text


def test_given_parts_keep_their_shares(own_places: Path) -> None:
    assert "validation" not in suggest(look(own_places, "divided")).settings["data"]


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ({"a": 9, "b": 3}, "class 'b' has 3 usable images; at least 4"),
        ({"a": 9}, "holds only one folder, 'a'; it must hold one folder per class"),
    ],
)
def test_too_few_photos_are_refused_as_data_does(own_places: Path, counts: dict[str, int], said: str) -> None:
    write_photos(own_places / "photos", counts)
    with pytest.raises(DataError, match=re.escape(said)):
        look_at_photos(folder.Options(name="folder", path=own_places / "photos"), SilentDisplay())


def test_more_time_gives_more_seeds_and_then_every_combination() -> None:
    times = (40, 100, 200, 600, 100 * HOUR)
    found = [suggest(made(100), seconds) for seconds in times]
    seeds = [one.settings["strategy"]["seeds"] for one in found]
    cells = [one.config.total_trials // one.settings["strategy"]["seeds"] for one in found]
    assert all(one.seconds <= seconds for one, seconds in zip(found, times, strict=True))
    assert [one.config.total_trials for one in found] == sorted(one.config.total_trials for one in found)
    assert min(seeds) >= 3
    assert cells == [4, 4, 8, 16, 16]
    assert (seeds[-1], cells[-1]) == (MOST_SEEDS, 16)


def test_with_too_many_photos_for_the_time_some_are_left_out() -> None:
    found = suggest(made(10_000), HOUR)
    cap = found.settings["data"]["images_per_class"]
    assert sum(found.images.train) < 20_000
    used = found.images.train[0] + found.images.validation[0] + found.images.test[0]
    assert used == pytest.approx(cap, abs=2)  # each part is rounded
    assert "take longer than there is time" in comment_at(write_study_file(found, "init"), "images_per_class")
    assert "images_per_class" not in suggest(made(10_000), 1000 * HOUR).settings["data"]


def test_too_little_time_is_refused_with_what_it_takes() -> None:
    with pytest.raises(InputError, match=r"takes about .* for its trials .* give about .* more with --time"):
        suggest(made(100), 5.0)


def test_weights_that_are_here_are_used_if_there_is_time(own_places: Path) -> None:
    photos, machine = look(own_places, "two-classes"), Machine(has_weights=True)
    found = suggest(photos, 10 * HOUR, machine)
    assert found.settings["architectures"] == ["alexnet", "vgg16"]
    assert found.settings["factors"]["transfer"] == {"vgg16": ["frozen", "fine-tune"]}
    (own_places / "photos.yaml").write_text(write_study_file(found, "init"), encoding="utf-8")
    assert load_study("photos.yaml").config == found.config
    slow = dataclasses.replace(SPEED, seconds_per_update=((10.0, 20.0),))
    speeds = {kind: slow if kind[1] == "fine-tune" else speed for kind, speed in SPEEDS.items()}
    assert suggest(photos, HOUR, machine, speeds).settings["factors"]["transfer"] == {"vgg16": ["frozen"]}
    speeds = {kind: slow if kind[0] == "vgg16" else speed for kind, speed in SPEEDS.items()}
    left_out = suggest(photos, HOUR, machine, speeds)
    assert left_out.settings["architectures"] == ["alexnet"]
    assert "take too long" in comment_at(write_study_file(left_out, "init"), "architectures")


@pytest.mark.parametrize(
    ("side", "gpu", "size"), [(300, False, 64), (20, False, 64), (300, True, 128), (100, True, 96)]
)
def test_images_are_not_larger_than_the_photos(side: int, gpu: bool, size: int) -> None:
    assert choose_image_size(made(10, side=side), Machine(has_gpu=gpu)) == size


def test_epochs_are_fewer_the_more_photos_there_are() -> None:
    epochs = [choose_epochs(made(train).images) for train in (5, 50, 140, 400, 5000)]
    assert (epochs[0], epochs[2], epochs[-1]) == (60, 30, 15)


def test_a_cap_keeps_an_image_in_every_part() -> None:
    images = cap_images(made(1000, validation=2, test=2).images, 30)
    assert (images.train, images.validation, images.test) == ((30, 30), (1, 1), (1, 1))


@pytest.mark.parametrize(
    ("name", "study"),
    [("photos", "photos"), ("my photos!", "my-photos"), ("été", "t"), ("...", "photos"), ("a.tar.gz", "a")],
)
def test_a_study_is_named_after_its_photos(tmp_path: Path, name: str, study: str) -> None:
    assert name_study(tmp_path / name) == study


@pytest.mark.parametrize("name", ["no", "1e3", "true"])
def test_a_name_stays_a_name(own_places: Path, name: str) -> None:
    found = suggest_study(name, look(own_places, "small"), Machine(), SPEEDS, HOUR)
    (own_places / "file.yaml").write_text(write_study_file(found, "init"), encoding="utf-8")
    assert load_study("file.yaml").config.name == name
