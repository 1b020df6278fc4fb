"""Groups of images: they are on one side of every split, and without groups splits are what they always were."""

from __future__ import annotations

import hashlib
import itertools
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image
from pydantic import ValidationError

from cnnstudy.data.datasets import DataOptions, find
from cnnstudy.data.decode import decode_image
from cnnstudy.data.grouped_splits import divide_groups
from cnnstudy.data.groups import _pair_named
from cnnstudy.data.images import image_keys, load_for_training, open_decoded, prepare_images
from cnnstudy.data.path_groups import GroupBy, name_bursts
from cnnstudy.data.splits import first_images, select_share, split_indices
from cnnstudy.errors import DataError
from cnnstudy.records import Decoded, PreparedImages, Split
from cnnstudy.training.cross_fit import grouped_halves
from cnnstudy.training.test_split import list_test_indices

from .samples import picture, write_folder

CASES = range(60)


def random_images(seed: int) -> tuple[list[str], list[int], list[int]]:
    """Keys, labels and groups, of which some have images of several classes."""
    rng = random.Random(seed)
    classes, mixed = rng.randint(2, 5), rng.choice((0.0, 0.1))
    keys, labels, groups = [], [], []
    for group in range(rng.randint(5 * classes, 60)):
        label = group % classes
        for _ in range(rng.choice((1, 1, 1, 2, 3, rng.randint(1, 12)))):
            keys.append(f"{rng.random():.12f}/{len(keys)}.png")
            labels.append(rng.randrange(classes) if rng.random() < mixed else label)
            groups.append(group * 7)
    return keys, labels, groups


@pytest.mark.parametrize("seed", CASES)
def test_a_group_is_on_one_side(seed: int) -> None:
    """Of every division: test, validation and train, in every block, subset, probe and half."""
    keys, labels, groups = random_images(seed)
    split = Split(random.Random(seed).choice((0.1, 0.15, 0.3)), 0.15, seed)
    test = {groups[i] for i in list_test_indices(keys, labels, split, groups)}
    for block in (None, 0, 1, 2):
        parts = split_indices(keys, labels, split, block, groups)
        assert sorted(i for by_class in parts.values() for members in by_class for i in members) == [
            i for i in range(len(keys)) if groups[i] not in test
        ]
        train, validation = (
            {groups[i] for members in parts[part] for i in members} for part in ("train", "validation")
        )
        assert not train & validation
        for by_class in parts.values():
            for label, members in enumerate(by_class):
                assert {labels[i] for i in members} <= {label}
        smaller: set[int] = set()
        for fraction in (0.1, 0.25, 0.5, 0.8, 1.0):
            share = select_share(parts["train"], fraction, groups)
            chosen = {i for members in share for i in members}
            assert smaller <= chosen
            assert chosen == {
                i for members in parts["train"] for i in members if groups[i] in {groups[j] for j in chosen}
            }
            probe = first_images(share, [len(members) for members in parts["validation"]], groups)
            probed = {i for members in probe for i in members}
            assert probed <= chosen
            assert probed == {i for i in chosen if groups[i] in {groups[j] for j in probed}}
            smaller = chosen
        assert smaller == {i for members in parts["train"] for i in members}
        places = sorted(i for members in parts["validation"] for i in members)
        own = np.array([groups[i] for i in places])
        for half in grouped_halves(np.array([labels[i] for i in places]), own, 5):
            assert not set(own[half]) & set(own[~half])


@pytest.mark.parametrize("seed", CASES)
def test_every_class_is_in_every_part_and_near_its_share(seed: int) -> None:
    """No single group would bring a part nearer; where one is too large for it, the smallest is taken."""
    keys, labels, groups = random_images(seed)
    split = Split(0.2, 0.2, seed)
    parts = divide_groups(keys, labels, split, groups)
    for label, count in Counter(labels).items():
        sizes = Counter(group for group, own in zip(groups, labels, strict=True) if own == label)
        for part in ("validation", "test"):
            number, wanted = len(parts[part][label]), max(1, round(0.2 * count))
            assert number >= 1
            assert abs(number - wanted) <= max(sizes.values())
        assert parts["train"][label]


@pytest.mark.parametrize("seed", CASES[:20])
def test_images_on_their_own_are_divided_as_without_groups(seed: int) -> None:
    """So that a few groups leave most images where they were."""
    keys, labels, _ = random_images(seed)
    split = Split(0.15, 0.2, seed)
    alone = list(range(len(keys)))
    for block in (None, 3):
        plain, grouped = (split_indices(keys, labels, split, block, groups) for groups in (None, alone))
        assert plain == grouped
        assert list_test_indices(keys, labels, split) == list_test_indices(keys, labels, split, alone)
        for fraction in (0.1, 0.33, 1.0):
            assert select_share(plain["train"], fraction) == select_share(plain["train"], fraction, alone)


