"""A network of the user's own: what its copy computes, how its layers are named, and what is said of a wrong one."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import own_network
import pytest
from keras import layers

import cnnstudy
from cnnstudy import architectures
from cnnstudy.architectures import Network, _own_network, build_network
from cnnstudy.errors import CacheError, CnnstudyError, ConfigError, UnknownNameError
from cnnstudy.records import plain_name
from cnnstudy.system.cache import cache_folder, entry_folders
from cnnstudy.training import weights

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 48, 48, 3), dtype=np.uint8)
HEADER = "import keras\nfrom keras import layers\n\n\ndef build(image_size):\n"
INPUT = "    images = layers.Input((image_size, image_size, 3))\n"


@pytest.fixture(autouse=True)
def folder(own_places: Path) -> Path:
    return own_places


def build(name: str, size: int = 48) -> Network:
    return build_network(architectures.find(name), size, 5, dropout=0.5)


def write(body: str, name: str = "net.py") -> str:
    Path(name).write_text(HEADER + body, encoding="utf-8")
    return f"file:{name}:build"


def save(model: keras.Model, name: str = "net.keras") -> str:
    model.save(name)
    return f"file:{name}"


def refusal(name: str) -> str:
    with pytest.raises(CnnstudyError) as caught:
        build(name)
    return str(caught.value)


def features(network: Network, image: np.ndarray = IMAGES) -> np.ndarray:
    """What reaches the head."""
    (pool,) = [layer for layer in network.logits.layers if layer.name == "head_pool"]
    return np.asarray(keras.Model(network.logits.inputs[0], pool.input)(image))


def test_the_copy_computes_what_the_model_does(folder: Path) -> None:
    """With the weights of a saved model, through the file that a study would name as `weights`."""
    model = own_network.build(48)
    for layer in model.get_layer("middle").layers + model.layers:
        for number, variable in enumerate(getattr(layer, "variables", ())):
            variable.assign(np.random.default_rng(number).uniform(0.5, 1.5, variable.shape))
    network = build(own_network.WRITTEN)
    weights.initialise(network, seed=0)
    assert not np.allclose(features(network), model(IMAGES), rtol=0.1)
    model.save("weights.keras")
    weights.load_backbone(network, Path("weights.keras"))
    np.testing.assert_allclose(features(network), model(IMAGES), rtol=1e-6)


@pytest.mark.parametrize("application", ["MobileNetV2", "MobileNetV3Small"])
def test_a_network_of_keras_within_it_computes_the_same(application: str) -> None:
    made = getattr(keras.applications, application)(include_top=False, weights=None, input_shape=(48, 48, 3))
    images = layers.Input((48, 48, 3))
    save(keras.Model(images, made(images, training=False)), "whole.keras")
    network = build("file:whole.keras")
    weights.load_backbone(network, Path("whole.keras"))
    np.testing.assert_allclose(features(network), made(IMAGES.astype(np.float32)), rtol=1e-4, atol=1e-5)
    assert len(weights.backbone_layers(network.logits)) == sum(bool(layer.weights) for layer in made.layers)


def test_the_example_of_the_docs() -> None:
    text = (Path(cnnstudy.__file__).parent.parent / "docs" / "networks.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    Path("my_network.py").write_text(example, encoding="utf-8")
    network = build("file:my_network.py:build")
    assert network.architecture.cut_points == {"last-block": ("block3",)}
    assert features(network).shape == (2, 6, 6, 128)


def test_layers_are_named_by_themselves_or_by_their_place() -> None:
    network = build(own_network.WRITTEN)
    assert [layer.name for layer in weights.backbone_layers(network.logits)] == [
        "layer002_conv2d",
        "layer003_batchnormalization",
        "middle_depthwiseconv2d1",
        "middle_batchnormalization2",
        "block3_conv1",
        "block3_conv2",
    ]
    assert network.architecture.cut_points == {"last-block": ("block3",)}


def test_names_do_not_depend_on_what_keras_has_built_before() -> None:
    names = [layer.name for layer in build(own_network.WRITTEN).logits.layers]
    layers.Conv2D(1, 1)
    assert [layer.name for layer in build(own_network.WRITTEN).logits.layers] == names


@pytest.mark.parametrize(
    ("weighted", "expected"),
    [
        ({"block1_conv": False, "block10_conv": False, "block2_conv": False}, ("block2",)),
        ({"block10_conv": False, "block1_conv1": False, "block1_conv2": False}, ("block1_conv1", "block1_conv2")),
        ({"conv4_block1_conv": False, "conv5_block3_conv": False, "post_bn": True}, ("conv5", "post")),
        ({"block_15_expand": False, "block_16_expand": False, "block_16_bn": True}, ("block_16",)),
        ({"stem": False}, ("stem",)),
        ({"stage_conv1": False, "stage_conv2": False}, ("stage_conv2",)),
    ],
)
def test_the_last_block(weighted: dict[str, bool], expected: tuple[str, ...]) -> None:
    assert _own_network.last_stages(weighted) == expected


def test_it_is_known_by_its_content(folder: Path) -> None:
    name = write(f"{INPUT}    return keras.Model(images, layers.Conv2D(4, 3)(images))\n")
    first = architectures.find(name).name
    (folder / "elsewhere").mkdir()
    shutil.copy("net.py", "elsewhere")
    assert architectures.find("file:elsewhere/net.py").name == first  # `build` is what is called by default
    write(f"{INPUT}    return keras.Model(images, layers.Conv2D(8, 3)(images))\n")
    edited = architectures.find(name).name
    assert edited != first
    assert plain_name(edited) == plain_name(first) == "net-build"
    Path("net.py").unlink()  # a trial finds what its study began with
    filters = [build(known).logits.get_layer("layer001_conv2d").filters for known in (first, edited)]
    assert filters == [4, 8]


def test_of_a_saved_model_the_layers_count() -> None:
    def name(filters: int, optimizer: str) -> str:
        made = [layers.Input((48, 48, 3), name="photo"), layers.Conv2D(filters, 3, name="stem")]
        model = keras.Sequential(made, name="net")  # each has weights of its own
        model.compile(optimizer, "mse")
        return architectures.find(save(model)).name

    assert name(4, "sgd") == name(4, "adam") != name(8, "sgd")


def test_cleared_from_the_cache() -> None:
    name = architectures.find(own_network.WRITTEN).name
    (entry,) = entry_folders("networks")
    assert entry.parent == cache_folder() / "networks"
    shutil.rmtree(entry)
    with pytest.raises(UnknownNameError, match="no longer in the cache; give its study file to `run-study` once"):
        architectures.find(name)
    architectures.find(own_network.WRITTEN)
    assert architectures.find(name).name == name


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("    x = 1\n    return undefined\n", "net.py, line 7: NameError: name 'undefined' is not defined."),
        ("    return 3\n", "net.py:build returns 'int'; it must return a Keras model of images"),
        (
            "    import blocks\n",
            "net.py, line 6: ModuleNotFoundError: No module named 'blocks'. A network's file",
        ),
        ("    raise SystemExit(3)\n", "net.py, line 6: SystemExit: 3."),
        ("    return layers.Conv2D(-1, 3)\n", "net.py, line 6: ValueError: Invalid value for argument `filters`."),
        (
            f"{INPUT}    return keras.Model(images, layers.Conv2D(4, 99)(images))\n",
            "net.py, line 7: ValueError: Computed output size would be zero or negative",
        ),
        (
            "    return keras.Sequential([layers.Conv2D(4, 99)])\n",
            "net.py:build can't be built for images of 48 pixels: Computed output size would be zero or negative",
        ),
        (
            f"{INPUT}    return keras.Model(images, layers.Lambda(lambda x: x)(images))\n",
            "the layer 'lambda' is a Lambda, whose code a saved model can't hold.",
        ),
        (
            f"    class Own(layers.Layer):\n        def call(self, x):\n            return x\n\n{INPUT}"
            "    return keras.Model(images, Own()(images))\n",
            "the layer 'own' is of the class Own, which is not one of Keras'",
        ),
        (
            "    class Own(keras.Model):\n        pass\n    return Own(name='whole')\n",
            "net.py:build has the model 'whole', which is a class of its own.",
        ),
        (
            f"{INPUT}    one = layers.Conv2D(3, 3, name='one')\n    return keras.Model(images, one(one(images)))\n",
            "the layer 'one' is called twice; make one for each call.",
        ),
        (
            f"{INPUT}    return keras.Model(images, layers.Conv2D(3, 3, name='head_conv')(images))\n",
            "the layer 'head_conv' has a name that begins with 'head' or 'auxiliary'",
        ),
        (
            f"{INPUT}    x = layers.Dense(3, activation='softmax')(layers.Flatten()(images))\n"
            "    return keras.Model(images, x)\n",
            "which gives probabilities; leave out the network's classifier",
        ),
        (
            f"{INPUT}    return keras.Model([images, layers.Input((3,))], layers.Conv2D(3, 3)(images))\n",
            "must have one input, the images, and one output, the last features.",
        ),
        (
            f"{INPUT}    return keras.Model(images, layers.Reshape((-1, 3))(layers.Conv2D(3, 3)(images)))\n",
            "returns outputs of shape (None, 2116, 3); a network below its head returns maps",
        ),
    ],
)
def test_what_is_wrong_is_told_with_its_place(body: str, said: str) -> None:
    assert said in refusal(write(body))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"def build(image_size)\n    pass\n", "net.py, line 1: expected ':'; this is not valid Python."),
        (b"\0", "this is not valid Python."),
        (b"x = " + b"-" * 20_000 + b"1", "this is not valid Python."),
        (
            b"def make(image_size):\n    pass\n",
            "did you mean 'file:net.py:make'? It has make; the function takes",
        ),
        (b"", "It has none;"),
    ],
)
def test_a_file_is_read_before_it_is_run(text: bytes, said: str) -> None:
    Path("net.py").write_bytes(text)
    with pytest.raises(UnknownNameError) as caught:
        architectures.find("file:net.py:build")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "file:",
        "file:net",
        "file:net.txt:build",
        "file:net.py:a/b.py:c",
        "file:~nobody-here/a.py",
        "file:a\0.py",
        "file:a\0.keras",
    ],
)
def test_a_name_of_no_file(name: str) -> None:
    with pytest.raises(
        UnknownNameError, match=r"names no network; write file:my_network.py:build|can't read|no .keras file"
    ):
        architectures.find(name)


def test_a_cache_that_cannot_be_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "file").touch()
    monkeypatch.setenv("CNNSTUDY_CACHE", str(folder / "file" / "cache"))
    with pytest.raises(CacheError, match="set CNNSTUDY_CACHE to a folder that you can write"):
        architectures.find(own_network.WRITTEN)


def test_a_function_that_takes_something_else() -> None:
    Path("net.py").write_text("def build():\n    pass\n", encoding="utf-8")
    assert "The function takes one argument, the image size in pixels." in refusal("file:net.py:build")


# ---- .keras files


def test_a_lambda_in_a_saved_model_is_refused_unread() -> None:
    images = layers.Input((48, 48, 3))
    with pytest.raises(ConfigError, match="has a Lambda layer, which is code that would be run"):
        architectures.find(save(keras.Model(images, layers.Lambda(lambda x: x)(images))))
    assert entry_folders("networks") == []


@pytest.mark.parametrize(
    "change",
    [
        {"module": "os", "class_name": "system"},
        {"module": "builtins", "class_name": "function"},
        {"module": "my_layers", "class_name": "Own"},
        {"module": None, "class_name": "Own", "registered_name": "mine>Own"},
    ],
)
def test_what_is_not_keras_own_is_refused_unread(change: dict[str, str | None]) -> None:
    save(keras.Sequential([layers.Input((48, 48, 3)), layers.Conv2D(4, 3)]))
    with zipfile.ZipFile("net.keras") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    described = json.loads(members["config.json"])
    described["config"]["layers"][1] |= change
    members["config.json"] = json.dumps(described).encode()
    with zipfile.ZipFile("net.keras", "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(ConfigError, match="which is not one of Keras'"):
        architectures.find("file:net.keras")


@pytest.mark.parametrize("content", [b"", b"PK", b"<html>", b"\x89HDF\r\n\x1a\n"])
def test_no_saved_model(content: bytes) -> None:
    Path("net.keras").write_bytes(content)
    with pytest.raises(UnknownNameError, match=r"net.keras is no .keras file of a network"):
        architectures.find("file:net.keras")


@pytest.fixture(autouse=True)
def _unchanged() -> Iterator[None]:
    """Nothing is written beside the file of a network, nor into its entry of the cache."""
    before = hashlib.sha256(Path(own_network.__file__).read_bytes()).digest()
    yield
    assert hashlib.sha256(Path(own_network.__file__).read_bytes()).digest() == before
    assert not list(cache_folder().rglob("*.pyc"))
