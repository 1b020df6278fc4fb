"""Metrics of the network at one moment."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score

from cnnstudy.training.metrics import clean_metrics


@pytest.mark.parametrize("seed", range(5))
def test_balanced_accuracy_and_macro_f1_are_those_of_scikit_learn(seed: int) -> None:
    dice = np.random.default_rng(seed)
    labels = dice.choice(5, size=60, p=[0.6, 0.2, 0.1, 0.07, 0.03])
    logits = dice.normal(size=(60, 5)) + 2 * np.eye(5)[labels]
    found, predicted = clean_metrics(logits, labels), logits.argmax(axis=1)
    assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, predicted))
    assert found["macro_f1"] == pytest.approx(f1_score(labels, predicted, average="macro"))


def test_a_class_without_images_does_not_count_unless_it_is_predicted() -> None:
    labels, predicted = np.array([0, 0, 1, 1]), np.array([0, 0, 1, 2])
    found = clean_metrics(np.eye(4)[predicted], labels)
    assert found["balanced_accuracy"] == pytest.approx((1 + 1 / 2) / 2)
    assert found["macro_f1"] == pytest.approx((1 + 2 / 3 + 0) / 3)


def test_guessing_the_largest_class_has_a_high_accuracy_and_a_balanced_one_at_chance() -> None:
    found = clean_metrics(np.eye(2)[np.zeros(100, int)], np.array([0] * 95 + [1] * 5))
    assert (found["accuracy"], found["balanced_accuracy"]) == (0.95, 0.5)
