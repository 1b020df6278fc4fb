"""AlexNet, GoogLeNet and VGG16 as torchvision's weights expect them; `weights verify` compares their outputs."""

from __future__ import annotations

import math
from collections.abc import Callable

import keras
import numpy as np
import pytest

from cnnstudy.architectures import Network
from cnnstudy.architectures._torchvision import average_to
from cnnstudy.architectures.googlenet_torchvision import WINDOWS, _pool
from cnnstudy.training.weights import backbone_layers

#: With 1000 classes: parameters that train, as torchvision's documentation states them (VGG16 has another head here:
#: of its 138,357,544 without the 123,642,856 of torchvision's), and moving statistics.
PARAMETERS = {
    "alexnet_torchvision": (61_100_840, 0),
    "googlenet_torchvision": (6_624_904, 14_560),
    "vgg16_torchvision": (138_357_544 - 123_642_856 + (512 + 1) * 1024 + (1024 + 1) * (1024 + 1000), 0),
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters(name: str, build: Callable[..., Network]) -> None:
    logits = build(name, 32 if name == "vgg16_torchvision" else 64, 1000).logits
    trained = sum(math.prod(weight.shape) for weight in logits.trainable_weights)
    assert (trained, logits.count_params() - trained) == PARAMETERS[name]


@pytest.mark.parametrize("name", PARAMETERS)
def test_pixels(name: str, build: Callable[..., Network]) -> None:
    model = build(name, 64).inference
    raw = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    prepared = next(layer for layer in model.layers if layer.name.startswith("preprocess"))
    inside = np.asarray(keras.Model(model.input, prepared.output)(raw))
    normalised = (raw / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    if name == "googlenet_torchvision":  # its transform_input, which follows
        normalised = normalised * np.array([0.229, 0.224, 0.225]) / 0.5 + (np.array([0.485, 0.456, 0.406]) - 0.5) / 0.5
    np.testing.assert_allclose(inside, normalised, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "sides"), [(63, (15, 7, 3, 1)), (96, (23, 11, 5, 2)), (224, (55, 27, 13, 6)), (300, (74, 36, 17, 8))]
)
def test_alexnets_head_takes_maps_of_any_size(size: int, sides: tuple[int, ...], build: Callable[..., Network]) -> None:
    model = build("alexnet_torchvision", size).logits
    found = [model.get_layer(name).output.shape[1] for name in ("conv1", "conv1_pool", "conv2_pool", "conv5_pool")]
    assert tuple(found) == sides
    assert model.get_layer("head_pool").output.shape[1:] == (6, 6, 256)


@pytest.mark.parametrize(("name", "window"), WINDOWS.items())
def test_googlenets_pools_are_those_of_ceil_mode(name: str, window: int) -> None:
    """The last window may reach beyond the map; the first one begins at the first pixel all the same."""
    rng = np.random.default_rng(0)
    for side in range(2, 12):
        inputs = keras.Input((side, side, 1))
        maps = rng.uniform(size=(2, side, side, 1)).astype(np.float32)
        starts = [2 * number for number in range(math.ceil((side - window) / 2) + 1)]
        columns = [[maps[:, y : y + window, x : x + window].max(axis=(1, 2)) for x in starts] for y in starts]
        expected = np.moveaxis(np.array(columns), 2, 0)
        np.testing.assert_array_equal(keras.Model(inputs, _pool(inputs, name))(maps), expected, err_msg=f"{side}")


def test_where_googlenet_pools(build: Callable[..., Network]) -> None:
    model = build("googlenet_torchvision", 224).training
    sides = {name: model.get_layer(name).output.shape[1] for name in WINDOWS}
    assert sides == {"pool1": 56, "pool2": 28, "pool3": 14, "pool4": 7}
    for number in (1, 2):
        assert model.get_layer(f"auxiliary{number}_pool").output.shape[1:3] == (4, 4)


def test_googlenets_branches(build: Callable[..., Network]) -> None:
    model = build("googlenet_torchvision", 224).training
    convolutions = [layer for layer in backbone_layers(model) if isinstance(layer, keras.layers.Conv2D)]
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert len(convolutions) == 57
    assert len(norms) == 57 + 2  # with those of the auxiliary heads
    assert {(layer.epsilon, layer.momentum) for layer in norms} == {(1e-3, 0.9)}
    assert not any(layer.use_bias for layer in convolutions)
    kernels = {layer.name.split("_", 2)[2]: layer.kernel_size[0] for layer in convolutions[3:]}
    assert kernels == {"1_conv": 1, "2_conv1": 1, "2_conv2": 3, "3_conv1": 1, "3_conv2": 3, "4_conv": 1}


@pytest.mark.parametrize("stage", [1, 2, 3, 4, 5])
def test_vgg16_is_that_of_keras_but_for_names_and_pixels(stage: int, build: Callable[..., Network]) -> None:
    ours, theirs = build("vgg16_torchvision", 224).logits, build("vgg16", 224).logits
    for number in range(1, 3 if stage < 3 else 4):
        one, other = ours.get_layer(f"conv{stage}_{number}"), theirs.get_layer(f"block{stage}_conv{number}")
        assert one.get_config() | {"name": ""} == other.get_config() | {"name": ""}
        assert one.output.shape == other.output.shape


@pytest.mark.parametrize(("side", "expected"), [(1, [0, 0, 0, 0]), (2, [0, 0, 1, 1]), (5, [0.5, 1.5, 2.5, 3.5])])
def test_maps_are_averaged_to_a_size_or_repeated(side: int, expected: list[float]) -> None:
    """As PyTorch's adaptive pool, also in a compiled function."""
    inputs = keras.Input((side, side, 1))
    model = keras.Model(inputs, average_to(inputs, 4, "pool"))
    rows = np.broadcast_to(np.arange(side, dtype=np.float32)[:, None, None], (1, side, side, 1))
    for outputs in (model(rows), model.predict(rows, verbose=0)):
        np.testing.assert_allclose(np.asarray(outputs)[0, :, 2, 0], expected)
