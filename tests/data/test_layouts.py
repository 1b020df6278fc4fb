"""Folders as people have them: divided beforehand, one level off, with odd suffixes; and what is refused."""

from __future__ import annotations

import os
import random
from collections import Counter
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cnnstudy.data.datasets import ImageSource
from cnnstudy.data.datasets.folder import Options
from cnnstudy.data.description import describe_images
from cnnstudy.data.image_tree import read_tree
from cnnstudy.data.images import Images, image_keys, load_for_training, prepare_images
from cnnstudy.data.splits import split_indices
from cnnstudy.errors import DataError
from cnnstudy.records import PreparedImages, Split
from cnnstudy.training import test_split

from .samples import picture, tree, write_folder, write_zip

SPLIT = Split(validation=0.2, test=0.2, seed=5)


def names(folders: str, count: int = 1) -> list[str]:
    """So many images in each of the folders, which are separated by spaces."""
    return [f"{folder}/{number}.png" for folder in folders.split() for number in range(count)]


def read(root: Path, *paths: str, **how: Any) -> ImageSource:
    return read_tree(write_folder(root / "photos", tree(*paths)), **how)


def parts(source: ImageSource) -> dict[str, str | None]:
    return {image.key: image.part for image in source.images}


# ---- divided beforehand


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        (("train", "val", "test"), ("train", "validation", "test")),
        (("Training", "VALID", "Testing"), ("train", "validation", "test")),
        (("TRAIN", "validation"), ("train", "validation")),
        (("train", "TEST"), ("train", "test")),
        (("training_set", "Dev-Data", "test images"), ("train", "validation", "test")),
        (("trainset", "holdout"), ("train", "test")),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("form", ["{part}/{name}/{n}.png", "{name}/{part}/{n}.png", "wrap/{part}/{name}/deep/{n}.png"])
def test_a_folder_divided_beforehand(
    folders: tuple[str, ...], expected: tuple[str, ...], form: str, tmp_path: Path
) -> None:
    written = {
        form.format(part=folder, name=name, n=n): part
        for folder, part in zip(folders, expected, strict=True)
        for name in ("dog", "cat")
        for n in (0, 1)
    }
    root = write_folder(tmp_path / "photos", tree(*written, "notes/readme.txt"))
    if form.startswith("{name}"):
        with pytest.raises(DataError, match=r"can be read in two ways(.|\n)*`layout: classes`(.|\n)*`layout: divided`"):
            read_tree(root)
    elif form.startswith("wrap"):
        (root / "notes" / "readme.txt").unlink()
        (root / "notes").rmdir()
    source = read_tree(root, layout=None if not form.startswith("{name}") else "divided")
    assert source.classes == ("cat", "dog")
    assert {image.key: image.part for image in source.images} == {
        key.removeprefix("wrap/"): part for key, part in written.items()
    }
    for image in source.images:
        assert source.classes[image.label] in image.key


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
def test_a_divided_folder_is_the_same_in_any_order(packed: bool, tmp_path: Path) -> None:
    files = tree(*names("train/cat train/dog val/cat val/dog test/cat test/dog", 3), "test/dog/notes.txt")
    sources = []
    for number in range(4):
        order = list(files)
        random.Random(number).shuffle(order)
        content = {name: files[name] for name in order}
        place = tmp_path / str(number)
        place.mkdir()
        sources.append(read_tree(write_zip(place / "1.zip", content) if packed else write_folder(place, content)))
    found = [[(i.key, i.label, i.part) for i in source.images] for source in sources]
    assert found[0] == found[1] == found[2] == found[3]
    assert {tuple(map(str, source.passed_over)) for source in sources} == {("1 .txt (test/dog/notes.txt)",)}
    assert Counter(part for _, _, part in found[0]) == {"train": 6, "validation": 6, "test": 6}


