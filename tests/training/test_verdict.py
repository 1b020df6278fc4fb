"""The verdicts, at and around their rules."""

from __future__ import annotations

import pytest

from cnnstudy.training.verdict import VERDICTS, judge

FIVE_CLASSES = [32] * 5


@pytest.mark.parametrize(
    ("train", "of", "validation", "expected"),
    [
        (0.2, 25, 0.2, "not-learning"),  # chance in both: no gap is no success
        (0.32, 25, 0.2625, "not-learning"),  # 8 of 25 and 42 of 160: guessing does that well once in twenty
        (0.32, 25, 0.32, "underfit"),  # 51 of 160 is above guessing
        (1.0, 25, 0.2, "overfit"),  # learnt by heart
        (1.0, 25, 0.72, "overfit"),
        (1.0, 25, 0.96, "fit"),  # 4 points are below the smallest gap that counts
        (0.95, 160, 0.86, "overfit"),
        (0.95, 160, 0.89, "fit"),  # 6 points, which chance gives once in thirty
        (0.96, 25, 0.89, "fit"),  # 7 points on 25 images are within chance
        (0.8, 160, 0.78, "underfit"),
        (0.9, 160, 0.9, "fit"),
        (0.7, 160, 0.9, "underfit"),  # a negative gap is no overfitting
    ],
)
def test_each_rule(train: float, of: int, validation: float, expected: str) -> None:
    verdict = judge(train, of, validation, FIVE_CLASSES)
    assert verdict.name == expected, verdict.reason
    assert expected in VERDICTS


def test_guessing_the_largest_class_is_no_learning() -> None:
    # a dead network on the flower photos: the share of dandelions
    flowers = [95, 135, 96, 105, 120]
    assert judge(135 / 551, 551, 135 / 551, flowers).name == "not-learning"
    assert judge(135 / 551, 551, 135 / 551, [110] * 5).name == "underfit"


def test_the_reason_has_the_numbers() -> None:
    assert judge(1.0, 25, 0.5, FIVE_CLASSES).reason == (
        "train 100.0 % of 25, validation 50.0 % of 160: a gap of +50.0 points, more than chance"
    )
