"""How much of an outcome's variance each factor explains."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from cnnstudy.analysis.contrasts import outcome_values, varied_levels
from cnnstudy.analysis.regression import CodedModel, seeds_repeat
from cnnstudy.config.factors import Levels

UNEXPLAINED = "unexplained"
#: So many trials for each coefficient let interactions be told, and main effects.
_TRIALS_WITH_INTERACTIONS, _TRIALS = 2, 1.5


def importances(frame: pd.DataFrame, factors: Mapping[str, Levels], outcome_column: str) -> dict[str, float]:
    """The share of the variance that each factor explains, 0..1, and under "unexplained" what is left.

    Omega squared (Hays 1963): the sums of squares of a type II analysis of variance, less what chance alone adds to
    them. An interaction's share goes to its two factors in halves. Where seeds repeat, what they differ by is taken out
    first. A range counts as far as it acts linearly (on its logarithm if it is logarithmic). Interactions that can't be
    told from others are not counted, and a factor that can't be told from others is left out.

    Returns:
        Nothing where the trials are too few, or the outcome is the same in all.
    """
    values = outcome_values(frame, outcome_column)
    frame, values = frame[np.isfinite(values)], values[np.isfinite(values)]
    varied = varied_levels(frame, factors)
    if not varied or np.ptp(values) == 0:
        return {}
    terms = CodedModel(frame, varied, True, seeds_repeat(frame)).terms
    blocks = terms.pop(("seed",), np.zeros((len(frame), 0)))
    analysis = _Analysis(values, np.hstack([np.ones((len(frame), 1)), blocks]), terms)
    products = [term for term in terms if len(term) == 2]
    aliased = [term for term in products if analysis.gain(term, set(terms) - {term})[1] < terms[term].shape[1]]
    for product in products if analysis.coefficients * _TRIALS_WITH_INTERACTIONS > len(frame) else aliased:
        del terms[product]
    if analysis.coefficients * _TRIALS > len(frame):
        return {}
    (total, most), (left, freedom) = analysis.residual(()), analysis.residual(terms)
    noise = left / freedom
    explained = max(0.0, (total - left - (most - freedom) * noise) / (total + noise))
    shares: dict[str, float] = {}
    for term, columns in terms.items():
        # type II: given all terms that do not contain this one
        squares, gained = analysis.gain(term, [other for other in terms if not set(term) <= set(other)])
        if gained < columns.shape[1]:
            continue
        share = max(0.0, (squares - gained * noise) / (total + noise))
        for name in term:
            shares[name] = shares.get(name, 0.0) + share / len(term)
    # what factors that are not balanced explain together can be more than the sum of what each does alone
    whole = sum(shares.values())
    told = min(1.0, max(whole, explained))
    shares = {name: told * share / whole if whole > 0 else 0.0 for name, share in shares.items()}
    return shares | {UNEXPLAINED: 1.0 - told}


class _Analysis:
    """Least squares with some of the terms, and always with some columns: what they leave.

    What is always there, a column for each seed among it, is taken out of all else once: a study of thousands of trials
    has hundreds of seeds, and a dozen columns besides.
    """

    def __init__(self, values: np.ndarray, always: np.ndarray, terms: Mapping[tuple[str, ...], np.ndarray]) -> None:
        self._terms, self._always = terms, always.shape[1]
        # terms of a fraction or of nested factors may depend on each other
        basis = _basis(always)
        self._freedom = len(values) - basis.shape[1]
        self._values = _outside(basis, values)
        self._outside = {term: _outside(basis, _of_length_1(columns)) for term, columns in terms.items()}

    @property
    def coefficients(self) -> int:
        return self._always + sum(columns.shape[1] for columns in self._terms.values())

    def residual(self, terms: Iterable[tuple[str, ...]]) -> tuple[float, int]:
        """Sum of squares and degrees of freedom."""
        wanted = set(terms) & set(self._terms)
        columns = [columns for term, columns in self._outside.items() if term in wanted]
        basis = _basis(np.hstack([np.zeros((len(self._values), 0)), *columns]))
        left = _outside(basis, self._values)
        return float(left @ left), self._freedom - basis.shape[1]

    def gain(self, term: tuple[str, ...], given: Iterable[tuple[str, ...]]) -> tuple[float, int]:
        """What a term explains beyond the given ones: sum of squares and degrees of freedom."""
        given = set(given)
        without, with_it = self.residual(given), self.residual(given | {term})
        return without[0] - with_it[0], without[1] - with_it[1]


def _basis(columns: np.ndarray) -> np.ndarray:
    """Orthonormal columns with the same span; what is not of rounding's size counts."""
    left, sizes, _ = np.linalg.svd(columns, full_matrices=False)
    return left[:, sizes > 1e-9 * max(1.0, *sizes)] if sizes.size else left


def _outside(basis: np.ndarray, of: np.ndarray) -> np.ndarray:
    """What lies outside the span."""
    return of - basis @ (basis.T @ of)


def _of_length_1(columns: np.ndarray) -> np.ndarray:
    return columns / np.maximum(np.linalg.norm(columns, axis=0), 1e-300)
