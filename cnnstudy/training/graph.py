"""A network as a graph of operations: run it between any two of its tensors, with dropout rates that can be set.

Keras compiles a dropout rate in as a constant. Here the rates are variables, so that one compiled network serves trials
of every rate, while the layers stay Keras' own.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Container, Iterable, Mapping
from typing import TypeVar

import keras
import tensorflow as tf

from cnnstudy.architectures import Network, dropout_factor
from cnnstudy.records import Level
from cnnstudy.training import devices
from cnnstudy.training.keras_internals import call_arguments, random_state
from cnnstudy.training.replicas import Parts

#: A tensor, or its parts on several devices.
Value = TypeVar("Value")


class Graph:
    """The operations of a network by name; an operation and its output share the name."""

    def __init__(self, network: Network) -> None:
        self.operations: dict[str, keras.Operation] = {
            operation.name: operation
            for model in (network.training, network.inference)
            for operation in model.operations
        }
        names = {id(operation.output): name for name, operation in self.operations.items()}
        self.sources = {
            name: tuple(names[id(tensor)] for tensor in _as_list(operation.input))
            for name, operation in self.operations.items()
            if not isinstance(operation, keras.layers.InputLayer)
        }
        self.input = names[id(network.training.inputs[0])]
        self.outputs = [names[id(tensor)] for tensor in network.training.outputs]  # the logits, then auxiliary ones
        self._dropouts = [layer for layer in network.training.layers if type(layer) is keras.layers.Dropout]
        self._rates = {layer.name: tf.Variable(layer.rate, trainable=False) for layer in self._dropouts}
        self._scales = {layer.name: tf.Variable(1 / (1 - layer.rate), trainable=False) for layer in self._dropouts}

    def set_dropout(self, levels: Mapping[str, Level]) -> None:
        """Set the dropout rates, in [0, 1), of the compiled network and of the layers, which are saved with theirs.

        Args:
            levels: rates by the factors that architectures.dropout_factor names; a missing one is 0.
        """
        for layer in self._dropouts:
            factor = dropout_factor(layer.name)
            if factor is not None:
                layer.rate = float(levels.get(factor, 0.0))
                self._rates[layer.name].assign(layer.rate)
                self._scales[layer.name].assign(1 / (1 - layer.rate))

    def signature(self, cut: str | None = None, views: int = 1) -> tf.TensorSpec:
        """Return the signature of a batch of images, or of outputs of the operation `cut` with that many views."""
        if cut is None:
            return tf.TensorSpec(self.operations[self.input].output.shape, tf.uint8)
        return tf.TensorSpec((None, *((views,) if views > 1 else ()), *self.shape(cut)), tf.float32)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of an operation's output, without the batch dimension."""
        return tuple(self.operations[name].output.shape[1:])

    def run(
        self, wanted: Iterable[str], known: Mapping[str, tf.Tensor], training: bool, frozen: Container[str] = ()
    ) -> list[tf.Tensor]:
        """Compute the outputs of the operations `wanted`, and only what they need, from known outputs by name.

        Args:
            frozen: operations that are in inference mode even in training.
        """

        def apply(name: str, inputs: list[tf.Tensor]) -> tf.Tensor:
            return self._apply(self.operations[name], inputs, training and name not in frozen)

        return self._evaluate(wanted, known, apply)

    def run_in_parts(
        self, wanted: Iterable[str], known: Mapping[str, tf.Tensor], frozen: Container[str], parts: Parts
    ) -> list[tf.Tensor]:
        """Compute what `run` does in training, each device with its part of the batch."""

        def apply(name: str, inputs: list[list[tf.Tensor]]) -> list[tf.Tensor]:
            return self._apply_to_parts(self.operations[name], inputs, name not in frozen, parts)

        divided = {name: parts.split(batch) for name, batch in known.items()}
        return [parts.join(output) for output in self._evaluate(wanted, divided, apply)]

    def _evaluate(
        self, wanted: Iterable[str], known: Mapping[str, Value], apply: Callable[[str, list[Value]], Value]
    ) -> list[Value]:
        outputs = dict(known)

        def output_of(name: str) -> Value:
            if name not in outputs:
                outputs[name] = apply(name, [output_of(source) for source in self.sources[name]])
            return outputs[name]

        return [output_of(name) for name in wanted]

    def _apply(self, operation: keras.Operation, inputs: list[tf.Tensor], training: bool) -> tf.Tensor:
        if type(operation) is keras.layers.Dropout:
            return self._drop_out(operation, inputs[0]) if training else inputs[0]
        if type(operation) is keras.layers.Dense and training:
            return apply_dense(operation, inputs[0])
        arguments, named = call_arguments(operation, inputs)
        if _takes_training(operation):
            named = {**named, "training": training}
        return operation(*arguments, **named)

    def _apply_to_parts(
        self, operation: keras.Operation, inputs: list[list[tf.Tensor]], training: bool, parts: Parts
    ) -> list[tf.Tensor]:
        if type(operation) is keras.layers.Dropout and training:
            shape = tf.concat([[parts.images], tf.shape(inputs[0][0])[1:]], axis=0)
            noise = _draw_noise(operation, shape)
            shared = operation.noise_shape is not None and operation.noise_shape[0] is not None
            noises = [noise] * len(inputs[0]) if shared else parts.split(noise)
            return parts.each(lambda x, of_part: self._drop_where(operation, x, of_part), inputs[0], noises)
        if training and type(operation) is keras.layers.BatchNormalization and not operation.renorm:
            if operation.trainable:
                return parts.normalise(operation, inputs[0])
        elif training and _takes_training(operation) and operation.non_trainable_variables:
            # random, or with statistics: what it makes of an image depends on the whole batch
            return parts.split(self._apply(operation, [parts.join(one) for one in inputs], training))
        return parts.each(lambda *given: self._apply(operation, list(given), training), *inputs)

    def _drop_out(self, layer: keras.layers.Dropout, x: tf.Tensor) -> tf.Tensor:
        """Apply dropout with the same random numbers as the layer. At a rate of 0 numbers are drawn as well."""
        return self._drop_where(layer, x, _draw_noise(layer, tf.shape(x)))

    def _drop_where(self, layer: keras.layers.Dropout, x: tf.Tensor, noise: tf.Tensor) -> tf.Tensor:
        kept = noise >= self._rates[layer.name]
        return tf.where(kept, x * tf.cast(self._scales[layer.name], x.dtype), tf.zeros((), x.dtype))

    def find_last_constant(self, changes: Callable[[str], bool]) -> str | None:
        """Find the last operation whose output for an image never changes and that all paths to the logits go through.

        Args:
            changes: whether the weights of the layer of that name train.

        Returns:
            Its name; None if not even the first layer with weights is constant.
        """
        logits = self.outputs[0]
        constant = self.find_constants(changes)
        candidates = [name for name in self.upstream(logits) if name in constant and self._is_on_every_path(name)]
        # the more operations precede it, the later it is
        last = max(candidates, key=lambda name: len(self.upstream(name)))
        return last if any(getattr(self.operations[name], "weights", ()) for name in self.upstream(last)) else None

    def find_constants(self, changes: Callable[[str], bool]) -> set[str]:
        """Return the operations whose output for an image never changes: those without anything before that trains.

        What is random in the backbone, such as EfficientNet's dropping of branches, is off there.

        Args:
            changes: whether the weights of the layer of that name train.
        """
        constant = {self.input: True}

        def is_constant(name: str) -> bool:
            if name not in constant:
                operation = self.operations[name]
                is_random = random_state(operation) is not None and dropout_factor(name) is not None
                trains = bool(getattr(operation, "weights", ())) and changes(name)
                constant[name] = not is_random and not trains and all(map(is_constant, self.sources[name]))
            return constant[name]

        return {name for name in self.operations if is_constant(name)}

    def inner_layers(self) -> list[keras.layers.Layer]:
        """Return the layers between the preprocessing and the layers that give logits, both excluded."""
        inner = set.union(*map(self.upstream, self.outputs)) - set(self.outputs)
        return [
            self.operations[name]
            for name in sorted(inner)
            if isinstance(self.operations[name], keras.layers.Layer)
            and any(getattr(self.operations[before], "weights", ()) for before in self.upstream(name))
        ]

    def upstream(self, name: str, without: str | None = None) -> set[str]:
        """Return the operation and all that it depends on, except through the operation `without`."""
        visited, waiting = set[str](), [name]
        while waiting:
            current = waiting.pop()
            if current not in visited and current != without:
                visited.add(current)
                waiting += self.sources.get(current, ())
        return visited

    def _is_on_every_path(self, name: str) -> bool:
        return self.input not in self.upstream(self.outputs[0], without=name)


