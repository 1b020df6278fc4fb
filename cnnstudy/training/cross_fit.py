"""Validation metrics of the best epoch that are not flattered by its choice: cross-fitting over halves.

The accuracy of the best of many epochs, measured on the images by which it was chosen, is too high: each epoch's luck
counts as merit. Here the epoch is chosen on one half of the validation images and measured on the other, and the other
way round. The mean over both, and over several divisions into halves, is free of that luck (Stone 1974,
"Cross-Validatory Choice and Assessment of Statistical Predictions"; sample splitting as in Chernozhukov et al. 2018,
"Double/Debiased Machine Learning", with the mean over repeated splits). It measures the choice by half of the images,
which is at most as good as that by all.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cnnstudy.names import Metric
from cnnstudy.records import Rule

#: The number of divisions into halves; more change the mean by less than a tenth of an image.
HALVINGS = 20
#: Shares and losses that differ by less are equal up to rounding.
_ROUNDING = 1e-12


def cross_fitted_metrics(
    train: np.ndarray, validation: np.ndarray, labels: np.ndarray, rule: Rule, losses: np.ndarray | None = None
) -> dict[str, float]:
    """Return the accuracy on probe and validation, and their gap, of the best epoch by cross-fitting.

    Args:
        train: [epochs, images of the probe] bool, whether each image was classified correctly after each epoch.
        validation: [epochs, images] bool, the same for validation.
        labels: [images] int, the classes of the validation images; each half has every class in equal shares.
        rule: which epoch is best, with the limits that the choice keeps.
        losses: [epochs, images] of the validation images, nats; needed if the rule is by validation loss. Without
            them ties are decided for the earlier epoch.

    Returns:
        Shares of 0..1 by their per-epoch names; {} if there are fewer than two validation images, or the rule is by
        validation loss and there are no losses.
    """
    if validation.shape[1] < 2 or (losses is None and not rule.maximize):
        return {}
    halves = stratified_halves(labels, HALVINGS)
    chosen_by = np.concatenate([halves, ~halves]).astype(float)  # [choices, images]
    chosen_by /= chosen_by.sum(axis=1, keepdims=True)
    measured_on = np.roll(chosen_by, HALVINGS, axis=0)  # the other half of each
    loss = np.zeros((len(chosen_by), len(validation))) if losses is None else chosen_by @ losses.T
    train_accuracy = train.mean(axis=1)  # [epochs]
    epochs = _choose(rule, train_accuracy, chosen_by @ validation.T, loss)
    crossed_train = float(train_accuracy[epochs].mean())
    crossed_validation = float((measured_on * validation[epochs]).sum(axis=1).mean())
    return {
        Metric.TRAIN_ACCURACY: crossed_train,
        Metric.VAL_ACCURACY: crossed_validation,
        Metric.GAP_ACCURACY: crossed_train - crossed_validation,
    }


def _choose(rule: Rule, train: np.ndarray, accuracy: np.ndarray, loss: np.ndarray) -> np.ndarray:
    """Return the index of the best epoch for each row of accuracy and loss, [choices, epochs], ranked as by Rule.rank.

    `train` is the accuracy on the probe, [epochs].
    """
    metrics: dict[str, Any] = {Metric.VAL_ACCURACY: accuracy, Metric.GAP_ACCURACY: train - accuracy}
    excess = sum((np.maximum(by, 0.0) for by in rule.beyond(metrics).values()), start=np.zeros(accuracy.shape))
    costs = (excess, -accuracy if rule.maximize else loss, loss)
    best = np.ones(accuracy.shape, dtype=bool)
    for cost in costs:
        own = np.where(best, cost, np.inf)
        best &= own <= own.min(axis=1, keepdims=True) + _ROUNDING
    return best.argmax(axis=1)  # the first of equal ones


def stratified_halves(labels: np.ndarray, count: int) -> np.ndarray:
    """Return divisions into halves, [count, images] bool, the same for the same labels.

    Of each class each half has half of the images; the odd ones alternate between the halves, so that these differ by
    one image at most.
    """
    rng = np.random.default_rng(0)
    halves = np.empty((count, len(labels)), dtype=bool)
    for half in halves:
        shuffled = rng.permutation(len(labels))
        by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
        half[by_class] = np.arange(len(labels)) % 2 == rng.integers(2)
    return halves
