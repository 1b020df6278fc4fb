"""Which difference a factorial can tell, before it runs: the smallest effect on the gap that most such studies find.

An effect is the mean over the seeds of a difference between trials (module contrasts). It is found if its own t-test
and Holm's correction over the main effects of a network both reject 0 (module intervals). The smallest effect that is
found with a power of 80 % follows from the noncentral t distribution (Johnson and Welch 1940).

The noise of a trial is the sampling error of its two accuracies and TRAINING_NOISE. Where the study has finished trials
with at least 2 seeds, the noise is taken from the intervals of their effects instead.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cnnstudy.analysis.contrasts import Cells, Contrast, list_contrasts, varied_levels
from cnnstudy.analysis.effects import Effect, estimate_effects
from cnnstudy.analysis.intervals import CONFIDENCE, LEVEL, MIN_SEEDS
from cnnstudy.analysis.observations import GAP
from cnnstudy.analysis.regression import estimate_within_seeds
from cnnstudy.config.factors import Choices, Levels, find_factor
from cnnstudy.names import Metric, last_name
from cnnstudy.records import Level, PreparedImages
from cnnstudy.tracking.recorded import RecordedRun

POWER = 0.8
#: Standard deviation of a trial's gap beyond sampling error (share of 0..1): initial weights, order of batches, and the
#: division into train and validation. The intervals of the 180 trials of overfitting-small in docs/statistics.md give 5
#: to 6 points.
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


def trial_noise(validation_images: int, probe_images: int) -> float:
    """Return the standard deviation of a trial's gap (share of 0..1) that is assumed before any trial has run."""
    sampling = _ASSUMED_ACCURACY * (1 - _ASSUMED_ACCURACY) * (1 / validation_images + 1 / probe_images)
    return math.sqrt(sampling + TRAINING_NOISE**2)


def detectable_differences(
    trials: pd.DataFrame, factors: Mapping[str, Levels], noise: float, measured: Sequence[Effect] = ()
) -> list[Detectable]:
    """Return the smallest difference that the design can tell for each varied factor, largest over its levels.

    Args:
        trials: all trials of one network that are planned: a column for each factor, and `seed`.
        factors: the levels that the study file gives.
        noise: standard deviation of a trial's outcome (share of 0..1) where no effect is measured.
        measured: main effects on this outcome over MIN_SEEDS or more seeds, from trials that have finished.
    """
    varied = varied_levels(trials, factors)
    contrasts = [contrast for contrast in list_contrasts(trials, varied) if contrast.second is None]
    seeds = int(trials["seed"].nunique())
    variances = _estimate_variances(trials, varied, contrasts, noise**2) | _measured_variances(measured)
    shift = _detectable_shift(seeds, len(contrasts)) if seeds >= MIN_SEEDS else math.nan
    found: dict[str, float] = {}
    for contrast in contrasts:
        variance = variances.get((contrast.factor, contrast.level), math.nan)
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


def _detectable_shift(seeds: int, contrasts: int) -> float:
    """Return the effect, in standard errors, that is found with a power of POWER.

    The t-test over the seeds is at 5 %; the first step of Holm's correction is at 5 % / contrasts, with the degrees of
    freedom of all contrasts together.
    """
    from scipy import optimize, stats

    shifts = []
    for level, freedom in ((LEVEL, seeds - 1), (LEVEL / contrasts, (seeds - 1) * contrasts)):
        threshold = stats.t.ppf(1 - level / 2, freedom)

        def missing(shift: float, threshold: float = float(threshold), freedom: int = freedom) -> float:
            return float(stats.nct.sf(threshold, freedom, shift)) - POWER

        shifts.append(float(optimize.brentq(missing, 0.0, 100.0)))
    return max(shifts)


def describe_power(
    trials: pd.DataFrame,
    factors: Mapping[str, Levels],
    images: PreparedImages,
    finished: Sequence[RecordedRun],
) -> str:
    """Return a sentence on what a factorial can tell about the gap of one network; "" if no factor varies.

    Args:
        trials: all trials that are planned: a column for each factor, and `seed`.
        factors: the levels that the study file gives.
        finished: the network's finished trials; from 3 seeds on they measure the noise.
    """
    seeds, validation = int(trials["seed"].nunique()), sum(images.validation)
    if not varied_levels(trials, factors):
        return ""
    if seeds < MIN_SEEDS:
        few = f"{seeds} seed{'s' if seeds > 1 else ''}"
        return f"power: none with {few}; at least {MIN_SEEDS} can tell a difference from chance"
    measured = _measured_effects(finished, factors)
    noise = trial_noise(validation, sum(map(min, images.train, images.validation)))
    found = detectable_differences(trials, factors, noise, measured)
    told = [
        f"{find_factor(one.factor).label} {100 * one.difference:.0f}" for one in found if one.difference is not None
    ]
    untold = [find_factor(one.factor).label for one in found if one.difference is None]
    parts = [f"{', '.join(told)} points"] if told else []
    parts += [f"none of {', '.join(untold)}, which the design cannot separate"] if untold else []
    source = "measured so far" if measured else "assumed until trials measure it"
    return (
        f"power: with {seeds} seeds and {validation} validation images, {100 * POWER:.0f} % of studies find a "
        f"difference in the gap of {'; '.join(parts)} (noise {source})"
    )


def _measured_effects(finished: Sequence[RecordedRun], factors: Mapping[str, Levels]) -> list[Effect]:
    """Return the main effects on the gap at the last epoch that have an interval over enough seeds."""
    gap = last_name(Metric.GAP_ACCURACY)
    rows = [
        {
            **run.levels,
            "architecture": run.architecture,
            "seed": run.seed,
            "verdict": run.verdict,
            GAP: run.metrics[gap],
        }
        for run in finished
        if gap in run.metrics
    ]
    if len({row["seed"] for row in rows}) < MIN_SEEDS:
        return []
    effects = estimate_effects(pd.DataFrame(rows), factors, [GAP])
    return [one for one in effects if one.second is None and one.low is not None and one.seeds >= MIN_SEEDS]
