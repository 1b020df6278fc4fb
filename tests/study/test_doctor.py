"""The doctor's checks and repairs, with real databases and leftovers."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from cnnstudy.names import Tag
from cnnstudy.records import TrialSpec
from cnnstudy.study import doctor
from cnnstudy.study.doctor import Finding
from cnnstudy.study.lock import hold_study_lock
from cnnstudy.study.recorder import Recorder
from cnnstudy.study.recovery import inspect_checkpoints
from cnnstudy.system import cache
from cnnstudy.system.cache import cache_folder, entry_folder
from cnnstudy.tracking.client import Tracker
from cnnstudy.tracking.recorded import RecordedStudy
from cnnstudy.tracking.spool import Envelope, Spool
from cnnstudy.training import checkpoints
from cnnstudy.training.checkpoints import TrialProgress

CONFIG = {"objective": {"metric": "val/accuracy"}}


pytestmark = pytest.mark.usefixtures("alone")


@pytest.fixture
def study(tracker: Tracker) -> RecordedStudy:
    return tracker.open_study("fake", CONFIG)


def troubles(found: list[Finding]) -> list[str]:
    return [f"{one.area}: {one.text}" for one in found if one.trouble]


def ended(tracker: Tracker, study: RecordedStudy, spec: TrialSpec, number: int) -> str:
    run_id = Recorder(tracker, study).start(dataclasses.replace(spec, number=number)).run_id
    folder = Path(f"files-{number}")
    folder.mkdir()
    (folder / "trial.json").touch()
    tracker.log_files(run_id, folder)
    tracker.end_run(run_id, "finished")
    return run_id


def test_a_database_that_is_not_there_is_not_made(own_places: Path) -> None:
    found = doctor.examine("sqlite:///not-there.db")
    assert troubles(found) == []
    assert any("not-there.db does not exist yet" in one.text for one in found)
    assert not Path("not-there.db").exists()
    assert doctor.repair("sqlite:///not-there.db") == []


def test_all_is_well(tracker: Tracker, study: RecordedStudy, spec: TrialSpec) -> None:
    ended(tracker, study, spec, 0)
    tracker.end_run(study.run_id, "finished")
    found = doctor.examine(tracker.uri)
    assert troubles(found) == []
    assert "study fake: in order; trials done: 1" in [f"{one.area}: {one.text}" for one in found]
    assert any(one.text.endswith("is writable; studies: 1") for one in found)


def test_a_damaged_record_is_a_finding(tracker: Tracker, study: RecordedStudy, spec: TrialSpec) -> None:
    run_id = ended(tracker, study, spec, 0)
    other = tracker.open_study("other", {"objective": {"metric": "val/accuracy"}})
    tracker.end_run(study.run_id, "finished")
    tracker.end_run(other.run_id, "finished")
    tracker.set_tags(run_id, {Tag.SEED: "x"})
    tracker.set_tags(other.run_id, {f"{Tag.CONFIG}.0": "{"})
    first, second = troubles(doctor.examine(tracker.uri))
    assert re.match(r"study fake: the record of alexnet-000.* can't be read: the tag cnnstudy\.seed ", first)
    assert second.startswith(
        "study other: the record of study 'other' can't be read: the tag mlflow.cnnstudy.config.0 "
    )


def test_what_was_left_is_told_and_repaired(tracker: Tracker, study: RecordedStudy, spec: TrialSpec) -> None:
    whole = ended(tracker, study, spec, 0)
    left = Recorder(tracker, study).start(dataclasses.replace(spec, number=1)).run_id
    scratch = Path(tempfile.gettempdir()) / "cnnstudy-0123456789abcdef"
    building = cache_folder() / "images" / f".{'a' * 24}-x"
    broken = cache_folder() / "images" / ("b" * 24)
    for folder in (scratch, building, broken):
        folder.mkdir(parents=True)
    Path(f"{scratch}.lock").touch()
    expected = [
        f"cache: {broken} is broken: no seal.json; earlier versions wrote none",
        f"processes: {building} was left by a process that no longer exists",
        f"processes: {scratch} was left by a process that no longer exists",
        "study fake: alexnet-001 scratch, batch size 16, dropout 0.5 was left unfinished by a driver that no longer "
        "exists",
        "study fake: study fake was left unfinished by a driver that no longer exists",
    ]
    assert sorted(troubles(doctor.examine(tracker.uri))) == sorted(expected)
    assert all(one.mendable for one in doctor.examine(tracker.uri) if one.trouble)
    done = doctor.repair(tracker.uri)
    assert len(done) == len(expected)
    assert troubles(doctor.examine(tracker.uri)) == []
    assert doctor.repair(tracker.uri) == []
    statuses = {run.run_id: run.status for run in tracker.runs(study.experiment_id)}
    assert statuses == {whole: "FINISHED", left: "KILLED", study.run_id: "KILLED"}


def write_checkpoint(spec: TrialSpec) -> Path:
    asked = dataclasses.replace(spec, checkpoints="every-epoch")
    address = checkpoints.checkpoint_address(asked)
    reached = TrialProgress(address, "", 0, 1, 1, 3, 50, 1.0, 1, (), (), ())
    checkpoints.TrialCheckpoints(asked, "").write(reached, {"weights/a/0": np.zeros(500)})
    return entry_folder(checkpoints.KIND, address)


def test_what_a_killed_command_was_writing(own_places: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as killed:
        pass
    name = ".cnnstudy-0123456789ab.{}.part"
    left = [Path(name.format(killed.pid)), Path("fake-report", "figures", name.format(killed.pid))]
    others = [Path(name.format(os.getpid())), Path(f".cnnstudy-notes.{killed.pid}.part")]
    left[0].mkdir()
    (left[0] / "model").touch()
    left[1].parent.mkdir(parents=True)
    for file in (left[1], *others):
        file.touch()
    uri, were_left = (
        "sqlite:///not-there.db",
        [f"{own_places / one} was left by a command that was killed" for one in left],
    )
    assert troubles(doctor.examine(uri)) == [f"files: {one}" for one in were_left]
    assert doctor.repair(uri) == [f"{one}: removed" for one in were_left]
    assert troubles(doctor.examine(uri)) == []
    assert [one.exists() for one in (*left, *others)] == [False, False, True, True]


def test_checkpoints_that_nobody_goes_on_from(tracker: Tracker, study: RecordedStudy, spec: TrialSpec) -> None:
    ended(tracker, study, spec, 0)
    tracker.end_run(study.run_id, "finished")
    of_ended, waiting, of_another, old, broken = (
        write_checkpoint(dataclasses.replace(spec, number=number, study=name))
        for number, name in enumerate(["fake", "fake", "elsewhere", "deleted", "fake"])
    )
    long_ago = time.time() - 40 * 24 * 3600
    os.utime(old / checkpoints.FILE, (long_ago, long_ago))
    os.utime(waiting / checkpoints.FILE, (long_ago, long_ago))
    (broken / checkpoints.FILE).write_bytes(b"PK")
    found = doctor.examine(tracker.uri)
    assert len(troubles(found)) == 3
    assert (
        f"checkpoints: checkpoint of alexnet-000 of study fake, {of_ended}, belongs to a trial that has ended"
        in troubles(found)
    )
    assert any(
        f"{old}, belongs to no trial under way that this MLflow knows, and was last written 40 days ago" in one.text
        for one in found
    )
    assert any(one.text.startswith(f"{broken} is broken") for one in found)
    assert any(one.text.startswith("of 3 trials under way or unknown to this MLflow") for one in found)
    assert len(doctor.repair(tracker.uri)) == 3
    assert [path.exists() for path in (of_ended, waiting, of_another, old, broken)] == [False, True, True, False, False]
    assert troubles(doctor.examine(tracker.uri)) == []
    assert {entry.about for entry in cache.list_entries("checkpoints")} == {
        "alexnet-001 of study fake, under way",
        "alexnet-002 of study elsewhere, under way",
    }
    cache.clear_entries(cache.list_entries("checkpoints"))
    assert not waiting.exists()


def test_a_checkpoint_that_is_written_after_its_trial_ended_is_of_another_store(
    tracker: Tracker, study: RecordedStudy, spec: TrialSpec
) -> None:
    """It belongs to a study of the same name in another database that shares the cache."""
    ended(tracker, study, spec, 0)
    tracker.end_run(study.run_id, "finished")
    folder = write_checkpoint(dataclasses.replace(spec, number=0))
    later = time.time() + 3600
    os.utime(folder / checkpoints.FILE, (later, later))
    assert troubles(doctor.examine(tracker.uri)) == []
    assert doctor.repair(tracker.uri) == []
    assert folder.exists()
    (found,) = inspect_checkpoints(tracker, [study])
    assert found.ended is None, "it goes when nobody has written to it for long"


def test_a_checkpoint_of_a_trial_whose_status_was_not_written_any_more(
    tracker: Tracker, study: RecordedStudy, spec: TrialSpec
) -> None:
    """Its driver was killed after writing the state, and before MLflow's status and end time."""
    run_id = Recorder(tracker, study).start(spec).run_id
    tracker.set_tags(run_id, {Tag.STATE: "finished"})
    tracker.end_run(study.run_id, "finished")
    folder = write_checkpoint(spec)
    doctor.repair(tracker.uri)
    assert not folder.exists()


