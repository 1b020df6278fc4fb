"""Source weights from every type of file, and errors about broken ones."""

from __future__ import annotations

import json
import re
from pathlib import Path

import keras
import numpy as np
import pytest

from cnnstudy.architectures import Network, build_network, find
from cnnstudy.errors import WeightsError
from cnnstudy.training import model_package, weights

pytestmark = pytest.mark.full_width


def fresh(seed: int, name: str = "alexnet") -> Network:
    network = build_network(find(name), find(name).minimum_size, 5, 0.5)
    weights.initialise(network, seed)
    return network


def backbone_digest(network: Network) -> str:
    return weights.combined_digest(weights.layer_digests(weights.backbone_layers(network.logits)))


def write(network: Network, path: Path) -> Path:
    if path.suffix == ".npz":
        weights.save_backbone(network, path)
    elif path.suffix == ".h5":
        from keras.src.legacy.saving import legacy_h5_format

        legacy_h5_format.save_model_to_hdf5(network.inference, str(path))
    else:
        network.inference.save(path)
    return path


@pytest.mark.parametrize("suffix", weights.FILE_TYPES)
def test_each_file_type_carries_the_backbone_over(suffix: str, tmp_path: Path) -> None:
    source, target = fresh(1), fresh(2)
    head = target.logits.get_layer("head_logits").get_weights()
    weights.load_backbone(target, write(source, tmp_path / f"source{suffix}"))
    assert backbone_digest(target) == backbone_digest(source)
    np.testing.assert_array_equal(target.logits.get_layer("head_logits").get_weights()[0], head[0])


def test_weights_as_keras_applications_publishes_them(tmp_path: Path) -> None:
    import h5py

    published = keras.applications.VGG16(include_top=False, weights=None)
    path = tmp_path / "vgg16_notop.h5"
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [layer.name.encode() for layer in published.layers]
        for layer in published.layers:
            group = file.create_group(layer.name)
            names = [f"{layer.name}/{part}:0".encode() for part in ("kernel", "bias")[: len(layer.weights)]]
            group.attrs["weight_names"] = names
            for name, array in zip(names, layer.get_weights(), strict=True):
                group[name.decode()] = array
    network = fresh(1, "vgg16")
    weights.load_backbone(network, path)
    for layer in weights.backbone_layers(network.logits):
        np.testing.assert_array_equal(layer.get_weights()[0], published.get_layer(layer.name).get_weights()[0])


def test_another_networks_weights_are_refused(tmp_path: Path) -> None:
    path = write(fresh(1, "googlenet"), tmp_path / "googlenet.npz")
    with pytest.raises(
        WeightsError, match=r"googlenet.npz: layer 'conv1' has weights of shape .*, not .*11, 11, 3, 48"
    ):
        weights.load_backbone(fresh(2), path)


def test_a_missing_layer_is_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "half.npz", **{"conv1/0": np.zeros((11, 11, 3, 48)), "conv1/1": np.zeros(48)})
    with pytest.raises(WeightsError, match=r"half.npz has no layer 'conv2' of AlexNet .*; it has conv1\."):
        weights.load_backbone(fresh(2), tmp_path / "half.npz")


@pytest.mark.parametrize("name", ["broken.npz", "broken.keras", "broken.h5"])
def test_a_broken_file_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"not weights")
    with pytest.raises(WeightsError, match=f"can't read source weights from .*{re.escape(name)}"):
        weights.load_backbone(fresh(2), tmp_path / name)


@pytest.mark.parametrize(("name", "hint"), [("x.pth", "must be a file of type"), ("x.weights.h5", "names no layers")])
def test_other_file_types_are_refused(name: str, hint: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(WeightsError, match=hint):
        weights.load_backbone(fresh(2), tmp_path / name)


@pytest.mark.parametrize(
    ("name", "file"), [("vgg16", "vgg16_weights_"), ("keras:MobileNetV2", "mobilenet_v2_weights_")]
)
def test_imagenet_without_network_says_what_to_put_where(
    name: str, file: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise Exception("URL fetch failure")

    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr(keras.utils, "get_file", fail)
    place = re.escape(str(tmp_path / "models" / file))
    path = re.escape(f"or give its path as `weights: {{{name}: {{source: imagenet, file: PATH}}}}`")
    with pytest.raises(WeightsError, match=rf"can't download https://.*/{file}.*: put the file at {place}.* {path}"):
        weights.imagenet_file(find(name))


def test_only_vgg16_has_imagenet_weights() -> None:
    with pytest.raises(WeightsError, match="no imagenet weights for alexnet; use pretrain or file"):
        weights.imagenet_file(find("alexnet"))


def test_the_packaged_model_takes_raw_images_and_none_that_are_scaled(tmp_path: Path) -> None:
    import mlflow
    from mlflow.exceptions import MlflowException

    network = fresh(1)
    model_package.save_model(network.inference, tmp_path / "model", ["one", "two", "three", "vier ä", "5"])
    loaded = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    np.testing.assert_allclose(loaded.predict(images), network.inference.predict(images, verbose=0), atol=1e-6)
    with pytest.raises(MlflowException, match="not whole numbers of 0 to 255; the model scales them itself"):
        loaded.predict(images / 255)
    requirements = (tmp_path / "model" / "requirements.txt").read_text()
    assert "tensorflow==" in requirements
    assert "cnnstudy" not in requirements
    assert json.loads((tmp_path / "model" / "classes.json").read_text("utf-8")) == [
        "one",
        "two",
        "three",
        "vier ä",
        "5",
    ]
