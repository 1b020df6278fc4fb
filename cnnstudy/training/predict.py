"""Classify image files with a saved model: decoded and resized as in training, in parts that fit into memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np

from cnnstudy.data.datasets import SourceImage
from cnnstudy.data.decoder_pool import Decoders, Progress
from cnnstudy.errors import ModelError
from cnnstudy.records import BadImage
from cnnstudy.training import model_package
from cnnstudy.training.micro_batches import MicroBatches

#: Indices and probabilities of classes, the most probable first.
RankedClasses = list[tuple[int, float]]
#: Number of images decoded and classified together.
BATCH_SIZE = 64


def predict_images(
    file: Path, classes: int | None, images: Sequence[str], top: int, progress: Progress
) -> list[RankedClasses | BadImage]:
    """Return for each image its `top` classes, the most probable first, or why it can't be used.

    Args:
        file: a `.keras` file.
        classes: the number of class names; None if there are none.
        images: paths of image files.

    Raises:
        ModelError: the model can't be loaded, has another number of classes, or does not return probabilities.
    """
    progress("loading the model", 0, 0)
    model = model_package.load_saved_model(file)
    if classes not in (None, model.output_shape[1]):
        raise ModelError(
            f"{file} has {model.output_shape[1]} outputs, but {classes} class names were saved with it; they don't "
            "belong together."
        )
    answers: list[RankedClasses | BadImage] = []
    with Decoders() as decoders:
        for start in range(0, len(images), BATCH_SIZE):
            answers += _predict_part(model, file, images[start : start + BATCH_SIZE], top, decoders)
            progress("predicting images", len(answers), len(images))
    return answers


def _predict_part(
    model: keras.Model, file: Path, images: Sequence[str], top: int, decoders: Decoders
) -> list[RankedClasses | BadImage]:
    size = model_package.model_image_size(model)
    pixels = np.zeros((len(images), size, size, 3), dtype=np.uint8)
    sources = [SourceImage(str(number), 0, Path(image)) for number, image in enumerate(images)]

    def store(index: int, size: int, decoded: np.ndarray) -> None:
        pixels[index] = decoded

    answers: dict[int, RankedClasses | BadImage] = {
        int(bad.path): replace(bad, path=images[int(bad.path)])
        for bad in decoders.decode_all(sources, [size], store, lambda *_: None)
    }
    usable = [number for number in range(len(images)) if number not in answers]
    if usable:
        for number, row in zip(usable, predict_probabilities(model, file, pixels[usable]), strict=True):
            best = np.argsort(-row, kind="stable")[:top]
            answers[number] = [(int(index), float(row[index])) for index in best]
    return [answers[number] for number in range(len(images))]


def predict_probabilities(model: keras.Model, file: Path, pixels: np.ndarray) -> np.ndarray:
    """Return the probabilities [n, classes] float32 for images [n, size, size, 3] uint8.

    Raises:
        ModelError: the outputs are not probabilities.
    """
    rows = np.asarray(MicroBatches().evaluate(pixels, model.predict_on_batch), dtype=np.float32)
    if not (np.all(rows >= 0) and np.allclose(rows.sum(axis=1), 1, atol=1e-3)):
        raise ModelError(
            f"{file} does not return probabilities: its outputs are not in 0..1 with a sum of 1. The model must end in "
            "a softmax."
        )
    return rows
