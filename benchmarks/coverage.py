"""Measure how often `cnnstudy.effects` is right, on simulated studies whose truth is known.

    python benchmarks/coverage.py [--studies 1000] [--only WORDS]

prints a line for each scenario:

    covered        planted main effects in their 95 % intervals (the target is 93 to 97 %)
    or no answer   the same, where "cannot tell" counts as right: for designs that cannot cover them
    interactions   planted interactions in their intervals
    false cause    studies with any `raises` or `lowers` of an effect of 0, all networks together (at most 5 %)
    wrong sign     studies with any planted effect answered with the wrong sign (at most 1 %)
    width          of a main effect's interval, in points
    found          planted main effects that are answered with their sign
    repeats        how often the next study gives the same answer, and in brackets what `repeats` said on average

`python -m cnnstudy effects` runs the same code.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from simulated_studies import OUTCOME, SCENARIOS, Scenario, studies, truth

import cnnstudy
from cnnstudy.analysis.contrasts import Contrast


@dataclass
class Rates:
    """The results of a scenario: shares of 0..1, the width in points; NaN where a scenario has none."""

    main: float  # planted main effects in their intervals, and the worst of them
    worst: float
    allowed: float  # planted main effects in their intervals or without an answer
    interactions: float
    false: float  # of studies
    wrong: float  # of studies
    width: float
    power: float  # planted main effects that are found, of their sign
    power_of_interactions: float
    repeated: float
    repeats: float


def rates(scenario: Scenario, count: int, rng: np.random.Generator) -> Rates:
    """Simulate `count` studies and compare the answers with the truth."""
    tables = []
    for number, frame in enumerate(studies(scenario, count, rng)):
        table = cnnstudy.effects(
            frame,
            list(scenario.factors),
            OUTCOME,
            interactions=not scenario.no_interactions,
            levels=scenario.factors,
        )
        tables.append(table.assign(study=number))
    found = pd.concat(tables, ignore_index=True)
    names = ["factor", "baseline", "level", "second_factor", "second_baseline", "second_level"]
    contrasts = [
        Contrast(*(None if isinstance(one, float) and math.isnan(one) else one for one in row))
        for row in found[names].itertuples(index=False)
    ]
    known = {contrast: truth(scenario, contrast) for contrast in set(contrasts)}
    found["true"] = [known[contrast] for contrast in contrasts]
    found["contrast"] = list(map(str, contrasts))
    sign = found["answer"].map({"raises": 1, "lowers": -1, "cannot tell": 0})
    found["covered"] = (found["low"] <= found["true"]) & (found["true"] <= found["high"])
    found["claimed"], found["right"] = sign != 0, sign == np.sign(found["true"])
    found["false"] = found["claimed"] & (found["true"] == 0)
    found["wrong"] = found["claimed"] & (found["true"] != 0) & ~found["right"]
    has_interval = found[found["low"].notna()]
    is_main = has_interval["second_factor"].isna()
    main = has_interval[is_main & (has_interval["true"] != 0)]
    second = has_interval[~is_main & (has_interval["true"] != 0)]
    by_study = found.groupby("study")[["false", "wrong"]].any()
    by_effect = main.groupby("contrast")["covered"].mean()
    answers = found.pivot_table(index="study", columns=["architecture", "contrast"], values="answer", aggfunc="first")
    pairs = answers.iloc[1:].to_numpy() == answers.iloc[:-1].to_numpy()
    known_answers = answers.notna().to_numpy(dtype=bool)
    there = known_answers[1:] & known_answers[:-1]
    return Rates(
        main=_mean(main["covered"]),
        worst=max(by_effect, key=lambda covers: abs(covers - 0.95)) if len(by_effect) else math.nan,
        allowed=_mean(main["covered"] | ~main["claimed"]),
        interactions=_mean(second["covered"]),
        false=float(by_study["false"].mean()),
        wrong=float(by_study["wrong"].mean()),
        width=100 * _mean(has_interval[is_main]["high"] - has_interval[is_main]["low"]),
        power=_mean(main["right"]),
        power_of_interactions=_mean(second["right"]),
        repeated=_mean(pd.Series(pairs[there])),
        repeats=_mean(found["repeats"].dropna()),
    )


def _mean(column: pd.Series) -> float:
    return float(column.mean()) if len(column) else math.nan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="scenarios with these words in their names")
    given = parser.parse_args()
    print(
        "| scenario | covered | worst effect | or no answer | interactions | false cause | wrong sign | width | found"
        " | interactions found | repeats |"
    )
    print("|:--|" + "--:|" * 10)
    for scenario in SCENARIOS:
        if given.only not in scenario.name:
            continue
        of = rates(scenario, given.studies, np.random.default_rng(given.seed))
        cells = [percent(one) for one in (of.main, of.worst, of.allowed, of.interactions, of.false, of.wrong)]
        cells += [f"{of.width:.1f}", percent(of.power), percent(of.power_of_interactions)]
        cells += [f"{percent(of.repeated)} ({percent(of.repeats)})"]
        print(f"| {scenario.name} | {' | '.join(cells)} |", flush=True)


def percent(of: float) -> str:
    return "" if math.isnan(of) else f"{100 * of:.1f} %"


if __name__ == "__main__":
    main()
