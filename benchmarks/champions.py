"""Measure how often the champion's interval contains the truth, and by how much the best single score is too high.

    python benchmarks/champions.py [--searches 2000]

simulates searches whose true accuracies are known: sixty combinations, each tried once; the best three are confirmed
with five fresh seeds, or ten if the result is close. It runs analysis/confirmation.py, the code that `confirm` uses.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cnnstudy.analysis.confirmation import CHAMPION, TIED, Candidate, Standing, compare_candidates
from cnnstudy.records import Rule

#: The number of combinations; the mean of their true accuracies (0..1) and its standard deviation; the standard
#: deviations of a trial's noise, and of a seed's effect on all combinations and on each.
COMBINATIONS, TRUE_MEAN, TRUE_SPREAD, NOISE, SHARED, OWN = 60, 0.75, 0.02, 0.03, 0.02, 0.02


@dataclass(frozen=True)
class Searched:
    """One simulated search: the best single score and the champion, each with its true accuracy."""

    naive: float
    naive_truth: float
    champion: Standing
    truth: float

    @property
    def covered(self) -> bool:
        """Whether the champion's interval contains its true accuracy."""
        low, high = self.champion.low, self.champion.high
        return low is not None and high is not None and low <= self.truth <= high

    @property
    def naive_covered(self) -> bool:
        """The same for the best single score, if the noise of a trial were known."""
        return abs(self.naive - self.naive_truth) <= 1.96 * NOISE


def simulate(dice: np.random.Generator) -> Searched:
    """Simulate a search, and the confirmation of its best three combinations."""
    truth = dice.normal(TRUE_MEAN, TRUE_SPREAD, COMBINATIONS)
    tried = truth + dice.normal(0, NOISE, COMBINATIONS)
    naive = int(tried.argmax())
    top = [_candidate(int(number), float(tried[number])) for number in np.argsort(-tried)[:3]]
    shared, own = dice.normal(0, SHARED, 10), {one.number: dice.normal(0, OWN, 10) for one in top}

    def look(chosen: Sequence[Candidate], seeds: int) -> list[Standing]:
        measured = [
            (
                one,
                {
                    seed: _metrics(float(truth[one.number] + shared[seed] + own[one.number][seed]))
                    for seed in range(seeds)
                },
            )
            for one in chosen
        ]
        return compare_candidates(measured, Rule("val/accuracy"), 2)

    first = look(top, 5)
    close = [one.candidate for one in first if one.standing in (CHAMPION, TIED)]
    champion = look(close, 10)[0] if len(close) > 1 else first[0]
    return Searched(float(tried[naive]), float(truth[naive]), champion, float(truth[champion.candidate.number]))


def _candidate(number: int, searched: float) -> Candidate:
    return Candidate("alexnet", number, {"transfer": "scratch", "batch_size": 8, "dropout": 0.5}, searched, 0.1)


def _metrics(accuracy: float) -> dict[str, float]:
    return {"val/accuracy": accuracy, "val/loss": 1 - accuracy, "gap/accuracy": 0.1}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--searches", type=int, default=2000)
    dice, count = np.random.default_rng(7), parser.parse_args().searches
    found = [simulate(dice) for _ in range(count)]
    covered = sum(one.covered for one in found) / count
    naive = sum(one.naive_covered for one in found) / count
    optimism = 100 * float(np.mean([one.naive - one.naive_truth for one in found]))
    bias = 100 * float(np.mean([one.champion.mean - one.truth for one in found]))
    print(f"{count} searches: the champion's 95 % interval holds its true accuracy in {100 * covered:.1f} %;")
    print(f"its mean is {bias:+.2f} points off, the best single score {optimism:+.1f} points;")
    print(f"1.96 standard deviations around the best single score hold the truth in {100 * naive:.1f} %")


if __name__ == "__main__":
    main()
