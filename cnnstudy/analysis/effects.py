"""Effects of the factors on each outcome, with 95 % intervals over the seeds.

An effect is estimated within each seed, by matched pairs (module contrasts) or least squares (module regression). The
seeds' estimates are the sample from which its interval is computed (module intervals).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cnnstudy.analysis.contrasts import Cells, Contrast, SeedEstimates, list_contrasts, outcome_values, varied_levels
from cnnstudy.analysis.intervals import LEVEL, Estimate, adjust_p_values, t_test_over_seeds
from cnnstudy.analysis.observations import BASES, LEGACY_GAP, OUTCOMES
from cnnstudy.analysis.regression import estimate_over_all_trials, estimate_within_seeds
from cnnstudy.config.factors import Choices, Levels
from cnnstudy.records import Level

#: How an effect was estimated.
PAIRS, LEAST_SQUARES, ALL_TRIALS = "matched pairs", "least squares in each seed", "least squares over all trials"


@dataclass(frozen=True)
class Effect:
    """The effect of a factor's level on an outcome relative to the baseline, averaged over the other factors.

    With a second factor it is an interaction: how much larger the first factor's effect is at the second's level than
    at the second's baseline. For a range, baseline and level are its low and high end. `estimate`, `low` and `high` are
    in the outcome's units: shares of 0..1 for accuracies and gaps (0.05 is 5 points), nats for losses. Without an
    interval (one seed) `low`, `high`, `p` and `p_adjusted` are None.
    """

    architecture: str
    factor: str
    baseline: Level
    level: Level
    second: str | None
    second_baseline: Level | None
    second_level: Level | None
    basis: str
    outcome: str
    estimate: float
    low: float | None
    high: float | None
    p: float | None
    p_adjusted: float | None
    seeds: int
    pairs: int  # matched pairs, for an interaction matched fours; 0: least squares
    method: str  # PAIRS, LEAST_SQUARES or ALL_TRIALS

    @property
    def column(self) -> str:
        """The column of the observations from which it was estimated, `<basis>/<outcome>`."""
        return f"{self.basis}/{self.outcome}"

    @property
    def answer(self) -> str:
        """`raises` or `lowers`; `cannot tell` if the interval contains 0 or p_adjusted is 5 % or more."""
        if self.low is None or self.high is None or self.p_adjusted is None or self.p_adjusted >= LEVEL:
            return "cannot tell"
        return "raises" if self.low > 0 else "lowers" if self.high < 0 else "cannot tell"

    def to_estimate(self) -> Estimate:
        """Return the number, its interval, its unadjusted p-value and the number of seeds."""
        return Estimate(self.estimate, self.low, self.high, self.p, self.seeds)


def estimate_effects(
    frame: pd.DataFrame, factors: Mapping[str, Levels], columns: Sequence[str] | None = None
) -> list[Effect]:
    """Return the main effects, then the two-factor interactions, for each outcome.

    Factors with listed levels are compared by matched pairs where there are enough, else by least squares within each
    seed; ranges always by least squares. Where seeds do not repeat (a search), least squares runs over all trials, and
    the interval says nothing about other seeds. With a single seed, listed levels have no interval. Contrasts
    that the trials cannot estimate are omitted.

    Args:
        frame: finished trials of one network (observations.Observations.frame).
        factors: the levels that the study file gives; factors that do not vary are ignored. If `architecture` is one of
            them, networks are compared and the effects' architecture is "".
        columns: outcomes as `<basis>/<outcome>`; None: all that the frame has.

    Raises:
        ValueError: the trials are of several networks, or a column is unknown.
    """
    columns = _outcome_columns(frame, columns)
    if frame.empty or not columns:
        return []
    varied, networks = varied_levels(frame, factors), list(dict.fromkeys(frame["architecture"]))
    if len(networks) > 1 and "architecture" not in varied:
        raise ValueError(f"trials of several networks: {', '.join(networks)}; pass those of one")
    contrasts = list_contrasts(frame, varied)
    if not contrasts:
        return []
    values = np.column_stack([outcome_values(frame, column) for column in columns])
    estimates, methods = _estimate_by_seed(frame, varied, contrasts, values)
    interaction = np.array([contrast.second is not None for contrast in contrasts])
    network, effects = "" if "architecture" in varied else networks[0], []
    for index, column in enumerate(columns):
        outcome = values[:, index]
        seed_estimates = estimates.values[:, :, index]
        tests, shrunk_p = t_test_over_seeds(seed_estimates, estimates.spread[:, index])
        seeds = np.isfinite(seed_estimates).sum(axis=1)
        all_trials = methods[:, index] == ALL_TRIALS
        if all_trials.any():
            tests[all_trials] = estimate_over_all_trials(frame, varied, contrasts, outcome)[all_trials]
            shrunk_p[all_trials] = tests[all_trials, 3]
            seeds[all_trials] = frame["seed"][np.isfinite(outcome)].nunique()
        p_values = adjust_p_values(tests[:, 3], shrunk_p, interaction)
        table = _TestedContrasts(tests, p_values, seeds, estimates.pairs[:, index], methods[:, index])
        effects += _list_effects(network, column, contrasts, table)
    return effects


@dataclass(frozen=True)
class _TestedContrasts:
    """The test of each contrast on one outcome."""

    tests: np.ndarray  # [contrasts, 4]: estimate, low, high, p; NaN where there is none
    p_adjusted: np.ndarray  # [contrasts]
    seeds: np.ndarray  # [contrasts]
    pairs: np.ndarray  # [contrasts]
    methods: np.ndarray  # [contrasts]


def _list_effects(
    architecture: str, column: str, contrasts: Sequence[Contrast], table: _TestedContrasts
) -> list[Effect]:
    """Return an effect for each contrast that has an estimate."""
    basis, outcome = column.split("/", 1)
    effects = []
    for row, contrast in enumerate(contrasts):
        estimate, low, high, p = (None if math.isnan(number) else float(number) for number in table.tests[row])
        if estimate is None:
            continue
        p_adjusted = float(table.p_adjusted[row])
        effects.append(
            Effect(
                architecture,
                **dataclasses.asdict(contrast),
                basis=basis,
                outcome=outcome,
                estimate=estimate,
                low=low,
                high=high,
                p=p,
                p_adjusted=None if math.isnan(p_adjusted) else p_adjusted,
                seeds=int(table.seeds[row]),
                pairs=int(table.pairs[row]),
                method=str(table.methods[row]),
            )
        )
    return effects


def _outcome_columns(frame: pd.DataFrame, columns: Sequence[str] | None) -> Sequence[str]:
    """Return the given columns, or all outcomes of the frame if None is given; refuse unknown ones."""
    if columns is None:
        known = [f"{basis}/{outcome}" for basis in BASES for outcome in OUTCOMES] + [LEGACY_GAP]
        columns = [column for column in known if column in frame]
    if unknown := [column for column in columns if column not in frame or "/" not in column]:
        raise ValueError(f"no outcome {unknown[0]!r}; the columns are {', '.join(map(str, frame.columns))}")
    return columns


def _estimate_by_seed(
    frame: pd.DataFrame, varied: Mapping[str, Levels], contrasts: Sequence[Contrast], values: np.ndarray
) -> tuple[SeedEstimates, np.ndarray]:
    """Estimate each contrast within each seed, and return the method used for each.

    Returns:
        The estimates, NaN where the contrast has to be estimated over all trials; the methods [contrasts, outcomes].
    """
    all_listed = all(isinstance(levels, Choices) for levels in varied.values())
    paired = Cells(frame, varied, values).match_pairs(contrasts) if all_listed else None
    by_pairs = np.isfinite(paired.values).any(axis=1) if paired else np.zeros((len(contrasts), values.shape[1]), bool)
    if paired and by_pairs.all():
        return paired, np.full(by_pairs.shape, PAIRS)
    fitted = estimate_within_seeds(frame, varied, contrasts, values)
    # trials of a search that happen to share a seed are not a block
    repeated = (np.isfinite(fitted.values).sum(axis=1) > 1) | (all_listed and frame["seed"].nunique() == 1)
    estimates = np.where(repeated[:, None], fitted.values, math.nan)
    if paired:
        estimates = np.where(by_pairs[:, None], paired.values, estimates)
    spread = np.where(by_pairs, paired.spread, fitted.spread) if paired else fitted.spread
    methods = np.where(by_pairs, PAIRS, np.where(repeated, LEAST_SQUARES, ALL_TRIALS))
    return SeedEstimates(estimates, spread, paired.pairs if paired else fitted.pairs), methods
