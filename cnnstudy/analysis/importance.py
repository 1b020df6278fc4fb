"""The share of an outcome's variance that each factor explains (omega squared)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from cnnstudy.analysis.contrasts import outcome_values, varied_levels
from cnnstudy.analysis.regression import CodedModel, seeds_repeat
from cnnstudy.config.factors import Levels

UNEXPLAINED = "unexplained"
#: The least trials per coefficient with interactions, and with main effects alone.
_TRIALS_WITH_INTERACTIONS, _TRIALS = 2, 1.5


def variance_shares(frame: pd.DataFrame, factors: Mapping[str, Levels], outcome_column: str) -> dict[str, float]:
    """Return the share of the variance (0..1) that each factor explains, and the rest under "unexplained".

    Omega squared (Hays 1963, "Statistics for Psychologists") from a type II analysis of variance:

        share = max(0, (SS_term - df_term * MS_error) / (SS_total + MS_error))

    SS_term is what the term explains beyond all terms that do not contain it. An interaction's share is split equally
    between its two factors. Where seeds repeat, their differences are removed first. Only the linear part of a range's
    effect counts (linear in the logarithm if the range is logarithmic). Interactions that are aliased with other terms
    are not counted, and factors that are aliased with others are omitted.

    Args:
        frame: finished trials of one network.
        factors: the levels that the study file gives; factors that do not vary are ignored.
        outcome_column: the outcome, `<basis>/<outcome>`.

    Returns:
        An empty dictionary if there are too few trials, or the outcome is the same in all of them.
    """
    values = outcome_values(frame, outcome_column)
    frame, values = frame[np.isfinite(values)], values[np.isfinite(values)]
    varied = varied_levels(frame, factors)
    if not varied or np.ptp(values) == 0:
        return {}
    terms = CodedModel(frame, varied, True, seeds_repeat(frame)).terms
    blocks = terms.pop(("seed",), np.zeros((len(frame), 0)))
    analysis = _Analysis(values, np.hstack([np.ones((len(frame), 1)), blocks]), terms)
    interactions = [term for term in terms if len(term) == 2]
    aliased = [term for term in interactions if analysis.gain(term, set(terms) - {term})[1] < terms[term].shape[1]]
    for interaction in interactions if analysis.coefficients * _TRIALS_WITH_INTERACTIONS > len(frame) else aliased:
        del terms[interaction]
    if analysis.coefficients * _TRIALS > len(frame):
        return {}
    (total, total_freedom), (residual, freedom) = analysis.residual(()), analysis.residual(terms)
    noise = residual / freedom
    explained = max(0.0, (total - residual - (total_freedom - freedom) * noise) / (total + noise))
    shares: dict[str, float] = {}
    for term, columns in terms.items():
        # type II: given all terms that do not contain this one
        squares, gained = analysis.gain(term, [other for other in terms if not set(term) <= set(other)])
        if gained < columns.shape[1]:
            continue
        share = max(0.0, (squares - gained * noise) / (total + noise))
        for name in term:
            shares[name] = shares.get(name, 0.0) + share / len(term)
    # unbalanced factors can explain more together than the sum of what each explains alone
    total_share = min(1.0, max(sum(shares.values()), explained))
    scale = total_share / sum(shares.values()) if sum(shares.values()) > 0 else 0.0
    return {name: scale * share for name, share in shares.items()} | {UNEXPLAINED: 1.0 - total_share}


class _Analysis:
    """Residuals of least squares with any set of terms, always with the columns `always`.

    Values and terms are projected onto the complement of `always` once: a study of thousands of trials has hundreds of
    seeds, with a column each, and a dozen other columns.

    Args:
        values: [trials], the outcome.
        always: [trials, columns], the constant and the seeds.
        terms: the columns of each term.
    """

    def __init__(self, values: np.ndarray, always: np.ndarray, terms: Mapping[tuple[str, ...], np.ndarray]) -> None:
        self._terms, self._always = terms, always.shape[1]
        # columns of a fraction or of nested factors may be linearly dependent
        basis = _basis(always)
        self._freedom = len(values) - basis.shape[1]
        self._values = _orthogonal_part(basis, values)
        self._orthogonal_terms = {term: _orthogonal_part(basis, _normalize(columns)) for term, columns in terms.items()}

    @property
    def coefficients(self) -> int:
        """The number of coefficients with all terms."""
        return self._always + sum(columns.shape[1] for columns in self._terms.values())

    def residual(self, terms: Iterable[tuple[str, ...]]) -> tuple[float, int]:
        """Return the residual sum of squares and degrees of freedom with these terms."""
        wanted = set(terms) & set(self._terms)
        columns = [columns for term, columns in self._orthogonal_terms.items() if term in wanted]
        basis = _basis(np.hstack([np.zeros((len(self._values), 0)), *columns]))
        left = _orthogonal_part(basis, self._values)
        return float(left @ left), self._freedom - basis.shape[1]

    def gain(self, term: tuple[str, ...], given: Iterable[tuple[str, ...]]) -> tuple[float, int]:
        """Return the sum of squares that a term explains beyond the given ones, and its degrees of freedom."""
        given = set(given)
        without, with_it = self.residual(given), self.residual(given | {term})
        return without[0] - with_it[0], without[1] - with_it[1]


def _basis(columns: np.ndarray) -> np.ndarray:
    """Return orthonormal columns with the same span, up to rounding."""
    left, sizes, _ = np.linalg.svd(columns, full_matrices=False)
    return left[:, sizes > 1e-9 * max(1.0, *sizes)] if sizes.size else left


def _orthogonal_part(basis: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return the component of the columns that is orthogonal to the basis."""
    return columns - basis @ (basis.T @ columns)


def _normalize(columns: np.ndarray) -> np.ndarray:
    return columns / np.maximum(np.linalg.norm(columns, axis=0), 1e-300)
