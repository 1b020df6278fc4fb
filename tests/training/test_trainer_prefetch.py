"""Prefetching changes no result, whatever the device."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from cnnstudy.records import TrialSpec
from cnnstudy.training import devices, graph, trainer, trial
from cnnstudy.training.trainer import prefetch_one

MakeSpec = Callable[..., TrialSpec]


def batch_of(item: int) -> tuple[np.ndarray, np.ndarray]:
    return np.full(3, item, np.uint8), np.array([item])


@pytest.mark.parametrize("device", [None, "CPU:0"])
@pytest.mark.parametrize("count", [0, 1, 5])
def test_each_item_comes_with_its_batch_in_order(device: str | None, count: int) -> None:
    found = list(prefetch_one(range(count), batch_of, device))
    assert [item for item, _ in found] == list(range(count))
    for item, batch in found:
        for one, other in zip(batch, batch_of(item), strict=True):
            assert np.array_equal(one, other)
            assert isinstance(one, np.ndarray if device is None else tf.Tensor)


def test_the_next_batch_is_made_while_one_is_used() -> None:
    made, threads = [], set()

    def slow(item: int) -> tuple[np.ndarray, ...]:
        made.append(item)
        threads.add(threading.current_thread().name)
        return batch_of(item)

    batches = prefetch_one(range(4), slow, "CPU:0")
    for item in range(3):
        assert next(batches)[0] == item
        assert made[: item + 1] == list(range(item + 1))
        assert len(made) <= item + 2, "never more than one ahead"
    batches.close()
    assert all(name.startswith("prefetching") for name in threads)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("prefetching")]


def test_nothing_is_made_ahead_without_a_device() -> None:
    made: list[int] = []
    batches = prefetch_one(range(4), lambda item: (made.append(item), *batch_of(item))[1:], None)
    next(batches)
    assert made == [0]


def test_an_error_of_a_batch_is_raised_where_it_is_asked_for() -> None:
    def broken(item: int) -> tuple[np.ndarray, ...]:
        if item == 1:
            raise OSError("gone")
        return batch_of(item)

    batches = prefetch_one(range(3), broken, "CPU:0")
    assert next(batches)[0] == 0
    with pytest.raises(OSError, match="gone"):
        next(batches)


@pytest.mark.parametrize(
    "error",
    [
        tf.errors.ResourceExhaustedError(None, None, "no memory"),
        tf.errors.InternalError(None, None, "_EagerConst: Dst tensor is not initialized."),
    ],
)
def test_a_batch_that_the_device_has_no_memory_for_stays_where_it_is(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(array: np.ndarray) -> tf.Tensor:
        raise error

    monkeypatch.setattr(trainer.tf, "constant", refuse)
    ((_, batch),) = prefetch_one([7], batch_of, "CPU:0")
    assert isinstance(batch[0], np.ndarray)


@pytest.mark.parametrize(
    "given",
    [
        {"augmentation": "flip", "equal_updates": 3},
        {"updates": 5, "micro_batch": 4},
        {"transfer": "frozen", "weights_source": "random", "augmentation": "flip"},
    ],
    ids=["images", "ends within an epoch", "features"],
)
def test_a_trial_is_the_same_with_batches_ahead(
    given: dict[str, object], make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec(batch_size=16, learning_rate=1e-4, keep_model=False, xla=False, **given)
    alone = trial.run_trial(spec, tmp_path / "alone", lambda record: True)
    used = []

    def spy(items: Iterator[list[np.ndarray]], batch_of: object, device: str | None) -> Iterator[object]:
        for item, batch in prefetch_one(items, batch_of, device):  # type: ignore[arg-type]
            used.extend([type(batch[0])] * len(item))
            yield item, batch

    monkeypatch.setattr(trainer, "prefetch_one", spy)
    monkeypatch.setattr(devices, "gpu_name", lambda: "CPU:0")
    monkeypatch.setattr(graph, "devices", SimpleNamespace(gpu_name=lambda: None))  # nothing else is as on a GPU
    ahead = trial.run_trial(spec, tmp_path / "ahead", lambda record: True)
    assert ahead.summary == alone.summary
    assert ahead.final == alone.final
    assert all(issubclass(one, tf.Tensor) for one in used)
    assert len(used) == (spec.updates or 8)
