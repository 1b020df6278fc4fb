"""Contrasts by least squares, where no two trials match: ranges, fractions of a factorial, searches.

Factors are coded so that a main effect is the average over the others: a range from -1 at its low to +1 at its high end
(on its logarithm if the range is logarithmic), a list by deviations from the mean of its levels, and 0 where a factor
is not active.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from cnnstudy.analysis.contrasts import BlockedContrasts, Contrast, level_indices, nanmean
from cnnstudy.config.factors import Choices, Levels
from cnnstudy.records import Level

#: A main effect comes from the model with interactions where that costs at most so many times the variance.
_DEARER = 2.0
#: So many trials for each coefficient let a search tell interactions, and main effects.
_TRIALS_WITH_INTERACTIONS, _TRIALS = 3, 1.5
#: A trial of this leverage decides a coefficient by itself: its residual says nothing about noise.
_ALONE = 0.999
#: Singular values below this share of the largest are 0.
_NEGLIGIBLE = 1e-9


def code_factor(column: pd.Series, levels: Levels) -> np.ndarray:
    """[trials, coefficients] of a factor: 1 for a range, one fewer than its levels for a list.

    Args:
        levels: all that the factor has among the trials (from `varied_levels`); trials at others are coded 0.
    """
    if isinstance(levels, Choices):
        count = len(levels.values)
        # row by row: the levels, then 0 for levels that are not listed and for not active
        rows = np.vstack([np.eye(count - 1), -np.ones((1, count - 1)), np.zeros((1, count - 1))])
        places = level_indices(column, levels.values)
        return rows[np.where((places < 0) | (places >= count), count, places)]
    scale: Callable[[float], float] = math.log if levels.log else float
    low, high = scale(levels.low), scale(levels.high)
    return np.array([[0.0 if pd.isna(x) else 2 * (scale(x) - low) / (high - low) - 1] for x in column])


class CodedModel:
    """Least squares on coded factors: the columns of its matrix, and contrasts as sums of its coefficients."""

    def __init__(
        self, frame: pd.DataFrame, varied: Mapping[str, Levels], interactions: bool, with_blocks: bool = False
    ) -> None:
        self.terms: dict[tuple[str, ...], np.ndarray] = {}
        self._levels: dict[tuple[str, str], Levels] = {}  # (factor, partner): the levels at which the partner varies
        if with_blocks:
            seeds = Choices(tuple(sorted(set(frame["seed"]))))
            self.terms[("seed",)] = code_factor(frame["seed"], seeds)
        for name, levels in varied.items():
            self.terms[(name,)] = code_factor(frame[name], levels)
        for one, two in itertools.combinations(varied, 2) if interactions else ():
            sides = [_where_it_varies(frame, varied, *names) for names in ((one, two), (two, one))]
            if sides[0] is None or sides[1] is None:
                continue
            self._levels[one, two], self._levels[two, one] = sides[0], sides[1]
            first, second = code_factor(frame[one], sides[0]), code_factor(frame[two], sides[1])
            self.terms[one, two] = (first[:, :, None] * second[:, None, :]).reshape(len(frame), -1)
        self._varied = varied
        self.matrix = np.hstack([np.ones((len(frame), 1)), *self.terms.values()])

    def row(self, contrast: Contrast) -> np.ndarray | None:
        """The contrast as weights of the coefficients; None if the model does not hold it."""
        if contrast.second is None:
            term: tuple[str, ...] = (contrast.factor,)
            weights = _step(self._varied[contrast.factor], contrast.baseline, contrast.level)
        else:
            term = (contrast.factor, contrast.second)
            if term not in self.terms or contrast.second_baseline is None or contrast.second_level is None:
                return None
            levels = self._levels[contrast.factor, contrast.second], self._levels[contrast.second, contrast.factor]
            ends = (contrast.baseline, contrast.level), (contrast.second_baseline, contrast.second_level)
            for side, pair in zip(levels, ends, strict=True):
                if isinstance(side, Choices) and not set(pair) <= set(side.values):
                    return None
            weights = np.kron(_step(levels[0], *ends[0]), _step(levels[1], *ends[1]))
        row = np.zeros(self.matrix.shape[1])
        start = 1
        for name, columns in self.terms.items():
            if name == term:
                row[start : start + columns.shape[1]] = weights
            start += columns.shape[1]
        return row


def seeds_repeat(frame: pd.DataFrame) -> bool:
    """Whether there are seeds with several trials each, so that what they differ by can be told."""
    return 1 < frame["seed"].nunique() <= len(frame) / 5


def _where_it_varies(frame: pd.DataFrame, varied: Mapping[str, Levels], name: str, partner: str) -> Levels | None:
    """The levels of `name` at which `partner` has two levels or more; None if there are fewer than two of them."""
    levels = varied[name]
    both = frame[frame[name].notna() & frame[partner].notna()]
    if not isinstance(levels, Choices):
        return levels if both[name].nunique() > 1 else None
    found = tuple(level for level in levels.values if both.loc[both[name] == level, partner].nunique() > 1)
    return Choices(found) if len(found) > 1 else None


def _step(levels: Levels, baseline: Level, level: Level) -> np.ndarray:
    low, high = code_factor(pd.Series([baseline, level], dtype=object), levels)
    return np.asarray(high - low)


class _Solved:
    """Which contrasts a matrix can tell, and the weights of the trials in each."""

    def __init__(self, matrix: np.ndarray, rows: Sequence[np.ndarray | None]) -> None:
        inverse = np.linalg.pinv(matrix, rcond=_NEGLIGIBLE)
        given = np.array([np.zeros(matrix.shape[1]) if row is None else row for row in rows])
        self.weights = given @ inverse  # [contrasts, trials]
        lost = np.abs(self.weights @ matrix - given).max(axis=1)
        self.told = (lost < 1e-6) & np.abs(given).any(axis=1)
        self.spread = np.where(self.told, (self.weights**2).sum(axis=1), math.nan)


def estimate_by_block(
    frame: pd.DataFrame, varied: Mapping[str, Levels], contrasts: Sequence[Contrast], values: np.ndarray
) -> BlockedContrasts:
    """Each contrast by least squares within each seed.

    Args:
        values: [trials, outcomes], NaN where a trial has none.
    """
    models = [CodedModel(frame, varied, interactions) for interactions in (False, True)]
    rows = [[model.row(contrast) for contrast in contrasts] for model in models]
    blocks = np.unique(frame["seed"], return_inverse=True)[1]
    shape = (len(contrasts), int(blocks.max()) + 1, values.shape[1])
    estimates, spreads = np.full((2, *shape), math.nan), np.full((2, *shape), math.nan)
    solved: dict[tuple[int, bytes], _Solved] = {}  # most outcomes are there for the same trials
    for block, outcome, model in itertools.product(range(shape[1]), range(shape[2]), (0, 1)):
        chosen = (blocks == block) & np.isfinite(values[:, outcome])
        # fewer trials than main effects have coefficients tell one effect with the help of another
        if chosen.sum() < models[0].matrix.shape[1]:
            continue
        known = (model, chosen.tobytes())
        if known not in solved:
            solved[known] = _Solved(models[model].matrix[chosen], rows[model])
        told = solved[known].told
        estimates[model, told, block, outcome] = (solved[known].weights @ values[chosen, outcome])[told]
        spreads[model, :, block, outcome] = solved[known].spread
    plain, full = np.where(np.isnan(spreads), math.inf, spreads)
    interaction = np.array([contrast.second is not None for contrast in contrasts])[:, None, None]
    # one model for all seeds, lest the difference between the models looks like one between seeds
    fuller = interaction | (full <= _DEARER * plain).all(axis=1, keepdims=True)
    spread = nanmean(np.where(fuller, spreads[1], spreads[0]), 1)
    return BlockedContrasts(np.where(fuller, estimates[1], estimates[0]), spread, np.zeros(spread.shape, dtype=int))


def estimate_over_all(
    frame: pd.DataFrame, varied: Mapping[str, Levels], contrasts: Sequence[Contrast], values: np.ndarray
) -> np.ndarray:
    """Each contrast over all trials, where seeds do not repeat: estimate, the ends of its 95 % interval, p.

    Ordinary least squares with HC3 intervals, which hold where noise is unequal (MacKinnon and White 1985; Long and
    Ervin 2000 advise them below 250 observations). Interactions only where there are three trials for each coefficient.

    Args:
        values: [trials], NaN where a trial has none.

    Returns:
        [contrasts, 4]; NaN for what can't be told.
    """
    import statsmodels.api as sm

    found = np.full((len(contrasts), 4), math.nan)
    frame, values = frame[np.isfinite(values)], values[np.isfinite(values)]
    for interactions, trials in ((True, _TRIALS_WITH_INTERACTIONS), (False, _TRIALS)):
        if frame.empty:
            break
        model = CodedModel(frame, varied, interactions, seeds_repeat(frame))
        matrix, outcome = model.matrix, values
        if len(matrix) < trials * matrix.shape[1]:
            continue
        while (alone := (matrix * np.linalg.pinv(matrix, rcond=_NEGLIGIBLE).T).sum(axis=1) > _ALONE).any():
            matrix, outcome = matrix[~alone], outcome[~alone]
        rows = [model.row(contrast) for contrast in contrasts]
        told = _Solved(matrix, rows).told
        if not told.any():
            continue
        # on orthogonal columns: those of a fraction or of nested factors depend on each other
        left, sizes, right = np.linalg.svd(matrix, full_matrices=False)
        kept = sizes > _NEGLIGIBLE * sizes[0]
        fitted = sm.OLS(outcome, left[:, kept]).fit(cov_type="HC3", use_t=True)
        weights = np.array([row for row, known in zip(rows, told, strict=True) if known])
        with np.errstate(divide="ignore", invalid="ignore"):  # trials without noise
            test = fitted.t_test(weights @ right[kept].T / sizes[kept])
            found[told] = np.column_stack([test.effect, test.conf_int(), test.pvalue])
        break
    return found
