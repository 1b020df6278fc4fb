"""Fit the head of a `probe`: a multinomial logistic regression on the pooled outputs of the frozen backbone.

How much it is regularised is chosen by cross-validation within the training images. The solution, on standardised
features, becomes the weights of the network's last layer, which takes the features as they are.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from threadpoolctl import threadpool_limits

#: scikit-learn's C, the inverse of the penalty's weight, from the strongest regularisation on.
STRENGTHS = tuple(float(10.0**power) for power in range(-4, 5))
#: Folds, where the smallest class has as many images (or groups).
FOLDS = 5
#: C where there are too few images to choose one.
DEFAULT = 1.0
#: More iterations do not change predictions noticeably, also where the classes can be separated.
_ITERATIONS, _TOLERANCE = 500, 1e-5
_LEAST = 1e-12  # probability, so that a loss is finite


@dataclass(frozen=True)
class LinearHead:
    """The weights of a dense layer.

    Args:
        kernel: [features, classes] float32.
        bias: [classes] float32.
        strength: the C that was chosen.
    """

    kernel: np.ndarray
    bias: np.ndarray
    strength: float


def fit_head(
    features: np.ndarray,
    labels: np.ndarray,
    classes: int,
    seed: int,
    groups: np.ndarray | None = None,
    weights: np.ndarray | None = None,
) -> LinearHead:
    """Fit the head; the largest penalty is taken among those that are equally good.

    Args:
        features: [n, features] float.
        labels: [n] int64 in 0..classes; each class has images.
        seed: of the division into folds.
        groups: [n] int64; images of one group are in the same fold. None: there are no groups.
        weights: [classes], by which the losses of their images are multiplied; None: all count the same.
    """
    features = np.asarray(features, np.float64)
    means, deviations = features.mean(axis=0), features.std(axis=0)
    deviations[deviations == 0] = 1.0
    standardised = (features - means) / deviations
    counted = None if weights is None else np.asarray(weights, np.float64)[labels]
    # the matrices are small: threads would wait for each other, and sums would depend on their number
    with threadpool_limits(1):
        strength = choose_strength(standardised, labels, classes, seed, groups, counted)
        kernel, bias = _fit(standardised, labels, classes, strength, counted)
    kernel /= deviations[:, None]
    return LinearHead(kernel.astype(np.float32), (bias - means @ kernel).astype(np.float32), strength)


def choose_strength(
    features: np.ndarray,
    labels: np.ndarray,
    classes: int,
    seed: int,
    groups: np.ndarray | None,
    counted: np.ndarray | None,
) -> float:
    """Return the C of STRENGTHS with the lowest cross-entropy of images in folds that were left out.

    Args:
        counted: [n], the weight of each image in the loss; None: 1.
    """
    units = labels if groups is None else [label for label, _ in {*zip(labels.tolist(), groups.tolist(), strict=True)}]
    folds = min(FOLDS, int(np.bincount(units, minlength=classes).min()))
    if folds < 2:
        return DEFAULT
    kind = StratifiedKFold if groups is None else StratifiedGroupKFold
    divisions = list(kind(folds, shuffle=True, random_state=seed % 2**32).split(features, labels, groups))
    losses = []
    for strength in STRENGTHS:
        found = np.empty(len(labels))
        for fitted, held_out in divisions:
            part = None if counted is None else counted[fitted]
            kernel, bias = _fit(features[fitted], labels[fitted], classes, strength, part)
            found[held_out] = _losses(features[held_out] @ kernel + bias, labels[held_out])
        losses.append(float(np.average(found, weights=counted)))
    return STRENGTHS[int(np.argmin(losses))]


def _losses(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the cross-entropy [n] of each image."""
    logits = logits - logits.max(axis=1, keepdims=True)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return -np.log(np.maximum(probabilities[np.arange(len(labels)), labels], _LEAST))


def _fit(
    features: np.ndarray, labels: np.ndarray, classes: int, strength: float, counted: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return kernel [features, classes] and bias [classes]; a class without images has the lowest logit."""
    kernel, bias = np.zeros((features.shape[1], classes)), np.zeros(classes)
    present = np.unique(labels)
    absent = np.setdiff1d(np.arange(classes), present)
    if len(present) > 1:
        model = LogisticRegression(C=strength, max_iter=_ITERATIONS, tol=_TOLERANCE)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(features, labels, sample_weight=counted)
        two = len(present) == 2  # then there is one row, for the second class
        kernel[:, present[1:] if two else present] = model.coef_.T
        bias[present[1:] if two else present] = model.intercept_
    bias[absent] = bias.min() - 30.0
    return kernel, bias