@pytest.mark.parametrize(
    ("paths", "text"),
    [
        (names("train/cat train/dog test/cat test/cow test/dog"), "test part has images of 'cow', of which its train"),
        (names("train/cat train/dog val/cat val/dog valid/cat"), "read in two ways"),
        ([*names("train/cat train/dog"), "test/1.png"], "read in two ways"),
        (names("test/cat test/dog val/cat"), "read in two ways"),
        (names("train val cat"), "read in two ways"),
        (names("train/cat train/dog extra"), "read in two ways"),
        (names("images/cat masks/cat"), r"read in two ways(.|\n)*'images', 'masks' are the classes"),
        (names("images/cat images/dog masks/cat"), r"only 'images' holds photos: `ignore_folders: \[masks\]`"),
        ([*names("images"), "labels/0.txt"], r"read in two ways(.|\n)*only 'images' holds photos: .* in a table"),
        (names("cat/images cat/GT dog/images dog/GT"), r"in its class folders:(.|\n)*'cat', 'dog' (.|\n)*s: \[GT\]`"),
        (
            names("train/cat/images train/cat/masks train/dog/images test/cat/images"),
            r"only 'images' (.|\n)*`ignore_folders: \[masks\]`",
        ),
        (names("train/images train/labels test/images test/labels"), "read in two ways"),
        (names("2023/cat 2023/dog 2024/cat 2024/dog 2024/cow"), r"two ways(.|\n)*'2023', '2024' are the classes"),
        (names("2023/Cat 2023/k\u00e4fer 2024/cat 2024/ka\u0308fer"), r"two ways(.|\n)*'2023', '2024' are the classes"),
        (
            names("train/2023/cat train/2023/dog train/2024/cat train/2024/dog test/2023/cat"),
            "list the images in a tab",
        ),
        ([*names("cat dog"), *names("cat/masks")], r"two ways, because of the folders 'masks'(.|\n)*layout: classes"),
        (names("train/cat train/cat/mask test/cat train/dog"), r"'mask'(.|\n)*`layout: divided`"),
        (names("cat dog masks", 3), r"`ignore_folders: \[masks\]`"),
        ([*names("cat dog", 3), "masks/0_mask.png", "masks/1_mask.png"], r"`ignore_folders: \[masks\]`"),
        (names("train/cat train/dog train/masks test/cat test/dog test/masks", 3), r"`ignore_folders: \[masks\]`"),
        (names("01_train/cat 02_test/cat"), "rename them to train, validation and test"),
        (names("seg_train/seg_train/cat seg_test/seg_test/cat"), "rename them to train, validation and test"),
    ],
    ids=lambda given: "" if isinstance(given, str) else given[0],
)
def test_what_can_be_read_in_two_ways_is_refused(paths: list[str], text: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=text):
        read(tmp_path, *paths)


@pytest.mark.parametrize(
    ("paths", "text"),
    [
        (
            [f"{part}/{name}.{n}.jpg" for part in ("train", "val") for name in ("cat", "dog") for n in (0, 1)],
            "has no class folders: its images lie just in 'train', 'val', which are named like parts of the split. "
            "Their names may tell the classes ('cat', 'dog'). List the images in a table, `name: table`, with a column "
            "for the class, or move them into one folder per class, such as train/cat. If 'train', 'val' are the "
            "classes, write `layout: classes`.",
        ),
        (
            [*(f"train/{name}.{n}.jpg" for name in ("cat", "dog") for n in (0, 1)), "test1/1.jpg"],
            "its images lie just in 'test1', 'train', which are named like parts",
        ),
        (["train/IMG_1.jpg", "train/IMG_2.jpg"], "split. List the images in a table"),
        (names("train test"), "If 'test', 'train' are the classes, write `layout: classes`."),
        (
            names("2023/train/cat 2023/train/dog 2023/test/cat 2024/train/cat 2024/test/dog"),
            "the folders 'test', 'train' lie below '2023', '2024', and hold folders that look like the classes ('cat', "
            "'dog'). Move 2023/test/cat to test/cat/2023, and the others likewise, or list the images in a table, "
            "`name: table`. If '2023', '2024' are the classes, write `layout: divided` or, to divide them anew, "
            "`layout: classes`.",
        ),
        (names("2023/train/cat 2023/train/dog 2024/test/cat 2024/test/dog"), "Move 2023/train/cat to train/cat/2023"),
        (names("cat/train/a cat/test/b dog/train/c dog/test/d"), "stay divided as they are"),
    ],
    ids=lambda given: "" if isinstance(given, str) else given[0],
)
def test_what_no_layout_reads_is_told_with_what_to_do(paths: list[str], text: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read(tmp_path, *paths)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("paths", "text"),
    [
        (names("train/cat train/dog val/cat val/dog valid/cat"), "'val', 'valid' in .* are both validation; merge"),
        ([*names("train/cat train/dog"), "test/1.png"], r"1 images in .* are in no class folder \('test/1.png'\)"),
        (names("test/cat test/dog val/cat"), "of which its train part has none"),
        (names("train/cat train/dog extra"), "'extra/0.png' is in none of its folders train"),
        (names("cat dog"), "'cat/0.png' is in none of its folders train"),
    ],
    ids=lambda given: "" if isinstance(given, str) else given[0],
)
def test_what_is_not_divided_is_refused_when_it_should_be(paths: list[str], text: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=text):
        read(tmp_path, *paths, layout="divided")


