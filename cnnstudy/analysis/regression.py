"""Contrasts estimated by least squares, where trials do not match: ranges, fractions of a factorial, searches.

Factors are coded so that a main effect is averaged over the other factors: a range from -1 at its low to +1 at its high
end (on its logarithm if the range is logarithmic), a list by deviations from the mean of its levels, and 0 where a
factor is not active.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from cnnstudy.analysis.contrasts import Contrast, SeedEstimates, level_indices, nanmean
from cnnstudy.config.factors import Choices, Levels
from cnnstudy.records import Level

#: Main effects come from the model with interactions if that increases their variance at most by this factor.
_MAX_VARIANCE_RATIO = 2.0
#: The least trials per coefficient for estimates over all trials with interactions, and with main effects alone.
_TRIALS_WITH_INTERACTIONS, _TRIALS = 3, 1.5
#: A trial with more leverage determines a coefficient alone, so its residual says nothing about noise.
_MAX_LEVERAGE = 0.999
#: Singular values below this share of the largest count as 0.
_NEGLIGIBLE = 1e-9


def code_factor(column: pd.Series, levels: Levels) -> np.ndarray:
    """Return a factor's columns of the model matrix, [trials, coefficients].

    A range has one coefficient, a list one fewer than it has levels.

    Args:
        column: the factor's level in each trial.
        levels: the levels among the trials (from `varied_levels`); trials at other levels are coded 0.
    """
    if isinstance(levels, Choices):
        count = len(levels.values)
        # a row for each level, then one of 0 for levels that are not listed and for factors that are not active
        rows = np.vstack([np.eye(count - 1), -np.ones((1, count - 1)), np.zeros((1, count - 1))])
        places = level_indices(column, levels.values)
        return rows[np.where((places < 0) | (places >= count), count, places)]
    scale: Callable[[float], float] = math.log if levels.log else float
    low, high = scale(levels.low), scale(levels.high)
    return np.array([[0.0 if pd.isna(x) else 2 * (scale(x) - low) / (high - low) - 1] for x in column])


class CodedModel:
    """A linear model of coded factors: its matrix, and contrasts as weighted sums of its coefficients.

    Args:
        frame: finished trials.
        varied: the factors that vary (from `varied_levels`).
        interactions: whether it has terms for every two factors.
        with_blocks: whether it has a term for the seeds.
    """

    def __init__(
        self, frame: pd.DataFrame, varied: Mapping[str, Levels], interactions: bool, with_blocks: bool = False
    ) -> None:
        self.terms: dict[tuple[str, ...], np.ndarray] = {}
        self._levels: dict[tuple[str, str], Levels] = {}  # (factor, partner) -> levels at which the partner varies
        if with_blocks:
            seeds = Choices(tuple(sorted(set(frame["seed"]))))
            self.terms[("seed",)] = code_factor(frame["seed"], seeds)
        for name, levels in varied.items():
            self.terms[(name,)] = code_factor(frame[name], levels)
        for one, two in itertools.combinations(varied, 2) if interactions else ():
            levels_one = _levels_with_partner(frame, varied, one, two)
            levels_two = _levels_with_partner(frame, varied, two, one)
            if levels_one is None or levels_two is None:
                continue
            self._levels[one, two], self._levels[two, one] = levels_one, levels_two
            first, second = code_factor(frame[one], levels_one), code_factor(frame[two], levels_two)
            self.terms[one, two] = (first[:, :, None] * second[:, None, :]).reshape(len(frame), -1)
        self._varied = varied
        self.matrix = np.hstack([np.ones((len(frame), 1)), *self.terms.values()])

    def row(self, contrast: Contrast) -> np.ndarray | None:
        """Return the contrast as weights of the coefficients; None if the model lacks its term or its levels."""
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
    """Return whether there are enough trials per seed (5 on average, 2 seeds) to estimate the seeds' differences."""
    return 1 < frame["seed"].nunique() <= len(frame) / 5


def _levels_with_partner(frame: pd.DataFrame, varied: Mapping[str, Levels], name: str, partner: str) -> Levels | None:
    """Return the levels of `name` at which `partner` has two or more levels; None if there are fewer than two."""
    levels = varied[name]
    both = frame[frame[name].notna() & frame[partner].notna()]
    if not isinstance(levels, Choices):
        return levels if both[name].nunique() > 1 else None
    values = tuple(level for level in levels.values if both.loc[both[name] == level, partner].nunique() > 1)
    return Choices(values) if len(values) > 1 else None


def _step(levels: Levels, baseline: Level, level: Level) -> np.ndarray:
    low, high = code_factor(pd.Series([baseline, level], dtype=object), levels)
    return np.asarray(high - low)


class _Solution:
    """The contrasts that a model matrix can estimate, and the weights of the trials in each.

    Args:
        matrix: [trials, coefficients].
        rows: each contrast as weights of the coefficients; None if the model does not have it.
    """

    def __init__(self, matrix: np.ndarray, rows: Sequence[np.ndarray | None]) -> None:
        inverse = np.linalg.pinv(matrix, rcond=_NEGLIGIBLE)
        given = np.array([np.zeros(matrix.shape[1]) if row is None else row for row in rows])
        self.weights = given @ inverse  # [contrasts, trials]
        error = np.abs(self.weights @ matrix - given).max(axis=1)
        self.estimable = (error < 1e-6) & np.abs(given).any(axis=1)
        self.spread = np.where(self.estimable, (self.weights**2).sum(axis=1), math.nan)


