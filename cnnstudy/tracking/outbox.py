"""What a study writes to MLflow: each record once, in order, with its time, whether MLflow answers or not.

While it answers, a write is a call that returns when it is done. Where it does not (a locked or read-only database, a
server that is down, slow or restarting) the records go to disk and whoever writes goes on; Delivery brings them
there later, and the next call does where this one ended before.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from cnnstudy.errors import DiskFullError, TrackingError, TrackingUnavailableError, sentence
from cnnstudy.names import Tag
from cnnstudy.records import INTERRUPTED
from cnnstudy.system.files import hardlink_tree
from cnnstudy.system.scratch import Scratch
from cnnstudy.tracking import operations
from cnnstudy.tracking.client import Tracker
from cnnstudy.tracking.operations import Attempt, EndRun, LogFiles, LogMetrics, LogModel, Operation, SetTags, StartRun
from cnnstudy.tracking.recorded import RecordedStudy
from cnnstudy.tracking.retry import RetryPolicy
from cnnstudy.tracking.spool import Envelope, Spool, spool_folder_for

Answer = TypeVar("Answer")


class _Pending:
    """A write on its way."""

    def __init__(self, envelope: Envelope) -> None:
        self.envelope = envelope
        self.waited_for = False
        self.failures = 0
        self.result: str | None = None  # "" is one, too
        self.error: BaseException | None = None

    @property
    def ended(self) -> bool:
        return self.result is not None or self.error is not None


class Delivery:
    """Apply writes in order, in a thread that lives while there are any; what can't be applied yet waits on disk.

    Args:
        apply: carry out a write and return its result; told whether it may have been done before.
        say: for the user.
    """

    def __init__(
        self, spool: Spool, apply: Callable[[Envelope, bool], str], say: Callable[[str], None], patience: RetryPolicy
    ) -> None:
        self._spool, self._apply, self._say, self._patience = spool, apply, say, patience
        self._changed = threading.Condition()  # over all below
        self._queue: deque[_Pending] = deque()
        self._thread: threading.Thread | None = None
        self._behind = False  # what comes now goes to disk
        self._trouble: TrackingUnavailableError | None = None
        self._halted: BaseException | None = None
        self._full: Exception | None = None
        self._closing = self._hurry = False
        self._late = 0  # records that could not be delivered at once, since the last that could
        self._said = self._said_slow = False  # that records wait

    @property
    def waits(self) -> bool:
        """Whether there is something that MLflow does not have."""
        with self._changed:
            return bool(self._queue)

    def put(self, envelope: Envelope) -> str | None:
        """Carry the write out now and return its result; None where it waits on disk instead.

        Raises:
            TrackingError: MLflow refuses it, or refused one that had been waiting.
            DiskFullError: there is no room for it on disk.
        """
        pending = _Pending(envelope)
        with self._changed:
            self._raise_halted()
            self._append(pending)
            if not self._behind:
                pending.waited_for = True
                try:
                    self._changed.wait_for(lambda: pending.ended or self._trouble, self._patience.answer)
                finally:
                    pending.waited_for = False
                if pending.error is not None:
                    raise pending.error
                if pending.result is not None:
                    return pending.result
                self._behind = True
            self._keep_all()
            self._tell_late()
            return None

    def leave(self, envelope: Envelope) -> None:
        """Put it on disk, whatever happened before: for those who are about to stop."""
        with self._changed:
            self._behind = True
            self._append(_Pending(envelope))
            self._keep_what_fits()

    def deliver_left(self) -> None:
        """Do what an earlier call left, and keep room on the disk for the last words of this one.

        Raises:
            TrackingError: MLflow does not take it.
            DiskFullError: there is no room.
        """
        left = list(self._spool.load())
        if left:
            self._say(f"{_records(len(left))} of an earlier call waited for MLflow in {self._spool.folder}: delivering")
        for count, envelope in enumerate(left):
            try:
                self._apply(envelope, True)
            except TrackingError as error:
                raise type(error)(f"{sentence(error)} {self._hint(len(left) - count)}") from error
            self._spool.remove(envelope)
        if left:
            self._say("all of them have arrived")
        try:
            self._spool.reserve()
        except OSError as error:
            raise DiskFullError(f"there is no room for records that may have to wait for MLflow: {error}") from error

    def settle(self) -> bool:
        """Let what is on its way arrive, if that does not take long; whether everything has."""
        with self._changed:
            self._changed.wait_for(lambda: not self._queue or self._stuck(), self._patience.answer)
            return not self._queue

    def wait(self) -> None:
        """Wait until everything has arrived. What has not when this ends, however it ends, lies on disk.

        Raises:
            TrackingUnavailableError: it has not within `patience.end`.
        """
        if self.settle():
            return
        with self._changed:
            self._raise_halted()
            self._hurry = True
            self._changed.notify_all()
        waiting = self._waiting(len(self._queue))
        self._say(f"waiting for MLflow: {waiting}; Ctrl-C leaves them there, and the next call delivers them")
        with self._changed:
            try:
                self._changed.wait_for(lambda: not self._queue or self._halted, self._patience.end)
            finally:
                self._keep_what_fits()
            self._raise_halted()
            if self._queue:
                reason = sentence(self._trouble or "MLflow is slow")
                raise TrackingUnavailableError(f"{reason} {self._hint(len(self._queue))}")

    def ask(self, read: Callable[[], Answer]) -> Answer:
        """What MLflow answers once everything has arrived; asked again, with pauses, while it does not answer.

        Raises:
            TrackingUnavailableError: it does not within `patience.end`.
        """
        self.wait()
        return self._patience.ask(read, self._say)

    def stop_if_full(self) -> None:
        """Raise DiskFullError where a disk of this machine was found full; what was given here is kept."""
        with self._changed:
            full, waiting = self._full, f" ({self._waiting(len(self._queue))})" if self._queue else ""
        if full is not None:
            raise DiskFullError(
                f"the disk is full: {sentence(full)} Everything recorded so far is kept{waiting}; make room, and the "
                "same command goes on."
            ) from full

    def close(self) -> None:
        """End the thread. What has not arrived lies on disk."""
        with self._changed:
            self._keep_what_fits()
            self._closing = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join(self._patience.answer)
        with self._changed:
            if self._thread is None:  # else it may be reading files; it ends with the process
                for pending in self._queue:
                    self._spool.forget(pending.envelope)
        self._spool.release()

    # ---- the thread

    def _run(self) -> None:
        while True:
            with self._changed:
                if self._closing or self._halted is not None or not self._queue:
                    self._thread = None
                    return
                pending = self._queue[0]
            try:
                result = self._apply(pending.envelope, pending.failures > 0)
            except TrackingUnavailableError as error:
                self._on_trouble(pending, error)
            except BaseException as error:
                self._on_error(pending, error)
            else:
                self._on_done(pending, result)

    def _on_done(self, pending: _Pending, result: str) -> None:
        with self._changed:
            self._queue.popleft()
            self._spool.remove(pending.envelope)
            pending.result = result
            late, said = self._late, self._said
            if not self._queue:
                self._behind, self._trouble, self._full = False, None, None
                self._late, self._said = 0, False
            arrived = said and not self._queue
            self._changed.notify_all()
        if arrived:
            self._say(f"MLflow answers again: {_records(late)} that waited {'has' if late == 1 else 'have'} arrived")

    def _on_trouble(self, pending: _Pending, error: TrackingUnavailableError) -> None:
        with self._changed:
            pending.failures += 1
            if pending.failures > 1:
                self._trouble = error
                self._full = error if error.disk_full else self._full
                self._changed.notify_all()
            self._changed.wait_for(lambda: self._closing or self._hurry, self._patience.pause(pending.failures))
            self._hurry = False

    def _on_error(self, pending: _Pending, error: BaseException) -> None:
        """Whoever waits for it gets the error; else it is for the next who writes, and nothing more is delivered."""
        with self._changed:
            if pending.waited_for:
                self._queue.popleft()
                self._spool.remove(pending.envelope)
                pending.error = error
            else:
                self._halted = error
                self._keep_what_fits()
            self._changed.notify_all()

    # ---- with the lock

    def _append(self, pending: _Pending) -> None:
        self._queue.append(pending)
        if self._thread is None and self._halted is None:
            self._thread = threading.Thread(target=self._run, name="cnnstudy-delivery", daemon=True)
            self._thread.start()

    def _keep(self, pending: _Pending) -> None:
        """On disk; the thread may be reading the files of the first."""
        if pending.envelope.number:
            return
        try:
            self._full = self._spool.add(pending.envelope, in_use=pending is self._queue[0]) or self._full
        except OSError as error:
            self._full = error
            raise DiskFullError(f"a record for MLflow can't be kept in {self._spool.folder}: {error}") from error

    def _keep_all(self) -> None:
        for pending in self._queue:
            self._keep(pending)

    def _keep_what_fits(self) -> None:
        with contextlib.suppress(DiskFullError):
            self._keep_all()

    def _stuck(self) -> bool:
        return self._trouble is not None or self._halted is not None

    def _raise_halted(self) -> None:
        if isinstance(self._halted, TrackingError):
            raise TrackingError(f"{sentence(self._halted)} {self._hint(len(self._queue))}") from self._halted
        if self._halted is not None:
            raise self._halted

    def _tell_late(self) -> None:
        """Say once that records wait, and why; a server that is just slow is worth one sentence a study."""
        self._late += 1
        if self._said or (self._said_slow and self._trouble is None):
            return
        self._said, self._said_slow = True, self._said_slow or self._trouble is None
        reason = sentence(self._trouble or f"MLflow does not answer within {self._patience.answer:g} s")
        self._say(f"{reason} The study goes on; its records wait in {self._spool.folder}")

    def _waiting(self, count: int) -> str:
        return f"{_records(count)} wait{'s' if count == 1 else ''} in {self._spool.folder}"

    def _hint(self, count: int) -> str:
        waiting = self._waiting(count)
        return f"{waiting}; the same command delivers them first, and goes on. To give them up, remove that folder."


def _records(count: int) -> str:
    return f"{count} record{'' if count == 1 else 's'}"


_TOKEN = "token-"
#: Kinds of runs of which one of a trial counts.
_RUN_ONCE = ("trial", "confirm")


class Outbox:
    """Writes to MLflow for one study, with the times.

    A run is named by MLflow's id or, where MLflow did not answer when it was started, by a token that stands for it.
    The token is on the run, and another on a model: where the reply was lost that it was made, it is found, not made
    again.

    Args:
        say: for the user.
        patience: None: the usual one.
        check: called before anything but metrics is written, also late, to raise where that is no longer to be done.

    `delivery` is what is on its way: to wait for it, or to read from MLflow once it has arrived.

    What writes raises:
        TrackingError: MLflow refuses the record, or refused one that had been waiting.
        DiskFullError: there is no room for a record that has to wait.
    """

    def __init__(
        self,
        tracker: Tracker,
        study: RecordedStudy,
        say: Callable[[str], None] = lambda text: None,
        patience: RetryPolicy | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        writer = _Writer(tracker, study, say, check)
        self.delivery = Delivery(Spool(study.name, tracker.uri), writer.apply, say, patience or RetryPolicy())
        self._scratch: Scratch | None = None
        self._open: dict[str, None] = {}  # runs that were started here and not ended

    def start_run(self, run: StartRun) -> str:
        """Start a run, and return what names it."""
        token = _TOKEN + uuid.uuid4().hex
        self._open[token] = None
        name = self.delivery.put(_envelope(token, run, token)) or token
        del self._open[token]
        self._open[name] = None
        return name

    def write(self, run: str, operation: LogMetrics | SetTags | LogFiles | LogModel | EndRun) -> None:
        """Carry out an operation on the run; whoever gave a folder may remove it then."""
        token, files = "", None
        if isinstance(operation, LogModel):
            token = uuid.uuid4().hex
        if isinstance(operation, LogModel | LogFiles):
            files = self._own(operation.folder)
        self.delivery.put(_envelope(run, operation, token, files))
        if isinstance(operation, EndRun):
            self._open.pop(run, None)

    def leave(self, run: str, end: EndRun) -> None:
        """Leave the end of a run on disk, whatever happened before: for those who are about to stop."""
        self.delivery.leave(_envelope(run, end))
        self._open.pop(run, None)

    def leave_interrupted(self, tags: Mapping[str, str]) -> None:
        """Leave the ends of all runs that were started here and not ended."""
        for run in list(self._open):
            self.leave(run, EndRun("failed", tags))

    def close(self) -> None:
        """End the delivery's thread. What has not arrived lies on disk."""
        self.delivery.close()
        if self._scratch is not None:
            self._scratch.close()

    def _own(self, folder: Path) -> Path:
        """A folder with the same files, that nobody else removes."""
        if self._scratch is None:  # nothing lies in it: who holds it has the folders that are named after it
            self._scratch = Scratch()
        own = spool_folder_for(self._scratch)
        try:
            own.mkdir(mode=0o700)  # nobody else's to read while MLflow does not have it
            hardlink_tree(folder, own)
        except OSError as error:
            shutil.rmtree(own, ignore_errors=True)
            raise DiskFullError(f"the files of a trial can't be kept in {own.parent}: {error}") from error
        return own


