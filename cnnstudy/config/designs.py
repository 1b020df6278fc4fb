"""Which combinations of levels a study runs: their number, a balanced fraction of them, or space-filling points."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

from cnnstudy.config.factors import FACTORS, Choices, Factor, Levels, Range, grid_points, pick_level
from cnnstudy.records import Level

Point = dict[str, Level]
#: A fraction is chosen from at most this many combinations, because the choice compares each with each.
MAX_FRACTION_CANDIDATES = 2000
#: The choice of a fraction makes one start and _STARTS more (or _STARTS_TIMES_POINTS / points if that is fewer), and
#: then others (up to _MOST_STARTS), until a fraction can estimate all main effects; only a few small grids need those.
_STARTS, _STARTS_TIMES_POINTS, _MOST_STARTS = 20, 5000, 200


# ---- how many there are


def has_several_levels(levels: Levels | None) -> bool:
    """Check whether a factor with these levels varies."""
    return levels is not None and not (isinstance(levels, Choices) and len(levels.values) == 1)


def count_points(
    factors: Mapping[str, Levels], has_auxiliary_heads: bool, defaults: Mapping[str, Level]
) -> int | float:
    """Return how many distinct combinations the factors have; infinity if a continuous range is active in one."""
    in_conditions = {name for factor in FACTORS.values() for name in factor.looks_at}
    listed = {name: _list_levels(FACTORS[name], levels) for name, levels in factors.items()}
    counts = {
        name: math.inf if _is_continuous(FACTORS[name], levels) else len(listed[name])
        for name, levels in factors.items()
    }
    # for a factor that no condition reads, one level is enough: all its levels occur in the same combinations
    reduced: dict[str, Levels] = {
        name: Choices(levels if name in in_conditions else levels[:1]) for name, levels in listed.items()
    }
    return sum(
        math.prod(counts[name] for name in point if name not in in_conditions or counts[name] == math.inf)
        for point in grid_points(reduced, has_auxiliary_heads, defaults)
    )


def _is_continuous(factor: Factor, levels: Levels) -> bool:
    return isinstance(levels, Range) and factor.kind is not int and levels.step is None


def _list_levels(factor: Factor, levels: Levels) -> tuple[Level, ...]:
    """Return all levels; of a continuous range its two ends."""
    if isinstance(levels, Choices):
        return levels.values
    if _is_continuous(factor, levels):
        return levels.low, levels.high
    step = levels.step or 1
    steps = round((levels.high - levels.low) / step)
    return tuple(round(levels.low + number * step, 12) for number in range(steps + 1))


# ---- fractions


def minimum_points(points: Sequence[Point]) -> int:
    """Return how many points it takes to estimate all main effects: one, and one per level beyond a factor's first."""
    factors = {name for point in points for name in point}
    return 1 + sum(len({point.get(name) for point in points}) - 1 for name in factors)


def fraction_size(points: Sequence[Point], fraction: int) -> int:
    """Return the size of one in `fraction` of the points, but at least `minimum_points`."""
    return min(len(points), max(math.ceil(len(points) / fraction), minimum_points(points)))


