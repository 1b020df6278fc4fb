"""How the gap falls with more training images: gap(n) = a * (n / n0)^(-b), n training images a class.

Errors of networks fall as a power of the amount of data over wide ranges (Hestness et al. 2017, "Deep Learning Scaling
is Predictable, Empirically"; Rosenfeld et al. 2020). n0 is the largest amount measured, so that a is the gap there. The
law is fitted seed by seed; the seeds' numbers are the sample that intervals come from, as with effects.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cnnstudy.analysis.contrasts import level_indices, outcome_values
from cnnstudy.analysis.intervals import CONFIDENCE
from cnnstudy.analysis.observations import GAP
from cnnstudy.config.factors import FACTORS
from cnnstudy.data.batches import count_used

#: The gap that is to be reached, unless another is given: 5 points.
TARGET = 0.05
#: No answer beyond so many times the largest amount measured.
FURTHEST = 10.0
#: The law's exponent is sought from minus this to this.
_STEEPEST = 10.0


@dataclass(frozen=True)
class MoreImages:
    """How many more images a class than the largest amount measured bring the gap down to `target`, about.

    `count` None: that can't be told, and `reason` says why. `low` and `high` are the ends of the 95 % interval; `high`
    None: beyond 10 times what was measured.
    """

    target: float
    count: int | None
    low: int | None
    high: int | None
    reason: str = ""


@dataclass(frozen=True)
class DataLaw:
    """The law of one group of trials, fitted for each seed.

    `exponent` None: it can't be told, and `reason` says why. Without an interval (one seed) its ends are None.
    """

    group: str
    images: tuple[int, ...]  # a class: the amounts measured, upwards
    gaps: tuple[float, ...]  # mean over the seeds at each, shares of 0..1
    exponent: float | None
    low: float | None
    high: float | None
    of_seeds: tuple[tuple[float, float], ...]  # (a, b) of each
    target: float = TARGET
    reason: str = ""

    def images_for(self, gap: float | None = None) -> MoreImages:
        """How many more images a class bring the gap down to `gap` (share of 0..1, above 0; None: to the target).

        Raises:
            ValueError: `gap` is 0 or less; the law never gets there.
        """
        gap = self.target if gap is None else gap
        if gap <= 0:
            raise ValueError(f"a gap of {gap} is never reached; give one above 0")
        most = self.images[-1] if self.images else 0
        if self.gaps and self.gaps[-1] <= gap:
            return _not_told(gap, f"{most} images a class do already")
        if self.exponent is None:
            return _not_told(gap, self.reason)
        if self.low is None or self.high is None:
            return _not_told(gap, "one seed says nothing about the next; run more")
        if self.low <= 0:
            return _not_told(gap, "it can't be told from chance whether the gap falls with more images")
        if min(exponent for _, exponent in self.of_seeds) <= 0:
            return _not_told(gap, "in one of the seeds the gap does not fall with more images")
        # logarithms of (n / n0)
        needed = np.array([math.log(scale / gap) / exponent for scale, exponent in self.of_seeds])
        middle, low, high = _over_seeds(needed)
        if middle > math.log(FURTHEST):
            return _not_told(gap, f"that takes more than {FURTHEST:g} times what was measured: can't be told from here")
        ends = [round(most * math.expm1(end)) for end in (middle, max(0.0, low))]
        return MoreImages(gap, ends[0], ends[1], round(most * math.expm1(high)) if high <= math.log(FURTHEST) else None)

    def sentence(self, gap: float | None = None) -> str:
        """The law and what it means, in words."""
        if self.exponent is None:
            return f"{self.group}: how the gap depends on the number of images can't be told: {self.reason}."
        gap = self.target if gap is None else gap
        spans = " to ".join(dict.fromkeys(f"{100 * end:.1f}" for end in (self.gaps[0], self.gaps[-1])))
        measured_at = f"{self.group}: from {self.images[0]} to {self.images[-1]} images a class the gap goes from "
        return f"{measured_at}{spans} points; {self._halving()} {self._more(gap)}"

    def _halving(self) -> str:
        assert self.exponent is not None
        factor = f"twice the images make {2**-self.exponent:.2f} times the gap"
        if self.low is None or self.high is None:
            return f"{factor} (one seed: no interval)."
        few = "; two amounts can't show whether that goes on beyond them" if len(self.images) == 2 else ""
        return f"{factor} (95 %: {2**-self.high:.2f} to {2**-self.low:.2f}){few}."

    def _more(self, gap: float) -> str:
        more, points = self.images_for(gap), f"{100 * gap:g} points"
        if more.count is None:
            return f"How many bring it down to {points}: {more.reason}."
        high = f"{more.high}" if more.high is not None else f"more than {round((FURTHEST - 1) * self.images[-1])}"
        return f"About {more.count} more images a class ({more.low} to {high}) would bring it down to {points}."


def fit_data_law(
    frame: pd.DataFrame,
    group: str,
    images_per_class: float,
    target: float = TARGET,
    column: str = GAP,
) -> DataLaw:
    """The law of the trials in `frame`, from the gap at two levels of data_fraction or more.

    Within a seed the gap at each level is the mean over the combinations of the other factors that are there at all of
    them. Trials that learnt nothing are left out, and so are levels that fewer than half of the combinations have.

    Args:
        frame: finished trials of one group (a network and a transfer mode), as for estimate_effects.
        group: what to call them.
        images_per_class: training images of a class at data_fraction 1; of unequal classes the mean.
        target: the gap (share of 0..1) to be reached.
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
    images = tuple(count_used(round(images_per_class), float(fraction)) for fraction in table.columns)
    if len(images) < 2 or matched.empty:
        reason = "that takes trials that differ in nothing but data_fraction, at two levels or better three"
        return _no_law(group, images, (), target, reason)
    gaps = tuple(float(gap) for gap in matched.mean())
    if max(gaps) <= 0:
        return _no_law(group, images, gaps, target, "there is no gap")
    fits = [_fitted(np.array(images, dtype=float), of_seed) for of_seed in matched.to_numpy()]
    of_seeds = tuple(fit for fit in fits if fit is not None)
    if len(of_seeds) < len(fits):
        return _no_law(group, images, gaps, target, "in one of the seeds the gap is too close to 0 for a law")
    exponents = np.array([exponent for _, exponent in of_seeds])
    exponent, low, high = _over_seeds(exponents)
    none = math.isnan(low)
    return DataLaw(group, images, gaps, exponent, None if none else low, None if none else high, of_seeds, target)


