"""Figures of effects show their data."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from cnnstudy.analysis.data_law import DataLaw
from cnnstudy.analysis.importance import VarianceShares
from cnnstudy.analysis.intervals import Estimate
from cnnstudy.analysis.power_law import PowerLaw
from cnnstudy.config.factors import Choices, Range
from cnnstudy.results.pages.effect_figures import (
    MOST_ROWS,
    candidate_forest,
    data_law_figure,
    effect_forest,
    effect_forest_rows,
    gap_by_factor,
    shares_of_variance,
)
from cnnstudy.results.pages.report_data import read_confirmation

from .example_study import Example, confirmation, texts, trials


def test_every_trial_with_a_gap_is_a_point_of_each_factor() -> None:
    (one,) = Example(silent=2).report().causes
    frame = one.frame.assign(**{"epochs/gap_accuracy": one.frame["epochs/gap_accuracy"].mask(one.frame.index == 5)})
    for factor, levels in (("transfer", ["scratch", "frozen"]), ("batch_size", [8, 64])):
        shown = trials(gap_by_factor(frame, factor, Choices(tuple(levels))))
        assert len(shown) == len(one.frame) - 1
        assert "alexnet-000" in shown, "a trial that did not learn counts as measured"
        assert "alexnet-005" not in shown


def test_the_axis_of_a_range_has_levels_as_they_are_written() -> None:
    rates = {"learning_rate": [0.0002, 0.0007, 0.002], "epochs/gap_accuracy": [0.1, 0.2, 0.3]}
    figure = gap_by_factor(
        pd.DataFrame({**rates, "trial": ["a", "b", "c"]}), "learning_rate", Range(0.0002, 0.002, log=True)
    )
    figure.draw_without_rendering()
    labels = figure.axes[0].get_xticklabels(which="both")
    assert [label.get_text() for label in labels if label.get_text()] == ["2e-4", "6.32e-4", "0.002"]


def test_the_mean_stands_above_its_level() -> None:
    frame = pd.DataFrame(
        {
            "trial": ["a", "b", "c"],
            "batch_size": [8, 8, 64],
            "verdict": ["overfit"] * 3,
            "epochs/gap_accuracy": [0.1, 0.2, 0.3],
        }
    )
    shown = texts(gap_by_factor(frame, "batch_size", Choices((8, 64))))
    assert {"+15.0", "+30.0", "8", "64", "batch size"} <= set(shown)


def test_a_range_is_drawn_along_its_axis() -> None:
    frame = pd.DataFrame(
        {
            "trial": ["a", "b", "c"],
            "dropout": [0.1, 0.3, np.nan],
            "verdict": ["overfit"] * 3,
            "epochs/gap_accuracy": [0.1, 0.2, 0.3],
        }
    )
    assert trials(gap_by_factor(frame, "dropout", Range(0.0, 0.5))) == ["a", "b"]


def test_effects_the_largest_first_with_every_basis() -> None:
    (one,) = Example().report().causes
    rows = effect_forest_rows(one, interactions=False)
    assert rows[0].label == "4 times the training images"
    shown = texts(effect_forest("alexnet: effects", rows))
    assert {"4 times the training images", "frozen instead of scratch", "equal epochs", "equal updates"} <= set(shown)


def test_more_effects_than_there_is_room_for_are_cut() -> None:
    (one,) = Example().report().causes
    rows = effect_forest_rows(one, interactions=False)
    many = [rows[0]] * 40
    assert texts(effect_forest("many", many)).count("4 times the training images") == MOST_ROWS


def test_an_effect_without_an_interval_is_a_point() -> None:
    (one,) = Example(seeds=1).report().causes
    rows = effect_forest_rows(one, interactions=False)
    assert all(effect.low is None for row in rows for _, effect in row.effects)
    assert "frozen instead of scratch" in texts(effect_forest("one seed", rows))


def test_of_interactions_only_those_with_an_answer() -> None:
    (one,) = Example().report().causes
    for row in effect_forest_rows(one, interactions=True):
        assert any(effect.answer != "cannot tell" for _, effect in row.effects)


MEASURED = tuple(Estimate(value, value - 0.01, value + 0.01, 0.0, 5) for value in (0.1, 0.08, 0.06, 0.05))
LAW = DataLaw(
    "frozen",
    False,
    (10, 20, 40, 80),
    MEASURED,
    5,
    Estimate(-0.02, -0.03, -0.01),
    0.05,
    PowerLaw(0.05, 0.4, 0.0),
    floor=Estimate(0.0, 0.0, 0.04),
    twice=Estimate(0.04, 0.02, 0.05),
)


def test_the_data_law_and_where_it_is_not_told() -> None:
    assert {"10", "80", "law", "measured", "5 points", "frozen", "gap, points"} <= set(texts(data_law_figure(LAW)))
    few = DataLaw("frozen", False, (10, 20), MEASURED[:2], 5, None, 0.05, reason="too few")
    assert "law" not in texts(data_law_figure(few))
    assert "measured" in texts(data_law_figure(few))
    accuracy = DataLaw("frozen", True, (10, 20), (Estimate(0.3), Estimate(0.2)), 1, None, None)
    assert "validation accuracy, %" in texts(data_law_figure(accuracy))


def test_importances_in_percent() -> None:
    of_gap = {
        "transfer": Estimate(0.6, 0.5, 0.7),
        "batch_size": Estimate(0.1, 0.0, 0.2),
        "unexplained": Estimate(0.3, 0.2, 0.4),
    }
    shares = {"epochs/gap_accuracy": VarianceShares(of_gap), "epochs/val_accuracy": VarianceShares()}
    shown = texts(shares_of_variance("alexnet", shares))
    assert {"60 %", "10 %", "30 %", "batch size", "gap"} <= set(shown)
    assert "validation accuracy" not in shown


@pytest.mark.parametrize("test", [True, False])
def test_candidates_on_one_axis(test: bool) -> None:
    confirmed = read_confirmation(confirmation() if test else confirmation(test=None))
    shown = texts(candidate_forest(confirmed))
    assert {"alexnet-000: champion", "alexnet-001: tied", "alexnet-002: behind", "in the study"} <= set(shown)
    assert ("test" in shown) == test
