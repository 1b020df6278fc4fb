"""One job by itself, watched to its end; and the job that comes before all others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from cnnstudy import errors
from cnnstudy.datasets import DataOptions
from cnnstudy.display import Display
from cnnstudy.errors import WorkerError
from cnnstudy.execution import Alive, Done, Epoch, Event, Executor, Failed, Job, Progress
from cnnstudy.records import EpochRecord
from cnnstudy.schema import StudyConfig
from cnnstudy.signals import stop_if_asked
from cnnstudy.watchdog import Watchdog

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


def watch(
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


def result_of(executor: Executor, job: Job, display: Display) -> Any:
    """The result of a job without which nothing goes on.

    Raises:
        CnnstudyError: what the job raised on purpose; a WorkerError where it ended otherwise.
    """
    outcome = watch(executor, job, display)
    if isinstance(outcome, Failed):
        kind = errors.BY_NAME.get(outcome.error or "", WorkerError)
        detail = "" if outcome.error else f"\n{outcome.traceback}"
        raise kind(f"{outcome.message}{detail}")
    return outcome.result
