"""Which images of probe and validation a trial gets right, packed: any two trials can be compared pair by pair."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cnnstudy.training.images import TrainingImages
from cnnstudy.training.metrics import Measurement


def save(path: Path, images: TrainingImages, restored: Measurement, last: Measurement) -> None:
    """Write `path` (.npz), for each part, "probe" and "validation", of n images:

    `<part>_places`      [n] int64, the images' places in the data set
    `<part>_restored`    right or wrong with the restored weights, packed: np.unpackbits(..., count=n)
    `<part>_last`        the same with the last weights
    """
    arrays = {"probe_places": images.probe.places, "validation_places": images.validation.places}
    for moment, measured in (("restored", restored), ("last", last)):
        arrays[f"probe_{moment}"] = np.packbits(measured.train.argmax(axis=1) == measured.train_labels)
        arrays[f"validation_{moment}"] = np.packbits(measured.validation.argmax(axis=1) == measured.validation_labels)
    np.savez_compressed(path, allow_pickle=False, **arrays)
