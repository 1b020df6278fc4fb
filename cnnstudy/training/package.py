"""The model of a trial as an MLflow model folder: raw RGB images of 0..255 in, probabilities out.

It loads with plain Keras (`data/model.keras`, safe mode) or MLflow; no code of cnnstudy is in it, only `classes.json`
with the classes' names. MLflow's client is not used here: the folder is uploaded by the driver.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import keras
import numpy as np

from cnnstudy.errors import ModelError
from cnnstudy.training import layout


def save(model: keras.Model, folder: Path, classes: Sequence[str]) -> None:
    """Write `model` as an MLflow model into `folder`, which must not exist yet.

    The requirements are pinned from what is installed: without them MLflow would load the model again in a process of
    its own to find them out.
    """
    import mlflow.tensorflow
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    _, height, width, channels = model.input_shape
    # unnamed: a named input would reach Keras as a dict, which it warns of
    signature = ModelSignature(
        inputs=Schema([TensorSpec(np.dtype(np.uint8), (-1, height, width, channels))]),
        outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, model.output_shape[-1]))]),
    )
    mlflow.tensorflow.save_model(
        model, str(folder), signature=signature, pip_requirements=[f"{k}=={v}" for k, v in versions("mlflow").items()]
    )
    layout.write_classes(folder, classes)


def load(file: Path) -> keras.Model:
    """The model of a `.keras` file, in Keras' safe mode: no code that the file brings along is run.

    Raises:
        ModelError: it can't be read, needs code of its own, or does not turn images into classes.
    """
    if not zipfile.is_zipfile(file):
        raise ModelError(f"{file} is no whole .keras file: it is broken, cut off, or of another format.")
    try:
        model = keras.saving.load_model(file, compile=False, safe_mode=True)
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


def image_size(model: keras.Model) -> int:
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


def versions(*more: str) -> dict[str, str]:
    """The installed versions of what a trained model depends on."""
    return {name: metadata.version(name) for name in ("tensorflow", "keras", "numpy", *more)}
