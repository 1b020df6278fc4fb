"""A network with BatchNormalization and layers without bias, trained in all transfer modes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from normalised import BACKBONE, HEAD, NAME, STATISTICS, registered

from cnnstudy.architectures import Network, build_network, find
from cnnstudy.records import TrialSpec
from cnnstudy.results.network_summary import layer_rows, print_summary, sum_layers, transfer_rows
from cnnstudy.training import trial, weights
from cnnstudy.training.compiled import CompiledNetworks
from cnnstudy.training.graph import Graph

from .test_compiled import disturb, outcome
from .tries import tried

MakeSpec = Callable[..., TrialSpec]
MODES = ("scratch", "frozen", "fine-tune", "last-block", "two-phase")


@pytest.fixture(autouse=True)
def _registered(own_places: Path) -> Iterator[None]:
    """Register the network, with a cache of the test's own."""
    with registered():
        yield


def fresh(seed: int) -> Network:
    network = build_network(find(NAME), 16, 5, 0.5)
    weights.initialise(network, seed)
    return network


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Write weights of another seed, with moving statistics that no fresh network has."""
    network = fresh(99)
    for layer in network.training.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.moving_mean.assign(np.linspace(-0.1, 0.1, 8))
            layer.moving_variance.assign(np.linspace(0.2, 1.2, 8))
    weights.save_backbone(network, tmp_path / "backbone.npz")
    return tmp_path / "backbone.npz"


def statistics(network: Network) -> dict[str, np.ndarray]:
    norms = [layer for layer in network.training.layers if isinstance(layer, keras.layers.BatchNormalization)]
    return {f"{norm.name}/{weight.name}": weight.numpy() for norm in norms for weight in norm.weights[2:]}


# ---- first weights


def network_of(*layers: keras.layers.Layer) -> Network:
    model = keras.Sequential([keras.Input((8, 8, 4)), *layers])
    return Network(find(NAME), model, model, model)


def layers_of_every_kind() -> list[keras.layers.Layer]:
    from keras import layers

    inner = keras.Sequential([layers.Conv2D(4, 1, name="inner"), layers.BatchNormalization(name="inner_norm")])
    return [
        layers.Conv2D(4, 3, use_bias=False, name="plain"),
        layers.BatchNormalization(name="norm", gamma_initializer="zeros", moving_mean_initializer="ones"),
        layers.BatchNormalization(name="renorm", renorm=True),
        layers.BatchNormalization(name="bare", center=False, scale=False),
        layers.LayerNormalization(name="layer_norm"),
        layers.GroupNormalization(2, name="group_norm"),
        layers.DepthwiseConv2D(3, name="depthwise"),
        layers.SeparableConv2D(4, 1, bias_initializer="random_normal", name="separable"),
        layers.PReLU(alpha_initializer=keras.initializers.RandomNormal(0.3, 0.1), name="prelu"),
        layers.SpectralNormalization(layers.Conv2D(4, 1, name="wrapped"), name="spectral"),
        layers.TimeDistributed(layers.Dense(4, name="deep"), name="distributed"),
        inner,
    ]


def values(network: Network) -> dict[str, np.ndarray]:
    return {weight.path: weight.numpy() for weight in network.training.weights}


def test_every_layer_is_drawn_by_its_own_initialisers() -> None:
    keras.utils.set_random_seed(0)
    network = network_of(*layers_of_every_kind())
    built = values(network)
    weights.initialise(network, 0)
    first = values(network)
    for variable in network.training.weights:
        variable.assign(np.full(variable.shape, 7))
    weights.initialise(network, 0)
    again = values(network)
    weights.initialise(network, 1)
    other = values(network)
    constant = {path for path, array in built.items() if array.size > 1 and np.ptp(array) == 0}
    assert {path.split("/")[-1] for path in constant} >= {"gamma", "beta", "moving_mean", "moving_variance", "bias"}
    for path, array in built.items():
        np.testing.assert_array_equal(first[path], again[path], err_msg=path)
        if path in constant or array.size == 1:
            np.testing.assert_array_equal(first[path], array, err_msg=path)
        else:
            assert not np.array_equal(first[path], other[path]), path
        if path not in constant and array.size >= 16:  # the mean of fewer may lie anywhere
            assert 0.3 < (np.abs(first[path]).mean() / np.abs(array).mean()) < 3, path
    depthwise, pointwise = (
        next(array for path, array in first.items() if path.endswith(f"separable/{part}_kernel")).ravel()
        for part in ("depthwise", "pointwise")
    )
    assert np.corrcoef(depthwise[:4], pointwise[:4])[0, 1] < 0.99, "each kernel is drawn from a seed of its own"


def test_a_network_of_keras_applications() -> None:
    inputs = keras.Input((32, 32, 3), name="image")
    made = keras.applications.MobileNetV2(input_tensor=inputs, include_top=False, weights=None, alpha=0.35)
    model = keras.Model(made.input, made.output)
    network = Network(find(NAME), model, model, model)
    weights.initialise(network, 0)
    first = model.get_weights()
    for variable in model.weights:
        variable.assign(variable + 1)
    weights.initialise(network, 0)
    for one, other in zip(model.get_weights(), first, strict=True):
        np.testing.assert_array_equal(one, other)


def test_statistics_come_from_the_source(source: Path) -> None:
    network = fresh(1)
    assert {name: array.mean() for name, array in statistics(network).items()} == {
        f"block{block}/moving_{what}": value
        for block in ("1_norm", "2_norm1")
        for what, value in (("mean", 0.0), ("variance", 1.0))
    }
    weights.initialise(network, 1, source)
    assert all(np.ptp(array) > 0.1 for array in statistics(network).values())
    weights.initialise(network, 1)
    assert not any(np.ptp(array) for array in statistics(network).values())


# ---- what is counted


#: By transfer mode and level of batch_norm.
TRAINED = {
    ("scratch", None): BACKBONE + HEAD,
    ("frozen", None): HEAD,
    ("fine-tune", "trained"): BACKBONE + HEAD,
    ("fine-tune", None): BACKBONE + HEAD - 2 * 2 * 8,
    ("two-phase", "frozen"): BACKBONE + HEAD - 2 * 2 * 8,
    ("last-block", "trained"): BACKBONE + HEAD - 27 * 8 - 2 * 8,
    ("last-block", "frozen"): BACKBONE + HEAD - 27 * 8 - 2 * 2 * 8,
}


@pytest.mark.parametrize(("mode", "level"), TRAINED)
def test_parameters_are_those_that_the_optimiser_sees(
    mode: str, level: str | None, make_spec: MakeSpec, source: Path, tmp_path: Path
) -> None:
    spec = make_spec(NAME, source, transfer=mode, batch_norm=level, epochs=2, keep_model=False)
    networks, trained = CompiledNetworks(), TRAINED[mode, level]
    result = trial.run_trial(spec, tmp_path, lambda record: True, networks)
    assert (result.trainable_parameters, result.frozen_parameters) == (trained, BACKBONE + HEAD + STATISTICS - trained)
    assert (result.frozen_digest is None) == (mode == "scratch" or (mode, level) == ("fine-tune", "trained"))
    (kept,) = networks._networks.values()
    update = list(kept._updates.values())[-1]
    assert sum(variable.shape.num_elements() for variable in update._trained) == trained


def test_describe_tells_statistics_apart(tmp_path: Path) -> None:
    from io import StringIO

    from rich.console import Console

    rows = layer_rows(build_network(find(NAME), 16, 5, 0.5))
    assert sum_layers(rows).parameters == sum_layers(rows).inference_parameters == BACKBONE + HEAD + STATISTICS
    whole = BACKBONE + HEAD + STATISTICS
    for row in transfer_rows(rows, find(NAME)):
        trains = TRAINED.get((row.mode, "frozen"), TRAINED.get((row.mode, None)))
        assert (row.trains, row.frozen) == (trains, whole - (trains or 0))
    by_name = {row.name: row for row in rows}
    assert (by_name["block1_norm"].parameters, by_name["block1_norm"].trainable) == (32, 16)
    assert by_name["block2_depthwise"].multiply_adds == 9 * 8 * 4 * 4
    written = StringIO()
    print_summary(find(NAME), 16, 5, tmp_path / "drawing.png", Console(file=written, width=200))
    assert f"{whole:,}; {STATISTICS} of them are moving statistics" in written.getvalue()
    assert "batch norm       2 layers, frozen below the head unless `scratch`" in written.getvalue()


# ---- training


def test_a_warm_trial_equals_a_cold_one(make_spec: MakeSpec, source: Path, tmp_path: Path) -> None:
    given = {"batch_size": 16, "weights": source}
    specs = {mode: make_spec(NAME, transfer=mode, epochs=2, **given) for mode in MODES}
    specs["trained"] = make_spec(NAME, transfer="fine-tune", batch_norm="trained", epochs=2, **given)
    specs["strong"] = make_spec(NAME, augmentation="strong", dropout=0.0, seed=3, epochs=1, **given)
    specs["flipped"] = make_spec(NAME, transfer="frozen", augmentation="flip", epochs=1, **given)
    cold = {mode: outcome(spec, tmp_path / "cold" / mode) for mode, spec in specs.items()}
    networks = CompiledNetworks()
    disturb(specs["scratch"], tmp_path, networks)
    for number, mode in enumerate([*reversed(specs), "strong", "scratch"]):
        assert outcome(specs[mode], tmp_path / f"warm{number}", networks) == cold[mode], mode


def test_statistics_follow_training_only_where_layers_train(make_spec: MakeSpec, source: Path, tmp_path: Path) -> None:
    given = {"weights": source, "epochs": 1, "batch_size": 8}
    begun = fresh(1)
    weights.initialise(begun, 0, source)
    changed = {}
    for name, levels in {
        "frozen": {"transfer": "frozen"},
        "frozen, whole network": {"transfer": "frozen", "features": False},
        "frozen, strong": {"transfer": "frozen", "augmentation": "strong"},
        "last-block": {"transfer": "last-block", "batch_norm": "trained"},
        "fine-tune": {"transfer": "fine-tune", "batch_norm": "trained"},
        "fine-tune, frozen": {"transfer": "fine-tune", "batch_norm": "frozen"},
        "fine-tune, default": {"transfer": "fine-tune"},
        "two-phase, default": {"transfer": "two-phase", "epochs": 2},
    }.items():
        networks = CompiledNetworks()
        spec = make_spec(NAME, **{**given, **levels}, keep_model=False)
        trial.run_trial(spec, tmp_path / name, lambda record: True, networks)
        (kept,) = networks._networks.values()
        now, before = statistics(kept.network), statistics(begun)
        changed[name] = sorted({path.split("/")[0] for path in now if not np.array_equal(now[path], before[path])})
    assert changed == {
        "frozen": [],
        "frozen, whole network": [],
        "frozen, strong": [],
        "last-block": ["block2_norm1"],
        "fine-tune": ["block1_norm", "block2_norm1"],
        "fine-tune, frozen": [],
        "fine-tune, default": [],
        "two-phase, default": [],
    }


def test_frozen_is_the_default_of_batch_norm(make_spec: MakeSpec, source: Path, tmp_path: Path) -> None:
    levels = {name: {} if name == "default" else {"batch_norm": name} for name in ("default", "frozen", "trained")}
    found = {
        name: outcome(make_spec(NAME, source, transfer="fine-tune", epochs=1, **given), tmp_path / name)
        for name, given in levels.items()
    }
    assert found["default"].weights == found["frozen"].weights != found["trained"].weights


@pytest.mark.parametrize(("level", "splits"), [("frozen", True), ("trained", False)])
def test_a_batch_is_split_where_statistics_are_frozen(
    level: str, splits: bool, make_spec: MakeSpec, source: Path, tmp_path: Path
) -> None:
    spec = make_spec(NAME, source, transfer="fine-tune", batch_norm=level, dropout=0.0, epochs=1, batch_size=16)
    whole = outcome(spec, tmp_path / "whole")
    parts = outcome(dataclasses.replace(spec, micro_batch=3), tmp_path / "parts")
    for name, value in whole.summary.items():
        assert parts.summary[name] == pytest.approx(value, abs=1e-4), name
    assert (whole.weights == parts.weights) == (not splits), "parts add up in another order"


def test_what_drops_branches_is_off_below_the_first_layer_that_trains() -> None:
    """As in EfficientNet. Otherwise no frozen part of it could be cached."""
    inputs = keras.Input((8, 8, 3), name="image")
    x = keras.layers.Conv2D(4, 1, name="block1_conv")(inputs)
    x = keras.layers.Dropout(0.5, noise_shape=(None, 1, 1, 1), name="block1_drop")(x)
    x = keras.layers.Conv2D(4, 1, name="block2_conv")(x)
    x = keras.layers.Dropout(0.5, noise_shape=(None, 1, 1, 1), name="block2_drop")(x)
    x = keras.layers.GlobalAveragePooling2D(name="head_pool")(x)
    logits = keras.layers.Dense(5, name="head_logits")(keras.layers.Dropout(0.5, name="head_dropout")(x))
    model = keras.Model(inputs, logits)
    graph = Graph(Network(find(NAME), model, model, model))
    graph.set_dropout({"dropout": 0.0})
    cuts = {
        trained: graph.find_last_constant(lambda name, trained=trained: name.startswith(trained))  # type: ignore[misc]
        for trained in (("head",), ("block2", "head"), ("block", "head"))
    }
    assert cuts == {("head",): "head_pool", ("block2", "head"): "block1_drop", ("block", "head"): None}
    images = tf.constant(np.random.default_rng(0).uniform(0, 255, (8, 8, 8, 3)).astype(np.float32))
    known = {graph.input: images}
    frozen = graph.find_constants(lambda name: name.startswith("head"))
    still, moving = (
        [graph.run(graph.outputs, known, True, part)[0].numpy() for _ in range(2)] for part in (frozen, ())
    )
    np.testing.assert_array_equal(still[0], still[1])
    np.testing.assert_allclose(still[0], model(images), rtol=1e-5)
    assert not np.array_equal(moving[0], moving[1])


def test_features_give_what_the_whole_network_gives(make_spec: MakeSpec, source: Path, tmp_path: Path) -> None:
    for mode in ("frozen", "last-block"):
        spec = make_spec(NAME, source, transfer=mode, dropout=0.0, epochs=1)
        by_features = outcome(spec, tmp_path / f"{mode}-features")
        whole = outcome(dataclasses.replace(spec, features=False), tmp_path / f"{mode}-whole")
        assert by_features.frozen == whole.frozen
        for name, value in whole.summary.items():
            assert by_features.summary[name] == pytest.approx(value, abs=1e-4), (mode, name)


CASES: dict[str, dict[str, Any]] = {
    "scratch": {"transfer": "scratch", "augmentation": "strong"},
    "frozen": {"transfer": "frozen"},
    "last block": {"transfer": "last-block", "equal_updates": 4},
    "two phases": {"transfer": "two-phase", "head_epochs": 2},
}


@pytest.mark.parametrize("name", CASES)
def test_a_trial_goes_on_to_the_last_bit(name: str, make_spec: MakeSpec, source: Path, tmp_path: Path) -> None:
    given: dict[str, Any] = {"batch_size": 16, "epochs": 4, **CASES[name]}
    spec = make_spec(NAME, source, deterministic=True, checkpoints="every-epoch", **given)
    whole = tried(dataclasses.replace(spec, checkpoints="none"), tmp_path / "whole")
    networks = CompiledNetworks()
    other = dataclasses.replace(spec, seed=5, epochs=1, checkpoints="none")
    for killed_in in (2, 3, 4):
        assert tried(spec, tmp_path / str(killed_in), killed_in, networks).trained == [killed_in - 1]
        tried(other, tmp_path / f"other-{killed_in}", networks=networks)
    again = tried(spec, tmp_path / "again", networks=networks)
    assert again.trained == [4]
    assert again.numbers == whole.numbers


def test_the_best_epoch_comes_back_with_its_statistics(make_spec: MakeSpec, tmp_path: Path) -> None:
    """At this learning rate the first epoch stays the best."""
    spec = make_spec(NAME, epochs=4, learning_rate=3.0, seed=2)
    result = trial.run_trial(spec, tmp_path / "a", lambda record: True)
    assert result.best_epoch < result.epochs
    best = dataclasses.replace(spec, epochs=result.best_epoch)
    assert outcome(best, tmp_path / "b").weights == outcome(spec, tmp_path / "c").weights
