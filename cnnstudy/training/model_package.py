"""A trial's model as the folder of an MLflow model: raw RGB images (0..255) in, probabilities out.

The model loads with plain Keras (`data/model.keras`, safe mode) or with MLflow, without cnnstudy; `classes.json` has
the class names. MLflow is not imported here: the driver uploads the folder.
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
from cnnstudy.records import PreparedImages
from cnnstudy.system.files import ChunkedWriter
from cnnstudy.training import model_files

#: Cached: the call reads files, and the version of a running package does not change.
_version = functools.cache(metadata.version)


def save_model(model: keras.Model, folder: Path, classes: Sequence[str]) -> None:
    """Write `model` as an MLflow model to `folder`, which must not exist yet.

    The files are those that `mlflow.tensorflow.save_model` writes (a test compares them) and follow MLflow's
    documentation ("MLflow Models", storage format). Importing MLflow would take each worker half a second and 100 MB.
    The requirements are pinned to the installed versions.
    """
    data = folder / model_files.MLFLOW_DATA
    data.mkdir(parents=True)
    with ChunkedWriter(data / model_files.KERAS_FILE) as file:
        model.save(file)
    _write_text(data / "keras_module.txt", "tensorflow.keras")
    _write_text(data / "save_format.txt", "tf")
    size = sum(file.stat().st_size for file in data.iterdir())
    requirements = [f"{name}=={version}" for name, version in model_versions("mlflow").items()]
    _write_yaml(folder / "MLmodel", _model_description(model, size))
    _write_text(folder / "requirements.txt", "\n".join(requirements))
    _write_yaml(folder / "python_env.yaml", _python_environment())
    conda = {
        "channels": ["conda-forge"],
        "dependencies": [f"python={platform.python_version()}", _pinned("pip", "<="), {"pip": requirements}],
        "name": "mlflow-env",
    }
    _write_yaml(folder / "conda.yaml", conda)
    model_files.write_classes(folder, classes)


def _model_description(model: keras.Model, size: int) -> dict[str, Any]:
    """Return the contents of the file MLmodel for a model whose files take `size` bytes."""
    # without names: Keras warns about the dict in which MLflow would pass a named input
    signature = {
        "inputs": _tensor_schema("uint8", model.input_shape),
        "outputs": _tensor_schema("float32", model.output_shape),
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
                "keras_version": _version("tensorflow"),  # so named by MLflow
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


def _tensor_schema(dtype: str, shape: Sequence[int | None]) -> str:
    return json.dumps([{"type": "tensor", "tensor-spec": {"dtype": dtype, "shape": [-1, *shape[1:]]}}])


def _python_environment() -> dict[str, Any]:
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


def _write_text(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8")


def _write_yaml(file: Path, content: dict[str, Any]) -> None:
    writer = ruamel.yaml.YAML(typ="safe", pure=True)
    writer.default_flow_style = False
    with file.open("w", encoding="utf-8") as stream:
        writer.dump(content, stream)


def load_saved_model(file: Path) -> keras.Model:
    """Load a `.keras` file in Keras' safe mode, in which no code from the file is run.

    Raises:
        ModelError: the file can't be read, needs code of its own, or does not map images to classes.
    """
    if not zipfile.is_zipfile(file):
        raise ModelError(f"{file} is not a complete .keras file: it is broken, truncated, or in another format.")
    try:
        model = keras.saving.load_model(file, compile=False, safe_mode=True)
        model.jit_compile = False  # on a GPU, Keras would compile it with XLA for each number of images
    except MemoryError:  # no fault of the file
        raise
    except Exception as reason:  # broken files make Keras raise a dozen types, BadZipFile and KeyError among them
        # Keras' message begins with the whole configuration; the cause comes last
        text = " ".join(str(reason).rpartition("Exception encountered: ")[2].split()) or type(reason).__name__
        if "safe_mode" in text or text.startswith("Could not locate"):
            raise ModelError(
                f"{file} is not safe to load: it needs code that is not part of Keras ({text.split('. ')[0]}), and "
                "such code could do anything on this machine. Only models of Keras' own layers can be loaded."
            ) from reason
        raise ModelError(f"can't load the model {file}: {text[:500]}") from reason
    _check_shapes(model, file)
    return model


def model_image_size(model: keras.Model) -> int:
    """Return the height and width in pixels of the images that a loaded model takes."""
    return int(model.input_shape[1])


def check_fits(model: keras.Model, file: Path, images: PreparedImages, owner: str) -> None:
    """Raise ModelError if a loaded model has another image size or number of classes than the images.

    Args:
        owner: the study or trial of the images, for the message.
    """
    size, classes = model_image_size(model), model.output_shape[1]
    if (size, classes) != (images.size, len(images.classes)):
        raise ModelError(
            f"{file} takes images of {size} pixels and has {classes} classes, but {owner} has images of {images.size} "
            f"pixels and {len(images.classes)} classes: the model was trained on other data."
        )


def _check_shapes(model: keras.Model, file: Path) -> None:
    """Raise ModelError unless the model maps square RGB images to at least two classes."""
    inputs, outputs = getattr(model, "input_shape", None), getattr(model, "output_shape", None)
    takes_images = (
        isinstance(inputs, tuple) and len(inputs) == 4 and inputs[3] == 3 and inputs[1] and inputs[1] == inputs[2]
    )
    gives_classes = isinstance(outputs, tuple) and len(outputs) == 2 and (outputs[1] or 0) > 1
    if not (takes_images and gives_classes):
        raise ModelError(
            f"{file} has the input shape {inputs} and the output shape {outputs}; an image classifier has the input "
            "shape (None, size, size, 3) and the output shape (None, classes), one probability per class."
        )


def model_versions(*more: str) -> dict[str, str]:
    """Return the installed versions of the packages that a trained model depends on, and of `more` packages."""
    return {name: _version(name) for name in ("tensorflow", "keras", "numpy", *more)}
