"""ResNet 18 and 50, layer by layer, against the paper's table 1; and what torchvision's weights expect."""

from __future__ import annotations

import math
from collections.abc import Callable

import keras
import numpy as np
import pytest

from cnnstudy.architectures import Network
from cnnstudy.training import weights

#: Blocks of the stages conv2 to conv5, and how many filters a block's last convolution has of its first one's.
STAGES = {"resnet18": ((2, 2, 2, 2), 1), "resnet50": ((3, 4, 6, 3), 4)}
#: With torchvision's 1000 classes: parameters that train, as its documentation states them, and moving statistics.
PARAMETERS = {"resnet18": (11_689_512, 9_600), "resnet50": (25_557_032, 53_120)}


@pytest.mark.parametrize("name", STAGES)
def test_stages(name: str, build: Callable[..., Network]) -> None:
    model = build(name, 224).logits
    blocks, wider = STAGES[name]
    assert model.get_layer("conv1_relu").output.shape[1:] == (112, 112, 64)
    assert model.get_layer("conv2_pool").output.shape[1:] == (56, 56, 64)
    for number, (count, side, filters) in enumerate(zip(blocks, (56, 28, 14, 7), (64, 128, 256, 512), strict=True), 2):
        adds = [layer for layer in model.layers if layer.name.startswith(f"conv{number}_") and "_add" in layer.name]
        assert [layer.name for layer in adds] == [f"conv{number}_block{one}_add" for one in range(1, count + 1)]
        assert {layer.output.shape[1:] for layer in adds} == {(side, side, filters * wider)}


@pytest.mark.parametrize("name", STAGES)
def test_parameters(name: str, build: Callable[..., Network]) -> None:
    network = build(name, 32, 1000)
    trained = sum(math.prod(weight.shape) for weight in network.logits.trainable_weights)
    assert (trained, network.logits.count_params() - trained) == PARAMETERS[name]


def test_the_stride_of_a_bottleneck_is_in_its_3x3_convolution(build: Callable[..., Network]) -> None:
    """Version 1.5; the paper, and keras.applications, have it in the first 1x1."""
    model = build("resnet50", 224).logits
    for stage in (3, 4, 5):
        strides = [model.get_layer(f"conv{stage}_block1_{one}").strides for one in ("conv1", "conv2", "conv3")]
        assert strides == [(1, 1), (2, 2), (1, 1)]


@pytest.mark.parametrize("name", STAGES)
def test_every_convolution_is_padded_by_half_its_kernel_on_all_sides(name: str, build: Callable[..., Network]) -> None:
    """As PyTorch pads. Keras' `same` would pad one side at stride 2."""
    model = build(name, 224).logits
    convolutions = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    for layer in convolutions:
        before = next((one for one in model.layers if one.output is layer.input), None)
        if layer.strides == (1, 1) or layer.kernel_size == (1, 1):
            assert layer.padding == "same"
        else:
            half = layer.kernel_size[0] // 2
            assert (layer.padding, before.padding) == ("valid", ((half, half), (half, half)))
        assert not layer.use_bias
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert len(norms) == len(convolutions)
    assert {(layer.epsilon, layer.momentum) for layer in norms} == {(1e-5, 0.9)}


@pytest.mark.parametrize("name", STAGES)
def test_preprocessing_is_that_of_torchvision(name: str, build: Callable[..., Network]) -> None:
    model = build(name, 32).inference
    raw = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    inside = keras.Model(model.input, model.get_layer("preprocess_normalise").output)(raw)
    expected = (raw / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(inside, expected, atol=1e-5)


@pytest.mark.parametrize("name", STAGES)
def test_the_first_weights_keep_the_scale_of_the_pixels(name: str, build: Callable[..., Network]) -> None:
    """He initialisation: else a network of 50 layers would begin at outputs of nothing or of everything."""
    network = build(name, 64)
    weights.initialise(network, 0)
    outputs = keras.Model(network.logits.input, network.logits.get_layer("conv1_relu").output)
    raw = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    assert 0.3 < np.std(outputs(raw)) < 3
