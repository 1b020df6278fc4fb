"""Contrasts estimated by least squares, where trials do not match: ranges, fractions of a factorial, searches.

Factors are coded so that a main effect is averaged over the other factors: a list by deviations from the mean of its
levels, and 0 where a factor is not active. A range is a curve: a natural cubic spline with equally spaced knots on the
range's scale (Stone and Koo 1985; Harrell 2015, "Regression Modeling Strategies", section 2.4), centred over the range.
How many knots it has depends on the number of trials alone, never on their outcomes, so that intervals keep their
coverage: a straight line, or a curve chosen by a test, would give a learning rate with its best value inside the wrong
sign (benchmarks/ranges.py).
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cnnstudy.analysis.contrasts import Contrast, SeedEstimates, level_indices, nanmean
from cnnstudy.config.factors import Choices, Levels
from cnnstudy.records import Level

#: Main effects come from the model with interactions if that increases their variance at most by this factor.
_MAX_VARIANCE_RATIO = 2.0
#: The least trials per coefficient for estimates over all trials with interactions, and with main effects alone.
_TRIALS_WITH_INTERACTIONS, _TRIALS = 3, 1.5
#: The level at which a model that misses the means of points is noticed; large, as it is missing it that misleads.
_LACK_OF_FIT = 0.2
#: A trial with more leverage determines a coefficient alone, so its residual says nothing about noise.
_MAX_LEVERAGE = 0.999
#: Knots of the range that is asked about, with fewer trials than _MANY and with as many; of the other ranges.
KNOTS, KNOTS_OF_MANY, _MANY, OTHER_KNOTS = 6, 8, 150, 4
#: Within a seed all ranges have KNOTS from so many trials per coefficient on: what the others' curves miss is the same
#: in all seeds.
_TRIALS_WITH_FINE_CURVES = 2
#: A range is estimated within a seed from at least so many trials per coefficient: what a smaller model leaves out
#: would be the same in all seeds, and their differences would not show it.
_TRIALS_WITHIN_SEED = 1.3
#: Singular values below this share of the largest count as 0.
_NEGLIGIBLE = 1e-9
#: Draws of a wild bootstrap that are in memory together.
_DRAWS_AT_ONCE = 100


def code_factor(column: pd.Series, levels: Levels, knots: int = 2) -> np.ndarray:
    """Return a factor's columns of the model matrix, [trials, coefficients].

    A range has one coefficient fewer than it has knots (two are a straight line from -1 at its low to +1 at its high
    end, on its logarithm if it is logarithmic), a list one fewer than it has levels.

    Args:
        column: the factor's level in each trial.
        levels: the levels among the trials (from `varied_levels`); trials at other levels are coded 0.
        knots: knots of a range's curve.
    """
    if isinstance(levels, Choices):
        count = len(levels.values)
        # a row for each level, then one of 0 for levels that are not listed and for factors that are not active
        rows = np.vstack([np.eye(count - 1), -np.ones((1, count - 1)), np.zeros((1, count - 1))])
        places = level_indices(column, levels.values)
        return rows[np.where((places < 0) | (places >= count), count, places)]
    scale: Callable[[float], float] = math.log if levels.log else float
    low, high = scale(levels.low), scale(levels.high)
    active = column.notna().to_numpy()
    places = np.array([2 * (scale(x) - low) / (high - low) - 1 for x in column[active]])
    coded = np.zeros((len(column), knots - 1))
    coded[active] = places[:, None] if knots == 2 else _curve_columns(places, knots)
    return coded


@functools.cache
def _splines(knots: int) -> tuple[Callable[[np.ndarray], np.ndarray], np.ndarray]:
    """Return natural cubic splines that are 1 at one knot and 0 at the others, and the mean of each over -1..1."""
    from scipy.interpolate import CubicSpline

    splines = CubicSpline(np.linspace(-1, 1, knots), np.eye(knots), bc_type="natural")
    return splines, splines.integrate(-1, 1) / 2


def _curve_columns(places: np.ndarray, knots: int) -> np.ndarray:
    """Return the splines at `places` (-1..1), centred, [places, knots - 1]; the last is left out: they sum to 1."""
    splines, means = _splines(knots)
    centred: np.ndarray = splines(places) - means
    return centred[:, :-1]


class CodedModel:
    """A linear model of coded factors: its matrix, and contrasts as weighted sums of its coefficients.

    Args:
        frame: finished trials.
        varied: the factors that vary (from `varied_levels`).
        interactions: whether it has terms for every two factors.
        with_blocks: whether it has a term for the seeds.
        knots: of each range's curve, at most as many as it has levels among the trials; two if not given. Interactions
            are products of straight lines.
    """

    def __init__(
        self,
        frame: pd.DataFrame,
        varied: Mapping[str, Levels],
        interactions: bool,
        with_blocks: bool = False,
        knots: Mapping[str, int] | None = None,
    ) -> None:
        self.knots = {name: max(2, min(count, frame[name].nunique())) for name, count in (knots or {}).items()}
        self.terms: dict[tuple[str, ...], np.ndarray] = {}
        self.levels: dict[tuple[str, str], Levels] = {}  # (factor, partner) -> levels at which the partner varies
        if with_blocks:
            seeds = Choices(tuple(sorted(set(frame["seed"]))))
            self.terms[("seed",)] = code_factor(frame["seed"], seeds)
        for name, levels in varied.items():
            self.terms[(name,)] = code_factor(frame[name], levels, self.knots.get(name, 2))
        for one, two in itertools.combinations(varied, 2) if interactions else ():
            levels_one = _levels_with_partner(frame, varied, one, two)
            levels_two = _levels_with_partner(frame, varied, two, one)
            if levels_one is None or levels_two is None:
                continue
            self.levels[one, two], self.levels[two, one] = levels_one, levels_two
            first, second = code_factor(frame[one], levels_one), code_factor(frame[two], levels_two)
            self.terms[one, two] = (first[:, :, None] * second[:, None, :]).reshape(len(frame), -1)
        self._varied = varied
        self.matrix = np.hstack([np.ones((len(frame), 1)), *self.terms.values()])

    def row(self, contrast: Contrast) -> np.ndarray | None:
        """Return the contrast as weights of the coefficients; None if the model lacks its term or its levels."""
        if contrast.second is None:
            low, high = self.main_rows(contrast.factor, [contrast.baseline, contrast.level])
            return np.asarray(high - low)
        term = (contrast.factor, contrast.second)
        if term not in self.terms or contrast.second_baseline is None or contrast.second_level is None:
            return None
        levels = self.levels[contrast.factor, contrast.second], self.levels[contrast.second, contrast.factor]
        ends = (contrast.baseline, contrast.level), (contrast.second_baseline, contrast.second_level)
        for side, pair in zip(levels, ends, strict=True):
            if isinstance(side, Choices) and not set(pair) <= set(side.values):
                return None
        return self._place(term, np.kron(_step(levels[0], *ends[0]), _step(levels[1], *ends[1]))[None])[0]

    def main_rows(self, factor: str, at: Sequence[Level]) -> np.ndarray:
        """Return what a factor adds to the outcome at each of its levels `at`, [levels, coefficients] as weights."""
        column = pd.Series(list(at), dtype=object)
        return self._place((factor,), code_factor(column, self._varied[factor], self.knots.get(factor, 2)))

    def _place(self, term: tuple[str, ...], weights: np.ndarray) -> np.ndarray:
        """Return weights of a term's coefficients as weights of all, [rows, coefficients]."""
        sizes = [columns.shape[1] for columns in self.terms.values()]
        start = 1 + sum(sizes[: list(self.terms).index(term)])
        rows = np.zeros((len(weights), self.matrix.shape[1]))
        rows[:, start : start + weights.shape[1]] = weights
        return rows


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

    def __init__(self, matrix: np.ndarray, rows: Iterable[np.ndarray | None]) -> None:
        inverse = np.linalg.pinv(matrix, rcond=_NEGLIGIBLE)
        given = np.array([np.zeros(matrix.shape[1]) if row is None else row for row in rows])
        self.weights = given @ inverse  # [contrasts, trials]
        error = np.abs(self.weights @ matrix - given).max(axis=1)
        self.estimable = (error < 1e-6) & np.abs(given).any(axis=1)
        self.spread = np.where(self.estimable, (self.weights**2).sum(axis=1), math.nan)


