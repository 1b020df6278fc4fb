"""Tests of updates that are divided among devices, for a process that has two; test_replicas.py runs them in one.

By hand: `PYTHONPATH=tests python -m pytest -p two_virtual_cpus tests/training/on_two_devices.py`.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from normalised import NAME, registered
from tensorflow.python.eager import context

from cnnstudy.architectures import find
from cnnstudy.records import Optimizer, TrialSpec
from cnnstudy.training import devices, features, trial
from cnnstudy.training.compiled import CompiledNetworks
from cnnstudy.training.trainer import Trainer
from cnnstudy.training.transfer import apply_phase, plan_phases

from .tries import Tried, tried

MakeSpec = Callable[..., TrialSpec]
DEVICES = devices.list_devices()
#: How far weights may be apart, relative to the largest change among those of their kind; and the rounding of float32.
TOLERANCE, ROUNDING = 1e-4, 2**-22
#: Batches of an even and an odd number of images, and of fewer than there are devices.
BATCHES = [np.arange(8), np.arange(8, 13), np.arange(13, 14)]
#: What changes an update, by case. Half precision rounds to a thousandth.
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "loss": {"label_smoothing": 0.1, "class_weights": "balanced", "augmentation": "strong"},
    "parts": {"micro_batch": 3},
    "float16": {"precision": "mixed_float16"},
    "features": {"transfer": "frozen", "weights_source": "random", "augmentation": "flip"},
    "rates": {"transfer": "fine-tune", "weights_source": "random", "discriminative": 2.0, "batch_norm": "trained"},
    "statistics": {"transfer": "fine-tune", "weights_source": "random", "batch_norm": "frozen"},
}
OWN = """
import keras
from keras import layers

def build(image_size: int) -> keras.Model:
    images = layers.Input((image_size, image_size, 3))
    x = layers.Rescaling(1 / 127.5, -1)(images)
    x = layers.Conv2D(8, 3, 2, "same")(x)
    x = layers.SpatialDropout2D(0.3)(x)
    first = layers.Conv2D(8, 3, 2, use_bias=False)
    inner = [first, layers.BatchNormalization(momentum=0.8), layers.ReLU(), layers.Dropout(0.2)]
    x = keras.Sequential(inner, name="middle")(x)
    x = layers.Dropout(0.2, noise_shape=(None, 1, 1, 1))(x)
    x = layers.BatchNormalization(axis=1, renorm=True)(x)
    x = layers.GaussianNoise(0.1)(x)
    return keras.Model(images, layers.Dropout(0.2, noise_shape=(1, None, None, None))(x))
"""


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    with registered():
        yield


@contextmanager
def on(names: list[str]) -> Iterator[CompiledNetworks]:
    """Divide updates among these devices."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices, "list_devices", lambda: names)
        yield CompiledNetworks()


def start(spec: TrialSpec, networks: CompiledNetworks) -> Trainer:
    compiled = networks.start(spec)
    phase = plan_phases(spec, dict(compiled.network.architecture.cut_points))[0]
    apply_phase(compiled.network, phase)
    trainer = Trainer(compiled, trial.load_images(spec), spec)
    trainer.start_phase(phase, features.prepare_source(compiled, spec, phase, lambda *_: None).features)
    return trainer


def assert_equal_updates(spec: TrialSpec, tolerance: float) -> None:
    """Check that each update alone is that of one device: the next one starts with the same weights."""
    with on(DEVICES[:1]) as networks:
        alone = start(spec, networks)
    with on(DEVICES) as networks:
        together = start(spec, networks)
    for batch in BATCHES:
        before = alone.compiled.network.training.get_weights()
        together.compiled.network.training.set_weights(before)
        np.testing.assert_allclose(together.update(batch), alone.update(batch), rtol=tolerance, atol=1e-6)
        ours, theirs = (one.compiled.network.training.get_weights() for one in (together, alone))
        changed = 0
        for one, other, start_ in zip(ours, theirs, before, strict=True):
            change = np.abs(other - start_).max()
            changed += change > 0
            np.testing.assert_allclose(one, other, 0, tolerance * change + ROUNDING * np.abs(start_).max())
        assert changed > 1


