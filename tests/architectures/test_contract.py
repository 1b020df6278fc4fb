"""The contract that every network must fulfil. A new one is tested here without further changes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import normalised
import numpy as np
import own_network
import pytest

from cnnstudy import architectures
from cnnstudy.architectures import AUXILIARY, HEAD, Network
from cnnstudy.errors import ConfigError, UnknownNameError
from cnnstudy.training import transfer, weights

#: Networks of keras.applications of different kinds, and those that take longer.
APPLICATIONS = ("keras:MobileNetV2", "keras:EfficientNetB0")
MORE_APPLICATIONS = ("keras:ConvNeXtTiny", "keras:DenseNet121", "keras:InceptionV3", "keras:MobileNetV3Small")
#: They differ from `alexnet` and `vgg16` in little that the contract is about.
LIKE_OTHERS = ("alexnet_torchvision", "vgg16_torchvision")
#: The networks of the package, one for tests with what few of them have, such as LayerNormalization, and a user's own.
NAMES = [*architectures.names(), normalised.NAME, *APPLICATIONS, *MORE_APPLICATIONS, own_network.NAME]
#: What a user writes for a network that has another name once it is found.
WRITTEN = {own_network.NAME: own_network.WRITTEN}
pytestmark = pytest.mark.parametrize(
    "name",
    [
        pytest.param(one, marks=pytest.mark.thorough) if one in (*MORE_APPLICATIONS, *LIKE_OTHERS) else one
        for one in NAMES
    ],
)
CLASSES = 5

#: Loads saved models as somebody would who has Keras, and not this package.
LOAD = """
import sys

class NotInstalled:
    def find_spec(self, name, *_):
        if name.partition(".")[0] == "cnnstudy":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, NotInstalled())
import keras
import numpy as np

for path in sys.argv[1:]:
    model = keras.saving.load_model(path + ".keras", safe_mode=True)
    np.save(path + "_out.npy", model(np.load(path + "_in.npy")))
