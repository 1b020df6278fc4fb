"""Configurations over their seeds: accuracies, gap and verdict of all trials that differ in nothing but the seed.

What is estimated: the means over all seeds, on all images of which the study's are a random sample. Two errors add up,
that of the seeds and that of the validation images:

- Where each seed has its own division into train and validation, the divisions overlap, since all are of the same
  images. The variance of a mean over S seeds is (1/S + validation/train images) times that between seeds (Nadeau and
  Bengio 2003), which is taken as no less than the binomial one of the images.
- Where all seeds share one division, the variance between them does not contain the luck of the validation images:
  the binomial one is added to it.

Intervals are Wilson's (1927) with as many images as that variance is worth, and Student's t quantiles: they stay
within 0 to 100 %. Where seeds share their images, intervals are no narrower than those of one seed with the mean counts
(training/verdict.py): seeds may err on the same images, and in small classes the variance does not tell how far off
those may be.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from cnnstudy.analysis.intervals import Estimate
from cnnstudy.config.factors import describe_levels
from cnnstudy.errors import InputError
from cnnstudy.names import Parameter
from cnnstudy.tracking.recorded import RecordedRun
from cnnstudy.training import verdict as rules
from cnnstudy.training.verdict import Counts, Part

CONFIGURATION_HEADINGS = ("configuration", "seeds", "train", "val", "gap", "verdict")


@dataclass(frozen=True)
class CellVerdict:
    """The verdict over all seeds of a configuration; estimates are shares (0..1) with 95 % intervals.

    Args:
        spreads: standard deviations between seeds of train, validation and gap; NaN with one seed.
        balanced: whether accuracies are balanced, as in training/verdict.py.
    """

    name: str
    reason: str
    seeds: int
    train: Estimate
    validation: Estimate
    gap: Estimate
    spreads: tuple[float, float, float]
    balanced: bool

    def sentence(self) -> str:
        """Return the means with their intervals and spreads, and the verdict, as one sentence."""
        kind = "balanced accuracy on " if self.balanced else ""
        values = ", ".join(
            f"{name} {_percent(one)}{'' if math.isnan(spread) else f', spread {100 * spread:.1f}'}"
            for name, one, spread in (
                ("train", self.train, self.spreads[0]),
                ("validation", self.validation, self.spreads[1]),
            )
        )
        spread = "" if math.isnan(self.spreads[2]) else f", spread {100 * self.spreads[2]:.1f}"
        seeds = "1 seed" if self.seeds == 1 else f"{self.seeds} seeds"
        return f"{kind}{values}, gap {_points(self.gap)} points{spread}, over {seeds}: {self.name}, {self.reason}."


def judge_cell(seeds: Sequence[Counts], own_divisions: bool = False) -> CellVerdict:
    """Return the verdict over all seeds of a configuration.

    Accuracies are balanced, of all seeds alike, if the classes of all images together are unequal.

    Args:
        seeds: of each, the counts that `judge` takes.
        own_divisions: whether each seed has its own division of the same images into train and validation.

    Raises:
        InputError: there are no seeds, they are of different classes, or `judge` raises one.
    """
    seeds = _check_seeds(seeds)
    train, validation = (np.sum([one[part] for one in seeds], axis=0) for part in (1, 3))
    balanced = rules.are_unequal(train, validation)
    cell = _Cell([rules.make_parts(one, balanced) for one in seeds], own_divisions)
    if len(seeds) == 1:
        one = rules.judge(*seeds[0])
        return cell.verdict(one.name, one.reason)
    if missing := next(filter(None, map(rules.lacks_classes, seeds)), ""):
        return cell.verdict("cannot-tell", missing)
    return _judge_learning(cell, seeds) or _judge_gap(cell)


def _check_seeds(seeds: Iterable[Counts]) -> list[Counts]:
    """Return the counts of each seed, checked."""
    found = list(seeds) if isinstance(seeds, Iterable) and not isinstance(seeds, str | Counts) else []
    if not found:
        raise InputError(f"judge_cell needs a list with the Counts of at least one seed, not {seeds!r}.")
    for place, one in enumerate(found):
        if not isinstance(one, tuple) or not 4 <= len(one) <= 5:
            raise InputError(f"judge_cell needs the Counts of each seed; that at place {place} is {one!r}.")
        found[place] = Counts(*one)
        rules.make_parts(found[place])
    classes = {len(one.train_images) for one in found}
    if len(classes) > 1:
        raise InputError(f"seeds must have the same classes; given are {' and '.join(map(str, sorted(classes)))}.")
    return found


class _Cell:
    """The accuracies of all seeds, and limits of their means."""

    def __init__(self, parts: Sequence[tuple[Part, Part]], own_divisions: bool) -> None:
        self.parts, self.count, self.own_divisions = parts, len(parts), own_divisions
        accuracies = np.array([[part.accuracy for part in both] for both in parts])
        self.train, self.validation = accuracies.T
        self.gaps = self.train - self.validation
        trains, validations = ([both[i] for both in parts] for i in (0, 1))
        self._images_ratio = sum(p.images.sum() for p in validations) / sum(p.images.sum() for p in trains)
        self._train_binomial, self._validation_binomial = map(_binomial_variance, (trains, validations))
        self._exact = all(part.exact for part in trains)
        self._mean_train, self._mean_validation = map(_mean_part, (trains, validations))

    def _squared_error(self, values: np.ndarray, binomial: float, level: float) -> float:
        """Return the square of how far the mean over seeds may err to one side, by chance at `level`.

        What seeds and images add are each taken at their own quantiles, Student's t and the normal one, and their
        squares added (Zou and Donner 2008): with few seeds the variance between them is hardly known.
        """
        from scipy.special import ndtri, stdtrit

        between, quantile = float(values.var(ddof=1)), float(stdtrit(self.count - 1, level))
        if self.own_divisions:
            return quantile**2 * (1 / self.count + self._images_ratio) * max(between, binomial)
        return quantile**2 * between / self.count + float(ndtri(level)) ** 2 * binomial

    def train_limit(self, level: float, upper: bool) -> float:
        """Return the one-sided limit of the mean training accuracy over seeds, on these training images."""
        from scipy.special import stdtrit

        if self.count == 1:
            return self.parts[0][0].limit(level, upper)
        binomial, images = self._train_binomial
        variance = max(float(self.train.var(ddof=1)), binomial) / self.count + (0.0 if self._exact else binomial)
        error = float(stdtrit(self.count - 1, level)) ** 2 * variance
        limit = _wilson_limit(float(self.train.mean()), error / (images * binomial), upper)
        return limit if self._exact else _farther(limit, self._mean_train, level, upper)

    def validation_limit(self, level: float, upper: bool) -> float:
        """Return the one-sided limit of the mean validation accuracy."""
        return self._limit_of_validation(self.validation, 0.0, level, upper)

    def gap_limit(self, level: float, upper: bool = True) -> float:
        """Return the one-sided limit of the mean gap: all of its error is taken as that of validation."""
        if self.count == 1:
            return rules.gap_limit(*self.parts[0], level, upper)
        sampled = 0.0 if self._exact else self._train_binomial[0]
        return float(self.train.mean()) - self._limit_of_validation(self.gaps, sampled, level, not upper)

    def _limit_of_validation(self, varying: np.ndarray, more: float, level: float, upper: bool) -> float:
        """Return a limit of the mean validation accuracy, given what varies between seeds, and a variance to add."""
        if self.count == 1:
            return self.parts[0][1].limit(level, upper)
        binomial, images = self._validation_binomial
        error = self._squared_error(varying, binomial + more, level)
        limit = _wilson_limit(float(self.validation.mean()), error / (images * binomial), upper)
        return limit if self.own_divisions else _farther(limit, self._mean_validation, level, upper)

    def verdict(self, name: str, reason: str) -> CellVerdict:
        ends = [
            [limit(rules.GAP_LEVEL, upper) for upper in (False, True)]
            for limit in (self.train_limit, self.validation_limit, self.gap_limit)
        ]
        values = (self.train, self.validation, self.gaps)
        train, validation, gap = (
            Estimate(float(one.mean()), low, high, count=self.count)
            for one, (low, high) in zip(values, ends, strict=True)
        )
        a, b, c = (float(one.std(ddof=1)) if self.count > 1 else math.nan for one in values)
        balanced = self.parts[0][0].balanced
        return CellVerdict(name, reason, self.count, train, validation, gap, (a, b, c), balanced)


def _mean_part(parts: Sequence[Part]) -> Part | None:
    """Return one seed's part with the mean counts; None if seeds have other images."""
    if any(not np.array_equal(part.images, parts[0].images) for part in parts):
        return None
    return Part(np.mean([part.right for part in parts], axis=0), parts[0].images, parts[0].balanced)


