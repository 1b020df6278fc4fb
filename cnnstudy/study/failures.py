"""Failed trials and pretraining: which get another attempt, and when the study stops."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from cnnstudy.errors import BY_NAME, RepeatedFailureError, as_sentence
from cnnstudy.execution import Failed
from cnnstudy.records import LOST, OUTSIDE_REASONS
from cnnstudy.tracking.recorded import RecordedRun

#: Errors that every job on this machine would meet: a full disk, a cache that can't be written.
_MACHINE_ERRORS = ("DiskFullError", "CacheError")
#: Failures that another attempt may avoid; a loss that is not finite, or missing images, would occur again.
_RETRYABLE_REASONS = ("crash", "timeout", "oom")
_MAX_ATTEMPTS = 2
#: A trial that loses its machine this many times may be what ends it.
MOST_LOSSES = 20
_ADVICE = {
    "oom": "To use less memory, lower batch_size, image_size or --jobs.",
    "timeout": "If an epoch really takes that long, raise training.timeout, in seconds.",
    "crash": "The traceback is in MLflow, among the run's files, as traceback.txt.",
    **dict.fromkeys(OUTSIDE_REASONS, "`python -m cnnstudy doctor` checks packages, disks and the cache."),
}


def is_machine_error(failed: Failed) -> bool:
    """Return whether no other job could avoid what this one failed with."""
    return failed.error in _MACHINE_ERRORS


def raise_machine_error(failed: Failed) -> None:
    """Raise what a job failed with if no other job could avoid it; once that is mended, the job runs again.

    Raises:
        DiskFullError, CacheError: a disk is full; the cache can't be used.
    """
    if is_machine_error(failed):
        raise BY_NAME[failed.error or ""](f"{failed.key}: {failed.message}")


def count_attempts(recorded: Iterable[RecordedRun]) -> Counter[str]:
    """Count the failed attempts of each trial that were followed by a retry, since a user last asked for one.

    Those whose cause lay outside the trial do not count.
    """
    attempts: Counter[str] = Counter()
    for run in recorded:
        own = run.retried and run.reason not in OUTSIDE_REASONS
        attempts[run.trial] = 0 if run.retry_asked else attempts[run.trial] + own
    return attempts


class FailureCounter:
    """Counts a driver's failed trials; decides which are retried, and when the study stops.

    Args:
        attempts: by trial, the failed attempts before this driver.
        most_alike: stop after this many consecutive identical failures.
    """

    def __init__(self, attempts: Counter[str], most_alike: int) -> None:
        self._attempts = attempts
        self._most_alike = most_alike
        self._out_of_memory: set[str] = set()  # trials whose last attempt ran out of memory
        self._losses: Counter[str] = Counter()  # by trial, of its machine
        self._last: tuple[str, str] | None = None
        self._in_a_row = 0

    def next_attempt(self, key: str) -> int:
        """Return the number of the trial's next attempt, from 1."""
        return self._attempts[key] + 1

    def take_retry(self, failed: Failed) -> bool:
        """Return whether the trial gets another attempt, and count it.

        Errors raised on purpose are not retried: they would occur again. A failure whose cause lies outside the trial
        is not counted; `count` stops the study if it lasts.
        """
        if failed.reason in OUTSIDE_REASONS:
            return True
        may_succeed = failed.reason in _RETRYABLE_REASONS and failed.error is None
        again = may_succeed and self.next_attempt(failed.key) < _MAX_ATTEMPTS
        self._attempts[failed.key] += again
        # a worker killed from outside may have had a batch that fits: its retry keeps the batch, for identical numbers
        if failed.reason == "oom" and not failed.is_guess:
            self._out_of_memory.add(failed.key)
        return again

    def micro_batch(self, key: str, batch: int) -> int | None:
        """Return half the batch size if the trial's last attempt ran out of memory; None: train whole batches."""
        return max(1, batch // 2) if key in self._out_of_memory else None

    def reset(self) -> None:
        """Forget the consecutive failures: a trial has finished."""
        self._last, self._in_a_row = None, 0

    def count(self, failed: Failed) -> None:
        """Count a trial that failed for good, or for a cause outside of it.

        A diverged trial is an answer to the study's question: it never stops the study. Neither does a lost machine,
        unless one trial loses MOST_LOSSES of them.

        Raises:
            RepeatedFailureError: as many trials in a row as are allowed failed for the same reason and with the same
                message, numbers aside; or a trial lost too many machines.
        """
        if failed.reason == LOST:
            self._losses[failed.key] += 1
            if self._losses[failed.key] >= MOST_LOSSES:
                raise RepeatedFailureError(
                    f"{failed.key} has lost its machine {MOST_LOSSES} times, the last time: "
                    f"{as_sentence(failed.message)} It may be what ends them, for lack of memory for example. The "
                    "study was stopped. Everything is recorded; the same command resumes the study."
                )
            return
        if failed.reason == "diverged":
            self.reset()
            return
        message, outside = failed.message.split("\n")[0], failed.reason in OUTSIDE_REASONS
        # one cause outside the trials may lead to various messages
        alike = (failed.reason, "" if outside else re.sub(r"0x[0-9a-f]+|\d+", "#", message))
        self._in_a_row = self._in_a_row + 1 if alike == self._last else 1
        self._last = alike
        if self._in_a_row >= self._most_alike:
            if outside:
                row = f"{self._in_a_row} attempts in a row failed for a cause outside the trials"
                resumes = "the study; none of its trials has used up an attempt."
            else:
                row = f"{self._in_a_row} trials in a row failed alike"
                resumes = "the study with the remaining trials, and with --retry-failed runs these again, too."
            raise RepeatedFailureError(
                f"{row} ({failed.reason}), the last one {failed.key}: {as_sentence(message)} The study was stopped. "
                f"{_ADVICE.get(failed.reason, '')} Everything is recorded; the same command resumes {resumes}"
            )
