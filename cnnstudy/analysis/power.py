"""Which difference a factorial can tell, before it runs: the smallest effect that most such studies find.

It is that on the outcome of the study's question. An effect is the mean over the seeds of a difference between trials
(module contrasts). It is found if its own t-test and Holm's correction over the question's answers, those of all
networks, both reject 0 (modules intervals and question). The smallest effect that is found with a power of 80 % follows
from the noncentral t distribution (Johnson and Welch 1940).

The noise of a trial is the sampling error of its accuracies and TRAINING_NOISE. Where the study has finished trials
with at least 3 seeds, the noise is taken from the intervals of their effects instead.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cnnstudy.analysis.contrasts import Cells, Contrast, list_contrasts, varied_levels
from cnnstudy.analysis.effects import Effect, estimate_effects
from cnnstudy.analysis.estimation import Design
from cnnstudy.analysis.intervals import CONFIDENCE, LEVEL, MIN_SEEDS, MIN_VARIANCES
from cnnstudy.analysis.looks import Looks
from cnnstudy.analysis.question import Question
from cnnstudy.analysis.regression import estimate_within_seeds
from cnnstudy.config.factors import Choices, Levels, find_factor
from cnnstudy.names import last_name
from cnnstudy.records import Level, PreparedImages
from cnnstudy.tracking.recorded import RecordedRun
from cnnstudy.training.verdict import are_unequal

POWER = 0.8
#: The seeds of a factorial by default.
TYPICAL_SEEDS = 5
#: Standard deviation of a trial's outcome beyond sampling error (share of 0..1): initial weights, order of batches, and
#: the division into train and validation. The intervals of the gap in 180 trials of an earlier overfitting-small gave
#: 5 to 6 points.
TRAINING_NOISE = 0.05
#: The accuracy that is assumed for the sampling error, on validation and on the probe.
_ASSUMED_ACCURACY = 0.8


@dataclass(frozen=True)
class Detectable:
    """The smallest difference between two levels of a factor that a study finds with a power of POWER.

    `difference` is a share of 0..1 (0.05 is 5 points); None: the design cannot tell this factor's effect.
    """

    factor: str
    difference: float | None


def trial_noise(images: PreparedImages, question: Question) -> float:
    """Return the standard deviation of a trial's outcome (share of 0..1) that is assumed before any trial has run."""
    parts = [np.array(images.validation, dtype=float)]
    if question.outcome == "gap":  # the probe has as many images of a class as validation, if it has them
        parts.append(np.minimum(images.train, parts[0]))
    each = [
        (1 / part[part > 0]).sum() / (part > 0).sum() ** 2 if question.balanced else 1 / part.sum() for part in parts
    ]
    return math.sqrt(_ASSUMED_ACCURACY * (1 - _ASSUMED_ACCURACY) * sum(each) + TRAINING_NOISE**2)


def typical_power(images: PreparedImages) -> tuple[float, float, float]:
    """Return what so many images can tell, before a study is designed.

    Returns:
        The smallest difference in the gap (share of 0..1) that a factorial of one factor with two levels and
        TYPICAL_SEEDS seeds finds with a power of POWER; and the ends of Wilson's 95 % interval of a test accuracy of
        about _ASSUMED_ACCURACY.
    """
    from scipy import stats

    levels = Choices((0.0, 0.5))
    trials = pd.DataFrame(itertools.product(levels.values, range(TYPICAL_SEEDS)), columns=["dropout", "seed"])
    question = Question(unequal=are_unequal(images.train, images.validation))
    (found,) = detectable_differences(trials, {"dropout": levels}, trial_noise(images, question), question=question)
    assert found.difference is not None  # two levels can be separated
    tested = sum(images.test)
    ends = stats.binomtest(round(_ASSUMED_ACCURACY * tested), tested).proportion_ci(CONFIDENCE, "wilson")
    return found.difference, float(ends.low), float(ends.high)


def count_answers(trials: pd.DataFrame, factors: Mapping[str, Levels], question: Question) -> int:
    """Return the number of main effects in one network that the question asks for."""
    contrasts = list_contrasts(trials, varied_levels(trials, factors))
    return sum(one.second is None and question.asks_about(one.factor) for one in contrasts)


