"""Each figure shows what it is given."""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from cnnstudy.analysis.data_law import DataLaw
from cnnstudy.config.factors import Choices, Range
from cnnstudy.results.pages.curve_panels import Band, CurvePanel
from cnnstudy.results.pages.figures import (
    MOST_ROWS,
    candidate_forest,
    class_gaps,
    confusion_figure,
    count_left_out,
    data_law,
    effect_forest,
    effect_forest_rows,
    gap_by_factor,
    learning_curves,
    pareto_figure,
    shares_of_variance,
    sort_by_gap,
)
from cnnstudy.results.pages.report_data import ClassAccuracy, read_confirmation
from cnnstudy.results.pages.study_page import SECTIONS, list_illustrations
from cnnstudy.results.pages.svg import inline_svg, svg_text

from .example_study import Example, confirmation


def texts(figure: Figure) -> list[str]:
    """What is written in it, once it is drawn."""
    root = ElementTree.fromstring(inline_svg(svg_text(figure), "a", ""))
    return ["".join(one.itertext()) for one in root.iter("text")]


def trials(figure: Figure) -> list[str]:
    root = ElementTree.fromstring(inline_svg(svg_text(figure), "a", ""))
    return [trial for one in root.iter() if (trial := one.get("data-trial")) is not None]


def panel(train: list[float], validation: list[float], title: str = "frozen") -> CurvePanel:
    bands = [Band(np.array(mean), np.array(mean) - 0.05, np.array(mean) + 0.05) for mean in (train, validation)]
    return CurvePanel(title, 3, ("a",), np.arange(1, len(train) + 1), *bands)


def test_curves_say_how_large_the_gap_is_at_the_end() -> None:
    shown = texts(learning_curves(panel([0.5, 0.95], [0.5, 0.77]), 0.2))
    assert "+18" in shown
    assert {"train", "validation", "guessing", "frozen", "accuracy, %"} <= set(shown)
    assert "guessing" not in texts(learning_curves(panel([0.5], [0.5]), None))


def test_curves_of_a_long_training_have_no_epoch_that_was_not() -> None:
    shown = texts(learning_curves(panel([0.5] * 12, [0.5] * 12), None))
    assert "12" in shown
    assert "14" not in shown


def test_every_trial_that_learnt_is_a_point_of_each_factor() -> None:
    (one,) = Example(silent=2).story().causes
    for factor, levels in (("transfer", ["scratch", "frozen"]), ("batch_size", [8, 64])):
        figure = gap_by_factor(one.frame, factor, Choices(tuple(levels)))
        assert len(trials(figure)) == len(one.frame) - 2
        assert "alexnet-000" not in trials(figure)
    assert count_left_out(one.frame) == 2


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
    (one,) = Example().story().causes
    rows = effect_forest_rows(one, interactions=False)
    assert rows[0].label == "4 times the training images"
    shown = texts(effect_forest("alexnet: effects", rows))
    assert {"4 times the training images", "frozen instead of scratch", "equal epochs", "equal updates"} <= set(shown)


def test_more_effects_than_there_is_room_for_are_cut() -> None:
    (one,) = Example().story().causes
    rows = effect_forest_rows(one, interactions=False)
    many = [rows[0]] * 40
    assert texts(effect_forest("many", many)).count("4 times the training images") == MOST_ROWS


def test_an_effect_without_an_interval_is_a_point() -> None:
    (one,) = Example(seeds=1).story().causes
    rows = effect_forest_rows(one, interactions=False)
    assert all(effect.low is None for row in rows for _, effect in row.effects)
    assert "frozen instead of scratch" in texts(effect_forest("one seed", rows))


def test_of_interactions_only_those_with_an_answer() -> None:
    (one,) = Example().story().causes
    for row in effect_forest_rows(one, interactions=True):
        assert any(effect.answer != "cannot tell" for _, effect in row.effects)


