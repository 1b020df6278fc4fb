"""Write a study's records to MLflow: each once, in order and with its time, whether MLflow is available or not.

While MLflow is available, a write returns when it is done. When it is not (a locked or read-only database; a server
that is down, slow or restarting), records are stored on disk, the study continues, and Delivery sends them later. What
has not been sent when a run ends, the next run sends first.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from cnnstudy.errors import DiskFullError, TrackingError, TrackingUnavailableError, as_sentence
from cnnstudy.names import Tag
from cnnstudy.records import INTERRUPTED
from cnnstudy.system.files import hardlink_tree
from cnnstudy.system.scratch import Scratch
from cnnstudy.tracking import operations
from cnnstudy.tracking.client import Tracker
from cnnstudy.tracking.operations import (
    Attempt,
    EndRun,
    LogFiles,
    LogMetrics,
    LogModel,
    Operation,
    SetTags,
    StartRun,
    current_time,
)
from cnnstudy.tracking.recorded import RecordedStudy, tag_filter
from cnnstudy.tracking.retry import RetryPolicy
from cnnstudy.tracking.spool import Envelope, Spool, spool_folder_for

_TOKEN_PREFIX = "token-"
#: Kinds of runs of which only one counts for each trial.
_ONE_PER_TRIAL = ("trial", "confirm")

Value = TypeVar("Value")


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
    ) -> None:
        writer = _Writer(tracker, study, say, check)
        self.delivery = Delivery(Spool(study.name, tracker.uri), writer.apply, say, retry_policy or RetryPolicy())
        self._scratch: Scratch | None = None
        self._open_runs: dict[str, None] = {}  # started here and not ended

    def start_run(self, run: StartRun) -> str:
        """Start a run; return its id or token."""
        token = _TOKEN_PREFIX + uuid.uuid4().hex
        self._open_runs[token] = None
        name = self.delivery.put(_envelope(token, run, token)) or token
        del self._open_runs[token]
        self._open_runs[name] = None
        return name

    def write(self, run: str, operation: LogMetrics | SetTags | LogFiles | LogModel | EndRun) -> None:
        """Carry out an operation on the run; afterwards the caller may remove the operation's folder."""
        token, files = "", None
        if isinstance(operation, LogModel):
            token = uuid.uuid4().hex
        if isinstance(operation, LogModel | LogFiles):
            files = self._link_files(operation.folder)
        self.delivery.put(_envelope(run, operation, token, files))
        if isinstance(operation, EndRun):
            self._open_runs.pop(run, None)

    def leave(self, run: str, end: EndRun) -> None:
        """Store the end of a run on disk, even after an error; for a driver that is about to stop."""
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

    def apply(self, envelope: Envelope, again: bool) -> str:
        """Carry out a write; return the id of the run or the address of the model that it creates, otherwise "".

        Args:
            again: the write may have been carried out before.
        """
        operation, experiment = _operation_in(envelope), self._study.experiment_id
        attempt = Attempt(envelope.at, envelope.token, again)
        if not isinstance(operation, LogMetrics):
            self._check()
        if isinstance(operation, StartRun):
            started = self._run_ids[envelope.token] = self._tracker.write(operation, experiment, "", attempt)
            if again:
                self._give_up_if_another_ended(operation, started, envelope.at)
            return started
        run_id = self._find_run_id(envelope.run)
        if run_id is None and isinstance(operation, EndRun):  # its start could not be stored: there is nothing to end
            return ""
        if run_id is None:
            raise TrackingError(f"MLflow has no run with the tag {Tag.TOKEN} = {envelope.run}; it was deleted.")
        if again and self._is_given_up(operation, run_id):
            return ""
        return self._tracker.write(operation, experiment, run_id, attempt)

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


class _Pending:
    """A write on its way."""

    def __init__(self, envelope: Envelope) -> None:
        self.envelope = envelope
        self.waited_for = False
        self.failures = 0
        self.result: str | None = None  # "" is a result too
        self.error: BaseException | None = None

    @property
    def ended(self) -> bool:
        return self.result is not None or self.error is not None


