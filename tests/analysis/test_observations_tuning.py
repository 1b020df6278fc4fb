"""Tuned factors: the best level of each cell, chosen by the other seeds."""

from __future__ import annotations

import math

import pandas as pd

from cnnstudy.analysis.observations import choose_tuned_levels


def study(losses: dict[tuple[int, float], list[float]]) -> pd.DataFrame:
    """Return a trial for each batch size, learning rate and seed, with its validation loss."""
    return pd.DataFrame(
        [
            {"batch_size": size, "learning_rate": rate, "seed": seed, "epochs/val_loss": loss}
            for (size, rate), of_seeds in losses.items()
            for seed, loss in enumerate(of_seeds)
        ]
    )


def chosen(frame: pd.DataFrame) -> dict[tuple[int, int], float]:
    return {(row.batch_size, row.seed): row.learning_rate for row in frame.itertuples()}


def test_each_cell_has_its_own_best() -> None:
    frame = study({(8, 0.1): [1, 1, 1], (8, 0.2): [2, 2, 2], (64, 0.1): [2, 2, 2], (64, 0.2): [1, 1, 1]})
    found = chosen(choose_tuned_levels(frame, ["learning_rate"]))
    assert found == {**{(8, seed): 0.1 for seed in range(3)}, **{(64, seed): 0.2 for seed in range(3)}}


def test_a_seed_does_not_choose_for_itself() -> None:
    # only in seed 0 is 0.2 better, by luck; in the others 0.1 is
    frame = study({(8, 0.1): [1.0, 0.4, 0.4], (8, 0.2): [0.1, 0.5, 0.5]})
    found = choose_tuned_levels(frame, ["learning_rate"])
    assert chosen(found)[(8, 0)] == 0.1
    assert found.loc[found["seed"] == 0, "epochs/val_loss"].tolist() == [1.0]


def test_a_level_that_failed_elsewhere_is_no_choice() -> None:
    frame = study({(8, 0.1): [1.0, 1.0, 1.0], (8, 0.2): [0.1, math.nan, 0.1]})
    assert chosen(choose_tuned_levels(frame, ["learning_rate"]))[(8, 0)] == 0.1


def test_what_does_not_vary_or_repeat_is_left_alone() -> None:
    frame = study({(8, 0.1): [1.0, 2.0]})
    assert choose_tuned_levels(frame, ["learning_rate"]) is frame
    single = study({(8, 0.1): [1.0], (8, 0.2): [2.0]})
    assert choose_tuned_levels(single, ["learning_rate"]) is single
