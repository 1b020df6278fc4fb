"""The Pareto front of a leaderboard."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cnnstudy.analysis.leaderboard import GOALS, build_leaderboard, pareto_front
from cnnstudy.errors import InputError

ALL = (*GOALS, "loss")


def frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    usual = {"val_accuracy": 0.5, "val_loss": 1.0, "gap_accuracy": 0.1, "seconds": 10.0, "verdict": "overfit"}
    usual |= {"trainable_parameters": 100.0, "frozen_parameters": 0.0, "state": "finished"}
    return pd.DataFrame([usual | row for row in rows])


def front(rows: list[dict[str, Any]], goals: tuple[str, ...] = GOALS) -> list[bool]:
    return pareto_front(frame(rows), goals).tolist()


def by_brute_force(trials: pd.DataFrame, goals: tuple[str, ...]) -> list[bool]:
    """Compute the front by comparing every pair of trials, goal by goal."""

    def costs(trial: dict[Any, Any]) -> list[float]:
        return [
            {
                "accuracy": -trial["val_accuracy"],
                "loss": trial["val_loss"],
                "gap": 0.0 if trial["gap_accuracy"] < 0 else trial["gap_accuracy"],
                "seconds": trial["seconds"],
                "parameters": trial["trainable_parameters"] + trial["frozen_parameters"],
            }[goal]
            for goal in goals
        ]

    rows = trials.to_dict("records")
    counted = [
        row["state"] == "finished" and row["verdict"] != "not-learning" and not any(map(math.isnan, costs(row)))
        for row in rows
    ]
    found = []
    for one, counts in zip(rows, counted, strict=True):
        beaten = any(
            all(a <= b for a, b in zip(costs(other), costs(one), strict=True)) and costs(other) != costs(one)
            for other, rival in zip(rows, counted, strict=True)
            if rival
        )
        found.append(counts and not beaten)
    return found


@pytest.mark.parametrize("seed", range(20))
def test_as_by_comparing_every_pair(seed: int) -> None:
    dice = np.random.default_rng(seed)
    count = 60
    # few different values, so that there are ties
    trials = pd.DataFrame(
        {
            "val_accuracy": dice.integers(0, 6, count) / 5,
            "val_loss": dice.integers(0, 6, count) / 5,
            "gap_accuracy": dice.integers(-2, 6, count) / 10,
            "seconds": dice.integers(1, 5, count).astype(float),
            "trainable_parameters": dice.integers(1, 4, count).astype(float),
            "frozen_parameters": dice.integers(0, 4, count).astype(float),
            "verdict": dice.choice(["overfit", "fit", "not-learning"], count),
            "state": dice.choice(["finished", "finished", "finished", "pruned", "failed"], count),
        },
        index=dice.permutation(count),
    )
    for column in ("val_accuracy", "gap_accuracy", "seconds", "trainable_parameters"):
        trials.loc[dice.random(count) < 0.1, column] = math.nan
    for size in (1, 2, 4, 5):
        for goals in itertools.combinations(ALL, size):
            found = pareto_front(trials, goals)
            assert found.tolist() == by_brute_force(trials, goals), goals
            assert found.index.equals(trials.index)
            assert found.dtype == bool


def test_better_in_one_goal_is_enough() -> None:
    cheap, good = {"val_accuracy": 0.4, "seconds": 1.0}, {"val_accuracy": 0.9, "seconds": 60.0}
    assert front([cheap, good, {"val_accuracy": 0.4, "seconds": 60.0}]) == [True, True, False]


def test_equals_stay_both() -> None:
    assert front([{}, {}, {"seconds": 11.0}]) == [True, True, False]


def test_a_gap_below_nothing_counts_as_none() -> None:
    lucky, better = {"gap_accuracy": -0.1, "val_accuracy": 0.5}, {"gap_accuracy": 0.0, "val_accuracy": 0.6}
    assert front([lucky, better], ("accuracy", "gap")) == [False, True]


def test_the_gap_of_a_network_that_learnt_nothing_is_no_success() -> None:
    silent = {"val_accuracy": 0.2, "gap_accuracy": 0.0, "verdict": "not-learning", "seconds": 1.0}
    assert front([silent, {"gap_accuracy": 0.3}]) == [False, True]
    assert front([silent]) == [False]


@pytest.mark.parametrize("state", ["pruned", "failed", "running"])
def test_only_finished_trials_count(state: str) -> None:
    assert front([{"val_accuracy": 0.9, "state": state}, {}]) == [False, True]


def test_a_trial_without_a_value_is_not_on_it_and_beats_nobody() -> None:
    assert front([{"val_accuracy": math.nan, "seconds": 1.0}, {}]) == [False, True]
    # seconds are no goal here
    assert front([{"seconds": math.nan}], ("accuracy", "gap")) == [True]


def test_frozen_parameters_count_too() -> None:
    head = {"trainable_parameters": 10.0, "frozen_parameters": 95.0}
    assert front([head, {}], ("parameters",)) == [False, True]


def test_on_a_leaderboard(make_run: Any) -> None:
    runs = [make_run(1, 0.5), make_run(2, 0.75), make_run(3, None, state="failed")]
    board = build_leaderboard(runs, "val/accuracy")
    assert board["trial"][pareto_front(board)].tolist() == ["alexnet-002"]


def test_only_failed_trials(make_run: Any) -> None:
    board = build_leaderboard([make_run(1, None, state="failed"), make_run(2, None, state="failed")], "val/accuracy")
    assert pareto_front(board).tolist() == [False, False]


def test_no_trials() -> None:
    assert pareto_front(build_leaderboard([], "val/accuracy")).tolist() == []


def test_an_unknown_goal_is_refused() -> None:
    with pytest.raises(InputError, match=r"no goal 'acuracy'; did you mean 'accuracy'\? The goals are accuracy, loss"):
        front([{}], ("acuracy",))
    with pytest.raises(InputError, match="at least one goal"):
        front([{}], ())