@dataclass(frozen=True)
class Detail:
    """What a model has of the factors."""

    knots: tuple[tuple[str, int], ...]  # of each range
    interactions: bool
    trials: float  # the least number of trials per coefficient

    def model(self, frame: pd.DataFrame, varied: Mapping[str, Levels], with_blocks: bool = False) -> CodedModel:
        """Return the model of these trials."""
        return CodedModel(frame, varied, self.interactions, with_blocks, dict(self.knots))

    def count_coefficients(self, varied: Mapping[str, Levels]) -> int:
        """Return how many coefficients the model has, where trials have all levels."""
        straight = {name: len(one.values) - 1 if isinstance(one, Choices) else 1 for name, one in varied.items()}
        curved = straight | {name: knots - 1 for name, knots in self.knots}
        products = (math.prod(pair) for pair in itertools.combinations(straight.values(), 2))
        return 1 + sum(curved.values()) + (sum(products) if self.interactions else 0)


def list_details(varied: Mapping[str, Levels], contrast: Contrast, trials: int) -> list[Detail]:
    """Return the models for a contrast over `trials` trials, the most detailed first.

    The range that a main contrast asks about has more knots than the others.
    """
    ranges = [name for name, levels in varied.items() if not isinstance(levels, Choices)]
    asked = contrast.factor if contrast.second is None else None
    most = KNOTS if trials < _MANY else KNOTS_OF_MANY
    curved = tuple((name, most if name == asked else OTHER_KNOTS) for name in ranges)
    details = [Detail(curved, True, _TRIALS_WITH_INTERACTIONS)]
    if ranges:
        straight = tuple((name, most if name == asked else 2) for name in ranges)
        details.append(Detail(curved, False, _TRIALS_WITH_INTERACTIONS))
        return [*details, Detail(straight, False, _TRIALS)]
    return [*details, Detail((), False, _TRIALS)]


