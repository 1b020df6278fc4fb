"""Which images of probe and validation a trial gets right, packed: any two trials can be compared pair by pair."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cnnstudy.training.images import TrainingImages
from cnnstudy.training.metrics import Measurement

MOMENTS = ("restored", "last")


@dataclass(frozen=True)
class Correctness:
    """Of one part ("probe" or "validation"): the images' places in the data set [n] int64, and right or wrong [n] bool
    with the restored and with the last weights."""

    places: np.ndarray
    restored: np.ndarray
    last: np.ndarray


def save(path: Path, images: TrainingImages, restored: Measurement, last: Measurement) -> None:
    """Write `path` (.npz): for each part its places, and one bit an image and moment."""
    arrays = {"probe_places": images.probe.places, "validation_places": images.validation.places}
    for moment, measured in zip(MOMENTS, (restored, last), strict=True):
        arrays[f"probe_{moment}"] = np.packbits(measured.train.argmax(axis=1) == measured.train_labels)
        arrays[f"validation_{moment}"] = np.packbits(measured.validation.argmax(axis=1) == measured.validation_labels)
    np.savez_compressed(path, allow_pickle=False, **arrays)


def load(path: Path) -> dict[str, Correctness]:
    """What `save` wrote, by part."""
    with np.load(path, allow_pickle=False) as arrays:
        return {
            part: Correctness(
                places=arrays[f"{part}_places"],
                **{
                    moment: np.unpackbits(arrays[f"{part}_{moment}"], count=len(arrays[f"{part}_places"])).astype(bool)
                    for moment in MOMENTS
                },
            )
            for part in ("probe", "validation")
        }
