"""Factors that are no question but must suit the others: a learning rate tuned for one batch size is unfair to another.

In each cell of the other factors the level with the lowest validation loss stands for the cell. Which one that is, each
seed is told by the other seeds: a seed that chose by its own losses would look better than it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from cnnstudy.space import FACTORS

CHOOSES = "epochs/val_loss"


def tuned(frame: pd.DataFrame, tune: Sequence[str]) -> pd.DataFrame:
    """The trials at the level that the other seeds choose for their cell, one a cell and seed.

    Args:
        frame: finished trials of one network (observations.Observations).
        tune: the factors that are tuned together; those that do not vary are passed over.
    """
    tune = [factor for factor in tune if factor in frame and frame[factor].nunique() > 1]
    if not tune or frame["seed"].nunique() < 2:
        return frame
    others = [factor for factor in FACTORS if factor in frame and factor not in tune]
    kept = []
    for _, cell in frame.groupby(others, dropna=False, sort=False) if others else [((), frame)]:
        losses = cell.pivot_table(index="seed", columns=tune, values=CHOOSES, aggfunc="mean", dropna=False)
        for seed in losses.index:
            of_others = losses.drop(index=seed)
            # a level that failed in some seed is no choice that can be relied on
            means = of_others.mean(skipna=False).to_numpy()
            if not np.isfinite(means).any():
                continue
            best = losses.columns[int(np.nanargmin(means))]
            chosen = best if isinstance(best, tuple) else (best,)
            there = (cell["seed"] == seed) & (cell[tune] == list(chosen)).all(axis=1)
            kept.append(cell[there])
    return pd.concat(kept) if kept else frame.iloc[:0]


def choices_in_words(frame: pd.DataFrame, factor: str) -> str:
    """Which levels of a tuned factor were chosen, and where batch size varies at which batch size."""
    one, by = FACTORS[factor], FACTORS["batch_size"]
    several = by.name in frame and frame[by.name].nunique() > 1
    groups: list[tuple[Any, pd.DataFrame]] = list(frame.groupby(by.name, sort=True)) if several else [("", frame)]
    texts = []
    for level, trials in groups:
        counts = trials[factor].value_counts(normalize=True)
        shares = ", ".join(
            f"{one.write(chosen)} in {100 * share:.0f} %" for chosen, share in zip(counts.index, counts, strict=True)
        )
        texts.append(f"{shares} at {by.describe(level)}" if several else shares)
    return f"{one.label} has its best level in each cell, as the other seeds choose it: {'; '.join(texts)}."
