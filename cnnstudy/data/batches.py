"""Which images make a batch: epochs as they should be, and as the tutorials have them.

The legacy protocol gives `fit` an iterator and `steps_per_epoch = images // batch_size`. Keras goes on where the
iterator stands: an epoch of full batches, then an epoch of what is left over, and so on; with 364 images and batches of
128 the epochs see 256, 108, 256, 108 images (measured with Keras 3.15). Validation is cut to `images // batch_size`
full batches of images sorted by class, so that large batches leave out the last classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np


class Batches:
    """Cuts the training images of a trial into batches, epoch by epoch; the order depends on seed and epoch only."""

    def __init__(self, images: int, size: int, seed: int, protocol: str = "clean") -> None:
        self.images = images
        self.size = size
        self.seed = seed
        self.legacy = protocol == "legacy"

    def of_epoch(self, epoch: int) -> Iterator[np.ndarray]:
        """The images (their places, from 0) of each batch of epoch `epoch` (from 1)."""
        first, last, order_of = 0, self.images, epoch
        full = count_in_full_batches(self.images, self.size)
        if self.legacy and full < self.images:
            order_of = (epoch + 1) // 2  # two epochs share one pass over the images
            first, last = (0, full) if epoch % 2 else (full, self.images)
        order = np.random.default_rng([self.seed, order_of]).permutation(self.images)
        for start in range(first, last, self.size):
            yield order[start : min(start + self.size, last)]


def count_used(images: int, data_fraction: float) -> int:
    """Of so many training images of a class those that a trial uses."""
    return max(1, round(data_fraction * images))


def count_updates(images: int, size: int, epochs: int, protocol: str) -> int:
    """Updates that a trial makes in its epochs."""
    full = count_in_full_batches(images, size)
    if protocol == "legacy" and full < images:
        of_full, of_rest = math.ceil(full / size), 1
        return (epochs + 1) // 2 * of_full + epochs // 2 * of_rest
    return epochs * math.ceil(images / size)


def count_in_full_batches(images: int, size: int) -> int:
    """Images in `images // size` full batches, and all of them where there is no full batch."""
    return images // size * size or images


def legacy_validation_indices(labels: np.ndarray, size: int) -> np.ndarray:
    """The places of the images that the legacy protocol validates on: the first full batches, sorted by class."""
    return np.argsort(labels, kind="stable")[: count_in_full_batches(len(labels), size)]


def evaluation_batch_size(image_size: int) -> int:
    """Images a batch in evaluation: by image size (pixels) alone, so that no factor under study changes it."""
    return max(16, min(256, 32 * 224 * 224 // image_size**2))