def estimate_within_seeds(
    frame: pd.DataFrame, varied: Mapping[str, Levels], contrasts: Sequence[Contrast], values: np.ndarray
) -> SeedEstimates:
    """Estimate each contrast by least squares within each seed.

    Main effects come from the model with interactions if its variance is at most twice that of the model without, else
    from the latter; the choice is the same for all seeds.

    Args:
        frame: finished trials.
        varied: the factors that vary (from `varied_levels`).
        contrasts: what is estimated.
        values: [trials, outcomes], NaN where a trial has none.
    """
    models = [CodedModel(frame, varied, interactions) for interactions in (False, True)]
    rows = [[model.row(contrast) for contrast in contrasts] for model in models]
    blocks = np.unique(frame["seed"], return_inverse=True)[1]
    shape = (len(contrasts), int(blocks.max()) + 1, values.shape[1])
    estimates, spreads = np.full((2, *shape), math.nan), np.full((2, *shape), math.nan)
    solutions: dict[tuple[int, bytes], _Solution] = {}  # most outcomes have values for the same trials
    for block, outcome, model in itertools.product(range(shape[1]), range(shape[2]), (0, 1)):
        chosen = (blocks == block) & np.isfinite(values[:, outcome])
        # with fewer trials than coefficients of main effects, effects are not separated from each other
        if chosen.sum() < models[0].matrix.shape[1]:
            continue
        key = (model, chosen.tobytes())
        if key not in solutions:
            solutions[key] = _Solution(models[model].matrix[chosen], rows[model])
        solution = solutions[key]
        estimable = solution.estimable
        estimates[model, estimable, block, outcome] = (solution.weights @ values[chosen, outcome])[estimable]
        spreads[model, :, block, outcome] = solution.spread
    plain, full = np.where(np.isnan(spreads), math.inf, spreads)
    interaction = np.array([contrast.second is not None for contrast in contrasts])[:, None, None]
    # one model for all seeds, so that a difference between models does not look like one between seeds
    use_full = interaction | (full <= _MAX_VARIANCE_RATIO * plain).all(axis=1, keepdims=True)
    spread = nanmean(np.where(use_full, spreads[1], spreads[0]), 1)
    return SeedEstimates(np.where(use_full, estimates[1], estimates[0]), spread, np.zeros(spread.shape, dtype=int))


def estimate_over_all_trials(
    frame: pd.DataFrame, varied: Mapping[str, Levels], contrasts: Sequence[Contrast], values: np.ndarray
) -> np.ndarray:
    """Estimate each contrast over all trials, where seeds do not repeat.

    Ordinary least squares with HC3 standard errors, which allow for unequal noise (MacKinnon and White 1985;
    recommended below 250 observations by Long and Ervin 2000), and Student's t with the residual degrees of freedom.
    Interactions are included if there are at least 3 trials per coefficient; main effects need 1.5.

    Args:
        frame: finished trials.
        varied: the factors that vary (from `varied_levels`).
        contrasts: what is estimated.
        values: [trials], NaN where a trial has none.

    Returns:
        [contrasts, 4]: estimate, the ends of its 95 % interval, p; NaN where it is not estimable.
    """
    import statsmodels.api as sm

    tests = np.full((len(contrasts), 4), math.nan)
    frame, values = frame[np.isfinite(values)], values[np.isfinite(values)]
    for interactions, trials_per_coefficient in ((True, _TRIALS_WITH_INTERACTIONS), (False, _TRIALS)):
        if frame.empty:
            break
        model = CodedModel(frame, varied, interactions, seeds_repeat(frame))
        matrix, outcome = model.matrix, values
        if len(matrix) < trials_per_coefficient * matrix.shape[1]:
            continue
        while (excessive := _leverages(matrix) > _MAX_LEVERAGE).any():
            matrix, outcome = matrix[~excessive], outcome[~excessive]
        rows = [model.row(contrast) for contrast in contrasts]
        estimable = _Solution(matrix, rows).estimable
        if not estimable.any():
            continue
        # fit on orthogonal columns, because those of a fraction or of nested factors are linearly dependent
        left, sizes, right = np.linalg.svd(matrix, full_matrices=False)
        independent = sizes > _NEGLIGIBLE * sizes[0]
        fitted = sm.OLS(outcome, left[:, independent]).fit(cov_type="HC3", use_t=True)
        weights = np.array([row for row, is_estimable in zip(rows, estimable, strict=True) if is_estimable])
        with np.errstate(divide="ignore", invalid="ignore"):  # trials without noise
            test = fitted.t_test(weights @ right[independent].T / sizes[independent])
            tests[estimable] = np.column_stack([test.effect, test.conf_int(), test.pvalue])
        break
    return tests


def _leverages(matrix: np.ndarray) -> np.ndarray:
    """Return the diagonal of the hat matrix, [trials]."""
    leverages: np.ndarray = (matrix * np.linalg.pinv(matrix, rcond=_NEGLIGIBLE).T).sum(axis=1)
    return leverages
