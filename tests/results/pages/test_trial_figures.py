"""Figures of trials show their data, and a page has the figures that its study has numbers for."""

from __future__ import annotations

import numpy as np
import pytest

from cnnstudy.results.pages.curve_panels import Band, CurvePanel
from cnnstudy.results.pages.report_data import ClassAccuracy
from cnnstudy.results.pages.study_page import SECTIONS, list_illustrations
from cnnstudy.results.pages.trial_figures import (
    class_gaps,
    confusion_figure,
    learning_curves,
    pareto_figure,
    sort_by_gap,
)

from .example_study import Example, confirmation, texts, trials


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


def test_the_front_shows_each_trial_once_without_those_that_learnt_nothing() -> None:
    report = Example(networks=("alexnet", "vgg16"), silent=3, unfinished=4).report()
    figure = pareto_figure(report.frame, report.front)
    expected = report.finished[report.finished["verdict"] != "not-learning"]["trial"]
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


def test_all_sections_of_a_rich_study_have_figures() -> None:
    example = Example(networks=("alexnet", "vgg16"))
    example.texts["study-run", "confirm/confirm.json"] = confirmation()
    found = list(list_illustrations(example.report()))
    assert {one.section for one in found} | {"interactions"} == set(SECTIONS)
    assert all(one.description for one in found)


@pytest.mark.parametrize("example", [Example(factors={}, seeds=0), Example(factors={"batch_size": [8]}, seeds=1)])
def test_poor_studies_have_few(example: Example) -> None:
    sections = [one.section for one in list_illustrations(example.report())]
    assert "effects" not in sections
    assert "factors" not in sections
