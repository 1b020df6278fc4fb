"""Where a network looks: Grad-CAM (Selvaraju et al. 2017), on the last map of its convolutions.

For the class c it is relu(sum_k a_k A_k): A_k [h, w] is channel k of that map, and a_k the mean over its places of the
gradient of the logit of c with respect to A_k.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from cnnstudy.errors import ModelError

_CONVOLUTIONS = (layers.Conv2D, layers.DepthwiseConv2D, layers.SeparableConv2D)
#: They pass on what a convolution found, at fewer places, or with a border.
_PASS_ON = (
    layers.MaxPooling2D,
    layers.AveragePooling2D,
    layers.ZeroPadding2D,
    layers.Dropout,
    layers.SpatialDropout2D,
)
#: Places of a map that differ by less than this share of its largest differ by rounding.
_ROUNDING = 1e-5


@dataclass(frozen=True)
class Parts:
    """A classifier, cut at the last map of its convolutions."""

    layer: str  # the one that gives the map
    maps: keras.Model  # images [n, size, size, 3] -> [n, h, w, channels]
    logits: keras.Model  # maps -> [n, classes], before softmax
    features: keras.Model  # images -> [what the last dense layer takes [n, units], probabilities [n, classes]]


def cut(model: keras.Model, file: Path) -> Parts:
    """Cut a loaded model; the parts share its weights.

    The map is that of the last layer which all paths through the network pass and which gives more than one place:
    GoogLeNet's last concatenation rather than one of its branches, and a convolution rather than the pool behind it,
    which has only a quarter of its places.

    Raises:
        ModelError: it has no such map, or does not end in a softmax. `file` is what the message names.
    """
    operations = model.operations
    first = next((i for i, operation in enumerate(operations) if isinstance(operation, _CONVOLUTIONS)), len(operations))
    after_convolutions = {id(operation) for operation in operations[first:]}
    maps = [
        operation
        for operation in _main_path(model)
        if id(operation) in after_convolutions and _is_map(operation.output) and not isinstance(operation, _PASS_ON)
    ]
    if not maps:
        raise ModelError(f"{file} has no convolution whose map has more than one place; there is nothing to point at.")
    last = maps[-1]
    dense = [operation for operation in operations if isinstance(operation, layers.Dense)]
    features = dense[-1].input if dense else keras.ops.mean(last.output, axis=(1, 2))
    return Parts(
        layer=last.name,
        maps=keras.Model(model.inputs[0], last.output),
        logits=keras.Model(last.output, _logits(model, file)),
        features=keras.Model(model.inputs[0], [features, model.outputs[0]]),
    )


def _main_path(model: keras.Model) -> list[keras.Operation]:
    """The operations that every path from input to output passes, in order."""
    operations = model.operations
    places = {
        id(tensor): i for i, operation in enumerate(operations) for tensor in keras.tree.flatten(operation.output)
    }
    last_use = list(range(len(operations)))
    for i, operation in enumerate(operations):
        for tensor in keras.tree.flatten(operation.input):
            last_use[places[id(tensor)]] = i
    path, used_until = [], 0
    for i, operation in enumerate(operations):
        if used_until <= i:  # nothing goes around it
            path.append(operation)
        used_until = max(used_until, last_use[i])
    return path


def _is_map(output: Any) -> bool:
    """Whether it is one tensor [n, h, w, channels] with more than one place each way."""
    return isinstance(output, keras.KerasTensor) and len(output.shape) == 4 and min(output.shape[1:3]) > 1


def _logits(model: keras.Model, file: Path) -> keras.KerasTensor:
    """What the softmax takes. The gradient of a probability vanishes where the network is sure, that of a logit not."""
    last = model.operations[-1]
    if isinstance(last, layers.Softmax):
        return last.input
    if getattr(last, "activation", None) is keras.activations.softmax:
        if isinstance(last, layers.Activation):
            return last.input
        if isinstance(last, layers.Dense):
            linear = layers.Dense.from_config(
                {**last.get_config(), "name": f"{last.name}_logits", "activation": "linear"}
            )
            logits = linear(last.input)
            linear.set_weights(last.get_weights())
            return logits
    raise ModelError(f"{file} does not end in a softmax, so its logits are not known.")


def grad_cam(parts: Parts, pixels: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Grad-CAM [n, h, w] float32 of images [n, size, size, 3] for one class each, [n] int64; nowhere below 0."""
    maps = parts.maps(pixels, training=False)
    with tf.GradientTape() as tape:
        tape.watch(maps)
        scores = tf.gather(parts.logits(maps, training=False), classes, batch_dims=1)
    weights = tf.reduce_mean(tape.gradient(scores, maps), axis=(1, 2))
    return tf.nn.relu(tf.einsum("nhwk,nk->nhw", maps, weights)).numpy()


def scaled(heat: np.ndarray) -> np.ndarray:
    """A heat map [h, w], its largest value 1; all of it 0 where it is the same everywhere and so points nowhere."""
    largest = float(heat.max())
    if largest - float(heat.min()) <= _ROUNDING * largest:
        return np.zeros_like(heat)
    return heat / largest