def test_splits_without_groups_are_those_of_recorded_studies() -> None:
    """The digest is of the splits before there were groups (commit 8172503)."""
    keys = [f"class {i % 5}/{i:03d}.png" for i in range(300)]
    labels = [i % 5 for i in range(300)]
    split = Split(0.15, 0.2, 4)
    found: list[Any] = [list_test_indices(keys, labels, split)]
    for block in (None, 0, 7):
        parts = split_indices(keys, labels, split, block)
        found.append([parts, select_share(parts["train"], 0.3), first_images(parts["train"], [9] * 5)])
    assert (
        hashlib.sha256(repr(found).encode()).hexdigest()
        == "9bf64a3d33189c068e04f0912b060933c9eb6562134691c1aacb6c0ea01f3b02"
    )


def test_halves_are_of_equal_size_where_groups_allow() -> None:
    labels, groups = np.repeat([0, 1], 20), np.arange(40) // 2
    for half in grouped_halves(labels, groups, 20):
        assert [half[labels == label].sum() for label in (0, 1)] == [10, 10]
    halves = grouped_halves(np.array([0, 0, 1, 1]), np.array([5, 5, 9, 9]), 50)
    assert {tuple(half.tolist()) for half in halves} == {(True, True, False, False), (False, False, True, True)}
    assert np.array_equal(halves, grouped_halves(np.array([0, 0, 1, 1]), np.array([5, 5, 9, 9]), 50))


