"""A network as operations that feed each other: run between any two of its tensors, with dropout that can be set.

Keras writes a dropout rate into what it compiles. Here the rates are variables, so that one compiled network serves
trials of every rate, while the layers stay Keras' own.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping

import keras
import tensorflow as tf

from cnnstudy.architectures import Network, dropout_factor
from cnnstudy.records import Level
from cnnstudy.training import devices
from cnnstudy.training.keras_internals import random_state


def apply_dense(layer: keras.layers.Dense, inputs: tf.Tensor) -> tf.Tensor:
    """What the layer makes of inputs [n, features]: [n, units], in the layer's precision."""
    if devices.gpu_name() is not None:  # its library takes as long either way
        return layer(inputs)
    kernel = tf.cast(layer.kernel, layer.compute_dtype)
    outputs = _product(layer.compute_dtype)(tf.cast(inputs, layer.compute_dtype), kernel)
    outputs = tf.ensure_shape(outputs, (inputs.shape[0], layer.units))
    if layer.bias is not None:
        outputs = outputs + tf.cast(layer.bias, layer.compute_dtype)
    return layer.activation(outputs)


@functools.cache
def _product(precision: str) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """[n, features], [features, units] -> [n, units], with the faster gradient.

    TensorFlow keeps for ever what has a gradient of its own, with all of the graph that it was made in. Hence one
    function, in a graph of its own, for all layers of all networks.
    """

    @tf.custom_gradient
    def product(x: tf.Tensor, kernel: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[tf.Tensor, ...]]]:
        def gradients(upstream: tf.Tensor) -> tuple[tf.Tensor, ...]:
            of_x = tf.transpose(tf.matmul(kernel, upstream, transpose_b=True))
            return of_x, tf.matmul(x, upstream, transpose_a=True)

        return tf.matmul(x, kernel), gradients

    matrix = tf.TensorSpec((None, None), precision)
    with tf.init_scope():
        return tf.function(product, autograph=False).get_concrete_function(matrix, matrix)