class _Writer:
    """Carries out what arrives: finds the run that a token stands for, and sees what other drivers did meanwhile."""

    def __init__(
        self, tracker: Tracker, study: RecordedStudy, say: Callable[[str], None], check: Callable[[], None]
    ) -> None:
        self._tracker, self._study, self._say, self._check = tracker, study, say, check
        self._run_ids: dict[str, str] = {}  # by token

    def apply(self, envelope: Envelope, again: bool) -> str:
        """Write it to MLflow, and return the id of the run that it starts or the address of the model that it makes.

        Args:
            again: it may have been written before.
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
        run_id = self._run_id(envelope.run)
        if run_id is None and isinstance(operation, EndRun):  # it never came so far that there is something to end
            return ""
        if run_id is None:
            raise TrackingError(f"MLflow has no run with the tag {Tag.TOKEN} = {envelope.run}; somebody removed it.")
        if again and self._is_given_up(operation, run_id):
            return ""
        return self._tracker.write(operation, experiment, run_id, attempt)

    def _give_up_if_another_ended(self, start: StartRun, run_id: str, at: int) -> None:
        """Mark a run interrupted whose trial another driver has brought to its end before MLflow knew of this one."""
        trial = start.tags.get(Tag.TRIAL)
        if start.tags.get(Tag.KIND) not in _RUN_ONCE:
            return
        same = self._tracker.runs(self._study.experiment_id, f"tags.`{Tag.TRIAL}` = '{trial}'")
        ended = next((run for run in same if run.done and run.kind in _RUN_ONCE and run.run_id != run_id), None)
        if ended is not None:
            message = f"another driver took the study over and ran this trial to its end: run {ended.run_id}"
            self._tracker.end_run(run_id, "failed", {Tag.REASON: INTERRUPTED, Tag.MESSAGE: message}, at)
            self._say(f"{trial}: {message}. The record that waited here does not count")

    def _is_given_up(self, operation: Operation, run_id: str) -> bool:
        """Whether another driver has marked the run interrupted meanwhile: its trial runs again."""
        ends_so = isinstance(operation, EndRun | SetTags) and operation.tags.get(Tag.REASON) == INTERRUPTED
        own = run_id == self._study.run_id or ends_so
        return not own and self._tracker.tags(run_id).get(Tag.REASON) == INTERRUPTED

    def _run_id(self, run: str) -> str | None:
        """MLflow's id of the run; None: it has none."""
        if not run.startswith(_TOKEN):
            return run
        if run not in self._run_ids:
            found = self._tracker.find_run(self._study.experiment_id, run)
            if found is None:
                return None
            self._run_ids[run] = found
        return self._run_ids[run]


def _envelope(run: str, operation: Operation, token: str = "", files: Path | None = None) -> Envelope:
    name, arguments = operations.to_json(operation)
    return Envelope(name, _now(), run, arguments, token, files)


def _operation_in(envelope: Envelope) -> Operation:
    """Raises TrackingError where this version knows no such operation."""
    try:
        return operations.from_json(envelope.what, envelope.arguments, envelope.files)
    except (KeyError, TypeError, AttributeError) as error:
        raise TrackingError(
            f"a record of {envelope.what!r} is none of this version's ({error}); another version left it for MLflow."
        ) from error


def _now() -> int:
    return int(time.time() * 1000)
