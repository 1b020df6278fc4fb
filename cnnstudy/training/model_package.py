"""The model of a trial as an MLflow model folder: raw RGB images of 0..255 in, probabilities out.

It loads with plain Keras (`data/model.keras`, safe mode) or MLflow; no code of cnnstudy is in it, only `classes.json`
with the classes' names. MLflow is not used here: the folder is uploaded by the driver.
"""

from __future__ import annotations

import functools
import json
import platform
import uuid
import zipfile
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import keras
import ruamel.yaml

from cnnstudy.errors import ModelError
from cnnstudy.system.files import ChunkedWriter
from cnnstudy.training import model_files

#: Of an installed package: it reads files, and what runs stays what it was when it was imported.
_version = functools.cache(metadata.version)


def save_model(model: keras.Model, folder: Path, classes: Sequence[str]) -> None:
    """Write `model` as an MLflow model into `folder`, which must not exist yet.

    The files are those that `mlflow.tensorflow.save_model` writes (a test compares them), after
    the format that MLflow's documentation gives ("MLflow Models", storage format). Its own function would take each
    worker half a second and 100 MB to import. The requirements are pinned from what is installed.
    """
    data = folder / model_files.MLFLOW_DATA
    data.mkdir(parents=True)
    with ChunkedWriter(data / model_files.KERAS_FILE) as file:
        model.save(file)
    _write(data / "keras_module.txt", "tensorflow.keras")
    _write(data / "save_format.txt", "tf")
    size = sum(file.stat().st_size for file in data.iterdir())
    requirements = [f"{name}=={version}" for name, version in model_versions("mlflow").items()]
    _write_yaml(folder / "MLmodel", _description(model, size))
    _write(folder / "requirements.txt", "\n".join(requirements))
    _write_yaml(folder / "python_env.yaml", _environment())
    conda = {
        "channels": ["conda-forge"],
        "dependencies": [f"python={platform.python_version()}", _pinned("pip", "<="), {"pip": requirements}],
        "name": "mlflow-env",
    }
    _write_yaml(folder / "conda.yaml", conda)
    model_files.write_classes(folder, classes)


def _description(model: keras.Model, size: int) -> dict[str, Any]:
    """What MLmodel holds, of a model whose files have so many bytes."""
    # unnamed: a named input would reach Keras as a dict, which it warns of
    signature = {
        "inputs": _tensor("uint8", model.input_shape),
        "outputs": _tensor("float32", model.output_shape),
        "params": None,
    }
    return {
        "flavors": {
            "python_function": {
                "data": model_files.MLFLOW_DATA,
                "env": {"conda": "conda.yaml", "virtualenv": "python_env.yaml"},
                "loader_module": "mlflow.tensorflow",
                "python_version": platform.python_version(),
            },
            "tensorflow": {
                "code": None,
                "data": model_files.MLFLOW_DATA,
                "keras_version": _version("tensorflow"),  # MLflow's word for it
                "model_type": "keras",
                "save_format": "tf",
            },
        },
        "mlflow_version": _version("mlflow"),
        "model_size_bytes": size,
        "model_uuid": uuid.uuid4().hex,
        "signature": signature,
        "utc_time_created": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S.%f"),
    }


def _tensor(kind: str, shape: Sequence[int | None]) -> str:
    return json.dumps([{"type": "tensor", "tensor-spec": {"dtype": kind, "shape": [-1, *shape[1:]]}}])


def _environment() -> dict[str, Any]:
    tools = [_pinned(name, "==") for name in ("pip", "setuptools", "wheel")]
    return {
        "python": platform.python_version(),
        "build_dependencies": tools,
        "dependencies": ["-r requirements.txt"],
    }


def _pinned(name: str, operator: str) -> str:
    try:
        return f"{name}{operator}{_version(name)}"
    except metadata.PackageNotFoundError:
        return name


def _write(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8")


def _write_yaml(file: Path, content: dict[str, Any]) -> None:
    writer = ruamel.yaml.YAML(typ="safe", pure=True)
    writer.default_flow_style = False
    with file.open("w", encoding="utf-8") as stream:
        writer.dump(content, stream)


def load_model(file: Path) -> keras.Model:
    """The model of a `.keras` file, in Keras' safe mode: no code that the file brings along is run.

    Raises:
        ModelError: it can't be read, needs code of its own, or does not turn images into classes.
    """
    if not zipfile.is_zipfile(file):
        raise ModelError(f"{file} is no whole .keras file: it is broken, cut off, or of another format.")
    try:
        model = keras.saving.load_model(file, compile=False, safe_mode=True)
        model.jit_compile = False  # on a GPU Keras would have XLA compile it for each number of images
    except MemoryError:  # says nothing about the file
        raise
    except Exception as reason:  # Keras raises a dozen kinds on broken files, BadZipFile and KeyError among them
        # what Keras says first is the whole configuration; what went wrong comes last
        text = " ".join(str(reason).rpartition("Exception encountered: ")[2].split()) or type(reason).__name__
        if "safe_mode" in text or text.startswith("Could not locate"):
            raise ModelError(
                f"{file} is not safe to load, for it takes code that is not Keras' own ({text.split('. ')[0]}), which "
                "could do anything on this machine. Only models of Keras' own layers are loaded."
            ) from reason
        raise ModelError(f"can't load the model {file}: {text[:500]}") from reason
    _check_shapes(model, file)
    return model


def model_image_size(model: keras.Model) -> int:
    """The height and width in pixels of the images that a loaded model takes."""
    return int(model.input_shape[1])


def _check_shapes(model: keras.Model, file: Path) -> None:
    given, gives = getattr(model, "input_shape", None), getattr(model, "output_shape", None)
    takes_images = isinstance(given, tuple) and len(given) == 4 and given[3] == 3 and given[1] and given[1] == given[2]
    gives_classes = isinstance(gives, tuple) and len(gives) == 2 and (gives[1] or 0) > 1
    if not (takes_images and gives_classes):
        raise ModelError(
            f"{file} takes {given} and gives {gives}; a model of images takes (None, size, size, 3) and gives one "
            "probability a class, (None, classes)."
        )


def model_versions(*more: str) -> dict[str, str]:
    """The installed versions of what a trained model depends on."""
    return {name: _version(name) for name in ("tensorflow", "keras", "numpy", *more)}