def keeps_statistics(layer: keras.layers.Layer) -> bool:
    """Check whether updates change weights of the layer other than through the optimiser, as in BatchNormalization."""
    return layer.trainable and bool(layer.non_trainable_weights) and _takes_training(layer)


def _draw_noise(layer: keras.layers.Dropout, shape: tf.Tensor) -> tf.Tensor:
    """Draw the numbers in [0, 1) that decide what is dropped of outputs of that shape; advances the random stream."""
    if layer.noise_shape is not None:  # as where whole branches are dropped; None stands for the size of x
        shape = tf.stack([shape[axis] if size is None else size for axis, size in enumerate(layer.noise_shape)])
    return keras.random.uniform(shape, seed=layer.seed_generator)


def _takes_training(operation: keras.Operation) -> bool:
    return "training" in inspect.signature(operation.call).parameters


def _as_list(tensors: keras.KerasTensor | list[keras.KerasTensor]) -> list[keras.KerasTensor]:
    return list(tensors) if isinstance(tensors, list | tuple) else [tensors]


# ---- dense layers


def apply_dense(layer: keras.layers.Dense, inputs: tf.Tensor) -> tf.Tensor:
    """Apply the layer to inputs [n, features]; return [n, units] in the layer's precision. On a CPU it is faster."""
    if devices.gpu_name() is not None:  # no gain there
        return layer(inputs)
    kernel = tf.cast(layer.kernel, layer.compute_dtype)
    outputs = _matrix_product(layer.compute_dtype)(tf.cast(inputs, layer.compute_dtype), kernel)
    outputs = tf.ensure_shape(outputs, (inputs.shape[0], layer.units))
    if layer.bias is not None:
        outputs = outputs + tf.cast(layer.bias, layer.compute_dtype)
    return layer.activation(outputs)


@functools.cache
def _matrix_product(precision: str) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """Return a function of [n, features] and [features, units] that gives [n, units], with a faster gradient.

    TensorFlow never frees a function with a custom gradient, nor the graph that it was created in. Hence one function,
    in its own graph, for all layers of all networks.
    """

    @tf.custom_gradient
    def product(x: tf.Tensor, kernel: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[tf.Tensor, ...]]]:
        def gradients(upstream: tf.Tensor) -> tuple[tf.Tensor, ...]:
            x_gradient = tf.transpose(tf.matmul(kernel, upstream, transpose_b=True))
            return x_gradient, tf.matmul(x, upstream, transpose_a=True)

        return tf.matmul(x, kernel), gradients

    matrix = tf.TensorSpec((None, None), precision)
    with tf.init_scope():
        return tf.function(product, autograph=False).get_concrete_function(matrix, matrix)
