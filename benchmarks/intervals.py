"""Compare methods for intervals over few seeds: why `python -m cnnstudy effects` uses the one it does.

    python benchmarks/intervals.py [--studies 1000]

prints how many main effects are in their 95 % intervals, on average and for the worst effect, and how many effects of
5 points pass Holm's correction with that method's p-values.
"""

from __future__ import annotations

import argparse
import gc

import numpy as np
from scipy import stats
from simulated_studies import OUTCOME, SCENARIOS, Scenario, studies, truth
from statsmodels.stats.multitest import multipletests

from cnnstudy.analysis.contrasts import Cells, list_contrasts, varied_levels
from cnnstudy.analysis.intervals import shrink_variances


def tried(scenario: Scenario, count: int, rng: np.random.Generator) -> dict[str, tuple[float, float, float]]:
    """Return by method the share of main effects covered, on average and for the worst one, and the share of effects
    of 5 points that pass Holm's correction."""
    gc.freeze()  # multipletests collects garbage at each call
    results: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for frame in studies(scenario, count, rng):
        varied = varied_levels(frame, scenario.factors)
        contrasts = list_contrasts(frame, varied)
        matched = Cells(frame, varied, frame[[OUTCOME]].to_numpy()).match_pairs(contrasts)
        of_seeds, spread = matched.values[:, :, 0], matched.spread[:, 0]
        true = np.array([truth(scenario, contrast) for contrast in contrasts])
        main = np.array([contrast.second is None for contrast in contrasts])
        for way, (variance, freedom) in ways(of_seeds, spread, main).items():
            error = np.sqrt(variance / of_seeds.shape[1])
            t = of_seeds.mean(axis=1) / error
            covered = np.abs(of_seeds.mean(axis=1) - true) <= stats.t.ppf(0.975, freedom) * error
            p = 2 * stats.t.sf(np.abs(t), freedom)
            results.setdefault(way, []).append((covered[main], multipletests(p[main], method="holm")[0]))
    large = np.abs(true[main]) > 0.0499
    return {
        way: (
            float(np.mean([covered for covered, _ in several])),
            float(np.mean([covered for covered, _ in several], axis=0).min()),
            float(np.mean([passed[large] for _, passed in several])),
        )
        for way, several in results.items()
    }


def ways(of_seeds: np.ndarray, spread: np.ndarray, main: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return by method the variances of the seeds' estimates and their degrees of freedom, [contrasts]."""
    own, freedom = of_seeds.var(axis=1, ddof=1), np.full(len(of_seeds), of_seeds.shape[1] - 1)
    shrunk, total = shrink_variances(own, freedom, spread)
    apart, apart_total = own.copy(), freedom.astype(float)
    for kind in (main, ~main):
        apart[kind], apart_total[kind] = shrink_variances(own[kind], freedom[kind], spread[kind])
    common = np.mean(own / spread) * spread
    capped = (common + freedom * own) / (1 + freedom)
    return {
        "t over the seeds": (own, freedom),
        "shrunk": (shrunk, total),
        "shrunk, main effects apart": (apart, apart_total),
        "shrunk a little (prior of 1 degree of freedom)": (capped, freedom + 1),
        "shrunk, never below its own": (np.maximum(own, shrunk), total),
        "one variance for all (randomised blocks)": (common, np.full(len(own), freedom.sum())),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print("| scenario | way | covered | worst effect | 5 points pass Holm |\n|:--|:--|--:|--:|--:|")
    for scenario in SCENARIOS:
        if scenario.design != "full" or scenario.missing:
            continue
        for way, numbers in tried(scenario, given.studies, np.random.default_rng(given.seed)).items():
            shown = " | ".join(f"{100 * number:.1f} %" for number in numbers)
            print(f"| {scenario.name} | {way} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
