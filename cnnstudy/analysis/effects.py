"""Which factor causes how many points of gap: effects with 95 % intervals over the seeds.

An effect is estimated within each seed, by matched pairs (contrasts) or least squares (regression); the seeds' numbers
are the sample that its interval comes from (inference).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cnnstudy.analysis.contrasts import BlockedContrasts, Cells, Contrast, list_contrasts, outcome_values, varied_levels
from cnnstudy.analysis.intervals import LEVEL, adjusted_p, test_over_seeds
from cnnstudy.analysis.observations import BASES, LEGACY_GAP, OUTCOMES
from cnnstudy.analysis.regression import estimate_by_block, estimate_over_all
from cnnstudy.config.factors import Choices, Levels
from cnnstudy.records import Level

#: How an effect was estimated.
PAIRS, LEAST_SQUARES, ALL_TRIALS = "matched pairs", "least squares in each seed", "least squares over all trials"


@dataclass(frozen=True)
class Effect:
    """What a factor's level does to an outcome against its baseline, averaged over the other factors.

    With a second factor it is an interaction: how much the first one's effect is larger at the second's level than at
    the second's baseline. Of a range, baseline and level are its ends. `estimate`, `low` and `high` are in the
    outcome's units: shares of 0..1 of accuracies (0.05 is 5 points), nats of losses. Without an interval (one seed)
    `low`, `high`, `p` and `p_adjusted` are None.
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
    pairs: int  # matched pairs (of an interaction: fours); 0: least squares
    method: str

    @property
    def answer(self) -> str:
        """What it does, "raises" or "lowers"; "cannot tell" where the interval holds 0 or p_adjusted is 5 % or more."""
        if self.low is None or self.high is None or self.p_adjusted is None or self.p_adjusted >= LEVEL:
            return "cannot tell"
        return "raises" if self.low > 0 else "lowers" if self.high < 0 else "cannot tell"


def estimate_effects(
    frame: pd.DataFrame, factors: Mapping[str, Levels], columns: Sequence[str] | None = None
) -> list[Effect]:
    """Main effects, then interactions of two factors, for each outcome.

    Lists are compared by matched pairs where a study has them, else by least squares within each seed; so are ranges.
    Where seeds do not repeat (a search) it is least squares over all trials, whose interval says nothing about other
    seeds; lists with one seed in all have no interval. A contrast that no trials tell is left out.

    Args:
        frame: finished trials (observations.Observations), of one network.
        factors: the levels that the study file gives; factors that do not vary are passed over. `architecture` may be
            one of them, to compare networks; the effects' architecture is "" then.
        columns: outcomes as `<basis>/<outcome>`; None: all that the frame has.

    Raises:
        ValueError: trials of several networks, or an unknown column.
    """
    if columns is None:
        known = [f"{basis}/{outcome}" for basis in BASES for outcome in OUTCOMES] + [LEGACY_GAP]
        columns = [column for column in known if column in frame]
    if unknown := [column for column in columns if column not in frame or "/" not in column]:
        raise ValueError(f"no outcome {unknown[0]!r} among the columns {', '.join(map(str, frame.columns))}")
    if frame.empty or not columns:
        return []
    varied, networks = varied_levels(frame, factors), list(dict.fromkeys(frame["architecture"]))
    if len(networks) > 1 and "architecture" not in varied:
        raise ValueError(f"trials of several networks: {', '.join(networks)}; give those of one")
    contrasts = list_contrasts(frame, varied)
    if not contrasts:
        return []
    values = np.column_stack([outcome_values(frame, column) for column in columns])
    estimated, methods = _by_block(frame, varied, contrasts, values)
    interaction = np.array([contrast.second is not None for contrast in contrasts])
    effects = []
    for place, column in enumerate(columns):
        of_seeds = estimated.values[:, :, place]
        tests, shrunk = test_over_seeds(of_seeds, estimated.spread[:, place])
        searched = methods[:, place] == ALL_TRIALS
        if searched.any():
            tests[searched] = estimate_over_all(frame, varied, contrasts, values[:, place])[searched]
            shrunk[searched] = tests[searched, 3]
        adjusted = adjusted_p(tests[:, 3], shrunk, interaction)
        there = frame["seed"][np.isfinite(values[:, place])].nunique()
        basis, outcome = column.split("/", 1)
        for row, contrast in enumerate(contrasts):
            estimate, low, high, p = (None if math.isnan(number) else float(number) for number in tests[row])
            if estimate is None:
                continue
            effects.append(
                Effect(
                    "" if "architecture" in varied else networks[0],
                    **dataclasses.asdict(contrast),
                    basis=basis,
                    outcome=outcome,
                    estimate=estimate,
                    low=low,
                    high=high,
                    p=p,
                    p_adjusted=None if math.isnan(adjusted[row]) else float(adjusted[row]),
                    seeds=int(there if searched[row] else np.isfinite(of_seeds[row]).sum()),
                    pairs=int(estimated.pairs[row, place]),
                    method=str(methods[row, place]),
                )
            )
    return effects


def _by_block(
    frame: pd.DataFrame, varied: Mapping[str, Levels], contrasts: Sequence[Contrast], values: np.ndarray
) -> tuple[BlockedContrasts, np.ndarray]:
    """Each contrast in each seed, and by which method, [contrasts, outcomes]; NaN where it takes all trials."""
    lists = all(isinstance(levels, Choices) for levels in varied.values())
    paired = Cells(frame, varied, values).matched(contrasts) if lists else None
    by_pairs = np.isfinite(paired.values).any(axis=1) if paired else np.zeros((len(contrasts), values.shape[1]), bool)
    if paired and by_pairs.all():
        return paired, np.full(by_pairs.shape, PAIRS)
    fitted = estimate_by_block(frame, varied, contrasts, values)
    # a search's trials that happen to share a seed make no block of it
    repeated = (np.isfinite(fitted.values).sum(axis=1) > 1) | (lists and frame["seed"].nunique() == 1)
    of_seeds = np.where(repeated[:, None], fitted.values, math.nan)
    if paired:
        of_seeds = np.where(by_pairs[:, None], paired.values, of_seeds)
    spread = np.where(by_pairs, paired.spread, fitted.spread) if paired else fitted.spread
    methods = np.where(by_pairs, PAIRS, np.where(repeated, LEAST_SQUARES, ALL_TRIALS))
    return BlockedContrasts(of_seeds, spread, paired.pairs if paired else fitted.pairs), methods
