"""One driver per study: `hold_study_lock` on this machine, DriverLock across machines.

On one machine a file lock, which the system releases when its process ends. For all machines that share a tracking
server, a tag on the study's own run names its driver. No timeouts are involved: a driver that was suspended overnight
still has its study, and a driver on another machine counts as alive until the user says otherwise (--take-over).
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

from cnnstudy.errors import StudyBusyError, TakenOverError, TrackingError
from cnnstudy.names import NOBODY, Tag
from cnnstudy.study.recovery import DriverState
from cnnstudy.system.cache import content_address, require_cache, try_lock
from cnnstudy.system.processes import Process, is_alive, this_process
from cnnstudy.tracking.client import Tracker
from cnnstudy.tracking.recorded import RecordedStudy
from cnnstudy.tracking.sqlite import sqlite_file

#: Seconds to wait for the lock: a process that only checks whether a study is being run holds it for a moment.
PATIENCE = 2.0


@contextlib.contextmanager
def hold_study_lock(name: str, uri: str) -> Iterator[None]:
    """Hold the study's lock on this machine; it is released with the process, however that ends.

    Raises:
        StudyBusyError: another process holds it.
        CacheError: the cache folder can't be written.
    """
    path = _lock_path(name, uri)
    with try_lock(path, PATIENCE) as lock:
        if lock is None:
            raise StudyBusyError(_busy_message(name, _read_holder(name, uri)))
        path.with_suffix(".holder").write_text(str(this_process()), encoding="utf-8")
        yield


@contextlib.contextmanager
def try_study_lock(name: str, uri: str) -> Iterator[bool]:
    """Yield whether no process on this machine runs the study; if so, none can start within the block."""
    with try_lock(_lock_path(name, uri)) as lock:
        yield lock is not None


class DriverLock:
    """The tag on a study's run in MLflow that names its driver.

    Args:
        process: the process to act for; None: this one.
    """

    def __init__(self, tracker: Tracker, study: RecordedStudy, process: Process | None = None) -> None:
        self.tracker = tracker
        self.study = study
        self.process = process or this_process()

    def driver(self) -> tuple[DriverState, Process | None]:
        """Return whether a process other than this one runs the study, and the process that the tag names."""
        named = self._named()
        if named is None or named == self.process:
            return "gone", named
        return is_alive(named, self.process), named

    def _named(self) -> Process | None:
        """Return the process that the tag names, or None.

        Raises:
            TrackingError: the tag was edited and names none.
        """
        tag = self.tracker.tags(self.study.run_id).get(Tag.DRIVER, "")
        try:
            return Process.from_json(json.loads(tag)) if tag not in ("", NOBODY) else None
        except (TypeError, ValueError) as error:
            raise TrackingError(
                f"study {self.study.name!r}: the tag {Tag.DRIVER} of MLflow's run {self.study.run_id}, which names the "
                f"process that runs the study, is {tag[:40]!r}, which cnnstudy did not write. If nobody runs the "
                "study, delete the tag in MLflow's UI."
            ) from error

    def take(self, take_over: bool = False) -> None:
        """Become the study's driver; the caller holds `hold_study_lock`.

        Args:
            take_over: take it even from a driver on another machine, which may still be alive.

        Raises:
            StudyBusyError: another driver runs it, or may be running it.
            TakenOverError: another driver took it at the same moment.
        """
        state, named = self.driver()
        if state == "alive" or (state == "unknown" and not take_over):
            raise StudyBusyError(self._refusal(state, named))
        self.tracker.set_tags(self.study.run_id, {Tag.DRIVER: json.dumps(self.process.to_json())})
        self.check()  # two drivers may have started at the same moment: the last one to write the tag has the study

    def give_up(self) -> None:
        """Release the study if this process is its driver."""
        _, named = self.driver()
        if named == self.process:
            self.tracker.set_tags(self.study.run_id, {Tag.DRIVER: NOBODY})

    def check(self) -> None:
        """Raise TakenOverError if another process has become the study's driver."""
        _, named = self.driver()
        if named is not None and named != self.process:
            raise TakenOverError(f"study {self.study.name!r} was taken over by {named}; this process stops.")

    def _refusal(self, state: DriverState, named: Process | None) -> str:
        if state == "alive":
            return _busy_message(self.study.name, str(named))
        return (
            f"study {self.study.name!r} was started by {named}; from {self.process.host} it can't be seen whether that "
            "process is still running. If it is, wait for it or stop it; if you know that it is not, give --take-over."
        )


def read_driver(tracker: Tracker, study: RecordedStudy) -> tuple[DriverState, str]:
    """Return whether any process runs the study, and a description of that process; "" if none is known."""
    with try_study_lock(study.name, tracker.uri) as free:
        pass
    if not free:
        return "alive", _read_holder(study.name, tracker.uri)
    state, named = DriverLock(tracker, study).driver()
    return state, str(named or "")


def _busy_message(name: str, process: str) -> str:
    return f"study {name!r} is being run by another process, {process}; wait for it, or stop it first."


def _read_holder(name: str, uri: str) -> str:
    """Return `pid 123 on host`: the process on this machine that holds the study, or was the last to hold it."""
    holder = _lock_path(name, uri).with_suffix(".holder")
    return holder.read_text(encoding="utf-8") if holder.is_file() else "unknown"


def _lock_path(name: str, uri: str) -> Path:
    return require_cache("locks") / content_address([name, str(sqlite_file(uri) or uri)])
