"""Run one job to its end, and find jobs that hang; also the jobs that come before a study's trials."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cnnstudy import errors
from cnnstudy.config.schema import StudyConfig, Weights
from cnnstudy.config.transfer_modes import needs_built_network, starts_from_source
from cnnstudy.data.datasets import DataOptions
from cnnstudy.errors import WorkerError
from cnnstudy.execution import Alive, Done, Epoch, Executor, Failed, Job, Progress, Waiting
from cnnstudy.records import EpochRecord, plain_name
from cnnstudy.system.display import Display
from cnnstudy.system.processes import stop_if_asked

#: Seconds without any event before a worker is considered hung; without training.timeout, an epoch may always take
#: this long.
SILENCE_LIMIT = 600.0
#: An epoch may take this many times as long, per image, as the slowest epoch so far.
SLOWDOWN_LIMIT = 10.0
#: At most this many seconds between two checks count: a driver that checks later was itself busy or suspended.
LONGEST_GAP = 60.0
#: Seconds between two checks for hung workers.
_CHECK_INTERVAL = 10.0

monotonic = time.monotonic


@dataclass
class _Watched:
    kind: str
    images: float
    last_event: float  # seconds on the watchdog's clock
    last_epoch: float  # when the last epoch ended, or the job began


class Watchdog:
    """Finds jobs that hang.

    Args:
        limit: seconds that an epoch may take, instead of the limit derived from the epochs so far.
        clock: returns the time in seconds.
    """

    def __init__(self, limit: float | None = None, clock: Callable[[], float] | None = None) -> None:
        self._limit = limit
        self._clock = clock or monotonic
        self._watched: dict[str, _Watched] = {}
        self._slowest: dict[str, float] = {}  # seconds per image of an epoch, by kind
        self._last_check = self._clock()

    def begin(self, key: str, kind: str = "", images: float = 0.0) -> None:
        """Watch a job that was handed to a worker.

        Args:
            kind: the network; epochs of jobs of the same kind are compared.
            images: that the job trains on in an epoch; 0 if it has no epochs.
        """
        now = self._clock()
        self._watched[key] = _Watched(kind, images, now, now)

    def record_sign_of_life(self, key: str) -> None:
        """Record a sign of life: an event other than the end of an epoch or of the job."""
        if key in self._watched:
            self._watched[key].last_event = self._clock()

    def put_off(self, key: str) -> None:
        """Let the job's time begin now: until now it waited for a machine."""
        if key in self._watched:
            self._watched[key].last_event = self._watched[key].last_epoch = self._clock()

    def end_epoch(self, key: str) -> None:
        """Record the end of an epoch."""
        job, now = self._watched[key], self._clock()
        per_image = (now - job.last_epoch) / max(1.0, job.images)
        self._slowest[job.kind] = max(per_image, self._slowest.get(job.kind, 0.0))
        job.last_event = job.last_epoch = now

    def end(self, key: str) -> None:
        """Stop watching the job."""
        self._watched.pop(key, None)

    def find_hung(self) -> list[tuple[str, str]]:
        """Return the keys of the jobs that hang, each with the reason. Call it only when no event is waiting."""
        now = self._clock()
        away, self._last_check = now - self._last_check, now
        if away > LONGEST_GAP:
            for job in self._watched.values():
                job.last_event = min(now, job.last_event + away - LONGEST_GAP)
                job.last_epoch = min(now, job.last_epoch + away - LONGEST_GAP)
        reasons = ((key, self._overdue_reason(job, now)) for key, job in self._watched.items())
        return [(key, reason) for key, reason in reasons if reason]

    def _overdue_reason(self, job: _Watched, now: float) -> str:
        """Return why the job is considered hung; "" if it is not."""
        if now - job.last_event > SILENCE_LIMIT:
            return f"the worker process gave no sign of life for {SILENCE_LIMIT / 60:g} minutes"
        if job.images and self._limit is not None:
            if now - job.last_epoch > self._limit:
                return f"no epoch ended within {self._limit:g} s, the limit set by training.timeout"
        elif job.images and job.kind in self._slowest:
            limit = max(SILENCE_LIMIT, SLOWDOWN_LIMIT * self._slowest[job.kind] * job.images)
            if now - job.last_epoch > limit:
                return (
                    f"no epoch ended within {limit / 60:.0f} minutes, {SLOWDOWN_LIMIT:g} times the longest of "
                    f"{job.kind} so far; if epochs may take longer, set training.timeout (seconds)"
                )
        return ""


