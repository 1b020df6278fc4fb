"""A saved model for other programs, checked against Keras before anybody gets it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import keras
import numpy as np

from cnnstudy.data.decoder_pool import Progress
from cnnstudy.errors import ModelError
from cnnstudy.training import model_files, model_package
from cnnstudy.training.predict import predict_probabilities

#: The exported model is asked about so many random images, and no probability may differ by more than this from Keras'.
CHECKED_IMAGES, TOLERANCE = 16, 1e-4
ONNX_PACKAGES = ("tf2onnx", "onnx", "onnxruntime")
#: Images [n, size, size, 3] uint8 -> probabilities [n, classes].
Run = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Format:
    """How a model is written, and how what was written is run."""

    write: Callable[[keras.Model, Path, Path], None]  # model, its file, a folder that is there and empty
    load: Callable[[Path], Run]


def export_model(
    file: Path, classes: Sequence[str] | None, folder: Path, name: str, progress: Progress
) -> dict[str, Any]:
    """Write the model into `folder`, which must not exist yet, with the classes' names.

    Args:
        file: a `.keras` file.
        name: one of FORMATS.

    Returns:
        "size": pixels; "classes": how many; "difference": the largest from Keras, with the "tolerance", on that many
        random "images".

    Raises:
        ModelError: it can't be loaded or exported, or gives other probabilities than Keras.
    """
    if name == "onnx":
        check_onnx_packages()
    progress("loading the model", 0, 0)
    model = model_package.load_model(file)
    pixels = np.random.default_rng(0).integers(0, 256, (CHECKED_IMAGES, *model.input_shape[1:]), dtype=np.uint8)
    expected = predict_probabilities(model, file, pixels)
    progress(f"exporting as {name}", 0, 0)
    folder.mkdir(parents=True)
    try:
        FORMATS[name].write(model, file, folder)
    except Exception as reason:  # three libraries, each with errors of its own for a layer that it does not know
        raise ModelError(f"can't export {file} as {name}: {reason or type(reason).__name__}") from reason
    progress("checking what was exported", 0, 0)
    difference = float(np.abs(FORMATS[name].load(folder)(pixels) - expected).max())
    if not difference <= TOLERANCE:
        raise ModelError(
            f"the {name} of {file} gives other probabilities than Keras: they differ by up to {difference:.1e} on "
            f"{CHECKED_IMAGES} random images, and {TOLERANCE:.0e} is the most. It was not written; use another format."
        )
    if classes is not None:
        model_files.write_classes(folder, classes)
    return {
        "size": model_package.model_image_size(model),
        "classes": model.output_shape[1],
        "difference": difference,
        "tolerance": TOLERANCE,
        "images": CHECKED_IMAGES,
    }


def check_onnx_packages() -> None:
    """Raise ModelError where what ONNX takes is not installed."""
    missing = [name for name in ONNX_PACKAGES if find_spec(name) is None]
    if missing:
        raise ModelError(
            f"exporting to ONNX takes the packages {', '.join(ONNX_PACKAGES)}; not installed: {', '.join(missing)}. "
            "Install them from cnnstudy's folder: python -m pip install -c constraints.txt -e '.[onnx]'"
        )


def _raw_images(model: keras.Model) -> list[keras.InputSpec]:
    """What the exported model takes: bytes, as the model in MLflow does."""
    return [keras.InputSpec(shape=model.input_shape, dtype="uint8", name="image")]


def _write_saved_model(model: keras.Model, file: Path, folder: Path) -> None:
    model.export(str(folder), format="tf_saved_model", verbose=False, input_signature=_raw_images(model))


def _load_saved_model(folder: Path) -> Run:
    import tensorflow as tf

    loaded = tf.saved_model.load(str(folder))
    return lambda pixels: next(iter(loaded.signatures["serving_default"](tf.constant(pixels)).values())).numpy()


def _write_onnx(model: keras.Model, file: Path, folder: Path) -> None:
    path = str(folder / model_files.ONNX_FILE)
    model.export(path, format="onnx", verbose=False, input_signature=_raw_images(model))


def _load_onnx(folder: Path) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(folder / model_files.ONNX_FILE), providers=["CPUExecutionProvider"])
    return lambda pixels: session.run(None, {session.get_inputs()[0].name: pixels})[0]


def _write_keras(model: keras.Model, file: Path, folder: Path) -> None:
    shutil.copy(file, folder / model_files.KERAS_FILE)


def _load_keras(folder: Path) -> Run:
    model = model_package.load_model(folder / model_files.KERAS_FILE)
    return lambda pixels: model.predict_on_batch(pixels)


FORMATS = {
    "saved-model": Format(_write_saved_model, _load_saved_model),
    "onnx": Format(_write_onnx, _load_onnx),
    "keras": Format(_write_keras, _load_keras),
}
