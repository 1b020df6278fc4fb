"""How much noisier the trials at some levels are than at others.

A small batch or a high learning rate may make single trials scatter more. The variances of contrasts between such
levels are then not alike, and may not be shrunk towards one another as if they were (intervals.shrink_variances).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from cnnstudy.analysis.contrasts import Contrast, level_indices
from cnnstudy.config.factors import Choices, Levels
from cnnstudy.records import Level

#: Of a cell, below which it says nothing of its noise: it has one trial, up to rounding.
_LEAST_FREEDOM = 1e-6


def relative_noise(
    frame: pd.DataFrame, varied: Mapping[str, Levels], contrasts: Sequence[Contrast], values: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return how much larger a contrast's variance is than it would be if all trials were equally noisy.

    That is the variance of the trials in the cells that it compares, over that of all trials. A trial's noise is what
    is left of its value without the mean of its cell over the seeds and that of its seed (whose noise it has a part of,
    so that ratios come out a little too close to 1). Whether noise differs at all is not tested first: with 3 seeds
    such a test too often misses a level with four times the noise of others (docs/statistics.md, "Checked by
    simulation").

    Args:
        frame: the trials.
        varied: the factors that vary (from `varied_levels`).
        contrasts: between their levels.
        values: [trials], NaN where a trial has none.

    Returns:
        [contrasts], ratios of variances, 1 where a contrast compares all cells or nothing is known; and their degrees
        of freedom (Satterthwaite 1946: few where one cell has most of the noise), infinite there.
    """
    ratios, freedoms = np.ones(len(contrasts)), np.full(len(contrasts), math.inf)
    there = np.isfinite(values)
    frame, values = frame[there], values[there]
    lists = {name: levels.values for name, levels in varied.items() if isinstance(levels, Choices)}
    if frame.empty or len(lists) < len(varied):  # points of ranges do not repeat
        return ratios, freedoms
    places = np.column_stack([level_indices(frame[name], levels) for name, levels in lists.items()])
    levels_of_cells, cells = np.unique(places, axis=0, return_inverse=True)
    cells = cells.ravel()
    seeds = np.unique(frame["seed"], return_inverse=True)[1]
    residuals, freedom = _subtract_means(values, np.column_stack([_indicators(cells), _indicators(seeds)[:, 1:]]))
    squares, freedom = np.bincount(cells, residuals**2), np.bincount(cells, freedom)
    common = squares.sum() / freedom.sum() if freedom.sum() >= 1 else 0.0
    for row, contrast in enumerate(contrasts):
        corners = np.array([_is_at(levels_of_cells, lists, corner) for _, corner in contrast.corners])
        compared = corners.any(axis=0)
        known = corners.any(axis=1).all() and freedom[compared].sum() >= 1 and squares[compared].sum() > 0
        if compared.all() or not known or common == 0:
            continue
        ratios[row] = squares[compared].sum() / freedom[compared].sum() / common
        freedoms[row] = _count_freedom(squares[compared], freedom[compared])
    return ratios, freedoms


def _is_at(cells: np.ndarray, lists: Mapping[str, Sequence[Level]], corner: Mapping[str, Level]) -> np.ndarray:
    """Return whether each cell [cells, factors], of places in the lists of levels, has the corner's levels, [cells]."""
    wanted = [(place, lists[name].index(corner[name])) for place, name in enumerate(lists) if name in corner]
    return np.all([cells[:, place] == level for place, level in wanted], axis=0)


def _count_freedom(squares: np.ndarray, freedom: np.ndarray) -> float:
    """Return the degrees of freedom of the mean variance of cells [n] whose variances may differ; at most their sum.

    With few seeds they are underrated where variances are equal: an estimated variance is sometimes large by chance.
    """
    parts = np.divide(squares**2, freedom, out=np.zeros_like(squares), where=freedom > _LEAST_FREEDOM)
    return float(min(freedom.sum(), squares.sum() ** 2 / parts.sum()))


def _subtract_means(values: np.ndarray, model: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the residuals of a least-squares fit, and each trial's share of their degrees of freedom.

    Args:
        values: [trials].
        model: [trials, coefficients].
    """
    inverse = np.linalg.pinv(model)
    return values - model @ (inverse @ values), 1 - np.einsum("ij,ji->i", model, inverse)


def _indicators(groups: np.ndarray) -> np.ndarray:
    """Return whether each trial is in each group, [trials, groups]."""
    return (groups[:, None] == np.arange(groups.max() + 1)).astype(float)