def detectable_differences(
    trials: pd.DataFrame,
    factors: Mapping[str, Levels],
    noise: float,
    measured: Sequence[Effect] = (),
    question: Question | None = None,
    answers: int | None = None,
    looks: Looks | None = None,
    interactions: bool = True,
) -> list[Detectable]:
    """Return the smallest difference that the design can tell for each varied factor, largest over its levels.

    Args:
        trials: all trials of one network that are planned: a column for each factor, and `seed`.
        factors: the levels that the study file gives.
        noise: standard deviation of a trial's outcome (share of 0..1) where no effect is measured.
        measured: main effects on this outcome over MIN_SEEDS or more seeds, from trials that have finished.
        question: whose factors count; None: all.
        answers: number of effects that are corrected together; None: those of this network.
        looks: the last look of a study that is looked at while seeds are added.
        interactions: whether factors may interact, so that a main effect mixed with an interaction is not told.
    """
    question = question or Question()
    varied = varied_levels(trials, factors)
    every = list_contrasts(trials, varied)
    contrasts = [contrast for contrast in every if contrast.second is None]
    are_shrunk = len(every) >= MIN_VARIANCES
    seeds = int(trials["seed"].nunique())
    variances = _estimate_variances(trials, varied, contrasts, noise**2) | _measured_variances(measured)
    family = count_answers(trials, factors, question) if answers is None else answers
    aliases = Design(trials, varied, contrasts).aliases
    found: dict[str, float] = {}
    for contrast, mixed in zip(contrasts, aliases, strict=True):
        if not question.asks_about(contrast.factor):
            continue
        variance = variances.get((contrast.factor, contrast.level), math.nan)
        if mixed and interactions:
            variance = math.nan
        shift = math.nan
        if seeds >= MIN_SEEDS and family:
            freedom = _expected_freedom(trials, varied, contrast, len(contrasts)) if are_shrunk else float(seeds - 1)
            shift = _detectable_shift(seeds, family, freedom, looks)
        difference = shift * math.sqrt(variance / seeds)
        found[contrast.factor] = float(np.maximum(found.get(contrast.factor, 0.0), difference))
    return [Detectable(name, None if math.isnan(found[name]) else found[name]) for name in found]


def _estimate_variances(
    trials: pd.DataFrame, varied: Mapping[str, Levels], contrasts: Sequence[Contrast], variance: float
) -> dict[tuple[str, Level], float]:
    """Return the variance of a seed's estimate of each contrast, given that of a trial; without those it lacks."""
    values = np.zeros((len(trials), 1))
    if all(isinstance(levels, Choices) for levels in varied.values()):
        estimates = Cells(trials, varied, values).match_pairs(contrasts)
        if not np.isfinite(estimates.values).any(axis=1).all():
            estimates = estimate_within_seeds(trials, varied, contrasts, values)
    else:
        estimates = estimate_within_seeds(trials, varied, contrasts, values)
    return {
        (contrast.factor, contrast.level): float(spread) * variance
        for contrast, spread in zip(contrasts, estimates.spread[:, 0], strict=True)
    }


def _measured_variances(effects: Sequence[Effect]) -> dict[tuple[str, Level], float]:
    """Return the variance between the seeds of each main effect, from the width of its interval."""
    from scipy import stats

    variances = {}
    for effect in effects:
        if effect.low is not None and effect.high is not None:
            half = (effect.high - effect.low) / 2
            error = half / float(stats.t.ppf((1 + CONFIDENCE) / 2, effect.seeds - 1))
            variances[effect.factor, effect.level] = error**2 * effect.seeds
    return variances


def _expected_freedom(trials: pd.DataFrame, varied: Mapping[str, Levels], contrast: Contrast, contrasts: int) -> float:
    """Return the degrees of freedom that the variance of a contrast will have, once it is shrunk.

    Those of all main contrasts together, but no more than the noise at the levels that it compares has, if its factor
    has others (noise.relative_noise).
    """
    seeds = trials["seed"].nunique()
    levels = varied[contrast.factor]
    freedom = float((seeds - 1) * contrasts)
    if all(isinstance(one, Choices) for one in varied.values()) and len(getattr(levels, "values", ())) > 2:
        cells = trials[list(varied)].drop_duplicates()
        compared = int(cells[contrast.factor].isin([contrast.baseline, contrast.level]).sum())
        each = (seeds - 1) * (1 - 1 / len(cells))
        # of Satterthwaite's, with the expected squares of so many variances: they are underrated where few are known
        freedom = min(freedom, max(seeds - 1, (compared * each + 2) * each / (each + 2)))
    return freedom