class Graph:
    """The operations of a network by name; an operation's name is its output's too."""

    def __init__(self, network: Network) -> None:
        self.operations: dict[str, keras.Operation] = {
            operation.name: operation
            for model in (network.training, network.inference)
            for operation in model.operations
        }
        names = {id(operation.output): name for name, operation in self.operations.items()}
        self.sources = {
            name: tuple(names[id(tensor)] for tensor in _listed(operation.input))
            for name, operation in self.operations.items()
            if not isinstance(operation, keras.layers.InputLayer)
        }
        self.input = names[id(network.training.inputs[0])]
        self.outputs = [names[id(tensor)] for tensor in network.training.outputs]  # the logits, then auxiliary ones
        self._dropouts = [layer for layer in network.training.layers if type(layer) is keras.layers.Dropout]
        self._rates = {layer.name: tf.Variable(layer.rate, trainable=False) for layer in self._dropouts}
        self._scales = {layer.name: tf.Variable(1 / (1 - layer.rate), trainable=False) for layer in self._dropouts}

    def set_dropout(self, levels: Mapping[str, Level]) -> None:
        """Set the rates, in [0, 1), of the compiled network and of its layers as they are saved.

        Args:
            levels: of the factors that architectures.dropout_factor names; 0 for one that has no level in the trial.
        """
        for layer in self._dropouts:
            factor = dropout_factor(layer.name)
            if factor is not None:
                layer.rate = float(levels.get(factor, 0.0))
                self._rates[layer.name].assign(layer.rate)
                self._scales[layer.name].assign(1 / (1 - layer.rate))

    def signature(self, cut: str | None = None, views: int = 1) -> tf.TensorSpec:
        """A batch of images, or of the outputs of the operation `cut`: of so many views of each image."""
        if cut is None:
            return tf.TensorSpec(self.operations[self.input].output.shape, tf.uint8)
        return tf.TensorSpec((None, *((views,) if views > 1 else ()), *self.shape(cut)), tf.float32)

    def shape(self, name: str) -> tuple[int, ...]:
        """Of the operation's output, without the batch."""
        return tuple(self.operations[name].output.shape[1:])

    def run(self, wanted: Iterable[str], known: Mapping[str, tf.Tensor], training: bool) -> list[tf.Tensor]:
        """The outputs of the operations `wanted`, from those that are known; nothing else is computed."""
        found = dict(known)

        def output_of(name: str) -> tf.Tensor:
            if name not in found:
                found[name] = self._apply(
                    self.operations[name], [output_of(one) for one in self.sources[name]], training
                )
            return found[name]

        return [output_of(name) for name in wanted]

    def _apply(self, operation: keras.Operation, inputs: list[tf.Tensor], training: bool) -> tf.Tensor:
        if type(operation) is keras.layers.Dropout:
            return self._drop(operation, inputs[0]) if training else inputs[0]
        if type(operation) is keras.layers.Dense and training:
            return apply_dense(operation, inputs[0])
        given = inputs if isinstance(operation.input, list) else inputs[0]
        if _takes_training(operation):
            return operation(given, training=training)
        return operation(given)

    def _drop(self, layer: keras.layers.Dropout, x: tf.Tensor) -> tf.Tensor:
        """As the layer does it, but for a rate of 0 too, where it keeps everything: the same numbers by any way."""
        noise = keras.random.uniform(tf.shape(x), seed=layer.seed_generator)
        kept = noise >= self._rates[layer.name]
        return tf.where(kept, x * tf.cast(self._scales[layer.name], x.dtype), tf.zeros((), x.dtype))

    def last_constant(self, changes: Callable[[str], bool]) -> str | None:
        """The last operation that everything in the logits comes through and that is the same in every trial and epoch.

        Args:
            changes: whether the weights of the layer of that name train.

        Returns:
            Its name; None where not even the first layer with weights stays as it is.
        """
        constant = {self.input: True}

        def is_constant(name: str) -> bool:
            if name not in constant:
                operation = self.operations[name]
                random = random_state(operation) is not None
                own = not random and not (getattr(operation, "weights", ()) and changes(name))
                constant[name] = own and all(map(is_constant, self.sources[name]))
            return constant[name]

        logits = self.outputs[0]
        candidates = [name for name in self.upstream(logits) if is_constant(name) and self._is_on_every_way(name)]
        # the more lies before it, the later it is
        last = max(candidates, key=lambda name: len(self.upstream(name)))
        return last if any(getattr(self.operations[name], "weights", ()) for name in self.upstream(last)) else None

    def inner_layers(self) -> list[keras.layers.Layer]:
        """The layers between the images and the logits: what prepares the images is none, nor what gives logits."""
        inner = set.union(*map(self.upstream, self.outputs)) - set(self.outputs)
        return [
            self.operations[name]
            for name in sorted(inner)
            if isinstance(self.operations[name], keras.layers.Layer)
            and any(getattr(self.operations[before], "weights", ()) for before in self.upstream(name))
        ]

    def upstream(self, name: str, without: str | None = None) -> set[str]:
        """The operation and all that it depends on; what it needs only by way of `without` is left out."""
        found, waiting = set[str](), [name]
        while waiting:
            one = waiting.pop()
            if one not in found and one != without:
                found.add(one)
                waiting += self.sources.get(one, ())
        return found

    def _is_on_every_way(self, name: str) -> bool:
        return self.input not in self.upstream(self.outputs[0], without=name)


def keeps_statistics(layer: keras.layers.Layer) -> bool:
    """Check whether an update changes weights of the layer that its optimiser does not, as in BatchNormalization."""
    return layer.trainable and bool(layer.non_trainable_weights) and _takes_training(layer)


def _takes_training(operation: keras.Operation) -> bool:
    return "training" in inspect.signature(operation.call).parameters


def _listed(tensors: keras.KerasTensor | list[keras.KerasTensor]) -> list[keras.KerasTensor]:
    return list(tensors) if isinstance(tensors, list | tuple) else [tensors]
