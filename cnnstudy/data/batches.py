"""Which images form a batch, in the clean and in the legacy protocol.

Clean: every training image once per epoch. Legacy does what happens in tutorials that give `fit` an iterator and
`steps_per_epoch = images // batch_size`: Keras does not restart the iterator, so an epoch of full batches is followed
by an epoch of the remaining images, and so on. With 364 images and batches of 128, the epochs see 256, 108, 256, 108
images (measured with Keras 3.15). Validation is cut to `images // batch_size` full batches of images sorted by class,
so with large batches the last classes are not validated on.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np


class Batches:
    """The batches of a trial's training images, epoch by epoch; their order depends only on seed and epoch."""

    def __init__(self, images: int, size: int, seed: int, protocol: str = "clean") -> None:
        self.images = images
        self.size = size
        self.seed = seed
        self.legacy = protocol == "legacy"

    def iterate_epoch(self, epoch: int) -> Iterator[np.ndarray]:
        """Yield the images of each batch, as indices from 0, in epoch `epoch` (from 1)."""
        start, end, pass_number = 0, self.images, epoch
        full = count_in_full_batches(self.images, self.size)
        if self.legacy and full < self.images:
            pass_number = (epoch + 1) // 2  # two epochs share one pass over the images
            start, end = (0, full) if epoch % 2 else (full, self.images)
        order = np.random.default_rng([self.seed, pass_number]).permutation(self.images)
        for first in range(start, end, self.size):
            yield order[first : min(first + self.size, end)]


def count_used_images(images: int, data_fraction: float) -> int:
    """Return how many of a class's training images a trial with this `data_fraction` uses."""
    return max(1, round(data_fraction * images))


def count_updates(images: int, size: int, epochs: int, protocol: str) -> int:
    """Return the number of updates in `epochs` epochs with batches of `size` images."""
    full = count_in_full_batches(images, size)
    if protocol == "legacy" and full < images:
        full_batches, remainder_batches = math.ceil(full / size), 1
        return (epochs + 1) // 2 * full_batches + epochs // 2 * remainder_batches
    return epochs * math.ceil(images / size)


def count_in_full_batches(images: int, size: int) -> int:
    """Return how many images are in the `images // size` full batches; all of them if there is no full batch."""
    return images // size * size or images


def legacy_validation_indices(labels: np.ndarray, size: int) -> np.ndarray:
    """Return the indices of the images that the legacy protocol validates on: full batches, sorted by class."""
    return np.argsort(labels, kind="stable")[: count_in_full_batches(len(labels), size)]


def evaluation_batch_size(image_size: int) -> int:
    """Return how many images are evaluated per batch; depends only on their size (pixels), so no factor changes it."""
    return max(16, min(256, 32 * 224 * 224 // image_size**2))
