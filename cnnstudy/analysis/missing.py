"""What the trials that are missing could change.

A trial may be missing because of what its outcome would have been: a pruner ends the worst. Effects among the remaining
trials are then biased, and no method can tell from these trials alone by how much. Bounds can (Manski 1990; Horowitz
and Manski 2000): the missing outcomes are taken to lie anywhere in a plausible range, and the estimate over the
complete design is computed at its extremes. The plausible range of a trial is that of a 99.7 % prediction interval
around what its cell has with the other seeds, and its seed in the other cells: even the worst trial of a cell is then
hardly outside.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cnnstudy.analysis.aliases import Estimator, cell_codes
from cnnstudy.config.factors import Levels

#: Trials are of one design with missing ones if at least this share of its cells and seeds is there.
_MIN_PRESENT = 0.5
#: The probability with which a missing outcome lies in its plausible range, if it is missing by chance.
_PLAUSIBLE = 0.997
#: Rounds in which cells and seeds are fitted in turn.
_ROUNDS = 20


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
    margin: float  # the largest distance of a missing outcome from what its cell and its seed suggest


def bound_estimates(design: CompleteDesign, values: np.ndarray, estimate: Estimator) -> Bounds | None:
    """Return the bounds of each contrast; None if no trial is missing, or there are too few to tell what they may be.

    The estimates are linear in the outcomes, so that each missing outcome has a weight, and the extremes are reached
    where all of them lie at the ends of their ranges that their weights' signs choose.

    Args:
        values: [trials] of the study, NaN where a trial has none.
        estimate: the estimator over the complete design's trials.
    """
    total, count = np.zeros((2, len(design.frame)))
    used = np.isfinite(values) & (design.of_trial >= 0)
    np.add.at(total, design.of_trial[used], values[used])
    np.add.at(count, design.of_trial[used], 1)
    missing = np.flatnonzero(count == 0)
    if len(missing) == 0 or not used.any():
        return None
    seeds = design.frame["seed"].nunique()
    outcomes = np.where(count > 0, total / np.maximum(count, 1), math.nan).reshape(seeds, -1)
    expected, margins = _predict(outcomes)
    filled = np.zeros((len(design.frame), 1 + len(missing)))
    filled[:, 0] = np.where(np.isfinite(outcomes), outcomes, expected).ravel()
    filled[missing, 1 + np.arange(len(missing))] = 1.0
    estimates = estimate(filled)
    half = np.abs(estimates[:, 1:]) @ margins.ravel()[missing]
    return Bounds(estimates[:, 0] - half, estimates[:, 0] + half, len(missing), float(margins.ravel()[missing].max()))


def _predict(outcomes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return what each trial is expected to have from its cell and its seed, and the margin of that prediction.

    Args:
        outcomes: [seeds, cells], NaN where a trial is missing.
    """
    from scipy import special

    there = np.isfinite(outcomes)
    of_cells, of_seeds = np.maximum(there.sum(axis=0), 1), np.maximum(there.sum(axis=1), 1)
    cells, seeds = np.full(outcomes.shape[1], np.nanmean(outcomes)), np.zeros(outcomes.shape[0])
    for _ in range(_ROUNDS):
        rest = np.where(there, outcomes - seeds[:, None], 0.0).sum(axis=0)
        cells = np.where(there.any(axis=0), rest / of_cells, np.nanmean(outcomes))
        seeds = np.where(there, outcomes - cells, 0.0).sum(axis=1) / of_seeds
    expected = cells + seeds[:, None]
    freedom = int(there.sum()) - int(there.any(axis=0).sum()) - len(seeds) + 1
    if freedom < 1:
        return expected, np.full(outcomes.shape, np.nanmax(outcomes) - np.nanmin(outcomes))
    error = math.sqrt(float((np.where(there, outcomes - expected, 0.0) ** 2).sum()) / freedom)
    quantile = float(special.stdtrit(freedom, (1 + _PLAUSIBLE) / 2))
    whole = np.where(there.any(axis=0), 0.0, np.nanmax(outcomes) - np.nanmin(outcomes))  # a cell without any trial
    return expected, quantile * error * np.sqrt(1 + 1 / of_cells + 1 / of_seeds[:, None]) + whole


def describe_missing(bounds: Bounds, trials: int, is_share: bool) -> str:
    """Return why an effect has no answer where missing trials could overturn it."""
    scale, unit = (100, " points") if is_share else (1, "")
    return (
        f"{bounds.missing} trial{'s are' if bounds.missing > 1 else ' is'} missing beside the {trials} that are there; "
        f"if they are missing because of their outcomes, up to {scale * bounds.margin:.2g}{unit} from those of similar "
        "trials, that could overturn what the others say"
    )
