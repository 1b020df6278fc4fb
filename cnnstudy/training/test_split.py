"""The test split: images that no trial, search or report sees. Only `confirm` uses them, once, for the champion."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cnnstudy.data.decoder_pool import Progress
from cnnstudy.data.grouped_splits import divide_groups
from cnnstudy.data.images import Images, Pixels, open_decoded
from cnnstudy.data.splits import count_held_out, rank_for_split
from cnnstudy.errors import DataError
from cnnstudy.records import PreparedImages, Split


def list_test_indices(
    keys: Sequence[str],
    labels: Sequence[int],
    split: Split,
    groups: Sequence[int] | None = None,
    given: Sequence[str] = (),
) -> list[int]:
    """Return the indices of the test images of all classes, in ascending order: those given, or those cut from train.

    Args:
        groups: the group of each image, all of which are in one part.
        given: as in `splits.rank_for_split`.
    """
    if "test" in given:
        return [i for i, part in enumerate(given) if part == "test"]
    if groups is not None:
        divided = divide_groups(keys, labels, split, groups, given=given)
        return sorted(i for members in divided["test"] for i in members)
    by_class = rank_for_split(keys, labels, split, given)
    return sorted(i for members in by_class for i in members[: count_held_out(len(members), split)])


def load_test_images(images: PreparedImages, split: Split) -> Images:
    """Return all test images.

    Raises:
        DataError: the decoded images are gone.
    """
    decoded = open_decoded(images)
    keys, labels, groups, given = decoded.list_usable()
    rows = decoded.usable[list_test_indices(keys, labels, split, groups, given)]
    return Images(Pixels(decoded.pixels, rows), decoded.labels[rows], rows)


def evaluate_on_test(
    models: Sequence[Path], images: PreparedImages, split: Split, progress: Progress
) -> dict[str, Any]:
    """Evaluate models on the test split and return the results as plain data.

    Args:
        models: `.keras` files of one combination of levels, one per seed.

    Returns:
        `images`: their number; `digest`: of their pixels and labels; `accuracy` (0..1) and `loss` (nats): of each
        model; `confusion` [classes, classes]: of all models together, rows are true classes, columns predicted ones.

    Raises:
        DataError: the decoded images are gone, or there are no test images.
        ModelError: a model can't be loaded, or does not fit the images.
    """
    from cnnstudy.training import model_package, predict
    from cnnstudy.training.metrics import clean_metrics, confusion_matrix

    test = load_test_images(images, split)
    if not len(test):
        raise DataError(f"{images.name} has no test images.")
    measured, matrix = [], np.zeros((len(images.classes), len(images.classes)), dtype=int)
    for number, file in enumerate(models):
        progress("opening the test split", number, len(models))
        model = model_package.load_saved_model(file)
        model_package.check_fits(model, file, images, "the study")
        starts = range(0, len(test), predict.BATCH_SIZE)
        parts = [predict.predict_probabilities(model, file, test.pixels[s : s + predict.BATCH_SIZE]) for s in starts]
        # logarithms of probabilities serve as logits; a probability of 0 was too small for float32
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