@functools.cache
def _detectable_shift(seeds: int, answers: int, freedom_of_all: float, looks: Looks | None) -> float:
    """Return the effect, in standard errors, that is found with a power of POWER.

    The t-test over the seeds is at 5 %; the first step of Holm's correction is at 5 % / answers, with the degrees of
    freedom of the shrunk variance. Of these levels the last look has what earlier looks leave; that an effect may be
    told earlier is not counted.
    """
    from scipy import optimize, stats

    shifts = []
    for level, freedom in ((LEVEL, seeds - 1), (LEVEL / answers, freedom_of_all)):
        at_end = level if looks is None else looks.level_of(level)
        threshold = stats.t.ppf(1 - at_end / 2, freedom)

        def missing(shift: float, threshold: float = float(threshold), freedom: float = freedom) -> float:
            return float(stats.nct.sf(threshold, freedom, shift)) - POWER

        shifts.append(float(optimize.brentq(missing, 0.0, 100.0)))
    return max(shifts)


def describe_power(
    trials: pd.DataFrame,
    factors: Mapping[str, Levels],
    images: PreparedImages,
    finished: Sequence[RecordedRun],
    question: Question | None = None,
    answers: int | None = None,
    looks: Looks | None = None,
    interactions: bool = True,
) -> str:
    """Return a sentence on what a factorial can tell about its question in one network; "" if no factor varies.

    Args:
        trials: all trials that are planned: a column for each factor, and `seed`.
        factors: the levels that the study file gives.
        finished: the network's finished trials; from 3 seeds on they measure the noise.
        question: what is asked; None: the gap and all factors.
        answers: number of answers that are corrected together, those of all networks; None: of this one.
        looks: the last look of a study that stops when its question is answered.
        interactions: whether factors may interact.
    """
    seeds, validation = int(trials["seed"].nunique()), sum(images.validation)
    question = question or Question()
    if not count_answers(trials, factors, question):
        return ""
    if seeds < MIN_SEEDS:
        few = f"{seeds} seed{'s' if seeds > 1 else ''}"
        return f"power: none with {few}; at least {MIN_SEEDS} can tell a difference from chance"
    measured = _measured_effects(finished, factors, question)
    noise = trial_noise(images, question)
    found = detectable_differences(trials, factors, noise, measured, question, answers, looks, interactions)
    told = [
        f"{find_factor(one.factor).label} {100 * one.difference:.0f}" for one in found if one.difference is not None
    ]
    untold = [find_factor(one.factor).label for one in found if one.difference is None]
    why = f"{', '.join(untold)}, which the design cannot separate from each other or from interactions"
    if not told:
        return f"power: none about {why}"
    parts = [f"{', '.join(told)} points", *([f"none of {why}"] if untold else [])]
    source = "measured so far" if measured else "assumed until trials measure it"
    return (
        f"power: with {seeds} seeds{', the most,' if looks else ''} and {validation} validation images, "
        f"{100 * POWER:.0f} % of studies find a difference in {question.words} of {'; '.join(parts)} (noise {source})"
    )


def _measured_effects(
    finished: Sequence[RecordedRun], factors: Mapping[str, Levels], question: Question
) -> list[Effect]:
    """Return the main effects on the question's outcome that have an interval over enough seeds."""
    outcome = last_name(question.metric)
    rows = [
        {
            **run.levels,
            "architecture": run.architecture,
            "seed": run.seed,
            "verdict": run.verdict,
            question.column: run.metrics[outcome],
        }
        for run in finished
        if outcome in run.metrics
    ]
    if len({row["seed"] for row in rows}) < MIN_SEEDS:
        return []
    effects = estimate_effects(pd.DataFrame(rows), factors, [question.column])
    return [one for one in effects if one.second is None and one.low is not None and one.seeds >= MIN_SEEDS]
