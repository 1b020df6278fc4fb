"""Plots of a trial."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnnstudy.analysis import trial_plots
from cnnstudy.analysis.trial_plots import draw_confusion, draw_curves
from cnnstudy.records import EpochRecord


def records(epochs: int) -> list[EpochRecord]:
    return [
        EpochRecord(epoch, {"train/accuracy": 0.9, "val/accuracy": 0.7, "train/loss": 0.2, "val/loss": 0.8 / epoch})
        for epoch in range(1, epochs + 1)
    ]


def size(path: Path) -> tuple[int, int]:
    """Return width and height in pixels, after reading the whole file."""
    with Image.open(path) as image:
        assert image.format == "PNG"
        image.load()
        return image.size


def has_colour(path: Path, colour: str) -> bool:
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    return bool((pixels == [int(colour[i : i + 2], 16) for i in (1, 3, 5)]).all(axis=2).any())


def check_that_earlier_ones_leave_nothing(pictures: Sequence[Callable[[], bytes]]) -> None:
    """Plots drawn one after the other with a reused figure equal those drawn with a new one."""
    one_after_the_other = [draw() for draw in pictures]
    by_themselves = []
    for draw in pictures:
        for kept in (trial_plots._curves, trial_plots._confusion):
            kept.cache_clear()
        by_themselves.append(draw())
    assert one_after_the_other == by_themselves
    assert len(set(by_themselves)) == len(pictures)


@pytest.mark.parametrize("epochs", [1, 2, 30])
def test_curves(tmp_path: Path, epochs: int) -> None:
    path = tmp_path / "curves.png"
    draw_curves(records(epochs), 1, "alexnet-000  Größe, 日本, $x$", path)
    assert size(path) == (990, 418)
    assert has_colour(path, "#0b6e99")
    assert has_colour(path, "#c4521b")


def test_the_best_epoch_is_marked_where_there_is_one(tmp_path: Path) -> None:
    for best in (0, 2):
        draw_curves(records(3), best, "a trial", tmp_path / f"{best}.png")
    assert (tmp_path / "0.png").read_bytes() != (tmp_path / "2.png").read_bytes()


def test_a_trial_before_leaves_nothing_in_the_curves(tmp_path: Path) -> None:
    def draw(name: str, epochs: int, best: int) -> bytes:
        draw_curves(records(epochs), best, f"trial {name}", tmp_path / f"{name}.png")
        return (tmp_path / f"{name}.png").read_bytes()

    asked = [("a", 3, 2), ("b", 1, 0), ("c", 30, 29), ("d", 2, 1), ("e", 5, 0)]
    check_that_earlier_ones_leave_nothing([lambda one=one: draw(*one) for one in asked])


@pytest.mark.parametrize("classes", [("cat", "dog"), [f"a long name {number}" for number in range(25)]])
def test_a_trial_before_leaves_nothing_in_the_matrix(tmp_path: Path, classes: Sequence[str]) -> None:
    def draw(name: str, right: int) -> bytes:
        matrix = [[right if row == column else row for column in range(len(classes))] for row in range(len(classes))]
        draw_confusion(matrix, classes, f"validation, {name}", tmp_path / "confusion.png")
        return (tmp_path / "confusion.png").read_bytes()

    asked = [("a", 7), ("a much longer title of a trial, which is wider than the matrix is " * 2, 0), ("c", 1)]
    check_that_earlier_ones_leave_nothing([lambda one=one: draw(*one) for one in asked])


@pytest.mark.parametrize(
    ("classes", "pixels"),
    [
        (("cat", "dog"), (473, 385)),
        (("$x$", "$", "a$b", r"\$", r"$\frac$"), (638, 550)),
        (("Größe", "日本", "🐈"), (528, 440)),
        (("x" * 300, "y" * 300), (473, 385)),
        ([f"class {number}" for number in range(60)], (1628, 1540)),
    ],
    ids=["plain", "dollars", "letters", "long", "many"],
)
def test_confusion(tmp_path: Path, classes: Sequence[str], pixels: tuple[int, int]) -> None:
    matrix = [[5 if row == column else 1 for column in range(len(classes))] for row in range(len(classes))]
    draw_confusion(matrix, classes, "validation, alexnet-000", tmp_path / "confusion.png")
    assert size(tmp_path / "confusion.png") == pytest.approx(pixels, abs=1)


@pytest.mark.parametrize(("classes", "named"), [(60, 60), (61, 31), (500, 56)])
def test_of_many_classes_as_many_are_named_as_fit(tmp_path: Path, classes: int, named: int) -> None:
    """Each beside its own row and column."""
    names = [f"class {number}" for number in range(classes)]
    axes = trial_plots._Confusion(names)._axes
    for places, labels in (
        (axes.get_xticks(), axes.get_xticklabels()),
        (axes.get_yticks(), axes.get_yticklabels()),
    ):
        assert [label.get_text() for label in labels] == [names[int(place)] for place in places]
        assert len(places) == named
        assert places[0] == 0


def test_a_class_without_validation_images_is_drawn(tmp_path: Path) -> None:
    draw_confusion([[0, 0], [1, 3]], ("none", "some"), "validation", tmp_path / "confusion.png")
    assert size(tmp_path / "confusion.png")[0] > 200


def test_the_matrix_is_coloured_by_the_share_of_the_true_class(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(2)]
    draw_confusion([[8, 0], [0, 2]], ("cat", "dog"), "same", paths[0])
    draw_confusion([[8, 0], [2, 0]], ("cat", "dog"), "same", paths[1])
    for path in paths:
        assert has_colour(path, "#08306b")  # the deepest of the scale: all of a class
    assert paths[0].read_bytes() != paths[1].read_bytes()
