"""Saved models: loaded where they are safe and turn images into classes, refused with a reason elsewhere."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest
import ruamel.yaml
import tensorflow as tf
from keras import layers

from cnnstudy.data import prepare
from cnnstudy.data.decode import describe_input
from cnnstudy.errors import ModelError
from cnnstudy.training import export, model_files, model_package, predict


def classifier(*between: layers.Layer, classes: int = 3, size: tuple[int, ...] = (8, 8, 3)) -> keras.Model:
    inputs = x = layers.Input(size)
    for layer in (*between, layers.Flatten(), layers.Dense(classes, activation="softmax")):
        x = layer(x)
    return keras.Model(inputs, x)


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[keras.Model], Path]:
    def save(model: keras.Model) -> Path:
        model.save(tmp_path / "saved.keras")
        return tmp_path / "saved.keras"

    return save


Saved = Callable[[keras.Model], Path]


def edit(file: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change each layer's entry in the configuration of a saved model."""
    with zipfile.ZipFile(file) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(parts["config.json"])
    for layer in config["config"]["layers"]:
        change(layer)
    parts["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)


def test_a_model_comes_back_as_it_was(saved: Saved) -> None:
    model = classifier()
    loaded = model_package.load_saved_model(saved(model))
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    np.testing.assert_array_equal(loaded.predict_on_batch(images), model.predict_on_batch(images))
    assert model_package.model_image_size(loaded) == 8


def test_on_a_gpu_keras_does_not_compile_it_anew(saved: Saved, monkeypatch: pytest.MonkeyPatch) -> None:
    """For each number of images, as its own choice would be there."""
    card = SimpleNamespace(device_type="GPU")
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: [card])
    assert classifier().jit_compile is True
    assert model_package.load_saved_model(saved(classifier())).jit_compile is False


def test_a_model_with_a_function_in_it_is_not_loaded(saved: Saved) -> None:
    file = saved(classifier(layers.Lambda(lambda x: x * 2)))
    with pytest.raises(ModelError, match=r"saved.keras is not safe to load.*Lambda.*Only models of Keras' own layers"):
        model_package.load_saved_model(file)


@pytest.mark.parametrize("kind", ["layer", "function"])
def test_a_model_that_names_code_from_elsewhere_runs_none_of_it(saved: Saved, tmp_path: Path, kind: str) -> None:
    ran = tmp_path / "ran"
    file = saved(classifier())

    def change(layer: dict[str, Any]) -> None:
        if kind == "layer" and layer["class_name"] == "Flatten":
            command = ["touch", str(ran)]
            layer |= {"module": "subprocess", "class_name": "Popen", "config": {"args": command}}
            layer["registered_name"] = None
        if kind == "function" and layer["class_name"] == "Dense":
            names = {"config": "system", "registered_name": "system"}
            layer["config"]["activation"] = {"module": "os", "class_name": "function", **names}

    edit(file, change)
    with pytest.raises(ModelError, match=r"not safe to load: it needs code that is not part of Keras \(Could not loc"):
        model_package.load_saved_model(file)
    assert not ran.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a complete .keras file"),
        (b"\x89HDF\r\n", "not a complete .keras file"),
        (None, "can't load the model .*config.json"),
    ],
    ids=["empty", "HDF5", "another zip"],
)
def test_what_is_no_keras_file(tmp_path: Path, content: bytes | None, message: str) -> None:
    file = tmp_path / "saved.keras"
    if content is None:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("notes.txt", "no model")
    else:
        file.write_bytes(content)
    with pytest.raises(ModelError, match=message):
        model_package.load_saved_model(file)


def test_a_file_that_was_cut_off(saved: Saved) -> None:
    file = saved(classifier())
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"not a complete \.keras file"):
        model_package.load_saved_model(file)


@pytest.mark.parametrize(
    ("size", "classes"),
    [((8, 8, 1), 3), ((8, 6, 3), 3), ((8, 3), 3), ((8, 8, 3), 1)],
    ids=["grey", "oblong", "text", "1"],
)
def test_a_model_of_something_else(saved: Saved, size: tuple[int, ...], classes: int) -> None:
    with pytest.raises(
        ModelError,
        match=r"saved.keras has the input shape \(None, 8.*; an image classifier has .* \(None, size, size, 3",
    ):
        model_package.load_saved_model(saved(classifier(size=size, classes=classes)))


