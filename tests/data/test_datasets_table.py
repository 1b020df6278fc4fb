"""A table of images: its forms, its parts, and what is refused, with the place."""

from __future__ import annotations

import csv
import random
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pydantic import ValidationError

from cnnstudy.data.datasets import ImageSource, table
from cnnstudy.data.images import image_keys, load_for_training, prepare_images
from cnnstudy.errors import DataError
from cnnstudy.records import Split

from .samples import picture

ROWS = [
    ("a/1.jpg", "001", "train"),
    ("./a/2", "1.10", "TEST"),
    ("b/3.jpg", "1.1", "val"),
    ("b/ä 4.jpg", "NA", "Training"),
    ("../elsewhere/5.jpg", "1e3", "valid"),
    ("c\\6.jpg", "no, none", "testing"),
]
KEYS = ["../elsewhere/5.jpg", "a/1.jpg", "a/2", "b/3.jpg", "b/ä 4.jpg", "c/6.jpg"]
HEADER = ("file", "species", "split")


def write(path: Path, rows: list[tuple[str, ...]], header: tuple[str, ...] = HEADER, separator: str = ",") -> Path:
    """Write a table, and a file for each row."""
    for name, *_ in rows:
        file = path.parent / name.replace("\\", "/")
        if name.strip() and not file.exists():
            file.parent.mkdir(exist_ok=True, parents=True)
            file.touch()
    path.parent.mkdir(exist_ok=True, parents=True)
    if path.suffix == ".parquet":
        pd.DataFrame(rows, columns=list(header)).to_parquet(path)
        return path
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file, delimiter=separator).writerows([header, *rows])
    return path


def load(path: Path, **more: Any) -> ImageSource:
    given = {"name": "table", "path": path, "image": "file", "label": "species", "part": "split"}
    return table.load(table.Options.model_validate(given | more))


@pytest.mark.parametrize(
    ("name", "separator"), [("1.csv", ","), ("1.CSV", ";"), ("1.csv", "\t"), ("1.tsv", "\t"), ("1.parquet", "")]
)
def test_every_form_of_table_gives_the_same(name: str, separator: str, tmp_path: Path) -> None:
    shuffled = random.Random(1).sample(ROWS, len(ROWS))
    source = load(write(tmp_path / "data" / name, shuffled, separator=separator))
    assert source.classes == ("001", "1.1", "1.10", "1e3", "NA", "no, none"), "cells are text"
    assert [image.key for image in source.images] == KEYS
    assert [source.classes[image.label] for image in source.images] == ["1e3", "001", "1.10", "1.1", "NA", "no, none"]
    assert [image.part for image in source.images] == ["validation", "train", "test", "validation", "train", "test"]
    assert source.images[2].content == tmp_path / "data" / "a" / "2"
    undivided = load(tmp_path / "data" / name, part=None)
    assert {image.part for image in undivided.images} == {None}
    chosen = load(tmp_path / "data" / name, classes=["NA", "001"])
    assert [(image.key, image.label) for image in chosen.images] == [("a/1.jpg", 1), ("b/ä 4.jpg", 0)]
    assert tuple(map(str, chosen.passed_over)) == ("4 rows of classes that are not listed",)


def test_columns_that_are_named_like_parts_and_groups_are_told_of(tmp_path: Path) -> None:
    rows = [("1.png", "a", "train", "7"), ("2.png", "b", "test", "8")]
    path = write(tmp_path / "1.csv", rows, ("file", "species", "Split", "patient_id"))
    assert load(path, part=None).warnings == (
        (
            "the column 'Split' is not used; name it if it tells which images are for training, validation and test",
            "data.part: Split",
        ),
        (
            "the column 'patient_id' is not used; name it if it tells what images belong to that must stay on one side "
            "of a split",
            "data.group: patient_id",
        ),
    )
    assert load(path, part="Split", group="patient_id").warnings == ()
    assert [key for _, key in load(path, part="Split").warnings] == ["data.group: patient_id"]


def test_two_names_of_one_part_are_told_of(tmp_path: Path) -> None:
    rows = [("1.png", "a", "train"), ("2.png", "b", "Holdout"), ("3.png", "b", "test"), ("4.png", "a", "TRAIN ")]
    source = load(write(tmp_path / "1.csv", rows))
    assert [image.part for image in source.images] == ["train", "test", "test", "train"]
    assert source.warnings == (
        (
            "'holdout', 'test' are read as one part, test; if they are not the same, remove the rows that are not "
            "meant",
            "data.part: split",
        ),
    )


