"""How a study's contrasts are estimated: by matched pairs or least squares, and what its design leaves open."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from cnnstudy.analysis.aliases import describe_aliases, find_aliases, is_complete, name_factor
from cnnstudy.analysis.contrasts import Cells, Contrast, SeedEstimates, list_contrasts, nanmean, varied_levels
from cnnstudy.analysis.missing import Bounds, CompleteDesign, bound_estimates, complete_design
from cnnstudy.analysis.regression import estimate_over_all_trials, estimate_within_seeds
from cnnstudy.config.factors import Choices, Levels
from cnnstudy.records import Level

#: How an effect was estimated.
PAIRS, LEAST_SQUARES, ALL_TRIALS = "matched pairs", "least squares in each seed", "least squares over all trials"


def estimate_by_seed(
    frame: pd.DataFrame, varied: Mapping[str, Levels], contrasts: Sequence[Contrast], values: np.ndarray
) -> tuple[SeedEstimates, np.ndarray]:
    """Estimate each contrast within each seed, and return the method used for each.

    Matched pairs estimate the average over all cells in a complete factorial. In other sets of cells they average over
    some, so that least squares, which can take interactions into account, goes first there.

    Returns:
        The estimates, NaN where the contrast has to be estimated over all trials; the methods [contrasts, outcomes].
    """
    all_listed = _are_listed(varied)
    complete = all_listed and is_complete(frame, varied)
    paired = Cells(frame, varied, values).match_pairs(contrasts) if all_listed else None
    by_pairs = np.isfinite(paired.values).any(axis=1) if paired else np.zeros((len(contrasts), values.shape[1]), bool)
    if paired and complete and by_pairs.all():
        return paired, np.full(by_pairs.shape, PAIRS)
    fitted = estimate_within_seeds(frame, varied, contrasts, values)
    # trials of a search that happen to share a seed are not a block
    repeated = (np.isfinite(fitted.values).sum(axis=1) > 1) | (all_listed and frame["seed"].nunique() == 1)
    by_pairs &= complete | ~repeated
    estimates = np.where(repeated[:, None], fitted.values, math.nan)
    if paired:
        estimates = np.where(by_pairs[:, None], paired.values, estimates)
    spread = np.where(by_pairs, paired.spread, fitted.spread) if paired else fitted.spread
    methods = np.where(by_pairs, PAIRS, np.where(repeated, LEAST_SQUARES, ALL_TRIALS))
    return SeedEstimates(estimates, spread, np.where(by_pairs, paired.pairs, 0) if paired else fitted.pairs), methods


class Design:
    """The trials of one network as a design: what is missing from it, and what it cannot separate.

    Args:
        frame: the trials, also those without an outcome.
        varied: the factors that vary (from `varied_levels`).
        contrasts: what is estimated.
    """

    def __init__(self, frame: pd.DataFrame, varied: Mapping[str, Levels], contrasts: Sequence[Contrast]) -> None:
        self.frame, self.varied, self.contrasts = frame, varied, contrasts
        self._complete: CompleteDesign | None = complete_design(frame, varied) if _are_listed(varied) else None
        #: whether seeds repeat the same cells, so that nothing is estimated over all trials
        self.repeats_cells = self._complete is not None
        #: [trials], whether a trial is not used because less than half of its seed's trials are there
        self.is_left_out = np.zeros(len(frame), bool) if self._complete is None else self._complete.of_trial < 0

    @property
    def has_ranges(self) -> bool:
        """Whether a factor that varies is a range, of which a curve is fitted."""
        return not _are_listed(self.varied)

    @functools.cached_property
    def aliases(self) -> list[list[tuple[str, str]]]:
        """For each contrast the two-factor interactions that it is mixed with; none for designs with ranges."""
        none: list[list[tuple[str, str]]] = [[] for _ in self.contrasts]
        frame = self.frame if self._complete is None else self._complete.frame
        is_block = self._complete is not None or frame["seed"].nunique() == 1
        if self.has_ranges or (is_block and is_complete(frame, self.varied)):
            return none
        if is_block:  # all seeds have the same cells
            frame = frame[frame["seed"] == frame["seed"].iloc[0]]
        # interactions are estimated beside all others, or not at all
        main = [contrast for contrast in self.contrasts if contrast.second is None]
        estimate = functools.partial(_estimate, frame, self.varied, main, not is_block)
        found = find_aliases(frame, self.varied, main, estimate)
        return [*found, *none[len(found) :]]

    def bound_missing(self, outcome: np.ndarray) -> Bounds | None:
        """Return the bounds of each contrast if the missing trials' outcomes lie anywhere; None if none is missing.

        Args:
            outcome: [trials], NaN where a trial has none.
        """
        if self._complete is None:
            return None
        estimate = functools.partial(_estimate, self._complete.frame, self.varied, self.contrasts, False)
        return bound_estimates(self._complete, outcome, estimate)

    def count_trials(self, contrast: Contrast, outcome: np.ndarray) -> int:
        """Return the number of trials with an outcome at the levels that a contrast compares, or on its ranges."""
        chosen = np.isfinite(outcome)
        for name, ends in (
            (contrast.factor, (contrast.baseline, contrast.level)),
            (contrast.second, (contrast.second_baseline, contrast.second_level)),
        ):
            if name is not None:
                column = self.frame[name]
                is_there = column.isin(list(ends)) if isinstance(self.varied[name], Choices) else column.notna()
                chosen = chosen & is_there.to_numpy()
        return int(chosen.sum())


def describe_mixed_effects(cells: Sequence[Mapping[str, Level]], factors: Mapping[str, Levels]) -> list[str]:
    """Return, for each factor whose main effect these cells mix with interactions, `batch size: mixed with ...`.

    Args:
        cells: the levels of each cell of a design, which all seeds have.
        factors: the levels that a study gives.
    """
    frame = pd.DataFrame(list(cells)).assign(seed=0)
    varied = varied_levels(frame, factors)
    contrasts = list_contrasts(frame, varied)
    found: dict[str, list[tuple[str, str]]] = {}
    for contrast, pairs in zip(contrasts, Design(frame, varied, contrasts).aliases, strict=True):
        found.setdefault(contrast.factor, []).extend(pairs)
    return [
        f"{name_factor(factor)}: {describe_aliases(list(dict.fromkeys(pairs)))}"
        for factor, pairs in found.items()
        if pairs
    ]


def _estimate(
    frame: pd.DataFrame,
    varied: Mapping[str, Levels],
    contrasts: Sequence[Contrast],
    over_all: bool,
    values: np.ndarray,
) -> np.ndarray:
    """Return the contrasts' estimates, the mean over the seeds or over all trials, [contrasts, outcomes]."""
    found, methods = estimate_by_seed(frame, varied, contrasts, values)
    estimates = nanmean(found.values, 1)
    if over_all and (methods == ALL_TRIALS).any():
        fitted = [estimate_over_all_trials(frame, varied, contrasts, outcome)[:, 0] for outcome in values.T]
        estimates = np.where(methods == ALL_TRIALS, np.column_stack(fitted), estimates)
    return estimates


def _are_listed(varied: Mapping[str, Levels]) -> bool:
    return all(isinstance(levels, Choices) for levels in varied.values())
