"""The share of an outcome's variance that each factor explains, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from cnnstudy.analysis.contrasts import outcome_values, varied_levels
from cnnstudy.analysis.intervals import CONFIDENCE, Estimate
from cnnstudy.analysis.regression import KNOTS, OTHER_KNOTS, CodedModel, code_factor, mammen_weights, seeds_repeat
from cnnstudy.config.factors import Choices, Levels, find_factor

UNEXPLAINED = "unexplained"
#: The least trials per coefficient.
TRIALS_PER_COEFFICIENT = 10
_DRAWS = 1999
_Term = tuple[str, ...]


@dataclass(frozen=True)
class VarianceShares:
    """The share (0..1) of an outcome's variance that each factor explains; empty if there are too few trials."""

    shares: Mapping[str, Estimate] = field(default_factory=dict)  # by factor, the largest first, then UNEXPLAINED
    leader: str | None = None  # the factor that explains more than any other, if that is beyond chance
    interactions: bool = False  # whether half of each interaction counts for each of its factors
    inseparable: Sequence[str] = ()  # factors that are mixed with others, or with interactions
    trials: int = 0
    needed: int = 0  # 0: nothing varies

    def sentence(self, outcome: str) -> str:
        """Return the shares in words, the unexplained one included; "" if nothing varies."""
        if not self.needed:
            return ""
        mixed = [find_factor(name).label for name in self.inseparable]
        if not self.shares and mixed:
            return f"These trials do not separate {', '.join(mixed)}: no shares of the variance of {outcome}."
        if not self.shares:
            return (
                f"Too few trials to tell what share of the variance of {outcome} each factor explains: {self.trials} "
                f"whose levels were chosen without regard to results; {self.needed} are needed, "
                f"{TRIALS_PER_COEFFICIENT} for each coefficient."
            )
        parts = [
            f"{find_factor(name).label} {_percent(one)}" for name, one in self.shares.items() if name != UNEXPLAINED
        ]
        left = "" if self.interactions else ", which takes in interactions (too few trials for them)"
        left += f" and what {', '.join(mixed)} may explain (not separable in these trials)" if mixed else ""
        first = f"{find_factor(self.leader).label} explains most" if self.leader else "cannot tell which explains most"
        return (
            f"Share of the variance of {outcome} between trials that each factor explains: {', '.join(parts)}; "
            f"unexplained {_percent(self.shares[UNEXPLAINED])}{left} (95 % intervals in brackets). "
            f"{first[:1].upper()}{first[1:]}."
        )


def _percent(share: Estimate) -> str:
    return f"{100 * share.value:.0f} % [{100 * (share.low or 0.0):.0f}, {100 * (share.high or 0.0):.0f}]"


def variance_shares(frame: pd.DataFrame, factors: Mapping[str, Levels], outcome_column: str) -> VarianceShares:
    """Return the share of the variance that each factor explains, over levels that are all equally frequent.

    A term's variance is that of its part of the model (curves for ranges) over its levels, less what noise adds:

        V = b' G b - trace(G C)

    with its coefficients b, their covariance C, and its columns' covariance G over the levels. A factor's share is its
    V and half that of its interactions (its Shapley effect, Owen 2014), divided by the sum of all and the noise. In a
    balanced factorial this is omega squared (Hays 1963). Intervals come from a wild bootstrap (Mammen 1993).

    Where seeds repeat, their differences are removed first. Interactions are products of straight lines; they are left
    out if that would be fewer than ten trials per coefficient, or where they are aliased with others.

    Args:
        frame: finished trials of one network, whose levels were chosen without regard to results.
        factors: the levels that the study file gives; factors that do not vary are ignored.
        outcome_column: the outcome, `<basis>/<outcome>`.
    """
    values = outcome_values(frame, outcome_column)
    frame, values = frame[np.isfinite(values)], values[np.isfinite(values)]
    varied = varied_levels(frame, factors)
    if not varied or np.ptp(values) == 0:
        return VarianceShares()
    models, needed = _list_models(frame, varied, factors)
    affordable = [model for model in models if TRIALS_PER_COEFFICIENT * _size(model) <= len(frame)]
    if not affordable:
        return VarianceShares(trials=len(frame), needed=needed)
    decomposition = _Decomposition(frame, varied, affordable[0], values)
    # aliases are those of the model with interactions, also where there are too few trials to estimate them
    mixed = (
        _Decomposition(frame, varied, models[1], values).aliased_factors() if _size(models[1]) < len(frame) else set()
    )
    if not mixed < set(varied):
        return VarianceShares(inseparable=tuple(varied), trials=len(frame), needed=needed)
    estimates, draws = decomposition.shares([name for name in varied if name not in mixed])
    low, high = np.quantile(draws, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=0)
    shares = {
        name: Estimate(float(value), min(float(value), float(a)), max(float(value), float(b)), count=len(frame))
        for name, value, a, b in zip(estimates, estimates.values(), low, high, strict=True)
    }
    ordered = sorted((name for name in shares if name != UNEXPLAINED), key=lambda name: -shares[name].value)
    return VarianceShares(
        {name: shares[name] for name in [*ordered, UNEXPLAINED]},
        ordered[0] if _leads(draws[:, :-1], list(shares).index(ordered[0])) else None,
        any(len(term) == 2 for term in affordable[0].terms) or len(varied) == 1,
        tuple(sorted(mixed)),
        len(frame),
        needed,
    )