def _farther(limit: float, part: Part | None, level: float, upper: bool) -> float:
    """Return the limit, or the part's own one if that is farther out."""
    if part is None:
        return limit
    return (max if upper else min)(limit, part.limit(level, upper))


def _binomial_variance(parts: Sequence[Part]) -> tuple[float, float]:
    """Return the variance of an accuracy of one seed's images, and the images of a plain accuracy of that precision.

    The variance is no less than with one more image in each class, half right.
    """
    balanced = parts[0].balanced and all(len(part.images) == len(parts[0].images) for part in parts)
    counts = [(part.right, part.images) if balanced else (part.right.sum(), part.images.sum()) for part in parts]
    right, images = (np.atleast_1d(np.mean([one[i] for one in counts], axis=0)) for i in (0, 1))
    shares = (right + 0.5) / (images + 1)
    classes = len(images)
    return float((shares * (1 - shares) / images).sum()) / classes**2, classes**2 / float((1 / images).sum())


def _wilson_limit(share: float, spread: float, upper: bool) -> float:
    """Return Wilson's limit of a share, given the square of the quantile over the number of images."""
    centre = (share + spread / 2) / (1 + spread)
    half = math.sqrt(max(0.0, share * (1 - share) * spread + spread**2 / 4)) / (1 + spread)
    return min(1.0, max(0.0, centre + (half if upper else -half)))


