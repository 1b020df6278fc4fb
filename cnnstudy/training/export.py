"""Export a saved model for other programs; every export is checked against Keras."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

import cnnstudy
from cnnstudy.data.decode import describe_input
from cnnstudy.data.decoder_pool import Progress
from cnnstudy.errors import ModelError
from cnnstudy.training import model_files, model_package
from cnnstudy.training.predict import predict_probabilities

#: Number of random images on which an export is checked, and the largest difference allowed from Keras' probabilities.
CHECKED_IMAGES, TOLERANCE = 16, 1e-4
#: Images [n, size, size, 3] uint8 -> probabilities [n, classes].
Run = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Format:
    """An export format: how a model is written, and how the result is run."""

    write: Callable[[keras.Model, Path, Path], None]  # the model, its file, an empty folder
    load: Callable[[Path], Run]


def export_model(
    file: Path,
    classes: Sequence[str] | None,
    contract: dict[str, Any] | None,
    folder: Path,
    name: str,
    progress: Progress,
) -> dict[str, Any]:
    """Write the model, its class names and its card to `folder`, which must not exist yet.

    Args:
        file: a `.keras` file.
        contract: that of its input, as recorded with the model; None: that of this version of cnnstudy.
        name: one of FORMATS.

    Returns:
        "size": of the images in pixels; "classes": their number; "difference": the largest difference from Keras'
        probabilities on a number of random "images"; "tolerance": the largest that is allowed.

    Raises:
        ModelError: the model can't be loaded or exported, or the export gives other probabilities than Keras.
    """
    progress("loading the model", 0, 0)
    model = model_package.load_saved_model(file)
    pixels = np.random.default_rng(0).integers(0, 256, (CHECKED_IMAGES, *model.input_shape[1:]), dtype=np.uint8)
    expected = predict_probabilities(model, file, pixels)
    progress(f"exporting as {name}", 0, 0)
    folder.mkdir(parents=True)
    try:
        FORMATS[name].write(model, file, folder)
    except Exception as reason:  # each format's library has its own errors for layers that it does not know
        raise ModelError(f"can't export {file} as {name}: {reason or type(reason).__name__}") from reason
    progress("checking the export", 0, 0)
    difference = float(np.abs(FORMATS[name].load(folder)(pixels) - expected).max())
    if not difference <= TOLERANCE:
        raise ModelError(
            f"the {name} export of {file} gives other probabilities than Keras: they differ by up to {difference:.1e} "
            f"on {CHECKED_IMAGES} random images, and at most {TOLERANCE:.0e} is allowed. Nothing was written; use "
            "another format."
        )
    if classes is not None:
        model_files.write_classes(folder, classes)
    model_files.write_card(folder, contract or _assume_contract(model, classes))
    return {
        "size": model_package.model_image_size(model),
        "classes": model.output_shape[1],
        "difference": difference,
        "tolerance": TOLERANCE,
        "images": CHECKED_IMAGES,
    }


def _assume_contract(model: keras.Model, classes: Sequence[str] | None) -> dict[str, Any]:
    note = f"not recorded with the model; this is what cnnstudy {cnnstudy.__version__} does"
    return {**describe_input(model_package.model_image_size(model), classes), "note": note}


def _input_signature(model: keras.Model) -> list[keras.InputSpec]:
    """Return the input of the exported model: images as uint8, like the model in MLflow."""
    return [keras.InputSpec(shape=model.input_shape, dtype="uint8", name="image")]


def _write_saved_model(model: keras.Model, file: Path, folder: Path) -> None:
    model.export(str(folder), format="tf_saved_model", verbose=False, input_signature=_input_signature(model))


def _load_saved_model(folder: Path) -> Run:
    import tensorflow as tf

    loaded = tf.saved_model.load(str(folder))
    return lambda pixels: next(iter(loaded.signatures["serving_default"](tf.constant(pixels)).values())).numpy()


def _write_onnx(model: keras.Model, file: Path, folder: Path) -> None:
    path = str(folder / model_files.ONNX_FILE)
    model.export(path, format="onnx", verbose=False, input_signature=_input_signature(model))


def _load_onnx(folder: Path) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(folder / model_files.ONNX_FILE), providers=["CPUExecutionProvider"])
    return lambda pixels: session.run(None, {session.get_inputs()[0].name: pixels})[0]


def _write_keras(model: keras.Model, file: Path, folder: Path) -> None:
    shutil.copy(file, folder / model_files.KERAS_FILE)


def _load_keras(folder: Path) -> Run:
    model = model_package.load_saved_model(folder / model_files.KERAS_FILE)
    return lambda pixels: model.predict_on_batch(pixels)


FORMATS = {
    "saved-model": Format(_write_saved_model, _load_saved_model),
    "onnx": Format(_write_onnx, _load_onnx),
    "keras": Format(_write_keras, _load_keras),
}