LAW = DataLaw("frozen", (10, 20, 40), (0.1, 0.08, 0.05), 0.5, 0.3, 0.7, ((0.05, 0.4), (0.05, 0.6)))


def test_the_data_law_and_where_it_is_not_told() -> None:
    assert {"10", "20", "40", "law", "measured", "5 points", "frozen"} <= set(texts(data_law(LAW)))
    none = DataLaw("frozen", (10, 20), (0.1, 0.08), None, None, None, (), reason="too few")
    assert "law" not in texts(data_law(none))
    assert "measured" in texts(data_law(none))
    one_seed = DataLaw("frozen", (10, 20), (0.1, 0.08), 0.3, None, None, ((0.08, 0.3),))
    assert "law" in texts(data_law(one_seed))


def test_importances_in_percent() -> None:
    shares = {
        "epochs/gap_accuracy": {"transfer": 0.6, "batch_size": 0.1, "unexplained": 0.3},
        "epochs/val_accuracy": {},
    }
    shown = texts(shares_of_variance("alexnet", shares))
    assert {"60 %", "10 %", "30 %", "batch size", "gap"} <= set(shown)
    assert "validation accuracy" not in shown


def test_the_front_shows_each_trial_once_without_those_that_learnt_nothing() -> None:
    story = Example(networks=("alexnet", "vgg16"), silent=3, unfinished=4).story()
    figure = pareto_figure(story.frame, story.front)
    expected = story.finished[story.finished["verdict"] != "not-learning"]["trial"]
    assert sorted(trials(figure)) == sorted(expected)
    assert {"alexnet", "vgg16"} <= set(texts(figure))


def test_classes_with_their_gaps_the_largest_first() -> None:
    classes = [ClassAccuracy("cat", 0.9, 1.0), ClassAccuracy("dog", 0.5, 1.0), ClassAccuracy("eel", 0.8, 0.7)]
    assert [one.name for one in sort_by_gap(classes)] == ["dog", "cat", "eel"]
    assert {"+50", "+10", "-10", "train", "validation"} <= set(texts(class_gaps("alexnet-000", classes)))


def test_classes_without_their_training_recall() -> None:
    classes = [ClassAccuracy("cat", 0.9, None), ClassAccuracy("dog", 0.5, None)]
    assert [one.name for one in sort_by_gap(classes)] == ["dog", "cat"]
    shown = texts(class_gaps("alexnet-000", classes))
    assert {"90 %", "50 %"} <= set(shown)
    assert "train" not in shown


def test_the_confusion_matrix_has_every_count() -> None:
    shown = texts(confusion_figure(((47, 1), (0, 9)), ("a name that is longer than twenty-four letters", "$b$")))
    assert {"47", "1", "9", "$b$", "predicted", "true"} <= set(shown)
    assert "0" not in shown
    assert any(text.endswith("…") for text in shown)


@pytest.mark.parametrize("test", [True, False])
def test_candidates_on_one_axis(test: bool) -> None:
    confirmed = read_confirmation(confirmation() if test else confirmation(test=None))
    shown = texts(candidate_forest(confirmed))
    assert {"alexnet-000: champion", "alexnet-001: tied", "alexnet-002: behind", "in the study"} <= set(shown)
    assert ("test" in shown) == test


def test_all_sections_of_a_rich_study_have_figures() -> None:
    example = Example(networks=("alexnet", "vgg16"))
    example.texts["study-run", "confirm/confirm.json"] = confirmation()
    found = list(list_illustrations(example.story()))
    assert {one.section for one in found} | {"interactions"} == set(SECTIONS)
    assert all(one.description for one in found)


@pytest.mark.parametrize("example", [Example(factors={}, seeds=0), Example(factors={"batch_size": [8]}, seeds=1)])
def test_poor_studies_have_few(example: Example) -> None:
    sections = [one.section for one in list_illustrations(example.story())]
    assert "effects" not in sections
    assert "factors" not in sections
