"""Measure how often the data law is right, on simulated studies whose truth is known.

    python benchmarks/data_laws.py [--studies 400]

prints a line for each scenario: the true number of images needed for a gap of 5 points, relative to the largest amount
measured; in how many studies a number is given, and how many of these numbers' intervals hold the truth; in how many
studies any statement on it (a number, "at least", "not within 10 times", "never") is false; how often the intervals of
the floor and of the gap at twice the images hold the truth; and in how many studies the gap's trend is found. It runs
analysis/data_law.py, the code that `effects` uses.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cnnstudy.analysis.data_law import MAX_EXTRAPOLATION, DataLaw, data_law

TARGET = 0.05


@dataclass(frozen=True)
class Scenario:
    """A true law, gap = scale x^-exponent + floor with x relative to the largest amount, and a design."""

    floor: float
    exponent: float
    amounts: int = 4
    seeds: int = 5
    noise: float = 0.02  # standard deviation of each value, of 0..1
    shared: float = 0.01  # of what a seed adds to all its values
    scale: float = 0.08  # a gap of 8 points above the floor at the largest amount
    span: float = 8.0  # largest amount / smallest
    largest: int = 400

    @property
    def needed(self) -> float:
        """The number of images needed, relative to the largest amount; infinity if the target is never reached."""
        above = TARGET - self.floor
        return (self.scale / above) ** (1 / self.exponent) if above > 0 else math.inf

    def study(self, rng: np.random.Generator) -> pd.DataFrame:
        """Return a study's trials."""
        images = np.geomspace(self.largest / self.span, self.largest, self.amounts).round()
        gaps = self.scale * (images / self.largest) ** -self.exponent + self.floor
        noise = rng.normal(0, self.shared, (self.seeds, 1)) + rng.normal(0, self.noise, (self.seeds, self.amounts))
        seeds = np.repeat(np.arange(self.seeds), self.amounts)
        return pd.DataFrame({"seed": seeds, "images": np.tile(images, self.seeds), "gap": (gaps + noise).ravel()})


SCENARIOS = tuple(
    Scenario(floor, exponent, amounts, seeds, noise)
    for seeds, amounts, noise in ((3, 4, 0.015), (3, 6, 0.03), (5, 3, 0.02), (5, 4, 0.02), (5, 5, 0.015), (5, 6, 0.03))
    for floor, exponent in ((0.0, 0.3), (0.0, 0.6), (0.0, 1.0), (0.04, 0.6), (0.04, 1.0), (0.06, 0.3), (0.06, 1.0))
) + tuple(  # what a seed shares exceeds its noise
    Scenario(floor, exponent, amounts, 3, noise, shared, scale, span=16.0)
    for amounts, noise, shared in ((5, 0.01, 0.025), (6, 0.006, 0.03))
    for floor, exponent, scale in ((0.0, 0.6, 0.08), (0.04, 1.0, 0.05), (0.06, 1.0, 0.05))
)


@dataclass(frozen=True)
class Rates:
    """Shares of the studies, 0..1; NaN where there is nothing to count."""

    told: float  # a number of images is given
    covered: float  # of these: the interval holds the truth
    false: float  # any statement on the number is false
    floor: float  # of the laws: the floor is in its interval
    twice: float  # of the laws: the gap at twice the images is in its interval
    falls: float  # the trend is found


def rates(scenario: Scenario, studies: int, rng: np.random.Generator) -> Rates:
    """Simulate studies and compare the statements with the truth."""
    laws = [data_law(scenario.study(rng), target=TARGET) for _ in range(studies)]
    told = [law for law in laws if law.more.count is not None]
    fitted = [law for law in laws if law.power_law is not None]
    gap_at_twice = scenario.scale * 2**-scenario.exponent + scenario.floor
    return Rates(
        told=len(told) / studies,
        covered=_share([not is_false(scenario, law) for law in told]),
        false=_share([is_false(scenario, law) for law in laws]),
        floor=_share([_holds(law.floor, scenario.floor) for law in fitted]),
        twice=_share([_holds(law.twice, gap_at_twice) for law in fitted]),
        falls=_share([law.answer == "lowers" for law in laws]),
    )


def is_false(scenario: Scenario, law: DataLaw) -> bool:
    """Return whether what the law says of the number of images is false; "cannot tell" never is."""
    more, needed = law.more, scenario.largest * (scenario.needed - 1)
    if more.count is not None and more.low is not None and more.high is not None:
        # the ends are found on a grid of 2 %
        return not 0.97 * more.low - 1 <= needed <= 1.03 * more.high + 1
    if more.low is not None:
        return needed < 0.97 * more.low - 1
    if "already do" in more.reason and "perhaps" not in more.reason:
        return scenario.needed > 1
    if "never" in more.reason:
        return math.isfinite(scenario.needed)
    return "not within" in more.reason and scenario.needed <= MAX_EXTRAPOLATION


def _holds(estimate: object, truth: float) -> bool:
    low, high = getattr(estimate, "low", math.nan), getattr(estimate, "high", math.nan)
    return bool(low - 1e-3 <= truth <= high + 1e-3)


def _share(found: list[bool]) -> float:
    return float(np.mean(found)) if found else math.nan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=400)
    studies = parser.parse_args().studies
    print("| seeds | amounts | noise | shared | floor | exponent | images needed | number told | ", end="")
    print("of these covered | false | floor covered | gap at twice covered | trend found |")
    print("|--:" * 13 + "|")
    for number, one in enumerate(SCENARIOS):
        of = rates(one, studies, np.random.default_rng(number))
        needed = f"{one.needed:.1f} times" if math.isfinite(one.needed) else "never"
        points = " | ".join(f"{100 * share:g}" for share in (one.noise, one.shared, one.floor))
        design = f"{one.seeds} | {one.amounts} | {points} | {one.exponent:g}"
        shares = (of.told, of.covered, of.false, of.floor, of.twice, of.falls)
        cells = " | ".join("" if math.isnan(share) else f"{100 * share:.1f} %" for share in shares)
        print(f"| {design} | {needed} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
