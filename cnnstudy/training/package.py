"""The model of a trial as an MLflow model folder: raw RGB images of 0..255 in, probabilities out.

It loads with plain Keras (`data/model.keras`, safe mode) or MLflow; nothing of cnnstudy is in it. MLflow's client is
not used here: the folder is uploaded by the driver.
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import keras
import numpy as np


def save(model: keras.Model, folder: Path) -> None:
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


def versions(*more: str) -> dict[str, str]:
    """The installed versions of what a trained model depends on."""
    return {name: metadata.version(name) for name in ("tensorflow", "keras", "numpy", *more)}
