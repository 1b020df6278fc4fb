"""Writes on their way to MLflow, in order: at once while it answers, else from disk, again and again."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable
from typing import TypeVar

from cnnstudy.errors import DiskFullError, TrackingError, TrackingUnavailableError, sentence
from cnnstudy.patience import Patience
from cnnstudy.spool import Envelope, Spool

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
        self, spool: Spool, apply: Callable[[Envelope, bool], str], say: Callable[[str], None], patience: Patience
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