def estimate_within_seeds(
    frame: pd.DataFrame, varied: Mapping[str, Levels], contrasts: Sequence[Contrast], values: np.ndarray
) -> SeedEstimates:
    """Estimate each contrast by least squares within each seed.

    Where all factors are lists, main effects come from the model with interactions if its variance is at most twice
    that of the model without, else from the latter; the choice is the same for all seeds. With ranges there is one
    model, of curves and interactions.

    Args:
        frame: finished trials.
        varied: the factors that vary (from `varied_levels`).
        contrasts: what is estimated.
        values: [trials, outcomes], NaN where a trial has none.
    """
    blocks = np.unique(frame["seed"], return_inverse=True)[1]
    shape = (len(contrasts), int(blocks.max()) + 1, values.shape[1])
    estimates, spread = np.full(shape, math.nan), np.full((shape[0], shape[2]), math.nan)
    if np.bincount(blocks).max() <= len(varied):  # fewer than coefficients of main effects
        return SeedEstimates(estimates, spread, np.zeros(spread.shape, dtype=int))
    groups: dict[tuple[Detail, ...], list[int]] = {}
    for place, contrast in enumerate(contrasts):
        groups.setdefault(_details_within_seed(varied, contrast, len(frame) // shape[1]), []).append(place)
    for details_of_group, places in groups.items():
        chosen = [contrasts[place] for place in places]
        estimates[places], spread[places] = _fit_seeds(frame, varied, chosen, values, blocks, details_of_group)
    return SeedEstimates(estimates, spread, np.zeros(spread.shape, dtype=int))


def _details_within_seed(varied: Mapping[str, Levels], contrast: Contrast, trials: int) -> tuple[Detail, ...]:
    """Return the models of a seed's trials, the smallest first: without and with interactions, or one with curves."""
    details = list_details(varied, contrast, trials)
    if knots := details[0].knots:
        fine = Detail(tuple((name, max(KNOTS, count)) for name, count in knots), True, _TRIALS_WITHIN_SEED)
        is_fine = trials >= _TRIALS_WITH_FINE_CURVES * fine.count_coefficients(varied)
        return (fine if is_fine else Detail(knots, True, _TRIALS_WITHIN_SEED),)
    return tuple(reversed(details))


def estimate_over_points(
    frame: pd.DataFrame, varied: Mapping[str, Levels], contrasts: Sequence[Contrast], values: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Estimate each contrast over the points that all seeds have, with the curves of `estimate_within_seeds`.

    What these miss is the same with every seed. The residuals of the points' means show it, and with them the HC3
    standard errors (as in `estimate_over_all_trials`). Where a contrast hangs on single points there is no such test;
    then it can't be told if the curves miss more than the noise between seeds explains (F-test of lack of fit, Fisher
    1922, at 20 %).

    Args:
        values: [trials], NaN where a trial has none.

    Returns:
        [contrasts, 4]: estimate, the ends of its 95 % interval, p; NaN where there is no test. [contrasts], whether it
        can't be told.
    """
    tests, untold = np.full((len(contrasts), 4), math.nan), np.zeros(len(contrasts), dtype=bool)
    measured, outcome = frame[np.isfinite(values)], values[np.isfinite(values)]
    points, means = average_points(measured, varied, outcome)
    if len(points) == len(measured):
        return tests, untold
    groups: dict[tuple[Detail, ...], list[int]] = {}
    for place, contrast in enumerate(contrasts):
        groups.setdefault(_details_within_seed(varied, contrast, len(points)), []).append(place)
    for details, places in groups.items():
        model = details[-1].model(points, varied)
        place_of_trial = measured.groupby(list(varied), dropna=False, sort=False).ngroup().to_numpy()
        missed = means - model.matrix @ np.linalg.lstsq(model.matrix, means, rcond=None)[0]
        free = len(points) - int(np.linalg.matrix_rank(model.matrix))
        if _is_beyond_noise(missed, free, outcome - means[place_of_trial], measured["seed"]):
            tests[places] = _test_contrasts(model, [contrasts[place] for place in places], means)
            untold[places] = np.isnan(tests[places, 1])
    return tests, untold


def _is_beyond_noise(missed: np.ndarray, free: int, residual: np.ndarray, seeds: pd.Series) -> bool:
    """Test whether a model misses the means of points by more than noise explains, by an F-test at _LACK_OF_FIT.

    Args:
        missed: [points], by what the model misses the mean of each; free: its degrees of freedom.
        residual: [trials], of each trial from its point's mean; seeds: [trials].
    """
    from scipy import special

    seed = np.unique(seeds, return_inverse=True)[1]
    residual = residual - (np.bincount(seed, residual) / np.bincount(seed))[seed]
    noise_free = len(residual) - len(missed) - int(seed.max())
    if free < 1 or noise_free < 1:
        return True
    noise = (residual**2).sum() / noise_free * len(missed) / len(residual)  # of a mean
    return bool((missed**2).sum() / free > noise * special.fdtri(free, noise_free, 1 - _LACK_OF_FIT))


def _fit_seeds(
    frame: pd.DataFrame,
    varied: Mapping[str, Levels],
    contrasts: Sequence[Contrast],
    values: np.ndarray,
    blocks: np.ndarray,
    details: Sequence[Detail],
) -> tuple[np.ndarray, np.ndarray]:
    """Return the estimates [contrasts, seeds, outcomes] and their spread [contrasts, outcomes].

    Args:
        blocks: [trials], the number of each trial's seed.
        details: the models, the smallest first: one, or one without and one with interactions.
    """
    models = [detail.model(frame, varied) for detail in details]
    rows = [[model.row(contrast) for contrast in contrasts] for model in models]
    # with fewer trials than coefficients of main effects, effects are not separated from each other
    least = models[0].matrix.shape[1] * (details[0].trials if details[0].knots else 1)
    shape = (len(contrasts), int(blocks.max()) + 1, values.shape[1])
    estimates, spreads = np.full((2, len(models), *shape), math.nan)
    solutions: dict[tuple[int, bytes], _Solution] = {}  # most outcomes have values for the same trials
    for block, outcome, model in itertools.product(range(shape[1]), range(shape[2]), range(len(models))):
        chosen = (blocks == block) & np.isfinite(values[:, outcome])
        if chosen.sum() < least:
            continue
        key = (model, chosen.tobytes())
        if key not in solutions:
            solutions[key] = _Solution(models[model].matrix[chosen], rows[model])
        solution = solutions[key]
        estimable = solution.estimable
        estimates[model, estimable, block, outcome] = (solution.weights @ values[chosen, outcome])[estimable]
        spreads[model, :, block, outcome] = solution.spread
    plain, full = np.where(np.isnan(spreads), math.inf, spreads)[[0, -1]]
    interaction = np.array([contrast.second is not None for contrast in contrasts])[:, None, None]
    # one model for all seeds, so that a difference between models does not look like one between seeds
    use_full = interaction | (full <= _MAX_VARIANCE_RATIO * plain).all(axis=1, keepdims=True)
    spread = nanmean(np.where(use_full, spreads[-1], spreads[0]), 1)
    return np.where(use_full, estimates[-1], estimates[0]), spread


def estimate_over_all_trials(
    frame: pd.DataFrame, varied: Mapping[str, Levels], contrasts: Sequence[Contrast], values: np.ndarray
) -> np.ndarray:
    """Estimate each contrast over all trials, where seeds do not repeat.

    Ordinary least squares with HC3 standard errors, which allow for unequal noise (MacKinnon and White 1985;
    recommended below 250 observations by Long and Ervin 2000), and Student's t with the residual degrees of freedom.
    Interactions, and curves of the ranges that a contrast does not ask about, are included if there are at least 3
    trials per coefficient; the rest needs 1.5. Trials of the same point of ranges are averaged first.

    Args:
        frame: finished trials.
        varied: the factors that vary (from `varied_levels`).
        contrasts: what is estimated.
        values: [trials], NaN where a trial has none.

    Returns:
        [contrasts, 4]: estimate, the ends of its 95 % interval, p; NaN where it is not estimable.
    """
    tests = np.full((len(contrasts), 4), math.nan)
    frame, values = average_points(frame[np.isfinite(values)], varied, values[np.isfinite(values)])
    if frame.empty:
        return tests
    groups: dict[tuple[Detail, ...], list[int]] = {}
    for place, contrast in enumerate(contrasts):
        groups.setdefault(tuple(list_details(varied, contrast, len(frame))), []).append(place)
    for details, places in groups.items():
        chosen = [contrasts[place] for place in places]
        for detail in details:
            model = detail.model(frame, varied, seeds_repeat(frame))
            if len(frame) < detail.trials * model.matrix.shape[1]:
                continue
            tests[places] = _test_contrasts(model, chosen, values)
            if np.isfinite(tests[places]).any():
                break
    return tests


def average_points(
    frame: pd.DataFrame, varied: Mapping[str, Levels], values: np.ndarray
) -> tuple[pd.DataFrame, np.ndarray]:
    """Average the trials that repeat a point of ranges, less their seed's mean; return the points and their outcomes.

    What a model does not explain at a point is the same in all trials there: they are not independent. Trials are
    returned as they are if all factors are lists, or no point repeats.
    """
    if all(isinstance(levels, Choices) for levels in varied.values()) or not frame.duplicated(list(varied)).any():
        return frame, values
    outcome = pd.Series(values, index=frame.index)
    if seeds_repeat(frame):
        outcome = outcome - outcome.groupby(frame["seed"]).transform("mean") + outcome.mean()
    points = frame.groupby(list(varied), dropna=False, sort=False).ngroup()
    first = ~points.duplicated()
    averaged = outcome.groupby(points).mean()[points[first]].to_numpy()
    # the seeds' differences are gone: no two of these share a seed's term
    return frame[first].assign(seed=range(int(first.sum()))), averaged


def _test_contrasts(model: CodedModel, contrasts: Sequence[Contrast], outcome: np.ndarray) -> np.ndarray:
    """Return each contrast's estimate, interval and p, [contrasts, 4]; NaN where it is not estimable."""
    import statsmodels.api as sm

    rows = np.array([np.zeros(model.matrix.shape[1]) if one is None else one for one in map(model.row, contrasts)])
    fit = _decompose(model.matrix.tobytes(), rows.tobytes(), model.matrix.shape[1])
    tests = np.full((len(contrasts), 4), math.nan)
    if fit is None:
        return tests
    fitted = sm.OLS(outcome[fit.kept], fit.columns).fit(cov_type="HC3", use_t=True)
    with np.errstate(divide="ignore", invalid="ignore"):  # trials without noise
        test = fitted.t_test(fit.weights)
        tests[fit.estimable] = np.column_stack([test.effect, test.conf_int(), test.pvalue])
    return tests


@dataclass(frozen=True)
class _Decomposition:
    """A model on orthogonal columns: those of a fraction or of nested factors are linearly dependent."""

    kept: np.ndarray  # [trials], whether a trial does not determine a coefficient alone
    columns: np.ndarray  # [trials kept, coefficients]
    estimable: np.ndarray  # [contrasts]
    weights: np.ndarray  # [contrasts that are estimable, coefficients]


@functools.lru_cache(maxsize=8)  # most outcomes have values of the same trials
def _decompose(matrix: bytes, rows: bytes, coefficients: int) -> _Decomposition | None:
    """Return the decomposition of a model; None if no contrast is estimable.

    Args:
        matrix: [trials, coefficients], as bytes of floats.
        rows: [contrasts, coefficients], as bytes: each contrast as weights; 0 if the model does not have it.
    """
    whole, given = np.frombuffer(matrix).reshape(-1, coefficients), np.frombuffer(rows).reshape(-1, coefficients)
    kept = np.ones(len(whole), dtype=bool)
    while (excessive := _leverages(whole[kept]) > _MAX_LEVERAGE).any():
        kept[np.flatnonzero(kept)[excessive]] = False
    estimable = _Solution(whole[kept], given).estimable
    if not estimable.any():
        return None
    left, sizes, right = np.linalg.svd(whole[kept], full_matrices=False)
    independent = sizes > _NEGLIGIBLE * sizes[0]
    weights = given[estimable] @ right[independent].T / sizes[independent]
    return _Decomposition(kept, left[:, independent], estimable, weights)


def mammen_weights(draws: int, trials: int) -> Iterator[np.ndarray]:
    """Yield the factors of residuals in a wild bootstrap, [some draws, trials]: mean 0, variance and skewness 1.

    Source: Mammen (1993), "Bootstrap and wild bootstrap for high dimensional linear models". They are the same at each
    call, so that what is computed from the same trials is the same; all at once would take 160 MB for 10,000 trials.
    """
    root, dice = math.sqrt(5), np.random.default_rng(0)
    for first in range(0, draws, _DRAWS_AT_ONCE):
        rare = dice.random((min(_DRAWS_AT_ONCE, draws - first), trials)) < (root - 1) / (2 * root)
        yield np.where(rare, (1 + root) / 2, (1 - root) / 2)


def _leverages(matrix: np.ndarray) -> np.ndarray:
    """Return the diagonal of the hat matrix, [trials]."""
    leverages: np.ndarray = (matrix * np.linalg.pinv(matrix, rcond=_NEGLIGIBLE).T).sum(axis=1)
    return leverages
