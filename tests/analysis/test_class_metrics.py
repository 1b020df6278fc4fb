"""Metrics of each class, compared with values computed by hand."""

from __future__ import annotations

import math

import pytest

from cnnstudy.analysis.class_metrics import class_metric_names, class_metrics
from cnnstudy.tracking.client import Tracker


def test_class_metrics_by_hand() -> None:
    #              predicted  cat  dog  eel
    rows = class_metrics(((4, 1, 0), (2, 3, 0), (1, 0, 0)), ("cat", "dog", "eel"))
    assert rows[0] == {
        "class": "cat",
        "precision": 4 / 7,
        "recall": 4 / 5,
        "f1": pytest.approx(2 * (4 / 7) * (4 / 5) / (4 / 7 + 4 / 5)),
        "images": 5.0,
    }
    assert (rows[1]["precision"], rows[1]["recall"]) == (3 / 4, 3 / 5)
    # never predicted: no division by zero
    assert rows[2] == {"class": "eel", "precision": 0.0, "recall": 0.0, "f1": 0.0, "images": 1.0}


def test_a_class_without_images_divides_by_nothing() -> None:
    row = class_metrics(((0, 0), (0, 4)), ("none", "all"))[0]
    assert (row["precision"], row["recall"], row["f1"]) == (0.0, 0.0, 0.0)


def test_the_probe_gives_each_class_a_gap() -> None:
    rows = class_metrics(((4, 1), (2, 3)), ("cat", "dog"), ((3, 0), (0, 0)))
    assert (rows[0]["train_recall"], rows[0]["gap"]) == (1.0, pytest.approx(0.2))
    # without probe images of the class nothing is known, and nothing is recorded
    assert math.isnan(float(rows[1]["train_recall"]))
    named = class_metric_names(rows)
    assert (named["train_recall/cat"], named["recall/cat"]) == (1.0, 0.8)
    assert "train_recall/dog" not in named
    assert not any(name.startswith("train_recall") for name in class_metric_names(class_metrics(((1,),), ("cat",))))


ALIKE = ("a_b_2", "a/b", "a?b", "a_b", "a_b_1", "日本", "中国", "x" * 300, "x" * 299)
ODD = (*ALIKE, "Größe", "..", ".", "/", " ", "=1+1")


def test_class_names_become_names_that_mlflow_takes(tracker: Tracker) -> None:
    per_class = [{"class": name, "recall": number / 100, "precision": number / 200} for number, name in enumerate(ODD)]
    named = class_metric_names(per_class)  # type: ignore[arg-type]
    recalls = [value for name, value in named.items() if name.startswith("recall/")]
    assert recalls == [number / 100 for number in range(len(ODD))]
    assert len(named) == 2 * len(ODD)
    study = tracker.open_study("fake", {"objective": {"metric": "val/accuracy"}})
    tracker.log_metrics(study.run_id, named, 1)
    assert tracker.runs(study.experiment_id)[0].metrics == named


def test_plain_class_names_stay_as_they_are() -> None:
    rows: list[dict[str, float | str]] = [{"class": "tulip 2.1-b", "recall": 0.5, "precision": 1.0}]
    assert class_metric_names(rows) == {"recall/tulip 2.1-b": 0.5, "precision/tulip 2.1-b": 1.0}
