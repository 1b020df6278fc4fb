"""Is each worker getting on? One that is not is ended by whoever waits for it, and its job has failed.

Time counts only while the driver looks: neither what it does between two looks nor a night in which all of it was
stopped makes a worker late.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

#: Seconds without any sign of life, and at least for an epoch, before a worker is taken to hang.
PATIENCE = 600.0
#: An epoch may take so many times as long as the longest so far, for each of its images.
SLOWNESS = 10.0
#: Of the seconds in which a driver does not look no more than these count: it was busy or asleep itself.
AWAY = 60.0

monotonic = time.monotonic


@dataclass
class _Watched:
    kind: str
    images: float
    sign: float  # when it gave the last one
    epoch: float  # when it ended the last one, or began


class Watchdog:
    """Watches jobs.

    Args:
        limit: seconds that an epoch may take, in place of what is worked out from the epochs so far.
        clock: tells seconds.
    """

    def __init__(self, limit: float | None = None, clock: Callable[[], float] | None = None) -> None:
        self._limit = limit
        self._clock = clock or monotonic
        self._watched: dict[str, _Watched] = {}
        self._slowest: dict[str, float] = {}  # seconds of an epoch for each image, by kind
        self._looked = self._clock()

    def begin(self, key: str, kind: str = "", images: float = 0.0) -> None:
        """A job was handed to a worker.

        Args:
            kind: of jobs whose epochs can be compared: the network.
            images: that it trains on in an epoch; 0: it has no epochs.
        """
        now = self._clock()
        self._watched[key] = _Watched(kind, images, now, now)

    def sign(self, key: str) -> None:
        """It said something."""
        if key in self._watched:
            self._watched[key].sign = self._clock()

    def epoch(self, key: str) -> None:
        """It ended an epoch."""
        job, now = self._watched[key], self._clock()
        taken = (now - job.epoch) / max(1.0, job.images)
        self._slowest[job.kind] = max(taken, self._slowest.get(job.kind, 0.0))
        job.sign = job.epoch = now

    def end(self, key: str) -> None:
        """It is no longer to be watched."""
        self._watched.pop(key, None)

    def overdue(self) -> list[tuple[str, str]]:
        """The jobs that don't get on, and how that shows. To be asked only when all that they said was heard."""
        now = self._clock()
        away, self._looked = now - self._looked, now
        for job in self._watched.values() if away > AWAY else ():
            job.sign, job.epoch = (min(now, before + away - AWAY) for before in (job.sign, job.epoch))
        late = ((key, self._why_late(job, now)) for key, job in self._watched.items())
        return [(key, why) for key, why in late if why]

    def _why_late(self, job: _Watched, now: float) -> str:
        if now - job.sign > PATIENCE:
            return f"the worker process gave no sign of life for {PATIENCE / 60:g} minutes"
        if job.images and self._limit is not None:
            if now - job.epoch > self._limit:
                return f"no epoch ended within {self._limit:g} s, which is training.timeout"
        elif job.images and job.kind in self._slowest:
            most = max(PATIENCE, SLOWNESS * self._slowest[job.kind] * job.images)
            if now - job.epoch > most:
                return (
                    f"no epoch ended within {most / 60:.0f} minutes, {SLOWNESS:g} times the longest of {job.kind} so "
                    "far; where that is no mistake, training.timeout gives the seconds that an epoch may take"
                )
        return ""
