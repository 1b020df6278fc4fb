"""Which trials are worth a choice: those that no other trial is better than in everything that counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from cnnstudy.aims import DEFAULT_GOALS
from cnnstudy.errors import InputError, did_you_mean

#: What counts unless other goals are given.
GOALS: tuple[str, ...] = DEFAULT_GOALS
#: A goal's value for each trial of a leaderboard, less is better.
_COSTS: dict[str, Callable[[pd.DataFrame], pd.Series]] = {
    "accuracy": lambda frame: -_numbers(frame, "val_accuracy"),
    "loss": lambda frame: _numbers(frame, "val_loss"),
    # better on validation than on train is luck with the draw of the images, no merit
    "gap": lambda frame: _numbers(frame, "gap_accuracy").clip(lower=0.0),
    "seconds": lambda frame: _numbers(frame, "seconds"),
    "parameters": lambda frame: _numbers(frame, "trainable_parameters") + _numbers(frame, "frozen_parameters"),
}


def non_dominated(frame: pd.DataFrame, goals: Sequence[str] = GOALS) -> pd.Series:
    """Which trials are on the Pareto front, bool by the frame's index.

    A trial is on it if no other trial is as good in every goal and better in one; of trials that are equal in all, all
    are. Only finished trials count; those that learnt nothing do not, whose gap of 0 is no success, nor do those
    without a value in one of the goals.

    Args:
        frame: a leaderboard.
        goals: of "accuracy" and "loss" (validation), "gap" (below 0 counts as 0), "seconds", "parameters" (all that
            the network has).

    Raises:
        InputError: no goal, or an unknown one.
    """
    if not goals:
        raise InputError(f"give at least one goal of {', '.join(_COSTS)}.")
    for goal in goals:
        if goal not in _COSTS:
            raise InputError(
                f"there is no goal {goal!r}{did_you_mean(goal, _COSTS) or '.'} The goals are {', '.join(_COSTS)}."
            )
    if frame.empty:
        return pd.Series(False, index=frame.index, dtype=bool)
    costs = np.column_stack([_COSTS[goal](frame) for goal in goals])
    learnt = (frame["state"] == "finished") & (frame["verdict"] != "not-learning")
    counts = learnt.to_numpy() & np.isfinite(costs).all(axis=1)
    rivals = costs[counts]
    front = counts.copy()
    for place in np.flatnonzero(counts):
        as_good, better = rivals <= costs[place], rivals < costs[place]
        front[place] = not (as_good.all(axis=1) & better.any(axis=1)).any()
    return pd.Series(front, index=frame.index)


def _numbers(frame: pd.DataFrame, column: str) -> pd.Series:
    """NaN where a trial has none; where all failed, there is no number in it at all."""
    return pd.to_numeric(frame[column]).astype(float)
