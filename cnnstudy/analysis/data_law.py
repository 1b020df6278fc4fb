"""The data law: gap(n) = a * (n / n0)^(-b), with n training images per class.

Errors of networks fall as a power of the amount of data over wide ranges (Hestness et al. 2017, "Deep Learning Scaling
is Predictable, Empirically", arXiv:1712.00409; Rosenfeld et al. 2020, "A Constructive Prediction of the Generalization
Error Across Scales", ICLR). n0 is the largest amount measured, so a is the gap there. The law is fitted within each
seed; the seeds' fits are the sample from which intervals are computed, as with effects.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cnnstudy.analysis.contrasts import level_indices, outcome_values
from cnnstudy.analysis.intervals import estimate_mean
from cnnstudy.analysis.observations import GAP
from cnnstudy.config.factors import FACTORS
from cnnstudy.data.batches import count_used_images

#: The default target gap: 5 points.
DEFAULT_TARGET_GAP = 0.05
#: No projection goes beyond this multiple of the largest amount measured.
MAX_EXTRAPOLATION = 10.0
#: Bound of the exponent's absolute value in the fit.
_MAX_EXPONENT = 10.0


@dataclass(frozen=True)
class MoreImages:
    """The estimated number of images per class to add to the largest amount measured to reach the gap `target`.

    If it cannot be estimated, `count` is None and `reason` says why. `low` and `high` are the ends of the 95 %
    interval; `high` is None if it is beyond 10 times the largest amount measured.
    """

    target: float
    count: int | None
    low: int | None
    high: int | None
    reason: str = ""


@dataclass(frozen=True)
class DataLaw:
    """The law of one group of trials, fitted within each seed.

    If it cannot be estimated, `exponent` is None and `reason` says why. Without an interval (one seed) `low` and `high`
    are None.
    """

    group: str
    images: tuple[int, ...]  # per class: the amounts measured, ascending
    gaps: tuple[float, ...]  # mean over the seeds at each amount, shares of 0..1
    exponent: float | None  # b, mean over the seeds
    low: float | None  # 95 % interval of b
    high: float | None
    of_seeds: tuple[tuple[float, float], ...]  # (a, b) of each seed
    target: float = DEFAULT_TARGET_GAP
    reason: str = ""

    def estimate_images_for(self, gap: float | None = None) -> MoreImages:
        """Estimate how many more images per class reduce the gap to `gap` (share of 0..1, above 0; None: the target).

        Raises:
            ValueError: `gap` is 0 or less, which the law never reaches.
        """
        gap = self.target if gap is None else gap
        if gap <= 0:
            raise ValueError(f"a gap of {gap} is never reached; give one above 0")
        most = self.images[-1] if self.images else 0
        if self.gaps and self.gaps[-1] <= gap:
            return _no_estimate(gap, f"{most} images per class already do")
        if self.exponent is None:
            return _no_estimate(gap, self.reason)
        if self.low is None or self.high is None:
            return _no_estimate(gap, "cannot tell from one seed; run more")
        if self.low <= 0:
            return _no_estimate(gap, "cannot tell whether the gap falls with more images")
        if min(exponent for _, exponent in self.of_seeds) <= 0:
            return _no_estimate(gap, "in one of the seeds the gap does not fall with more images")
        # logarithms of (n / n0)
        middle, low, high = _mean_and_interval([math.log(scale / gap) / exponent for scale, exponent in self.of_seeds])
        assert low is not None
        assert high is not None
        limit = math.log(MAX_EXTRAPOLATION)
        if middle > limit:
            return _no_estimate(
                gap, f"that takes more than {MAX_EXTRAPOLATION:g} times what was measured, too far to project"
            )
        count, fewest = (round(most * math.expm1(end)) for end in (middle, max(0.0, low)))
        return MoreImages(gap, count, fewest, round(most * math.expm1(high)) if high <= limit else None)

    def sentence(self, gap: float | None = None) -> str:
        """Return the law and the projection to `gap` (None: the target), in words."""
        if self.exponent is None:
            return f"{self.group}: cannot tell how the gap depends on the number of images: {self.reason}."
        gap = self.target if gap is None else gap
        spans = " to ".join(dict.fromkeys(f"{100 * end:.1f}" for end in (self.gaps[0], self.gaps[-1])))
        measured_at = f"{self.group}: from {self.images[0]} to {self.images[-1]} images per class the gap goes from "
        return f"{measured_at}{spans} points; {self._doubling()} {self._projection(gap)}"

    def _doubling(self) -> str:
        assert self.exponent is not None
        factor = f"doubling the images multiplies the gap by {2**-self.exponent:.2f}"
        if self.low is None or self.high is None:
            return f"{factor} (one seed: no interval)."
        few = "; two amounts can't show whether that continues beyond them" if len(self.images) == 2 else ""
        return f"{factor} (95 % interval {2**-self.high:.2f} to {2**-self.low:.2f}){few}."

    def _projection(self, gap: float) -> str:
        more, points = self.estimate_images_for(gap), f"{100 * gap:g} points"
        if more.count is None:
            return f"How many images reduce it to {points}: {more.reason}."
        high = (
            f"{more.high}" if more.high is not None else f"more than {round((MAX_EXTRAPOLATION - 1) * self.images[-1])}"
        )
        return f"About {more.count} more images per class ({more.low} to {high}) would reduce it to {points}."


def fit_data_law(
    frame: pd.DataFrame,
    group: str,
    images_per_class: float,
    target: float = DEFAULT_TARGET_GAP,
    column: str = GAP,
) -> DataLaw:
    """Fit the law to the trials in `frame`, from the gap at two or more levels of data_fraction.

    Within a seed, the gap at each level is the mean over the combinations of the other factors that exist at all
    levels. Trials that did not learn are left out, and so are levels that fewer than half of the combinations have.

    Args:
        frame: finished trials of one group (a network and a transfer mode), as for estimate_effects.
        group: the group's name in sentences.
        images_per_class: training images per class at data_fraction 1; if classes are unequal, the mean.
        target: the target gap (share of 0..1).
        column: the outcome, by default the gap at equal epochs.
    """
    values = outcome_values(frame, column)
    frame = frame[np.isfinite(values)]
    others = [level_indices(frame[name], ()) for name in FACTORS if name in frame and name != "data_fraction"]
    cells = pd.Series(values[np.isfinite(values)]).groupby(
        [frame["seed"].to_numpy(), *others, frame["data_fraction"].to_numpy()]
    )
    table = cells.mean().unstack()
    table = table.loc[:, table.notna().mean() >= 0.5]
    matched = table.dropna().groupby(level=0).mean()
    images = tuple(count_used_images(round(images_per_class), float(fraction)) for fraction in table.columns)
    if len(images) < 2 or matched.empty:
        reason = "this takes trials that differ in data_fraction alone, at two levels or, better, three"
        return _no_law(group, images, (), target, reason)
    gaps = tuple(float(gap) for gap in matched.mean())
    if max(gaps) <= 0:
        return _no_law(group, images, gaps, target, "there is no gap")
    fits = [_fit_seed(np.array(images, dtype=float), seed_gaps) for seed_gaps in matched.to_numpy()]
    seed_laws = tuple(fit for fit in fits if fit is not None)
    if len(seed_laws) < len(fits):
        return _no_law(group, images, gaps, target, "in one of the seeds the gap is too close to 0 to fit a law")
    exponent, low, high = _mean_and_interval([exponent for _, exponent in seed_laws])
    return DataLaw(group, images, gaps, exponent, low, high, seed_laws, target)


def _fit_seed(images: np.ndarray, gaps: np.ndarray) -> tuple[float, float] | None:
    """Fit a and b for one seed, or return None if no power law fits.

    Least squares on the gaps rather than on their logarithms, because gaps may be 0 or negative.
    """
    from scipy.optimize import OptimizeWarning, curve_fit

    start = (max(float(gaps[-1]), 0.01), 0.5)
    bounds = ([-2.0, -_MAX_EXPONENT], [2.0, _MAX_EXPONENT])
    with warnings.catch_warnings():
        # with two amounts the fit has no residuals to estimate its errors from; they come from the seeds instead
        warnings.simplefilter("ignore", OptimizeWarning)
        try:
            fitted, _ = curve_fit(lambda n, a, b: a * (n / images[-1]) ** -b, images, gaps, start, bounds=bounds)
        except RuntimeError:
            return None
    scale, exponent = map(float, fitted)
    return (scale, exponent) if scale > 0 and abs(exponent) < 0.999 * _MAX_EXPONENT else None


def _mean_and_interval(values: Sequence[float]) -> tuple[float, float | None, float | None]:
    """Return the mean and its 95 % t-interval; None for the ends if there is one value."""
    estimate = estimate_mean(values)
    assert estimate is not None
    return estimate.value, estimate.low, estimate.high


def _no_law(group: str, images: tuple[int, ...], gaps: tuple[float, ...], target: float, reason: str) -> DataLaw:
    return DataLaw(group, images, gaps, None, None, None, (), target, reason)


def _no_estimate(gap: float, reason: str) -> MoreImages:
    return MoreImages(gap, None, None, None, reason)