def _fitted(images: np.ndarray, gaps: np.ndarray) -> tuple[float, float] | None:
    """The law's a and b of one seed, by least squares on the gaps: those may be 0 or negative. None: no power fits."""
    from scipy.optimize import OptimizeWarning, curve_fit

    start = (max(float(gaps[-1]), 0.01), 0.5)
    bounds = ([-2.0, -_STEEPEST], [2.0, _STEEPEST])
    with warnings.catch_warnings():
        # two amounts leave nothing to tell the errors of a and b from; the seeds do
        warnings.simplefilter("ignore", OptimizeWarning)
        try:
            found, _ = curve_fit(lambda n, a, b: a * (n / images[-1]) ** -b, images, gaps, start, bounds=bounds)
        except RuntimeError:
            return None
    scale, exponent = map(float, found)
    return (scale, exponent) if scale > 0 and abs(exponent) < 0.999 * _STEEPEST else None


def _over_seeds(values: np.ndarray) -> tuple[float, float, float]:
    """The mean and the ends of its 95 % t-interval; NaN for one seed."""
    from scipy import stats

    mean = float(values.mean())
    if len(values) < 2:
        return mean, math.nan, math.nan
    if np.ptp(values) < 1e-9 * max(1.0, abs(mean)):
        return mean, mean, mean
    low, high = stats.ttest_1samp(values, 0.0).confidence_interval(CONFIDENCE)
    return mean, float(low), float(high)


def _no_law(group: str, images: tuple[int, ...], gaps: tuple[float, ...], target: float, reason: str) -> DataLaw:
    return DataLaw(group, images, gaps, None, None, None, (), target, reason)


def _not_told(gap: float, reason: str) -> MoreImages:
    return MoreImages(gap, None, None, None, reason)
