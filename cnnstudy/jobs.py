"""One job by itself, watched to its end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cnnstudy import errors
from cnnstudy.display import Display
from cnnstudy.errors import WorkerError
from cnnstudy.execution import Done, Epoch, Executor, Failed, Job, Progress
from cnnstudy.records import EpochRecord


def watch(
    executor: Executor, job: Job, display: Display, on_epoch: Callable[[EpochRecord], None] = lambda record: None
) -> Done | Failed:
    """Run one job to its end, by itself; its epochs go on."""
    executor.submit(job)
    while True:
        event = executor.next_event(timeout=3600)
        if isinstance(event, Progress):
            display.count(event.what, event.done, event.total)
        elif isinstance(event, Epoch):
            on_epoch(event.record)
            executor.answer(job.key, True)
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
