"""How probable it is that the same study, run again with other seeds, gives the same answer.

The repeat's estimate is predicted from the study's own: both scatter around the same unknown truth, so that they differ
by the square root of 2 standard errors (Goodman 1992, "A comment on replication, p-values and evidence"; Senn 2002).
An effect just beyond the limit of significance is found again in about half of the repeats. Nothing is known beforehand
about the truth, so that the probability is right on average over studies whose effects are of all sizes.
"""

from __future__ import annotations

import functools
import math

import numpy as np

from cnnstudy.analysis.intervals import LEVEL

_DRAWS = 4000
#: More degrees of freedom than this are as good as a known variance.
_MOST_FREEDOM = 1e6


def probability_of_repeat(
    answer: str,
    estimate: float,
    error: float,
    freedom: float,
    seeds: int,
    level: float,
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
        missing: how far missing trials widen the interval.
        own_level: at which the contrast is tested by itself.
    """
    from scipy import special

    if not error > 0:
        return math.nan
    freedom = min(freedom, _MOST_FREEDOM)
    own_freedom = float(seeds - 1) if seeds > 1 else freedom
    normal, common, own, other = _draws(freedom, own_freedom)
    scale = error * np.sqrt(common)
    found = estimate + math.sqrt(2) * scale * normal
    own_error = scale * np.sqrt(own)
    weight = min(own_freedom / freedom, 1.0)
    shrunk_error = scale * np.sqrt(weight * own + (1 - weight) * other)
    limit = np.maximum(
        special.stdtrit(own_freedom, 1 - own_level / 2) * own_error + missing,
        special.stdtrit(freedom, 1 - level / 2) * shrunk_error,
    )
    raises, lowers = float((found > limit).mean()), float((found < -limit).mean())
    return {"raises": raises, "lowers": lowers}.get(answer, 1 - raises - lowers)


@functools.lru_cache(maxsize=64)
def _draws(freedom: float, own_freedom: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return draws of a normal number, of the true variance (1 is the estimated one), and of a repeat's two variances.

    They are always the same, so that an analysis gives the same numbers each time.
    """
    rng = np.random.default_rng(0)
    rest = max(freedom - own_freedom, 1.0)
    return (
        rng.normal(size=_DRAWS),
        freedom / rng.chisquare(freedom, _DRAWS),
        rng.chisquare(own_freedom, _DRAWS) / own_freedom,
        rng.chisquare(rest, _DRAWS) / rest,
    )
