"""Where in a range an outcome is best, from a curve over all trials."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cnnstudy.analysis.contrasts import Contrast, outcome_values, varied_levels
from cnnstudy.analysis.intervals import CONFIDENCE, LEVEL, Estimate
from cnnstudy.analysis.regression import (
    CodedModel,
    average_points,
    estimate_over_all_trials,
    list_details,
    mammen_weights,
    seeds_repeat,
)
from cnnstudy.config.factors import Choices, Levels, Range, find_factor

_DRAWS, _PLACES = 999, 61


@dataclass(frozen=True)
class RangeCurve:
    """An outcome along a range, averaged over the other factors.

    `difference` is the high end minus the low end. `turn` is "inside" if the outcome is best (for a gap or a loss:
    lowest) inside the range, beyond chance, "ends" if it is worst there, and "" if neither is known. The best level has
    an interval only if it is inside.
    """

    factor: str
    outcome: str  # `<basis>/<outcome>`
    levels: tuple[float, ...]
    values: tuple[float, ...]  # of the curve, relative to its mean over the range, in the outcome's units
    difference: Estimate
    turn: str
    best: float
    best_low: float
    best_high: float
    straight_p: float  # null hypothesis: a straight line
    misfit_p: float  # null hypothesis: no finer structure than the curve's
    trials: int

    def sentence(self, outcome: str) -> str:
        """Return the best region and the ends in words; `outcome` names it, as "the gap"."""
        factor = find_factor(self.factor)
        ends = factor.compare(self.levels[-1], self.levels[0])
        scale, unit, digits = (1, "nats", 3) if "loss" in self.outcome else (100, "points", 1)
        numbers = [self.difference.value, self.difference.low or 0.0, self.difference.high or 0.0]
        value, low, high = (f"{scale * number:+.{digits}f}" for number in numbers)
        between = {1: "is higher at the high end", -1: "is lower at the high end", 0: "cannot tell which end is higher"}
        ends = f"{ends}: {value} {unit} [{low}, {high}], {between[self.difference.sign]}"
        return f"{factor.label[:1].upper()}{factor.label[1:]}, {outcome}: {self._where()}; {ends}."

    def _where(self) -> str:
        least = "lowest" if lower_is_better(self.outcome) else "highest"
        if self.misfit_p < LEVEL / 5:
            return "cannot tell where it is best, since it varies more along the range than the curve can"
        if self.turn == "inside":
            best, low, high = (f"{level:.2g}" for level in (self.best, self.best_low, self.best_high))
            return f"{least} inside the range, at {best} (95 % interval {low} to {high})"
        if self.turn == "ends":
            return f"{least} at an end, and worse inside the range than at both"
        return f"cannot tell whether it is {least} inside the range"


def lower_is_better(outcome: str) -> bool:
    """Return whether a lower outcome is better: a gap or a loss."""
    return "gap" in outcome or "loss" in outcome


def describe_ranges(frame: pd.DataFrame, factors: Mapping[str, Levels], column: str) -> list[RangeCurve]:
    """Return a curve for each range that varies and has enough trials.

    Args:
        frame: finished trials of one network.
        factors: the levels that the study file gives.
        column: the outcome, `<basis>/<outcome>`.
    """
    values = outcome_values(frame, column)
    frame, values = frame[np.isfinite(values)], values[np.isfinite(values)]
    varied = varied_levels(frame, factors)
    points, outcome = average_points(frame, varied, values)
    curves = []
    for name, levels in varied.items():
        if isinstance(levels, Choices) or np.ptp(values) == 0:
            continue
        contrast = Contrast(name, levels.low, levels.high)
        tests = estimate_over_all_trials(frame, varied, [contrast], values)[0]
        if np.isfinite(tests).all():
            value, low, high, p = map(float, tests)
            difference = Estimate(value, low, high, p, len(points))
            curves.append(_curve(points, varied, contrast, levels, outcome, difference, column))
    return curves


def _curve(
    frame: pd.DataFrame,
    varied: Mapping[str, Levels],
    contrast: Contrast,
    levels: Range,
    outcome: np.ndarray,
    difference: Estimate,
    column: str,
) -> RangeCurve:
    blocks = seeds_repeat(frame)
    models = ((detail, detail.model(frame, varied, blocks)) for detail in list_details(varied, contrast, len(frame)))
    detail, model = next((d, m) for d, m in models if len(frame) >= d.trials * m.matrix.shape[1])
    z = np.linspace(0, 1, _PLACES)
    along = levels.low * (levels.high / levels.low) ** z if levels.log else levels.low + z * (levels.high - levels.low)
    along[-1] = levels.high
    rows = model.main_rows(contrast.factor, along.tolist())
    inverse = np.linalg.pinv(model.matrix, rcond=1e-9)
    weights = rows @ inverse  # [levels, trials]
    leverages = (model.matrix * inverse.T).sum(axis=1)
    residuals = outcome - model.matrix @ (inverse @ outcome)
    residuals = residuals / np.maximum(1 - leverages, 1e-3)  # HC3
    curve = weights @ outcome
    drawn = [(residuals * factors) @ weights.T for factors in mammen_weights(_DRAWS, len(frame))]
    errors = np.vstack(drawn)  # [draws, levels]
    direction = -1.0 if lower_is_better(column) else 1.0
    turns = [_turns(sign * curve, sign * errors) for sign in (direction, -direction)]
    low, high = _best_places(direction * curve, direction * errors)
    straight, finer = (
        CodedModel(frame, varied, detail.interactions, blocks, dict(detail.knots) | {contrast.factor: knots})
        for knots in (2, 2 * model.knots[contrast.factor])
    )
    return RangeCurve(
        contrast.factor,
        column,
        tuple(along.tolist()),
        tuple(curve.tolist()),
        difference,
        "inside" if turns[0] else "ends" if turns[1] else "",
        best=float(along[(direction * curve).argmax()]),
        best_low=float(along[low]),
        best_high=float(along[high]),
        straight_p=_nested_p(outcome, straight.matrix, model.matrix),
        misfit_p=_nested_p(outcome, model.matrix, np.hstack([model.matrix, finer.matrix])),
        trials=len(frame),
    )


def _turns(curve: np.ndarray, errors: np.ndarray) -> bool:
    """Return whether a level inside is higher than both ends, beyond chance at 2.5 %.

    An intersection-union test as that of Lind and Mehlum (2010), "With or without U?", but of differences from the
    ends instead of slopes at them: on a monotone curve no level is higher than both. The critical value is that of the
    largest difference from an end, over all levels.
    """
    inside = slice(1, -1)
    ratios = []
    for end in (0, -1):
        differences = errors[:, inside] - errors[:, [end]]
        spread = np.maximum(differences.std(axis=0), 1e-12)
        ratios.append(((curve[inside] - curve[end]) / spread, (differences / spread).max(axis=1)))
    critical = max(float(np.quantile(largest, 1 - LEVEL / 2)) for _, largest in ratios)
    return bool(np.minimum(ratios[0][0], ratios[1][0]).max() > critical)


def _best_places(curve: np.ndarray, errors: np.ndarray) -> tuple[int, int]:
    """Return the first and last level that may be the highest: no other is higher beyond chance.

    The interval inverts that test, as in multiple comparisons with the best (Hsu 1984). The bootstrap's percentiles of
    the best level cover it too rarely: it is a skewed estimate.
    """
    possible = []
    for place in range(len(curve)):
        differences = errors - errors[:, [place]]
        spread = np.maximum(differences.std(axis=0), 1e-12)
        spread[place] = np.inf
        critical = np.quantile((differences / spread).max(axis=1), CONFIDENCE)
        if ((curve - curve[place]) / spread).max() <= max(critical, 0.0):
            possible.append(place)
    return possible[0], possible[-1]


def _nested_p(outcome: np.ndarray, small: np.ndarray, large: np.ndarray) -> float:
    """Return the p-value of the F test of a model within a larger one; 1 if no trials are left for it."""
    from scipy import stats

    residuals, ranks = [], []
    for matrix in (small, large):
        coefficients, _, rank, _ = np.linalg.lstsq(matrix, outcome, rcond=1e-9)
        residuals.append(float(((outcome - matrix @ coefficients) ** 2).sum()))
        ranks.append(int(rank))
    freedom = len(outcome) - ranks[1]
    if freedom < 1 or ranks[1] == ranks[0] or residuals[1] <= 0:
        return 1.0
    f = max(0.0, residuals[0] - residuals[1]) / (ranks[1] - ranks[0]) / (residuals[1] / freedom)
    return float(stats.f.sf(f, ranks[1] - ranks[0], freedom))
