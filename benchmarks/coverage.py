"""Measure how often `python -m cnnstudy effects` is right, on simulated studies whose truth is known.

    python benchmarks/coverage.py [--studies 1000]

prints a line for each scenario: how many planted effects are in their 95 % intervals (the target is 93 to 97 %), how
many effects of 0 are answered with "cannot tell" (at least 93 %), in how many studies no effect of 0 is claimed, how
wide the intervals of main effects are, and how many planted effects of 5 points are found. It runs estimate_effects,
the code that the command uses.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass

import numpy as np
from simulated_studies import OUTCOME, SCENARIOS, Scenario, studies, truth

from cnnstudy.analysis.contrasts import Contrast
from cnnstudy.analysis.effects import estimate_effects


@dataclass
class Rates:
    """The results of a scenario: shares of 0..1, the width in points."""

    main: float  # planted main effects in their intervals, and the worst of them
    worst: float
    interactions: float  # planted interactions in their intervals; NaN: none
    silent: float  # effects of 0 that are "cannot tell": the worst of them
    quiet: float  # studies in which all of them are
    width: float  # of a main effect's interval
    power: float  # effects of 5 points that are found, of their sign
    power_of_interactions: float


def rates(scenario: Scenario, count: int, rng: np.random.Generator) -> Rates:
    """Simulate `count` studies and compare the answers with the truth."""
    true: dict[Contrast, float] = {}
    covered: dict[Contrast, list[bool]] = {}
    found: dict[Contrast, list[bool]] = {}
    widths: list[float] = []
    quiet = []
    for frame in studies(scenario, count, rng):
        false_claim = False
        for effect in estimate_effects(frame, scenario.factors, [OUTCOME]):
            contrast = Contrast(
                effect.factor,
                effect.baseline,
                effect.level,
                effect.second,
                effect.second_baseline,
                effect.second_level,
            )
            if contrast not in true:
                true[contrast] = truth(scenario, contrast)
                covered[contrast], found[contrast] = [], []
            if effect.low is None or effect.high is None:
                continue
            sign = {"raises": 1, "lowers": -1, "cannot tell": 0}[effect.answer]
            covered[contrast].append(effect.low <= true[contrast] <= effect.high)
            found[contrast].append(sign != 0 if true[contrast] == 0 else sign == np.sign(true[contrast]))
            false_claim |= true[contrast] == 0 and sign != 0
            if effect.second is None:
                widths.append(100 * (effect.high - effect.low))
        quiet.append(not false_claim)
    main = [contrast for contrast in true if contrast.second is None and true[contrast]]
    second = [contrast for contrast in true if contrast.second is not None and true[contrast]]
    large = [contrast for contrast in true if abs(true[contrast]) > 0.0499]
    shares = [float(np.mean(covered[contrast])) for contrast in main]
    return Rates(
        main=float(np.mean(shares)),
        worst=max(shares, key=lambda covers: abs(covers - 0.95)),
        interactions=_mean([covered[contrast] for contrast in second]),
        silent=min(1 - float(np.mean(found[contrast])) for contrast in true if not true[contrast]),
        quiet=float(np.mean(quiet)),
        width=float(np.mean(widths)),
        power=_mean([found[contrast] for contrast in large if contrast.second is None]),
        power_of_interactions=_mean([found[contrast] for contrast in large if contrast.second is not None]),
    )


def _mean(lists: list[list[bool]]) -> float:
    return float(np.mean([one for several in lists for one in several])) if lists else math.nan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print(
        "| scenario | planted covered | worst effect | interactions covered | 0: cannot tell (worst effect)"
        " | no false claim in a study | width, points | 5 points found | interactions of 5 points found |"
    )
    print("|:--|" + "--:|" * 8)
    for scenario in SCENARIOS:
        of = rates(scenario, given.studies, np.random.default_rng(given.seed))
        cells = [percent(share) for share in (of.main, of.worst, of.interactions, of.silent, of.quiet)]
        cells += [f"{of.width:.1f}", percent(of.power), percent(of.power_of_interactions)]
        print(f"| {scenario.name} | {' | '.join(cells)} |", flush=True)


def percent(of: float) -> str:
    return "" if math.isnan(of) else f"{100 * of:.1f} %"


if __name__ == "__main__":
    main()
