"""Trials that fail: which run once more, and when so many failed alike that the study had better stop; and those that
would have failed for want of memory."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from cnnstudy.errors import RepeatedFailureError
from cnnstudy.execution import Failed
from cnnstudy.records import RecordedRun, TrialResult

#: Another try may end otherwise; a loss that is not finite, or images that are gone, would be so again.
WORTH_ANOTHER_TRY = ("crash", "timeout", "oom")
MOST_ATTEMPTS = 2
_ADVICE = {
    "oom": "Smaller batch_size or image_size, or fewer --jobs, take less memory.",
    "timeout": "Where an epoch takes that long by right, training.timeout gives the seconds that it may take.",
    "crash": "The traceback is among the run's files in MLflow, as traceback.txt.",
    "data": "`python -m cnnstudy doctor` looks at the cache.",
}


def attempts_of(recorded: Iterable[RecordedRun]) -> Counter[str]:
    """By trial, how many of its runs failed and did not count."""
    return Counter(run.trial for run in recorded if run.retried)


class Failures:
    """Counts them, for one driver.

    Args:
        attempts: by trial, how many runs failed before and did not count.
        most_alike: so many in a row stop the study.
    """

    def __init__(self, attempts: Counter[str], most_alike: int) -> None:
        self._attempts = attempts
        self._most_alike = most_alike
        self._out_of_memory: set[str] = set()  # trials whose last try ended so
        self._last: tuple[str, str] | None = None
        self._in_a_row = 0

    def attempt(self, key: str) -> int:
        """Which try of the trial the next one is, from 1."""
        return self._attempts[key] + 1

    def runs_again(self, failed: Failed) -> bool:
        """Whether the trial has another try; it is taken then.

        What was raised on purpose is said of the trial, and holds in the next try too.
        """
        again = failed.reason in WORTH_ANOTHER_TRY and failed.error is None and self.attempt(failed.key) < MOST_ATTEMPTS
        self._attempts[failed.key] += again
        # a worker that was killed from outside may have had a batch that fits: its next try comes to the same numbers
        if failed.reason == "oom" and "killed by signal" not in failed.message:
            self._out_of_memory.add(failed.key)
        return again

    def micro_batch(self, key: str, batch: int) -> int | None:
        """Images at once in the trial's next try: half a batch after one that ran out of memory; None: a batch."""
        return max(1, batch // 2) if key in self._out_of_memory else None

    def ended_well(self) -> None:
        """A trial came to its end: the row of failures is broken."""
        self._last, self._in_a_row = None, 0

    def count(self, failed: Failed) -> None:
        """A trial failed for good.

        Raises:
            RepeatedFailureError: it is one in a row that failed alike. A loss that is not finite is an answer to what
                the study asks, and never stops it.
        """
        if failed.reason == "diverged":
            self.ended_well()
            return
        message = failed.message.split("\n")[0]
        alike = (failed.reason, re.sub(r"0x[0-9a-f]+|\d+", "#", message))
        self._in_a_row = self._in_a_row + 1 if alike == self._last else 1
        self._last = alike
        if self._in_a_row >= self._most_alike:
            raise RepeatedFailureError(
                f"{self._in_a_row} trials in a row failed alike ({failed.reason}), {failed.key} the last: {message}. "
                f"The study was stopped. {_ADVICE.get(failed.reason, '')} All is recorded; the same command goes on "
                "with the trials that are left."
            )


def short_of_memory(result: TrialResult) -> str:
    """What became of a trial whose batches did not fit into memory."""
    said = []
    if result.micro_batch:
        said.append(
            f"each batch that is larger was trained in parts of at most {result.micro_batch} images, their gradients "
            "added up: the update of the whole batch, but for what dropout and augmentation draw"
        )
    if result.evaluation_batch:
        said.append(f"at most {result.evaluation_batch} images at once were evaluated")
    return f"the memory did not suffice for whole batches; {', and '.join(said)}."