assert "cnnstudy" not in sys.modules
"""


@pytest.fixture(scope="module", autouse=True)
def _registered() -> Iterator[None]:
    assert architectures.find(own_network.WRITTEN).name == own_network.NAME
    with normalised.registered():
        yield


def images(size: int, count: int = 2) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def minimum(name: str) -> int:
    return architectures.find(name).minimum_size


def kernels(network: architectures.Network) -> dict[str, np.ndarray]:
    return {layer.name: layer.get_weights()[0] for layer in network.training.layers if hasattr(layer, "kernel")}


@pytest.fixture(scope="module")
def reloaded(build: Callable[..., Network], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the predictions of each network and of its saved model; one process loads them all."""
    folder = tmp_path_factory.mktemp("saved")
    for name in NAMES:
        model = build(name, minimum(name)).inference
        model.save(folder / f"{name}.keras")
        np.save(folder / f"{name}_in.npy", images(minimum(name)))
        np.save(folder / f"{name}_expected.npy", model(images(minimum(name))))
    paths = [str(folder / name) for name in NAMES]
    done = subprocess.run(
        [sys.executable, "-I", "-W", "error", "-c", LOAD, *paths], capture_output=True, text=True, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_is_found_by_its_name_without_keras(name: str) -> None:
    code = (
        "import sys; from cnnstudy import architectures; architectures.__path__.append(sys.argv[2])\n"
        "found = architectures.find(sys.argv[1]); found.check_size(224); print(found.name)\n"
        "print({'tensorflow', 'keras', 'matplotlib', 'numpy'} & set(sys.modules))"
    )
    arguments = [WRITTEN.get(name, name), normalised.FOLDER]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.stdout == f"{name}\nset()\n", done.stderr


def test_a_slip_in_its_name_is_recognised(name: str) -> None:
    name = WRITTEN.get(name, name)
    with pytest.raises(UnknownNameError, match=f"did you mean '{name}'"):
        architectures.find(name[:-1] + name[-1] * 2)


@pytest.mark.parametrize("size", ["minimum", 224])
def test_shapes(name: str, size: str | int, build: Callable[..., Network]) -> None:
    size = minimum(name) if size == "minimum" else size
    network = build(name, size)
    assert network.inference.input_shape == (None, size, size, 3)
    assert network.inference.output_shape == network.logits.output_shape == (None, CLASSES)
    assert len(network.training.inputs) == 1
    outputs = [tensor.shape for tensor in network.training.outputs]
    assert set(outputs) == {(None, CLASSES)}
    assert (len(outputs) > 1) == network.architecture.has_auxiliary_heads


def test_one_pixel_below_the_minimum_names_both_sizes(name: str) -> None:
    too_small = minimum(name) - 1
    with pytest.raises(ConfigError, match=rf"\b{minimum(name)} x {minimum(name)} pixels, not {too_small}\b"):
        architectures.build_network(architectures.find(name), too_small, CLASSES, dropout=0.5)


def test_each_weight_is_backbone_head_or_auxiliary(name: str, build: Callable[..., Network]) -> None:
    network = build(name, minimum(name))
    with_weights = {layer.name for layer in network.training.layers if layer.weights}
    backbone = {layer.name for layer in weights.backbone_layers(network.training)}
    head = {layer for layer in with_weights if layer.startswith(HEAD)}
    auxiliary = {layer for layer in with_weights if layer.startswith(AUXILIARY)}
    assert len(backbone) + len(head) + len(auxiliary) == len(with_weights)
    assert backbone | head | auxiliary == with_weights
    assert backbone
    assert head
    assert bool(auxiliary) == network.architecture.has_auxiliary_heads
    assert network.training.output_names[0].startswith(HEAD)


def test_each_layer_is_called_once(name: str, build: Callable[..., Network]) -> None:
    """Training runs a network by the names of its operations, so each must have one output."""
    operations = build(name, minimum(name)).training.operations
    outputs = {id(operation.output) for operation in operations}
    for operation in operations[1:]:
        inputs = operation.input if isinstance(operation.input, list) else [operation.input]
        assert {id(tensor) for tensor in inputs} <= outputs, f"an input of {operation.name} is a layer's second output"


def test_cut_points_name_stages_of_the_backbone(name: str, build: Callable[..., Network]) -> None:
    network = build(name, minimum(name))
    backbone = [layer.name for layer in weights.backbone_layers(network.logits)]
    cut_points = network.architecture.cut_points
    assert "last-block" in cut_points
    for stages in cut_points.values():
        assert all(any(layer.startswith(stage) for layer in backbone) for stage in stages)
        assert not all(layer.startswith(stages) for layer in backbone)  # else it were no cut


def test_it_says_whether_it_has_batch_normalisation(name: str, build: Callable[..., Network]) -> None:
    network = build(name, minimum(name))
    found = any(map(transfer.is_batch_norm, weights.backbone_layers(network.logits)))
    assert found == network.architecture.has_batch_norm


def test_auxiliary_heads_are_for_training_only(name: str, build: Callable[..., Network]) -> None:
    network = build(name, minimum(name))
    for model in (network.logits, network.inference):
        assert not [layer.name for layer in model.layers if layer.name.startswith(AUXILIARY)]
    views = {id(layer) for layer in network.training.layers}
    assert all(id(layer) in views for layer in network.logits.layers)  # the same layers, so the same weights


def test_raw_images_become_probabilities(name: str, build: Callable[..., Network]) -> None:
    model = build(name, minimum(name)).inference
    raw = images(minimum(name))
    probabilities = np.asarray(model(raw))
    assert probabilities.dtype == np.float32
    assert (probabilities >= 0).all()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(model(raw.astype(np.float32)), probabilities, rtol=1e-5)
    np.testing.assert_allclose(model.predict(raw, verbose=0), probabilities, rtol=1e-4)


@pytest.mark.thorough
def test_the_saved_model_needs_nothing_but_keras(name: str, reloaded: Path) -> None:
    expected = np.load(reloaded / f"{name}_expected.npy")
    np.testing.assert_allclose(np.load(reloaded / f"{name}_out.npy"), expected, rtol=1e-4, atol=1e-7)


def test_the_seed_alone_decides_the_first_weights(name: str, build: Callable[..., Network]) -> None:
    with_dropout, without = build(name, minimum(name)), build(name, minimum(name), dropout=0.0)
    weights.initialise(with_dropout, seed=0)
    weights.initialise(without, seed=0)
    first = kernels(with_dropout)
    for layer, kernel in kernels(without).items():
        np.testing.assert_array_equal(kernel, first[layer], err_msg=layer)
    weights.initialise(without, seed=1)
    for layer, kernel in kernels(without).items():
        assert (kernel != first[layer]).mean() > 0.99, layer
    weights.initialise(without, seed=0)
    for layer, kernel in kernels(without).items():
        np.testing.assert_array_equal(kernel, first[layer], err_msg=layer)


def test_dropout_is_the_rate_that_was_asked_for(name: str, build: Callable[..., Network]) -> None:
    for rate in (0.0, 0.5):
        layers = build(name, minimum(name), dropout=rate).logits.layers
        of_heads = [layer for layer in layers if hasattr(layer, "rate") and architectures.dropout_factor(layer.name)]
        assert {layer.rate for layer in of_heads} == {rate}


def test_dropout_layers_are_told_apart_by_their_names(name: str) -> None:
    """Each Dropout layer has the rate of the factor that its name selects; in the backbone a fixed one."""
    import keras

    def rates(dropout: float, auxiliary_dropout: float) -> dict[str, float]:
        network = architectures.build_network(
            architectures.find(name), minimum(name), CLASSES, dropout, auxiliary_dropout
        )
        layers = network.training.layers
        return {layer.name: layer.rate for layer in layers if isinstance(layer, keras.layers.Dropout)}

    own, given = rates(0.1, 0.2), {"dropout": 0.3, "auxiliary_dropout": 0.6}
    factors = {layer: architectures.dropout_factor(layer) for layer in own}
    assert rates(0.3, 0.6) == {layer: given[factor] if factor else own[layer] for layer, factor in factors.items()}
    heads = {"dropout", "auxiliary_dropout"} if architectures.find(name).has_auxiliary_heads else {"dropout"}
    assert set(factors.values()) - {None} == heads