# ---- the key `groups`


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two classes of six animals with four photos each."""
    monkeypatch.setenv("CNNSTUDY_CACHE", str(tmp_path / "cache"))
    names = [
        f"{name}/{name}{animal}/IMG_{animal}{number}_{number}.png"
        for name, animal, number in itertools.product(("cat", "dog"), range(6), range(4))
    ]
    return write_folder(tmp_path / "pets", {name: picture(i, "PNG") for i, name in enumerate(names)})


def options(folder: Path, **settings: Any) -> DataOptions:
    return find("folder").Options.model_validate({"name": "folder", "path": folder, **settings})


def ready(folder: Path, **settings: Any) -> PreparedImages:
    return prepare_images(options(folder, **settings), [16], 0, lambda *_: None)[0]


@pytest.mark.parametrize("groups", [{"folder": 1}, {"pattern": r"/(?P<group>\w+\d)/"}])
def test_images_of_a_folder_or_a_pattern_stay_together(groups: dict[str, Any], folder: Path) -> None:
    prepared = ready(folder, groups=groups)
    decoded = open_decoded(prepared)
    assert decoded.groups is not None
    animals = [key.split("/")[1] for key in image_keys(prepared)]
    assert len({(animal, int(group)) for animal, group in zip(animals, decoded.groups, strict=True)}) == 12
    loaded = load_for_training(prepared, Split(0.15, 0.15, 0), 1.0)
    assert not {animals[i] for i in loaded.train.places} & {animals[i] for i in loaded.validation.places}
    assert prepared.test == prepared.validation == (4, 4)
    assert ready(folder).digest != prepared.digest == ready(folder, groups=groups).digest


def test_names_of_groups() -> None:
    keys = ["cat/a/IMG_1 (2).jpg", "cat/a/b/IMG_1.jpg", "dog/a/x.jpg", "dog/y.jpg"]
    assert GroupBy(pattern=r"(?P<group>IMG_\d+)").name_groups(keys, list) == ["IMG_1", "IMG_1", None, None]
    assert GroupBy(folder=1).name_groups(keys, list) == ["cat/a", "cat/a", "dog/a", None]
    assert GroupBy(folder=2).name_groups(keys, list) == [None, "cat/a/b", None, None]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "must hold one key"),
        ({"folder": 1, "pattern": "(?P<group>x)"}, "must hold one key"),
        ({"folder": 0}, "greater than or equal to 1"),
        ({"pattern": "(?P<group>"}, "is no regular expression"),
        ({"pattern": r"IMG_\d+"}, r"put that part in \(\?P<group>"),
        ({"column": "animal"}, "unknown key"),
    ],
)
def test_a_wrong_key_is_explained(given: dict[str, Any], message: str, folder: Path) -> None:
    with pytest.raises(ValidationError, match=message):
        options(folder, groups=given)


def test_groups_that_do_not_exist_are_refused(folder: Path) -> None:
    with pytest.raises(
        DataError, match=r"no path matches '\(\?P<group>DSC\)'; the first paths are 'cat/cat0/IMG_00_0.png'"
    ):
        ready(folder, groups={"pattern": "(?P<group>DSC)"})
    with pytest.raises(DataError, match="no image is 3 folders below its class folder"):
        ready(folder, groups={"folder": 3})


def photo(path: Path, seed: int, taken: str = "", fraction: str = "", camera: str = "") -> None:
    """Write a photo as a camera does; without `taken` one that does not say when."""
    image = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (24, 24, 3), np.uint8))
    exif = Image.Exif()
    exif[ExifTags.Base.Model] = camera
    if taken:
        exif.get_ifd(ExifTags.IFD.Exif).update(
            {ExifTags.Base.DateTimeOriginal: taken, ExifTags.Base.SubsecTimeOriginal: fraction}
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, "JPEG", exif=exif)


def test_photos_taken_within_seconds_stay_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bursts of four, 1.5 seconds apart, in turn by two cameras; and images that do not say when they were taken."""
    monkeypatch.setenv("CNNSTUDY_CACHE", str(tmp_path / "cache"))
    for name, minutes in (("cat", 0), ("dog", 30)):
        for i in range(48):
            at = 60 * (i // 4) + 1.5 * (i % 4)
            taken = f"2026:05:17 14:{minutes + int(at // 60):02d}:{int(at % 60):02d}"
            fraction = "50" if at % 1 else ""
            photo(tmp_path / "all" / name / f"{i:02d}", 100 * minutes + i, taken, fraction, f"camera {i // 4 % 2}")
        for i in range(3):
            photo(tmp_path / "all" / name / f"x{i}", 7000 + minutes + i)
    prepared = ready(tmp_path / "all", groups={"seconds": 1.6}, copies="ignore")
    groups = open_decoded(prepared).groups
    assert groups is not None
    by_group: dict[int, set[str]] = {}
    for key, group in zip(image_keys(prepared), groups.tolist(), strict=True):
        by_group.setdefault(group, set()).add(key)
    bursts = {frozenset(f"{name}/{4 * k + i:02d}" for i in range(4)) for name in ("cat", "dog") for k in range(12)}
    alone = {frozenset({f"{name}/x{i}"}) for name in ("cat", "dog") for i in range(3)}
    assert {frozenset(keys) for keys in by_group.values()} == bursts | alone
    loaded = load_for_training(prepared, Split(0.15, 0.15, 0), 1.0)
    assert not set(groups[loaded.train.places]) & set(groups[loaded.validation.places])
    apart = ready(tmp_path / "all", groups={"seconds": 1.4}, copies="ignore")
    assert apart.groups == "", "nothing was taken so soon after another"


@pytest.mark.parametrize("step", [0.04, 0.1, 0.3])
def test_a_burst_is_whole_whatever_its_fractions_of_a_second(step: float) -> None:
    """Seconds since 1970 have no room for all digits of 0.1."""
    taken = [("camera", 1_780_000_000 + round(i * step, 2)) for i in range(60)]
    assert set(name_bursts(taken, step)) == {"burst 0"}
    assert len(set(name_bursts(taken, step - 0.01))) == 60


@pytest.mark.parametrize(
    ("layout", "above"), [("divided", ("train", "test")), ("classes-below", ("2024", "2025")), ("classes", ("",))]
)
def test_folders_count_from_the_class_folder(
    layout: str, above: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CNNSTUDY_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "all"
    for number, (top, name) in enumerate(itertools.product(above, ("cat", "dog"))):
        for animal in range(8):
            for i in range(3):
                photo(root / top / name / f"{name}{animal}" / f"{i}.jpg", 1000 * number + 10 * animal + i)
    prepared = ready(root, groups={"folder": 1}, copies="ignore", layout=layout)
    groups = open_decoded(prepared).groups
    assert groups is not None
    assert sorted(Counter(groups.tolist()).values()) == [3] * 16 * len(above)


@pytest.mark.parametrize("seed", CASES[:20])
def test_no_share_leaves_a_class_without_images(seed: int) -> None:
    """Also a class that has the most images of no group."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(30), 4).tolist()
    labels = [0 if i % 4 else int(rng.integers(0, 3)) for i in range(120)]
    by_class = [[i for i, label in enumerate(labels) if label == one] for one in range(3)]
    smaller: set[int] = set()
    for fraction in (0.05, 0.1, 0.3, 0.6, 1.0):
        share = select_share(by_class, fraction, groups)
        assert all(share)
        chosen = {i for members in share for i in members}
        assert smaller <= chosen
        smaller = chosen


def test_a_group_in_both_parts_that_were_given_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNNSTUDY_CACHE", str(tmp_path / "cache"))
    for number, (part, name) in enumerate(itertools.product(("train", "val", "test"), ("cat", "dog"))):
        for i in range(6):
            photo(tmp_path / "all" / part / name / f"{part}{i}.jpg", 100 * number + i)
    photo(tmp_path / "all" / "val" / "cat" / "IMG_1 a.jpg", 9001)
    photo(tmp_path / "all" / "test" / "cat" / "IMG_1 b.jpg", 9002)
    photo(tmp_path / "all" / "train" / "cat" / "IMG_1 c.jpg", 9003)
    prepared = ready(tmp_path / "all", groups={"pattern": r"(?P<group>IMG_\d)"}, copies="ignore")
    (warning,) = prepared.warnings
    assert "a group has images in the validation and in the test part" in warning
    assert "val/cat/IMG_1 a.jpg ~ test/cat/IMG_1 b.jpg" in warning
    assert prepared.notes == (
        "1 image of train is left out: each is a copy of an image in a part that was given, or in a group with one",
    )
    assert prepared.train == (6, 6)


def test_a_class_whose_training_images_are_all_left_out_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CNNSTUDY_CACHE", str(tmp_path / "cache"))
    for number, (part, name) in enumerate(itertools.product(("train", "test"), ("cat", "dog"))):
        for i in range(6):
            photo(tmp_path / "all" / part / name / f"{name}{i} {part}.jpg", 100 * number + i)
    with pytest.raises(DataError) as caught:
        ready(tmp_path / "all", groups={"pattern": r"(?P<group>\w+\d)"}, copies="ignore")
    assert str(caught.value) == (
        "class 'cat' has 0 train, 0 validation and 6 test images; each part needs at least one. 6 of its training "
        "images are left out, because each is in a group with an image of a part that was given; move each group to "
        "one part, or do without groups."
    )


def test_names_of_groups_are_the_same_in_every_form_of_unicode() -> None:
    assert _pair_named(["Zo\u00eb", "Zoe\u0308", "", None], [4, 7, 8, 9]) == [(4, 7)]


def test_without_shooting_times_the_other_ways_are_named(folder: Path) -> None:
    with pytest.raises(DataError, match=r"no image says when it was taken .* use `pattern`, `folder`, or a table"):
        ready(folder, groups={"seconds": 2})


@pytest.mark.parametrize("taken", ["2026:13:99 99:99:99", "yesterday", "0000:00:00 00:00:00", "\0" * 19])
def test_a_shooting_time_that_is_none_is_left_out(taken: str, tmp_path: Path) -> None:
    photo(tmp_path / "1", 1, taken, "x")
    decoded = decode_image("1", (tmp_path / "1").read_bytes(), [8], measured=True)
    assert isinstance(decoded, Decoded)
    assert decoded.facts is not None
    assert (decoded.facts.taken, decoded.facts.camera) == (None, "")


def test_too_few_groups_are_named(folder: Path) -> None:
    with pytest.raises(DataError, match="the 24 images of class 'cat' are in 1 group that stays whole"):
        ready(folder, groups={"pattern": "^(?P<group>cat|dog)"})


@pytest.mark.parametrize("beforehand", [("train", "test"), ("train", "validation"), ("train", "validation", "test")])
def test_parts_that_are_given_stay_and_train_lacks_their_groups(beforehand: tuple[str, ...]) -> None:
    rng = np.random.default_rng(len(beforehand))
    keys = [f"{i:03d}" for i in range(240)]
    labels, groups = (np.arange(240) % 3).tolist(), rng.integers(0, 90, 240).tolist()
    given = rng.choice(beforehand, 240, p=[0.6, *[0.4 / (len(beforehand) - 1)] * (len(beforehand) - 1)]).tolist()
    split = Split(0.2, 0.2, 5)
    for block in (None, 0, 7):
        parts = divide_groups(keys, labels, split, groups, block, given)
        places = {part: [i for members in by_class for i in members] for part, by_class in parts.items()}
        for part in beforehand[1:]:
            assert sorted(places[part]) == [i for i, of in enumerate(given) if of == part]
        held_out = {groups[i] for part in ("validation", "test") for i in places[part]}
        assert held_out.isdisjoint({groups[i] for i in places["train"]})
        assert all(places.values())
        assert sorted(places["test"]) == list_test_indices(keys, labels, split, groups, given)
        same = split_indices(keys, labels, split, block, groups, given)
        assert same == {part: parts[part] for part in ("train", "validation")}
