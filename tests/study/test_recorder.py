"""Recording trials in MLflow."""

from __future__ import annotations

import csv
import dataclasses
import json
import struct
from pathlib import Path
from typing import Any

import pytest

from cnnstudy.execution import Failed
from cnnstudy.records import EpochRecord, TrialResult, TrialSpec
from cnnstudy.study.recorder import Recorder, remove_trial_files, trial_title
from cnnstudy.tracking.client import Tracker
from cnnstudy.tracking.recorded import RecordedRun
from cnnstudy.tracking.system_metrics import SystemMetrics

CONFIG = {"objective": {"metric": "val/accuracy"}}
SUMMARY = {"train/accuracy": 1.0, "val/accuracy": 0.625, "gap/accuracy": 0.375, "train/loss": 0.1, "val/loss": 0.9}


@pytest.fixture
def recorder(tracker: Tracker) -> Recorder:
    return Recorder(tracker, tracker.open_study("fake", CONFIG))


def epoch(number: int) -> EpochRecord:
    metrics = {"train/accuracy": 0.5, "val/accuracy": 0.4, "train/loss": 0.7, "val/loss": 0.8, "gap/accuracy": 0.1}
    return EpochRecord(number, metrics)


def result(state: str = "finished", **changes: Any) -> TrialResult:
    whole = TrialResult(
        state=state,
        best_epoch=2,
        epochs=3,
        seconds=12.5,
        summary=SUMMARY,
        confusion=((3, 1), (2, 2)),
        trainable_parameters=10,
        frozen_parameters=5,
        frozen_digest="abc",
        features="cached",
        features_note="conv of 6 images",
        versions={"tensorflow": "2.20.0"},
    )
    return dataclasses.replace(whole, **changes)


def recorded(recorder: Recorder) -> RecordedRun:
    (run,) = (run for run in recorder.tracker.runs(recorder.study.experiment_id) if run.kind != "study")
    return run


def test_what_the_machine_does_goes_with_an_epoch(tracker: Tracker, spec: TrialSpec) -> None:
    system, name = SystemMetrics(), "system/cpu_utilization_percentage"
    recorder = Recorder(tracker, tracker.open_study("fake", CONFIG), system=system)
    system.add({name: 90.0})
    trial = recorder.start(spec)
    system.add({name: 10.0})
    recorder.epoch(trial, epoch(1))
    system.add({name: 20.0})
    recorder.epoch(trial, dataclasses.replace(epoch(2), replayed=True))  # it was trained at another time
    assert tracker.metric_history(trial.run_id, name) == {1: 10.0}
    assert name not in trial.epochs[0].metrics


def artifacts(recorder: Recorder, run: RecordedRun, to: Path) -> dict[str, bytes]:
    folder = Path(recorder.tracker._client.download_artifacts(run.run_id, "", str(to)))
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# ---- titles


def test_the_title_names_what_matters(spec: TrialSpec) -> None:
    assert trial_title(spec) == "scratch, batch size 16, dropout 0.5"
    few = dataclasses.replace(spec, levels={**spec.levels, "transfer": "frozen", "data_fraction": 0.125})
    assert trial_title(few) == "frozen, batch size 16, dropout 0.5, 12.5 % of the data"
    unweighted = dataclasses.replace(few, weights_source="random")
    assert trial_title(unweighted).startswith("frozen (random weights), ")
    assert "random" not in trial_title(dataclasses.replace(spec, weights_source="random"))


# ---- runs


def test_the_name_of_a_run_begins_with_what_differs(tracker: Tracker, spec: TrialSpec) -> None:
    factors = {"transfer": ["scratch"], "dropout": {"low": 0.1, "high": 0.5}, "batch_size": {"alexnet": [8, 16]}}
    recorder = Recorder(tracker, tracker.open_study("varied", {**CONFIG, "factors": factors}))
    run_id = recorder.start(spec).run_id
    several = {**CONFIG, "factors": factors, "architectures": ["alexnet", "vgg16"]}
    other = Recorder(tracker, tracker.open_study("of two", several)).start(spec).run_id
    assert tracker._client.get_run(other).info.run_name.startswith("alexnet, batch size 16, ")
    assert tracker._client.get_run(run_id).info.run_name == "batch size 16, dropout 0.5, seed 3 (alexnet-007)"
    assert recorded(recorder).name == "alexnet-007 scratch, batch size 16, dropout 0.5", "what cnnstudy itself calls it"


