"""Equal to the last bit, whatever the number of workers, and in every call."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from cnnstudy import architectures
from cnnstudy.datasets.digits import Options
from cnnstudy.execution import Done, Epoch, Failed, Job
from cnnstudy.execution.local import LocalExecutor
from cnnstudy.records import Optimizer, Rule, Split, TrialSpec
from cnnstudy.space import complete_levels
from cnnstudy.training.images import prepare


def metrics(spec: TrialSpec, slots: int, folder: Path) -> list[dict[str, Any]]:
    """Of every epoch, but for the seconds."""
    executor, found = LocalExecutor(slots, folder), []
    executor.deterministic = True
    try:
        executor.submit(Job(spec.key, "run_trial", spec.to_json()))
        while True:
            event = executor.next_event(timeout=120)
            assert event is not None
            assert not isinstance(event, Failed), event
            if isinstance(event, Epoch):
                found.append({name: value for name, value in event.record.metrics.items() if "time/" not in name})
                executor.answer(spec.key, True)
            elif isinstance(event, Done):
                return found
    finally:
        executor.close()


def test_three_calls_with_one_worker_or_two(tmp_path: Path) -> None:
    options = Options(name="digits", classes=(0, 1, 2), images_per_class=12)
    (images,) = prepare(options, [64], 0, lambda *_: None)
    found = architectures.find("alexnet")
    given = {"batch_size": 8, "augmentation": "strong", "dropout": 0.3}
    levels = complete_levels(found.has_auxiliary_heads, found.defaults, lambda factor: given.get(factor.name))
    spec = TrialSpec(
        study="test",
        purpose="trial",
        architecture="alexnet",
        number=0,
        seed=0,
        levels=levels,
        images=images,
        split=Split(options.validation, options.test, 0),
        epochs=3,
        head_epochs=1,
        patience=None,
        rule=Rule(),
        optimizer=Optimizer("adam"),
        weights_source="none",
        weights_file=None,
        keep_model=False,
        deterministic=True,
    )
    first = metrics(spec, 1, tmp_path / "first")
    assert len(first) == 3
    assert first == metrics(spec, 2, tmp_path / "second") == metrics(spec, 1, tmp_path / "third")
    other = dataclasses.replace(spec, seed=1)
    assert metrics(other, 1, tmp_path / "other") != first
