"""AlexNet at half width, layer by layer, against one column of the paper's figure 2."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from cnnstudy import architectures
from cnnstudy.architectures import Network

#: Output at 224 pixels, and parameters: (kernel * kernel * channels in + 1) * filters.
LAYERS = {
    "pad": ((227, 227, 3), 0),
    "conv1": ((55, 55, 48), (11 * 11 * 3 + 1) * 48),
    "conv1_pool": ((27, 27, 48), 0),
    "conv2": ((27, 27, 128), (5 * 5 * 48 + 1) * 128),
    "conv2_pool": ((13, 13, 128), 0),
    "conv3": ((13, 13, 192), (3 * 3 * 128 + 1) * 192),
    "conv4": ((13, 13, 192), (3 * 3 * 192 + 1) * 192),
    "conv5": ((13, 13, 128), (3 * 3 * 192 + 1) * 128),
    "conv5_pool": ((6, 6, 128), 0),
    "head_flatten": ((4608,), 0),
    "head_dense1": ((2048,), (4608 + 1) * 2048),
    "head_dense2": ((2048,), (2048 + 1) * 2048),
    "head_logits": ((5,), (2048 + 1) * 5),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layer(name: str, build: Callable[..., Network]) -> None:
    layer = build("alexnet", 224).inference.get_layer(name)
    shape, parameters = LAYERS[name]
    assert layer.output.shape[1:] == shape
    assert layer.count_params() == parameters


def test_parameters(build: Callable[..., Network]) -> None:
    assert build("alexnet", 224).inference.count_params() == 14_591_685
    assert sum(parameters for _, parameters in LAYERS.values()) == 14_591_685
    # 995 more classes, each with 2,048 weights and a bias
    assert build("alexnet", 224, 1000).inference.count_params() == 14_591_685 + 995 * 2049 == 16_630_440


def test_pools_overlap_and_only_where_the_paper_has_them(build: Callable[..., Network]) -> None:
    pools = {layer.name: layer for layer in build("alexnet", 224).inference.layers if hasattr(layer, "pool_size")}
    assert list(pools) == ["conv1_pool", "conv2_pool", "conv5_pool"]
    assert {(pool.pool_size, pool.strides, pool.padding) for pool in pools.values()} == {((3, 3), (2, 2), "valid")}


def test_preprocessing_scales_to_one_and_pads_1_and_2(build: Callable[..., Network]) -> None:
    import keras

    model = build("alexnet", 224).inference
    raw = np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3), dtype=np.uint8)
    padded = np.asarray(keras.Model(model.input, model.get_layer("pad").output)(raw))
    np.testing.assert_allclose(padded[:, 1:-2, 1:-2], raw / 255, atol=1e-6)
    assert not padded[:, :1].any()
    assert not padded[:, -2:].any()
    assert not padded[:, :, :1].any()
    assert not padded[:, :, -2:].any()


def test_64_pixels_are_the_fewest(build: Callable[..., Network]) -> None:
    # 67 padded -> (67 - 11) // 4 + 1 = 15 -> 7 -> 3 -> 1
    assert build("alexnet", 64).inference.get_layer("conv5_pool").output.shape[1:] == (1, 1, 128)
    # 66 padded -> 14 -> 6 -> 2, where no window of 3 fits
    with pytest.raises(ValueError, match="zero or negative"):
        architectures.find("alexnet").build(63, 5, 0.5, 0.7)
