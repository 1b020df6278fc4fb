"""Near-duplicates: which are found, which are not, and what becomes of them."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cnnstudy.data import copies, images
from cnnstudy.data.copies import SIZE, find_copies
from cnnstudy.data.datasets import DataOptions, find
from cnnstudy.data.images import image_keys, load_for_training, open_decoded, prepare_images
from cnnstudy.errors import DataError
from cnnstudy.records import PreparedImages, Split
from cnnstudy.training.test_split import load_test_images

MADE = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "made_pictures.py"))
KINDS, CHANGES, smooth, compress = (MADE[name] for name in ("KINDS", "CHANGES", "smooth", "compress"))
SPLIT = Split(0.15, 0.15, 0)


def thumbnails(pictures: list[Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(picture.resize((SIZE, SIZE), Image.Resampling.BILINEAR)) for picture in pictures])


def found_in(pictures: list[Image.Image]) -> list[tuple[int, int]]:
    return find_copies(thumbnails(pictures), lambda *_: None)


# ---- what is found


@pytest.mark.parametrize("kind", KINDS)
def test_copies_are_found_and_nothing_else(kind: str) -> None:
    """Each of the six changes of 20 pictures each, among 120 pictures."""
    rng = np.random.default_rng(0)
    pictures = [KINDS[kind](rng) for _ in range(120)]
    changed = [
        change(pictures[i], rng) for i, change in enumerate(change for change in CHANGES.values() for _ in range(20))
    ]
    found = found_in([*pictures, *changed])
    assert {j - i for i, j in found} == {120}
    assert len(found) >= 0.95 * 120


def test_the_order_of_the_pictures_does_not_matter() -> None:
    rng = np.random.default_rng(1)
    pictures = [smooth(rng) for _ in range(30)]
    pictures += [compress(picture, 70) for picture in pictures]
    order = rng.permutation(60)
    found = {frozenset((int(order[i]), int(order[j]))) for i, j in found_in([pictures[i] for i in order])}
    assert found == {frozenset(pair) for pair in found_in(pictures)} == {frozenset((i, i + 30)) for i in range(30)}


def test_many_copies_of_one_picture_are_connected(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than are proposed for one picture, and over several blocks of rows and columns."""
    monkeypatch.setattr(copies, "_ROWS", 7)
    monkeypatch.setattr(copies, "_COLUMNS", 11)
    monkeypatch.setattr(copies, "_PAIRS", 3)
    rng = np.random.default_rng(2)
    picture = smooth(rng)
    found = found_in([*(compress(picture, 95 - 3 * i) for i in range(20)), *(smooth(rng) for _ in range(20))])
    connected = {0}
    for _ in range(20):
        connected |= {place for pair in found if connected & set(pair) for place in pair}
    assert connected == set(range(20))
    assert all(j < 20 for _, j in found)


def test_same_shapes_in_other_colours_are_no_copies() -> None:
    shape = np.zeros((SIZE, SIZE, 3), np.uint8)
    shape[8:20, 10:26] = 200
    colours = [np.array(colour) for colour in ((1, 0, 0), (0, 1, 0), (0, 0, 1))]
    assert find_copies(np.stack([(shape * colour).astype(np.uint8) for colour in colours]), lambda *_: None) == []


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_and_flat_pictures_are_no_copies(count: int) -> None:
    assert find_copies(np.full((count, SIZE, SIZE, 3), 99, np.uint8), lambda *_: None) == []


