"""Validation metrics of the best epoch that are not flattered by its choice: cross-fitting over halves.

The accuracy of the best of many epochs, measured on the images by which it was chosen, is too high: each epoch's luck
counts as merit. Here the epoch is chosen on one half of the validation images and measured on the other, and the other
way round. The mean over both, and over several divisions into halves, is free of that luck (Stone 1974,
"Cross-Validatory Choice and Assessment of Statistical Predictions"; sample splitting as in Chernozhukov et al. 2018,
"Double/Debiased Machine Learning", with the mean over repeated splits). It measures the choice by half of the images,
which is at most as good as that by all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from cnnstudy.names import Metric
from cnnstudy.records import Rule

#: The number of divisions into halves; more change the mean by less than a tenth of an image.
HALVINGS = 20
#: Shares and losses that differ by less are equal up to rounding.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class CrossFitted:
    """The best epoch by cross-fitting: for each image, the share of the choices after which it is right.

    Of a validation image [images] the choices are those made without it, of one of the probe [images of the probe] all.
    `train_labels` and `labels` are the classes of these images.
    """

    train_right: np.ndarray
    train_labels: np.ndarray
    right: np.ndarray
    labels: np.ndarray

    @property
    def metrics(self) -> dict[str, float]:
        """Accuracies on probe and validation, and their gaps, as shares of 0..1 by their per-epoch names."""
        train, validation = float(self.train_right.mean()), float(self.right.mean())
        recalls = _mean_recall(self.train_right, self.train_labels), _mean_recall(self.right, self.labels)
        return {
            Metric.TRAIN_ACCURACY: train,
            Metric.VAL_ACCURACY: validation,
            Metric.GAP_ACCURACY: train - validation,
            Metric.TRAIN_BALANCED_ACCURACY: recalls[0],
            Metric.VAL_BALANCED_ACCURACY: recalls[1],
            Metric.GAP_BALANCED_ACCURACY: recalls[0] - recalls[1],
        }

    def count_right(self, classes: int) -> list[int]:
        """Return how many validation images of each class are right, rounded: each in a share of the choices."""
        return [round(float(self.right[self.labels == label].sum())) for label in range(classes)]


def _mean_recall(right: np.ndarray, labels: np.ndarray) -> float:
    return float(np.mean([right[labels == label].mean() for label in np.unique(labels)]))


def cross_fit(
    train: np.ndarray,
    train_labels: np.ndarray,
    validation: np.ndarray,
    labels: np.ndarray,
    rule: Rule,
    losses: np.ndarray | None = None,
    groups: np.ndarray | None = None,
) -> CrossFitted | None:
    """Choose the best epoch on halves of the validation images, and measure it on the other halves.

    Args:
        train: [epochs, images of the probe] bool, whether each image was classified correctly after each epoch.
        train_labels: [images of the probe] int, their classes.
        validation: [epochs, images] bool, the same for validation.
        labels: [images] int, the classes of the validation images; each half has every class in equal shares.
        rule: which epoch is best, with the limits that the choice keeps.
        losses: [epochs, images] of the validation images, nats; needed if the rule is by validation loss. Without
            them ties are decided for the earlier epoch.
        groups: [images] int, the groups of the validation images, each of which is in one half.

    Returns:
        None if there are fewer than two validation images or groups of them, the rule is by macro-F1 (which takes the
        predicted classes; of each epoch it is only recorded whether they are right), or it is by validation loss and
        there are no losses.
    """
    is_by_loss = losses is None and not rule.maximize
    if validation.shape[1] < 2 or rule.metric == Metric.VAL_MACRO_F1 or is_by_loss:
        return None
    if groups is not None and len(np.unique(groups)) < 2:
        return None
    halves = stratified_halves(labels, HALVINGS) if groups is None else grouped_halves(labels, groups, HALVINGS)
    choosing = np.concatenate([halves, ~halves])  # [choices, images]
    chosen_by = choosing / choosing.sum(axis=1, keepdims=True)
    loss = np.zeros((len(choosing), len(validation))) if losses is None else chosen_by @ losses.T
    train_accuracy = train.mean(axis=1)  # [epochs]
    accuracy = chosen_by @ validation.T
    is_balanced = rule.metric == Metric.VAL_BALANCED_ACCURACY
    score = _balance(choosing, labels) @ validation.T if is_balanced else accuracy
    epochs = _choose(rule, train_accuracy, accuracy, score if rule.maximize else -loss, loss)
    right = (~choosing * validation[epochs]).sum(axis=0) / HALVINGS
    return CrossFitted(train[epochs].mean(axis=0), train_labels, right, labels)


def _balance(choosing: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the weights of images that make an accuracy balanced: the classes of each choice are equal.

    Args:
        choosing: [choices, images] bool, the images chosen by.
    """
    classes = np.eye(int(labels.max()) + 1)[labels]  # [images, classes]
    of_class = choosing @ classes  # [choices, classes]
    shares = np.divide(1.0, of_class, out=np.zeros_like(of_class), where=of_class > 0)
    balanced: np.ndarray = choosing * (shares @ classes.T)
    return balanced / balanced.sum(axis=1, keepdims=True)


def _choose(rule: Rule, train: np.ndarray, accuracy: np.ndarray, score: np.ndarray, loss: np.ndarray) -> np.ndarray:
    """Return the index of the best epoch in each row, [choices]: within the limits, by score, then loss, as Rule.rank.

    Args:
        train: accuracy on the probe, [epochs].
        accuracy: on the images chosen by, [choices, epochs]; `score` and `loss` are alike.
    """
    metrics: dict[str, Any] = {Metric.VAL_ACCURACY: accuracy, Metric.GAP_ACCURACY: train - accuracy}
    excess = sum((np.maximum(by, 0.0) for by in rule.beyond(metrics).values()), start=np.zeros(accuracy.shape))
    best = np.ones(accuracy.shape, dtype=bool)
    for cost in (excess, -score, loss):
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


def grouped_halves(labels: np.ndarray, groups: np.ndarray, count: int) -> np.ndarray:
    """Return divisions into halves, [count, images] bool, that keep groups whole; the same for the same images.

    In a random order, but the largest first, each group goes to the half in which its classes have fewer images.
    """
    rng = np.random.default_rng(0)
    _, group_of, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    of_class = np.zeros((len(sizes), int(labels.max()) + 1))  # images of each group and class
    np.add.at(of_class, (group_of, labels), 1)
    halves = np.empty((count, len(labels)), dtype=bool)
    for half in halves:
        shuffled = rng.permutation(len(sizes))
        side = np.empty(len(sizes))
        ahead = np.zeros(of_class.shape[1])  # of each class, images in the one half minus those in the other
        for group in shuffled[np.argsort(-sizes[shuffled], kind="stable")]:
            lead = float(of_class[group] @ ahead)
            side[group] = -np.sign(lead) or rng.choice((-1, 1))
            ahead += side[group] * of_class[group]
        half[:] = (side > 0)[group_of]
        if len(np.unique(side)) < 2:  # groups that share no class may all be in one half by chance
            half ^= group_of == shuffled[0]
    return halves
