"""An executor that stops at a time: what waits for its events is interrupted then, once, as by Ctrl-C."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from cnnstudy.execution import Event, Executor, Job

#: From so many whole seeds on, a seed that would not be whole in time is not begun: what is missing of a seed makes the
#: intervals wider, and fewer seeds give no answer.
ENOUGH_SEEDS = 3


@dataclass
class TimeLimit:
    """When jobs are to stop, on the clock, and whether they were stopped for it."""

    at: float = math.inf  # seconds
    clock: Callable[[], float] = time.monotonic
    is_over: bool = False
    reason: str = "The time is over"  # why they were stopped
    _seed: int | None = None  # of the trials under way
    _since: float = 0.0  # when its first trial began
    _whole: int = 0  # seeds that were run
    _longest: float = 0.0  # seconds that one of them took

    def check(self) -> None:
        """Raise KeyboardInterrupt when the time is over, but only once: what ends then may wait for its events.

        Raises:
            KeyboardInterrupt: the time is over.
        """
        if not self.is_over and self.clock() >= self.at:
            self.is_over = True
            raise KeyboardInterrupt

    def begin_trial(self, seed: int) -> None:
        """Note that a trial begins; trials come seed by seed.

        Raises:
            KeyboardInterrupt: it is the first of a seed that would not be whole in time, and enough are.
        """
        now = self.clock()
        if seed == self._seed:
            return
        if self._seed is not None:
            self._whole += 1
            self._longest = max(self._longest, now - self._since)
        self._seed, self._since = seed, now
        if not self.is_over and self._whole >= ENOUGH_SEEDS and now + self._longest > self.at:
            self.is_over, self.reason = True, "Another seed would not be whole in time, and is not begun"
            raise KeyboardInterrupt

    def shorten(self, timeout: float) -> float:
        """Return a timeout that does not outlast the limit."""
        return timeout if self.is_over else max(0.0, min(timeout, self.at - self.clock()))


class TimedExecutor:
    """An Executor that runs jobs on another one until the time is over.

    Args:
        inner: runs the jobs.
        limit: may be set while it runs.
    """

    def __init__(self, inner: Executor, limit: TimeLimit) -> None:
        self._inner = inner
        self._limit = limit
        self.slots = inner.slots

    @property
    def deterministic(self) -> bool:
        """Whether results must be bit-identical, as for `Executor`."""
        return self._inner.deterministic

    @deterministic.setter
    def deterministic(self, value: bool) -> None:
        self._inner.deterministic = value

    def start_ahead(self, job: Job) -> None:
        """Start a worker and this job early."""
        self._inner.start_ahead(job)

    def submit(self, job: Job) -> None:
        """Start a job.

        Raises:
            KeyboardInterrupt: as `TimeLimit.begin_trial`.
        """
        if job.kind == "run_trial":
            self._limit.begin_trial(job.payload["seed"])
        self._inner.submit(job)

    def next_event(self, timeout: float) -> Event | None:
        """Return the next event, or None after `timeout` seconds without one, or when the time is over.

        Raises:
            KeyboardInterrupt: the time is over; not again afterwards.
        """
        self._limit.check()
        return self._inner.next_event(self._limit.shorten(timeout))

    def answer(self, key: str, go_on: bool) -> None:
        """Answer the Epoch event of a job that asks."""
        self._inner.answer(key, go_on)

    def stop(self, key: str) -> str:
        """End a job that hangs."""
        return self._inner.stop(key)

    def close(self) -> None:
        """End all workers now."""
        self._inner.close()
