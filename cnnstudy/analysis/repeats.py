"""How probable it is that the same study, run again with other seeds, gives the same answer.

The repeat's estimate scatters around the truth, of which the study's own estimate is a noisy and, where it is told for
being large, a flattering measurement (Goodman 1992, "A comment on replication, p-values and evidence"; van Zwet and
Cator 2021, "The significance filter, the winner's curse and the need to shrink"). How large truths are is therefore
learnt from all effects of the family, by adaptive shrinkage (Stephens 2017, "False discovery rates: a new deal"): a
truth is drawn from a mixture of normal distributions around 0, whose shares are estimated.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cnnstudy.analysis.intervals import LEVEL

_DRAWS = 1000
#: More degrees of freedom than this are as good as a known variance.
_MOST_FREEDOM = 1e6
#: Spreads of the mixture besides 0, in the median standard error: each is twice the one before, until the largest
#: estimate is within one; at least and (so that an error near 0 costs no memory) at most so many.
_SMALLEST_SPREAD, _LEAST_SPREADS, _MOST_SPREADS = 0.5, 8, 40
#: All spreads are equally probable beforehand, with the weight of this many effects.
_PRIOR_EFFECTS = 1.0
_STEPS = 50


@dataclass(frozen=True)
class TrueSizes:
    """What the estimates of a family tell of the sizes of its effects: a mixture of normal distributions around 0."""

    spreads: np.ndarray  # [components], standard deviations, in the outcome's units
    shares: np.ndarray  # [components], with a sum of 1

    @staticmethod
    def learn(estimates: Sequence[float], errors: Sequence[float], freedoms: Sequence[float]) -> TrueSizes:
        """Learn the sizes of a family's effects from their estimates, by expectation maximization.

        Args:
            estimates: of the effects.
            errors: their standard errors; effects without one are passed over.
            freedoms: the degrees of freedom of these.
        """
        measured = [
            one for one in zip(estimates, errors, freedoms, strict=True) if one[1] > 0 and math.isfinite(one[0])
        ]
        unit = float(np.median([error for _, error, _ in measured])) if measured else 1.0
        largest = max((abs(estimate) for estimate, _, _ in measured), default=0.0)
        doubled = math.ceil(math.log2(max(largest / unit, 1.0) / _SMALLEST_SPREAD)) + 1
        count = min(max(doubled, _LEAST_SPREADS), _MOST_SPREADS)
        spreads = np.r_[0.0, unit * _SMALLEST_SPREAD * 2.0 ** np.arange(count)]
        before = shares = np.full(len(spreads), 1 / len(spreads))
        if measured:
            density = np.array([_densities(*one, spreads).mean(axis=0) for one in measured])
            for _ in range(_STEPS):
                belongs = _normalize(density * shares)
                shares = (_PRIOR_EFFECTS * before + belongs.sum(axis=0)) / (_PRIOR_EFFECTS + len(measured))
        return TrueSizes(spreads, shares)


def probability_of_repeat(
    answer: str,
    estimate: float,
    error: float,
    freedom: float,
    seeds: int,
    level: float,
    sizes: TrueSizes,
    missing: float = 0.0,
    own_level: float = LEVEL,
) -> float:
    """Return the probability, 0..1, that a repeat gives the same answer.

    Args:
        answer: `raises`, `lowers` or `cannot tell`.
        estimate: of the study.
        error: its standard error, with the shrunk variance.
        freedom: the degrees of freedom of that variance.
        seeds: number of seeds; of estimates over all trials, 0.
        level: at which the contrast is tested among all of the family.
        sizes: learnt from the family, this effect included.
        missing: how far missing trials widen the interval.
        own_level: at which the contrast is tested by itself.
    """
    from scipy import special

    if not error > 0:
        return math.nan
    freedom = min(freedom, _MOST_FREEDOM)
    own_freedom = float(seeds - 1) if seeds > 1 else freedom
    variance = error**2 * _variances(freedom)
    own, other = _variances_of_repeat(freedom, own_freedom)
    weight = min(own_freedom / freedom, 1.0)
    limit = np.maximum(
        special.stdtrit(own_freedom, 1 - own_level / 2) * np.sqrt(variance * own) + missing,
        special.stdtrit(freedom, 1 - level / 2) * np.sqrt(variance * (weight * own + (1 - weight) * other)),
    )
    weights = _densities(estimate, error, freedom, sizes.spreads) * sizes.shares
    weights = _normalize(weights.reshape(1, -1)).reshape(weights.shape)
    kept = sizes.spreads**2 / (variance[:, None] + sizes.spreads**2)
    middle, scale = kept * estimate, np.sqrt((1 + kept) * variance[:, None])
    raises = float((weights * special.ndtr((middle - limit[:, None]) / scale)).sum())
    lowers = float((weights * special.ndtr((-middle - limit[:, None]) / scale)).sum())
    return {"raises": raises, "lowers": lowers}.get(answer, 1 - raises - lowers)


def _densities(estimate: float, error: float, freedom: float, spreads: np.ndarray) -> np.ndarray:
    """Return how probable an estimate is, up to a factor, [draws of the true variance, spreads of truths]."""
    variance = error**2 * _variances(min(freedom, _MOST_FREEDOM))[:, None] + spreads**2
    return np.exp(-(estimate**2) / (2 * variance)) / np.sqrt(variance)


def _normalize(weights: np.ndarray) -> np.ndarray:
    """Return rows with a sum of 1; one too small for floating point belongs to the last, the largest spread."""
    total = weights.sum(axis=1, keepdims=True)
    last = np.zeros_like(weights)
    last[:, -1] = 1.0
    return np.divide(weights, total, out=last, where=total > 0)


@functools.lru_cache(maxsize=256)
def _variances(freedom: float) -> np.ndarray:
    """Return draws of the true variance, where 1 is the estimated one.

    They are always the same, so that an analysis gives the same numbers each time.
    """
    return freedom / np.random.default_rng(0).chisquare(freedom, _DRAWS)


@functools.lru_cache(maxsize=256)
def _variances_of_repeat(freedom: float, own_freedom: float) -> tuple[np.ndarray, np.ndarray]:
    """Return draws of a repeat's two variances, of the contrast itself and of those it is shrunk towards."""
    rng = np.random.default_rng(1)
    rest = max(freedom - own_freedom, 1.0)
    return rng.chisquare(own_freedom, _DRAWS) / own_freedom, rng.chisquare(rest, _DRAWS) / rest
