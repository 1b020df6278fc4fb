from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from pathlib import Path

import pytest
from mlflow.store.db.utils import _get_latest_schema_revision

from cnnstudy.errors import TrackingError
from cnnstudy.tracking import sqlite
from cnnstudy.tracking.client import Tracker
from cnnstudy.tracking.sqlite import analyze_metrics, create_database, sqlite_file


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("sqlite:///mlflow.db", "mlflow.db"),
        ("sqlite:////tmp/it.db?timeout=5", "/tmp/it.db"),
        ("sqlite:///:memory:", None),
        ("sqlite://", None),
        ("http://host/mlflow.db", None),
        ("postgresql://host/db", None),
    ],
)
def test_where_a_database_lies(uri: str, path: str | None) -> None:
    assert sqlite_file(uri) == (None if path is None else Path(path).absolute())


def make(uri: str) -> None:
    path = sqlite_file(uri)
    assert path is not None
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE first (x)")
        connection.commit()
        connection.execute("INSERT INTO first VALUES (1)")
        connection.commit()


def test_it_is_made_whole_and_once(tmp_path: Path) -> None:
    path = tmp_path / "it.db"
    create_database(f"sqlite:///{path}", make)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT x FROM first").fetchall() == [(1,)]
    assert os.listdir(tmp_path) == ["it.db"]

    def refuse(uri: str) -> None:
        raise AssertionError(uri)

    create_database(f"sqlite:///{path}", refuse)
    for elsewhere in ("http://host", f"sqlite:///{tmp_path}/not-there/it.db"):
        create_database(elsewhere, refuse)


def test_a_process_that_is_stopped_while_it_is_made_leaves_none(tmp_path: Path) -> None:
    path = tmp_path / "it.db"

    def stop(uri: str) -> None:
        make(uri)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        create_database(f"sqlite:///{path}", stop)
    assert not path.exists()
    (tmp_path / ".it.db-new").write_text("half of it")
    create_database(f"sqlite:///{path}", make)
    assert os.listdir(tmp_path) == ["it.db"]


def test_mlflow_finds_in_it_what_it_needs(own_places: Path) -> None:
    study = Tracker("sqlite:///fresh.db").open_study("fake", {"objective": {"metric": "val/accuracy"}})
    assert Tracker(f"sqlite:///{own_places}/fresh.db").study("fake").run_id == study.run_id
    assert str(own_places / "mlruns") in Tracker("sqlite:///fresh.db").artifact_location(study.experiment_id)


def index_of_a_history(path: Path) -> str:
    """What SQLite does to find a run's metric as MLflow asks for it."""
    question = "SELECT value FROM metrics WHERE run_uuid = ? AND key = ? ORDER BY timestamp, step, value"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        plan = connection.execute(f"EXPLAIN QUERY PLAN {question}", ["1" * 32, "val/loss"]).fetchall()
    return str(plan[0][-1])


def test_a_runs_history_does_not_lead_through_those_of_all_runs(own_places: Path) -> None:
    tracker, path = Tracker("sqlite:///many.db"), own_places / "many.db"
    run_id = tracker.open_study("fake", {}).run_id
    rows = [
        (key, 0.5, 1000 * run + epoch, f"{run:032x}", epoch)
        for run in range(200)
        for epoch in range(8)
        for key in ("train/loss", "val/loss", "gap/loss")
    ]
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.executemany(
            "INSERT INTO metrics (key, value, timestamp, run_uuid, step) VALUES (?, ?, ?, ?, ?)", rows
        )
    assert "(run_uuid=? AND key=?)" not in index_of_a_history(path)
    assert tracker.metric_history(run_id, "val/loss") == {}
    assert "(run_uuid=? AND key=?)" in index_of_a_history(path)


def test_a_database_that_cannot_be_written_now_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "it.db"
    analyze_metrics(f"sqlite:///{path}")
    analyze_metrics("postgresql://host/db")
    assert os.listdir(tmp_path) == []
    make(f"sqlite:///{path}")
    analyze_metrics(f"sqlite:///{path}")  # has no metrics
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE metrics (x)")
        connection.execute("INSERT INTO metrics VALUES (1)")
        connection.commit()
        connection.execute("BEGIN IMMEDIATE")
        analyze_metrics(f"sqlite:///{path}")
    path.write_text("no database")
    analyze_metrics(f"sqlite:///{path}")
    assert path.read_text() == "no database"


# ---- other versions and other programs


def test_the_installed_schema_is_mlflows_own() -> None:
    known, latest = sqlite._list_schemas()
    assert latest == _get_latest_schema_revision()
    assert latest in known


@pytest.mark.parametrize(
    ("schema", "fragments"),
    [
        ("0584bdc529eb", ["was written by an older MLflow (schema 0584bdc529eb)", "Keep a copy", "`mlflow db upgrade"]),
        ("abcdef012345", ["was written by a newer MLflow", "does not know its schema abcdef012345"]),
    ],
    ids=["older", "newer"],
)
def test_a_database_of_another_mlflow_is_left_as_it_is(schema: str, fragments: list[str], tmp_path: Path) -> None:
    """MLflow converts one that lacks a table without a word, after which the older MLflow refuses it."""
    path = tmp_path / "mlflow.db"
    Tracker(f"sqlite:///{path}")
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", [schema])
        connection.execute("DROP TABLE logged_model_tags")
        connection.commit()
    copy = Path(shutil.copy(path, tmp_path / "other.db"))
    content = copy.read_bytes()
    with pytest.raises(TrackingError) as caught:
        Tracker(f"sqlite:///{copy}")
    assert [fragment for fragment in (str(copy), *fragments) if fragment not in str(caught.value)] == []
    assert copy.read_bytes() == content


def test_a_database_of_another_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "optuna.db"
    make(f"sqlite:///{path}")
    with pytest.raises(TrackingError, match=r"optuna\.db is a database, but not MLflow's: it has the tables first"):
        Tracker(f"sqlite:///{path}")
