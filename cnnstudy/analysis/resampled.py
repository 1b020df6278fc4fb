"""Means over seeds that divide one pool of images anew: intervals and tests.

The seeds' training and validation images overlap, so that their spread understates how much the mean would differ on
other images. The corrected resampled t-test (Nadeau and Bengio 2003, "Inference for the Generalization Error", Machine
Learning 52) replaces 1 / J in the variance of the mean over J seeds by 1 / J + n_validation / n_train.

An accuracy is a share of images: its variance is never below that of independent draws of the distinct images that it
was measured on, however equal the seeds are, and its interval lies within 0 and 1 (Wilson's, 1927, for the number of
images that has this variance, with Student's quantile).

Few seeds know their own spread badly, but many images know theirs well. Where it is recorded which images each seed got
right, the part of the variance that images explain has as many degrees of freedom as there are images (Satterthwaite
1946, "An Approximate Distribution of Estimates of Variance Components", Biometrics Bulletin 2).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from cnnstudy.analysis.intervals import LEVEL, MIN_SEEDS, Estimate
from cnnstudy.names import Parameter
from cnnstudy.tracking.recorded import RecordedRun


@dataclass(frozen=True)
class Division:
    """How each seed divides the images.

    `train` and `validation` are numbers of images. Where all seeds share one division, `redrawn` is False.
    """

    train: int
    validation: int
    redrawn: bool = True

    @property
    def overlap(self) -> float:
        """What is added to 1 / J in the variance of a mean over J seeds."""
        return self.validation / self.train if self.redrawn else 0.0

    def distinct_images(self, seeds: int) -> float:
        """Return the expected number of distinct validation images of that many seeds."""
        pool = self.train + self.validation
        return pool * (1 - (1 - self.validation / pool) ** seeds) if self.redrawn else float(self.validation)


@dataclass(frozen=True)
class ImageVariance:
    """The part of the variance of a mean accuracy over seeds that the draw of the images explains.

    `images` is the number of distinct images that it was estimated from.
    """

    variance: float
    images: int


def measure_images(right: Sequence[tuple[np.ndarray, np.ndarray]]) -> ImageVariance:
    """Return what images explain of the variance of the mean over seeds: the variance of a sum over clusters.

    Each image is a cluster: its deviations from the mean in all seeds that measured it belong together (Liang and Zeger
    1986, "Longitudinal Data Analysis Using Generalized Linear Models", Biometrika 73).

    Args:
        right: of each seed its images, [images] int, and how right each is, [images] 0..1.
    """
    mean = np.mean([shares.mean() for _, shares in right])
    distinct, cluster = np.unique(np.concatenate([places for places, _ in right]), return_inverse=True)
    parts = np.concatenate([(shares - mean) / len(shares) / len(right) for _, shares in right])
    return ImageVariance(float((np.bincount(cluster, parts) ** 2).sum()), len(distinct))


def read_division(runs: Iterable[RecordedRun]) -> Division | None:
    """Return how trials divided the images, from the first that recorded it; None if none did.

    Numbers of images are those at a data_fraction of 1, the pool that the seeds divide.
    """
    for run in runs:
        numbers = [run.parameters.get(name, "") for name in (Parameter.TRAIN_IMAGES, Parameter.VALIDATION_IMAGES)]
        if all(number.isdecimal() and int(number) > 0 for number in numbers):
            block = run.parameters.get(Parameter.BLOCK, "None")
            return Division(int(numbers[0]), int(numbers[1]), redrawn=block != "None")
    return None


def estimate_resampled_mean(
    values: Sequence[float],
    division: Division | None = None,
    is_share: bool = True,
    level_below: float = LEVEL,
    level_above: float = LEVEL,
    images: ImageVariance | None = None,
) -> Estimate | None:
    """Return the mean over the seeds with its 95 % interval; None if there are no values.

    There is no interval with one seed, nor if the values are equal and the division is not known.

    Args:
        values: of each seed.
        division: None: not known, as in records of older versions; the seeds then count as independent.
        is_share: whether values are accuracies, 0..1; else they are losses or differences.
        level_below, level_above: twice the probability that the truth is beyond the lower and the upper end.
        images: what images explain of an accuracy whose seeds divide one pool anew; None: not known, and the whole
            variance is known as badly as the number of seeds allows.
    """
    from scipy import stats

    if not len(values):
        return None
    mean, count = float(np.mean(values)), len(values)
    size = effective_images(values, division) if is_share else math.nan
    error = _standard_error(values, division)
    if count < 2 or (is_share and not math.isfinite(size)) or (not is_share and error == 0):
        return Estimate(mean, count=count)
    known = images if is_share and division is not None and division.redrawn else None
    freedom = _degrees_of_freedom(mean * (1 - mean) / size if is_share else error**2, count, known)
    quantiles = [float(stats.t.ppf(1 - level / 2, freedom)) for level in (level_below, level_above)]
    if is_share:
        low, high = _wilson(mean, size, quantiles[0])[0], _wilson(mean, size, quantiles[1])[1]
    else:
        low, high = mean - quantiles[0] * error, mean + quantiles[1] * error
    return Estimate(mean, low, high, count=count)


def widen_for_overlap(difference: Estimate, division: Division, pairs: int) -> Estimate:
    """Return a mean difference of accuracies or gaps with the interval that allows for overlapping divisions.

    Its variance is that of estimate_resampled_mean, and at least the binomial one of paired_p, that many times as many
    images where a seed has several pairs. With one seed, and where nothing shows a variance, there is no interval.

    Args:
        difference: with Student's t-interval over the seeds, or without one where these agree.
        pairs: matched pairs of all seeds together.
    """
    from scipy import stats

    mean, count = difference.value, difference.count
    if count < 2:
        return difference
    quantile = float(stats.t.ppf(1 - LEVEL / 2, count - 1))
    plain = 0.0
    if difference.low is not None and difference.high is not None:
        plain = (difference.high - difference.low) / 2 / quantile
    discordant = max(0.0, abs(mean) - mean**2) / (division.distinct_images(count) * max(1.0, pairs / count))
    error = math.sqrt(max(plain**2 * (1 + count * division.overlap), discordant))
    if error == 0:
        return Estimate(mean, count=count)
    p = float(2 * stats.t.sf(abs(mean) / error, count - 1))
    return Estimate(mean, mean - quantile * error, mean + quantile * error, p, count)


def effective_images(values: Sequence[float], division: Division | None) -> float:
    """Return the number of independent images whose share has the variance of the mean of these accuracies.

    It is at most the number of distinct images measured; infinite if the values are equal and that is not known.
    """
    mean, count = float(np.mean(values)), len(values)
    most = math.inf if division is None else division.distinct_images(count)
    variance = _standard_error(values, division) ** 2
    return min(most, mean * (1 - mean) / variance) if variance > 0 and 0 < mean < 1 else most


def paired_p(differences: Sequence[float], division: Division | None, is_share: bool) -> float:
    """Return p of the corrected resampled t-test of a mean difference of 0; 1 with fewer than MIN_SEEDS seeds.

    Args:
        differences: of each seed; of accuracies if `is_share`.
        division: as in estimate_resampled_mean.
    """
    from scipy import stats

    mean, count = float(np.mean(differences)) if len(differences) else 0.0, len(differences)
    if count < MIN_SEEDS or mean == 0:
        return 1.0
    error = _standard_error(differences, division)
    if is_share and division is not None:
        # at least a share |mean| of the images is right in one candidate alone
        discordant = (abs(mean) - mean**2) / division.distinct_images(count)
        error = math.sqrt(max(error**2, discordant))
    return float(2 * stats.t.sf(abs(mean) / error, count - 1)) if error > 0 else 1.0


def _standard_error(values: Sequence[float], division: Division | None) -> float:
    """Return the corrected standard error of the mean; 0 for one value, and for values that are equal."""
    if len(values) < 2 or np.ptp(values) < 1e-12:
        return 0.0
    overlap = 0.0 if division is None else division.overlap
    return float(np.std(values, ddof=1) * math.sqrt(1 / len(values) + overlap))


def _degrees_of_freedom(variance: float, seeds: int, images: ImageVariance | None) -> float:
    """Return Satterthwaite's of a variance: the images' part has one less than images, the rest than seeds."""
    if images is None or variance == 0:
        return seeds - 1
    part = min(images.variance, variance)
    return variance**2 / (part**2 / (images.images - 1) + (variance - part) ** 2 / (seeds - 1))


def _wilson(share: float, images: float, quantile: float) -> tuple[float, float]:
    """Return Wilson's interval, within 0 and 1."""
    z = quantile**2 / images
    middle = (share + z / 2) / (1 + z)
    half = math.sqrt(max(0.0, share * (1 - share) * z + z**2 / 4)) / (1 + z)
    # an end at 0 or 1 is exactly that, whatever the rounding
    return (max(0.0, middle - half) if share > 0 else 0.0), (min(1.0, middle + half) if share < 1 else 1.0)