@pytest.mark.parametrize(
    ("name", "case"),
    [
        *((NAME, case) for case in CASES if case != "parts"),  # where statistics are kept no batch is split
        *(("alexnet", case) for case in ("plain", "parts")),
        ("resnet18", "plain"),
        ("googlenet", "loss"),
    ],
)
def test_an_update_is_that_of_one_device(name: str, case: str, make_spec: MakeSpec) -> None:
    spec = make_spec(
        name, **{"optimizer": Optimizer("sgd", 0.01), "learning_rate": 0.01, "dropout": 0.5, **CASES[case]}
    )
    assert_equal_updates(spec, 2e-2 if case == "float16" else TOLERANCE)


def test_layers_that_look_at_the_whole_batch(make_spec: MakeSpec, tmp_path: Path) -> None:
    (tmp_path / "odd.py").write_text(OWN)
    name = find(f"file:{tmp_path / 'odd.py'}:build").name
    assert_equal_updates(make_spec(name, learning_rate=0.01, dropout=0.5, optimizer=Optimizer("sgd")), TOLERANCE)


def test_several_updates_in_a_call_are_those_of_one_each(make_spec: MakeSpec) -> None:
    spec = make_spec(NAME, dropout=0.5, learning_rate=0.01)
    with on(DEVICES) as networks:
        trainer = start(spec, networks)
        at_once = trainer.update_several(BATCHES)
        weights = trainer.compiled.network.training.get_weights()
        trainer = start(spec, networks)
        np.testing.assert_array_equal(np.stack([trainer.update(batch) for batch in BATCHES]), at_once)
    for one, other in zip(trainer.compiled.network.training.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(one, other)


def test_each_device_computes_half_of_it(make_spec: MakeSpec) -> None:
    with on(DEVICES) as networks:
        trainer = start(make_spec(NAME), networks)
        context.enable_run_metadata()
        trainer.update(BATCHES[0])
        found = context.export_run_metadata()
        context.disable_run_metadata()
    counts = {
        device: Counter(
            node.op
            for function in found.function_graphs
            for graph in function.partition_graphs
            for node in graph.node
            if node.device.endswith(device)
        )
        for device in DEVICES
    }
    first, second = counts.values()
    of_layers = {name for name in first + second if any(kind in name for kind in ("Conv2D", "MatMul", "ReluGrad"))}
    assert len(of_layers) >= 5, first
    assert {name: first[name] for name in of_layers} == {name: second[name] for name in of_layers}
    assert second["ReadVariableOp"] == 0, "weights stay on the first"


def test_a_resumed_trial_is_the_uninterrupted_one(make_spec: MakeSpec, tmp_path: Path) -> None:
    given = {"epochs": 2, "batch_size": 8, "augmentation": "flip", "dropout": 0.5, "checkpoints": "every-epoch"}
    spec = dataclasses.replace(make_spec(NAME, **given), share_epochs=False)

    def run(where: str, killed_in: int = 0) -> Tried:
        return tried(spec, tmp_path / where, killed_in, networks)

    with on(DEVICES) as networks:
        whole = run("whole")
        assert run("killed", killed_in=2).result is None
        resumed = run("resumed")
        assert resumed.trained == [2]
        assert resumed.numbers == whole.numbers
    with on(DEVICES[:1]) as networks:
        alone = run("alone")
    assert whole.result is not None
    assert alone.result is not None
    assert (whole.result.computed_on["replicas"], whole.result.computed_on["xla"]) == ("2", "off")
    assert "replicas" not in alone.result.computed_on
    for ours, theirs in zip(whole.told, alone.told, strict=True):
        assert ours.metrics.keys() == theirs.metrics.keys()
        for metric in ("train/loss", "val/loss", "running/loss", "optimizer/images_seen"):
            np.testing.assert_allclose(ours.metrics[metric], theirs.metrics[metric], rtol=1e-3)
