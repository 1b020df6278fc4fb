"""What the trials that are missing could change.

A trial may be missing because of what its outcome would have been: a pruner ends the worst. Effects among the remaining
trials are then biased, and no method can tell from these trials alone by how much. Bounds can (Manski 1990; Horowitz
and Manski 2000): the missing outcomes are taken to lie anywhere in a plausible range, and the estimate over the
complete design is computed at its extremes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cnnstudy.analysis.aliases import Estimator, cell_codes
from cnnstudy.config.factors import Levels

#: Trials are of one design with missing ones if at least this share of its cells and seeds is there.
_MIN_PRESENT = 0.5
#: By how much the plausible range is wider than the observed one on each side, as a share of it; with few trials more.
_WIDER, _WIDER_FOR_FEW = 0.1, 2.0


@dataclass(frozen=True)
class CompleteDesign:
    """A design with a trial for each cell and seed."""

    frame: pd.DataFrame  # a row per cell and seed: levels and seed
    of_trial: np.ndarray  # [trials] of the study: its row in `frame`, -1 where it is not part of the design
    unfinished: tuple[object, ...]  # seeds of which less than half has run, which are left out


def complete_design(frame: pd.DataFrame, varied: Mapping[str, Levels]) -> CompleteDesign | None:
    """Return the complete design that the trials are part of; None where cells do not repeat over seeds.

    Args:
        frame: the trials of one network, also those without an outcome.
        varied: the factors that vary, lists only (from `varied_levels`).
    """
    cells, of_cell = np.unique(cell_codes(frame, varied), axis=0, return_inverse=True)
    seeds, of_seed = np.unique(frame["seed"].to_numpy(), return_inverse=True)
    present = np.zeros((len(seeds), len(cells)), dtype=bool)
    present[of_seed, of_cell.ravel()] = True
    kept = present.mean(axis=1) >= _MIN_PRESENT
    if len(seeds) < 2 or not kept.any() or present.mean() < _MIN_PRESENT:
        return None
    first = np.unique(of_cell.ravel(), return_index=True)[1]
    levels = frame[list(varied)].iloc[first]
    complete = pd.concat([levels.assign(seed=seed) for seed in seeds[kept]], ignore_index=True)
    number = np.cumsum(kept) - 1
    place = np.where(kept[of_seed], number[of_seed] * len(cells) + of_cell.ravel(), -1)
    return CompleteDesign(complete, place, tuple(seeds[~kept].tolist()))


@dataclass(frozen=True)
class Bounds:
    """The estimates over the complete design, wherever the missing outcomes lie in their range."""

    low: np.ndarray  # [contrasts]
    high: np.ndarray  # [contrasts]
    missing: int  # trials
    range: tuple[float, float]  # of the outcome


def bound_estimates(design: CompleteDesign, values: np.ndarray, estimate: Estimator, is_share: bool) -> Bounds | None:
    """Return the bounds of each contrast; None if no trial is missing.

    The estimates are linear in the outcomes, so that each missing outcome has a weight, and the extremes are reached
    where all of them lie at the ends of the range that their weights' signs choose.

    Args:
        values: [trials] of the study, NaN where a trial has none.
        estimate: the estimator over the complete design's trials.
        is_share: whether the outcome lies in -1..1.
    """
    total, count = np.zeros((2, len(design.frame)))
    used = np.isfinite(values) & (design.of_trial >= 0)
    np.add.at(total, design.of_trial[used], values[used])
    np.add.at(count, design.of_trial[used], 1)
    missing = np.flatnonzero(count == 0)
    if len(missing) == 0 or not used.any():
        return None
    low, high = _plausible_range(values[used], is_share)
    outcomes = np.zeros((len(design.frame), 1 + len(missing)))
    outcomes[:, 0] = np.where(count > 0, total / np.maximum(count, 1), (low + high) / 2)
    outcomes[missing, 1 + np.arange(len(missing))] = 1.0
    estimates = estimate(outcomes)
    half = np.abs(estimates[:, 1:]).sum(axis=1) * (high - low) / 2
    return Bounds(estimates[:, 0] - half, estimates[:, 0] + half, len(missing), (low, high))


def _plausible_range(values: np.ndarray, is_share: bool) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    wider = (high - low) * (_WIDER + _WIDER_FOR_FEW / len(values))
    low, high = low - wider, high + wider
    if is_share:
        low, high = max(low, -1.0 if values.min() < 0 else 0.0), min(high, 1.0)
    return low, high


def describe_missing(bounds: Bounds, trials: int, is_share: bool) -> str:
    """Return why an effect has no answer where missing trials could overturn it."""
    scale, unit = (100, " points") if is_share else (1, "")
    low, high = (f"{scale * end:.3g}" for end in bounds.range)
    return (
        f"{bounds.missing} trial{'s are' if bounds.missing > 1 else ' is'} missing beside the {trials} that are there, "
        f"and outcomes of {low} to {high}{unit} in them could overturn what the others say"
    )