@pytest.mark.parametrize(
    ("name", "other", "told"),
    [("Rex", "rex", True), ("Rex 1", "rex_1", True), ("Zo\u00eb", "Zoe\u0308", False), ("rex", "rox", False)],
)
def test_names_of_groups_that_differ_only_in_case_or_spaces_are_told_of(
    name: str, other: str, told: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CNNSTUDY_CACHE", str(tmp_path / "cache"))
    rows = [(f"{i}.png", "ab"[i % 2], {0: name, 1: other}.get(i, "")) for i in range(20)]
    for number, row in enumerate(rows):
        (tmp_path / row[0]).write_bytes(picture(number, "PNG"))
    path = write(tmp_path / "1.csv", rows, ("file", "species", "animal"))
    given = {"name": "table", "path": path, "image": "file", "label": "species", "group": "animal"}
    prepared, *_ = prepare_images(table.Options.model_validate(given), [8], 0, lambda *_: None)
    found = [text for text in prepared.warnings if "names of groups differ only" in text]
    assert [text.endswith(f"if they are the same:\n  {name!r} ~ {other!r}") for text in found] == [True] * told


def test_numbers_in_parquet_are_written_as_numbers(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {"file": ["1.png", "2.png"], "species": pd.array([7, 12], dtype="Int64"), "other": [1.5, None]}
    )
    frame.to_parquet(tmp_path / "1.parquet")
    for name in frame["file"]:
        (tmp_path / name).touch()
    assert load(tmp_path / "1.parquet", part=None).classes == ("12", "7")
    with pytest.raises(DataError, match="row 2: the column 'other' is empty; fill it in, or remove the row"):
        load(tmp_path / "1.parquet", part=None, label="other")


@pytest.mark.parametrize(
    ("rows", "header", "text"),
    [
        ([("1.png", "", "train")], HEADER, "line 2: the column 'species' is empty"),
        ([("1.png", "a", "train"), ("./1.png", "b", "test")], HEADER, "line 3 and line 2 are both about '1.png'; keep"),
        (
            [("1.png", "a", "kept back")],
            HEADER,
            "line 2: 'kept back' is no part of the split; parts are train, validation",
        ),
        ([("1.png", "a")], HEADER, "line 2: has 2 cells, and the first line 3"),
        ([("1.png", "a", "train")], ("file", "specie", "split"), "no column 'species'; did you mean 'specie'"),
        ([("1.png", "a", "train")], ("file", "file", "species"), "two columns 'file'"),
        (
            [("1.png", "Cat", "train"), ("2.png", "cat", "train")],
            HEADER,
            "labels 'Cat' and 'cat' .* differ only in upper",
        ),
        ([("1.png", "a", "train")], HEADER, "no class 'b' in column 'species' of .* The classes there are 'a'"),
        ([], HEADER, "1.csv has no rows; it must have one for each image"),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)
def test_what_is_wrong_is_named_with_its_place(
    rows: list[tuple[str, ...]], header: tuple[str, ...], text: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=text):
        load(write(tmp_path / "1.csv", rows, header), classes=["a", "b"])


@pytest.mark.parametrize(
    ("name", "content"),
    [("1.csv", "file,species\n\xe4,b\n".encode("latin-1")), ("1.csv", b'file,species\n"a,b\n'), ("1.parquet", b"PAR1")],
    ids=["latin-1", "open quote", "damaged parquet"],
)
def test_a_table_that_can_not_be_read_is_named(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=f"can't read the table .*{name}"):
        load(tmp_path / name, part=None)


def test_options(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=r"there is no file .*gone.csv; give a table that exists"):
        load(tmp_path / "gone.csv")
    (tmp_path / "1.xlsx").write_bytes(b"")
    with pytest.raises(ValidationError, match=r"1.xlsx is not a table \(.csv, .tsv, .parquet\)"):
        load(tmp_path / "1.xlsx")


def test_files_that_are_missing_are_named_and_the_others_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNNSTUDY_CACHE", str(tmp_path / "cache"))
    rows = [(f"{n}", "ab"[n % 2], ("train", "test", "val")[n // 4]) for n in range(12)]
    path = write(tmp_path / "1.csv", rows)
    for name, _, _ in rows[1:]:
        (tmp_path / name).write_bytes(picture(int(name), "WEBP"))
    options = table.Options.model_validate(
        {"name": "table", "path": path, "image": "file", "label": "species", "part": "split"}
    )
    (tmp_path / "0").unlink()
    missing = r"1.csv names 1 files \(of 12\) that are not there:\n  line 2: .*/0\nPaths in a table are relative"
    with pytest.raises(DataError, match=missing):
        prepare_images(options, [8], 0, lambda *_: None)
    (tmp_path / "0").write_bytes(picture(0, "PNG"))
    (prepared,) = prepare_images(options, [8], 0, lambda *_: None)
    assert (prepared.train, prepared.validation, prepared.test) == ((2, 2), (2, 2), (2, 2))
    assert prepared.given == ("test", "train", "validation")


@pytest.mark.parametrize("name", ["1.csv", "1.parquet"])
def test_the_images_of_a_group_stay_together(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells are text and may be empty; an image without a group stands alone."""
    monkeypatch.setenv("CNNSTUDY_CACHE", str(tmp_path / "cache"))
    animals = ["" if n >= 36 else f"{n // 3:02d} " for n in range(48)]
    rows = [(f"{n}.png", "ab"[n // 3 % 2], animal) for n, animal in enumerate(animals)]
    path = write(tmp_path / name, rows, ("file", "species", "animal"))
    for n, (file, *_) in enumerate(rows):
        (tmp_path / file).write_bytes(picture(n, "PNG"))
    assert {image.group for image in load(path, part=None, group="animal").images} >= {"00", "11", None}
    options = {"name": "table", "path": path, "image": "file", "label": "species", "group": "animal"}
    (prepared,) = prepare_images(table.Options.model_validate(options), [8], 0, lambda *_: None)
    of_key = {file: animal or file for file, _, animal in rows}
    groups = [of_key[key] for key in image_keys(prepared)]
    loaded = load_for_training(prepared, Split(0.15, 0.15, 0), 1.0)
    train, validation = ({groups[i] for i in part.places} for part in (loaded.train, loaded.validation))
    assert not train & validation
    with pytest.raises(DataError, match="no column 'animals'; did you mean 'animal'"):
        load(path, part=None, group="animals")