@pytest.mark.parametrize(
    ("paths", "classes"),
    [
        (names("car train"), ("car", "train")),
        (names("test/1 cat/2"), ("cat", "test")),
        (names("oak/tree1 oak/tree2 birch/tree3"), ("birch", "oak")),
        (names("apple/healthy apple/scab corn/healthy corn/rust"), ("apple", "corn")),
        (names("cat/images dog/images"), ("cat", "dog")),
        (names("images cat"), ("cat", "images")),
        ([*names("no_mask", 3), "mask/a.png", "mask/b.png", "mask/2.png"], ("mask", "no_mask")),
        (names("my_test my_probe"), ("my_probe", "my_test")),
        ([*names("cat/a cat/b dog/a dog/b"), "cat/1.png", "cat/2.png"], ("cat", "dog")),
    ],
    ids=lambda given: given[0],
)
def test_what_can_be_read_in_one_way_needs_no_key(paths: list[str], classes: tuple[str, ...], tmp_path: Path) -> None:
    source = read(tmp_path, *paths)
    assert source.classes == classes
    assert set(parts(source).values()) == {None}
    assert read_tree(tmp_path / "photos", layout="classes") == source


@pytest.mark.parametrize(
    ("paths", "ignored"),
    [
        (names("images/cat images/dog masks/cat masks/dog"), ["masks"]),
        (names("cat/images cat/Masks dog/images dog/masks cat/old/gt"), ["masks", "GT"]),
        (names("train/cat train/dog train/masks test/cat test/dog notes"), ["masks", "notes"]),
    ],
    ids=lambda given: given[0],
)
@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
def test_ignored_folders_are_passed_over_and_counted(
    paths: list[str], ignored: list[str], packed: bool, tmp_path: Path
) -> None:
    files = tree(*paths)
    root = write_zip(tmp_path / "1.zip", files) if packed else write_folder(tmp_path / "photos", files)
    with pytest.raises(DataError, match="can be read in two ways"):
        read_tree(root)
    source = read_tree(root, ignore_folders=ignored)
    assert source.classes == ("cat", "dog")
    left = [path for path in paths if not {name.casefold() for name in ignored} & set(path.casefold().split("/"))]
    assert len(source.images) == len(left) < len(paths)
    assert {image.key.split("/")[-3:-1][-1] for image in source.images} <= {"cat", "dog", "images"}
    (passed,) = source.passed_over
    assert (passed.count, passed.kind.split(" in ")[1]) == (len(paths) - len(left), "`ignore_folders`")


@pytest.mark.parametrize(
    ("ignored", "text"),
    [
        ("mask", r"`ignore_folders` lists 'mask', .*did you mean 'masks'\?"),
        ("cat/masks", r"lists the path 'cat/masks'; it takes names of folders, .* such as 'masks'"),
    ],
)
def test_a_folder_to_ignore_that_is_not_there_is_refused(ignored: str, text: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=text):
        read(tmp_path, *names("cat dog masks/a"), ignore_folders=[ignored])


def test_names_to_ignore_as_people_write_them(tmp_path: Path) -> None:
    paths = names("cat dog masks/a .git __MACOSX")
    source = read(tmp_path, *paths, ignore_folders=["./masks/ ", ".git", "__MACOSX"])
    assert source.classes == ("cat", "dog")


def test_what_options_leave_is_not_said_of_the_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^read with `ignore_folders`, .* holds only one folder, 'dog'"):
        read(tmp_path, *names("cat dog"), ignore_folders=["cat"])
    with pytest.raises(DataError, match=r"^read with `layout: classes-below`, .* such as photos/2024/daisy/1.jpg"):
        read_tree(tmp_path / "photos", layout="classes-below")


