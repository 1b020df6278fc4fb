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


def relative_noise(
    frame: pd.DataFrame, varied: Mapping[str, Levels], contrasts: Sequence[Contrast], values: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return how much larger a contrast's variance is than it would be if all trials were equally noisy.

    A trial's noise is what is left of its value without the mean of its cell over the seeds and that of its seed (whose
    noise it has a part of, so that ratios come out a little too close to 1). The factors' ratios are multiplied.
    Whether levels differ at all is not tested first: with 3 seeds such a test too often misses a level with four times
    the noise of the others (docs/statistics.md, "Checked by simulation").

    Args:
        frame: the trials.
        varied: the factors that vary (from `varied_levels`).
        contrasts: between their levels.
        values: [trials], NaN where a trial has none.

    Returns:
        [contrasts], ratios of variances, 1 where a contrast compares all levels of each of its factors or nothing is
        known; and their degrees of freedom, those of the noisiest level, infinite there.
    """
    ratios, freedoms = np.ones(len(contrasts)), np.full(len(contrasts), math.inf)
    there = np.isfinite(values)
    frame, values = frame[there], values[there]
    lists = {name: levels.values for name, levels in varied.items() if isinstance(levels, Choices)}
    if frame.empty or len(lists) < len(varied):  # points of ranges do not repeat
        return ratios, freedoms
    places = {name: level_indices(frame[name], levels) for name, levels in lists.items()}
    cells = np.unique(np.column_stack(list(places.values())), axis=0, return_inverse=True)[1].ravel()
    seeds = np.unique(frame["seed"], return_inverse=True)[1]
    residuals, freedom = _subtract_means(values, np.column_stack([_indicators(cells), _indicators(seeds)[:, 1:]]))
    found = {name: _noise_of_levels(places[name], residuals, freedom) for name in lists}
    for name, levels in lists.items():
        for row, contrast in enumerate(contrasts):
            corners = {levels.index(corner[name]) for _, corner in contrast.corners if name in corner}
            if corners and corners < found[name].keys():
                variances, own = np.transpose([found[name][place] for place in corners])
                ratios[row] *= variances.mean()
                freedoms[row] = min(freedoms[row], own[variances.argmax()])
    return ratios, freedoms


def _noise_of_levels(places: np.ndarray, residuals: np.ndarray, freedom: np.ndarray) -> dict[int, tuple[float, float]]:
    """Return each level's variance over that of all trials, and its degrees of freedom; {} if one shows no noise.

    The keys are the levels' places in their list.

    Args:
        places: [trials], the place of each trial's level in its list.
        residuals, freedom: [trials], from `_subtract_means`.
    """
    at = {place: places == place for place in sorted(set(places))}
    known = {place: rows for place, rows in at.items() if freedom[rows].sum() >= 1}
    freedoms = np.array([freedom[rows].sum() for rows in known.values()])
    variances = np.array([(residuals[rows] ** 2).sum() for rows in known.values()]) / freedoms
    if len(known) < 2 or not (variances > 0).all():
        return {}
    common = np.average(variances, weights=[rows.sum() for rows in known.values()])
    return dict(zip(known, zip(variances / common, freedoms, strict=True), strict=True))


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
