"""A tracking server gets the epochs of a run in few requests, and each with its time."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from faulty_store import FaultyClient

from cnnstudy.records import PreparedImages
from cnnstudy.tracking import outbox as outbox_module
from cnnstudy.tracking.client import Tracker
from cnnstudy.tracking.operations import EndRun, LogMetrics, SetTags, StartRun, from_json, to_json
from cnnstudy.tracking.outbox import Outbox
from cnnstudy.tracking.retry import RetryPolicy

IMAGES = PreparedImages("digits", "/nowhere", "d" * 64, 64, ("cat", "dog"), (6, 6), (4, 4), (2, 2))
START = StartRun("alexnet-000", {"cnnstudy.kind": "trial", "cnnstudy.trial": "alexnet-000"}, {"seed": "0"}, IMAGES)
#: Never stores a record because the machine is slow.
PATIENT = RetryPolicy(wait_per_record=600.0, pauses=(0.01,), give_up_after=600.0)


class Kept:
    """An outbox to what it takes for a tracking server, and its clock."""

    def __init__(self, tracker: Tracker) -> None:
        self.tracker, self.now = tracker, 100.0
        self.client = tracker._client = FaultyClient(tracker._client)  # type: ignore[assignment]
        self.study = tracker.open_study("held", {})
        self.outbox = self.open()
        self.run = self.outbox.start_run(START)

    def open(self) -> Outbox:
        return Outbox(self.tracker, self.study, retry_policy=PATIENT, clock=lambda: self.now)

    def epoch(self, number: int, at: float) -> None:
        self.now = at
        self.outbox.write(self.run, LogMetrics({"val/accuracy": number / 10, "val/loss": 1.0}, number))

    @property
    def epochs(self) -> list[int]:
        """Those that MLflow has."""
        return sorted(self.tracker.metric_history(self.run, "val/accuracy"))


@pytest.fixture
def kept(make_tracker: Callable[[str], Tracker], own_places: Path, monkeypatch: pytest.MonkeyPatch) -> Kept:
    monkeypatch.setattr(outbox_module, "is_server", lambda uri: True)
    monkeypatch.setattr(outbox_module, "current_time", lambda: int(1000 * desk[0].now) if desk else 1)
    desk: list[Kept] = []
    desk.append(Kept(make_tracker("held")))
    return desk[0]


def test_epochs_that_follow_each_other_are_one_request(kept: Kept) -> None:
    kept.epoch(1, 100)
    assert kept.epochs == [1], "the first is seen at once"
    before = kept.client.calls.count("log_batch")
    kept.epoch(2, 103)
    kept.epoch(3, 109)
    assert kept.epochs == [1]
    kept.epoch(4, 110)
    assert kept.epochs == [1, 2, 3, 4]
    assert kept.client.calls.count("log_batch") == before + 1
    kept.epoch(5, 115)
    kept.outbox.write(kept.run, EndRun("finished"))
    assert kept.epochs == [1, 2, 3, 4, 5]
    history = kept.client.get_metric_history(kept.run, "val/accuracy")
    assert [(one.step, one.value, one.timestamp) for one in history] == [
        (1, 0.1, 100_000),
        (2, 0.2, 103_000),
        (3, 0.3, 109_000),
        (4, 0.4, 110_000),
        (5, 0.5, 115_000),
    ]


def test_any_other_write_of_the_run_brings_them(kept: Kept) -> None:
    kept.epoch(1, 100)
    kept.epoch(2, 101)
    other = kept.outbox.start_run(START)
    kept.outbox.write(other, SetTags({"note": "of another run"}))
    assert kept.epochs == [1]
    kept.outbox.write(kept.run, SetTags({"note": "of this run"}))
    assert kept.epochs == [1, 2]


def test_an_interrupted_run_keeps_what_it_reached(kept: Kept) -> None:
    kept.epoch(1, 100)
    kept.epoch(2, 101)
    kept.outbox.send_held()
    assert kept.epochs == [1, 2]


def test_they_wait_on_disk_where_the_server_is_down(kept: Kept) -> None:
    kept.epoch(1, 100)
    kept.epoch(2, 101)
    kept.epoch(3, 102)
    kept.client.down = True
    kept.outbox.store_interrupted_ends({})
    kept.outbox.close()
    kept.client.down = False
    assert kept.epochs == [1]
    later = kept.open()
    later.delivery.send_stored()
    later.close()
    assert kept.epochs == [1, 2, 3]
    assert kept.tracker.tags(kept.run)["cnnstudy.state"] == "failed"


def test_an_sqlite_database_gets_each_epoch_at_once(make_tracker: Callable[[str], Tracker], own_places: Path) -> None:
    kept = Kept(make_tracker("file"))
    kept.epoch(1, 100)
    kept.epoch(2, 100)
    assert kept.epochs == [1, 2]


def test_one_epoch_alone_is_what_an_earlier_version_reads() -> None:
    name, arguments = to_json(LogMetrics({"val/loss": 1.0}, 3))
    assert (name, arguments) == ("log_metrics", {"metrics": {"val/loss": 1.0}, "step": 3})


def test_held_epochs_survive_on_disk() -> None:
    step = outbox_module.Step({"val/loss": 2.0}, 2, 5)
    name, arguments = to_json(LogMetrics({"val/loss": 1.0}, 3, (step,)))
    assert from_json(name, json.loads(json.dumps(arguments)), None) == LogMetrics({"val/loss": 1.0}, 3, (step,))
