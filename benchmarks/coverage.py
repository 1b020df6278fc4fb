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

then one for each scenario of studies that stop when their question is answered, with at most 10 seeds, at the moment
when they stop:

    covered        planted main effects, and effects of 0, in their 95 % intervals
    false cause, wrong sign, found   as above
    of 10 seeds    what a study of all 10 seeds finds
    same           answers that are those of all 10 seeds
    seeds          that have run, on average

`python -m cnnstudy effects` runs the same code. `benchmarks/paired_images.py` measures intervals that pair images.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from simulated_studies import OUTCOME, SCENARIOS, Scenario, studies, truth

import cnnstudy
from cnnstudy.analysis.contrasts import Contrast
from cnnstudy.analysis.effects import Effect, estimate_effects
from cnnstudy.analysis.looks import Looks
from cnnstudy.analysis.question import Question, correct_by_question
from cnnstudy.analysis.stopping import judge_looks

#: Scenarios of studies that stop when their question is answered, their seeds, and the precisions that they ask for.
STOPPING = (
    "5 seeds, balanced",
    "5 seeds, 2^3, 6.6 points",
    "5 seeds, no effects",
    "5 seeds, noise differs threefold",
    "3 seeds, accuracy of 160 images",
    "5 seeds, two factors act differently by seed",
)
LEAST, MOST, PRECISIONS = 3, 10, (None, 0.03)


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


@dataclass
class StoppedRates:
    """The results of studies that stop when their question is answered: shares of 0..1, and the mean seeds."""

    covered: float
    false: float  # of studies
    wrong: float  # of studies
    power: float
    power_of_all: float  # with all seeds
    same: float  # of the answers
    seeds: float


def stopped_rates(name: str, precision: float | None, count: int, rng: np.random.Generator) -> StoppedRates:
    """Simulate `count` studies of at most MOST seeds, and compare what they say when they stop with the truth."""
    scenario = replace(next(one for one in SCENARIOS if one.name == name), seeds=MOST)
    config = {"strategy": {"least_seeds": LEAST, "precision": precision}}
    rows = []
    for frame in studies(scenario, count, rng):
        whole = _answers(scenario, frame, None)
        for seeds in range(LEAST, MOST + 1):
            looks = Looks(MOST, seeds)
            found = _answers(scenario, frame[frame["seed"] < seeds], looks)
            if judge_looks(found, Question(), config, looks).stop:
                break
        true = np.array([truth(scenario, one.to_contrast()) for one in found])
        claims, full = _signs(found), _signs(whole)
        rows.append(
            (
                np.mean([one.low <= value <= one.high for one, value in zip(found, true, strict=True)]),
                ((claims != 0) & (true == 0)).any(),
                (claims * true < 0).any(),
                (claims * true > 0)[true != 0].mean() if true.any() else math.nan,
                (full * true > 0)[true != 0].mean() if true.any() else math.nan,
                (claims == full).mean(),
                seeds,
            )
        )
    return StoppedRates(*map(float, np.mean(np.array(rows, dtype=float), axis=0)))


def _answers(scenario: Scenario, frame: pd.DataFrame, looks: Looks | None) -> list[Effect]:
    """Return the main effects, corrected as the answers of a question."""
    effects = correct_by_question(estimate_effects(frame, scenario.factors, [OUTCOME], looks=looks), Question())
    return [one for one in effects if one.second is None]


def _signs(effects: Sequence[Effect]) -> np.ndarray:
    return np.array([{"raises": 1, "lowers": -1}.get(one.answer, 0) for one in effects])


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
    print("\n| stops | precision | covered | false cause | wrong sign | found | of 10 seeds | same | seeds |")
    print("|:--|" + "--:|" * 8)
    for name in STOPPING:
        for precision in PRECISIONS if given.only in f"stops, {name}" else ():
            stopped = stopped_rates(name, precision, given.studies, np.random.default_rng(given.seed))
            cells = ["" if precision is None else f"{100 * precision:.0f}"]
            cells += [percent(one) for one in vars(stopped).values()][:-1]
            print(f"| {name.partition(', ')[2]} | {' | '.join(cells)} | {stopped.seeds:.1f} |", flush=True)


def percent(of: float) -> str:
    return "" if math.isnan(of) else f"{100 * of:.1f} %"


if __name__ == "__main__":
    main()