def test_a_study_under_way_is_left_alone(tracker: Tracker, study: RecordedStudy, spec: TrialSpec) -> None:
    Recorder(tracker, study).start(spec)
    with hold_study_lock("fake", tracker.uri):
        found = doctor.examine(tracker.uri)
        assert troubles(found) == []
        assert any("is being run by pid" in one.text for one in found)
        assert doctor.repair(tracker.uri) == []
    assert {run.status for run in tracker.runs(study.experiment_id)} == {"RUNNING"}
    assert len(doctor.repair(tracker.uri)) == 2


def test_a_study_whose_records_wait_is_told_and_left_alone(
    tracker: Tracker, study: RecordedStudy, spec: TrialSpec
) -> None:
    """The records that wait contain the end of its trial, and are delivered first."""
    run_id = Recorder(tracker, study).start(spec).run_id
    spool = Spool(study.name, tracker.uri)
    spool.add(Envelope("end_run", 1, run_id, {"state": "finished", "tags": {}}))
    found = doctor.examine(tracker.uri)
    assert troubles(found) == []
    told = f"1 record waits for MLflow in {spool.folder}; the study's next run delivers them"
    assert told in [one.text for one in found]
    assert doctor.repair(tracker.uri) == []
    assert {run.status for run in tracker.runs(study.experiment_id)} == {"RUNNING"}


