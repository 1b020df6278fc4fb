"""Weights of PyTorch and Keras become files of source weights; those of other networks are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from cnnstudy.architectures import Network, build_network, find, names
from cnnstudy.errors import WeightsError
from cnnstudy.training import weights
from cnnstudy.training.weight_import import Imported, import_weights, read_about

from .test_weight_files import write_safetensors
from .torch_files import as_torchvision, write_torch


def network(name: str, seed: int = 0) -> Network:
    """Build a network whose statistics are not those of a fresh one."""
    built = build_network(find(name), find(name).minimum_size, 5, 0.5)
    weights.initialise(built, seed)
    rng = np.random.default_rng(seed)
    for layer in weights.backbone_layers(built.logits):
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([rng.uniform(0.5, 1.5, weight.shape) for weight in layer.weights])
    return built


def layers_of(built: Network) -> dict[str, list[np.ndarray]]:
    return {layer.name: layer.get_weights() for layer in weights.backbone_layers(built.logits)}


def bring_in(name: str, path: Path, **given: str) -> tuple[Imported, Path]:
    target = path.parent / "weights" / "mine.npz"
    return import_weights(find(name), path, target, given.get("source", ""), given.get("licence", "")), target


def require_equal(target: Path, source: Network) -> None:
    loaded = network(source.architecture.name, 1)
    weights.load_backbone(loaded, target)
    for name, arrays in layers_of(source).items():
        for array, found in zip(arrays, layers_of(loaded)[name], strict=True):
            np.testing.assert_array_equal(found, array, err_msg=name)


# ---- PyTorch


TORCHVISION = [name for name in names() if find(name).torchvision_name is not None]


@pytest.mark.parametrize("name", TORCHVISION)
def test_weights_of_torchvision(name: str, tmp_path: Path) -> None:
    source = network(name)
    path = write_torch(tmp_path / "best.pth", as_torchvision(name, layers_of(source)))
    about, target = bring_in(name, path, source="https://download.pytorch.org/models/x.pth", licence="BSD")
    require_equal(target, source)
    assert read_about(target) == about
    assert (about.network, about.kind, about.classes, about.licence) == (name, "PyTorch", 7, "BSD")
    assert about.source == "https://download.pytorch.org/models/x.pth"
    assert about.preprocessing == find(name).preprocessing
    assert len(about.sha256) == 64


def test_the_networks_of_torchvision() -> None:
    assert set(TORCHVISION) == {
        *("alexnet_torchvision", "googlenet_torchvision", "vgg16_torchvision", "resnet18", "resnet50")
    }


@pytest.mark.parametrize(
    ("name", "named", "count"),
    [
        (
            "resnet50",
            {
                "conv1_conv": "conv1",
                "conv1_norm": "bn1",
                "conv2_block1_conv1": "layer1.0.conv1",
                "conv4_block6_norm3": "layer3.5.bn3",
                "conv5_block1_skip_conv": "layer4.0.downsample.0",
                "conv5_block1_skip_norm": "layer4.0.downsample.1",
                "head_logits": "fc",
            },
            53 * 2 + 1,
        ),
        (
            "googlenet_torchvision",
            {
                "conv1_conv": "conv1.conv",
                "conv3_norm": "conv3.bn",
                "inception_3a_1_conv": "inception3a.branch1.conv",
                "inception_4e_2_norm1": "inception4e.branch2.0.bn",
                "inception_5b_3_conv2": "inception5b.branch3.1.conv",
                "inception_5b_4_conv": "inception5b.branch4.1.conv",
                "auxiliary2_norm": "aux2.conv.bn",
                "auxiliary1_dense": "aux1.fc1",
                "auxiliary1_logits": "aux1.fc2",
                "head_logits": "fc",
            },
            (3 + 9 * 6) * 2 + 2 * 4 + 1,
        ),
        ("alexnet_torchvision", {"conv5": "features.10", "head_dense1": "classifier.1"}, 5 + 3),
        ("vgg16_torchvision", {"conv1_1": "features.0", "conv5_3": "features.28", "head_logits": "classifier.6"}, 16),
    ],
)
def test_names_of_torchvision(name: str, named: dict[str, str], count: int) -> None:
    name_of = find(name).torchvision_name
    assert name_of is not None
    assert {layer: name_of(layer) for layer in named} == named
    every = [name_of(layer.name) for layer in network(name).training.layers if layer.weights]
    assert len(set(every)) == len(every) == count


def test_safetensors_without_a_classifier(tmp_path: Path) -> None:
    source = network("resnet18")
    tensors = as_torchvision("resnet18", layers_of(source))
    del tensors["fc.weight"], tensors["fc.bias"]
    path = write_safetensors(
        tmp_path / "w.safetensors",
        {
            name: ("F32", list(array.shape), np.ascontiguousarray(array, "<f4").tobytes())
            for name, array in tensors.items()
        },
    )
    about, target = bring_in("resnet18", path)
    require_equal(target, source)
    assert (about.kind, about.classes, about.source) == ("safetensors", None, "w.safetensors")
    assert "may have a licence of their own" in about.licence


@pytest.mark.parametrize(
    ("written", "asked", "text"),
    [
        (
            "resnet18",
            "resnet50",
            "does not hold weights of ResNet 50: it lacks 165 of 265 tensors, such as 'layer1.0.bn3",
        ),
        ("resnet50", "resnet18", "does not hold weights of ResNet 18: it has 165 others, such as 'layer1.0.bn3"),
        ("resnet18", "vgg16", "VGG16 is not the same network there, or takes other pixels, .* vgg16_torchvision"),
        ("vgg16_torchvision", "vgg16", "VGG16 is not the same network there, or takes other pixels"),
        ("vgg16_torchvision", "alexnet_torchvision", "of AlexNet of torchvision: it lacks 6 of 10 tensors, such as"),
        ("alexnet_torchvision", "vgg16_torchvision", "of VGG16 of torchvision: it lacks 22 of 26 tensors, such as"),
        ("googlenet_torchvision", "googlenet", r"GoogLeNet \(Inception v1\) is not the same network there"),
        ("googlenet_torchvision", "resnet18", "it lacks 100 of 100 tensors, .* and it has 287 others"),
        ("resnet18", "keras:ResNet50", "ResNet50 of keras.applications is not the same network there"),
    ],
)
def test_tensors_of_another_network_are_refused(written: str, asked: str, text: str, tmp_path: Path) -> None:
    path = write_torch(tmp_path / "w.pth", as_torchvision(written, layers_of(network(written))))
    with pytest.raises(WeightsError, match=text):
        bring_in(asked, path)
    assert not (tmp_path / "weights").exists()


@pytest.mark.parametrize(
    ("tensor", "value", "text"),
    [
        (
            "layer1.0.conv1.weight",
            np.ones((8, 9, 3, 3)),
            r"'layer1.0.conv1.weight' has the shape \(8, 9, 3, 3\), which",
        ),
        ("bn1.running_var", np.full(8, np.nan), "layer 'conv1_norm' holds numbers that are not finite"),
        ("layer1.0.extra.weight", np.ones(3), "it has 1 others, such as 'layer1.0.extra.weight'"),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(tensor: str, value: np.ndarray, text: str, tmp_path: Path) -> None:
    tensors = as_torchvision("resnet18", layers_of(network("resnet18"))) | {tensor: value}
    with pytest.raises(WeightsError, match=text):
        bring_in("resnet18", write_torch(tmp_path / "w.pth", tensors))


@pytest.mark.parametrize(("written", "asked"), [("vgg16", "vgg16_torchvision"), ("vgg16_torchvision", "vgg16")])
def test_weights_for_other_pixels_are_not_taken_for_ours(written: str, asked: str, tmp_path: Path) -> None:
    """Keras' VGG16 and torchvision's have weights of the same shapes."""
    network(written).inference.save(tmp_path / "w.keras")
    with pytest.raises(WeightsError, match=r"it lacks 13 layers, such as"):
        bring_in(asked, tmp_path / "w.keras")


# ---- Keras


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5", ".h5", ".npz"])
@pytest.mark.parametrize("name", ["vgg16", "resnet18"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_files_of_keras_and_of_pretraining(name: str, suffix: str, tmp_path: Path) -> None:
    source, path = network(name), tmp_path / f"w{suffix}"
    if suffix == ".npz":
        weights.save_backbone(source, path)
    elif suffix == ".weights.h5":
        source.inference.save_weights(path)
    else:
        source.inference.save(path)
    renamed = path.rename(tmp_path / "downloaded")
    about, target = bring_in(name, renamed)
    require_equal(target, source)
    assert about.classes == (None if suffix == ".npz" else 5)


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5", ".h5"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_network_inside_a_sequential(suffix: str, tmp_path: Path) -> None:
    """As in most tutorials: keras.Sequential([VGG16(include_top=False), Flatten(), Dense(5)])."""
    source = network("vgg16")
    inner = keras.Model(
        source.logits.get_layer("block1_conv1").input, source.logits.get_layer("block5_pool").output, name="vgg16"
    )
    model = keras.Sequential([inner, keras.layers.Flatten(), keras.layers.Dense(3)])
    path = tmp_path / f"w{suffix}"
    (model.save_weights if suffix == ".weights.h5" else model.save)(path)
    about, target = bring_in("vgg16", path)
    require_equal(target, source)
    assert about.classes == 3


@pytest.mark.full_width
@pytest.mark.parametrize("form", ["save", "save_weights"])
def test_a_network_of_keras_applications(form: str, tmp_path: Path) -> None:
    made = keras.applications.MobileNetV2(weights=None, input_shape=(32, 32, 3), classes=4)
    path = tmp_path / ("w.keras" if form == "save" else "w.weights.h5")
    getattr(made, form)(path)
    about, target = bring_in("keras:MobileNetV2", path)
    loaded = network("keras:MobileNetV2")
    weights.load_backbone(loaded, target)
    for layer in weights.backbone_layers(loaded.logits):
        for array, found in zip(made.get_layer(layer.name).get_weights(), layer.get_weights(), strict=True):
            np.testing.assert_array_equal(found, array, err_msg=layer.name)
    assert about.classes == 4


def saved(tmp_path: Path, *layers: Any) -> Path:
    keras.Sequential([keras.Input((32, 32, 3)), *layers]).save(tmp_path / "w.keras")
    return tmp_path / "w.keras"


def test_a_larger_network_with_the_same_names_is_refused(tmp_path: Path) -> None:
    """Such as ResNet101's file for ResNet50, whose layers it has as well."""
    source = network("vgg16")
    more = keras.layers.Conv2D(8, 3, padding="same", name="block5_conv4")(
        source.logits.get_layer("block5_conv3").output
    )
    keras.Model(source.logits.input, more).save(tmp_path / "w.keras")
    with pytest.raises(WeightsError, match="weights of VGG16 alone: it also has 1 layers, such as block5_conv4"):
        bring_in("vgg16", tmp_path / "w.keras")


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        (
            keras.layers.Conv2D(4, 3, name="other"),
            "it lacks 13 layers, such as block1_conv1, block1_conv2, .* It has oth",
        ),
        (keras.layers.Conv2D(4, 3, name="block1_conv1"), "it lacks 12 layers, such as block1_conv2"),
    ],
)
def test_layers_of_another_network_are_refused(layer: keras.layers.Layer, text: str, tmp_path: Path) -> None:
    fresh = type(layer).from_config(layer.get_config())
    with pytest.raises(WeightsError, match=text):
        bring_in("vgg16", saved(tmp_path, fresh))


def test_a_file_that_was_not_imported_says_nothing_of_itself(tmp_path: Path) -> None:
    weights.save_backbone(network("vgg16"), tmp_path / "w.npz")
    assert read_about(tmp_path / "w.npz") is None
