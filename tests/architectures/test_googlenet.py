"""GoogLeNet, layer by layer, against the paper's table 1 and section 5."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from cnnstudy.architectures import Network

#: Table 1: filters 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool projection; side at 224 pixels.
INCEPTION = {
    "3a": ((64, 96, 128, 16, 32, 32), 28),
    "3b": ((128, 128, 192, 32, 96, 64), 28),
    "4a": ((192, 96, 208, 16, 48, 64), 14),
    "4b": ((160, 112, 224, 24, 64, 64), 14),
    "4c": ((128, 128, 256, 24, 64, 64), 14),
    "4d": ((112, 144, 288, 32, 64, 64), 14),
    "4e": ((256, 160, 320, 32, 128, 128), 14),
    "5a": ((256, 160, 320, 32, 128, 128), 7),
    "5b": ((384, 192, 384, 48, 128, 128), 7),
}
OUTPUTS = {"3a": 256, "3b": 480, "4a": 512, "4b": 512, "4c": 512, "4d": 528, "4e": 832, "5a": 832, "5b": 1024}
BEFORE = {"3a": "pool2", "4a": "pool3", "5a": "pool4"}  # where it is not the block before
BRANCHES = ("1x1", "3x3_reduce", "3x3", "5x5_reduce", "5x5", "projection")


@pytest.mark.parametrize("block", INCEPTION)
def test_inception_block(block: str, build: Callable[..., Network]) -> None:
    model = build("googlenet", 224).inference
    filters, side = INCEPTION[block]
    layers = {branch: model.get_layer(f"inception_{block}_{branch}") for branch in (*BRANCHES, "pool", "output")}
    assert tuple(layers[branch].output.shape[-1] for branch in BRANCHES) == filters
    assert [layers[branch].kernel_size[0] for branch in BRANCHES] == [1, 1, 3, 1, 5, 1]
    assert {layers[branch].activation.__name__ for branch in BRANCHES} == {"relu"}
    assert (layers["pool"].pool_size, layers["pool"].strides) == ((3, 3), (1, 1))
    # what feeds what
    earlier = list(INCEPTION)[list(INCEPTION).index(block) - 1]
    before = model.get_layer(BEFORE.get(block, f"inception_{earlier}_output")).output
    assert all(layers[branch].input is before for branch in ("1x1", "3x3_reduce", "5x5_reduce", "pool"))
    for branch, source in (("3x3", "3x3_reduce"), ("5x5", "5x5_reduce"), ("projection", "pool")):
        assert layers[branch].input is layers[source].output
    ends = [layers[branch].output for branch in ("1x1", "3x3", "5x5", "projection")]
    assert all(given is end for given, end in zip(layers["output"].input, ends, strict=True))
    assert layers["output"].output.shape[1:] == (side, side, OUTPUTS[block])


@pytest.mark.parametrize(
    ("name", "shape", "parameters"),
    [
        ("conv1", (112, 112, 64), (7 * 7 * 3 + 1) * 64),
        ("pool1", (56, 56, 64), 0),
        ("conv2_reduce", (56, 56, 64), (64 + 1) * 64),
        ("conv2", (56, 56, 192), (3 * 3 * 64 + 1) * 192),
        ("pool2", (28, 28, 192), 0),
        ("pool3", (14, 14, 480), 0),
        ("pool4", (7, 7, 832), 0),
        ("head_pool", (1024,), 0),
        ("head_logits", (5,), (1024 + 1) * 5),
    ],
)
def test_layer_outside_the_blocks(
    name: str, shape: tuple[int, ...], parameters: int, build: Callable[..., Network]
) -> None:
    layer = build("googlenet", 224).inference.get_layer(name)
    assert layer.output.shape[1:] == shape
    assert layer.count_params() == parameters


# pool 5/3: 14 -> (14 - 5) // 3 + 1 = 4; flattened 4 * 4 * 128
@pytest.mark.parametrize(("number", "block", "parameters"), [(1, "4a", 2_168_965), (2, "4d", 2_171_013)])
def test_auxiliary_head(number: int, block: str, parameters: int, build: Callable[..., Network]) -> None:
    model = build("googlenet", 224).training
    layers = {
        layer.name.removeprefix(f"auxiliary{number}_"): layer
        for layer in model.layers
        if layer.name.startswith(f"auxiliary{number}")
    }
    assert list(layers) == ["pool", "conv", "flatten", "dropout1", "dense", "dropout2", "logits"]
    assert layers["pool"].input is model.get_layer(f"inception_{block}_output").output
    assert (layers["pool"].pool_size, layers["pool"].strides) == ((5, 5), (3, 3))
    assert layers["pool"].output.shape[1:] == (4, 4, OUTPUTS[block])
    assert layers["conv"].kernel_size == (1, 1)
    assert layers["flatten"].output.shape[1:] == (2048,)
    assert layers["dense"].output.shape[1:] == (1024,)
    assert layers["dropout1"].rate == layers["dropout2"].rate == 0.7
    assert sum(layer.count_params() for layer in layers.values()) == parameters
    assert model.outputs[number] is layers["logits"].output


def test_parameters(build: Callable[..., Network]) -> None:
    network = build("googlenet", 224)
    assert network.inference.count_params() == 5_978_677
    assert network.training.count_params() == 5_978_677 + 2_168_965 + 2_171_013 == 10_318_655
    original = build("googlenet", 224, 1000)
    assert original.inference.count_params() == 6_998_552
    assert original.training.count_params() == 13_378_280


def test_the_global_pool_is_the_papers_7x7_pool(build: Callable[..., Network]) -> None:
    import keras

    last = np.random.default_rng(0).normal(size=(2, 7, 7, 1024)).astype(np.float32)
    ours = build("googlenet", 224).inference.get_layer("head_pool")(last)
    papers = keras.layers.AveragePooling2D(7, 1)(last)
    np.testing.assert_allclose(ours, np.reshape(papers, (2, 1024)), atol=1e-6)


# side of the map that the auxiliary heads pool: a sixteenth of the image, rounded up four times
@pytest.mark.parametrize(("size", "side", "pooled"), [(32, 2, 1), (80, 5, 1), (192, 12, 3), (193, 13, 3)])
def test_other_sizes(size: int, side: int, pooled: int, build: Callable[..., Network]) -> None:
    model = build("googlenet", size).training
    assert model.get_layer("inception_4a_output").output.shape[1:] == (side, side, 512)
    assert model.get_layer("auxiliary1_pool").output.shape[1:] == (pooled, pooled, 512)
    outputs = model(np.full((1, size, size, 3), 128, np.uint8))
    assert [output.shape for output in outputs] == [(1, 5)] * 3
    assert np.isfinite(outputs).all()