def _list_models(
    frame: pd.DataFrame, varied: Mapping[str, Levels], factors: Mapping[str, Levels]
) -> tuple[list[CodedModel], int]:
    """Return the models in the order in which they are tried, largest first, and the trials that the smallest needs."""
    ranges = [name for name, levels in varied.items() if not isinstance(levels, Choices)]
    blocks = seeds_repeat(frame)
    models = [
        CodedModel(frame, varied, interactions, blocks, dict.fromkeys(ranges, knots))
        for interactions in (True, False)
        for knots in (KNOTS, OTHER_KNOTS)
    ]
    # few trials may lack levels that the file gives
    given = sum(len(one.values) if isinstance(one, Choices) else OTHER_KNOTS for one in factors.values())
    return models, TRIALS_PER_COEFFICIENT * max(min(map(_size, models)), 1 + given - len(factors))


def _size(model: CodedModel) -> int:
    """Return the number of coefficients, those of the seeds excluded."""
    return 1 + sum(columns.shape[1] for term, columns in model.terms.items() if term != ("seed",))


def _leads(draws: np.ndarray, factor: int) -> bool:
    """Return whether a factor's share is above all others' beyond chance, from draws [draws, factors]."""
    others = np.delete(draws, factor, axis=1).max(axis=1, initial=0.0)
    return bool(np.quantile(draws[:, factor] - others, (1 - CONFIDENCE) / 2) > 0)


