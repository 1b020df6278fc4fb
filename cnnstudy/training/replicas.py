"""Divide a batch among several devices: each runs every layer on its part, for the update that one device would make.

What depends on the whole batch is computed of the whole batch: random numbers, the statistics of BatchNormalization,
and the loss, of the logits of all parts. So the number of devices changes no more than the rounding, and every kind of
loss is what it is on one.

Weights, optimisers and random streams stay on the first device, which sends weights to the others and adds up the
gradients that come back. tf.distribute.MirroredStrategy would keep a copy of each on every device: its replicas draw
random numbers of their own, and a second network of another size in a process breaks its collectives.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import keras
import tensorflow as tf


class Parts:
    """The parts of one batch, as equal as can be, one for each device.

    A device for which no image is left gets one that another has too, and what comes out for it is left out: an update
    counts each image once, and no layer meets an empty batch.

    Args:
        devices: TensorFlow's names; the first has the weights.
        images: in the batch, an int32 scalar.
    """

    def __init__(self, devices: Sequence[str], images: tf.Tensor) -> None:
        self._devices = devices
        ends = [images * number // len(devices) for number in range(len(devices) + 1)]
        ranges = list(itertools.pairwise(ends))
        self._slices = [slice(start, tf.maximum(end, start + 1)) for start, end in ranges]
        self._counts = [end - start for start, end in ranges]
        self._shares = [tf.cast(count / images, tf.float32) for count in self._counts]
        self.images = images

    def split(self, batch: tf.Tensor) -> list[tf.Tensor]:
        """Return the parts of a batch [n, ...]."""
        return [batch[part] for part in self._slices]

    def join(self, parts: Sequence[tf.Tensor]) -> tf.Tensor:
        """Return the batch [n, ...] of these parts."""
        return tf.concat([part[:count] for part, count in zip(parts, self._counts, strict=True)], axis=0)

    def each(self, compute: Callable[..., tf.Tensor], *parts: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Call `compute` with each part, or those of several batches, on its device."""
        results = []
        for device, *given in zip(self._devices, *parts, strict=True):
            with tf.device(device):
                results.append(compute(*given))
        return results

    def normalise(self, layer: keras.layers.BatchNormalization, parts: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Apply a layer that trains, with the statistics of the whole batch, which its moving ones follow once."""
        of_channels = [axis for axis in range(parts[0].shape.rank) if axis != layer.axis % parts[0].shape.rank]
        parts = self.each(lambda part: tf.cast(part, tf.float32), parts)
        moments = self.each(lambda part: tf.stack(keras.ops.moments(part, of_channels)), parts)
        mean = tf.add_n([share * of_part[0] for share, of_part in zip(self._shares, moments, strict=True)])
        variance = tf.add_n(
            [
                share * (of_part[1] + tf.square(of_part[0] - mean))
                for share, of_part in zip(self._shares, moments, strict=True)
            ]
        )
        for moving, now in ((layer.moving_mean, mean), (layer.moving_variance, variance)):
            moving.assign(moving * layer.momentum + now * (1.0 - layer.momentum))

        def apply(part: tf.Tensor) -> tf.Tensor:
            scale = tf.cast(layer.gamma, tf.float32) if layer.scale else None
            offset = tf.cast(layer.beta, tf.float32) if layer.center else None
            normalised = keras.ops.batch_normalization(part, mean, variance, layer.axis, offset, scale, layer.epsilon)
            return tf.cast(normalised, layer.compute_dtype)

        return self.each(apply, parts)


def gradients_on_devices(total: tf.Tensor, weights: Sequence[tf.Variable]) -> list[tf.Tensor]:
    """Return the gradients [...] of a sum; each operation's is computed on the device of that operation.

    tf.GradientTape would compute all of them on the first device.
    """
    found: list[tf.Tensor] = tf.compat.v1.gradients(total, list(weights), colocate_gradients_with_ops=True)
    return found