class Delivery:
    """Carries out writes in order, in a thread that lives while there are any; stores on disk those that have to wait.

    Args:
        apply: carries out a write and returns its result; its second argument says whether the write may have been
            carried out before.
        say: receives messages for the user.
        policy: how long to wait for MLflow.
    """

    def __init__(
        self, spool: Spool, apply: Callable[[Envelope, bool], str], say: Callable[[str], None], policy: RetryPolicy
    ) -> None:
        self._spool, self._apply, self._say, self._retry_policy = spool, apply, say, policy
        self._changed = threading.Condition()  # guards everything below
        self._queue: deque[_Pending] = deque()
        self._thread: threading.Thread | None = None
        self._storing = False  # new writes are stored on disk
        self._unavailable: TrackingUnavailableError | None = None  # why MLflow is unavailable
        self._fatal: BaseException | None = None  # why nothing more is sent
        self._disk_full: Exception | None = None
        self._closing = self._retry_now = False
        self._stored_count = 0  # records that had to wait since MLflow was last available
        self._announced = self._announced_slow = False  # the user knows that records wait

    @property
    def has_pending(self) -> bool:
        """Return whether there are records that MLflow does not have."""
        with self._changed:
            return bool(self._queue)

    def put(self, envelope: Envelope) -> str | None:
        """Carry out the write now and return its result; return None if it was stored on disk instead.

        Raises:
            TrackingError: MLflow rejects the record, or rejected one that had been waiting.
            DiskFullError: there is no space to store the record.
        """
        pending = _Pending(envelope)
        with self._changed:
            self._raise_fatal()
            self._append(pending)
            if not self._storing:
                pending.waited_for = True
                try:
                    self._changed.wait_for(
                        lambda: pending.ended or self._unavailable, self._retry_policy.wait_per_record
                    )
                finally:
                    pending.waited_for = False
                if pending.error is not None:
                    raise pending.error
                if pending.result is not None:
                    return pending.result
                self._storing = True
            self._store_all()
            self._announce_waiting()
            return None

    def leave(self, envelope: Envelope) -> None:
        """Store the write on disk, even after an error; for a driver that is about to stop."""
        with self._changed:
            self._storing = True
            self._append(_Pending(envelope))
            self._store_what_fits()

    def send_stored(self) -> None:
        """Send the records that an earlier run stored, and reserve disk space for the final ones of this run.

        Raises:
            TrackingError: MLflow rejects a record or is unavailable.
            DiskFullError: there is no space.
        """
        left = list(self._spool.load())
        if left:
            self._say(f"sending {_records(len(left))} that an earlier run stored for MLflow in {self._spool.folder}")
        for count, envelope in enumerate(left):
            try:
                self._apply(envelope, True)
            except TrackingError as error:
                raise type(error)(f"{as_sentence(error)} {self._advice(len(left) - count)}") from error
            self._spool.remove(envelope)
        if left:
            self._say("all of them were sent")
        try:
            self._spool.reserve()
        except OSError as error:
            raise DiskFullError(f"no disk space to store records while MLflow is unavailable: {error}") from error

    def settle(self) -> bool:
        """Wait briefly for the records on their way; return whether all have arrived."""
        with self._changed:
            self._changed.wait_for(lambda: not self._queue or self._stuck(), self._retry_policy.wait_per_record)
            return not self._queue

    def wait(self) -> None:
        """Wait until all records have arrived. However this ends, those that have not are stored on disk.

        Raises:
            TrackingUnavailableError: they have not arrived within the retry policy's `give_up_after`.
            TrackingError: MLflow rejects one.
        """
        if self.settle():
            return
        with self._changed:
            self._raise_fatal()
            self._retry_now = True
            self._changed.notify_all()
        stored = self._describe_stored(len(self._queue))
        self._say(f"waiting for MLflow: {stored}; press Ctrl-C to stop, and the next run sends them")
        with self._changed:
            try:
                self._changed.wait_for(lambda: not self._queue or self._fatal, self._retry_policy.give_up_after)
            finally:
                self._store_what_fits()
            self._raise_fatal()
            if self._queue:
                reason = as_sentence(self._unavailable or "MLflow is slow")
                raise TrackingUnavailableError(f"{reason} {self._advice(len(self._queue))}")

    def read(self, read: Callable[[], Value]) -> Value:
        """Return the result of `read` after all records have arrived, retrying while MLflow is unavailable.

        Raises:
            TrackingUnavailableError: MLflow is unavailable for longer than the retry policy's `give_up_after`.
        """
        self.wait()
        return self._retry_policy.call(read, self._say)

    def raise_if_disk_full(self) -> None:
        """Raise DiskFullError if a disk of this machine is full; all records so far are safe."""
        with self._changed:
            full, count = self._disk_full, len(self._queue)
        if full is not None:
            stored = f" ({self._describe_stored(count)})" if count else ""
            raise DiskFullError(
                f"the disk is full: {as_sentence(full)} Everything recorded so far is safe{stored}; free some space, "
                "then run the same command to continue."
            ) from full

    def close(self) -> None:
        """End the thread; store on disk what has not been sent."""
        with self._changed:
            self._store_what_fits()
            self._closing = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join(self._retry_policy.wait_per_record)
        with self._changed:
            if self._thread is None:  # otherwise it may be reading files; it ends with the process
                for pending in self._queue:
                    self._spool.forget(pending.envelope)
        self._spool.release()

    # ---- in the thread

    def _run(self) -> None:
        while True:
            with self._changed:
                if self._closing or self._fatal is not None or not self._queue:
                    self._thread = None
                    return
                pending = self._queue[0]
            try:
                result = self._apply(pending.envelope, pending.failures > 0)
            except TrackingUnavailableError as error:
                self._on_unavailable(pending, error)
            except BaseException as error:
                self._on_error(pending, error)
            else:
                self._on_done(pending, result)

    def _on_done(self, pending: _Pending, result: str) -> None:
        with self._changed:
            self._queue.popleft()
            self._spool.remove(pending.envelope)
            pending.result = result
            stored, announced = self._stored_count, self._announced
            if not self._queue:
                self._storing, self._unavailable, self._disk_full = False, None, None
                self._stored_count, self._announced = 0, False
            recovered = announced and not self._queue
            self._changed.notify_all()
        if recovered:
            self._say(f"MLflow is available again: sent {_records(stored)} that had been stored")

    def _on_unavailable(self, pending: _Pending, error: TrackingUnavailableError) -> None:
        with self._changed:
            pending.failures += 1
            if pending.failures > 1:
                self._unavailable = error
                self._disk_full = error if error.disk_full else self._disk_full
                self._changed.notify_all()
            pause = self._retry_policy.pause(pending.failures)
            self._changed.wait_for(lambda: self._closing or self._retry_now, pause)
            self._retry_now = False

    def _on_error(self, pending: _Pending, error: BaseException) -> None:
        """Hand the error to the caller that waits for this write; without one, stop sending."""
        with self._changed:
            if pending.waited_for:
                self._queue.popleft()
                self._spool.remove(pending.envelope)
                pending.error = error
            else:
                self._fatal = error
                self._store_what_fits()
            self._changed.notify_all()

    # ---- with the lock held

    def _append(self, pending: _Pending) -> None:
        self._queue.append(pending)
        if self._thread is None and self._fatal is None:
            self._thread = threading.Thread(target=self._run, name="cnnstudy-delivery", daemon=True)
            self._thread.start()

    def _store(self, pending: _Pending) -> None:
        if pending.envelope.number:
            return
        try:
            # the thread may be reading the files of the first
            problem = self._spool.add(pending.envelope, in_use=pending is self._queue[0])
            self._disk_full = problem or self._disk_full
        except OSError as error:
            self._disk_full = error
            raise DiskFullError(f"a record for MLflow can't be stored in {self._spool.folder}: {error}") from error

    def _store_all(self) -> None:
        for pending in self._queue:
            self._store(pending)

    def _store_what_fits(self) -> None:
        with contextlib.suppress(DiskFullError):
            self._store_all()

    def _stuck(self) -> bool:
        return self._unavailable is not None or self._fatal is not None

    def _raise_fatal(self) -> None:
        if isinstance(self._fatal, TrackingError):
            raise TrackingError(f"{as_sentence(self._fatal)} {self._advice(len(self._queue))}") from self._fatal
        if self._fatal is not None:
            raise self._fatal

    def _announce_waiting(self) -> None:
        """Say once per outage that records wait, once per study that MLflow is slow, and nothing of a full disk."""
        self._stored_count += 1
        if self._disk_full or self._announced or (self._announced_slow and self._unavailable is None):
            return
        self._announced, self._announced_slow = True, self._announced_slow or self._unavailable is None
        slow = f"MLflow did not answer within {self._retry_policy.wait_per_record:g} s"
        self._say(
            f"{as_sentence(self._unavailable or slow)} The study continues; its records are stored in "
            f"{self._spool.folder}"
        )

    def _describe_stored(self, count: int) -> str:
        return f"{_records(count)} {'is' if count == 1 else 'are'} stored in {self._spool.folder}"

    def _advice(self, count: int) -> str:
        return (
            f"{self._describe_stored(count)}; run the same command to send them first and continue. To discard them, "
            "delete that folder."
        )


def _records(count: int) -> str:
    return f"{count} record{'' if count == 1 else 's'}"