class _Decomposition:
    """A least-squares fit without the seeds' differences, and the variance of each of its terms.

    Args:
        frame: the trials.
        varied: the factors that vary (from `varied_levels`).
        model: the model of these trials.
        values: [trials], the outcome.
    """

    def __init__(
        self, frame: pd.DataFrame, varied: Mapping[str, Levels], model: CodedModel, values: np.ndarray
    ) -> None:
        self._frame, self._varied, self._model = frame, varied, model
        # the mean of each seed's trials is removed, or that of all
        seeds = frame["seed"] if ("seed",) in model.terms else np.zeros(len(frame))
        _, self._seeds, self._sizes = np.unique(seeds, return_inverse=True, return_counts=True)
        self._by_seed = np.argsort(self._seeds, kind="stable")
        self._terms = {term: columns for term, columns in model.terms.items() if term != ("seed",)}
        self._free = {term: self._orthogonal(columns) for term, columns in self._terms.items()}
        self._values = self._orthogonal(values)

    def _sum_by_seed(self, columns: np.ndarray) -> np.ndarray:
        """Return the sum of each seed's trials, [seeds, ...] of [trials, ...]."""
        starts = np.cumsum(self._sizes) - self._sizes
        return np.asarray(np.add.reduceat(columns[self._by_seed], starts, axis=0))

    def _orthogonal(self, columns: np.ndarray) -> np.ndarray:
        """Return columns [trials, ...] without the mean of each seed."""
        means = (self._sum_by_seed(columns).T / self._sizes).T
        return np.asarray(columns - means[self._seeds])

    def _is_aliased(self, term: _Term) -> bool:
        """Return whether other terms explain a part of this one."""
        rest = [columns for other, columns in self._free.items() if other != term]
        basis = _basis(np.hstack(rest)) if rest else np.zeros((len(self._frame), 0))
        left = self._free[term] - basis @ (basis.T @ self._free[term])
        return bool(_basis(left, float(np.linalg.norm(self._free[term]))).shape[1] < self._free[term].shape[1])

    def aliased_factors(self) -> set[str]:
        """Return the factors whose main effect is mixed with other terms."""
        return {term[0] for term in self._free if len(term) == 1 and self._is_aliased(term)}

    def _gram(self, term: _Term) -> np.ndarray:
        """Return the covariance of a term's columns, all levels equally frequent; that of the trials if not active."""
        if self._frame[list(term)].isna().any(axis=None):
            return np.atleast_2d(np.cov(self._terms[term], rowvar=False, ddof=0))
        if len(term) == 1:
            return _covariance(self._varied[term[0]], self._model.knots.get(term[0], 2))
        one, two = term
        return np.kron(_covariance(self._model.levels[one, two]), _covariance(self._model.levels[two, one]))

    def _draw(self, matrix: np.ndarray, inverse: np.ndarray, errors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return draws of what errors add to the coefficients [draws, coefficients], and of their sum of squares left.

        Args:
            matrix: [trials, coefficients], without the seeds' means.
            inverse: its pseudoinverse.
            errors: [trials], the residual of each, made as large as its error.
        """
        added, left = [], []
        for factors in mammen_weights(_DRAWS, len(matrix)):
            drawn = errors * factors
            added.append(drawn @ inverse.T)
            # the model and the seeds' means each take their part of the squares: they are orthogonal
            of_model = ((added[-1] @ (matrix.T @ matrix)) * added[-1]).sum(axis=1)
            of_seeds = (self._sum_by_seed(drawn.T).T ** 2 / self._sizes).sum(axis=1)
            left.append(np.maximum((drawn**2).sum(axis=1) - of_model - of_seeds, 0.0))
        return np.vstack(added), np.concatenate(left)

    def shares(self, names: Sequence[str]) -> tuple[dict[str, float], np.ndarray]:
        """Return the share of each factor and the unexplained one, and draws of them, [draws, factors + 1]."""
        for term in [
            term
            for term in self._free
            if not set(term) & set(names)
            or (len(term) == 2 and (not set(term) <= set(names) or self._is_aliased(term)))
        ]:
            del self._free[term]
        matrix = np.hstack(list(self._free.values()))
        inverse = np.linalg.pinv(matrix, rcond=1e-9)
        coefficients = inverse @ self._values
        leverages = (matrix * inverse.T).sum(axis=1) + 1 / self._sizes[self._seeds]
        residuals = self._values - matrix @ coefficients
        freedom = len(matrix) - len(self._sizes) - int(np.linalg.matrix_rank(inverse @ matrix))
        noise = residuals @ residuals / freedom
        drawn, drawn_noise = self._draw(matrix, inverse, residuals / np.sqrt(np.maximum(1 - leverages, 1e-3)))
        drawn, drawn_noise = coefficients + drawn, drawn_noise / freedom
        variances, drawn_variances = dict.fromkeys(names, 0.0), {name: np.zeros(_DRAWS) for name in names}
        place = 0
        for term, columns in self._free.items():
            part = slice(place, place + columns.shape[1])
            place = part.stop
            gram = self._gram(term)
            excess = noise * np.trace(gram @ inverse[part] @ inverse[part].T)
            value = coefficients[part] @ gram @ coefficients[part] - excess
            drawn_value = np.einsum("di,ij,dj->d", drawn[:, part], gram, drawn[:, part]) - 2 * excess
            for name in [name for name in term if name in variances]:
                variances[name] += value / len(term)
                drawn_variances[name] += drawn_value / len(term)
        sizes = np.array([*(max(0.0, value) for value in variances.values()), noise])
        drawn_sizes = np.column_stack([*(np.maximum(0.0, drawn_variances[name]) for name in names), drawn_noise])
        shares = dict(zip([*names, UNEXPLAINED], (sizes / sizes.sum()).tolist(), strict=True))
        return shares, drawn_sizes / drawn_sizes.sum(axis=1, keepdims=True)


def _covariance(levels: Levels, knots: int = 2) -> np.ndarray:
    """Return the covariance of a factor's columns if all its levels are equally frequent (on a range's scale)."""
    if isinstance(levels, Choices):
        column = pd.Series(list(levels.values), dtype=object)
    else:
        places = (np.arange(400) + 0.5) / 400
        low, high = levels.low, levels.high
        at = low * (high / low) ** places if levels.log else low + places * (high - low)
        column = pd.Series(at.tolist(), dtype=object)
    return np.atleast_2d(np.cov(code_factor(column, levels, knots), rowvar=False, ddof=0))


def _basis(columns: np.ndarray, scale: float | None = None) -> np.ndarray:
    """Return orthonormal columns with the same span, up to rounding relative to `scale`."""
    left, sizes, _ = np.linalg.svd(columns, full_matrices=False)
    largest = scale or float(sizes.max(initial=0.0))
    return left[:, sizes > max(1e-9 * largest, 1e-300)]
