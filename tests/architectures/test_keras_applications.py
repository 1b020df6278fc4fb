"""Networks of keras.applications: pixels as their weights expect them, stages, and files of weights as published."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest

from cnnstudy import architectures
from cnnstudy.architectures import IMAGENET_DEVIATIONS, IMAGENET_MEANS, Network, _keras_applications
from cnnstudy.errors import UnknownNameError, WeightsError
from cnnstudy.training import weights

#: One of each way to scale pixels, and of each way to name layers; the others are thorough.
QUICK = ("EfficientNetB0", "EfficientNetV2B0", "MobileNetV2", "MobileNetV3Small", "ResNet50", "VGG19", "Xception")
#: Several GB each, and built by the same code as smaller ones: only their pixels are looked at.
LARGE = ("ConvNeXtLarge", "ConvNeXtXLarge", "NASNetLarge")
PUBLISHED = sorted(name for name in dir(keras.applications) if name[0].isupper())
ALL = [name if name in QUICK else pytest.param(name, marks=pytest.mark.thorough) for name in PUBLISHED]
BUT_LARGE = [
    name if name in QUICK else pytest.param(name, marks=pytest.mark.thorough) for name in PUBLISHED if name not in LARGE
]


@pytest.fixture
def zeros(monkeypatch: pytest.MonkeyPatch) -> None:
    """Build networks without drawing their weights, which takes most of the time."""
    zero = keras.initializers.Zeros()
    for kind in ("VarianceScaling", "RandomNormal", "TruncatedNormal", "RandomUniform"):
        monkeypatch.setattr(
            getattr(keras.initializers, kind), "__call__", lambda self, shape, dtype=None: zero(shape, dtype)
        )


def made(name: str, size: int, **given: Any) -> keras.Model:
    network: keras.Model = getattr(keras.applications, name)(
        include_top=False, input_shape=(size, size, 3), **{"weights": None, **given}
    )
    return network


def side(name: str) -> int:
    return architectures.find(f"keras:{name}").minimum_size


def first_convolution(model: keras.Model) -> Any:
    """Return the tensor that reaches the first layer that learns, before its padding."""
    preprocessing = keras.layers.Normalization | keras.layers.Rescaling
    x = next(layer.input for layer in model.layers if layer.weights and not isinstance(layer, preprocessing))
    producer = next((layer for layer in model.layers if layer.output is x), None)
    return producer.input if isinstance(producer, keras.layers.ZeroPadding2D) else x


def preprocess_of(name: str) -> Callable[[np.ndarray], np.ndarray]:
    """Return the `preprocess_input` of the module of keras.applications that has the network."""
    modules = [getattr(keras.applications, one) for one in dir(keras.applications)]
    own = [one for one in modules if hasattr(one, "preprocess_input") and hasattr(one, name)]
    found = own[0] if own else keras.applications.mobilenet_v3  # which does not have its networks
    assert own or name.startswith("MobileNetV3")
    return found.preprocess_input  # type: ignore[no-any-return]


def write_h5(model: keras.Model, path: Path) -> Path:
    """Write a file as Keras publishes them: layers in their order, with numbers of the process that wrote it."""
    with h5py.File(path, "w") as file:
        names = [
            re.sub(r"(_\d+)?$", f"_{1000 + number}", layer.name, count=1) for number, layer in enumerate(model.layers)
        ]
        file.attrs["layer_names"] = names
        for name, layer in zip(names, model.layers, strict=True):
            group = file.create_group(name)
            group.attrs["weight_names"] = [f"{name}/{number}" for number in range(len(layer.weights))]
            for number, array in enumerate(layer.get_weights()):
                group[f"{name}/{number}"] = array
    return path


def normalise_as_published(model: keras.Model) -> None:
    for layer in model.layers:
        if isinstance(layer, keras.layers.Normalization) and layer.weights:
            layer.set_weights([np.array(IMAGENET_MEANS), np.array(IMAGENET_DEVIATIONS), np.array(0)])


def with_its_preprocessing(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> keras.Model:
    """Return the network as Keras builds it for ImageNet weights, which adds a layer to EfficientNet."""
    network = made(name, side(name))
    if not re.match(r"EfficientNetB\d", name):
        return network
    normalise_as_published(network)
    file = write_h5(network, folder / "published.h5")
    monkeypatch.setattr(keras.src.utils.file_utils, "get_file", lambda *_, **__: str(file))
    return made(name, side(name), weights="imagenet")


def test_every_network_of_keras_applications_is_there() -> None:
    assert sorted(_keras_applications.FILES) == PUBLISHED


@pytest.mark.usefixtures("zeros")
@pytest.mark.parametrize("name", ALL)
def test_pixels_reach_the_first_layer_as_weights_expect_them(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = np.random.default_rng(0).integers(0, 256, (2, side(name), side(name), 3), dtype=np.uint8)
    theirs = with_its_preprocessing(name, tmp_path, monkeypatch)
    expected = np.asarray(
        keras.Model(theirs.input, first_convolution(theirs))(preprocess_of(name)(raw.astype(np.float32)))
    )
    del theirs
    ours = architectures.build_network(architectures.find(f"keras:{name}"), side(name), 5, 0.2).inference
    found = np.asarray(keras.Model(ours.input, first_convolution(ours))(raw))
    assert np.ptp(expected) > 1.5
    np.testing.assert_allclose(found, expected, atol=2e-6 * np.abs(expected).max())


@pytest.mark.usefixtures("zeros")
@pytest.mark.parametrize("name", BUT_LARGE)
def test_the_last_block_is_what_has_the_lowest_resolution(name: str) -> None:
    architecture = architectures.find(f"keras:{name}")
    network = architectures.build_network(architecture, max(96, side(name)), 5, 0.2)
    backbone = weights.backbone_layers(network.logits)
    lowest = network.logits.get_layer("head_pool").input.shape[1]
    trained = [layer.name for layer in backbone if layer.name.startswith(architecture.cut_points["last-block"])]
    # of squeezed tensors [b, 1, 1, channels] no resolution is known
    at_lowest = [layer.name for layer in backbone if layer.output.shape[1] == lowest != 1]
    without = [layer for layer in at_lowest if layer not in trained]
    # ResNet V2 halves the resolution at the end of the block before
    assert [layer for layer in without if not (name.endswith("V2") and layer.startswith("conv4_"))] == []
    assert 0 < len(trained) < 0.6 * len(backbone)
    numbered = r"(conv2d|batch_normalization|dense|layer_normalization)(_\d+)?"
    assert not [layer.name for layer in backbone if re.fullmatch(numbered, layer.name)]


@pytest.mark.usefixtures("zeros")
@pytest.mark.parametrize("name", BUT_LARGE)
def test_a_file_in_the_order_of_keras_gives_what_keras_gives(name: str, tmp_path: Path) -> None:
    theirs, rng = made(name, side(name)), np.random.default_rng(0)
    for variable in theirs.weights:
        if any(word in variable.path for word in ("variance", "gamma", "layer_scale")):
            variable.assign(rng.uniform(0.8, 1.2, variable.shape))
        elif len(variable.shape) > 1:  # of a depthwise convolution, each kernel sees one channel
            seen = np.prod(variable.shape[: 2 if "depthwise" in variable.path or "dw" in variable.path else -1])
            variable.assign(rng.normal(0, np.sqrt(2 / seen), variable.shape))
        else:
            variable.assign(rng.normal(0, 0.05, variable.shape))
    normalise_as_published(theirs)
    path = write_h5(theirs, tmp_path / "published.h5")
    network = architectures.build_network(architectures.find(f"keras:{name}"), side(name), 5, 0.2)
    weights.load_backbone(network, path)
    pixels = rng.uniform(-30, 30, (2, side(name), side(name), 3)).astype(np.float32)
    ours = keras.Model(first_convolution(network.logits), network.logits.get_layer("head_pool").output)
    found = np.asarray(ours(pixels))
    expected = np.asarray(keras.Model(first_convolution(theirs), theirs.output)(pixels)).mean((1, 2))
    assert np.ptp(expected, axis=0).max() > 1e-3 * np.abs(expected).max(), "the two images differ"
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_a_file_of_another_network_is_refused(tmp_path: Path, build: Callable[..., Network]) -> None:
    path = write_h5(made("MobileNet", 32), tmp_path / "mobilenet.h5")
    with pytest.raises(WeightsError, match=r"mobilenet.h5 has 54 layers with weights, and the network .* head 104"):
        weights.load_backbone(build("keras:MobileNetV2", 32), path)


def test_a_file_with_another_preprocessing_is_refused(tmp_path: Path, build: Callable[..., Network]) -> None:
    path = write_h5(made("EfficientNetB0", 32), tmp_path / "mine.h5")
    with pytest.raises(WeightsError, match="scales images in another way than the published weights do"):
        weights.load_backbone(build("keras:EfficientNetB0", 32), path)


@pytest.mark.usefixtures("zeros")
@pytest.mark.parametrize("name", BUT_LARGE)
def test_the_file_is_the_one_that_keras_downloads(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str, str]] = []

    def record(file_name: str, origin: str, file_hash: str | None = None, **_: object) -> None:
        asked.append((file_name, origin, file_hash or ""))
        raise InterruptedError

    monkeypatch.setattr(keras.src.utils.file_utils, "get_file", record)
    with pytest.raises(InterruptedError):
        made(name, 224, weights="imagenet")
    imagenet = architectures.find(f"keras:{name}").imagenet
    assert imagenet is not None
    assert asked == [(imagenet.file_name, imagenet.url, imagenet.file_hash)]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("keras:MobilNetV2", "no network 'MobilNetV2'; did you mean 'keras:MobileNetV2'"),
        ("keras:mobilenetv2", "did you mean 'keras:MobileNetV2'"),
        ("keras:", "It has ConvNeXtBase, "),
        ("mobilenet", "those of keras.applications, such as keras:MobileNetV2"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(given: str, message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        architectures.find(given)
