"""The driver of a study, on one machine and where several share a tracking server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cnnstudy.errors import CacheError, StudyBusyError, TakenOverError
from cnnstudy.names import Tag
from cnnstudy.study.lock import DriverLock, hold_study_lock, read_driver, try_study_lock
from cnnstudy.system.processes import Process, start_time, this_process
from cnnstudy.tracking.client import Tracker
from cnnstudy.tracking.recorded import RecordedStudy

ELSEWHERE = Process("elsewhere", 7, "1", "another machine", "another boot", "pid:[1]")


@pytest.fixture
def study(tracker: Tracker) -> RecordedStudy:
    return tracker.open_study("fake", {"objective": {"metric": "val/accuracy"}})


@pytest.fixture
def other() -> Iterator[Process]:
    """Another process on this machine."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield replace(this_process(), pid=process.pid, started=start_time(process.pid))
        process.kill()


def test_a_cache_that_is_no_folder_is_told_with_what_to_do(
    tracker: Tracker, own_places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (own_places / "file").write_text("")
    monkeypatch.setenv("CNNSTUDY_CACHE", str(own_places / "file"))
    with (
        pytest.raises(CacheError, match=r"file can't be used \(Not a directory\); set CNNSTUDY_CACHE"),
        hold_study_lock("fake", tracker.uri),
    ):
        pass


def test_a_claim_is_taken_and_kept(tracker: Tracker, study: RecordedStudy) -> None:
    claim = DriverLock(tracker, study)
    claim.check()
    claim.take()
    claim.check()
    assert Process.from_json(json.loads(tracker.tags(study.run_id)[Tag.DRIVER])) == this_process()
    DriverLock(tracker, study).take()  # left from an earlier run of this process


def test_one_that_lives_on_this_machine_is_not_taken_over(
    tracker: Tracker, study: RecordedStudy, other: Process
) -> None:
    DriverLock(tracker, study, other).take()
    for take_over in (False, True):
        with pytest.raises(StudyBusyError, match=rf"run by another process, pid {other.pid} on "):
            DriverLock(tracker, study).take(take_over)
    assert read_driver(tracker, study) == ("alive", str(other))


def test_only_ones_own_claim_is_given_up(tracker: Tracker, study: RecordedStudy) -> None:
    theirs, ours = DriverLock(tracker, study, ELSEWHERE), DriverLock(tracker, study)
    theirs.take()
    ours.give_up()
    theirs.check()
    assert read_driver(tracker, study) == ("unknown", "pid 7 on elsewhere")
    theirs.give_up()
    assert read_driver(tracker, study) == ("gone", "")


def test_one_that_was_killed_on_this_machine_is_no_obstacle(tracker: Tracker, study: RecordedStudy) -> None:
    gone = replace(this_process(), started="before")
    DriverLock(tracker, study, gone).take()
    assert read_driver(tracker, study) == ("gone", str(gone))
    DriverLock(tracker, study).take()


def test_one_elsewhere_is_refused_until_somebody_says_that_it_is_gone(tracker: Tracker, study: RecordedStudy) -> None:
    theirs = DriverLock(tracker, study, ELSEWHERE)
    theirs.take()
    assert read_driver(tracker, study) == ("unknown", "pid 7 on elsewhere")
    with pytest.raises(StudyBusyError, match=r"started by pid 7 on elsewhere; .*--take-over"):
        DriverLock(tracker, study).take()
    theirs.check()
    DriverLock(tracker, study).take(take_over=True)
    with pytest.raises(TakenOverError, match=f"taken over by pid {os.getpid()} on "):
        theirs.check()


def test_of_two_that_begin_in_the_same_moment_one_goes_on(
    tracker: Tracker, study: RecordedStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_tags = Tracker.set_tags

    def and_they_too(self: Tracker, run_id: str, tags: dict[str, str]) -> None:
        set_tags(self, run_id, tags)
        set_tags(self, run_id, {Tag.DRIVER: json.dumps(ELSEWHERE.to_json())})

    monkeypatch.setattr(Tracker, "set_tags", and_they_too)
    with pytest.raises(TakenOverError, match="pid 7 on elsewhere"):
        DriverLock(tracker, study).take()


def test_the_lock_of_this_machine(tracker: Tracker, study: RecordedStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cnnstudy.study.lock.PATIENCE", 0.01)
    assert read_driver(tracker, study) == ("gone", "")
    with hold_study_lock("fake", tracker.uri):
        assert read_driver(tracker, study) == ("alive", str(this_process()))
        with try_study_lock("fake", tracker.uri) as free:
            assert not free
        with (
            pytest.raises(StudyBusyError, match=rf"pid {os.getpid()} on"),
            hold_study_lock("fake", tracker.uri),
        ):
            pass
        with try_study_lock("other", tracker.uri) as free:
            assert free
    with try_study_lock("fake", tracker.uri) as free:
        assert free