def images_job(config: StudyConfig, options: DataOptions, names: Sequence[str]) -> Job:
    """Return the job that decodes a data set at these networks' image sizes.

    Its result is a list with one entry per size, in ascending order.
    """
    sizes = sorted({config.image_size_of(name) for name in names})
    payload = {"options": options.model_dump(mode="json"), "sizes": sizes, "split_seed": config.seed}
    return Job(f"images-{options.name}", "prepare_images", payload)


def network_job(config: StudyConfig, name: str) -> Job | None:
    """Return the job that builds a network once; None if it is no network of the user's, and no mode needs it built."""
    modes = [mode for mode in config.transfer_modes_of(name) if needs_built_network(mode)]
    if not modes and not name.startswith("file:"):
        return None
    payload = {"architecture": name, "image_size": config.image_size_of(name), "modes": modes}
    return Job(f"network-{plain_name(name)}", "check_network", payload)


def weights_job(config: StudyConfig, name: str, weights: Weights) -> Job:
    """Return the job that loads a network's source weights, which are not pretrained, once."""
    file = str(weights.file) if weights.file else None
    payload = {"architecture": name, "image_size": config.image_size_of(name), "file": file}
    return Job(f"weights-{name}", "check_weights", payload)


def wanted_weights(config: StudyConfig) -> dict[str, Weights]:
    """Return where the source weights come from, of networks that need some."""
    needing = [name for name in config.architectures if any(map(starts_from_source, config.transfer_modes_of(name)))]
    found = {name: config.weights_of(name) for name in needing}
    return {name: weights for name, weights in found.items() if weights is not None}  # checked with the file


def first_job(config: StudyConfig) -> Job:
    """Return the job that comes first in a study, which a worker may start ahead."""
    networks = (job for name in config.architectures if (job := network_job(config, name)) is not None)
    files = (
        weights_job(config, name, weights)
        for name, weights in wanted_weights(config).items()
        if weights.source not in ("pretrain", "random")
    )
    return next(itertools.chain(networks, files), images_job(config, config.data, config.architectures))


def wait_for_event(
    executor: Executor, watchdog: Watchdog, has_room: Callable[[], bool] = lambda: False
) -> Progress | Epoch | Done | Failed | None:
    """Wait for the next event of a running job and return it; a job that hangs is stopped and returned as Failed.

    Signs of life are not returned.

    Args:
        has_room: whether more jobs can run by now; None is then returned.

    Raises:
        KeyboardInterrupt: the command was asked to stop.
    """
    while True:
        stop_if_asked()
        event = executor.next_event(timeout=0)
        if event is None:  # only then is the watchdog up to date
            for key, reason in watchdog.find_hung():
                watchdog.end(key)
                return Failed(key, "timeout", reason, executor.stop(key))
            event = executor.next_event(timeout=_CHECK_INTERVAL)
        if event is None:
            if has_room():
                return None
            continue
        if isinstance(event, Waiting):
            watchdog.put_off(event.key)
            return Progress(event.key, f"waiting for {event.what}", 0, 0)
        if isinstance(event, Epoch) and event.record.epoch:  # epoch 0 ends none
            watchdog.end_epoch(event.key)
        elif isinstance(event, Done | Failed):
            watchdog.end(event.key)
        else:
            watchdog.record_sign_of_life(event.key)
        if not isinstance(event, Alive):
            return event


def run_to_end(
    executor: Executor, job: Job, display: Display, on_epoch: Callable[[EpochRecord], None] = lambda record: None
) -> Done | Failed:
    """Run one job on its own and return its last event; no epoch is pruned.

    Its epochs have no time limit: only silence (SILENCE_LIMIT) ends a job that hangs.

    Args:
        on_epoch: called with the record of each epoch.

    Raises:
        KeyboardInterrupt: the command was asked to stop.
    """
    watchdog = Watchdog()
    executor.submit(job)
    watchdog.begin(job.key)
    while True:
        event = wait_for_event(executor, watchdog)
        if isinstance(event, Progress):
            display.count(event.what, event.done, event.total)
        elif isinstance(event, Epoch):
            if event.asks:
                executor.answer(job.key, True)
            on_epoch(event.record)
        elif isinstance(event, Done | Failed):
            return event


def run_job(executor: Executor, job: Job, display: Display) -> Any:
    """Run one job on its own and return its result.

    Raises:
        CnnstudyError: the error that the job raised on purpose; a WorkerError if it failed in any other way.
        KeyboardInterrupt: the command was asked to stop.
    """
    outcome = run_to_end(executor, job, display)
    if isinstance(outcome, Failed):
        error_class = errors.BY_NAME.get(outcome.error or "", WorkerError)
        detail = "" if outcome.error else f"\n{outcome.traceback}"
        raise error_class(f"{outcome.message}{detail}")
    return outcome.result