def test_a_finished_trial(recorder: Recorder, spec: TrialSpec, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "MLmodel").write_text("artifact_path: model\n")
    recording = recorder.start(spec)
    assert recorded(recorder).state == "running"
    for number in (1, 2, 3):
        recorder.epoch(recording, epoch(number))
    recorder.finish(recording, result(files={"model": str(model)}))
    run = recorded(recorder)
    assert (run.state, run.kind, run.name) == ("finished", "trial", "alexnet-007 scratch, batch size 16, dropout 0.5")
    assert run.parameters["batch_size"] == "16"
    assert run.parameters["weights"] == "none"
    assert run.parameters["train_images"] == run.parameters["train_images_used"] == "12"
    assert run.metrics["best/val_accuracy"] == 0.625
    assert run.metrics["best/epoch"] == 2
    assert run.metrics["time/total_seconds"] == 12.5
    assert (run.metrics["parameters/trainable"], run.metrics["parameters/frozen"]) == (10, 5)
    assert (run.metrics["recall/cat"], run.metrics["precision/dog"]) == (0.75, 2 / 3)
    assert recorder.tracker.metric_history(run.run_id, "val/accuracy") == {1: 0.4, 2: 0.4, 3: 0.4}
    assert json.loads(run.tags["cnnstudy.levels"]) == spec.levels
    assert json.loads(run.tags["cnnstudy.packages"])["tensorflow"] == "2.20.0"
    assert {"python", "mlflow", "optuna"} <= set(json.loads(run.tags["cnnstudy.packages"]))
    assert run.tags["cnnstudy.code_version"]
    assert run.tags["cnnstudy.data_digest"] == spec.images.digest
    assert run.tags["cnnstudy.frozen_digest"] == "abc"
    assert run.tags["cnnstudy.features"] == "cached"
    assert run.tags["cnnstudy.features_note"] == "conv of 6 images"
    assert run.tags["cnnstudy.model"].startswith("models:/")
    assert not {"cnnstudy.micro_batch", "cnnstudy.evaluation_batch"} & set(run.tags)


def test_what_a_trial_computed_on_and_how_it_fitted_into_memory(recorder: Recorder, spec: TrialSpec) -> None:
    recording = recorder.start(spec)
    recorder.epoch(recording, epoch(1))
    recorder.finish(
        recording, result(micro_batch=4, evaluation_batch=32, computed_on={"device": "H100", "threads": "2"})
    )
    tags = recorded(recorder).tags
    assert (tags["cnnstudy.device"], tags["cnnstudy.threads"]) == ("H100", "2")
    assert (tags["cnnstudy.micro_batch"], tags["cnnstudy.evaluation_batch"]) == ("4", "32")


def test_the_files_of_a_finished_trial(recorder: Recorder, spec: TrialSpec, tmp_path: Path) -> None:
    odd = dataclasses.replace(spec, images=dataclasses.replace(spec.images, classes=("=cmd()", 'dög, "wild"')))
    recording = recorder.start(odd)
    recorder.epoch(recording, epoch(1))
    recorder.finish(recording, result())
    files = artifacts(recorder, recorded(recorder), tmp_path / "down")
    assert set(files) == {
        *("curves.png", "confusion_matrix.png"),
        *("per_class.csv", "confusion_matrix.csv", "confusion.json", "trial.json"),
    }
    table = json.loads(files["confusion.json"])
    assert table["columns"] == ["class", "predicted", "images"]
    wild = 'dög, "wild"'
    assert table["data"] == [["=cmd()", "=cmd()", 3], ["=cmd()", wild, 1], [wild, "=cmd()", 2], [wild, wild, 2]]
    shown = json.loads(recorded(recorder).tags["mlflow.loggedArtifacts"])
    assert shown == [{"path": "confusion.json", "type": "table"}]
    for name in ("curves.png", "confusion_matrix.png"):
        assert files[name].startswith(b"\x89PNG")
        assert min(struct.unpack(">II", files[name][16:24])) > 200
    rows = list(csv.DictReader(files["per_class.csv"].decode().splitlines()))
    # a class name must not become a spreadsheet formula
    assert [row["class"] for row in rows] == ["'=cmd()", 'dög, "wild"']
    assert [float(row["recall"]) for row in rows] == [0.75, 0.5]
    assert [float(row["precision"]) for row in rows] == [3 / 5, 2 / 3]
    matrix = list(csv.reader(files["confusion_matrix.csv"].decode().splitlines()))
    header = ["true class", "'=cmd()", 'dög, "wild"']
    assert matrix == [header, ["'=cmd()", "3", "1"], ['dög, "wild"', "2", "2"]]
    assert TrialSpec.from_json(json.loads(files["trial.json"])) == odd


