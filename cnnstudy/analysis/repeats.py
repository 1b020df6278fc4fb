"""How probable it is that the same study, run again with other seeds, gives the same answer.

The repeat's estimate scatters around the truth, of which the study's own estimate is a noisy and, where it is told for
being large, a flattering measurement (Goodman 1992, "A comment on replication, p-values and evidence"; van Zwet and
Cator 2021, "The significance filter, the winner's curse and the need to shrink"). How large truths are is therefore
learnt from all effects of the family: each is 0, or drawn from a normal distribution around 0 (a spike and a slab), and
the share and spread of those that are not 0 are averaged over what the estimates leave possible.
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
#: The shares of effects that are not 0, equally probable beforehand.
_SHARES = np.array([0.1, 0.3, 1.0])
#: The spreads of these begin here, in standard errors, and are doubled until the largest estimate is within one, but at
#: least (and, so that an error near 0 costs no memory, at most) so many times.
_SMALLEST_SPREAD, _LEAST_SPREADS, _MOST_SPREADS = 0.5, 8, 40


@dataclass(frozen=True)
class TrueSizes:
    """What the estimates of a family leave possible about the sizes of its effects."""

    spreads: np.ndarray  # [spreads], of the effects that are not 0, in the outcome's units
    weights: np.ndarray  # [shares, spreads], how probable each share of _SHARES with each spread is

    @staticmethod
    def learn(estimates: Sequence[float], errors: Sequence[float], freedoms: Sequence[float]) -> TrueSizes:
        """Learn the sizes of a family's effects from their estimates.

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
        spreads = unit * _SMALLEST_SPREAD * 2.0 ** np.arange(count)
        logs = np.zeros((len(_SHARES), count))
        for estimate, error, freedom in measured:
            variance = error**2 * _variances(min(freedom, _MOST_FREEDOM))
            slab, spike = _densities(estimate, variance, spreads)
            with np.errstate(divide="ignore"):
                logs += np.log(_mix(spike.mean(), slab.mean(axis=0)))
        best = float(logs.max())
        weights = np.exp(logs - best) if math.isfinite(best) else np.ones_like(logs)
        return TrueSizes(spreads, weights / weights.sum())


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
    slab, spike = _densities(estimate, variance, sizes.spreads)
    mixed = _mix(spike.mean(), slab.mean(axis=0))
    each = np.divide(sizes.weights, mixed, out=np.zeros_like(mixed), where=mixed > 0)
    slab *= (each * _SHARES[:, None]).sum(axis=0)
    spike *= (each * (1 - _SHARES[:, None])).sum()
    total = slab.sum() + spike.sum()
    if not total > 0:  # beyond what floating point can weigh: nothing but the estimate counts
        slab[:, -1], total = 1.0, float(len(slab))
    kept = sizes.spreads**2 / (variance[:, None] + sizes.spreads**2)
    middle, scale = kept * estimate, np.sqrt((1 + kept) * variance[:, None])
    limit = limit[:, None]
    chance = (spike * special.ndtr(-limit[:, 0] / np.sqrt(variance))).sum()
    raises = float(((slab * special.ndtr((middle - limit) / scale)).sum() + chance) / total)
    lowers = float(((slab * special.ndtr((-middle - limit) / scale)).sum() + chance) / total)
    return {"raises": raises, "lowers": lowers}.get(answer, 1 - raises - lowers)


def _densities(estimate: float, variance: np.ndarray, spreads: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return how probable an estimate is, up to a factor: [draws, spreads] if its truth is not 0, [draws] if it is."""

    def density(of: np.ndarray) -> np.ndarray:
        return np.exp(-(estimate**2) / (2 * of)) / np.sqrt(of)

    return density(variance[:, None] + spreads**2), density(variance)


def _mix(spike: float, slab: np.ndarray) -> np.ndarray:
    """Return the density for each share and spread, [shares, spreads]."""
    return _SHARES[:, None] * slab + (1 - _SHARES[:, None]) * spike


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
