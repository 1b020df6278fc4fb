"""Which combinations of levels a study looks at: how many there are, a balanced part of them, points that spread."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

from cnnstudy.config.factors import FACTORS, Choices, Factor, Levels, Range, grid_points, level_at
from cnnstudy.records import Level

Point = dict[str, Level]
#: A fraction is chosen from up to so many combinations: the choice compares each with each.
MOST_TO_CHOOSE_FROM = 2000
#: The choice starts from so many parts (of large grids the second by the number of points), and from more, until a part
#: tells the main effects apart, which a few small grids take.
_STARTS, _STARTS_TIMES_POINTS, _MOST_STARTS = 20, 5000, 200


def has_several_levels(levels: Levels | None) -> bool:
    """Whether a factor with these levels has more than one."""
    return levels is not None and not (isinstance(levels, Choices) and len(levels.values) == 1)


def count_points(
    factors: Mapping[str, Levels], has_auxiliary_heads: bool, defaults: Mapping[str, Level]
) -> int | float:
    """How many distinct combinations `factors` have; infinitely many where a range without steps acts."""
    read = {name for factor in FACTORS.values() for name in factor.looks_at}
    listed = {name: _listed(FACTORS[name], levels) for name, levels in factors.items()}
    counts = {
        name: math.inf if _is_endless(FACTORS[name], levels) else len(listed[name]) for name, levels in factors.items()
    }
    # of a factor that no condition reads one level stands for all
    few: dict[str, Levels] = {name: Choices(levels if name in read else levels[:1]) for name, levels in listed.items()}
    return sum(
        math.prod(counts[name] for name in point if name not in read or counts[name] == math.inf)
        for point in grid_points(few, has_auxiliary_heads, defaults)
    )


def _is_endless(factor: Factor, levels: Levels) -> bool:
    return isinstance(levels, Range) and factor.kind is not int and levels.step is None


def _listed(factor: Factor, levels: Levels) -> tuple[Level, ...]:
    """All levels; of infinitely many the two ends."""
    if isinstance(levels, Choices):
        return levels.values
    if _is_endless(factor, levels):
        return levels.low, levels.high
    step = levels.step or 1
    steps = round((levels.high - levels.low) / step)
    return tuple(round(levels.low + number * step, 12) for number in range(steps + 1))


# ---- fractions


def minimum_points(points: Sequence[Point]) -> int:
    """So many points it takes to tell the main effects of their factors apart: one, and one for each further level."""
    factors = {name for point in points for name in point}
    return 1 + sum(len({point.get(name) for point in points}) - 1 for name in factors)


def fraction_size(points: Sequence[Point], fraction: int) -> int:
    """One in `fraction` of the points, but as many as tell the main effects apart."""
    return min(len(points), max(math.ceil(len(points) / fraction), minimum_points(points)))


def choose_fraction(points: Sequence[Point], fraction: int) -> list[Point]:
    """A balanced part of the points, in their order; the same for the same points.

    Two points are alike by the product, over the factors in which they agree, of the number of levels and one; the part
    is the one with the least likeness among its points. That is the discrete discrepancy (Hickernell and Liu 2002): it
    is least where each level, then each pair of levels, then each triple is there equally often, as in an orthogonal
    array. A factor that is not active in a point counts as having a level of its own there. Points are exchanged one
    for one as long as that helps, from several starts; a part that tells all main effects apart goes before any other,
    and so every level is in it.
    """
    import numpy as np

    size = fraction_size(points, fraction)
    if size == len(points):
        return list(points)
    levels = _numbered(points)
    columns = [levels == level for level in range(int(levels.max()) + 1)]
    model = np.hstack([np.ones((len(points), 1)), *columns]).astype(float)
    whole = np.linalg.matrix_rank(model)
    alike = np.ones((len(points), len(points)), dtype=np.int64)
    for column in levels.T:
        alike *= np.where(column[:, None] == column, column.max() + 2, 1)
    best: tuple[int, int, int] | None = None
    part: list[int] = []
    for start in range(_MOST_STARTS):
        if start > min(_STARTS, _STARTS_TIMES_POINTS // len(points)) and best is not None and best[0] == 0:
            break
        found = _exchanged(alike, _begin(start, levels, alike, size))
        rated = (int(whole - np.linalg.matrix_rank(model[found])), int(alike[np.ix_(found, found)].sum()), start)
        if best is None or rated < best:
            best, part = rated, found
    return [points[number] for number in part]


def _numbered(points: Sequence[Point]) -> Any:
    """[points, factors] integers: the levels of each factor, numbered as they come; not active is one of them."""
    import numpy as np

    columns = []
    for name in sorted({name for point in points for name in point}):
        numbers: dict[Level | None, int] = {}
        columns.append([numbers.setdefault(point.get(name), len(numbers)) for point in points])
    return np.array(columns).T


def _begin(start: int, levels: Any, alike: Any, size: int) -> list[int]:
    """A part to start from: first a part chosen point by point, then a generalised subset, then parts of chance."""
    import numpy as np

    if start == 0:
        chosen: list[int] = []
        likeness = np.zeros(len(alike), dtype=np.int64)
        for _ in range(size):  # each time the point least like those before
            chosen.append(int(likeness.argmin()))
            likeness += alike[chosen[-1]]
            likeness[chosen[-1]] = np.iinfo(np.int64).max // 2
        return chosen
    subset = np.flatnonzero(levels.sum(axis=1) % round(len(alike) / size) == 0)  # Surowiec et al. 2017
    if start == 1 and len(subset) == size:
        return [int(number) for number in subset]
    return random.Random(start).sample(range(len(alike)), size)


def _exchanged(alike: Any, begin: Sequence[int]) -> list[int]:
    """Exchange the pair of points that lowers the likeness most, until none does."""
    import numpy as np

    chosen = np.zeros(len(alike), dtype=bool)
    chosen[list(begin)] = True
    likeness = alike[:, chosen].sum(axis=1)
    while True:
        inside, outside = np.flatnonzero(chosen), np.flatnonzero(~chosen)
        without = likeness[inside] - alike[inside, inside]
        change = likeness[outside] - alike[np.ix_(inside, outside)] - without[:, None]
        out, into = divmod(int(change.argmin()), len(outside))
        if change[out, into] >= 0:
            return [int(number) for number in inside]
        chosen[inside[out]], chosen[outside[into]] = False, True
        likeness += alike[outside[into]] - alike[inside[out]]


# ---- points that spread


def quasi_random(factors: Mapping[str, Levels], seed: int, first: int, count: int) -> list[Point]:
    """Points `first` to `first + count - 1` of the scrambled Sobol sequence (Sobol 1967, Owen 1998).

    Of the factors that vary; the seed scrambles. `count` is a power of two.
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
            name: level_at(FACTORS[name], levels, float(position))
            for (name, levels), position in zip(varied.items(), point, strict=True)
        }
        for point in sequence.random(count)
    ]
