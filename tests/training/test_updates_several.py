"""Several updates per call: the numbers are equal to the last bit, however updates are grouped into calls."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cnnstudy.records import EpochRecord, TrialResult, TrialSpec
from cnnstudy.training import trainer, trial
from cnnstudy.training.updates import MAX_UPDATES_PER_CALL, Update

from .tries import shared_networks

MakeSpec = Callable[..., TrialSpec]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Return a list that collects the batch sizes of each call."""
    made: list[list[int]] = []
    original = Update.__call__

    def call(update: Update, inputs: Any, labels: Any, sizes: list[int]) -> np.ndarray:
        made.append(list(sizes))
        return original(update, inputs, labels, sizes)

    monkeypatch.setattr(Update, "__call__", call)
    return made


@pytest.fixture
def no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let updates take no time, so that only the specification ends a call."""
    monkeypatch.setattr(
        trainer.Trainer, "_seconds", property(lambda self: 1e-9, lambda self, value: None), raising=False
    )


def run(spec: TrialSpec, folder: Path) -> tuple[TrialResult, list[dict[str, float]]]:
    records: list[EpochRecord] = []
    result = trial.run_trial(spec, folder, lambda record: not records.append(record), shared_networks())
    return result, [{name: of for name, of in one.metrics.items() if "time/" not in name} for one in records]


@pytest.mark.parametrize(
    "given",
    [
        {"augmentation": "strong", "equal_updates": 9},
        {"updates": 12},
        {"architecture": "googlenet", "dropout": 0.3},
        {"transfer": "frozen", "weights_source": "random", "augmentation": "flip", "dropout": 0.3},
        {"transfer": "two-phase", "weights_source": "random", "epochs": 3},
        {"precision": "mixed_float16"},
        {"protocol": "legacy"},
    ],
    ids=["images", "ends within an epoch", "auxiliary heads", "features", "two phases", "float16", "legacy"],
)
def test_the_number_of_calls_changes_nothing(
    given: dict[str, Any],
    make_spec: MakeSpec,
    calls: list[list[int]],
    no_time: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = make_spec(**{"batch_size": 8, "learning_rate": 1e-4, "keep_model": False, "xla": False, **given})
    together, epochs = run(spec, tmp_path / "together")
    of_together = calls[:]
    calls.clear()
    monkeypatch.setattr(trainer, "MAX_UPDATES_PER_CALL", 1)
    alone, expected = run(spec, tmp_path / "alone")
    assert epochs == expected
    assert (together.summary, together.final) == (alone.summary, alone.final)
    assert all(len(sizes) == 1 for sizes in calls)
    assert len(of_together) < len(calls)
    assert list(itertools.chain(*of_together)) == list(itertools.chain(*calls))


def test_a_call_ends_where_something_is_measured(
    make_spec: MakeSpec, calls: list[list[int]], no_time: None, tmp_path: Path
) -> None:
    """50 images in batches of 8: seven updates an epoch."""
    run(make_spec(batch_size=8, equal_updates=9, updates=12, keep_model=False), tmp_path)
    assert calls == [[8] * 6 + [2], [8] * 2, [8] * 3]


def test_a_call_has_no_more_than_so_many_updates_bytes_and_seconds(
    make_spec: MakeSpec, calls: list[list[int]], no_time: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec(batch_size=1, epochs=1, keep_model=False)
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "MAX_UPDATES_PER_CALL", 20)
        run(spec, tmp_path / "updates")
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "MAX_CALL_BYTES", 30 * 64 * 64 * 3)
        run(spec, tmp_path / "bytes")
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "MAX_CALL_BYTES", 1)
        patch.setattr(trainer, "MAX_UPDATES_PER_CALL", 2)
        run(spec, tmp_path / "one")
    assert [len(sizes) for sizes in calls] == [20, 20, 10, 30, 20, *[1] * 50]
    calls.clear()
    monkeypatch.setattr(trainer.Trainer, "_seconds", property(lambda self: 0.03, lambda self, value: None))
    run(spec, tmp_path / "seconds")
    assert [len(sizes) for sizes in calls] == [8] * 6 + [2]  # of a quarter of a second
    assert MAX_UPDATES_PER_CALL >= 20


def test_how_long_an_update_takes_is_seen_from_the_first_one_on(
    make_spec: MakeSpec, calls: list[list[int]], tmp_path: Path
) -> None:
    spec = make_spec(transfer="two-phase", weights_source="random", batch_size=8, epochs=2, keep_model=False)
    run(spec, tmp_path)
    assert calls[0] == [8], "the first call compiles"
    assert sum(map(sum, calls)) == 2 * 50