def _judge_learning(cell: _Cell, seeds: Sequence[Counts]) -> CellVerdict | None:
    """Return the verdict on a configuration of which most seeds have not been shown to learn; None otherwise.

    The p-value that all seeds guess is that of the seed in the middle, times seeds / its place from the lowest,
    whatever their dependence (Rüger 1978).
    """
    count, majority = cell.count, cell.count // 2 + 1
    p_values = sorted(2 * min(map(rules.guessing_p, both)) for both in cell.parts)
    if count / majority * p_values[majority - 1] <= 2 * rules.GUESSING_LEVEL:
        return None
    names = [rules.judge(*one).name for one in seeds]
    silent = names.count("not-learning")
    if silent >= majority:
        return cell.verdict("not-learning", f"{silent} of {count} seeds learn nothing")
    learnt = sum(p <= 2 * rules.GUESSING_LEVEL for p in p_values)
    return cell.verdict("cannot-tell", f"{learnt} of {count} seeds are beyond guessing, {silent} learn nothing")


def _judge_gap(cell: _Cell) -> CellVerdict:
    """Return the verdict on a configuration that learns, by the rules of training/verdict.py for the means."""
    gap, smallest, least = float(cell.gaps.mean()), rules.SMALLEST_GAP, rules.UNDERFIT_BELOW
    if gap >= smallest and cell.gap_limit(rules.GAP_LEVEL, upper=False) > 0:
        return cell.verdict("overfit", "the gap is above 0 beyond chance")
    if cell.train_limit(rules.EQUIVALENCE_LEVEL, upper=True) < least:
        return cell.verdict("underfit", f"train is below {100 * least:.0f} %")
    if cell.train_limit(rules.EQUIVALENCE_LEVEL, upper=False) < least:
        return cell.verdict("cannot-tell", f"train may be below or above {100 * least:.0f} %; more seeds would tell")
    if cell.gap_limit(rules.EQUIVALENCE_LEVEL) < smallest:
        return cell.verdict("fit", f"the gap is below {100 * smallest:.0f} points with 95 % confidence")
    what = f"{100 * smallest:.0f} points or more" if gap < smallest else "none at all"
    return cell.verdict("cannot-tell", f"the gap may be {what}; more seeds or validation images would tell")


# ---- the configurations of a study


@dataclass(frozen=True)
class Configuration:
    """The trials of one network that differ in the seed only, with their verdict."""

    name: str
    verdict: CellVerdict

    @property
    def cells(self) -> list[str]:
        """Cells under CONFIGURATION_HEADINGS."""
        one = self.verdict
        return [self.name, str(one.seeds), _percent(one.train), _percent(one.validation), _points(one.gap), one.name]

    def sentence(self) -> str:
        return f"{self.name}: {self.verdict.sentence()}"


def list_configurations(runs: Iterable[RecordedRun]) -> list[Configuration]:
    """Return the configurations that have several seeds, with the best mean validation accuracy first.

    Trials that did not finish are left out, and those recorded by a version that did not record their counts.
    """
    cells: dict[tuple[object, ...], dict[int, RecordedRun]] = {}
    for run in runs:
        if run.state == "finished" and run.verdict_counts:
            key = (run.architecture, run.weights, *sorted(run.levels.items()))
            cells.setdefault(key, {})[run.seed] = run
    trials = [run for cell in cells.values() for run in cell.values()]
    networks = {run.architecture for run in trials}
    varied = [
        name
        for name in dict.fromkeys(name for run in trials for name in run.levels)
        if any(len({run.levels.get(name) for run in trials if run.architecture == one}) > 1 for one in networks)
    ]
    found = []
    for cell in cells.values():
        first, *others = cell.values()
        if not others:
            continue
        blocks = {run.parameters.get(Parameter.BLOCK, "None") for run in cell.values()}
        own_divisions = len(blocks) == len(cell) and "None" not in blocks
        words = describe_levels(first.levels, varied)
        verdict = judge_cell([Counts(**run.verdict_counts) for run in cell.values()], own_divisions)
        name = ", ".join(filter(None, [first.architecture if len(networks) > 1 or not words else "", words]))
        found.append(Configuration(name, verdict))
    return sorted(found, key=lambda one: -one.verdict.validation.value)


def _percent(one: Estimate) -> str:
    return f"{100 * one.value:.1f} %{_interval(one, '')}"


def _points(one: Estimate) -> str:
    return f"{100 * one.value:+.1f}{_interval(one, '+')}"


def _interval(one: Estimate, sign: str) -> str:
    return "" if one.low is None or one.high is None else f" [{100 * one.low:{sign}.1f}, {100 * one.high:{sign}.1f}]"