@pytest.mark.parametrize("name", ["thumbs", "RAW", "mask"])
def test_a_class_that_is_named_like_none_is_warned_about(name: str, tmp_path: Path) -> None:
    paths = [*names("cat dog"), f"{name}/other.png"]
    assert read(tmp_path, *paths).warnings == (
        (f"the folder {name!r} is read as a class; if it is none, pass it over", f"data.ignore_folders: [{name}]"),
    )
    root = tmp_path / "photos"
    assert read_tree(root, ignore_folders=[name]).warnings == read_tree(root, [name, "cat"]).warnings == ()


def test_classes_that_are_not_listed_need_no_training_images(tmp_path: Path) -> None:
    paths = names("train/cat train/dog test/cat test/dog test/fox")
    with pytest.raises(DataError, match=r"test part has images of 'fox', .* or list the `classes` to use"):
        read(tmp_path, *paths)
    assert len(read_tree(tmp_path / "photos", ["cat", "dog"]).images) == 4


@pytest.mark.parametrize("inner", [("training_set", "test_set"), ("photos", "photos"), ("seg_train", "seg_test")])
def test_a_part_whose_only_folder_holds_the_classes(inner: tuple[str, str], tmp_path: Path) -> None:
    train, test = f"training_set/{inner[0]}", f"test_set/{inner[1]}"
    paths = names(f"{train}/cat {train}/dog {test}/cat {test}/dog")
    source = read(tmp_path, *paths)
    assert source.classes == ("cat", "dog")
    assert parts(source) == {
        f"{part}/{name}/0.png": given
        for part, given in (("training_set", "train"), ("test_set", "test"))
        for name in ("cat", "dog")
    }


def test_the_layout_decides(tmp_path: Path) -> None:
    paths = names("2023/cat 2023/dog 2024/cat 2024/dog", 2)
    assert read(tmp_path, *paths, layout="classes").classes == ("2023", "2024")
    below = read(tmp_path, *paths, "2024/cover.png", layout="classes-below")
    assert below.classes == ("cat", "dog")
    assert {key: below.classes[i.label] for key, i in zip(parts(below), below.images, strict=True)} == {
        path: path.split("/")[1] for path in paths
    }
    assert tuple(map(str, below.passed_over)) == ("1 image outside the class folders (2024/cover.png)",)
    flat = write_folder(tmp_path / "flat", tree(*names("train test", 2)))
    assert read_tree(flat, layout="classes").classes == ("test", "train")


# ---- the split of divided images


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNNSTUDY_CACHE", str(tmp_path / "cache"))


def ready(root: Path, **settings: Any) -> PreparedImages:
    given = {"name": "folder", "path": root, "validation": SPLIT.validation, "test": SPLIT.test}
    return prepare_images(Options.model_validate(given | settings), [8], SPLIT.seed, lambda *_: None)[0]


def keys_of(prepared: PreparedImages, part: Images) -> set[str]:
    return {image_keys(prepared)[place] for place in part.places}


@pytest.mark.parametrize("held", [("val", "test"), ("val",), ("test",)], ids=" ".join)
@pytest.mark.parametrize("block", [None, 0, 3])
def test_given_parts_stay_and_what_is_missing_is_cut_from_train(
    held: tuple[str, ...], block: int | None, tmp_path: Path
) -> None:
    folders = " ".join(f"{part}/{name}" for part in ("train", *held) for name in ("cat", "dog"))
    prepared = ready(write_folder(tmp_path / "photos", tree(*names(folders, 10))))
    assert prepared.given == tuple(sorted({"train", *({"val": "validation"}.get(part, part) for part in held)}))
    loaded = load_for_training(prepared, SPLIT, 0.5, block)
    train, validation = keys_of(prepared, loaded.train), keys_of(prepared, loaded.validation)
    test = keys_of(prepared, test_split.load_test_images(prepared, SPLIT))
    assert all(key.startswith("train/") for key in train)
    cut = 20 - 4 * (2 - len(held))
    assert len(train) == cut / 2
    for part, found, counts in (("val", validation, prepared.validation), ("test", test, prepared.test)):
        assert {key.split("/")[0] for key in found} == {part if part in held else "train"}
        assert len(found) == (20 if part in held else 4) == sum(counts)
    assert not train & validation
    assert not test & (train | validation)
    assert sum(prepared.train) == cut