def test_the_gap_of_each_class_is_recorded(recorder: Recorder, spec: TrialSpec, tmp_path: Path) -> None:
    recording = recorder.start(spec)
    recorder.epoch(recording, epoch(1))
    recorder.finish(recording, result(train_confusion=((4, 0), (1, 3))))
    run = recorded(recorder)
    assert (run.metrics["train_recall/cat"], run.metrics["train_recall/dog"]) == (1.0, 0.75)
    rows = list(csv.DictReader(artifacts(recorder, run, tmp_path / "down")["per_class.csv"].decode().splitlines()))
    assert [(float(row["train_recall"]), float(row["gap"])) for row in rows] == [(1.0, 0.25), (0.75, 0.25)]


def test_a_pruned_trial_has_numbers_and_no_model(recorder: Recorder, spec: TrialSpec) -> None:
    recording = recorder.start(spec)
    recorder.epoch(recording, epoch(1))
    recorder.finish(recording, result("pruned"))
    run = recorded(recorder)
    assert (run.state, run.metrics["best/val_accuracy"]) == ("pruned", 0.625)
    assert "cnnstudy.model" not in run.tags


@pytest.mark.parametrize("epochs", [0, 2])
def test_a_failed_trial_keeps_why_and_what_it_had(
    recorder: Recorder, spec: TrialSpec, tmp_path: Path, epochs: int
) -> None:
    recording = recorder.start(spec)
    for number in range(epochs):
        recorder.epoch(recording, epoch(number + 1))
    recorder.fail(recording, Failed(spec.key, "oom", "no memory left\nfor 3 tensors", "Traceback\n  ümlaut \udc80"))
    run = recorded(recorder)
    assert (run.state, run.reason, run.tags["cnnstudy.message"]) == ("failed", "oom", "no memory left")
    files = artifacts(recorder, run, tmp_path / "down")
    assert files["traceback.txt"].decode().startswith("Traceback\n  ümlaut")
    assert ("curves.png" in files) == bool(epochs)
    assert TrialSpec.from_json(json.loads(files["trial.json"])) == spec


def test_source_weights_are_no_trial(recorder: Recorder, spec: TrialSpec) -> None:
    recorder.start(dataclasses.replace(spec, purpose="pretrain", number=0), {"cnnstudy.weights_address": "abc"})
    run = recorded(recorder)
    assert (run.kind, run.tags["cnnstudy.trial"]) == ("pretrain", "pretrain-alexnet")
    assert run.tags["cnnstudy.weights_address"] == "abc"


def test_only_what_is_unfinished_is_marked_interrupted(recorder: Recorder, spec: TrialSpec) -> None:
    ended = recorder.start(spec)
    recorder.epoch(ended, epoch(1))
    recorder.finish(ended, result())
    left = recorder.start(dataclasses.replace(spec, number=8))
    assert [run.run_id for run in recorder.interrupt_unfinished()] == [left.run_id]
    assert recorder.interrupt_unfinished() == []
    states = {run.run_id: (run.state, run.reason) for run in recorder.tracker.runs(recorder.study.experiment_id)}
    assert states[ended.run_id] == ("finished", "")
    assert states[left.run_id] == ("failed", "interrupted")
    assert states[recorder.study.run_id][0] == "running"


def test_the_workers_files_are_removed(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "MLmodel").touch()
    (tmp_path / "backbone.npz").touch()
    files = {name: str(tmp_path / name) for name in ("model", "backbone.npz", "gone")}
    remove_trial_files(result(files=files))
    assert list(tmp_path.iterdir()) == []
