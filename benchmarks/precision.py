"""Measure whether half precision changes what a study answers.

    python benchmarks/precision.py [--seeds 10] [--half mixed_bfloat16] [--jobs 1]

runs benchmarks/precision.yaml twice in the working folder, in float32 and in half precision, with the same seeds,
divisions of images and source weights. For validation accuracy and gap, over all networks, it prints in points, with
95 % intervals over the seeds: how half precision changes their mean, and how it changes the effect of each factor. Both
answer alike if each interval lies within 1 point either way.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

import cnnstudy

STUDY = Path(__file__).with_suffix(".yaml")
#: Points by which an effect may change.
ALIKE = 1.0
FACTORS, OUTCOMES = ("batch_size", "transfer"), ("val_accuracy", "gap")


def main() -> None:
    """Run what is missing of both studies, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--half", default="mixed_bfloat16")
    parser.add_argument("--jobs", type=int)
    given = parser.parse_args()
    parts = []
    for precision in ("float32", given.half):
        settings = {
            "name": f"precision-{precision}",
            "training.precision": precision,
            "strategy.seeds": given.seeds,
        }
        parts.append(cnnstudy.run(STUDY, settings, jobs=given.jobs).trials.assign(precision=precision))
        seconds = parts[-1].groupby("architecture")["seconds"].sum()
        print(f"{precision}: {', '.join(f'{name} {of:.0f} s' for name, of in seconds.items())}", flush=True)
    print("| outcome | change of | points | within 1 point |")
    print("|---|---|---|---|")
    for outcome in OUTCOMES:
        for what, effect in _changes(pd.concat(parts), outcome, ["float32", given.half]).items():
            low, high = 100 * effect["low"], 100 * effect["high"]
            is_alike = "yes" if low > -ALIKE and high < ALIKE else "not shown"
            print(f"| {outcome} | {what} | {100 * effect['estimate']:+.2f} [{low:+.2f}, {high:+.2f}] | {is_alike} |")


def _changes(trials: pd.DataFrame, outcome: str, precisions: list[str]) -> dict[str, pd.Series]:
    """Return how half precision changes the mean of an outcome, and the effect of each factor and network on it."""
    factors = ["precision", *FACTORS, "architecture"]
    found = cnnstudy.effects(trials, factors, outcome, levels={"precision": precisions})
    changes = {"its mean": found[(found["factor"] == "precision") & found["second_factor"].isna()].iloc[0]}
    for _, row in found[(found["factor"] == "precision") & found["second_factor"].notna()].iterrows():
        baseline, level = row["second_baseline"], row["second_level"]
        changes[f"the effect of {row['second_factor']} {level} instead of {baseline}"] = row
    return changes


if __name__ == "__main__":
    main()
