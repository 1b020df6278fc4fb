"""Jobs for executors' tests, and what they need."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cnnstudy import architectures
from cnnstudy.config.factors import complete_levels
from cnnstudy.data.datasets.digits import Options
from cnnstudy.execution import Alive, Done, Epoch, Event, Executor, Failed, Job, Waiting
from cnnstudy.records import Optimizer, PreparedImages, Rule, Split, TrialSpec

PATIENCE = 60  # seconds until an event that does not come is an error
OPTIONS = Options(name="digits", classes=(0, 1), images_per_class=8)
#: Makes an executor with so many slots that leaves files in a folder.
Make = Callable[[int, Path], Executor]


def images_job(key: str = "images", **payload: Any) -> Job:
    whole = {"options": OPTIONS.model_dump(mode="json"), "sizes": [16], "split_seed": 0}
    return Job(key, "prepare_images", {**whole, **payload})


def run(executor: Executor, job: Job, go_on: Callable[[Epoch], bool] = lambda epoch: True) -> list[Event]:
    """All events of a job but signs of life, its epochs answered."""
    executor.submit(job)
    events: list[Event] = []
    while not events or not isinstance(events[-1], Done | Failed):
        event = executor.next_event(PATIENCE)
        assert event is not None, f"no event after {events}"
        assert event.key == job.key
        events += [] if isinstance(event, Alive | Waiting) else [event]
        if isinstance(event, Epoch):
            executor.answer(event.key, go_on(event))
    return events


def small_spec(images: PreparedImages, **changes: Any) -> TrialSpec:
    """Two epochs of the smallest AlexNet on a dozen digits."""
    given = {"batch_size": 8, "learning_rate": 1e-3}
    levels = complete_levels(False, architectures.find("alexnet").defaults, lambda factor: given.get(factor.name))
    spec = TrialSpec(
        study="contract",
        purpose="trial",
        architecture="alexnet",
        number=0,
        seed=0,
        levels=levels,
        images=images,
        split=Split(OPTIONS.validation, OPTIONS.test, 0),
        epochs=2,
        head_epochs=1,
        patience=None,
        rule=Rule("val/accuracy"),
        optimizer=Optimizer("adam"),
        weights_source="none",
        weights_file=None,
    )
    return dataclasses.replace(spec, **changes)


def prepare(executor: Executor) -> PreparedImages:
    """The images of `small_spec`, decoded."""
    done = run(executor, images_job(sizes=[64]))[-1]
    assert isinstance(done, Done)
    return PreparedImages.from_json(done.result[0])


def trial_job(spec: TrialSpec, **changes: Any) -> Job:
    changed = dataclasses.replace(spec, **changes)
    return Job(changed.key, "run_trial", changed.to_json(), asks=True)
