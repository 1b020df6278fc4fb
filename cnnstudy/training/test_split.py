"""The test split: images that no trial, search or report has seen. Only `confirm` opens it, once, for the champion."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cnnstudy.data.images import Images, Pixels, open_decoded
from cnnstudy.data.splits import count_held_out, rank_for_split
from cnnstudy.errors import DataError, ModelError
from cnnstudy.records import PreparedImages, Split


def held_out_indices(keys: Sequence[str], labels: Sequence[int], split: Split) -> list[int]:
    """The images that are held out, all classes together, sorted."""
    by_class = rank_for_split(keys, labels, split)
    return sorted(i for members in by_class for i in members[: count_held_out(len(members), split)])


def load_test(images: PreparedImages, split: Split) -> Images:
    """Every held-out image.

    Raises:
        DataError: the cache entry is gone.
    """
    decoded = open_decoded(images)
    usable = decoded.usable
    chosen = held_out_indices([decoded.keys[i] for i in usable], decoded.labels[usable].tolist(), split)
    rows = usable[chosen]
    return Images(Pixels(decoded.pixels, rows), decoded.labels[rows], rows)


def evaluate_on_test(
    models: Sequence[Path], images: PreparedImages, split: Split, progress: Callable[..., None]
) -> Any:
    """What models say of the test split, as plain data.

    Args:
        models: `.keras` files of one combination, one a seed.

    Returns:
        `images`: how many; `digest`: over their pixels and labels; for each model `accuracy` (0..1) and `loss` (nats);
        `confusion` [classes, classes] of all models together: rows true class, columns predicted.

    Raises:
        DataError: the decoded images are gone.
        ModelError: a model can't be loaded, or is of other images or classes.
    """
    from cnnstudy.training import model_package, predict
    from cnnstudy.training.metrics import clean_metrics, confusion_matrix

    test = load_test(images, split)
    if not len(test):
        raise DataError(f"{images.name} has no test images.")
    measured, matrix = [], np.zeros((len(images.classes), len(images.classes)), dtype=int)
    for number, file in enumerate(models):
        progress("opening the test split", number, len(models))
        model = model_package.load_model(file)
        if model_package.model_image_size(model) != images.size or model.output_shape[1] != len(images.classes):
            raise ModelError(f"{file} takes other images or gives other classes than the study has.")
        starts = range(0, len(test), predict.AT_ONCE)
        parts = [predict.predict_probabilities(model, file, test.pixels[s : s + predict.AT_ONCE]) for s in starts]
        # the logarithm of probabilities is as good as logits; one of 0 is below what float32 can say
        logits = np.log(np.maximum(np.concatenate(parts), np.finfo(np.float32).tiny))
        measured.append(clean_metrics(logits, test.labels))
        matrix += np.array(confusion_matrix(logits, test.labels))
    digest = hashlib.sha256(np.ascontiguousarray(test.pixels).tobytes() + test.labels.tobytes()).hexdigest()
    return {
        "images": len(test),
        "digest": digest,
        "accuracy": [metrics["accuracy"] for metrics in measured],
        "loss": [metrics["loss"] for metrics in measured],
        "confusion": matrix.tolist(),
    }
