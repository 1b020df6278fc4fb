"""Fit the head of a `probe` to the outputs of frozen layers: a multinomial logistic regression, or a linear SVM.

How much it is regularised is chosen by cross-validation within the training images. The solution, on standardised
features, becomes the weights of the network's last layer, which takes the features as they are.

The SVM is scikit-learn's, one against the rest with the squared hinge loss. Its scores are no logits: they say which
class is best, not how sure that is. They are therefore multiplied by the one number with which the cross-entropy of the
held-out images of the same folds is least (temperature scaling, Guo et al. 2017), which changes no prediction.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from sklearn.svm import LinearSVC
from threadpoolctl import threadpool_limits

#: scikit-learn's C, the inverse of the penalty's weight, from the strongest regularisation on.
C_VALUES = tuple(float(10.0**power) for power in range(-4, 5))
#: Folds, where the smallest class has as many images (or groups).
FOLDS = 5
#: C where there are too few images to choose one.
DEFAULT_C = 1.0
#: More iterations do not change predictions noticeably, also where the classes can be separated.
_ITERATIONS, _TOLERANCE = 500, 1e-5
#: By how much the bias of a class without images is below all others; e^-30 is negligible.
_ABSENT_MARGIN = 30.0
#: The scale of an SVM's scores is sought between the exponentials of these.
_LOG_SCALES = (-5.0, 5.0)
#: Directions of the features with a share of the largest variance below this are left out; rounding makes them.
_LEAST_VARIANCE = 1e-12
#: A feature whose values differ by no more than this, relative to their mean, is constant: it is computed in float32.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class LinearHead:
    """The weights of a dense layer.

    Args:
        kernel: [features, classes] float32.
        bias: [classes] float32.
        c: scikit-learn's C, the inverse of the regularisation strength.
    """

    kernel: np.ndarray
    bias: np.ndarray
    c: float


def fit_head(
    features: np.ndarray,
    labels: np.ndarray,
    classes: int,
    seed: int,
    groups: np.ndarray | None = None,
    weights: np.ndarray | None = None,
    classifier: str = "logistic",
) -> LinearHead:
    """Fit the head; the largest penalty is taken among those that are equally good.

    Args:
        features: [n, features] float.
        labels: [n] int64 in 0..classes-1; each class has images.
        seed: of the division into folds.
        groups: [n] int64; images of one group are in the same fold. None: there are no groups.
        weights: [classes], by which the losses of their images are multiplied; None: all count the same.
        classifier: "logistic" or "svm".
    """
    features = np.asarray(features, np.float64)
    means, deviations = features.mean(axis=0), features.std(axis=0)
    deviations[deviations <= _ROUNDING * np.abs(means)] = np.inf  # such a feature says nothing
    standardised = (features - means) / deviations
    counted = None if weights is None else np.asarray(weights, np.float64)[labels]
    # the matrices are small: threads would wait for each other, and sums would depend on their number
    with threadpool_limits(1):
        directions = _find_directions(standardised)
        reduced = standardised if directions is None else standardised @ directions
        c, scale = _choose_c(reduced, labels, classes, seed, groups, counted, classifier)
        kernel, bias = (scale * part for part in _fit(reduced, labels, classes, c, counted, classifier))
    kernel = (kernel if directions is None else directions @ kernel) / deviations[:, None]
    return LinearHead(kernel.astype(np.float32), (bias - means @ kernel).astype(np.float32), c)


def _find_directions(features: np.ndarray) -> np.ndarray | None:
    """Return orthonormal directions [features, at most n] that all images lie in; None if there are not fewer of them.

    The solution lies in them, too, since whatever is orthogonal to all images would only add to its penalty. Among them
    it is as long and gives the same logits, so it can be found there, at the cost of n features instead of many.
    """
    images, count = features.shape
    if count <= images:
        return None
    variances, vectors = np.linalg.eigh(features @ features.T)
    kept = variances > _LEAST_VARIANCE * variances[-1]
    return np.asarray(features.T @ (vectors[:, kept] / np.sqrt(variances[kept])))


def _choose_c(
    features: np.ndarray,
    labels: np.ndarray,
    classes: int,
    seed: int,
    groups: np.ndarray | None,
    counted: np.ndarray | None,
    classifier: str = "logistic",
) -> tuple[float, float]:
    """Return the C with the lowest cross-entropy on the held-out folds, and the factor for the logits.

    The factor is 1 for a logistic regression.

    Args:
        counted: [n], the weight of each image in the loss; None: 1.
    """
    units = labels if groups is None else [label for label, _ in {*zip(labels.tolist(), groups.tolist(), strict=True)}]
    folds = min(FOLDS, int(np.bincount(units, minlength=classes).min()))
    if folds < 2:
        return DEFAULT_C, 1.0
    kind = StratifiedKFold if groups is None else StratifiedGroupKFold
    divisions = list(kind(folds, shuffle=True, random_state=seed % 2**32).split(features, labels, groups))
    losses, scales = [], []
    for c in C_VALUES:
        logits = np.empty((len(labels), classes))
        for fitted, held_out in divisions:
            part = None if counted is None else counted[fitted]
            kernel, bias = _fit(features[fitted], labels[fitted], classes, c, part, classifier)
            logits[held_out] = features[held_out] @ kernel + bias
        scales.append(_find_scale(logits, labels, counted) if classifier == "svm" else 1.0)
        losses.append(float(np.average(_losses(scales[-1] * logits, labels), weights=counted)))
    best = int(np.argmin(losses))
    return C_VALUES[best], scales[best]


def _find_scale(scores: np.ndarray, labels: np.ndarray, counted: np.ndarray | None) -> float:
    """Return the number that makes logits of an SVM's scores: with it, their cross-entropy is least.

    As in Platt 1999, each class counts as if one image more had been it, so that the number is finite where all images
    are right.
    """
    images, classes = scores.shape
    # of the class that an image has, and of one more of each
    wanted = (images * scores[np.arange(images), labels] + scores.sum(axis=1)) / (images + classes)

    def loss(log_scale: float) -> float:
        scale = math.exp(log_scale)
        return float(np.average(logsumexp(scale * scores, axis=1) - scale * wanted, weights=counted))

    return math.exp(minimize_scalar(loss, bounds=_LOG_SCALES, method="bounded").x)


def _losses(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the cross-entropy [n] of each image."""
    return np.asarray(logsumexp(logits, axis=1) - logits[np.arange(len(labels)), labels])


def _fit(
    features: np.ndarray,
    labels: np.ndarray,
    classes: int,
    c: float,
    counted: np.ndarray | None,
    classifier: str = "logistic",
) -> tuple[np.ndarray, np.ndarray]:
    """Return kernel [features, classes] and bias [classes]; that of a class without images is far below the others."""
    kernel, bias = np.zeros((features.shape[1], classes)), np.zeros(classes)
    present = np.unique(labels)
    absent = np.setdiff1d(np.arange(classes), present)
    if len(present) > 1:
        if classifier == "svm":
            model = LinearSVC(C=c, dual=False, max_iter=_ITERATIONS)
        else:
            model = LogisticRegression(C=c, max_iter=_ITERATIONS, tol=_TOLERANCE)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(features, labels, sample_weight=counted)
        two = len(present) == 2  # then there is one row, for the second class
        kernel[:, present[1:] if two else present] = model.coef_.T
        bias[present[1:] if two else present] = model.intercept_
    bias[absent] = bias.min() - _ABSENT_MARGIN
    return kernel, bias
