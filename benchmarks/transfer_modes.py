"""Compare what source weights give in each transfer mode, at equal updates, in three networks.

    python benchmarks/transfer_modes.py [--jobs 1]

runs benchmarks/transfer.yaml in the working folder, and prints a line for each network and mode, over five seeds: mean
validation accuracy and gap after the last epoch, and how both differ from those of a network that starts from scratch,
with 95 % intervals over the seeds (`cnnstudy.effects`, the modes of all networks are one family). Each seed has its own
division of the images, and pretrains its own source weights.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import pandas as pd

import cnnstudy

STUDY = Path(__file__).with_name("transfer.yaml")
#: In the order of the table; the first is what the others are compared with.
MODES = ("scratch", "probe", "frozen", "last-block", "last-block, gradual", "fine-tune", "fine-tune, gradual")
OUTCOMES = ("last_val_accuracy", "last_gap_accuracy")


def main() -> None:
    """Run what is missing of the study, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int)
    trials = cnnstudy.run(STUDY, jobs=parser.parse_args().jobs).trials
    mode = trials["transfer"].astype(str)
    trials["mode"] = mode.where(trials["unfreeze"].fillna("") != "gradual", mode + ", gradual")
    index = ["architecture", "level"]
    found = {
        outcome: cnnstudy.effects(trials, ["mode"], outcome, levels={"mode": MODES}).set_index(index)
        for outcome in OUTCOMES
    }
    print("| network | transfer | updates | validation | instead of scratch | gap | instead of scratch |")
    print("|---|---|---|---|---|---|---|")
    groups = dict(list(trials.groupby(["architecture", "mode"])))
    for network, mode in itertools.product(sorted(set(trials["architecture"])), MODES):
        group = groups[network, mode]
        cells = [network, mode, _span(group["updates"].fillna(0))]
        for outcome in OUTCOMES:
            cells.append(f"{100 * group[outcome].mean():.1f}")
            cells.append("" if mode == MODES[0] else _difference(found[outcome].loc[(network, mode)]))
        print(f"| {' | '.join(cells)} |")


def _difference(effect: pd.Series) -> str:
    """Return the points by which a mode differs from scratch, bold if that is beyond chance."""
    points = f"{100 * effect['estimate']:+.1f} [{100 * effect['low']:+.1f}, {100 * effect['high']:+.1f}]"
    return points if effect["answer"] == "cannot tell" else f"**{points}**"


def _span(updates: pd.Series) -> str:
    """Return the number of updates, or the range of them."""
    low, high = int(updates.min()), int(updates.max())
    return str(low) if low == high else f"{low} to {high}"


if __name__ == "__main__":
    main()
