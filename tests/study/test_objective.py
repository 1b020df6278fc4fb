"""The metric of a study whose file names none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fake_executor import FakeExecutor
from pictures import leave_out_pictures

from cnnstudy.config.load import load_study
from cnnstudy.errors import StudyChangedError
from cnnstudy.execution import Workers
from cnnstudy.study.dry_run import plan_study
from cnnstudy.study.run import run_study
from cnnstudy.system.display import PlainDisplay
from cnnstudy.tracking.client import Tracker

FILE = """
name: fake
data: {name: digits, classes: [0, 1]}
image_size: 64
architectures: [alexnet]
factors: {batch_size: [8, 16], transfer: frozen}
weights: {default: {source: pretrain, epochs: 1, data: {name: digits, classes: [3, 4]}}}
training: {epochs: 2}
strategy: {sampler: random}
budget: {trials: 1}
"""
#: With 4 validation and 2 test images each: 18 and 12 images, and 19 and 12.
BALANCED, IMBALANCED = (12, 6), (13, 6)
METRIC, DEFAULT = "val/balanced_accuracy", "val/accuracy"


class Desk:
    def __init__(self, folder: Path, tracker: Tracker) -> None:
        self.tracker, self.file = tracker, folder / "fake.yaml"
        self.file.write_text(FILE, encoding="utf-8")
        self.said: list[str] = []
        self.specs: list[dict[str, Any]] = []

    def _workers(self, train: tuple[int, ...]) -> tuple[Workers, list[FakeExecutor]]:
        made: list[FakeExecutor] = []
        return Workers(lambda folder: made.append(FakeExecutor(folder, train=train)) or made[0]), made

    def run(self, train: tuple[int, ...], *overrides: str) -> str:
        """Run the study, and return the recorded metric."""
        self.said.clear()
        workers, made = self._workers(train)
        display = PlainDisplay(self.said.append)
        outcome = run_study(load_study(str(self.file), overrides), self.tracker, workers, display)
        assert outcome.recorded.objective == self.tracker.study("fake").objective
        self.specs = [job.payload for job in made[0].jobs if job.kind == "run_trial"] if made else []
        assert {spec["rule"]["metric"] for spec in self.specs} <= {outcome.recorded.objective}
        return outcome.recorded.objective


@pytest.fixture
def desk(own_places: Path, tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> Desk:
    leave_out_pictures(monkeypatch)
    return Desk(own_places, tracker)


def test_it_is_accuracy_where_classes_are_of_about_equal_size(desk: Desk) -> None:
    assert desk.run(BALANCED) == DEFAULT
    assert not [line for line in desk.said if line.startswith("objective")]


def test_it_is_balanced_accuracy_elsewhere_and_stays(desk: Desk) -> None:
    assert desk.run(IMBALANCED) == METRIC
    (line,) = [line for line in desk.said if line.startswith("objective")]
    assert METRIC in line
    assert "19 images and the smallest 12" in line
    assert [spec["purpose"] for spec in desk.specs] == ["pretrain", "trial"]
    assert desk.run(IMBALANCED, "budget.trials=2") == METRIC
    assert [spec["purpose"] for spec in desk.specs] == ["trial"], "the source weights are those of the first run"


def test_a_metric_that_the_file_names_is_used(desk: Desk) -> None:
    assert desk.run(IMBALANCED, f"objective.metric={DEFAULT}") == DEFAULT


def test_other_keys_of_the_objective_leave_the_metric_open(desk: Desk) -> None:
    assert desk.run(IMBALANCED, "objective.maximum_gap=0.9") == METRIC


def test_a_study_recorded_before_there_was_a_choice_keeps_accuracy(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("cnnstudy.study.objective.IMBALANCE", 10)
        assert desk.run(IMBALANCED) == DEFAULT
    assert desk.run(IMBALANCED, "budget.trials=2") == DEFAULT
    assert [spec["number"] for spec in desk.specs] == [1]


def test_a_study_whose_metric_was_chosen_refuses_another(desk: Desk) -> None:
    desk.run(IMBALANCED)
    with pytest.raises(StudyChangedError, match=json.dumps(METRIC)):
        desk.run(IMBALANCED, f"objective.metric={DEFAULT}")


def test_a_dry_run_says_it(desk: Desk) -> None:
    workers, _ = desk._workers(IMBALANCED)
    plan_study(load_study(str(desk.file)), desk.tracker, workers, PlainDisplay(desk.said.append))
    assert [line for line in desk.said if line.startswith(f"objective: {METRIC}")]
