"""Runs read straight from SQLite are those that MLflow's search returns."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from cnnstudy.tracking import client as client_module
from cnnstudy.tracking import sqlite_runs
from cnnstudy.tracking.client import Tracker
from cnnstudy.tracking.recorded import RecordedRun
from cnnstudy.tracking.sqlite_runs import LargeStudyReader


@pytest.fixture
def filled(tracker: Tracker) -> tuple[Tracker, str]:
    """A study with runs of all kinds, and its experiment."""
    study = tracker.open_study("fake", {"objective": {"metric": "val/accuracy"}})
    client = tracker.client
    for number, state in enumerate(["finished", "failed", "running", "pruned", "deleted"]):
        tags = {"cnnstudy.kind": "trial", "cnnstudy.trial": f"alexnet-{number:03d}", "cnnstudy.note": "größer\n'"}
        run = client.create_run(study.experiment_id, 1000 - number // 2, tags, f"name {number}")
        run_id = run.info.run_id
        client.log_param(run_id, "batch_size", number)
        for step in (1, 2):
            tracker.log_metrics(run_id, {"val/accuracy": step / 10, "val/loss": float("nan")}, step, at=step)
        tracker.log_metrics(run_id, {"train/loss": float("inf")}, 2, at=2)
        if state == "deleted":
            client.delete_run(run_id)
        elif state != "running":
            tracker.end_run(run_id, state, {}, at=5000)
    other = tracker.open_study("other", {})
    tracker.set_tags(other.run_id, {"cnnstudy.note": "of another study"})
    client.create_run(study.experiment_id, 1, {}, "of another program")
    return tracker, study.experiment_id


def comparable(runs: list[RecordedRun]) -> list[dict[str, Any]]:
    """With NaN as text, which equals itself."""
    return [
        {**vars(run), "metrics": {name: repr(value) for name, value in sorted(run.metrics.items())}, "tags": run.tags}
        for run in runs
    ]


def test_they_are_equal(filled: tuple[Tracker, str], monkeypatch: pytest.MonkeyPatch) -> None:
    tracker, experiment = filled
    asked = tracker.runs(experiment)
    assert len(asked) == 1 + 4
    monkeypatch.setattr(sqlite_runs, "MANY", 1)
    monkeypatch.setattr(client_module, "search_all_pages", lambda search: pytest.fail("MLflow was asked"))
    histories = [tracker.metric_history(run.run_id, "val/accuracy") for run in asked]
    assert comparable(tracker.runs(experiment)) == comparable(asked)
    monkeypatch.setattr(tracker.client, "get_metric_history", lambda *_: pytest.fail("MLflow was asked"))
    assert [tracker.metric_history(run.run_id, "val/accuracy") for run in asked] == histories
    assert sorted(map(len, histories)) == [0, 2, 2, 2, 2]
    assert repr(tracker.metric_history(asked[0].run_id, "val/loss")) == "{1: nan, 2: nan}"
    assert tracker.metric_history(asked[0].run_id, "missing") == {}


def test_few_runs_and_other_places_are_left_to_mlflow(filled: tuple[Tracker, str], tmp_path: Path) -> None:
    tracker, experiment = filled
    for uri in (tracker.uri, "postgresql://host/database", f"sqlite:///{tmp_path / 'missing.db'}"):
        reader = LargeStudyReader(uri)
        assert reader.find_runs(experiment) is None
        assert reader.find_history("0" * 32, "val/loss") is None


def test_a_database_that_cannot_be_read_now_is_left_to_mlflow(
    filled: tuple[Tracker, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow waits for it, or says why."""
    tracker, experiment = filled
    monkeypatch.setattr(sqlite_runs, "MANY", 1)
    connect: Callable[..., sqlite3.Connection] = sqlite3.connect
    monkeypatch.setattr(
        sqlite_runs.sqlite3, "connect", lambda *given, **named: connect(*given, **{**named, "timeout": 0})
    )
    path = tracker.uri.removeprefix("sqlite:///")
    with closing(connect(path, isolation_level=None)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        assert LargeStudyReader(tracker.uri).find_runs(experiment) is None
    found = LargeStudyReader(tracker.uri).find_runs(experiment)
    assert found is not None
    assert len(found) == 6
