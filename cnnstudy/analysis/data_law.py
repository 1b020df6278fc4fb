"""The data law: an outcome against the number of training images, gap(n) = a (n / n0)^-b + c.

Errors of networks fall as a power of the amount of data, to a floor that no amount of data removes (Hestness et al.
2017, "Deep Learning Scaling is Predictable, Empirically", arXiv:1712.00409; Rosenfeld et al. 2020, "A Constructive
Prediction of the Generalization Error Across Scales", ICLR). n0 is the largest number of images measured. A floor and a
slower fall look alike until four amounts are measured; from fewer, only what was measured is told, and whether it
falls.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from cnnstudy.analysis.contrasts import level_indices
from cnnstudy.analysis.frames import check_columns, number_seeds, read_levels, read_numbers
from cnnstudy.analysis.intervals import CONFIDENCE, MIN_SEEDS, Estimate
from cnnstudy.analysis.observations import GAP
from cnnstudy.analysis.power_law import PowerLaw, PowerLawFit
from cnnstudy.analysis.resolution import find_resolution
from cnnstudy.config.factors import FACTORS
from cnnstudy.data.batches import count_used_images
from cnnstudy.errors import InputError

#: The default target gap: 5 points.
DEFAULT_TARGET_GAP = 0.05
#: Numbers that differ by less are equal up to rounding.
_ROUNDING = 1e-12
#: No projection goes beyond this multiple of the largest amount measured.
MAX_EXTRAPOLATION = 10.0
#: No data set has as many images.
_MOST_IMAGES = 1e15
#: What a law takes: a floor cannot be told from fewer amounts.
MIN_AMOUNTS = 4
#: An amount at which a larger share of the trials did not learn says nothing about the gap of networks that learn.
#: Their accuracy is far from that of the others, so that none may be among them.
MOST_UNLEARNT = 1 / 8
#: No test of a few amounts shows that a curve goes on as it began.
_IF_IT_HOLDS = "should the law hold further on"
_NEEDED = "this takes trials that differ in the number of images alone, at two amounts at least"
#: The amounts at which a curve is compared with its target, relative to the largest one measured.
_REACH = np.geomspace(1.0, MAX_EXTRAPOLATION, 116)


@dataclass(frozen=True)
class MoreImages:
    """How many images to add to the largest amount measured to reach the target.

    `low` and `high` are the ends of the 95 % interval; `high` is None if it is beyond 10 times the largest amount, or
    if the target may never be reached. `count` is None then, and `reason` says what can be told instead.
    """

    count: int | None = None
    low: int | None = None
    high: int | None = None
    reason: str = ""


@dataclass(frozen=True)
class DataLaw:
    """An outcome of one group of trials against the number of images: measured, and its power law if there is one.

    Values are the gap or, for an accuracy, the error 1 - accuracy; shares of 0..1. Estimates have 95 % intervals, or
    None for their ends where there are fewer than MIN_SEEDS seeds.
    """

    group: str
    is_accuracy: bool
    images: tuple[int, ...]  # the amounts measured, ascending
    measured: tuple[Estimate, ...]  # mean over the seeds at each amount
    seeds: int
    trend: Estimate | None  # change of the value with each doubling of the images, within the measured amounts
    target: float | None  # a gap or an accuracy, as given
    power_law: PowerLaw | None = None  # None: there is none, and `reason` says why
    floor: Estimate | None = None  # c
    twice: Estimate | None = None  # the value at twice the largest amount
    more: MoreImages = MoreImages()
    reason: str = ""
    unlearnt: tuple[str, ...] = ()  # of the smallest amounts, which are left out: how many trials did not learn there
    #: The trend at the same number of updates, where that was measured.
    trend_at_equal_updates: Estimate | None = None

    @property
    def answer(self) -> str:
        """What more images do to the value, within the measured amounts: `raises`, `lowers` or `cannot tell`."""
        sign = 0 if self.trend is None else self.trend.sign
        return {1: "raises", -1: "lowers", 0: "cannot tell"}[sign]

    def to_display_units(self, value: Any) -> Any:
        """Return values (a number or an array) as they are shown: the gap in points, or accuracy in percent."""
        return 100 * (1 - value if self.is_accuracy else value)

    def sentence(self) -> str:
        """Return what was measured, the law, and how many images reach the target, in words."""
        name = "validation accuracy" if self.is_accuracy else "the gap"
        if not self.measured:
            return f"{self.group}: cannot tell how {name} depends on the number of images: {self.reason}."
        left_out = f" (left out: {', '.join(self.unlearnt)} did not learn)" if self.unlearnt else ""
        steps = ", ".join(
            f"{self._write(value)} at {images}" for images, value in zip(self.images, self.measured, strict=True)
        )
        trend = self._describe_trend(self.trend)
        if self.trend is None and self.reason:
            trend = f"cannot tell the trend{self._name_goal()}, because {self.reason}"
        parts = [f"{self.group}: {name} by training images per class: {steps}{left_out}; {trend}."]
        if self.power_law is not None and self.twice is not None and self.floor is not None:
            limit = "ceiling" if self.is_accuracy else "floor"
            parts.append(
                f"A power law with a {limit} projects {self._write(self.twice)} at twice the images, and a {limit} of "
                f"{self._write(self.floor)}."
            )
        parts.append("" if self.trend is None and self.reason else self._describe_more())
        parts.append("At equal epochs, more images are also more updates of the weights")
        if self.trend_at_equal_updates is not None:
            parts[-1] += f"; at the same number of updates, {self._describe_trend(self.trend_at_equal_updates)}"
        return " ".join(filter(None, parts)) + "."

    def _write(self, value: Estimate) -> str:
        unit = " %" if self.is_accuracy else " points"
        text = f"{self.to_display_units(value.value):.1f}{unit}"
        if value.low is None or value.high is None:
            return text
        low, high = sorted((self.to_display_units(value.low), self.to_display_units(value.high)))
        return f"{text} [{low:.1f}, {high:.1f}]"

    def _describe_trend(self, trend: Estimate | None) -> str:
        if trend is None or trend.low is None or trend.high is None:
            few = self.seeds < MIN_SEEDS
            return f"fewer than {MIN_SEEDS} seeds give no interval" if few else "seeds that agree give no interval"
        sign = -100 if self.is_accuracy else 100
        low, high = sorted((sign * trend.low, sign * trend.high))
        change = f"{sign * trend.value:+.1f} points [{low:+.1f}, {high:+.1f}] with each doubling"
        return change if trend.sign else f"cannot tell whether that is a trend ({change})"

    def _describe_more(self) -> str:
        if self.target is None:
            return "" if self.power_law is not None else f"No projection: {self.reason}."
        goal = self._write_target()
        if self.more.count is None:
            return f"How many images lead to {goal}: {self.more.reason}."
        images = f"{self.more.count} more images per class ({self.more.low} to {self.more.high})"
        return f"About {images} lead to {goal}, {_IF_IT_HOLDS}."

    def _name_goal(self) -> str:
        return "" if self.target is None else f", or how many images lead to {self._write_target()}"

    def _write_target(self) -> str:
        assert self.target is not None
        return f"{100 * self.target:g} {'%' if self.is_accuracy else 'points'}"


def data_law(
    frame: pd.DataFrame,
    outcome: str = "gap",
    images: str = "images",
    seed: str = "seed",
    target: float | None = None,
    factors: Sequence[str] = (),
    group: str = "all trials",
) -> DataLaw:
    """Fit the law to a table of trials, a row each.

    Args:
        frame: finished trials. Rows without an outcome are left out; the law is that of the seeds that have one at each
            amount (what missing trials could change is not bounded, as it is for `effects`). A column `verdict` is read
            where there is one: the smallest amounts are left out where more than MOST_UNLEARNT of the trials that count
            (for an accuracy: any) are `not-learning`, and if that is so of a larger one nothing is told of the trend.
        outcome: the column of the gap or of an accuracy (shares of 0..1). If its name contains `accuracy` and not
            `gap`, the law is that of the error, 1 - accuracy.
        images: the column of the number of training images, in all or for each class.
        seed: the column of the seeds, the sample from which intervals are computed.
        target: the gap or accuracy to reach, between 0 and 1; None: 0.05 for a gap, none for an accuracy.
        factors: columns of the factors that vary besides. Only their combinations that have a trial at each amount of
            images count, each alike; rows that agree in these, images and seed are averaged.
        group: what sentences call these trials.

    Raises:
        InputError: a column is missing or does not fit, or the target is not between 0 and 1.
    """
    factors = [factors] if isinstance(factors, str) else list(factors)
    check_columns(frame, {"outcome": outcome, "number of images": images, "seed": seed}, factors)
    is_accuracy = "accuracy" in str(outcome) and "gap" not in str(outcome)
    if target is None and not is_accuracy:
        target = DEFAULT_TARGET_GAP
    if target is not None and not (isinstance(target, int | float) and 0 < target < 1):
        raise InputError(f"a target of {target!r} is never reached; give a number between 0 and 1.")
    shares, levels = _read_shares(frame, outcome, is_accuracy), [read_levels(frame, name) for name in factors]
    trials = _Trials(shares, _find_unlearnt(frame), _read_amounts(frame, images), number_seeds(frame, seed), levels)
    matched, left_out = _match_learnt(trials, 0.0 if is_accuracy else MOST_UNLEARNT)
    law = DataLaw(group, is_accuracy, matched.amounts, (), 0, None, target, unlearnt=left_out)
    if len(matched.amounts) < 2 or not len(matched.values):
        reason = f"{', '.join(left_out)} did not learn" if left_out else _NEEDED
        return replace(law, reason=reason, more=MoreImages(reason=reason))
    # seeds that agree, or nearly so, may do so by chance: no variance is below that of measuring on so few images
    return _describe(law, matched, find_resolution(str(outcome), shares).measuring / matched.trials)


def _describe(law: DataLaw, matched: _Matched, measuring: float) -> DataLaw:
    """Return the law with what was measured, and the trend and the power law if the trials have learnt.

    Args:
        measuring: as in `_mean`.
    """
    values, limits = (1 - matched.values, (0.0, 1.0)) if law.is_accuracy else (matched.values, (-1.0, 1.0))
    measured = tuple(_mean(column, measuring, limits) for column in values.T)
    law = replace(law, measured=measured, seeds=len(values))
    if matched.too_many:
        reason = f"{', '.join(matched.too_many)} did not learn"
        return replace(law, reason=reason, more=MoreImages(reason=f"cannot tell, because {reason}"))
    # the slope of least squares against log2 n, within each seed
    steps = np.log2(law.images) - np.log2(law.images).mean()
    trend = _mean(values @ steps / (steps @ steps), measuring / float(steps @ steps))
    return _project(replace(law, trend=trend), values)


def _find_unlearnt(frame: pd.DataFrame) -> np.ndarray:
    """Return which trials did not learn, [trials] of 0 and 1; none where there are no verdicts."""
    if "verdict" not in frame:
        return np.zeros(len(frame))
    return (frame["verdict"].astype(object) == "not-learning").to_numpy(float)


def _read_shares(frame: pd.DataFrame, outcome: str, is_accuracy: bool) -> np.ndarray:
    """Return the outcome of each trial, [trials]; NaN where it has none."""
    values, least = read_numbers(frame, outcome, "outcome"), 0.0 if is_accuracy else -1.0
    if (beyond := values[(values < least) | (values > 1)]).size:
        raise InputError(
            f"the outcome {outcome!r} must be a share of {least:g} to 1, not {beyond[0]:g}; divide percent and points "
            "by 100."
        )
    return values


def _read_amounts(frame: pd.DataFrame, images: str) -> np.ndarray:
    """Return the number of images of each trial, [trials]."""
    amounts = read_numbers(frame, images, "number of images")
    if not ((amounts > 0) & (amounts < _MOST_IMAGES) & (amounts == np.round(amounts))).all():
        raise InputError(
            f"the column {images!r} must hold whole numbers of images above 0, below {_MOST_IMAGES:g}, in every row."
        )
    return amounts.astype(int)


def fit_data_law(
    frame: pd.DataFrame,
    group: str,
    images_per_class: float,
    target: float | None = DEFAULT_TARGET_GAP,
    column: str = GAP,
) -> DataLaw:
    """Fit the law to recorded trials of one group (a network and a transfer mode), from their levels of data_fraction.

    Args:
        frame: finished trials, as for estimate_effects.
        group: the group's name in sentences.
        images_per_class: training images per class at data_fraction 1; if classes are unequal, the mean.
        target: as for data_law.
        column: the outcome, by default the gap at equal epochs.
    """
    counts = [count_used_images(round(images_per_class), float(share)) for share in frame["data_fraction"]]
    trials = frame.assign(images=np.array(counts, dtype=int))
    factors = [name for name in FACTORS if name in frame and name != "data_fraction"]
    law = data_law(trials, column, "images", "seed", target, factors, group)
    same_updates = column.replace("epochs/", "updates/")
    if same_updates == column or same_updates not in frame:
        return law
    return replace(law, trend_at_equal_updates=data_law(trials, same_updates, target=target, factors=factors).trend)


@dataclass(frozen=True)
class _Trials:
    """Of each trial: outcome (NaN: it has none), whether it did not learn, images, seed, and level of each factor."""

    values: np.ndarray
    unlearnt: np.ndarray
    amounts: np.ndarray
    seeds: np.ndarray
    factors: Sequence[pd.Series]

    def above(self, amount: int) -> _Trials:
        """Return the trials with more images."""
        kept = self.amounts > amount
        factors = [levels[kept] for levels in self.factors]
        return _Trials(self.values[kept], self.unlearnt[kept], self.amounts[kept], self.seeds[kept], factors)


@dataclass(frozen=True)
class _Matched:
    """The outcome of each seed at each amount, the mean over the combinations of factors that it has at all of them."""

    amounts: tuple[int, ...]
    values: np.ndarray  # [seeds, amounts]
    trials: float  # that each is the mean of: those of the seed with the fewest
    unlearnt: dict[int, str]  # how many of the trials that count did not learn, where those are too many, by amount

    @property
    def too_many(self) -> tuple[str, ...]:
        return tuple(self.unlearnt.values())


def _match_learnt(trials: _Trials, most: float) -> tuple[_Matched, tuple[str, ...]]:
    """Return the trials without the smallest amounts at which many did not learn, and how many did not, in words.

    Args:
        most: the share of trials that may not have learnt.
    """
    left_out: list[str] = []
    matched = _match(trials, most)
    # if nothing would be left, all is told
    while matched.amounts and matched.amounts[0] in matched.unlearnt and len(matched.unlearnt) < len(matched.amounts):
        left_out.append(matched.unlearnt[matched.amounts[0]])
        trials = trials.above(matched.amounts[0])
        matched = _match(trials, most)
    return matched, tuple(left_out)


def _match(trials: _Trials, most: float) -> _Matched:
    """Match the trials; amounts that fewer than half of the combinations of factors have are dropped."""
    there = np.isfinite(trials.values)
    others = [level_indices(levels[there], ()) for levels in trials.factors]
    columns = pd.DataFrame({"value": trials.values[there], "unlearnt": trials.unlearnt[there]})
    means = columns.groupby([trials.seeds[there], *others, trials.amounts[there]]).mean()
    table = means["value"].unstack()
    table = table.loc[:, table.notna().mean() >= 0.5].dropna()
    combinations = table.groupby(level=0)
    unlearnt = means["unlearnt"].unstack().loc[table.index, table.columns].sum()
    amounts = tuple(map(int, table.columns))
    return _Matched(
        amounts,
        combinations.mean().to_numpy(),
        float(combinations.size().min()) if len(combinations) else math.nan,
        {
            amount: f"{count:g} of {len(table)} trials with {amount}"
            for amount, count in zip(amounts, unlearnt, strict=True)
            if count > most * len(table)
        },
    )


def _mean(values: np.ndarray, measuring: float, limits: tuple[float, float] = (-math.inf, math.inf)) -> Estimate:
    """Return the mean over the seeds, with Student's t-interval if there are enough.

    Args:
        measuring: the variance of a seed's value that measuring alone has; the seeds' is not taken to be less. NaN: not
            known; then seeds that agree give no interval.
        limits: the interval's ends are within these.
    """
    from scipy import stats

    mean, variance = float(values.mean()), float(values.var(ddof=1)) if len(values) > 1 else math.nan
    agree = np.ptp(values) <= _ROUNDING
    variance = measuring if agree else float(np.fmax(variance, measuring))
    if len(values) < MIN_SEEDS or math.isnan(variance):
        return Estimate(mean, count=len(values))
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)) * math.sqrt(variance / len(values))
    p = float(2 * stats.t.sf(abs(mean) / math.sqrt(variance / len(values)), len(values) - 1))
    return Estimate(mean, max(limits[0], mean - half), min(limits[1], mean + half), p, len(values))


def _project(law: DataLaw, values: np.ndarray) -> DataLaw:
    """Return the law with what can be told beyond the measured amounts."""
    amounts, name = len(law.images), "accuracy" if law.is_accuracy else "gap"
    change = "rises" if law.is_accuracy else "falls"
    fit = None
    if amounts < MIN_AMOUNTS:
        limit = "a ceiling" if law.is_accuracy else "a floor"
        reason = f"{amounts} amounts cannot tell whether the {name} has {limit}; that takes {MIN_AMOUNTS} or more"
    elif law.seeds < MIN_SEEDS:
        reason = f"cannot tell from fewer than {MIN_SEEDS} seeds with a trial at each amount; run more"
    elif law.answer == "raises":
        reason = f"the {name} {'falls' if law.is_accuracy else 'rises'} with more images, within what was measured"
    elif law.answer != "lowers":
        reason = f"cannot tell whether the {name} {change} with more images"
    else:
        fit = PowerLawFit(np.array(law.images) / law.images[-1], values)
        reason = "" if fit.fits else f"the {name} does not follow a power law with more images"
    if fit is not None and fit.fits:
        law = replace(
            law,
            power_law=fit.law,
            floor=Estimate(fit.law.floor, *fit.interval_at(math.inf)),
            twice=Estimate(float(fit.law.at(2.0)), *fit.interval_at(2.0)),
        )
    return replace(law, reason=reason, more=_count_images(law, fit, reason))


def _count_images(law: DataLaw, fit: PowerLawFit | None, reason: str) -> MoreImages:
    """Return how many images lead to the target."""
    if law.target is None:
        return MoreImages()
    target, most, last = 1 - law.target if law.is_accuracy else law.target, law.images[-1], law.measured[-1]
    if last.high is not None and last.high <= target:
        return MoreImages(reason=f"{most} images per class already do")
    if last.value <= target:
        return MoreImages(reason=f"perhaps {most} images per class already do; cannot tell")
    if fit is None or reason:
        return MoreImages(reason=reason)
    needed = max(1.0, fit.law.reaches(target))
    allowed = [float(x) for x in _REACH if fit.allows(float(x), target)]
    if not fit.allows_above(MAX_EXTRAPOLATION, target):
        ends = min([needed, *allowed]) / _REACH[1], max([needed, *allowed]) * _REACH[1]  # a step of the grid further
        count, low, high = (max(0, round(most * (x - 1))) for x in (needed, *ends))
        if not count:
            return MoreImages(reason=f"perhaps {most} images per class already do; cannot tell")
        return MoreImages(count, low, high)
    if not allowed:
        is_never = fit.law.floor > target and not fit.allows(math.inf, target)
        beyond = "the ceiling is below it" if law.is_accuracy else "the floor is above it"
        limit = f"not within {MAX_EXTRAPOLATION:g} times what was measured, {_IF_IT_HOLDS}"
        return MoreImages(reason=f"never at this rate, {_IF_IT_HOLDS}; {beyond}" if is_never else limit)
    low = max(0, round(most * (min(allowed) / _REACH[1] - 1)))
    least = f"at least {low} more per class, {_IF_IT_HOLDS}; " if low else ""
    return MoreImages(None, low, None, f"{least}how many cannot be told, and perhaps that is never reached")
