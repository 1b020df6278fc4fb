"""How much noisier the trials at some levels are than at others.

A small batch or a high learning rate may make single trials scatter more. The variances of contrasts between such
levels are then not alike, and may not be shrunk towards one another as if they were (intervals.shrink_variances).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from cnnstudy.analysis.contrasts import Contrast, level_indices
from cnnstudy.analysis.intervals import Noise
from cnnstudy.config.factors import Choices, Levels

#: Of a cell, below which it says nothing of its noise: it has one trial, up to rounding.
_LEAST_FREEDOM = 1e-6
#: From this ratio of the variances at two levels of a factor on, noise is extreme: one scatters five times as much.
#: With six times, shrunk variances told false causes in 5.5 % of studies, and in 10 % where noise was skewed too.
_EXTREME = 25.0
#: The level of the F-test that it is not so by chance (few trials show little of their noise), for all pairs of levels.
_CHANCE = 0.05
#: Eigenvalues below this share of the largest count as 0: of seeds and cells that say the same.
_NEGLIGIBLE = 1e-10


def relative_noise(
    frame: pd.DataFrame, varied: Mapping[str, Levels], contrasts: Sequence[Contrast], values: np.ndarray
) -> Noise:
    """Return how much larger a contrast's variance is than it would be if all trials were equally noisy.

    That is the variance of the trials at the levels that it compares, over that of all trials; the factors' ratios are
    multiplied. A trial's noise is what is left of its value without the mean of its cell over the seeds and that of its
    seed (whose noise it has a part of, so that ratios come out a little too close to 1). Whether noise differs at all
    is not tested first: with 3 seeds such a test too often misses a level with four times the noise of others
    (docs/statistics.md, "Checked by simulation").

    Args:
        frame: the trials.
        varied: the factors that vary (from `varied_levels`).
        contrasts: between their levels.
        values: [trials], NaN where a trial has none.

    Returns:
        Its ratios are 1, and their degrees of freedom infinite, where a contrast compares all levels of each of its
        factors or nothing is known; else those of Satterthwaite (1946), few where one cell has most noise.
    """
    ratios, freedoms = np.ones(len(contrasts)), np.full(len(contrasts), math.inf)
    there = np.isfinite(values)
    frame, values = frame[there], values[there]
    lists = {name: levels.values for name, levels in varied.items() if isinstance(levels, Choices)}
    if frame.empty or len(lists) < len(varied):  # points of ranges do not repeat
        return Noise(ratios, freedoms)
    places = np.column_stack([level_indices(frame[name], levels) for name, levels in lists.items()])
    levels_of_cells, cells = np.unique(places, axis=0, return_inverse=True)
    cells = cells.ravel()
    seeds = np.unique(frame["seed"], return_inverse=True)[1]
    residuals, freedom = _subtract_means(values, cells, seeds)
    squares, freedom = np.bincount(cells, residuals**2), np.bincount(cells, freedom)
    of_levels = [_noise_of_levels(levels_of_cells[:, place], squares, freedom) for place in range(len(lists))]
    for row, contrast in enumerate(contrasts):
        compared = np.ones(len(levels_of_cells), dtype=bool)
        for place, (name, levels) in enumerate(lists.items()):
            corners = {levels.index(corner[name]) for _, corner in contrast.corners if name in corner}
            if corners and corners < of_levels[place].keys():
                ratios[row] *= np.mean([of_levels[place][level] for level in corners])
                compared &= np.isin(levels_of_cells[:, place], list(corners))
        if not compared.all() and freedom[compared].sum() >= 1 and squares[compared].any():
            freedoms[row] = _count_freedom(squares[compared], freedom[compared])
    table = np.full((len(levels_of_cells), int(seeds.max()) + 1), math.nan)
    table[cells, seeds] = values  # of trials that repeat a cell and seed, the last
    is_extreme = any(_differ_extremely(table, levels_of_cells[:, place]) for place in range(len(lists)))
    return Noise(ratios, freedoms, is_extreme)


def _differ_extremely(table: np.ndarray, places: np.ndarray) -> bool:
    """Return whether the noise at one level of a factor is many times that at another, and beyond chance so.

    It is what is left at one level without the means of its cells and seeds, whatever the noise at others.

    Args:
        table: [cells, seeds], the values; NaN where there is none. Only seeds with all cells of a level show its noise.
        places: [cells], the place of each cell's level in its list.
    """
    from scipy import special

    found = []
    for place in set(places):
        known = table[places == place]
        known = known[:, np.isfinite(known).all(axis=0)]
        if min(known.shape) > 1:
            freedom = (known.shape[0] - 1) * (known.shape[1] - 1)
            residuals = known - known.mean(axis=0) - known.mean(axis=1, keepdims=True) + known.mean()
            found.append(((residuals**2).sum() / freedom, freedom))
    if len(found) < 2:
        return False
    (low, low_freedom), (high, high_freedom) = min(found), max(found)
    by_chance = special.fdtrc(high_freedom, low_freedom, high / low) if low else 0.0
    return bool(high >= _EXTREME * low and high > 0 and by_chance * len(found) * (len(found) - 1) < _CHANCE)


def _noise_of_levels(places: np.ndarray, squares: np.ndarray, freedom: np.ndarray) -> dict[int, float]:
    """Return the variance at each level of a factor over the mean of all levels'; {} if one shows no noise.

    The keys are the levels' places in their list.

    Args:
        places: [cells], the place of each cell's level in its list.
        squares, freedom: [cells], sums of squared residuals and their degrees of freedom.
    """
    known = [place for place in sorted(set(places)) if freedom[places == place].sum() >= 1]
    variances = np.array([squares[places == place].sum() / freedom[places == place].sum() for place in known])
    if len(known) < 2 or not (variances > 0).all():
        return {}
    return dict(zip(known, variances / variances.mean(), strict=True))


def _count_freedom(squares: np.ndarray, freedom: np.ndarray) -> float:
    """Return the degrees of freedom of the mean variance of cells [n] whose variances may differ; at most their sum.

    With few seeds they are underrated where variances are equal: an estimated variance is sometimes large by chance.
    """
    parts = np.divide(squares**2, freedom, out=np.zeros_like(squares), where=freedom > _LEAST_FREEDOM)
    return float(min(freedom.sum(), squares.sum() ** 2 / parts.sum()))


def _subtract_means(values: np.ndarray, cells: np.ndarray, seeds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the residuals of a fit of a mean for each cell and seed, and each trial's share of their freedom.

    Args:
        values: [trials].
        cells, seeds: [trials], the number of each trial's cell and seed, from 0.
    """
    both = np.zeros((cells.max() + 1, seeds.max() + 1))  # how many trials
    np.add.at(both, (cells, seeds), 1.0)
    inverse = _invert(both.tobytes(), len(both))
    means = inverse @ np.concatenate([np.bincount(cells, values), np.bincount(seeds, values)])
    other = len(both) + seeds
    leverages = inverse[cells, cells] + 2 * inverse[cells, other] + inverse[other, other]
    return values - means[cells] - means[other], 1 - leverages


@functools.lru_cache(maxsize=4)  # most outcomes have a value of the same trials
def _invert(counts: bytes, cells: int) -> np.ndarray:
    """Return the inverse of the squared model of cells and seeds, [cells + seeds, cells + seeds].

    Args:
        counts: [cells, seeds], the number of trials, as bytes of floats.
    """
    both = np.frombuffer(counts).reshape(cells, -1)
    # the model has a column of 0 and 1 for each cell, and for each seed but the first: squaring it loses nothing
    square = np.block([[np.diag(both.sum(axis=1)), both], [both.T, np.diag(both.sum(axis=0))]])
    kept = np.ix_(*[np.delete(np.arange(len(square)), cells)] * 2)
    inverse = np.zeros_like(square)  # with 0 for the first seed
    inverse[kept] = np.linalg.pinv(square[kept], rcond=_NEGLIGIBLE, hermitian=True)
    return inverse
