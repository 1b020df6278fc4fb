"""Batches that do not fit into memory: TensorFlow is made to run out of it in the middle of a computation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import normalised
import numpy as np
import pytest
import tensorflow as tf

from cnnstudy.architectures import build_network, find
from cnnstudy.records import Optimizer, TrialSpec
from cnnstudy.training import features, graph, predict, trial, weights
from cnnstudy.training.compiled import CompiledNetworks
from cnnstudy.training.micro_batches import MicroBatches
from cnnstudy.training.trainer import Trainer
from cnnstudy.training.transfer import apply_phase, plan_phases

pytestmark = pytest.mark.full_width

MakeSpec = Callable[..., TrialSpec]
#: How far weights may be apart, relative to the largest change among those of their kind; and the rounding of float32.
TOLERANCE, ROUNDING = 1e-4, 2**-22


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """Return memory(layer, training, evaluation): from then on, more images at once than that do not fit.

    In training, memory runs out when the gradient reaches the layer. The list that is returned collects the sizes that
    did not fit.
    """

    def limit(layer: str, training: int = 1000, evaluation: int = 1000) -> list[int]:
        refused: list[int] = []
        original = graph.Graph._apply

        def limited(x: tf.Tensor, most: int) -> tf.Tensor:
            def check(size: tf.Tensor) -> None:
                if size > most:
                    refused.append(int(size))
                    raise MemoryError  # TensorFlow makes a ResourceExhaustedError of it

            with tf.control_dependencies([tf.py_function(check, [tf.shape(x)[0]], [])]):
                return tf.identity(x)

        @tf.custom_gradient
        def narrow(x: tf.Tensor) -> Any:
            return tf.identity(x), lambda gradient: limited(gradient, training)

        def apply(self: graph.Graph, operation: keras.Operation, *given: Any) -> tf.Tensor:
            output = original(self, operation, *given)
            if operation.name != layer:
                return output
            return narrow(output) if given[-1] else limited(output, evaluation)

        monkeypatch.setattr(graph.Graph, "_apply", apply)
        return refused

    return limit


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "alexnet.npz"
    network = build_network(find("alexnet"), 64, 5, 0.5)
    weights.initialise(network, 99)
    weights.save_backbone(network, path)
    return path


def trained(spec: TrialSpec, updates: int = 2) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray]:
    """Return the weights before and after the first update on 20 images, and the result of the last update.

    Weights are not compared after the second: rounding in the first may switch a unit of a large network on or off.
    """
    compiled = CompiledNetworks().start(spec)
    phase = plan_phases(spec, dict(compiled.network.architecture.cut_points))[0]
    apply_phase(compiled.network, phase)
    trainer = Trainer(compiled, trial.load_images(spec), spec)
    trainer.start_phase(phase, features.prepare_source(compiled, spec, phase, lambda *_: None).features)
    before = compiled.network.training.get_weights()
    measured = trainer.update(np.arange(20))
    after = compiled.network.training.get_weights()
    for _ in range(updates - 1):
        measured = trainer.update(np.arange(20))
    return before, after, measured


def assert_equal(ours: list[np.ndarray], theirs: list[np.ndarray], before: list[np.ndarray]) -> None:
    for one, other, start in zip(ours, theirs, before, strict=True):
        np.testing.assert_allclose(
            one, other, rtol=0, atol=TOLERANCE * np.abs(other - start).max() + ROUNDING * np.abs(start).max()
        )


FIRST_LAYERS = {"alexnet": "conv1", "googlenet": "conv1", "vgg16": "block1_conv1"}


@pytest.mark.parametrize("name", FIRST_LAYERS)  # not networks whose layers keep statistics: no batch is split there
def test_an_update_in_parts_is_that_of_the_batch(
    name: str, make_spec: MakeSpec, memory: Callable[..., list[int]]
) -> None:
    # SGD: its change of a weight is in proportion to the gradient
    spec = make_spec(name, dropout=0.0, auxiliary_dropout=0.0, optimizer=Optimizer("sgd", 0.01), learning_rate=0.01)
    before, whole, expected = trained(spec)
    refused = memory(FIRST_LAYERS[name], training=7)
    _, parts, measured = trained(spec)
    assert refused == [20, 20, 10], "the first update finds out what fits, by itself too; the second knows it"
    assert_equal(parts, whole, before)
    np.testing.assert_allclose(measured, expected, rtol=1e-4)
    assert (expected[2] > 0) == (name == "googlenet"), "auxiliary losses are summed where there are any"


@pytest.mark.parametrize(("layer", "transfer"), [("head_dense1", "frozen"), ("conv3", "last-block")])
def test_an_update_on_features_in_parts_is_that_of_the_batch(
    layer: str, transfer: str, make_spec: MakeSpec, source: Path, memory: Callable[..., list[int]]
) -> None:
    given = {"transfer": transfer, "weights": source, "learning_rate": 0.01}
    spec = make_spec(dropout=0.0, optimizer=Optimizer("sgd"), **given)
    before, whole, _ = trained(spec)
    refused = memory(layer, training=7)
    _, parts, _ = trained(spec)
    assert refused == [20, 20, 10]
    assert_equal(parts, whole, before)


@pytest.mark.parametrize("weights_of", ["scratch", "last-block"])
def test_a_batch_that_a_layer_looks_at_as_a_whole_is_not_trained_in_parts(
    weights_of: str, make_spec: MakeSpec, memory: Callable[..., list[int]], tmp_path: Path
) -> None:
    with normalised.registered():
        given = {"batch_size": 20, "transfer": weights_of, "weights": source_of_normalised(tmp_path)}
        given |= {} if weights_of == "scratch" else {"batch_norm": "trained"}
        spec = make_spec(normalised.NAME, micro_batch=10, **given)  # as a trial is tried again that ran out of memory
        assert trial.run_trial(spec, tmp_path / "whole", lambda record: True).micro_batch is None
        refused = memory("block2_depthwise", training=10)
        layer = "block1_norm" if weights_of == "scratch" else "block2_norm1"
        with pytest.raises(
            MemoryError,
            match=rf"a batch of 20 images does not fit .* the output of {layer} \(BatchNormalization\) .* batch_size",
        ):
            trial.run_trial(spec, tmp_path / "parts", lambda record: True)
        assert set(refused) == {20}


def source_of_normalised(folder: Path) -> Path:
    network = build_network(find(normalised.NAME), 16, 5, 0.5)
    weights.initialise(network, 99)
    weights.save_backbone(network, folder / "normalised.npz")
    return folder / "normalised.npz"


def test_frozen_statistics_let_a_batch_be_trained_in_parts(
    make_spec: MakeSpec, memory: Callable[..., list[int]], tmp_path: Path
) -> None:
    """Only in the first of two phases; in the second the whole batch has to fit."""
    with normalised.registered():
        given = {"weights": source_of_normalised(tmp_path), "dropout": 0.0, "features": False, "batch_size": 20}
        given |= {"optimizer": Optimizer("sgd"), "learning_rate": 0.01}
        spec = make_spec(normalised.NAME, transfer="frozen", **given)
        before, whole, _ = trained(spec)
        refused = memory("head_logits", training=7)
        _, parts, _ = trained(spec)
        assert refused == [20, 20, 10]
        assert_equal(parts, whole, before)
        assert trial.run_trial(spec, tmp_path / "frozen", lambda record: True).micro_batch == 5
        second = make_spec(normalised.NAME, transfer="two-phase", batch_norm="trained", **given)
        with pytest.raises(MemoryError, match="a batch of 20 images does not fit"):
            trial.run_trial(second, tmp_path / "b", lambda _: True)


def test_weights_wait_for_the_gradients_of_dense_layers(
    make_spec: MakeSpec, memory: Callable[..., list[int]], tmp_path: Path
) -> None:
    """The gradient of a layer without bias is the output of a function that TensorFlow inlines."""
    with normalised.registered():
        given = {"weights": source_of_normalised(tmp_path), "dropout": 0.0, "features": False}
        spec = make_spec(normalised.NAME, transfer="frozen", optimizer=Optimizer("sgd"), learning_rate=0.01, **given)
        before, whole, _ = trained(spec)
        refused = memory("head_dense", training=7)
        _, parts, _ = trained(spec)
        assert refused == [20, 20, 10]
        assert_equal(parts, whole, before)


@pytest.mark.parametrize("fits", [True, False])
def test_memory_that_runs_out_in_the_middle_of_a_call(
    fits: bool, make_spec: MakeSpec, memory: Callable[..., list[int]]
) -> None:
    """Updates before it are made once and measured; the batch that does not fit and later ones are split."""
    spec = make_spec(dropout=0.0, optimizer=Optimizer("sgd", 0.01), learning_rate=0.01)
    refused = memory("conv1", training=1000 if fits else 7)
    compiled = CompiledNetworks().start(spec)
    trainer = Trainer(compiled, trial.load_images(spec), spec)
    trainer.start_phase(plan_phases(spec, dict(compiled.network.architecture.cut_points))[0])
    sizes, train = [4, 6, 20, 3], trainer.images.train
    measured = trainer._update(train.pixels[:33], train.labels[:33], sizes)
    assert refused == ([] if fits else [20, 20, 10])
    begun, expected = CompiledNetworks().start(spec), []
    other = Trainer(begun, trainer.images, spec)
    other.start_phase(plan_phases(spec, dict(begun.network.architecture.cut_points))[0])
    start = begun.network.training.get_weights()
    for end, size in zip(np.cumsum(sizes), sizes, strict=True):
        expected.append(other.update(np.arange(end - size, end)))
    np.testing.assert_allclose(measured, expected, rtol=1e-4)
    if fits:
        assert np.array_equal(measured, expected)
    assert_equal(compiled.network.training.get_weights(), begun.network.training.get_weights(), start)


@pytest.mark.parametrize("optimizer", [Optimizer("adamw", 0.1), Optimizer("sgd", 0.1), Optimizer("rmsprop")])
def test_where_the_memory_runs_out_nothing_has_changed(
    optimizer: Optimizer, make_spec: MakeSpec, memory: Callable[..., list[int]]
) -> None:
    spec = make_spec(dropout=0.0, optimizer=optimizer)
    memory("conv1", training=0)
    compiled = CompiledNetworks().start(spec)
    trainer = Trainer(compiled, trial.load_images(spec), spec)
    trainer.start_phase(plan_phases(spec, dict(compiled.network.architecture.cut_points))[0])
    before = compiled.network.training.get_weights()
    state = [variable.numpy() for variable in trainer._update.variables]
    with pytest.raises(tf.errors.ResourceExhaustedError):
        trainer.update(np.arange(4))
    for one, other in zip(before, compiled.network.training.get_weights(), strict=True):
        assert np.array_equal(one, other)
    for earlier, variable in zip(state, trainer._update.variables, strict=True):
        assert np.array_equal(earlier, variable.numpy())


def test_nothing_is_done_twice_once_weights_have_changed(make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    original = keras.optimizers.SGD.update_step

    def update_step(self: Any, gradient: tf.Tensor, variable: Any, rate: tf.Tensor) -> None:
        original(self, gradient, variable, rate)
        if variable.shape == (2048, 2048):

            def fail() -> None:
                raise MemoryError

            tf.py_function(fail, [], [])

    monkeypatch.setattr(keras.optimizers.SGD, "update_step", update_step)
    spec = make_spec(optimizer=Optimizer("sgd"))
    with pytest.raises(MemoryError, match="while the weights were being updated"):
        trained(spec, updates=1)


def test_a_trial_goes_on_with_fewer_images_at_once_and_says_so(
    make_spec: MakeSpec, memory: Callable[..., list[int]], tmp_path: Path
) -> None:
    spec = make_spec(batch_size=32, dropout=0.0, epochs=2, keep_model=False)
    networks = CompiledNetworks()
    whole = trial.run_trial(spec, tmp_path / "whole", lambda record: True)
    refused, said = memory("conv1", training=9, evaluation=20), list[str]()
    result = trial.run_trial(
        spec, tmp_path / "parts", lambda record: True, networks, lambda what, *_: said.append(what)
    )
    assert (whole.micro_batch, whole.evaluation_batch) == (None, None)
    assert (result.state, result.micro_batch, result.evaluation_batch) == ("finished", 8, 13)
    assert refused == [25, 32, 32, 16], "each trial is evaluated once before its first update"
    assert said[1:3] == [
        "out of memory; training continues with 16 images at once instead of 32",
        "out of memory; training continues with 8 images at once instead of 16",
    ]
    for name, value in whole.summary.items():
        assert result.summary[name] == pytest.approx(value, abs=0.05), name
    again = trial.run_trial(make_spec(batch_size=8, epochs=1, keep_model=False), tmp_path / "b", bool, networks)
    assert again.micro_batch is None, "what one trial found out is not the next one's"


def test_features_computed_in_parts_say_so_to_all_that_train_on_them(
    make_spec: MakeSpec, source: Path, memory: Callable[..., list[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CNNSTUDY_CACHE", str(tmp_path / "cache"))
    spec = make_spec(transfer="frozen", weights=source, keep_model=False)
    refused = memory("conv1", evaluation=20)
    first = trial.run_trial(spec, tmp_path / "first", lambda record: True)
    assert refused
    assert first.features == features.CACHED
    assert first.evaluation_batch is not None
    assert first.evaluation_batch <= 20
    assert f"computed {first.evaluation_batch} images at a time for lack of memory" in first.features_note
    so_far = len(refused)
    compiled = CompiledNetworks().start(spec)
    phase = plan_phases(spec, dict(compiled.network.architecture.cut_points))[0]
    apply_phase(compiled.network, phase)
    assert features.prepare_source(compiled, spec, phase, lambda *_: None).what == features.CACHED
    assert compiled.micro_batches.at_once == {"training": None, "evaluation": first.evaluation_batch}
    assert len(refused) == so_far


def test_a_limit_is_never_raised() -> None:
    given = MicroBatches()
    for images, at_once in ((9, 9), (20, 9), (4, 4)):
        given.limit("evaluation", images)
        assert given.at_once == {"training": None, "evaluation": at_once}


def test_a_trial_can_start_with_fewer_images_at_once(
    make_spec: MakeSpec, memory: Callable[..., list[int]], tmp_path: Path
) -> None:
    refused = memory("conv1", training=16)
    result = trial.run_trial(
        make_spec(batch_size=32, micro_batch=16, epochs=1, keep_model=False), tmp_path, lambda record: True
    )
    assert (refused, result.micro_batch) == ([], 16)


def test_only_one_image_that_does_not_fit_ends_the_trial(
    make_spec: MakeSpec, memory: Callable[..., list[int]], tmp_path: Path
) -> None:
    refused = memory("conv1", training=0)
    with pytest.raises(tf.errors.ResourceExhaustedError):
        trial.run_trial(make_spec(batch_size=8, epochs=1), tmp_path, lambda record: True)
    assert refused == [8, 8, 4, 2, 1]


def test_predictions_come_in_parts_too() -> None:
    asked = []

    class Model:
        def predict_on_batch(self, pixels: np.ndarray) -> np.ndarray:
            asked.append(len(pixels))
            if len(pixels) > 2:
                raise tf.errors.ResourceExhaustedError(None, None, "no memory")
            return np.eye(5)[pixels[:, 0, 0, 0]]

    pixels = np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1)
    rows = predict.predict_probabilities(Model(), Path("model.keras"), pixels)  # type: ignore[arg-type]
    assert np.array_equal(rows, np.eye(5))
    assert asked == [5, 3, 2, 2, 1]


@pytest.mark.parametrize("error", [ValueError("wrong"), tf.errors.InternalError(None, None, "wrong")])
def test_other_errors_are_no_matter_of_memory(error: Exception) -> None:
    def fail(parts: object) -> None:
        raise error

    with pytest.raises(type(error), match="wrong"):
        MicroBatches().run("training", 8, fail)


def test_a_copy_to_a_gpu_without_room_says_something_else() -> None:
    refused = []

    def fail(parts: list[slice]) -> str:
        if len(parts) < 4:
            refused.append(len(parts))
            raise tf.errors.InternalError(None, None, "Failed copying: _EagerConst: Dst tensor is not initialized.")
        return "done"

    assert MicroBatches().run("training", 8, fail) == "done"
    assert refused == [1, 2]


@pytest.mark.parametrize("room", [True, False])
def test_what_is_kept_is_given_up_before_a_batch_is_parted(room: bool) -> None:
    asked: list[int] = []
    made = []

    def do(parts: list[slice]) -> int:
        asked.append(len(parts))
        if not made or (len(parts) == 1 and not room):
            raise tf.errors.ResourceExhaustedError(None, None, "no memory")
        return len(parts)

    given = MicroBatches()
    given.make_room = lambda: bool(made.append(1)) or room
    assert given.run("training", 8, do) == (1 if room else 2)
    assert made == [1], "once a trial"
    assert given.at_once["training"] == (None if room else 4)


def test_networks_of_earlier_trials_are_given_up(make_spec: MakeSpec) -> None:
    networks = CompiledNetworks()
    networks.start(make_spec("vgg16"))
    compiled = networks.start(make_spec())
    assert len(networks._networks) == 2
    assert compiled.micro_batches.make_room()
    assert list(networks._networks.values()) == [compiled]
    assert not compiled.micro_batches.make_room(), "there is nothing more"
