"""Updates in half precision on the CPU: slow, but with the numbers that a GPU would give, up to rounding."""

from __future__ import annotations

import dataclasses
import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

from cnnstudy import architectures
from cnnstudy.architectures import names
from cnnstudy.records import EpochRecord, Optimizer, TrialResult, TrialSpec
from cnnstudy.training import devices, model_package, trial
from cnnstudy.training.compiled import CompiledNetwork, CompiledNetworks
from cnnstudy.training.metrics import clean_metrics
from cnnstudy.training.updates import FIRST_SCALE, LossScale, UpdateKind, use_precision

MakeSpec = Callable[..., TrialSpec]
HALVES = ("mixed_float16", "mixed_bfloat16")
#: How far losses (nats) may be from those of float32 after two epochs.
LOSSES = {"mixed_float16": 0.03, "mixed_bfloat16": 0.03}


def run(spec: TrialSpec, folder: Path, networks: CompiledNetworks | None = None) -> tuple[TrialResult, EpochRecord]:
    records: list[EpochRecord] = []
    result = trial.run_trial(spec, folder, lambda record: not records.append(record), networks)
    return result, records[-1]


def saved_weights(result: TrialResult) -> dict[str, bytes]:
    found = {}
    with zipfile.ZipFile(Path(result.files["model"]) / "data" / "model.keras") as archive:
        file = h5py.File(io.BytesIO(archive.read("model.weights.h5")))
        file.visititems(lambda name, one: found.update({name: one[()].tobytes()} if hasattr(one, "shape") else {}))
    return found


# random weights of 50 layers with BatchNormalization learn something else with each rounding
@pytest.mark.parametrize("name", sorted({*names()} - {"resnet50"}))
def test_a_trial_in_half_precision_is_close_to_one_in_float32(name: str, make_spec: MakeSpec, tmp_path: Path) -> None:
    spec = make_spec(name, batch_size=16, learning_rate=1e-4)
    networks = CompiledNetworks()
    alone, last = run(spec, tmp_path / "alone")
    # what differs between the halves is no network's: one has both
    for precision in HALVES if name == "alexnet" else HALVES[:1]:
        half, record = run(dataclasses.replace(spec, precision=precision), tmp_path / precision, networks)
        assert half.verdict == alone.verdict or {half.verdict, alone.verdict} == {"not-learning", "cannot-tell"}
        for metric in ("train/loss", "val/loss", "running/loss"):
            difference = abs(record.metrics[metric] - last.metrics[metric])
            # BatchNormalization divides by what a batch in half precision varies by
            assert difference <= LOSSES[precision] * (2 if architectures.find(name).has_batch_norm else 1), metric
        assert half.summary != alone.summary, "it would be float32"
        assert ("optimizer/skipped_updates" in record.metrics) == (precision == "mixed_float16")
        model = model_package.load_saved_model(Path(half.files["model"]) / "data" / "model.keras")
        assert {layer.compute_dtype for layer in model.layers} == {"float32"}
        validation = trial.load_images(spec).validation
        measured = clean_metrics(np.log(model.predict_on_batch(validation.pixels[:])), validation.labels)
        assert measured["loss"] == pytest.approx(half.summary["val/loss"], abs=1e-5), "what is saved was measured"
    warm, _ = run(spec, tmp_path / "warm", networks)
    assert warm.summary == alone.summary
    assert saved_weights(warm) == saved_weights(alone)


@pytest.mark.parametrize("name", names())
def test_layers_compute_in_half_precision_and_logits_in_float32(name: str, make_spec: MakeSpec) -> None:
    graph = CompiledNetworks().start(make_spec(name)).graph
    images = tf.zeros((2, *graph.shape(graph.input)))
    inner = graph.inner_layers()
    preparing = [operation for operation in graph.operations if operation.startswith("preprocess")]
    assert preparing
    with use_precision("mixed_float16", inner):
        outputs = graph.run([*graph.outputs, *preparing, *(layer.name for layer in inner)], {graph.input: images}, True)
    logits, rest = outputs[: len(graph.outputs)], outputs[len(graph.outputs) :]
    assert {one.dtype for one in (*logits, *rest[: len(preparing)])} == {tf.float32}
    assert {one.dtype for one in rest[len(preparing) :]} == {tf.float16}
    assert {layer.compute_dtype for layer in inner} == {"float32"}, "nothing of it stays"
    assert keras.config.dtype_policy().name == "float32"


