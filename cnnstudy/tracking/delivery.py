"""Send records to MLflow in order, in a thread of their own; store on disk those that have to wait."""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TypeVar

from cnnstudy.errors import DiskFullError, LostRunError, TrackingError, TrackingUnavailableError, as_sentence
from cnnstudy.system.processes import defer_interrupt
from cnnstudy.tracking.retry import RetryPolicy
from cnnstudy.tracking.spool import Envelope, Spool

Value = TypeVar("Value")

#: A wait that takes so many seconds longer than it was to take is not MLflow's: this process stood still.
_STOOD_STILL = 5.0


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
                    self._wait_for_record(lambda: pending.ended or self._unavailable is not None)
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
            TrackingUnavailableError: MLflow is unavailable for longer than the retry policy's `give_up_after`.
            TrackingError: MLflow rejects a record.
            DiskFullError: there is no space.
        """
        left = list(self._spool.load())
        if left:
            self._say(f"sending {_records(len(left))} that an earlier run stored for MLflow in {self._spool.folder}")
        for count, envelope in enumerate(left):
            try:
                self._retry_policy.call(functools.partial(self._apply, envelope, True), self._say)
            except TrackingError as error:
                raise self._with_advice(error, len(left) - count) from error
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

        def waiting() -> str:
            return f"{as_sentence(self._unavailable or 'MLflow is slow')} Waiting with {_records(len(self._queue))}"

        with self._retry_policy.saying(waiting, self._say), self._changed:
            try:
                self._changed.wait_for(lambda: not self._queue or self._fatal, self._retry_policy.give_up_after)
            finally:
                self._store_what_fits()
            self._raise_fatal()
            if self._queue:
                slow = TrackingUnavailableError("MLflow is slow")
                raise self._with_advice(self._unavailable or slow, len(self._queue))

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

    def _wait_for_record(self, ended: Callable[[], bool]) -> None:
        """Wait as long as for one record; once more if this process itself stood still, as on a laptop that slept."""
        began = time.monotonic()
        if self._changed.wait_for(ended, self._retry_policy.wait_per_record):
            return
        if time.monotonic() - began > self._retry_policy.wait_per_record + _STOOD_STILL:
            self._changed.wait_for(ended, self._retry_policy.wait_per_record)

    def _append(self, pending: _Pending) -> None:
        self._queue.append(pending)
        if self._thread is None and self._fatal is None:
            with defer_interrupt():  # a thread that is known has started
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
            raise self._with_advice(self._fatal, len(self._queue)) from self._fatal
        if self._fatal is not None:
            raise self._fatal

    def _announce_waiting(self) -> None:
        """Tell the user once per outage that records wait, and why; once per study that MLflow is slow.

        Nothing of a full disk, which stops the study: `raise_if_disk_full` tells of it.
        """
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

    def _with_advice(self, error: TrackingError, count: int) -> TrackingError:
        """Return the error with what to do about the records that wait."""
        advice = "run the same command to send them first and continue. To discard them, delete that folder"
        if isinstance(error, LostRunError):
            advice = (
                "once that is done, the same command sends them first and continues. If it can't be done, `python -m "
                "cnnstudy doctor --repair` sets the records of such runs aside, and the same command goes on without "
                "them"
            )
        return type(error)(f"{as_sentence(error)} {self._describe_stored(count)}; {advice}.")


def _records(count: int) -> str:
    return f"{count} record{'' if count == 1 else 's'}"