@pytest.mark.filterwarnings("ignore:Operation with range is deprecated")  # in MLflow, with Pandas 3
def test_a_model_is_saved_as_mlflow_saves_it(tmp_path: Path) -> None:
    """All but the loader, the code, which belongs to the pyfunc alone, and the card."""
    import mlflow.tensorflow
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    model, ours, theirs = classifier(), tmp_path / "ours", tmp_path / "theirs"
    model_package.save_model(model, ours, ["a", "b", "c"])
    inputs = TensorSpec(np.dtype("O"), (-1,), "image")
    requirements = [f"{name}=={version}" for name, version in model_package.served_versions().items()]
    assert requirements[-1].startswith("pillow")
    contract = json.loads((ours / "input.json").read_text(encoding="utf-8"))
    example = mlflow.models.Model.load(ours).load_input_example(str(ours))
    mlflow.tensorflow.save_model(
        model,
        str(theirs),
        signature=ModelSignature(Schema([inputs]), Schema([TensorSpec(np.dtype(np.float32), (-1, 3))])),
        pip_requirements=requirements,
        code_paths=[str(file) for file in (ours / "code").iterdir()],
        input_example=example,
        metadata={"input": contract},
    )
    assert names_in(ours) == names_in(theirs) | {"classes.json", "input.json", "README.md"}
    for name in ("requirements.txt", "data/keras_module.txt", "data/save_format.txt"):
        assert (ours / name).read_text() == (theirs / name).read_text(), name
    for name in ("conda.yaml", "python_env.yaml", "input_example.json", "serving_input_example.json"):
        assert read(ours / name) == read(theirs / name), name
    mine, its = (mlflow.models.Model.load(folder).to_dict() for folder in (ours, theirs))
    for differs in ("model_uuid", "utc_time_created"):
        assert mine.pop(differs) != its.pop(differs)
    card = sum((ours / name).stat().st_size for name in ("README.md", "input.json"))
    # the time lies in the Keras file, and JSON has spaces
    assert abs(mine.pop("model_size_bytes") - card - its.pop("model_size_bytes")) < 128
    loader = mine["flavors"]["python_function"].pop("loader_module")
    assert its["flavors"]["python_function"].pop("loader_module") == "mlflow.tensorflow"
    assert (ours / "code" / f"{loader}.py").is_file()
    assert (mine["flavors"]["tensorflow"].pop("code"), its["flavors"]["tensorflow"].pop("code")) == (None, "code")
    assert mine == its
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    loaded = mlflow.tensorflow.load_model(str(ours))
    np.testing.assert_allclose(loaded.predict_on_batch(images), model.predict_on_batch(images))


def test_a_saved_model_states_what_it_takes(tmp_path: Path) -> None:
    model_package.save_model(classifier(), tmp_path / "model", ["a", "b", "c"])
    contract = json.loads((tmp_path / "model" / "input.json").read_text(encoding="utf-8"))
    assert contract == describe_input(8, ["a", "b", "c"])
    assert model_files.read_contract(tmp_path / "model" / "data" / "model.keras") == contract
    card = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    for key, value in contract.items():
        assert f"- {key}: {'a, b, c' if key == 'classes' else value}\n" in card
    (code,) = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    assert code == Path(prepare.__file__).read_text(encoding="utf-8")


@pytest.mark.parametrize("text", ["[]", '{"size": 8}'])
def test_a_contract_that_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "input.json").write_text(text)
    with pytest.raises(ModelError, match=r"input\.json beside .* must be a JSON object with `size` and `classes`"):
        model_files.read_contract(tmp_path / "own.keras")


def read(file: Path) -> Any:
    return ruamel.yaml.YAML(typ="safe", pure=True).load(file)


def names_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


# ---- used


def test_outputs_that_are_no_probabilities(saved: Saved) -> None:
    inputs = layers.Input((8, 8, 3))
    model = keras.Model(inputs, layers.Dense(3)(layers.Flatten()(inputs)))
    images = np.full((2, 8, 8, 3), 255, dtype=np.uint8)
    with pytest.raises(ModelError, match=r"saved.keras does not return probabilities.*end in a softmax"):
        predict.predict_probabilities(model, saved(model), images)
    model.layers[-1].set_weights([np.full((192, 3), np.nan), np.zeros(3)])
    with pytest.raises(ModelError, match="does not return probabilities"):
        predict.predict_probabilities(model, saved(model), images)


def test_names_of_other_classes(saved: Saved) -> None:
    with pytest.raises(ModelError, match=r"saved.keras has 3 outputs, but 2 class names were saved with it"):
        predict.predict_images(saved(classifier()), 2, [], 5, lambda *_: None)


# ---- exported


def test_an_export_that_gives_something_else_is_refused(
    saved: Saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = saved(classifier())
    right = export.FORMATS["keras"]

    def load(folder: Path) -> export.Run:
        run = right.load(folder)
        return lambda pixels: run(pixels) + np.float32(error)

    for error, passes in ((0.5e-4, True), (2e-4, False), (np.nan, False)):
        monkeypatch.setitem(export.FORMATS, "keras", export.Format(right.write, load))
        if passes:
            done = export.export_model(file, None, None, tmp_path / "passes", "keras", lambda *_: None)
            assert done["difference"] == pytest.approx(error, rel=0.01)
        else:
            with pytest.raises(
                ModelError, match=r"the keras export of .*saved.keras gives other probabilities than Keras"
            ):
                export.export_model(file, None, None, tmp_path / f"fails {error}", "keras", lambda *_: None)


def test_a_layer_that_a_format_does_not_know(saved: Saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(*_: object) -> None:
        raise KeyError("StatelessThing")

    monkeypatch.setitem(export.FORMATS, "onnx", export.Format(write, export.FORMATS["onnx"].load))
    with pytest.raises(ModelError, match=r"can't export .*saved.keras as onnx: 'StatelessThing'"):
        export.export_model(saved(classifier()), None, None, tmp_path / "onnx", "onnx", lambda *_: None)
