"""Intervals and tests that hold however often a factorial is looked at while seeds are being added.

A study that stops when its question is answered looks after each seed. Tests at 5 % at every look would find a false
effect in more than 5 % of studies, and intervals at the moment of stopping would miss the truth too often. Each look
spends a part of the 5 % instead (group sequential tests with an error spending function, Lan and DeMets 1983, "Discrete
sequential boundaries for clinical trials"; the power family of Kim and DeMets 1987, "Design and analysis of group
sequential tests based on the type I error spending rate function"): after n of at most N seeds (n / N)^1.5 of it is
spent. An effect is tested, and has its interval, at the level at which a t-test over n seeds crosses for the first time
with the probability that look n may spend (repeated confidence intervals, Jennison and Turnbull 1989, "Interim
analyses: the repeated confidence interval approach"). So the probability that any of a study's looks has an interval
without the truth is 5 %, whatever makes the study stop.

With few seeds these levels are not those of normal statistics. They are computed for Student's t itself: given no
effect, t after n + 1 seeds depends on the earlier ones through t after n seeds alone, because the sum of squares is
independent of all ratios. Its distribution among studies that have crossed no boundary yet is followed on a grid.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from cnnstudy.analysis.intervals import LEVEL, MIN_SEEDS

#: After n of at most N seeds, (n / N) to the power of this is the share of the level that is spent.
EXPONENT = 1.5
#: The grid of normal quantiles on which the distribution of t is followed: its ends, and its cells.
_END, _CELLS = 7.5, 301
#: The levels, spent by all looks together, for which each look's levels are tabulated.
_SPENT = np.exp(np.linspace(np.log(1e-7), np.log(0.99), 36))


@dataclass(frozen=True)
class Looks:
    """A study that is looked at after each seed, from the third on, at the look after `seeds` of at most `most`."""

    most: int
    seeds: int

    @property
    def level(self) -> float:
        """The level of a test of one effect at this look, so that it is 5 % over all looks."""
        return self.level_of(LEVEL)

    def level_of(self, spent: float) -> float:
        """Return the level of this look's test if that is the level over all looks together."""
        return float(np.exp(np.interp(np.log(spent), np.log(_SPENT), np.log(self._levels))))

    def adjust(self, p: np.ndarray) -> np.ndarray:
        """Return p-values of this look's tests as the levels over all looks at which they are significant.

        They are compared with the usual 5 %, and corrected for multiple comparisons as usual. NaN stays NaN.
        """
        smallest, largest = self._levels[0], self._levels[-1]
        with np.errstate(divide="ignore", invalid="ignore"):
            found = np.exp(np.interp(np.log(p), np.log(self._levels), np.log(_SPENT)))
            found = np.where(p < smallest, p * _SPENT[0] / smallest, found)
        adjusted: np.ndarray = np.where(np.isnan(p), np.nan, np.where(p > largest, 1.0, np.maximum(found, p)))
        return adjusted

    def widen(self, tests: np.ndarray, freedom: np.ndarray) -> np.ndarray:
        """Return tests over the seeds, [contrasts, 4]: estimate, low, high, p, with the interval and p of this look.

        Args:
            tests: with 95 % intervals of Student's t; NaN where there is none.
            freedom: [contrasts], its degrees of freedom.
        """
        from scipy import special

        known = np.maximum(freedom, 1)
        ratio = special.stdtrit(known, 1 - self.level / 2) / special.stdtrit(known, 1 - LEVEL / 2)
        half = (tests[:, 2] - tests[:, 1]) / 2 * ratio
        return np.column_stack([tests[:, 0], tests[:, 0] - half, tests[:, 0] + half, self.adjust(tests[:, 3])])

    @property
    def _levels(self) -> np.ndarray:
        """The level of this look's test for each of _SPENT."""
        return _tabulate(self.most)[min(max(self.seeds, MIN_SEEDS), self.most) - MIN_SEEDS]


@functools.lru_cache(maxsize=8)
def _tabulate(most: int) -> np.ndarray:
    """Return the level of each look for each of _SPENT, [looks, levels]; the first is after MIN_SEEDS seeds."""
    from scipy import special

    grid = np.linspace(-_END, _END, _CELLS)
    chances = np.exp(-(grid**2) / 2)
    chances /= chances.sum()
    mass = np.tile(chances, (len(_SPENT), 1))  # of studies that go on
    found, before = [], 0.0
    for seeds in range(MIN_SEEDS, most + 1):
        share = (seeds / most) ** EXPONENT
        limits = np.empty(len(_SPENT))
        for row, spent in enumerate(_SPENT):
            limits[row] = _cross(mass[row], grid, spent * (share - before))
        found.append(2 * special.ndtr(-limits))
        before = share
        mass = mass @ _step(grid, chances, seeds)
    return np.array(found)


def _cross(mass: np.ndarray, grid: np.ndarray, chance: float) -> float:
    """Return the distance from 0 beyond which the mass is `chance`, and remove what is beyond it.

    Args:
        mass: [cells], changed in place.
        grid: [cells], the middles of the cells, symmetric about 0.
    """
    middle = len(grid) // 2
    both = mass[middle:] + mass[middle::-1]
    both[0] /= 2
    beyond = np.cumsum(both[::-1])[::-1]  # at the inner edge of each cell
    inner = grid[middle:] - (grid[1] - grid[0]) / 2
    cell = int(np.searchsorted(-beyond, -chance, side="right")) - 1
    outside = beyond[cell + 1] if cell + 1 < len(beyond) else 0.0
    kept = 1 - (chance - outside) / both[cell]
    mass[middle + cell + 1 :] = mass[: middle - cell] = 0.0
    mass[middle + cell] *= kept
    if cell:
        mass[middle - cell] *= kept
    return float(inner[cell] + kept * (grid[1] - grid[0]))


def _step(grid: np.ndarray, chances: np.ndarray, seeds: int) -> np.ndarray:
    """Return the probabilities of each cell after one more seed, [from, to].

    With r the sum over the root of the sum of squares, and u the new value over that root, Student's t over the root of
    `seeds`, r becomes (r + u) / sqrt(1 + u^2).

    Args:
        grid: [cells], normal quantiles of the probability of t.
        chances: [cells], of a normal number.
    """
    from scipy import special

    t = np.sign(grid) * -special.stdtrit(seeds - 1, special.ndtr(-np.abs(grid)))
    u = np.sign(grid) * -special.stdtrit(seeds, special.ndtr(-np.abs(grid))) / np.sqrt(seeds)
    half = len(grid) // 2 + 1  # of the cells; the others mirror them
    r = (t * np.sqrt(seeds / (seeds - 1 + t**2)))[:half, None]
    after = (r + u) / np.sqrt(1 + u**2)
    t_after = after * np.sqrt(seeds / np.maximum(seeds + 1 - after**2, 1e-15))
    z = np.sign(t_after) * -special.ndtri(special.stdtr(seeds, -np.abs(t_after)))
    place = (np.clip(z, -_END, _END) + _END) / (grid[1] - grid[0])
    left = np.minimum(place.astype(int), len(grid) - 2)
    share = place - left
    cells = np.arange(half)[:, None] * len(grid) + left
    weights, size = np.broadcast_to(chances, place.shape), half * len(grid)
    matrix = np.bincount(cells.ravel(), (weights * (1 - share)).ravel(), size)
    matrix += np.bincount(cells.ravel() + 1, (weights * share).ravel(), size)
    below = matrix.reshape(half, len(grid))
    return np.vstack([below, below[-2::-1, ::-1]])
