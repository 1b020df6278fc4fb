"""How many trials of each level take part in a comparison on each basis, and whether they are enough to tell.

A trial has no value at equal updates or equal train loss where it has learnt nothing yet, or where its measured curve
does not reach. An effect estimated from the rest describes fast learners only, so it is reported only where most trials
of each level that it compares have a value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cnnstudy.analysis.contrasts import Contrast
from cnnstudy.analysis.effects import Effect
from cnnstudy.analysis.observations import BASES, LEARNT, Observations
from cnnstudy.config.factors import Choices, Levels, find_factor
from cnnstudy.records import Level

#: An effect on a basis other than equal epochs is reported if this share of each level's trials has a value there.
MIN_SHARE = 2 / 3


@dataclass(frozen=True)
class Compared:
    """The trials at one level, and how many are compared. An interaction has two levels; a range covers all trials."""

    description: str  # of the level, as `batch size 8`
    trials: int
    compared: int

    @property
    def is_enough(self) -> bool:
        return self.compared >= MIN_SHARE * self.trials


def count_compared(frame: pd.DataFrame, factors: Mapping[str, Levels], effect: Effect, column: str) -> list[Compared]:
    """Return for each corner of an effect's contrast how many of its trials have a value in `column`."""
    fields = (effect.factor, effect.baseline, effect.level)
    second = (effect.second, effect.second_baseline, effect.second_level)
    corners = dict.fromkeys(
        tuple((name, level) for name, level in levels.items() if isinstance(factors.get(name, Choices(())), Choices))
        for _, levels in Contrast(*fields, *second).corners
    )
    return [_count_at(frame, corner, column) for corner in corners]


def _count_at(frame: pd.DataFrame, corner: Sequence[tuple[str, Level]], column: str) -> Compared:
    at = np.logical_and.reduce(
        [(frame[name] == level).to_numpy() for name, level in corner] or [np.ones(len(frame), bool)]
    )
    description = " and ".join(find_factor(name).describe(level) for name, level in corner)
    has_value = np.isfinite(frame[column].to_numpy(dtype=float, na_value=np.nan))
    return Compared(description, int(at.sum()), int((at & has_value).sum()))


def has_enough_trials(frame: pd.DataFrame, factors: Mapping[str, Levels], effect: Effect) -> bool:
    """Return whether enough trials of each level take part in an effect; at equal epochs always True."""
    if effect.basis == "epochs":
        return True
    return all(one.is_enough for one in count_compared(frame, factors, effect, effect.column))


def compared_headings(observations: Observations) -> tuple[str, ...]:
    """Return the headings of the table of trials that are compared on each basis."""
    updates = "at equal updates" if observations.updates is None else f"at {observations.updates} updates"
    loss = "at equal loss" if observations.train_loss is None else f"at a loss of {observations.train_loss:.2f}"
    return ("level", "trials", "learnt", updates, loss)


def compared_rows(frame: pd.DataFrame, factors: Mapping[str, Levels]) -> list[list[str]]:
    """Return cells under `compared_headings`: all trials, then those of each level of each factor that varies."""
    levels: list[tuple[str, Level] | None] = [None]
    for name, given in factors.items():
        present = set(frame[name].dropna()) if name in frame else set()
        if isinstance(given, Choices) and len(present) > 1:
            levels += [(name, level) for level in given.values if level in present]
    return [_compared_row(frame, level) for level in levels] if len(frame) else []


def _compared_row(frame: pd.DataFrame, at: tuple[str, Level] | None) -> list[str]:
    trials = frame if at is None else frame[frame[at[0]] == at[1]]
    learnt = int((trials[LEARNT] == 1).sum())
    counts = [int(trials[f"{basis}/gap_accuracy"].notna().sum()) for basis in BASES[1:]]
    words = "all" if at is None else find_factor(at[0]).describe(at[1])
    return [words, *map(str, (len(trials), learnt, *counts))]
