"""The measurement that an estimate of time rests on."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cnnstudy.records import Speed, TrialSpec
from cnnstudy.training import speed, trial
from cnnstudy.training import trainer as loop
from cnnstudy.training.compiled import CompiledNetworks
from cnnstudy.training.speed import measure_speed

pytestmark = pytest.mark.full_width

MakeSpec = Callable[..., TrialSpec]


@pytest.fixture
def updates(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of images in each update that was made."""
    made: list[int] = []
    original = loop.Trainer.update

    def update(trainer: loop.Trainer, chosen: np.ndarray) -> np.ndarray:
        made.append(len(chosen))
        return original(trainer, chosen)

    monkeypatch.setattr(loop.Trainer, "update", update)
    return made


def test_each_batch_size_is_measured_and_no_other(
    make_spec: MakeSpec, updates: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "SECONDS", 0.0)  # each is timed once
    found = measure_speed(make_spec(batch_size=16), [4, 32])
    assert found.parameters == 5_416_645
    assert found.batch_sizes == (4, 32)
    ((small, large),) = found.seconds_per_update
    assert min(small, large, found.setup_seconds, found.compile_seconds, found.seconds_per_evaluated_image) > 0
    assert updates == [4, 4, 4, 4, 32, 32], "one to compile, one to start, and of each size one to warm up"
    assert Speed.from_json(json.loads(json.dumps(found.to_json()))).batch_sizes == (4, 32)


def test_short_updates_are_timed_as_training_makes_them(make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    original = loop.Trainer.update_several

    def several(trainer: loop.Trainer, batches: Sequence[np.ndarray]) -> np.ndarray:
        calls.append(len(batches))
        return original(trainer, batches)

    monkeypatch.setattr(loop.Trainer, "update_several", several)
    monkeypatch.setattr(loop, "MAX_CALL_SECONDS", 1e9)
    monkeypatch.setattr(speed, "SECONDS", 0.0)
    found = measure_speed(make_spec(transfer="frozen"), [4])
    assert calls == [1, 1, 1, 1, loop.MAX_UPDATES_PER_CALL]
    assert found.seconds_per_update[0][0] > 0


def test_a_batch_takes_no_more_images_than_there_are(make_spec: MakeSpec, updates: list[int]) -> None:
    measure_speed(make_spec(data_fraction=0.2), [4, 4096])
    assert set(updates) == {4, 10}


def test_two_phases_are_measured_apart(make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = []
    original = loop.Trainer.start_phase

    def start(trainer: loop.Trainer, *given: Any) -> None:
        original(trainer, *given)
        trained.append({layer.name for layer in trainer.compiled.network.logits.layers if layer.trainable_variables})

    monkeypatch.setattr(loop.Trainer, "start_phase", start)
    found = measure_speed(make_spec(transfer="two-phase"), [8])
    assert [len(by_size) for by_size in found.seconds_per_update] == [1, 1]
    assert trained[0] < trained[1]
    assert "conv1" not in trained[0]
    assert "conv1" in trained[1]


def test_it_leaves_nothing_behind_for_the_trial_that_comes_next(make_spec: MakeSpec, tmp_path: Path) -> None:
    spec = make_spec(augmentation="strong", epochs=1)
    alone = trial.run_trial(spec, tmp_path / "alone", lambda record: True)
    networks = CompiledNetworks()
    measure_speed(spec, [8, 32], networks)
    after = trial.run_trial(spec, tmp_path / "after", lambda record: True, networks)
    assert after.summary == alone.summary


def test_features_are_measured_without_making_them(
    make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CNNSTUDY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(speed, "SECONDS", 0.0)
    frozen = measure_speed(make_spec(transfer="frozen", augmentation="flip"), [8])
    whole = measure_speed(make_spec(transfer="frozen", augmentation="strong"), [8])
    assert frozen.extraction_seconds > 0
    assert whole.extraction_seconds == 0
    assert frozen.features_bytes > 0
    assert frozen.features_bytes % (2 * 75 * 4) == 0, "two views of 75 images in float32"
    assert whole.features_bytes == 0
    assert not (tmp_path / "cache" / "features").exists()


def test_what_takes_long_is_timed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(speed, "time", SimpleNamespace(perf_counter=lambda: clock.now))

    def takes(seconds: float) -> tuple[float, int]:
        calls = 0

        def call() -> None:
            nonlocal calls
            calls += 1
            clock.now += seconds

        return speed._time_call(call), calls

    assert takes(0.125) == (0.125, speed.CALLS)
    assert takes(0.5) == (0.5, 2)
    assert takes(30.0) == (30.0, 1)
