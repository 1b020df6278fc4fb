"""How finely an outcome is measured: an accuracy on n images moves in steps of 1 / n.

Seeds whose differences agree to the last digit do not have a variance of 0; they agree because the outcome is coarse,
or because it has reached its limit. The variance of measuring takes the place of theirs (intervals.compare_seeds).
"""

from __future__ import annotations

import math

import numpy as np

from cnnstudy.analysis.intervals import Resolution

#: The most images of which accuracies are recognised as multiples of 1 / n.
_MOST_IMAGES = 2000
#: How far, as a share of a step, a recorded accuracy may be from its exact value (float32 has 7 digits).
_TOLERANCE = 2e-4
#: Accuracies this close to 0 or 1 are near their limit.
NEAR_LIMIT = 0.1
#: The number of images that is taken where it is unknown, so that the log odds of 0 and 1 are finite.
_ASSUMED_IMAGES = 1000
#: Parts of the names of outcomes that are shares, or differences of two.
_SHARES = ("accuracy", "acc", "learnt", "gap", "f1", "recall", "precision")


def is_share(name: str, values: np.ndarray) -> bool:
    """Return whether an outcome is a share of 0..1, or a difference of two, judged by its name and its values.

    Args:
        name: as in a table, such as `val_accuracy` or `epochs/gap_accuracy`.
        values: [trials], NaN where a trial has none.
    """
    named = any(part in name.lower() for part in _SHARES) and "loss" not in name.lower()
    finite = values[np.isfinite(values)]
    return named and bool(len(finite)) and bool((np.abs(finite) <= 1).all())


def find_images(values: np.ndarray) -> int | None:
    """Return the smallest n of which all values are multiples of 1 / n; None if there is none up to 2000."""
    distinct = np.unique(values[np.isfinite(values)])
    if len(distinct) == 0 or len(distinct) > _MOST_IMAGES:
        return None
    counts = np.arange(1, _MOST_IMAGES + 1)
    for part in (distinct[:5], distinct):  # a few values rule out most numbers
        steps = part[:, None] * counts
        counts = counts[np.abs(steps - np.round(steps)).max(axis=0) < _TOLERANCE]
    return int(counts[0]) if len(counts) else None


def find_resolution(name: str, values: np.ndarray, images: int | None = None) -> Resolution:
    """Return the resolution of an outcome; that of a continuous one of unknown origin is unknown.

    A step h adds h^2 / 12 (Sheppard 1898). An accuracy of n images has the binomial variance q (1 - q) / n, where q is
    the mean over the trials, shrunk by one right and one wrong answer, so that it is not 0 at the limit. A gap is
    treated as if the training part were all right: then it has the variance of validation alone, with q = 1 - gap.

    Args:
        name: the outcome.
        values: [trials], NaN where a trial has none.
        images: the number of images on which it is measured; None: found from the values.
    """
    if not is_share(name, values):
        return Resolution(0.0, math.nan)
    images = images or find_images(values)
    if images is None:
        return Resolution(0.0, math.nan)
    mean = abs(float(np.nanmean(values)))
    q = (mean * images + 1) / (images + 2)
    rounding = 1 / images**2 / 12
    return Resolution(rounding, rounding + q * (1 - q) / images)


def possible_difference(name: str, values: np.ndarray, interaction: bool) -> float:
    """Return the largest possible size of an effect on the outcome: 1 (an interaction: 2) for shares, else infinity."""
    return (2.0 if interaction else 1.0) if is_share(name, values) else math.inf


def log_odds(values: np.ndarray, images: int | None = None) -> np.ndarray:
    """Return the empirical logits of accuracies: log((k + 1/2) / (n - k + 1/2)) for k right of n images (Haldane 1956).

    Args:
        values: [trials] in 0..1, NaN where a trial has none.
        images: on which they are measured; None: found from the values, else 1000.
    """
    images = images or find_images(values) or _ASSUMED_IMAGES
    odds: np.ndarray = np.log((values * images + 0.5) / ((1 - values) * images + 0.5))
    return odds
