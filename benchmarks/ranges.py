"""Measure how often what is said of ranges is right, on simulated searches whose truth is known.

    python benchmarks/ranges.py [--studies 400]

Each study is a search of 1 to 4 ranges. The first has the shape that is named (best inside, monotone, or flat), the
second a hump or a slope, and if there are two they may interact. For each scenario are printed: in how many studies the
difference of the ends is in its 95 % interval, gets the wrong sign (also an answer where it is 0), and is found; how
often a hump or valley is claimed and how often the best level is in its interval; how many shares of the variance are
in theirs, and how often a factor is wrongly said to explain most.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from simulated_studies import OUTCOME, RANGES, at

from cnnstudy.analysis.effects import estimate_effects
from cnnstudy.analysis.importance import UNEXPLAINED, variance_shares
from cnnstudy.analysis.ranges import describe_ranges
from cnnstudy.config.factors import Levels, Range

#: Points of gap along a range, from -1 at its low to +1 at its high end.
SHAPES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "flat": lambda z: 0 * z,
    "straight": lambda z: 4 * z,
    "levels off": lambda z: 5 * np.tanh(2 * (z + 0.3)),
    "best in the middle": lambda z: 10 * z**2,
    "best inside": lambda z: -12 * np.exp(-0.5 * ((z + 0.3) / 0.4) ** 2),
    "best near the end": lambda z: -12 * np.exp(-0.5 * ((z - 0.6) / 0.4) ** 2),
    "falls, then a cliff": lambda z: -5 * (z + 1) + 14 / (1 + np.exp(-(z - 0.6) / 0.15)),
}
#: The factors after the first, in points of gap.
OTHERS: tuple[Callable[[np.ndarray], np.ndarray], ...] = (SHAPES["best inside"], lambda z: 2.5 * z, lambda z: 0 * z)
LEVELS: dict[str, Levels] = {
    "learning_rate": RANGES["learning_rate"],
    "dropout": RANGES["dropout"],
    "data_fraction": RANGES["data_fraction"],
    "weight_decay": Range(1e-6, 1e-3, log=True),
}
NOISE, INTERACTION = 3.0, 4.0
_GRID = np.linspace(-1, 1, 1001)


@dataclass(frozen=True)
class Scenario:
    """A search of `trials` trials: the shape of the first of its `factors` ranges, and whether two interact."""

    shape: str
    trials: int
    factors: int
    interact: bool = False

    @property
    def levels(self) -> dict[str, Levels]:
        """The first ranges of LEVELS."""
        return dict(itertools.islice(LEVELS.items(), self.factors))

    @property
    def parts(self) -> list[Callable[[np.ndarray], np.ndarray]]:
        """What each factor does."""
        return [SHAPES[self.shape], *OTHERS][: self.factors]


SCENARIOS = tuple(
    Scenario(shape, trials, factors, interact)
    for factors, interact in ((1, False), (2, True), (3, False), (4, True))
    for trials in (30, 80, 200)
    for shape in SHAPES
)


@dataclass
class Rates:
    """Shares of 0..1; NaN where nothing was said."""

    covered: float
    wrong: float  # sign, or a claim where the ends are equal
    found: float
    turns: float  # a hump or a valley is claimed
    best: float  # the best level is in its interval, where one is given
    shares: float
    misled: float  # another factor is said to explain most


def study(scenario: Scenario, rng: np.random.Generator) -> pd.DataFrame:
    """Return the finished trials of one simulated search."""
    places = rng.random((scenario.trials, scenario.factors))
    z = 2 * places - 1
    gap = 30 + sum(part(column) for part, column in zip(scenario.parts, z.T, strict=True))
    if scenario.interact:
        gap = gap + INTERACTION * z[:, 0] * z[:, 1]
    columns = {
        name: [at(levels, x) for x in column]
        for (name, levels), column in zip(scenario.levels.items(), places.T, strict=True)
    }
    gap = gap + NOISE * rng.normal(size=len(z))
    return pd.DataFrame(columns).assign(
        seed=range(len(z)), architecture="vgg16", verdict="overfit", **{OUTCOME: gap / 100}
    )


def true_shares(scenario: Scenario, interactions: bool) -> dict[str, float]:
    """Return each factor's share of the variance over its whole range, with half of its interaction if wanted."""
    parts = {name: float(part(_GRID).var()) for name, part in zip(scenario.levels, scenario.parts, strict=True)}
    product = INTERACTION**2 / 9 if scenario.interact else 0.0
    total = sum(parts.values()) + product + NOISE**2
    for name in list(parts)[:2] if interactions and scenario.interact else ():
        parts[name] += product / 2
    shares = {name: part / total for name, part in parts.items()}
    return shares | {UNEXPLAINED: 1 - sum(shares.values())}


def rates(scenario: Scenario, count: int, rng: np.random.Generator) -> Rates:
    """Simulate `count` studies and compare what is said of them with the truth."""
    shape = SHAPES[scenario.shape]
    low, high = shape(np.array([-1.0, 1.0])) / 100
    difference, best = high - low, float(_GRID[np.argmin(shape(_GRID))])
    told: dict[str, list[bool]] = {name: [] for name in Rates.__annotations__}
    for _ in range(count):
        frame = study(scenario, rng)
        effects = estimate_effects(frame, scenario.levels, [OUTCOME])
        for effect in [one for one in effects if one.factor == "learning_rate" and one.second is None]:
            assert effect.low is not None
            assert effect.high is not None
            told["covered"].append(effect.low <= difference <= effect.high)
            sign = {"raises": 1, "lowers": -1, "cannot tell": 0}[effect.answer]
            right = 0.0 if math.isclose(difference, 0, abs_tol=1e-9) else np.sign(difference)
            told["wrong"].append(sign not in (0, right))
            told["found"].append(sign != 0)
        curves = describe_ranges(frame, scenario.levels, OUTCOME)
        for curve in [one for one in curves if one.factor == "learning_rate"]:
            told["turns"].append(curve.turn != "")
            if curve.turn:
                z = 2 * (np.log10([curve.best_low, curve.best_high]) + 5) / 2 - 1
                told["best"].append(bool(z[0] - 0.001 <= best <= z[1] + 0.001))
        _compare_shares(scenario, frame, told)
    return Rates(**{name: float(np.mean(of)) if of else math.nan for name, of in told.items()})


def _compare_shares(scenario: Scenario, frame: pd.DataFrame, told: dict[str, list[bool]]) -> None:
    found = variance_shares(frame, scenario.levels, OUTCOME)
    if not found.shares:
        return
    true = true_shares(scenario, found.interactions)
    for name, share in found.shares.items():
        assert share.low is not None
        assert share.high is not None
        told["shares"].append(share.low <= true[name] <= share.high)
    first = max(list(scenario.levels), key=lambda name: true[name])
    told["misled"].append(found.leader not in (None, first) or (found.leader is not None and true[first] == 0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--factors", type=int, nargs="+", default=[1, 2, 3, 4])
    given = parser.parse_args()
    print("| shape | ranges | trials | covered | wrong sign | found | turns | best level | shares | misled |")
    print("|:--|" + "--:|" * 9)
    for scenario in [one for one in SCENARIOS if one.factors in given.factors]:
        of = rates(scenario, given.studies, np.random.default_rng(given.seed))
        cells = ["" if math.isnan(share) else f"{100 * share:.1f} %" for share in vars(of).values()]
        factors = f"{scenario.factors}{', interacting' if scenario.interact else ''}"
        print(f"| {scenario.shape} | {factors} | {scenario.trials} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
