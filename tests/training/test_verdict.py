"""The verdicts, at and around their rules, and how often they are false."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cnnstudy.errors import InputError
from cnnstudy.training.verdict import VERDICTS, Counts, count_right, describe_accuracies, judge


def counts(train: int, of: int, validation: int, among: int, classes: int = 5, sample: bool = False) -> Counts:
    """Return counts of equal classes: `train` of `of` and `validation` of `among` images are right."""

    def spread(images: int) -> list[int]:
        return [images // classes + (label < images % classes) for label in range(classes)]

    return Counts(spread(train), spread(of), spread(validation), spread(among), sample)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (counts(55, 268, 12, 58), "not-learning"),  # chance in both: no gap is no success
        (counts(80, 268, 12, 58), "underfit"),  # 30 % of all training images are beyond guessing
        (counts(8, 25, 12, 58), "cannot-tell"),  # 8 of 25: guessing does that well once in ten
        (counts(268, 268, 12, 58), "overfit"),  # learnt by heart
        (counts(268, 268, 5, 5), "cannot-tell"),  # all right, but on five images
        (counts(100, 100, 23, 25), "overfit"),  # train is known to be 100 %: a single mistake shows a gap
        (counts(96, 100, 23, 25), "cannot-tell"),  # no gap, or one of 5 points
        (counts(640, 640, 158, 160), "fit"),
        (counts(640, 640, 154, 160), "cannot-tell"),  # 3.8 points, which may be 5
        (counts(608, 640, 138, 160), "overfit"),
        (counts(595, 640, 141, 160), "cannot-tell"),  # 4.8 points
        (counts(512, 640, 125, 160), "underfit"),
        (counts(512, 640, 158, 160), "underfit"),  # a negative gap is no overfitting
        (counts(24, 25, 142, 160, sample=True), "cannot-tell"),  # the sample's 96 % may be 85 %
        (counts(160, 160, 158, 160, sample=True), "fit"),
        (counts(5, 25, 32, 160, sample=True), "cannot-tell"),  # 20 % of 25 may be 37 %
        (counts(2, 2, 2, 2, classes=1), "cannot-tell"),  # a single class
    ],
)
def test_each_rule(given: Counts, expected: str) -> None:
    verdict = judge(*given)
    assert verdict.name == expected, verdict.reason
    assert expected in VERDICTS
    assert verdict.images_needed is None or expected == "cannot-tell"


def test_guessing_the_largest_class_is_no_learning() -> None:
    # a dead network on the flower photos, which always answers with the largest class
    flowers, dead = [95, 135, 96, 105, 120], [0, 135, 0, 0, 0]
    assert judge(dead, flowers, dead, flowers).name == "not-learning"
    assert judge([500, 0], [500, 26], [95, 0], [95, 5]).name == "not-learning"


def test_unequal_classes_are_judged_by_balanced_accuracy() -> None:
    # nearly all of the large class and 60 % of the small one: less accurate than always answering with the large class
    verdict = judge([741, 24], [760, 40], [185, 6], [190, 10])
    assert verdict.name == "underfit"
    assert verdict.reason.startswith("balanced accuracy on train 78.8 % of all 800 training images, validation 78.7 %")


def test_the_reason_has_the_numbers() -> None:
    assert judge(*counts(268, 268, 29, 58)).reason == (
        "train 100.0 % of all 268 training images, validation 50.0 % of 58: a gap of +50.0 points [+36.6, +63.4], "
        "above 0 beyond chance"
    )


def test_so_many_images_would_tell() -> None:
    verdict = judge(*counts(640, 640, 154, 160))
    assert verdict.images_needed is not None
    assert f"about {verdict.images_needed:,} validation images would tell" in verdict.reason
    dice = np.random.default_rng(0)
    drawn = dice.binomial(verdict.images_needed, 154 / 160, 300)
    told = [judge(*counts(640, 640, int(right), verdict.images_needed)).name for right in drawn]
    assert 0.7 < told.count("fit") / len(told) < 0.95  # the power that is meant is 80 %


@pytest.mark.parametrize(
    ("right", "images", "train"),
    [
        ((60, 12), (60, 12), 1.0),
        ((99, 19), (100, 20), 1.0),
        ((40, 40, 9), (40, 40, 10), 1.0),
        ((93, 9), (100, 10), 0.97),
    ],
)
def test_so_many_images_of_unequal_classes_would_tell(
    right: tuple[int, ...], images: tuple[int, ...], train: float
) -> None:
    trained = np.array(images) * 10
    learnt = np.round(trained * train)
    needed = judge(learnt, trained, right, images).images_needed
    assert needed is not None
    more = np.round(np.array(images) * needed / sum(images)).astype(int)
    drawn = np.random.default_rng(0).binomial(more, np.divide(right, images), (60, len(images)))
    told = [judge(learnt, trained, one, more).name for one in drawn]
    expected = "overfit" if train < 1 else "fit"
    assert told.count(expected) / len(told) > 0.65  # the power that is meant is 80 %; where all are right, it is 1


def test_a_class_that_one_part_lacks_does_not_count() -> None:
    shared = judge([30, 30], [50, 50], [30, 30], [50, 50])
    assert judge([30, 30, 500], [50, 50, 500], [30, 30, 0], [50, 50, 0]) == shared
    assert judge([30, 30, 0], [50, 50, 0], [30, 30, 50], [50, 50, 50]) == shared
    assert judge([5], [5], [5], [5]).reason == "one class has training and validation images; a verdict takes two"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (([3, 1], [2, 2], [1, 1], [2, 2]), "no more right images than images; given are train_right"),
        (([-1, 1], [2, 2], [1, 1], [2, 2]), "counts must be from 0 on"),
        (([1, 1], [2, 2], [0, 0], [0, 0]), "training and validation images; one of them has none"),
        (([], [], [], []), "one of them has none"),
        (([1], [2, 2], [1, 1], [2, 2]), "counts of the same classes; given are 1, 2, 2, 2 classes"),
        (([1, 1], [2, 2], [1, 1], [2, np.nan]), "validation_images must be a list with a whole number for each class"),
        (([1, 1], [2, np.inf], [1, 1], [2, 2]), "train_images must be a list with a whole number"),
        (([1.5, 1], [2, 2], [1, 1], [2, 2]), "train_right must be a list with a whole number"),
        (([1, 1], [2, 2], ["1", "1"], [2, 2]), "validation_right must be a list .* not \\['1', '1'\\]"),
        (([True, True], [2, 2], [1, 1], [2, 2]), "train_right must be a list"),
        ((1, 2, 1, 2), "train_right must be a list .* not 1"),
        ((None, None, None, None), "train_right must be a list .* not None"),
        (([1, 1], [2, 2], [1, 1], [2, 2], "yes"), "train_is_sample must be True or False, not 'yes'"),
    ],
)
def test_what_are_no_counts_of_images_is_refused(given: tuple[Any, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        judge(*given)


def test_columns_of_a_table_are_counts_whatever_their_index() -> None:
    given = [pd.Series(counts, index=[7, 7]) for counts in ([9, 9], [10, 10], [5, 5], [10, 10])]
    assert judge(*given) == judge([9, 9], [10, 10], [5, 5], [10, 10])


def test_counts_come_from_a_confusion_matrix() -> None:
    assert count_right(((3, 1), (2, 5))) == ([3, 5], [4, 7])


@pytest.mark.parametrize("setting", [(25, 5, True), (58, 2, False)])
def test_false_verdicts_are_rare(setting: tuple[int, int, bool], monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole table: python benchmarks/verdicts.py."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    benchmark = importlib.import_module("verdicts")
    rates = benchmark.measure(benchmark.Setting(*setting), 120)
    assert rates["false learnt"] <= 0.04
    assert rates["false not-learning"] <= 0.1
    assert rates["false overfit"] <= 0.07
    assert rates["false fit"] <= 0.1
    assert rates["found overfit"] >= 0.6


def test_the_accuracies_that_are_told_are_those_of_the_verdict() -> None:
    metrics = {"train/accuracy": 1.0, "val/accuracy": 0.625}
    assert describe_accuracies({}, metrics) == "train 100.0 %, val 62.5 %, gap +37.5"
    equal, unequal = Counts((9, 10), (10, 10), (8, 6), (10, 10)), Counts((40, 5), (40, 10), (18, 1), (20, 5))
    for counts, told in (
        (equal, "train 95.0 %, val 70.0 %, gap +25.0"),
        (unequal, "balanced train 75.0 %, val 55.0 %, gap +20.0"),
    ):
        assert describe_accuracies(counts._asdict(), metrics) == told
        assert f"a gap of {told.rpartition('gap ')[2]} points" in judge(*counts).reason
