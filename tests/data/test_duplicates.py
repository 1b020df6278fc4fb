"""Copies among the images, unreadable files, and files that change while they are read."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cnnstudy.data import duplicates
from cnnstudy.data.datasets import ImageSource, SourceImage
from cnnstudy.data.datasets.folder import Options
from cnnstudy.data.duplicates import duplicate_warnings, image_digests
from cnnstudy.data.images import prepare_images
from cnnstudy.errors import MAX_LISTED, DataError
from cnnstudy.records import PreparedImages, Split

SPLIT = Split(0.2, 0.2, 0)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twelve images of each of two classes, no two the same."""
    monkeypatch.setenv("CNNSTUDY_CACHE", str(tmp_path / "cache"))
    for label, name in enumerate(("apple", "pear")):
        (tmp_path / "fruit" / name).mkdir(parents=True)
        for number in range(12):
            picture = Image.new("RGB", (9, 9), (number, label, 0))
            picture.save(tmp_path / "fruit" / name / f"{number:02d}.png")
    return tmp_path / "fruit"


def ready(folder: Path, progress: Callable[..., None] = lambda *_: None, **settings: Any) -> PreparedImages:
    given = {"name": "folder", "path": folder, "validation": 0.2, "test": 0.2, "copies": "ignore"}
    return prepare_images(Options.model_validate(given | settings), [8], SPLIT.seed, progress)[0]


# ---- copies


def test_images_without_copies_need_no_word(folder: Path) -> None:
    assert ready(folder).warnings == ()


def test_an_image_in_two_classes_is_named(folder: Path) -> None:
    shutil.copy(folder / "apple" / "03.png", folder / "pear" / "the same.png")
    first = ready(folder).warnings[0]
    assert first == (
        "an image is in more than one class, as byte-identical copies; remove the wrong ones:\n"
        "  apple/03.png = pear/the same.png"
    )


def test_copies_in_one_part_do_no_harm_but_across_parts_they_do(folder: Path) -> None:
    """Every image of a class the same: then all parts of the split have it."""
    for number in range(1, 12):
        shutil.copy(folder / "apple" / "00.png", folder / "apple" / f"{number:02d}.png")
    (only,) = ready(folder).warnings
    assert only.startswith("an image has byte-identical copies in more than one of train, validation and test")
    assert only.endswith("\n  apple/00.png = apple/01.png = apple/02.png = apple/03.png and 8 more")


def test_where_copies_lie_decides() -> None:
    images = tuple(SourceImage(f"{number:02d}", 0, np.full((2, 2), number, np.uint8)) for number in range(20))
    source = ImageSource(("only",), images)
    parts = duplicates.split_indices([image.key for image in images], [0] * 20, SPLIT)
    train, validation = parts["train"][0], parts["validation"][0]
    test = sorted(set(range(20)) - set(train) - set(validation))

    def warned(one: int, other: int) -> int:
        digests = [bytes([number]) for number in range(20)]
        digests[one] = digests[other]
        return len(duplicate_warnings(source, digests, range(20), SPLIT))

    assert warned(train[0], train[1]) == warned(validation[0], validation[1]) == warned(test[0], test[1]) == 0
    assert warned(train[0], validation[0]) == warned(train[0], test[0]) == warned(validation[0], test[0]) == 1


def test_images_that_are_skipped_are_no_copies(folder: Path) -> None:
    for name in ("apple", "pear"):
        (folder / name / "empty.png").write_bytes(b"")
    assert ready(folder, bad_images="skip").warnings == ()


def test_a_link_to_an_image_of_another_class_is_a_copy(folder: Path) -> None:
    (folder / "pear" / "link.png").symlink_to("../apple/03.png")
    assert "apple/03.png = pear/link.png" in ready(folder).warnings[0]


def test_a_hundred_thousand_copies_take_no_time() -> None:
    images = tuple(SourceImage(f"{number:06d}", number % 2, b"") for number in range(100_000))
    digests = [(number // 4).to_bytes(4, "big") for number in range(100_000)]
    started = time.process_time()
    first, second = duplicate_warnings(ImageSource(("a", "b"), images), digests, range(100_000), SPLIT)
    assert time.process_time() - started < 10
    assert first.startswith("25000 images are in more than one class")
    assert len(first.splitlines()) == len(second.splitlines()) == 1 + MAX_LISTED + 1


# ---- files that can't be read, and files that change


def test_all_unreadable_files_are_named_together(folder: Path) -> None:
    for number in range(30):
        (folder / "pear" / f"gone {number:02d}.png").symlink_to("nowhere")
    with pytest.raises(DataError) as caught:
        ready(folder, bad_images="skip")
    head, *lines = str(caught.value).splitlines()
    assert head == "can't read 30 of 54 images:"
    assert lines[0] == f"  {folder}/pear/gone 00.png: a link to no file; repair or remove it"
    assert lines[20:] == ["  and 10 more"]


@contextlib.contextmanager
def nobody() -> Iterator[Path]:
    """A folder that everybody may enter, and no right to read everything."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    folder.chmod(0o755)
    root = os.geteuid() == 0
    try:
        yield folder
    finally:
        if root:
            os.seteuid(0)
        shutil.rmtree(folder)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="rights are others here")
def test_a_file_without_permission_is_named() -> None:
    with nobody() as folder:
        path = folder / "1.png"
        path.write_bytes(b"")
        path.chmod(0)
        if os.geteuid() == 0:
            os.seteuid(65534)
        with pytest.raises(DataError, match=r"can't read /tmp/.*/1.png: Permission denied"):
            image_digests([SourceImage("1.png", 0, path)], lambda *_: None)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda path: path.unlink(), " (No such file or directory)"),
        (lambda path: path.write_bytes(path.read_bytes() + b"1"), ""),
        (lambda path: (path.unlink(), os.mkfifo(path)), " (it is not a regular file)"),
    ],
    ids=["vanishes", "changes", "becomes a pipe"],
)
def test_a_file_that_changes_while_images_are_read_is_named(
    change: Callable[[Path], Any], words: str, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """After it was checked and before it is decoded: the cache must not keep the one under the name of the other."""
    path = folder / "pear" / "05.png"
    whole = path.read_bytes()
    real = duplicates.image_digests

    def then_change(*arguments: Any) -> list[bytes]:
        found = real(*arguments)
        change(path)
        return found

    with monkeypatch.context() as patch:
        patch.setattr("cnnstudy.data.images.image_digests", then_change)
        with pytest.raises(DataError) as caught:
            ready(folder, bad_images="skip")
    assert (
        str(caught.value)
        == f"{path} changed while it was being read{words}; run again when nothing changes the images."
    )
    assert [entry.suffix for entry in (tmp_path / "cache" / "images").iterdir()] == [".lock"]
    path.unlink(missing_ok=True)
    path.write_bytes(whole)
    assert ready(folder).skipped == ()
