"""VGG16, layer by layer, against column D of the paper's table 1; and what its ImageNet weights expect."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from cnnstudy import architectures
from cnnstudy.architectures import Network
from cnnstudy.training import weights

#: Side at 224 pixels, filters and convolutions of each block; channels in are the filters of the block before.
BLOCKS = {1: (224, 64, 2), 2: (112, 128, 2), 3: (56, 256, 3), 4: (28, 512, 3), 5: (14, 512, 3)}


@pytest.mark.parametrize("block", BLOCKS)
def test_block(block: int, build: Callable[..., Network]) -> None:
    side, filters, convolutions = BLOCKS[block]
    channels = BLOCKS[block - 1][1] if block > 1 else 3
    model = build("vgg16", 224).inference
    names = [layer.name for layer in model.layers if layer.name.startswith(f"block{block}")]
    assert names == [*(f"block{block}_conv{number + 1}" for number in range(convolutions)), f"block{block}_pool"]
    for name in names[:-1]:
        layer = model.get_layer(name)
        assert layer.kernel.shape == (3, 3, channels, filters)
        assert layer.strides == (1, 1)
        assert layer.activation.__name__ == "relu"
        assert layer.output.shape[1:] == (side, side, filters)
        assert layer.count_params() == (9 * channels + 1) * filters
        channels = filters
    pool = model.get_layer(names[-1])
    assert pool.pool_size == pool.strides == (2, 2)
    assert pool.output.shape[1:] == (side // 2, side // 2, filters)


def test_parameters(build: Callable[..., Network]) -> None:
    network = build("vgg16", 224)
    backbone = {layer.name: layer.count_params() for layer in weights.backbone_layers(network.logits)}
    assert len(backbone) == 13
    assert sum(backbone.values()) == 14_714_688
    assert sum(count for name, count in backbone.items() if name.startswith("block5")) == 7_079_424
    head = [layer.count_params() for layer in network.logits.layers if layer.name.startswith("head_") and layer.weights]
    assert head == [(7 * 7 * 512 + 1) * 1024, (1024 + 1) * 1024, (1024 + 1) * 5]
    assert sum(head) == 26_745_861
    assert network.inference.count_params() == 14_714_688 + 26_745_861 == 41_460_549


def test_preprocessing_is_that_of_keras_applications(build: Callable[..., Network]) -> None:
    import keras

    model = build("vgg16", 224).inference
    raw = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)
    inside = keras.Model(model.input, model.get_layer("block1_conv1").input)(raw)
    expected = keras.applications.vgg16.preprocess_input(raw.astype(np.float32))  # changes its argument
    np.testing.assert_allclose(inside, expected, atol=1e-4)
    black = np.zeros((1, 224, 224, 3), np.uint8)
    inside = keras.Model(model.input, model.get_layer("block1_conv1").input)(black)
    np.testing.assert_allclose(inside[0, 0, 0], [-103.939, -116.779, -123.68], atol=1e-4)


def test_weights_by_name_are_those_of_keras_applications(build: Callable[..., Network]) -> None:
    import keras

    published = keras.applications.VGG16(include_top=False, weights=None, input_shape=(32, 32, 3))
    expected = {layer.name: [w.shape for w in layer.weights] for layer in published.layers if layer.weights}
    backbone = weights.backbone_layers(build("vgg16", 32).logits)
    assert {layer.name: [w.shape for w in layer.weights] for layer in backbone} == expected


def test_32_pixels_are_the_fewest(build: Callable[..., Network]) -> None:
    assert build("vgg16", 32).inference.get_layer("block5_pool").output.shape[1:] == (1, 1, 512)
    with pytest.raises(ValueError, match="zero or negative"):
        architectures.find("vgg16").build(31, 5, 0.5, 0.7)
