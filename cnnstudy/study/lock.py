"""One driver per study: who runs it, and nobody else while it lives.

On one machine a lock says so, which goes with the process. For all machines that share a tracking server the study's
own run names its driver. No clock is asked: a driver that was stopped for a night still has its study, and one that
can't be seen from here is taken to live until somebody says otherwise.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

from cnnstudy.errors import DataError, StudyBusyError, TakenOverError
from cnnstudy.names import Tag
from cnnstudy.study.recovery import Driver
from cnnstudy.system.cache import cache_folder, content_address, try_lock
from cnnstudy.system.processes import Process, is_alive, this_process
from cnnstudy.tracking.client import Tracker
from cnnstudy.tracking.recorded import RecordedStudy
from cnnstudy.tracking.sqlite import sqlite_file

#: Seconds: who only looks whether somebody runs the study has the lock for a moment.
PATIENCE = 2.0


@contextlib.contextmanager
def hold_study_lock(name: str, uri: str) -> Iterator[None]:
    """Hold the study on this machine; the lock goes with the process, whatever ends it.

    Raises:
        StudyBusyError: another process holds it.
    """
    path = _path(name, uri)
    with try_lock(path, PATIENCE) as lock:
        if lock is None:
            raise StudyBusyError(
                f"study {name!r} is being run by another process, {_holder(name, uri)}; wait for it, or stop it first."
            )
        path.with_suffix(".holder").write_text(str(this_process()), encoding="utf-8")
        yield


@contextlib.contextmanager
def while_nobody_runs(name: str, uri: str) -> Iterator[bool]:
    """Whether no process of this machine runs the study; then none can begin to within the block."""
    with try_lock(_path(name, uri)) as lock:
        yield lock is not None


class DriverLock:
    """A study's driver as its run in MLflow names it.

    Args:
        process: this one, if it is not another for a test's sake.
    """

    def __init__(self, tracker: Tracker, study: RecordedStudy, process: Process | None = None) -> None:
        self.tracker = tracker
        self.study = study
        self.process = process or this_process()

    def driver(self) -> tuple[Driver, Process | None]:
        """Whether a driver other than this process runs the study, and which it is, or was."""
        told = self.tracker.tags(self.study.run_id).get(Tag.DRIVER, "")
        named = Process.from_json(json.loads(told)) if told else None
        if named is None or named == self.process:
            return "gone", named
        return is_alive(named, self.process), named

    def take(self, take_over: bool = False) -> None:
        """Become the study's driver. To be called while `one_driver` holds it.

        Args:
            take_over: also from a driver of which nobody here can tell whether it lives.

        Raises:
            StudyBusyError: another driver runs it, or may.
        """
        life, named = self.driver()
        if life == "alive" or (life == "unknown" and not take_over):
            raise StudyBusyError(self._refusal(life, named))
        self.tracker.set_tags(self.study.run_id, {Tag.DRIVER: json.dumps(self.process.to_json())})
        self.check()  # two may have begun in the same moment: the later word holds

    def give_up(self) -> None:
        """The study is nobody's, if it is this process'."""
        _, named = self.driver()
        if named == self.process:
            self.tracker.set_tags(self.study.run_id, {Tag.DRIVER: ""})

    def check(self) -> None:
        """See that the study is still this process' to run.

        Raises:
            TakenOverError: it is another's.
        """
        _, named = self.driver()
        if named is not None and named != self.process:
            raise TakenOverError(f"study {self.study.name!r} was taken over by {named}; nothing more is done here.")

    def _refusal(self, life: Driver, named: Process | None) -> str:
        name = self.study.name
        if life == "alive":
            return f"study {name!r} is being run by another process, {named}; wait for it, or stop it first."
        return (
            f"study {name!r} was begun by {named}, and nothing on {self.process.host} can tell whether that still runs "
            "it. Where it does, wait for it or stop it; where you know that it is gone, give --take-over."
        )


def read_driver(tracker: Tracker, study: RecordedStudy) -> tuple[Driver, str]:
    """Whether anybody runs the study, and who as far as that is known."""
    with while_nobody_runs(study.name, tracker.uri) as free:
        pass
    if not free:
        return "alive", _holder(study.name, tracker.uri)
    life, named = DriverLock(tracker, study).driver()
    return life, str(named or "")


def _holder(name: str, uri: str) -> str:
    """`pid 123 on host`: the process of this machine that holds the study, or the last that did."""
    holder = _path(name, uri).with_suffix(".holder")
    return holder.read_text(encoding="utf-8") if holder.is_file() else "unknown"


def _path(name: str, uri: str) -> Path:
    folder = cache_folder() / "locks"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as reason:
        raise DataError(
            f"the cache folder {cache_folder()} can't be used ({reason.strerror}); set CNNSTUDY_CACHE to a folder that "
            "can be written."
        ) from reason
    return folder / content_address([name, str(sqlite_file(uri) or uri)])