def test_files_of_finished_trials_that_are_gone(tracker: Tracker, study: RecordedStudy, spec: TrialSpec) -> None:
    ids = [ended(tracker, study, spec, number) for number in range(2)]
    tracker.end_run(study.run_id, "finished")
    root = Path(tracker.artifact_location(study.experiment_id).removeprefix("file://"))
    shutil.rmtree(root / ids[0])
    told = ["study fake: files of finished trials are missing: alexnet-000: its files"]
    assert troubles(doctor.examine(tracker.uri)) == told
    doctor.repair(tracker.uri)
    assert troubles(doctor.examine(tracker.uri)) == told


@pytest.mark.parametrize("kind", ["locked", "no database", "cut off", "out of date"])
def test_a_database_with_troubles(tracker: Tracker, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cnnstudy.study.doctor._PATIENCE", 0.01)
    path = Path(tracker.uri.removeprefix("sqlite:///"))
    with contextlib.ExitStack() as stack:
        if kind == "locked":
            connection = stack.enter_context(contextlib.closing(sqlite3.connect(path, isolation_level=None)))
            connection.execute("BEGIN EXCLUSIVE")
        elif kind == "no database":
            path.write_text("this is none, whatever its name says" * 50)
        elif kind == "cut off":
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        else:
            path = Path(shutil.copy(path, "old.db"))
            with contextlib.closing(sqlite3.connect(path)) as connection:
                connection.execute("UPDATE alembic_version SET version_num = '0584bdc529eb'")
                connection.commit()
        (told,) = troubles(doctor.examine(f"sqlite:///{path}"))
        words = {
            "locked": "database is locked",
            "no database": "not a database",
            "cut off": "",
            "out of date": "was written by an older MLflow (schema 0584bdc529eb)",
        }
        assert told.startswith("database: ")
        assert words[kind] in told
        assert doctor.repair(f"sqlite:///{path}") == []


def test_how_it_is_shown() -> None:
    console = Console(width=100, record=True, file=io.StringIO())
    doctor.show_findings(console, [Finding("a", "fine [bold]"), Finding("b", "not [red]", True, "do [this]")], ["it"])
    text = console.export_text()
    for words in ("repaired: it", "fine [bold]", "not [red]", "-> do [this]", "problems found: 1"):
        assert words in text


def test_the_command_says_by_its_exit_code(tracker: Tracker, study: RecordedStudy) -> None:
    def code(*options: str) -> int:
        command = [sys.executable, "-m", "cnnstudy", "doctor", "--tracking-uri", tracker.uri, *options]
        environment = {**os.environ, "TMPDIR": tempfile.gettempdir()}
        return subprocess.run(command, stdout=subprocess.DEVNULL, env=environment).returncode

    assert (code(), code("--repair"), code()) == (4, 0, 0)
