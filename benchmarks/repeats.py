"""Measure how often a repeat says what the study said, how often `repeats` says it would, and what intervals hold.

    python benchmarks/repeats.py [--studies 250]

simulates studies with eight effects whose sizes, in standard errors, are drawn from a normal distribution around 0, or
are all 0 but one, and a repeat of each. It runs the tests of analysis/intervals.py and analysis/repeats.py, and prints
for the effects that are told: how many there are, how often `repeats` says that a repeat tells them, how often it does,
and how many of their 95 % intervals contain the truth.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

import numpy as np

from cnnstudy.analysis.intervals import LEVEL, Resolution, SeedTests, compare_seeds, correct_family
from cnnstudy.analysis.repeats import TrueSizes, probability_of_repeat

EFFECTS = 8
#: What effects are like -> effects [EFFECTS], in standard errors.
SIZES: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    **{f"normal, {spread}": lambda rng, s=spread: rng.normal(0, s, EFFECTS) for spread in (1, 2, 4, 8)},
    **{f"one of {size}": lambda _, s=size: np.r_[float(s), np.zeros(EFFECTS - 1)] for size in (4, 6)},
}


def study(effects: np.ndarray, seeds: int, rng: np.random.Generator) -> tuple[SeedTests, np.ndarray, np.ndarray]:
    """Return the tests of a study, its answers (1 raises, -1 lowers, 0 cannot tell), and the level of each test."""
    of_seeds = effects[:, None] + rng.normal(0, math.sqrt(seeds), (len(effects), seeds))
    found = compare_seeds(of_seeds, np.ones(len(effects)), Resolution(0.0, math.nan))
    adjusted, levels = correct_family(found.tests[:, 3], found.shrunk_p, np.zeros(len(effects), dtype=bool))
    signs = np.where(found.tests[:, 1] > 0, 1, np.where(found.tests[:, 2] < 0, -1, 0))
    return found, np.where(adjusted < LEVEL, signs, 0), levels


def rates(name: str, seeds: int, studies: int) -> tuple[int, float, float, float]:
    """Return the number of effects told, what `repeats` says on average, what happens, and what intervals contain."""
    rng, rows = np.random.default_rng(0), []
    for _ in range(studies):
        effects = SIZES[name](rng)
        found, answers, levels = study(effects, seeds, rng)
        _, again, _ = study(effects, seeds, rng)
        sizes = TrueSizes.learn(found.tests[:, 0].tolist(), found.error.tolist(), found.freedom.tolist())
        for place in np.flatnonzero(answers):
            estimate, low, high, _ = found.tests[place]
            answer = "raises" if answers[place] > 0 else "lowers"
            error, freedom = float(found.error[place]), float(found.freedom[place])
            said = probability_of_repeat(answer, float(estimate), error, freedom, seeds, float(levels[place]), sizes)
            rows.append((said, again[place] == answers[place], low <= effects[place] <= high))
    said, happened, covered = np.mean(rows, axis=0).tolist()
    return len(rows), said, happened, covered


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=250)
    studies = parser.parse_args().studies
    print("| seeds | effects | told | a repeat would, says `repeats` | a repeat does | intervals hold |")
    print("|--:|:--|--:|--:|--:|--:|")
    for seeds in (3, 5, 10):
        for name in SIZES:
            told, *shares = rates(name, seeds, studies)
            print(
                f"| {seeds} | {name} | {told} | {' | '.join(f'{100 * share:.0f} %' for share in shares)} |", flush=True
            )


if __name__ == "__main__":
    main()
