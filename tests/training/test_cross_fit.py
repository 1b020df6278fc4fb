"""Metrics of the best epoch by cross-fitting."""

from __future__ import annotations

import numpy as np
import pytest

from cnnstudy.names import Metric
from cnnstudy.records import Rule
from cnnstudy.training.cross_fit import HALVINGS, cross_fit, stratified_halves

RULE = Rule(Metric.VAL_ACCURACY)
LABELS = np.arange(40) % 4


def cross_fitted_metrics(
    probe: np.ndarray, right: np.ndarray, labels: np.ndarray, rule: Rule, losses: np.ndarray | None = None
) -> dict[str, float]:
    found = cross_fit(probe, np.arange(probe.shape[1]) % 2, right, labels, rule, losses)
    return {} if found is None else found.metrics


def test_halves_have_every_class_in_equal_shares_and_are_the_same_each_time() -> None:
    labels = np.repeat([0, 1, 2], [5, 8, 7])
    halves = stratified_halves(labels, 6)
    assert (halves == stratified_halves(labels, 6)).all()
    assert len(np.unique(halves, axis=0)) == 6
    for half in halves:
        assert half.sum() == 10
        for label, count in enumerate((5, 8, 7)):
            assert half[labels == label].sum() in (count // 2, (count + 1) // 2)


def test_one_epoch_is_what_it_is() -> None:
    right = np.arange(40)[None] < 30
    probe = np.ones((1, 12), dtype=bool)
    assert cross_fitted_metrics(probe, right, LABELS, RULE) == pytest.approx(
        {
            Metric.TRAIN_ACCURACY: 1.0,
            Metric.VAL_ACCURACY: 0.75,
            Metric.GAP_ACCURACY: 0.25,
            Metric.TRAIN_BALANCED_ACCURACY: 1.0,
            Metric.VAL_BALANCED_ACCURACY: 0.75,
            Metric.GAP_BALANCED_ACCURACY: 0.25,
        }
    )


def test_an_epoch_that_is_clearly_best_is_chosen_by_both_halves() -> None:
    right, probe = np.zeros((3, 40), dtype=bool), np.zeros((3, 10), dtype=bool)
    right[1, :36], probe[1] = True, True
    found = cross_fitted_metrics(probe, right, LABELS, RULE)
    assert (found[Metric.VAL_ACCURACY], found[Metric.TRAIN_ACCURACY]) == (pytest.approx(0.9), 1.0)


def test_luck_is_not_merit() -> None:
    """Of epochs that are all right on 60 % of images, the best by chance has more, its cross-fitted accuracy not."""
    rng = np.random.default_rng(0)
    crossed, flattered = [], []
    for _ in range(200):
        right = rng.random((12, 40)) < 0.6
        crossed.append(cross_fitted_metrics(right[:, :10], right, LABELS, RULE)[Metric.VAL_ACCURACY])
        flattered.append(right.mean(axis=1).max())
    assert np.mean(crossed) == pytest.approx(0.6, abs=0.015)
    assert np.mean(flattered) > 0.7


def test_the_choice_is_that_of_the_rule() -> None:
    right, probe = np.zeros((3, 40), dtype=bool), np.zeros((3, 40), dtype=bool)
    right[0, :20], right[1, :32], right[2, :36] = True, True, True
    probe[0, :20], probe[1, :34], probe[2] = True, True, True
    # the halves differ by luck of the images, so the choice is asked of images that are all alike
    alike = right[:, np.argsort(np.random.default_rng(1).permutation(40))]
    gap = cross_fitted_metrics(probe, alike, np.zeros(40, dtype=int), Rule(Metric.VAL_ACCURACY, maximum_gap=-0.5))
    assert gap[Metric.VAL_ACCURACY] < cross_fitted_metrics(probe, alike, np.zeros(40, dtype=int), RULE)["val/accuracy"]


def test_by_loss_each_half_chooses_by_its_own_losses() -> None:
    right, probe = np.zeros((2, 40), dtype=bool), np.ones((2, 10), dtype=bool)
    right[0] = True
    losses = np.ones((2, 40))
    losses[1] = 0.5
    rule = Rule(Metric.VAL_LOSS)
    assert cross_fitted_metrics(probe, right, LABELS, rule, losses)[Metric.VAL_ACCURACY] == 0.0
    assert cross_fitted_metrics(probe, right, LABELS, rule, -losses)[Metric.VAL_ACCURACY] == 1.0
    assert cross_fitted_metrics(probe, right, LABELS, rule) == {}


def test_of_equal_epochs_the_first() -> None:
    right = np.ones((3, 40), dtype=bool)
    probe = np.zeros((3, 10), dtype=bool)
    probe[0] = True
    assert cross_fitted_metrics(probe, right, LABELS, RULE)[Metric.TRAIN_ACCURACY] == 1.0


def test_one_image_has_no_halves() -> None:
    assert cross_fitted_metrics(np.ones((2, 3), bool), np.ones((2, 1), bool), np.zeros(1, int), RULE) == {}
    assert HALVINGS > 1


def test_by_balanced_accuracy_a_small_class_counts_as_much_as_a_large_one() -> None:
    labels = np.repeat([0, 1], [36, 4])
    right, probe = np.zeros((2, 40), dtype=bool), np.ones((2, 10), dtype=bool)
    right[0, :36] = True  # 90 %, balanced 50 %
    right[1, :24], right[1, 36:] = True, True  # 70 %, balanced 83 %
    probe[1, 9] = False  # 90 %, balanced 75 %
    assert cross_fitted_metrics(probe, right, labels, RULE)[Metric.VAL_ACCURACY] == pytest.approx(0.9)
    balanced = cross_fit(probe, np.repeat([0, 1], [8, 2]), right, labels, Rule(Metric.VAL_BALANCED_ACCURACY))
    assert balanced is not None
    assert balanced.metrics[Metric.VAL_ACCURACY] == pytest.approx(0.7)
    assert balanced.metrics[Metric.VAL_BALANCED_ACCURACY] == pytest.approx((24 / 36 + 1) / 2)
    assert balanced.metrics[Metric.TRAIN_ACCURACY] == pytest.approx(0.9)
    assert balanced.metrics[Metric.TRAIN_BALANCED_ACCURACY] == pytest.approx(0.75)
    assert balanced.metrics[Metric.GAP_BALANCED_ACCURACY] == pytest.approx(0.75 - (24 / 36 + 1) / 2)
    assert balanced.count_right(2) == [24, 4]


def test_by_macro_f1_there_is_none() -> None:
    right = np.ones((2, 40), dtype=bool)
    assert cross_fitted_metrics(right, right, LABELS, Rule(Metric.VAL_MACRO_F1)) == {}
