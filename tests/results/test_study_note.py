"""What MLflow's UI says of a study's own run."""

from __future__ import annotations

import dataclasses

import pytest

from cnnstudy.names import Tag
from cnnstudy.records import PreparedImages, TrialSpec
from cnnstudy.results.study_note import describe_search, record_note
from cnnstudy.tracking.client import Tracker
from cnnstudy.tracking.operations import EndRun, StartRun
from cnnstudy.tracking.recorded import RecordedStudy
from cnnstudy.tracking.retry import RetryPolicy

CONFIG = {"objective": {"metric": "val/accuracy"}, "strategy": {"kind": "search"}}
FACTORIAL = {**CONFIG, "strategy": {"kind": "factorial"}}


def add_trial(tracker: Tracker, study: RecordedStudy, spec: TrialSpec, number: int, validation: float) -> None:
    tags = {Tag.KIND: "trial", Tag.TRIAL: f"alexnet-{number:03d}", Tag.TITLE: "scratch", Tag.ARCHITECTURE: "alexnet"}
    run_id = tracker.start_run(study.experiment_id, StartRun("a trial", tags, {}, spec.images))
    best = {"best/val_accuracy": validation, "best/train_accuracy": 0.9, "best/gap_accuracy": 0.9 - validation}
    best["best/val_loss"] = 1.0 - validation
    tracker.write(EndRun("finished", {Tag.VERDICT: "overfit"}, best), study.experiment_id, run_id)


def test_a_search_is_described_by_its_best_trial(tracker: Tracker, spec: TrialSpec) -> None:
    study = tracker.open_study("fake", CONFIG)
    record_note(tracker, study, pytest.fail)
    assert "Verdicts of 0 finished trials: none." in tracker.tags(study.run_id)[Tag.NOTE]
    for number, validation in enumerate((0.5, 0.7)):
        add_trial(tracker, study, spec, number, validation)
    record_note(tracker, study, pytest.fail)
    note = tracker.tags(study.run_id)[Tag.NOTE]
    assert "validation accuracy: 70.0 %, of alexnet-001 scratch, with a gap of +20.0 points: overfit." in note
    assert "Verdicts of 2 finished trials: 2 overfit." in note
    assert note == describe_search(study, [run for run in tracker.runs(study.experiment_id) if run.kind == "trial"])


def test_what_a_factorial_says_of_its_effects_stays(tracker: Tracker) -> None:
    study = tracker.open_study("fake", FACTORIAL)
    tracker.set_tags(study.run_id, {Tag.NOTE: "- it overfits"})
    record_note(tracker, study, pytest.fail)
    assert tracker.tags(study.run_id)[Tag.NOTE] == "- it overfits"


def test_where_mlflow_does_not_answer_that_is_said(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    study, said = tracker.open_study("fake", FACTORIAL), list[str]()
    tracker.client.delete_run(study.run_id)
    tracker.client.get_run(study.run_id)
    record_note(tracker, dataclasses.replace(study, run_id="gone"), said.append, RetryPolicy(give_up_after=0))
    assert said[-1].endswith("The study itself is recorded; the description of its run is not.")


def test_the_images_are_the_data_of_the_studys_run_once(tracker: Tracker, spec: TrialSpec) -> None:
    study = tracker.open_study("fake", CONFIG)
    other: PreparedImages = dataclasses.replace(spec.images, name="others", digest="e" * 40)
    for images in ([spec.images], [spec.images, other]):
        tracker.add_inputs(study.run_id, images)
    inputs = tracker.client.get_run(study.run_id).inputs.dataset_inputs
    assert sorted(one.dataset.name for one in inputs) == ["digits", "others"]