# ---- what becomes of them


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pictures of random classes, each also resized and saved as JPEG: nothing can be learnt."""
    monkeypatch.setenv("CNNSTUDY_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    for i in range(60):
        place = tmp_path / "twins" / ("cat" if rng.random() < 0.5 else "dog")
        place.mkdir(parents=True, exist_ok=True)
        picture = smooth(rng)
        picture.save(place / f"{i:02d}_a.png")
        picture.resize((90, 90)).save(place / f"{i:02d}_b.jpg", quality=80)
    return tmp_path / "twins"


def options(folder: Path, **settings: Any) -> DataOptions:
    return find("folder").Options.model_validate({"name": "folder", "path": folder, **settings})


def ready(folder: Path, sizes: tuple[int, ...] = (16,), seed: int = 0, **settings: Any) -> list[PreparedImages]:
    return prepare_images(options(folder, **settings), sizes, seed, lambda *_: None)


def sides(prepared: PreparedImages, seed: int = 0, block: int | None = None, fraction: float = 1.0) -> list[set[str]]:
    """The number of each twin in train, validation, probe and test."""
    split = Split(0.15, 0.15, seed)
    loaded = load_for_training(prepared, split, fraction, block)
    keys = image_keys(prepared)
    parts = (loaded.train, loaded.validation, loaded.probe, load_test_images(prepared, split))
    return [{keys[place].split("/")[1][:2] for place in part.places} for part in parts]


def test_twins_are_on_one_side(folder: Path) -> None:
    for seed in range(3):
        (prepared,) = ready(folder, seed=seed)
        for block in (None, 0, 1):
            train, validation, probe, test = sides(prepared, seed, block)
            assert not train & validation
            assert not train & test
            assert not validation & test
            assert probe < train
        (plain,) = ready(folder, seed=seed, copies="ignore")
        train, validation, _, test = sides(plain, seed)
        assert train & validation
        assert train & test


def test_they_are_told_with_what_they_would_have_done(folder: Path) -> None:
    (prepared,) = ready(folder)
    assert prepared.warnings == ()
    (note, *_) = prepared.notes
    assert note.startswith(
        "60 pairs of copies (re-saved, resized, recompressed, slightly cropped, mirrored or brightened)"
    )
    assert "form 60 groups" in note
    (plain,) = ready(folder, copies="ignore")
    train, *_ = sides(plain)
    keys = image_keys(plain)
    loaded = load_for_training(plain, SPLIT, 1.0)
    leaks = [
        sum(keys[place].split("/")[1][:2] in train for place in part.places)
        for part in (loaded.validation, load_test_images(plain, SPLIT))
    ]
    assert (
        f"otherwise {leaks[0]} of {sum(plain.validation)} validation and {leaks[1]} of {sum(plain.test)} test" in note
    )
    assert plain.notes == ()


def test_shares_are_as_near_as_pairs_allow(folder: Path) -> None:
    shares = {"validation": 0.11, "test": 0.13}
    (prepared,), (plain,) = ready(folder, **shares), ready(folder, copies="ignore", **shares)
    for part in ("train", "validation", "test"):
        numbers, wanted = np.array(getattr(prepared, part)), np.array(getattr(plain, part))
        assert (abs(numbers - wanted) <= (2 if part == "train" else 1)).all()
        assert (numbers % 2 == 0).all()
    told = [note for note in prepared.notes if "because groups stay whole" in note]
    off = [part for part in ("validation", "test") if getattr(prepared, part) != getattr(plain, part)]
    assert [note.split()[0] for note in told] == off
    assert off


def test_copies_of_another_class_are_named_unless_they_are_test_images(folder: Path) -> None:
    (before,) = ready(folder)
    keys = image_keys(before)
    split = Split(0.15, 0.15, 0)
    trained = keys[load_for_training(before, split, 1.0).train.places[0]]
    tested = keys[load_test_images(before, split).places[0]]
    for key in (trained, tested):
        other = {"cat": "dog", "dog": "cat"}[key.split("/")[0]]
        Image.open(folder / key).convert("RGB").rotate(0).resize((64, 64)).save(folder / other / f"{key[4:6]}_c.jpg")
    (prepared,) = ready(folder)
    decoded = open_decoded(prepared)
    assert decoded.groups is not None
    test = {int(decoded.groups[place]) for place in load_test_images(prepared, split).places}
    mixed = {
        int(group): {int(decoded.labels[i]) for i in np.flatnonzero(decoded.groups == group)}
        for group in decoded.groups
    }
    contradicting = {group for group, labels in mixed.items() if len(labels) > 1}
    assert len(contradicting) == 2
    named = [warning for warning in prepared.warnings if "more than one class" in warning]
    assert bool(named) == bool(contradicting - test)
    for group in contradicting:
        first = decoded.keys[group]
        assert any(first[4:6] in line for warning in named for line in warning.splitlines()[1:]) == (group not in test)


def test_pictures_that_are_alone_are_divided_as_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNNSTUDY_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(3)
    for i in range(60):
        place = tmp_path / "unique" / "ab"[i % 2]
        place.mkdir(parents=True, exist_ok=True)
        smooth(rng).save(place / f"{i}.png")
    (together,), (ignored,) = ready(tmp_path / "unique"), ready(tmp_path / "unique", copies="ignore")
    assert together == ignored
    assert together.groups == ""
    assert together.notes == ()


def test_a_search_is_done_once_whatever_the_size(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    real = copies.find_copies

    def counted(pixels: np.ndarray, *others: Any) -> Any:
        calls.append(pixels.shape[1])
        return real(pixels, *others)

    monkeypatch.setattr("cnnstudy.data.groups.find_copies", counted)
    first, second = ready(folder, (8, 16))
    assert first.digest == second.digest
    assert first.groups == second.groups
    (again,) = ready(folder, (24,))
    assert again.digest == first.digest
    assert calls == [SIZE]


def test_a_class_of_copies_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNNSTUDY_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(4)
    one = smooth(rng)
    for i in range(12):
        for name, picture in (("same", compress(one, 90 - i)), ("other", smooth(rng))):
            (tmp_path / "all" / name).mkdir(parents=True, exist_ok=True)
            picture.save(tmp_path / "all" / name / f"{i}.png")
    with pytest.raises(DataError, match=r"the 12 images of class 'same' are in 1 group .*write `copies: ignore`"):
        ready(tmp_path / "all")
    assert sum(ready(tmp_path / "all", copies="ignore")[0].train) > 0


def test_the_groups_that_are_gone_are_named(folder: Path) -> None:
    (prepared,) = ready(folder)
    Path(prepared.groups).unlink()
    with pytest.raises(DataError, match="are gone"):
        load_for_training(prepared, SPLIT, 1.0)


def test_the_index_of_the_images_does_not_depend_on_groups(folder: Path) -> None:
    (together,), (ignored,) = ready(folder), ready(folder, copies="ignore")
    assert together.folder == ignored.folder
    assert together.digest != ignored.digest
    assert json.loads((Path(together.folder) / "index.json").read_text())["bad"] == {}
    assert images.open_decoded(ignored).groups is None
