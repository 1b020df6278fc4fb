"""One job by itself, watched to its end; and the job that comes before all others."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cnnstudy import errors
from cnnstudy.config.schema import StudyConfig
from cnnstudy.data.datasets import DataOptions
from cnnstudy.errors import WorkerError
from cnnstudy.execution import Alive, Done, Epoch, Event, Executor, Failed, Job, Progress
from cnnstudy.records import EpochRecord
from cnnstudy.system.display import Display
from cnnstudy.system.processes import stop_if_asked

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


#: Seconds between two looks at whether the workers get on.
_LOOK = 10.0


def images_job(config: StudyConfig, options: DataOptions, names: Sequence[str]) -> Job:
    """Decode a data set at these networks' image sizes; a result for each size, in ascending order."""
    sizes = sorted({config.size_of(name) for name in names})
    payload = {"options": options.model_dump(mode="json"), "sizes": sizes, "split_seed": config.seed}
    return Job(f"images-{options.name}", "prepare_images", payload)


def next_event(executor: Executor, watchdog: Watchdog) -> Event:
    """The next event of a job under way; of one that does not get on, that it failed. Signs of life are not told."""
    while True:
        stop_if_asked()
        event = executor.next_event(timeout=0)
        if event is None:  # all that was said is heard
            for key, why in watchdog.overdue():
                watchdog.end(key)
                return Failed(key, "timeout", why, executor.stop(key))
            event = executor.next_event(timeout=_LOOK)
        if event is None:
            continue
        if isinstance(event, Epoch):
            watchdog.epoch(event.key)
        elif isinstance(event, Done | Failed):
            watchdog.end(event.key)
        else:
            watchdog.sign(event.key)
        if not isinstance(event, Alive):
            return event


def run_watched(
    executor: Executor, job: Job, display: Display, on_epoch: Callable[[EpochRecord], None] = lambda record: None
) -> Done | Failed:
    """Run one job to its end, by itself; its epochs go on."""
    watchdog = Watchdog()
    executor.submit(job)
    watchdog.begin(job.key, job.key)
    while True:
        event = next_event(executor, watchdog)
        if isinstance(event, Progress):
            display.count(event.what, event.done, event.total)
        elif isinstance(event, Epoch):
            if event.asks:
                executor.answer(job.key, True)
            on_epoch(event.record)
        elif isinstance(event, Done | Failed):
            return event


def run_job(executor: Executor, job: Job, display: Display) -> Any:
    """The result of a job without which nothing goes on.

    Raises:
        CnnstudyError: what the job raised on purpose; a WorkerError where it ended otherwise.
    """
    outcome = run_watched(executor, job, display)
    if isinstance(outcome, Failed):
        kind = errors.BY_NAME.get(outcome.error or "", WorkerError)
        detail = "" if outcome.error else f"\n{outcome.traceback}"
        raise kind(f"{outcome.message}{detail}")
    return outcome.result
