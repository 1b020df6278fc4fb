"""Which interactions a design cannot separate from a factor's main effect.

In a fraction of a factorial, and in any set of cells that is not complete, a main effect is estimated together with
some two-factor interactions: the estimator, applied to an interaction instead of an outcome, does not give 0. What it
gives is that interaction's entry in the alias matrix (Box and Wilson 1951; Montgomery, "Design and Analysis of
Experiments", section 10.7). Interactions of three and more factors are taken to be 0.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from cnnstudy.analysis.contrasts import Contrast, level_indices
from cnnstudy.config.factors import FACTORS, Choices, Levels

#: An interaction is mixed with a main effect if the estimate contains at least this share of it: of a difference of
#: differences of 10 points, half a point. In a regular fraction the share is one half or 0.
_MIXED_SHARE = 0.05
#: Applies an estimator to outcomes [trials, outcomes] and returns the contrasts' estimates [contrasts, outcomes].
Estimator = Callable[[np.ndarray], np.ndarray]


def cell_codes(frame: pd.DataFrame, varied: Mapping[str, Levels]) -> np.ndarray:
    """Return the index of each trial's level of each listed factor, [trials, factors]; -1 where it is not active."""
    return np.column_stack([level_indices(frame[name], one.values) for name, one in list_choices(varied).items()])


def list_choices(varied: Mapping[str, Levels]) -> dict[str, Choices]:
    """Return the factors that have a list of levels, without those that have a range."""
    return {name: levels for name, levels in varied.items() if isinstance(levels, Choices)}


def count_complete(codes: np.ndarray) -> int:
    """Return how many cells the complete factorial has.

    Where factors are not active in some cells, the cells with the same active factors form a factorial of their own.

    Args:
        codes: [cells, factors], from `cell_codes`.
    """
    active, places = np.unique(codes >= 0, axis=0, return_inverse=True)
    total = 0
    for pattern in range(len(active)):
        cells = codes[places.ravel() == pattern]
        total += math.prod(len(np.unique(column)) for column in cells.T)
    return total


def is_complete(frame: pd.DataFrame, varied: Mapping[str, Levels]) -> bool:
    """Return whether the trials' cells, over all seeds, are a complete factorial."""
    cells = np.unique(cell_codes(frame, varied), axis=0)
    return len(cells) == count_complete(cells)


def find_aliases(
    frame: pd.DataFrame, varied: Mapping[str, Levels], contrasts: Sequence[Contrast], estimate: Estimator
) -> list[list[tuple[str, str]]]:
    """Return, for each contrast, the two-factor interactions that its estimate is mixed with.

    Args:
        frame: trials of an incomplete factorial.
        varied: the factors that vary, lists only (from `varied_levels`).
        contrasts: main effects.
        estimate: the estimator that is used on the outcome, of these contrasts.
    """
    pairs, columns = _interaction_columns(frame, varied)
    if not pairs:
        return [[] for _ in contrasts]
    # an interaction column of +-1 makes a difference of differences of 4
    shares = np.abs(np.nan_to_num(estimate(columns))) / 4
    return [
        list(dict.fromkeys(pair for pair, part in zip(pairs, row, strict=True) if part >= _MIXED_SHARE))
        for row in shares
    ]


def _interaction_columns(frame: pd.DataFrame, varied: Mapping[str, Levels]) -> tuple[list[tuple[str, str]], np.ndarray]:
    """Return the factors of each interaction column, and the columns [trials, columns]."""
    codes, names = cell_codes(frame, varied), list(list_choices(varied))
    coded = [_deviations(column) for column in codes.T]
    pairs, columns = [], []
    for one, two in itertools.combinations(range(len(names)), 2):
        product = (coded[one][:, :, None] * coded[two][:, None, :]).reshape(len(frame), -1)
        pairs += [(names[one], names[two])] * product.shape[1]
        columns.append(product)
    return pairs, np.hstack(columns) if columns else np.empty((len(frame), 0))


def _deviations(codes: np.ndarray) -> np.ndarray:
    """Return the columns of a factor coded by deviations from the mean of its levels; 0 where it is not active."""
    count = int(codes.max()) + 1
    rows = np.vstack([np.eye(count - 1), -np.ones((1, count - 1)), np.zeros((1, count - 1))])
    return np.asarray(rows[np.where(codes < 0, count, codes)])


def describe_aliases(pairs: Sequence[tuple[str, str]]) -> str:
    """Return `mixed with batch size x dropout: these trials cannot separate them`."""
    named = [" x ".join(name_factor(name) for name in pair) for pair in pairs]
    shown = ", ".join(named[:3]) + (f" and {len(named) - 3} more interactions" if len(named) > 3 else "")
    return f"mixed with {shown}: these trials cannot separate them"


def name_factor(name: str) -> str:
    """Return a factor's label, also of one that cnnstudy does not have."""
    return FACTORS[name].label if name in FACTORS else name.replace("_", " ")
