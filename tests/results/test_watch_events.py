"""The events between two snapshots of a study, with a real MLflow database."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from pictures import leave_out_pictures

from cnnstudy.config.schema import StudyConfig
from cnnstudy.errors import TrackingError
from cnnstudy.execution import Failed
from cnnstudy.names import Tag
from cnnstudy.records import EpochRecord, TrialResult, TrialSpec
from cnnstudy.results.watch import (
    AnswerChanged,
    CountChanged,
    EpochEnded,
    Event,
    Snapshot,
    TrialEnded,
    TrialStarted,
    describe_end,
    first_snapshot,
    list_events,
    next_snapshot,
)
from cnnstudy.study.recorder import Recorder, TrialRecording
from cnnstudy.tracking.client import Tracker
from cnnstudy.tracking.operations import StartRun
from cnnstudy.tracking.recorded import RecordedRun

FILE: dict[str, Any] = {
    "name": "fake",
    "data": {"name": "digits", "classes": [0, 1, 2]},
    "image_size": 64,
    "architectures": ["alexnet"],
    "factors": {"batch_size": [8, 16, 32]},
    "training": {"epochs": 3},
    "strategy": {"sampler": "random"},
    "budget": {"trials": 3},
}
SUMMARY = {"train/accuracy": 1.0, "val/accuracy": 0.625, "gap/accuracy": 0.375, "train/loss": 0.1, "val/loss": 0.9}


def epoch(number: int) -> EpochRecord:
    return EpochRecord(number, {"train/accuracy": 0.5, "val/accuracy": 0.1 * number, "gap/accuracy": 0.1})


class Recorded:
    """A driver's recording and a view's snapshots, in turn."""

    def __init__(self, tracker: Tracker, spec: TrialSpec) -> None:
        config = StudyConfig.model_validate(FILE).model_dump(mode="json")
        self.tracker, self.spec, self.study = tracker, spec, tracker.open_study("fake", config)
        self.recorder = Recorder(tracker, self.study)
        self.latest: Snapshot | None = None

    def start(self, number: int, **changes: Any) -> TrialRecording:
        return self.recorder.start(dataclasses.replace(self.spec, number=number, **changes))

    def finish(self, recording: TrialRecording, **changes: Any) -> None:
        result = TrialResult("finished", 2, 3, 12.5, SUMMARY, ((3, 1), (2, 2)), 10, 5, None, verdict="overfit")
        self.recorder.finish(recording, dataclasses.replace(result, **changes))

    def interrupt(self, recording: TrialRecording) -> None:
        self.tracker.end_run(recording.run_id, "failed", {Tag.REASON: "interrupted"})

    def news(self) -> list[Event]:
        """Since the last call."""
        before = self.latest
        self.latest = first_snapshot(self.tracker, self.study) if before is None else self._next(before)
        return list(list_events(before, self.latest, 0.0))

    def _next(self, before: Snapshot) -> Snapshot:
        return next_snapshot(self.tracker, self.study, before)


@pytest.fixture
def recorded(tracker: Tracker, spec: TrialSpec, monkeypatch: pytest.MonkeyPatch) -> Recorded:
    leave_out_pictures(monkeypatch)
    return Recorded(tracker, spec)


def started(key: str) -> TrialStarted:
    return TrialStarted(key, "scratch, batch size 16, dropout 0.5", 3, 0.0)


FINISHED = "finished, train 100.0 %, val 62.5 %, gap +37.5 at epoch 2: overfit"


def test_a_trial_from_its_start_to_its_end(recorded: Recorded) -> None:
    assert recorded.news() == [CountChanged(0, 3)]
    one = recorded.start(0)
    assert recorded.news() == [started("alexnet-000")]
    assert recorded.news() == []
    recorded.recorder.epoch(one, epoch(1))
    assert recorded.news() == [EpochEnded("alexnet-000", epoch(1))]
    assert recorded.news() == []
    recorded.recorder.epoch(one, epoch(2))
    recorded.recorder.epoch(one, epoch(3))
    assert recorded.news() == [EpochEnded("alexnet-000", epoch(3))]  # the latest only
    recorded.finish(one)
    assert recorded.news() == [TrialEnded("alexnet-000", FINISHED, again=False)]
    assert recorded.news() == []


def test_the_answer_so_far(recorded: Recorded) -> None:
    recorded.tracker.set_tags(recorded.study.run_id, {Tag.STATE: "running"})
    assert recorded.news() == [CountChanged(0, 3)]
    told = "So far, 3 of 5 seeds: alexnet gap +1.0 points"
    recorded.tracker.set_tags(recorded.study.run_id, {Tag.NOTE: told})
    assert recorded.news() == [AnswerChanged(told)]
    assert recorded.news() == []
    recorded.tracker.set_tags(recorded.study.run_id, {Tag.NOTE: "- the whole answer"})
    assert recorded.news() == []


def test_a_view_that_comes_later(recorded: Recorded) -> None:
    """What has ended is counted; what is under way is shown with how far it is."""
    recorded.finish(recorded.start(0))
    two = recorded.start(1)
    recorded.recorder.epoch(two, epoch(2))
    assert recorded.news() == [CountChanged(1, 3), started("alexnet-001"), EpochEnded("alexnet-001", epoch(2))]


def test_what_began_and_ended_between_two_looks(recorded: Recorded) -> None:
    recorded.news()
    recorded.finish(recorded.start(0))
    assert recorded.news() == [started("alexnet-000"), TrialEnded("alexnet-000", FINISHED, again=False)]


def test_several_at_once_in_the_order_in_which_they_began(recorded: Recorded) -> None:
    recorded.news()
    one, two = recorded.start(1), recorded.start(0)
    assert recorded.news() == [started("alexnet-001"), started("alexnet-000")]
    recorded.finish(two)
    recorded.recorder.epoch(one, epoch(1))
    assert recorded.news() == [EpochEnded("alexnet-001", epoch(1)), TrialEnded("alexnet-000", FINISHED, again=False)]


def test_an_interrupted_trial_runs_again(recorded: Recorded) -> None:
    recorded.news()
    one = recorded.start(0)
    recorded.news()
    recorded.interrupt(one)
    recorded.start(0)
    text = "interrupted; the next run of the study repeats it"
    assert recorded.news() == [TrialEnded("alexnet-000", text, again=True), started("alexnet-000")]


def test_failures_and_pretraining(recorded: Recorded) -> None:
    recorded.news()
    pretraining, failing, pruned = recorded.start(0, purpose="pretrain"), recorded.start(1), recorded.start(2)
    recorded.news()
    recorded.finish(pretraining)
    recorded.recorder.fail(failing, Failed("alexnet-001", "oom", "no memory\nat all", "Traceback"))
    recorded.finish(pruned, state="pruned", verdict="")
    assert recorded.news() == [
        TrialEnded("pretrain-alexnet", "validation 62.5 %", again=False),
        TrialEnded("alexnet-001", "failed (oom): no memory", again=False),
        TrialEnded("alexnet-002", FINISHED.replace("finished", "pruned").removesuffix(": overfit"), again=False),
    ]


def test_confirming_counts_anew(recorded: Recorded) -> None:
    recorded.finish(recorded.start(0))
    recorded.news()
    recorded.start(0, purpose="confirm", seed=10_000)
    key = "confirm-alexnet-000-seed-10000"
    assert recorded.news() == [CountChanged(0, 0), started(key)]


def test_how_long_it_has_run_already(recorded: Recorded) -> None:
    recorded.start(0)
    now = first_snapshot(recorded.tracker, recorded.study)
    (run,) = now.running_trials
    seen = [one for one in list_events(None, now, run.started / 1000 + 75) if isinstance(one, TrialStarted)]
    assert [one.seconds for one in seen] == [pytest.approx(75)]


def test_a_run_that_is_just_being_made_waits(recorded: Recorded) -> None:
    recorded.news()
    tags = {"cnnstudy.kind": "trial", "cnnstudy.trial": "alexnet-000"}
    given = StartRun("alexnet-000", tags, {}, recorded.spec.images)
    run_id = recorded.tracker.start_run(recorded.study.experiment_id, given)
    assert recorded.news() == []
    recorded.tracker.end_run(run_id, "failed", {Tag.REASON: "interrupted"})
    assert recorded.news() == []


def test_a_run_whose_end_bears_an_early_time(recorded: Recorded) -> None:
    """Recorded by a machine whose clock is far behind."""
    recorded.finish(recorded.start(0))
    two = recorded.start(1)
    recorded.news()
    recorded.finish(two)
    recorded.tracker._client.set_terminated(two.run_id, "FINISHED", end_time=1000)
    assert recorded.news() == [TrialEnded("alexnet-001", FINISHED, again=False)]


def test_a_new_driver_with_a_larger_budget(recorded: Recorded) -> None:
    recorded.tracker.end_run(recorded.study.run_id, "finished")
    recorded.news()
    assert recorded.latest is not None
    assert not recorded.latest.running
    config = StudyConfig.model_validate({**FILE, "budget": {"trials": 9}}).model_dump(mode="json")
    recorded.tracker.start_study(recorded.study, config, Path("fake.yaml"), "name: fake")
    assert recorded.news() == [CountChanged(0, 9)]


@pytest.mark.parametrize(
    ("changes", "total"),
    [
        ({}, 3),
        ({"data": {"name": "folder", "path": "/not/on/this/machine"}}, 3),
        ({"weights": {"default": {"source": "file", "file": "/not/on/this/machine"}}}, 3),
        ({"strategy": {"kind": "factorial", "seeds": 2}, "budget": None}, 6),
        ({"key_of_another_version": 1}, 0),
        ({"architectures": ["unknown"]}, 0),
    ],
)
def test_how_many_trials_there_are_to_be(tracker: Tracker, changes: dict[str, Any], total: int) -> None:
    study = tracker.open_study("fake", {**FILE, **changes})
    assert first_snapshot(tracker, study).total() == total


def test_a_study_that_was_deleted(recorded: Recorded) -> None:
    recorded.tracker._client.delete_run(recorded.study.run_id)
    with pytest.raises(TrackingError, match="deleted"):
        first_snapshot(recorded.tracker, recorded.study)


def test_an_end_without_metrics() -> None:
    tags = {"cnnstudy.from_cache": "true"}
    run = RecordedRun("id", "name", "pretrain", "finished", "", 0, {}, {}, tags)
    assert describe_end(run) == "source weights from the cache"
    assert describe_end(dataclasses.replace(run, tags={})) == "finished"
