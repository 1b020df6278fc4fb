"""Write a study's records to MLflow: each once, in order and with its time, whether MLflow is available or not.

While MLflow is available, a write returns when it is done. When it is not (a locked or read-only database; a server
that is down, slow or restarting), records are stored on disk, the study continues, and Delivery sends them later. What
has not been sent when a run ends, the next run sends first.
"""

from __future__ import annotations

import math
import shutil
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from cnnstudy.errors import DiskFullError, LostRunError, TrackingError, TrackingUnavailableError
from cnnstudy.names import Tag
from cnnstudy.records import INTERRUPTED
from cnnstudy.system.files import hardlink_tree
from cnnstudy.system.scratch import Scratch
from cnnstudy.tracking import operations
from cnnstudy.tracking.client import Tracker
from cnnstudy.tracking.delivery import Delivery
from cnnstudy.tracking.operations import (
    Attempt,
    EndRun,
    LogFiles,
    LogMetrics,
    LogModel,
    Operation,
    SetTags,
    StartRun,
    Step,
    current_time,
)
from cnnstudy.tracking.recorded import RecordedStudy, tag_filter
from cnnstudy.tracking.retry import RetryPolicy, is_server
from cnnstudy.tracking.spool import Envelope, Spool, list_waiting, spool_folder_for
from cnnstudy.tracking.sqlite import sqlite_file

_TOKEN_PREFIX = "token-"
#: A tracking server gets the metrics of a run at most once in so many seconds, several epochs in one request.
METRICS_EVERY = 10.0
#: Kinds of runs of which only one counts for each trial.
_ONE_PER_TRIAL = ("trial", "confirm")