@pytest.mark.parametrize("seed", range(50))
def test_whatever_is_given_every_image_is_in_one_part_and_the_given_ones_stay(seed: int) -> None:
    rng = random.Random(seed)
    count = rng.randrange(2, 60)
    keys = [f"{rng.random()}" for _ in range(count)]
    labels = [rng.randrange(3) for _ in range(count)]
    choices = rng.choice([("train", "validation"), ("train", "test"), ("train", "validation", "test"), ("train",)])
    given = [rng.choice(choices) for _ in range(count)]
    split = Split(rng.uniform(0.05, 0.4), rng.uniform(0.05, 0.4), rng.randrange(5))
    divisions = []
    for block in (None, 0, 1):
        found: dict[str, list[int]] = {
            part: sorted(chain.from_iterable(by))
            for part, by in split_indices(keys, labels, split, block, given=given).items()
        }
        found["test"] = test_split.list_test_indices(keys, labels, split, given=given)
        assert sorted(chain.from_iterable(found.values())) == list(range(count))
        for part in ("validation", "test"):
            if part in given:
                assert found[part] == [i for i in range(count) if given[i] == part]
            else:
                assert {given[i] for i in found[part]} <= {"train"}
        divisions.append(found)
    assert len({tuple(found["test"]) for found in divisions}) == 1
    if "validation" in given:
        assert divisions[0] == divisions[1] == divisions[2]


def test_which_part_an_image_is_in_changes_the_digest(tmp_path: Path) -> None:
    first = ready(write_folder(tmp_path / "photos", tree(*names("train/cat train/dog test/cat test/dog", 6))))
    (tmp_path / "photos" / "test").rename(tmp_path / "photos" / "val")
    second = ready(tmp_path / "photos")
    assert first.digest != second.digest
    assert (first.given, second.given) == (("test", "train"), ("train", "validation"))


def test_a_share_of_a_part_that_is_given_is_told_to_have_no_effect(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "photos", tree(*names("train/cat train/dog test/cat test/dog", 10)))
    (told,) = (text for text in ready(root, test=0.25, validation=0.3).warnings if "no effect" in text)
    assert told.startswith("`test: 0.25` has no effect, because the images have a test part already.")
    assert not any("no effect" in text for text in ready(root, test=0.15).warnings)


def test_a_class_lacks_no_part(tmp_path: Path) -> None:
    paths = names("train/cat train/dog train/cow val/cat val/dog test/cat", 5)
    with pytest.raises(DataError) as caught:
        ready(write_folder(tmp_path / "photos", tree(*paths)))
    assert str(caught.value).splitlines() == [
        "2 classes are too small for their parts:",
        "  class 'cow' has 5 train, 0 validation and 0 test images; each part needs at least one",
        "  class 'dog' has 5 train, 5 validation and 0 test images; each part needs at least one",
        "Add images, or leave classes out (`classes` lists those to use).",
    ]


def test_a_limit_on_images_keeps_the_shares_of_the_parts(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "photos", tree(*names("train/cat train/dog", 12), *names("test/cat test/dog", 4)))
    few, more = ready(root, images_per_class=8), ready(root, images_per_class=12)
    assert (few.test, more.test) == ((2, 2), (3, 3))
    assert sum(few.train + few.validation + few.test) == 16
    chosen = [{*np.load(Path(one.folder) / "images.npy").sum((1, 2, 3)).tolist()} for one in (few, more)]
    assert chosen[0] < chosen[1]


def test_the_description_says_what_there_is(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "photos", tree(*names("cat", 12), *names("dog", 8), "dog/notes.txt", "top.png"))
    assert describe_images(ready(root)).splitlines() == [
        "folder: 20 images of 2 classes: cat (12), dog (8)",
        "  parts: 12 train, 4 validation, 4 test; the smallest class, dog, has 4, 2, 2",
        "  passed over: 1 .txt (dog/notes.txt), 1 image outside the class folders (top.png)",
    ]
    divided = write_folder(tmp_path / "divided", tree(*names("train/cat train/dog val/cat val/dog", 10)))
    assert describe_images(ready(divided)).splitlines()[1:] == [
        "  parts: 16 train, 20 validation, 4 test (validation as given, test cut from train; every seed has the same "
        "validation images); each class has 8, 10, 2"
    ]
    many = write_folder(tmp_path / "many", tree(*(name for n in range(20) for name in names(f"c{n:02}", 4 + n))))
    assert "20 classes: c19 (23), c18 (22), c17 (21), ... c02 (6), c01 (5), c00 (4)" in describe_images(ready(many))


