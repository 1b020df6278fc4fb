"""A trial's model as the folder of an MLflow model: photos or raw RGB images (0..255) in, probabilities out.

The model loads with plain Keras (`data/model.keras`, safe mode) or with MLflow, without cnnstudy. `classes.json` has
the class names, `README.md` and `input.json` say how photos are prepared, and `code/` has what MLflow's pyfunc needs to
do that (`served_model`). MLflow is not imported here: the driver uploads the folder.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import io
import json
import platform
import uuid
import zipfile
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import keras
import ruamel.yaml
from PIL import Image

import cnnstudy
from cnnstudy.data.decode import describe_input
from cnnstudy.errors import ModelError
from cnnstudy.records import PreparedImages
from cnnstudy.system.files import ChunkedWriter
from cnnstudy.training import model_files

#: What `data.decoder_process` imports, below the package. It is stored with each model, in an archive that Python runs.
_DECODER = (
    *("__init__", "errors", "names", "records"),
    *("data/__init__", "data/decode", "data/decoder_process", "data/file_types"),
)
_DECODER_START = "from cnnstudy.data.decoder_process import main\n\nmain()\n"
_CODE, _ARCHIVE = "code", "cnnstudy_decoder.zip"
_EXAMPLE, _SERVING_EXAMPLE = "input_example.json", "serving_input_example.json"
#: Cached: the call reads files, and the version of a running package does not change.
_version = functools.cache(metadata.version)


def save_model(model: keras.Model, folder: Path, classes: Sequence[str]) -> None:
    """Write `model` as an MLflow model to `folder`, which must not exist yet.

    The files are those that `mlflow.tensorflow.save_model` writes (a test compares them) and follow MLflow's
    documentation ("MLflow Models", storage format); the pyfunc has a loader of its own. Importing MLflow would take
    each worker half a second and 100 MB. The requirements are pinned to the installed versions.
    """
    data = folder / model_files.MLFLOW_DATA
    data.mkdir(parents=True)
    with ChunkedWriter(data / model_files.KERAS_FILE) as file:
        model.save(file)
    _write_text(data / "keras_module.txt", "tensorflow.keras")
    _write_text(data / "save_format.txt", "tf")
    (folder / _CODE).mkdir()
    loader, files = _served_code()
    for name, content in files.items():
        (folder / _CODE / name).write_bytes(content)
    example = {"columns": ["image"], "data": [[_example_photo(model_image_size(model))]]}
    _write_text(folder / _EXAMPLE, json.dumps(example))
    _write_text(folder / _SERVING_EXAMPLE, json.dumps({"dataframe_split": example}))
    contract = describe_input(model_image_size(model), classes)
    model_files.write_card(folder, contract)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    requirements = [f"{name}=={version}" for name, version in served_versions().items()]
    _write_yaml(folder / "MLmodel", _model_description(model, size, loader, contract))
    _write_text(folder / "requirements.txt", "\n".join(requirements))
    _write_yaml(folder / "python_env.yaml", _python_environment())
    conda = {
        "channels": ["conda-forge"],
        "dependencies": [f"python={platform.python_version()}", _pinned("pip", "<="), {"pip": requirements}],
        "name": "mlflow-env",
    }
    _write_yaml(folder / "conda.yaml", conda)
    model_files.write_classes(folder, classes)


@functools.cache
def _served_code() -> tuple[str, dict[str, bytes]]:
    """Return the module that loads the pyfunc, and the files that it consists of.

    A process may load models of several versions of cnnstudy, so the module's name has a digest of its content.
    """
    package = Path(cnnstudy.__file__).parent
    modules = {f"cnnstudy/{name}.py": (package / f"{name}.py").read_bytes() for name in _DECODER}
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in {"__main__.py": _DECODER_START.encode(), **modules}.items():
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)  # without a time: the same bytes
    loader, decoder = (package / "training" / "served_model.py").read_bytes(), stream.getvalue()
    name = f"cnnstudy_served_{hashlib.sha256(loader + decoder).hexdigest()[:10]}"
    return name, {f"{name}.py": loader, _ARCHIVE: decoder}


@functools.cache
def _example_photo(size: int) -> str:
    """Return a grey PNG of this size in pixels, as base64 text."""
    stream = io.BytesIO()
    Image.new("L", (size, size), 128).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


def _model_description(model: keras.Model, size: int, loader: str, contract: dict[str, Any]) -> dict[str, Any]:
    """Return the contents of the file MLmodel for a model whose files take `size` bytes."""
    signature = {
        # MLflow lets every value of this type pass, photos as well as pixels; the pyfunc checks them
        "inputs": _tensor_schema("object", (None,), name="image"),
        "outputs": _tensor_schema("float32", model.output_shape),
        "params": None,
    }
    return {
        "flavors": {
            "python_function": {
                "code": _CODE,
                "data": model_files.MLFLOW_DATA,
                "env": {"conda": "conda.yaml", "virtualenv": "python_env.yaml"},
                "loader_module": loader,
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
        "metadata": {"input": contract},
        "mlflow_version": _version("mlflow"),
        "model_size_bytes": size,
        "model_uuid": uuid.uuid4().hex,
        "saved_input_example_info": {
            "artifact_path": _EXAMPLE,
            "pandas_orient": "split",
            "serving_input_path": _SERVING_EXAMPLE,
            "type": "dataframe",
        },
        "signature": signature,
        "utc_time_created": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S.%f"),
    }


def _tensor_schema(dtype: str, shape: Sequence[int | None], **name: str) -> str:
    return json.dumps([{**name, "type": "tensor", "tensor-spec": {"dtype": dtype, "shape": [-1, *shape[1:]]}}])


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


def served_versions() -> dict[str, str]:
    """Return the installed versions of the packages that a served model needs."""
    heic = ["pillow-heif"] if find_spec("pillow_heif") else []
    return model_versions("mlflow", "pillow", *heic)
