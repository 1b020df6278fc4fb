"""Recovery, with a real MLflow database and real processes."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from cnnstudy.errors import TrackingError, TrackingUnavailableError
from cnnstudy.names import Tag
from cnnstudy.records import INTERRUPTED, TrialSpec
from cnnstudy.study.recorder import Recorder
from cnnstudy.study.recovery import (
    DISCARDED,
    ENDED,
    MATCHED,
    REMOVED,
    STOPPED,
    Leftovers,
    apply_decisions,
    decide_recovery,
    find_workers,
    inspect_machine,
    inspect_study,
)
from cnnstudy.system.cache import lock_for
from cnnstudy.system.scratch import scratch_folder
from cnnstudy.tracking.client import Tracker
from cnnstudy.tracking.operations import LogModel
from cnnstudy.tracking.recorded import RecordedStudy
from cnnstudy.tracking.registry import Registry

CONFIG = {"objective": {"metric": "val/accuracy"}}


@pytest.fixture
def study(tracker: Tracker) -> RecordedStudy:
    found = tracker.open_study("fake", CONFIG)
    tracker.start_study(found, CONFIG, Path("fake.yaml"), "name: fake\n")
    return found


def log_model(tracker: Tracker, study: RecordedStudy, spec: TrialSpec, run_id: str) -> str:
    folder = Path("model")
    folder.mkdir(exist_ok=True)
    (folder / "MLmodel").write_text("artifact_path: model\n")
    address = tracker.log_model(study.experiment_id, run_id, LogModel(folder, spec.key, {}, 1, spec.images))
    return address.removeprefix("models:/")


def files_of(tracker: Tracker, run_id: str) -> list[str]:
    return [file.path for file in tracker._client.list_artifacts(run_id)]


def test_what_a_killed_driver_left_of_a_study(tracker: Tracker, study: RecordedStudy, spec: TrialSpec) -> None:
    recorder = Recorder(tracker, study)
    Path("files").mkdir()
    Path("files", "curves.png").write_text("half of i")
    ended, status_behind, left = (recorder.start(spec).run_id for _ in range(3))
    models = {run_id: log_model(tracker, study, spec, run_id) for run_id in (ended, status_behind, left)}
    for run_id in models:
        tracker.log_files(run_id, Path("files"))
    tracker.end_run(ended, "finished")
    tracker.set_tags(status_behind, {Tag.STATE: "failed", Tag.REASON: "crash"})
    pending = tracker._client.create_logged_model(study.experiment_id, name="x", source_run_id=left).model_id

    decisions = decide_recovery(Leftovers(studies=(inspect_study(tracker, study, "gone"),)))
    assert {(one.becomes, one.key) for one in decisions} == {
        (DISCARDED, models[left]),
        (DISCARDED, pending),
        (INTERRUPTED, left),
        (MATCHED, status_behind),
        (STOPPED, study.run_id),
    }
    where = Path(str(tracker._client.get_logged_model(models[left]).artifact_location).removeprefix("file://"))
    assert where.is_dir()
    apply_decisions(decisions, tracker)
    assert decide_recovery(Leftovers(studies=(inspect_study(tracker, study, "gone"),))) == []
    statuses = {one.run_id: (one.state, one.reason, one.status) for one in tracker.runs(study.experiment_id)}
    assert statuses == {
        ended: ("finished", "", "FINISHED"),
        status_behind: ("failed", "crash", "FAILED"),
        left: ("failed", "interrupted", "KILLED"),
        study.run_id: ("failed", "interrupted", "KILLED"),
    }
    assert files_of(tracker, ended) == files_of(tracker, status_behind) == ["curves.png"]
    assert files_of(tracker, left) == []
    assert files_of(tracker, study.run_id) == ["study"]
    kept = {model.model_id for model in Registry(tracker).list_models(study)}
    assert kept == {models[ended], models[status_behind]}
    assert not where.exists()


class Forbidding:
    """An MLflow artifact store that forbids deleting."""

    error: Exception

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def delete_artifacts(self, *_: object) -> None:
        raise self.error


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(errno.EACCES, "Permission denied"),
        PermissionError(errno.EPERM, "Operation not permitted"),
        requests.HTTPError("403 Client Error: Forbidden"),
        NotImplementedError("no"),
    ],
)
def test_where_nobody_may_delete_files_the_study_goes_on(
    tracker: Tracker, study: RecordedStudy, spec: TrialSpec, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(tracker, study)
    run_id = recorder.start(spec).run_id
    log_model(tracker, study, spec, run_id)
    if isinstance(error, requests.HTTPError):
        error.response = requests.Response()
        error.response.status_code = 403
    monkeypatch.setattr(Forbidding, "error", error, raising=False)
    monkeypatch.setattr("cnnstudy.tracking.registry.get_artifact_repository", Forbidding)
    interrupted, now = recorder.recover_interrupted()
    assert [run.run_id for run in interrupted] == [run_id]
    assert {run.run_id: run.reason for run in now} == {study.run_id: "", run_id: "interrupted"}
    assert recorder.recover_interrupted() == ([], now)
    assert Registry(tracker).list_models(study) == ()
    with pytest.raises(TrackingError) as caught:
        Registry(tracker).remove_files(run_id)
    assert not isinstance(caught.value, TrackingUnavailableError), "to wait is no use"


def test_a_call_that_was_killed_before_the_alias_leaves_no_second_version(
    tracker: Tracker, study: RecordedStudy, spec: TrialSpec
) -> None:
    run_id = Recorder(tracker, study).start(spec).run_id
    log_model(tracker, study, spec, run_id)
    run = next(run for run in tracker.runs(study.experiment_id) if run.run_id == run_id)
    registry = Registry(tracker)
    tracker._client.create_registered_model("fake")
    tracker._client.create_model_version("fake", run.tags["cnnstudy.model"], run_id)
    assert registry.register_champion("fake", run, "the best") == "1"
    assert [(one.version, one.status) for one in registry.list_versions(study)] == [("1", "READY")]
    registry.remove_version("fake", "1")
    assert registry.list_versions(study) == ()


ORPHAN = """
import sys, time
sys.argv = ["-m", "cnnstudy.execution.worker", *sys.argv[1:]]
print("here", flush=True)
time.sleep(600)
"""


def test_a_worker_and_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setenv("CNNSTUDY_CACHE", str(tmp_path / "cache"))

    @contextlib.contextmanager
    def hang(folder: Path) -> Iterator[subprocess.Popen[str]]:
        """A worker that does not notice the end of its driver."""
        command = [sys.executable, "-c", ORPHAN, "cnnstudy.execution.worker", f"--folder={folder}"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline() == "here\n"
                yield process
            finally:
                process.kill()

    left, tidied = (tmp_path / "temporary" / f"cnnstudy-{digit * 16}" for digit in "01")
    left.mkdir()
    tidied.mkdir()  # a cleaner of the temporary folder removed the lock
    elsewhere = Path("/private/tmp/cnnstudy-0123456789abcdef")  # a temporary folder that this process does not see
    with contextlib.ExitStack() as stack:
        held = stack.enter_context(scratch_folder())
        lock = lock_for(left)  # else a study that another test runs meanwhile ends the worker that is abandoned here
        lock.acquire()
        own, orphan, unknown, private, other = (
            stack.enter_context(hang(folder)) for folder in (held, left, tidied, elsewhere, tmp_path)
        )
        started = [own.pid, orphan.pid, unknown.pid, private.pid]
        found = find_workers()
        assert found.items() >= dict(zip(started, [held, left, tidied, elsewhere], strict=True)).items()
        assert other.pid not in found
        lock.release()
        Path(lock.lock_file).touch()
        folders, workers = inspect_machine()
        mine = tuple(worker for worker in workers if worker.pid in started)
        decisions = decide_recovery(Leftovers(folders=folders, workers=mine))
        assert {(one.becomes, one.key) for one in decisions} == {(ENDED, str(orphan.pid)), (REMOVED, str(left))}
        apply_decisions(decisions)
        assert orphan.wait(60) < 0
        assert [process.poll() for process in (own, unknown, private)] == [None] * 3
        assert not left.exists()
        assert held.exists()
        assert tidied.exists()


def test_a_worker_that_sees_another_folder_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulates a container that sees the machine's processes, but has its own temporary folder at the same path."""
    left = tmp_path / "cnnstudy-0123456789abcdef"
    left.mkdir()
    Path(f"{left}.lock").touch()
    monkeypatch.setattr("cnnstudy.study.recovery.find_workers", lambda: {os.getpid(): left})
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert [worker.driver_lives for worker in inspect_machine()[1]] == [False]
    monkeypatch.setattr("os.path.samestat", lambda seen, here: False)
    assert [worker.driver_lives for worker in inspect_machine()[1]] == [True]
