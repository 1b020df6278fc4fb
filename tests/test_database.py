from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

import pytest

from cnnstudy.database import make_whole, sqlite_file
from cnnstudy.tracking import Tracker


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
    make_whole(f"sqlite:///{path}", make)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT x FROM first").fetchall() == [(1,)]
    assert os.listdir(tmp_path) == ["it.db"]

    def refuse(uri: str) -> None:
        raise AssertionError(uri)

    make_whole(f"sqlite:///{path}", refuse)
    for elsewhere in ("http://host", f"sqlite:///{tmp_path}/not-there/it.db"):
        make_whole(elsewhere, refuse)


def test_a_process_that_is_stopped_while_it_is_made_leaves_none(tmp_path: Path) -> None:
    path = tmp_path / "it.db"

    def stop(uri: str) -> None:
        make(uri)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_whole(f"sqlite:///{path}", stop)
    assert not path.exists()
    (tmp_path / ".it.db-new").write_text("half of it")
    make_whole(f"sqlite:///{path}", make)
    assert os.listdir(tmp_path) == ["it.db"]


def test_mlflow_finds_in_it_what_it_needs(own_places: Path) -> None:
    study = Tracker("sqlite:///fresh.db").open_study("fake", {"objective": {"metric": "val/accuracy"}})
    assert Tracker(f"sqlite:///{own_places}/fresh.db").study("fake").run_id == study.run_id
    assert str(own_places / "mlruns") in Tracker("sqlite:///fresh.db").artifacts_of(study.experiment_id)