def test_a_policy_goes_even_where_tracing_fails(make_spec: MakeSpec) -> None:
    (layer, *_) = layers = CompiledNetworks().start(make_spec()).graph.inner_layers()
    seen = []

    def trace() -> None:
        with use_precision("mixed_bfloat16", layers):
            seen.append(layer.compute_dtype)
            raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        trace()
    assert seen == ["bfloat16"]
    assert layer.compute_dtype == "float32"


def started(make_spec: MakeSpec, **given: Any) -> tuple[CompiledNetwork, Any, np.ndarray, np.ndarray]:
    spec = make_spec(dropout=0.0, **given)
    compiled = CompiledNetworks().start(spec)
    update = compiled.update(UpdateKind(("",), False, Optimizer("adam"), "none", precision="mixed_float16"))
    update.start(1e-3, 1e-3)
    train = trial.load_images(spec).train
    return compiled, update, train.pixels[:16], train.labels[:16]


@pytest.mark.parametrize("micro_batch", [None, 8])
def test_an_update_beyond_float16_is_skipped(micro_batch: int | None, make_spec: MakeSpec) -> None:
    compiled, update, pixels, labels = started(make_spec, micro_batch=micro_batch)
    before = compiled.network.training.get_weights()
    update._loss_scale.value.assign(2.0**40)
    ((loss, *_),) = update(pixels, labels, [16])
    assert np.isfinite(loss)
    assert update.skipped == 1
    assert float(update._loss_scale.value) == 2.0**39
    for one, other in zip(before, compiled.network.training.get_weights(), strict=True):
        assert np.array_equal(one, other)
    assert [int(optimizer.iterations.numpy()) for _, optimizer in update._groups] == [0, 0]
    for _ in range(30):
        update(pixels, labels, [16])
    assert 0 < update.skipped < 30
    assert compiled.micro_batches.at_once["training"] == micro_batch, "beyond float16 is not beyond the memory"
    assert not np.array_equal(before[0], compiled.network.training.get_weights()[0])
    update.start(1e-3, 1e-3)
    assert (update.skipped, float(update._loss_scale.value)) == (0, FIRST_SCALE)


def test_the_scale_grows_after_many_finite_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cnnstudy.training.updates.STEPS_TO_GROW", 3)
    scale, changed = LossScale(), tf.Variable(0)
    step = tf.function(lambda gradient: scale.change([gradient], lambda: changed.assign_add(1)))
    for gradient in (1.0, 1.0, np.inf, 1.0, 1.0, 1.0, 1.0, np.nan):
        step(tf.constant(gradient))
    assert (int(changed), int(scale.skipped)) == (6, 2)
    assert float(scale.value) == FIRST_SCALE / 2, "halved, doubled after three in a row, halved"


def test_features_are_the_same_for_each_precision(
    make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CNNSTUDY_CACHE", str(tmp_path / "cache"))
    spec = make_spec(transfer="frozen", weights_source="random", batch_size=16, learning_rate=1e-4, keep_model=False)
    whole, _ = run(spec, tmp_path / "a")
    half, _ = run(dataclasses.replace(spec, precision="mixed_bfloat16"), tmp_path / "b")
    assert whole.features == half.features == "cached"
    assert len(list((tmp_path / "cache" / "features").glob("*/features.npy"))) == 1, "they are computed in float32"
    assert half.summary["val/loss"] == pytest.approx(whole.summary["val/loss"], abs=LOSSES["mixed_bfloat16"])
    assert half.summary["val/loss"] != whole.summary["val/loss"]


@pytest.mark.parametrize(
    ("capabilities", "precision"),
    [([], "float32"), ([(6, 1)], "float32"), ([(7, 0)], "mixed_float16"), ([(9, 0), (6, 0)], "float32")],
)
def test_auto_asks_the_gpu(
    capabilities: list[tuple[int, int]], precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: list(range(len(capabilities))))
    monkeypatch.setattr(
        tf.config.experimental, "get_device_details", lambda gpu: {"compute_capability": capabilities[gpu]}
    )
    assert devices.choose_precision("auto") == precision
    assert devices.choose_precision("mixed_bfloat16") == "mixed_bfloat16"