# ---- recorded studies


def test_ordinary_folders_keep_their_digest_and_split(tmp_path: Path) -> None:
    """The numbers are those that were recorded before there were layouts."""
    root = tmp_path / "photos"
    for name, count in (("apple", 12), ("pear", 9)):
        for number in range(count):
            (root / name / "deep").mkdir(parents=True, exist_ok=True)
            shade = 10 * number + len(name)
            header = b"P5\n4 4\n255\n"
            place = root / name / ("deep" if number % 3 else "") / f"{number}.pgm"
            place.write_bytes(header + bytes(range(shade, shade + 16)))
    (root / "apple" / "notes.txt").write_text("not used")
    prepared = ready(root)
    assert prepared.digest == "a507617e831d7536e1c8fea0"
    loaded = load_for_training(prepared, SPLIT, 0.5, 2)
    assert sorted(keys_of(prepared, loaded.validation)) == [
        "apple/6.pgm",
        "apple/deep/11.pgm",
        "pear/deep/1.pgm",
        "pear/deep/2.pgm",
    ]
    assert (loaded.train.places.tolist(), loaded.probe.places.tolist()) == ([1, 3, 5, 11, 14, 17], [1, 11, 14, 17])
    assert test_split.load_test_images(prepared, SPLIT).places.tolist() == [0, 10, 19, 20]


# ---- the type of a file is told by its content


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
def test_suffixes_of_phones_and_browsers(packed: bool, tmp_path: Path) -> None:
    """The folder `suffixes` of the cases that people met: 20 images, all readable."""
    suffixes = {
        "cat": [*[".jpg"] * 4, ".jfif", ".jpe", ".jpg_large", ".jpg.1", "", ".JPG"],
        "dog": [*[".png"] * 6, "", ".jfif", ".jpe", ".jpg.2"],
    }
    files = {
        f"{label}/{n:02}{suffix}": picture(n, "PNG" if suffix == ".png" else "JPEG")
        for label, ends in suffixes.items()
        for n, suffix in enumerate(ends)
    }
    others = {
        "cat/video.mp4": b"\0\0\0\x18ftypmp42" + bytes(50),
        "cat/list": b"BM is no bitmap here",
        "dog/a.pdf": b"%PDF",
    }
    content = files | others
    path = write_zip(tmp_path / "1.zip", content) if packed else write_folder(tmp_path / "photos", content)
    source = read_tree(path)
    assert {image.key for image in source.images} == set(files)
    assert Counter(image.label for image in source.images) == {0: 10, 1: 10}
    assert tuple(map(str, source.passed_over)) == (
        "1 .mp4 (cat/video.mp4)",
        "1 .pdf (dog/a.pdf)",
        "1 without a known suffix (cat/list)",
    )
    prepared = ready(path)
    assert sum(prepared.train + prepared.validation + prepared.test) == 20


@pytest.mark.parametrize("form", ["AVIF", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG", "PNG"])
def test_every_format_is_found_without_a_suffix_and_read(form: str, tmp_path: Path) -> None:
    files = {f"{label}/{n}": picture(n + 10 * (label == "b"), form) for label in "ab" for n in range(4)}
    prepared = ready(write_folder(tmp_path / "photos", files))
    assert prepared.skipped == ()
    assert prepared.train == (2, 2)


def test_heic_is_read_where_a_plug_in_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without pillow-heif the files are named; a stand-in for it reads them."""
    content = {f"{label}/{n}": b"\0\0\0\x18ftypheic" + picture(n, "PNG") for label in "ab" for n in range(4)}
    root = write_folder(tmp_path / "photos", content)
    with pytest.raises(
        DataError, match=r"8 of 8 images(.|\n)*a/0: HEIC, which is not supported; .*install .*pillow-heif"
    ):
        ready(root)
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "pillow_heif.py").write_text(
        "import io\nfrom PIL import Image, PngImagePlugin\n"
        "def register_heif_opener():\n"
        "    def read(stream, name=None):\n"
        "        stream.seek(12)\n"
        "        return PngImagePlugin.PngImageFile(io.BytesIO(stream.read()))\n"
        "    Image.register_open('HEIF', read, lambda head: head[4:8] == b'ftyp')\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "plugins"), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("CNNSTUDY_CACHE", str(tmp_path / "other"))
    assert ready(root).train == (2, 2)