def choose_fraction(points: Sequence[Point], fraction: int) -> list[Point]:
    """Return a balanced fraction of the points, in their order; the same for the same points.

    The similarity of two points is the product, over the factors in which they agree, of the number of levels plus one;
    the fraction is the one with the least total similarity. This minimises the discrete discrepancy (Hickernell and Liu
    2002), which is least when each level, then each pair of levels, then each triple occurs equally often, as in an
    orthogonal array. A factor that is not active in a point is treated as being at a separate level there. Points are
    exchanged one for one as long as that helps, from several starts. A fraction that can estimate all main effects, and
    so contains every level, is preferred to any that can't.
    """
    import numpy as np

    size = fraction_size(points, fraction)
    if size == len(points):
        return list(points)
    levels = _number_levels(points)
    indicators = [levels == level for level in range(int(levels.max()) + 1)]
    model = np.hstack([np.ones((len(points), 1)), *indicators]).astype(float)
    full_rank = np.linalg.matrix_rank(model)
    similarity = np.ones((len(points), len(points)), dtype=np.int64)
    for column in levels.T:
        similarity *= np.where(column[:, None] == column, column.max() + 2, 1)
    best_rating: tuple[int, int, int] | None = None
    best: list[int] = []
    for start in range(_MOST_STARTS):
        enough = start > min(_STARTS, _STARTS_TIMES_POINTS // len(points))
        if enough and best_rating is not None and best_rating[0] == 0:
            break
        chosen = _exchange_points(similarity, _choose_start(start, levels, similarity, size))
        missing_rank = int(full_rank - np.linalg.matrix_rank(model[chosen]))
        rating = (missing_rank, int(similarity[np.ix_(chosen, chosen)].sum()), start)
        if best_rating is None or rating < best_rating:
            best_rating, best = rating, chosen
    return [points[index] for index in best]


def _number_levels(points: Sequence[Point]) -> Any:
    """Return [points, factors] integers: each factor's levels in order of appearance; not active counts as a level."""
    import numpy as np

    columns = []
    for name in sorted({name for point in points for name in point}):
        numbers: dict[Level | None, int] = {}
        columns.append([numbers.setdefault(point.get(name), len(numbers)) for point in points])
    return np.array(columns).T


def _choose_start(start: int, levels: Any, similarity: Any, size: int) -> list[int]:
    """Return a fraction to start from: first one built point by point, then a generalised subset, then random ones."""
    import numpy as np

    if start == 0:
        chosen: list[int] = []
        to_chosen = np.zeros(len(similarity), dtype=np.int64)
        for _ in range(size):  # add the point least similar to those before
            chosen.append(int(to_chosen.argmin()))
            to_chosen += similarity[chosen[-1]]
            to_chosen[chosen[-1]] = np.iinfo(np.int64).max // 2
        return chosen
    subset = np.flatnonzero(levels.sum(axis=1) % round(len(similarity) / size) == 0)  # Surowiec et al. 2017
    if start == 1 and len(subset) == size:
        return [int(index) for index in subset]
    return random.Random(start).sample(range(len(similarity)), size)


def _exchange_points(similarity: Any, start: Sequence[int]) -> list[int]:
    """Exchange the pair of points that lowers the total similarity most, until none does."""
    import numpy as np

    chosen = np.zeros(len(similarity), dtype=bool)
    chosen[list(start)] = True
    to_chosen = similarity[:, chosen].sum(axis=1)
    while True:
        inside, outside = np.flatnonzero(chosen), np.flatnonzero(~chosen)
        saved = to_chosen[inside] - similarity[inside, inside]
        change = to_chosen[outside] - similarity[np.ix_(inside, outside)] - saved[:, None]
        removed, added = divmod(int(change.argmin()), len(outside))
        if change[removed, added] >= 0:
            return [int(index) for index in inside]
        chosen[inside[removed]], chosen[outside[added]] = False, True
        to_chosen += similarity[outside[added]] - similarity[inside[removed]]


# ---- space-filling points


def quasi_random_points(factors: Mapping[str, Levels], seed: int, first: int, count: int) -> list[Point]:
    """Return points `first` to `first + count - 1` of the scrambled Sobol sequence (Sobol 1967, Owen 1998).

    The points have levels of the factors that vary; the seed scrambles the sequence.

    Args:
        count: a power of two.
    """
    from scipy.stats import qmc

    varied = {name: levels for name, levels in factors.items() if has_several_levels(levels)}
    if not varied:
        return [{}] * count
    sequence = qmc.Sobol(len(varied), scramble=True, rng=seed)
    if first:
        sequence.fast_forward(first)
    return [
        {
            name: pick_level(FACTORS[name], levels, float(position))
            for (name, levels), position in zip(varied.items(), point, strict=True)
        }
        for point in sequence.random(count)
    ]