class Outbox:
    """Writes one study's records to MLflow, each with its time.

    A run is named by MLflow's id or, if MLflow was unavailable when the run started, by a token. The token is also a
    tag of the run, and another one is a tag of each model: if the reply to their creation was lost, they are found by
    it, not created again.

    `delivery` holds the records that are on their way: use it to wait for them, or to read from MLflow after they
    have arrived.

    Args:
        say: receives messages for the user.
        retry_policy: how long to wait for MLflow; None for the defaults.
        check: called before each write except metrics, delayed writes too; raises if this driver may not write.
        clock: returns the time in seconds.

    Writing raises:
        TrackingError: MLflow rejects the record, or rejected one that had been waiting.
        DiskFullError: there is no space to store the record while MLflow is unavailable.
    """

    def __init__(
        self,
        tracker: Tracker,
        study: RecordedStudy,
        say: Callable[[str], None] = lambda text: None,
        retry_policy: RetryPolicy | None = None,
        check: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        writer = _Writer(tracker, study, say, check)
        self.delivery = Delivery(Spool(study.name, tracker.uri), writer.apply, say, retry_policy or RetryPolicy())
        self._scratch: Scratch | None = None
        self._open_runs: dict[str, None] = {}  # started here and not ended
        self._clock, self._every = clock, METRICS_EVERY if is_server(tracker.uri) else 0.0
        self._sent: dict[str, float] = {}  # when metrics of a run were sent last
        self._held: dict[str, list[Step]] = {}  # metrics to be sent with the run's next ones

    def start_run(self, run: StartRun) -> str:
        """Start a run; return its id or token."""
        token = _TOKEN_PREFIX + uuid.uuid4().hex
        self._open_runs[token] = None
        name = self.delivery.put(_envelope(token, run, token)) or token
        del self._open_runs[token]
        self._open_runs[name] = None
        return name

    def write(self, run: str, operation: LogMetrics | SetTags | LogFiles | LogModel | EndRun) -> None:
        """Carry out an operation on the run; afterwards the caller may remove the operation's folder.

        A tracking server gets metrics that follow others within METRICS_EVERY with the run's next write.
        """
        if isinstance(operation, LogMetrics):
            now = self._clock()
            if now - self._sent.get(run, -math.inf) < self._every:
                self._held.setdefault(run, []).append(Step(operation.metrics, operation.step, current_time()))
                return
            self._sent[run] = now
            operation = replace(operation, earlier=tuple(self._held.pop(run, ())))
        elif held := self._take_held(run):
            self.delivery.put(held)
        token, files = "", None
        if isinstance(operation, LogModel):
            token = uuid.uuid4().hex
        if isinstance(operation, LogModel | LogFiles):
            files = self._link_files(operation.folder)
        self.delivery.put(_envelope(run, operation, token, files))
        if isinstance(operation, EndRun) or (isinstance(operation, LogModel) and operation.end):
            self._open_runs.pop(run, None)
            self._sent.pop(run, None)

    def send_held(self) -> None:
        """Send all metrics that are held back."""
        for run in list(self._held):
            if held := self._take_held(run):
                self.delivery.put(held)

    def _take_held(self, run: str) -> Envelope | None:
        """Return the metrics of a run that are held back, if there are any; the caller sends them."""
        held = self._held.pop(run, None)
        if held is None:
            return None
        *earlier, last = held
        return replace(_envelope(run, LogMetrics(last.metrics, last.step, tuple(earlier))), at=last.at)

    def leave(self, run: str, end: EndRun) -> None:
        """Store the end of a run on disk, even after an error; for a driver that is about to stop."""
        if held := self._take_held(run):
            self.delivery.leave(held)
        self.delivery.leave(_envelope(run, end))
        self._open_runs.pop(run, None)

    def store_interrupted_ends(self, tags: Mapping[str, str]) -> None:
        """Store the ends of all runs that were started here and not ended."""
        for run in list(self._open_runs):
            self.leave(run, EndRun("failed", tags))

    def close(self) -> None:
        """End the delivery's thread; store on disk what has not been sent."""
        self.delivery.close()
        if self._scratch is not None:
            self._scratch.close()

    def _link_files(self, folder: Path) -> Path:
        """Return a folder with the same files that only the record uses."""
        if self._scratch is None:  # it stays empty: while it is held, folders named after it are not removed
            self._scratch = Scratch()
        own = spool_folder_for(self._scratch)
        try:
            own.mkdir(mode=0o700)  # private until MLflow has the files
            hardlink_tree(folder, own)
        except OSError as error:
            shutil.rmtree(own, ignore_errors=True)
            raise DiskFullError(f"the files of a trial can't be stored in {own.parent}: {error}") from error
        return own


class _Writer:
    """Carries out writes: finds the run that a token stands for, and respects what other drivers did meanwhile."""

    def __init__(
        self, tracker: Tracker, study: RecordedStudy, say: Callable[[str], None], check: Callable[[], None]
    ) -> None:
        self._tracker, self._study, self._say, self._check = tracker, study, say, check
        self._run_ids: dict[str, str] = {}  # by token
        self._checked = ""  # the run whose files were written last, after a check
        self._dropped: set[str] = set()  # runs that were deleted while they were under way

    def apply(self, envelope: Envelope, again: bool) -> str:
        """Carry out a write; return the id of the run or the address of the model that it creates, otherwise "".

        What comes from a trial whose run was deleted just now is left out: the study goes on with the next trial.

        Args:
            again: the write may have been carried out before.

        Raises:
            LostRunError: the study was deleted in MLflow, or a run whose records had to wait.
        """
        operation = _operation_in(envelope)
        try:
            return self._apply(envelope, operation, again)
        except (TrackingUnavailableError, LostRunError):
            raise
        except TrackingError as error:
            lost = self._tracker.describe_loss(self._study)
            if lost:
                raise LostRunError(lost) from error
            run_id = self._run_ids.get(envelope.run, envelope.run)
            started = run_id != self._study.run_id and not run_id.startswith(_TOKEN_PREFIX)
            lost = self._tracker.describe_lost_run(run_id) if started else ""
            if not lost:
                raise
            if again or envelope.number:  # it had to wait
                raise LostRunError(lost) from error
            if run_id not in self._dropped:
                self._dropped.add(run_id)
                self._say(f"{lost} What is left of its trial is not recorded, and the next call runs the trial again")
            return ""

    def _apply(self, envelope: Envelope, operation: Operation, again: bool) -> str:
        experiment = self._study.experiment_id
        attempt = Attempt(envelope.at, envelope.token, again)
        self._check_before(envelope, operation, again)
        if isinstance(operation, StartRun):
            started = self._run_ids[envelope.token] = self._tracker.write(operation, experiment, "", attempt)
            if again:
                self._give_up_if_another_ended(operation, started, envelope.at)
            return started
        run_id = self._find_run_id(envelope.run)
        if run_id is None and isinstance(operation, EndRun):  # its start could not be stored: there is nothing to end
            return ""
        if run_id is None:
            raise LostRunError(f"MLflow has no run with the tag {Tag.TOKEN} = {envelope.run}: it was removed.")
        if again and self._is_given_up(operation, run_id):
            return ""
        return self._tracker.write(operation, experiment, run_id, attempt)

    def _check_before(self, envelope: Envelope, operation: Operation, again: bool) -> None:
        """Check that this driver may write; once for a trial's files, model and end, which follow each other."""
        follows = envelope.run == self._checked and not (again or envelope.number)
        if not isinstance(operation, LogMetrics) and not (follows and isinstance(operation, LogModel | EndRun)):
            self._check()
        self._checked = envelope.run if isinstance(operation, LogFiles) else ""

    def _give_up_if_another_ended(self, start: StartRun, run_id: str, at: int) -> None:
        """Mark the run interrupted if another driver completed its trial before MLflow knew of this run."""
        trial = start.tags.get(Tag.TRIAL)
        if start.tags.get(Tag.KIND) not in _ONE_PER_TRIAL:
            return
        same_trial = self._tracker.runs(self._study.experiment_id, tag_filter(Tag.TRIAL, trial or ""))
        others = (run for run in same_trial if run.done and run.kind in _ONE_PER_TRIAL and run.run_id != run_id)
        ended = next(others, None)
        if ended is not None:
            message = f"another driver took over the study and completed this trial: run {ended.run_id}"
            self._tracker.end_run(run_id, "failed", {Tag.REASON: INTERRUPTED, Tag.MESSAGE: message}, at)
            self._say(f"{trial}: {message}. The record stored here is not counted")

    def _is_given_up(self, operation: Operation, run_id: str) -> bool:
        """Check whether another driver has marked the run interrupted, so that its trial runs again."""
        marks_interrupted = isinstance(operation, EndRun | SetTags) and operation.tags.get(Tag.REASON) == INTERRUPTED
        if marks_interrupted or run_id == self._study.run_id:
            return False
        return self._tracker.tags(run_id).get(Tag.REASON) == INTERRUPTED

    def _find_run_id(self, run: str) -> str | None:
        """Return MLflow's id of the run; None if MLflow has no such run."""
        if not run.startswith(_TOKEN_PREFIX):
            return run
        if run not in self._run_ids:
            run_id = self._tracker.find_run(self._study.experiment_id, run)
            if run_id is None:
                return None
            self._run_ids[run] = run_id
        return self._run_ids[run]


def _envelope(run: str, operation: Operation, token: str = "", files: Path | None = None) -> Envelope:
    name, arguments = operations.to_json(operation)
    return Envelope(name, current_time(), run, arguments, token, files)


def _operation_in(envelope: Envelope) -> Operation:
    """Return the operation in the envelope.

    Raises:
        TrackingError: this version has no such operation.
    """
    try:
        return operations.from_json(envelope.what, envelope.arguments, envelope.files)
    except (KeyError, TypeError, AttributeError) as error:
        raise TrackingError(
            f"this version can't read a record of {envelope.what!r} ({error}); another version stored it for MLflow."
        ) from error


def adopt_records(tracker: Tracker, study: RecordedStudy, say: Callable[[str], None]) -> None:
    """Take over the study's records that wait for a database file that is gone, if this is that file, renamed.

    Raises:
        TrackingError: a record can't be read, or MLflow is unavailable.
    """
    if sqlite_file(tracker.uri) is None:
        return
    own = Spool(study.name, tracker.uri)
    for waiting in list_waiting():
        file = sqlite_file(waiting.tracking)
        if waiting.study != study.name or waiting.folder == own.folder or file is None or file.exists():
            continue
        other = Spool(waiting.study, waiting.tracking)
        runs = {envelope.run for envelope in other.load() if not envelope.run.startswith(_TOKEN_PREFIX)}
        if any(not tracker.describe_lost_run(run) for run in runs):
            say(f"{waiting.records} records waited for {file}, which is gone and whose runs are in this database")
            own.take_over(other)


def find_lost_records(spool: Spool, tracker: Tracker | None) -> list[Envelope]:
    """Return the waiting records that MLflow can't take: their runs were deleted there, or are not in its store.

    Args:
        tracker: of the store that they wait for; None: it does not exist, so that no run is in it.

    Raises:
        TrackingError: a record can't be read, or MLflow is unavailable.
    """
    waiting = list(spool.load())
    started = {envelope.token for envelope in waiting if envelope.token == envelope.run}
    runs = dict.fromkeys(envelope.run for envelope in waiting if envelope.run not in started)
    lost = {run for run in runs if tracker is None or _is_lost(run, tracker)}
    return [envelope for envelope in waiting if envelope.run in lost]


def _is_lost(run: str, tracker: Tracker) -> bool:
    if run.startswith(_TOKEN_PREFIX):
        return not any(tracker.find_run(study.experiment_id, run) for study in tracker.studies())
    return bool(tracker.describe_lost_run(run))
