"""Moved and copied projects: which stored places are outdated, and that all of them are corrected."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from mlflow import MlflowClient

from cnnstudy.errors import TrackingError
from cnnstudy.tracking.client import Tracker
from cnnstudy.tracking.relocation import (
    correct_places,
    corrected_copy,
    find_moved,
    find_unwritable,
    local_folder,
    require_writable,
)
from cnnstudy.tracking.sqlite import create_database

FILE = "notes/a b.txt"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with two experiments, each with a run that has a file; the names of one folder look encoded."""
    folder = tmp_path_factory.mktemp("made") / "project"
    folder.mkdir()
    client = client_of(folder)
    for name, place in (("plain", str(folder / "mlruns" / "1")), ("encoded", (folder / "mlruns" / "%2F é").as_uri())):
        experiment = client.create_experiment(name, place)
        run = client.create_run(experiment).info.run_id
        client.log_text(run, name, FILE)
        model = client.create_logged_model(experiment, name="model", source_run_id=run)
        client.create_registered_model(name)
        client.create_model_version(name, model.artifact_location, run, model_id=model.model_id)
    client.create_experiment("elsewhere", "s3://bucket/mlruns/1")
    return folder


def client_of(folder: Path) -> MlflowClient:
    uri = uri_of(folder)
    create_database(uri, lambda new: MlflowClient(new).search_experiments(max_results=1))
    return MlflowClient(uri, uri)


def uri_of(folder: Path) -> str:
    return f"sqlite:///{folder / 'mlflow.db'}"


def stored(folder: Path) -> list[str]:
    """Return every text in the database that holds a place."""
    with closing(sqlite3.connect(folder / "mlflow.db")) as database:
        return list(dict.fromkeys(line for line in database.iterdump() if "mlruns" in line))


def read_files(uri: str, target: Path) -> list[str]:
    client = MlflowClient(uri, uri)
    target.mkdir(parents=True)
    found = []
    for name in ("plain", "encoded"):
        (run,) = client.search_runs([client.get_experiment_by_name(name).experiment_id])
        (target / name).mkdir()
        found.append(Path(client.download_artifacts(run.info.run_id, FILE, str(target / name))).read_text())
    return found


@pytest.mark.parametrize("name", ["elsewhere", "new é"])
@pytest.mark.parametrize("is_copied", [False, True], ids=["moved", "copied"])
def test_every_place_is_corrected(is_copied: bool, name: str, made: Path, tmp_path: Path) -> None:
    old, new = tmp_path / "project", tmp_path / name
    shutil.copytree(made, old)
    first = find_moved(uri_of(old))
    assert first is not None
    correct_places(first)  # of the copy that this test is about
    assert find_moved(uri_of(old)) is None
    shutil.copytree(old, new)
    if not is_copied:
        shutil.rmtree(old)
    before = stored(new)
    moved = find_moved(uri_of(new))
    assert moved is not None
    assert str(moved).startswith(f"{new / 'mlflow.db'} was moved or copied: it says that its files are in ")
    with pytest.raises(TrackingError, match=r"doctor --repair` corrects every place"):
        require_writable(uri_of(new))
    copy = corrected_copy(moved)
    assert read_files(copy, tmp_path / "read") == ["plain", "encoded"]
    assert stored(new) == before
    correct_places(moved)
    require_writable(uri_of(new))
    assert len(before) == len(stored(new))
    assert [line for line in stored(new) if f"{old}/" in line or old.as_uri() in line] == []
    assert sum("s3://bucket/mlruns/1" in line for line in stored(new)) == 1
    shutil.rmtree(old, ignore_errors=True)
    assert read_files(uri_of(new), tmp_path / "again") == ["plain", "encoded"]


def test_what_was_not_moved_is_left(made: Path, tmp_path: Path) -> None:
    assert find_moved(uri_of(made)) is None
    (tmp_path / "link.db").symlink_to(made / "mlflow.db")
    assert find_moved(f"sqlite:///{tmp_path / 'link.db'}") is None
    shutil.copy(made / "mlflow.db", tmp_path / "mlflow.db")
    (tmp_path / "mlruns" / "1").mkdir(parents=True)
    assert find_moved(uri_of(tmp_path)) is None, "files of another project are beside it"
    (tmp_path / "no.db").write_text("no database")
    for uri in ("sqlite:///no.db", f"sqlite:///{tmp_path / 'no.db'}", "sqlite:///gone.db", "http://127.0.0.1:1"):
        assert find_moved(uri) is None
        require_writable(uri)


@pytest.mark.parametrize("locked", ["mlflow.db", ".", "mlruns"])
def test_a_database_that_cannot_be_written_is_named(
    locked: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever runs the tests may write everywhere, so the system's answer is replaced."""
    place = tmp_path / locked
    (tmp_path / "mlflow.db").touch()
    (tmp_path / "mlruns").mkdir()
    assert find_unwritable(uri_of(tmp_path)) is None
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: False if Path(path) == place else access(path, mode))
    with pytest.raises(TrackingError, match=f"^{re.escape(str(place))} can't be written, and results are recorded"):
        require_writable(uri_of(tmp_path))


def test_files_are_written_beside_the_database_that_a_link_leads_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("real", "other"):
        (tmp_path / name).mkdir()
    client_of(tmp_path / "real")
    (tmp_path / "other" / "linked.db").symlink_to(tmp_path / "real" / "mlflow.db")
    monkeypatch.chdir(tmp_path / "other")
    tracker = Tracker("sqlite:///linked.db")
    recorded = tracker.open_study("linked", {})
    place = local_folder(tracker.artifact_location(recorded.experiment_id))
    assert place is not None
    assert place.parent == tmp_path / "real" / "mlruns"


@pytest.mark.parametrize(
    ("address", "folder"),
    [
        ("/srv/mlruns/1", "/srv/mlruns/1"),
        ("file:///srv/ml%20runs/1", "/srv/ml runs/1"),
        ("mlruns/1", str(Path("mlruns/1").absolute())),
        ("mlflow-artifacts:/1", None),
        ("s3://bucket/1", None),
        ("https://host/artifacts", None),
    ],
)
def test_which_artifacts_are_in_a_folder_here(address: str, folder: str | None) -> None:
    assert local_folder(address) == (None if folder is None else Path(folder))
