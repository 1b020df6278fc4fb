"""One update of the weights, as one compiled function."""

from __future__ import annotations

from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from cnnstudy.architectures import AUXILIARY, HEAD, Network
from cnnstudy.records import Optimizer
from cnnstudy.training import augmentation, optimizers, transfer, weights
from cnnstudy.training.augmentation import VIEWS
from cnnstudy.training.graph import Graph


@dataclass(frozen=True)
class UpdateKind:
    """What makes an update another graph."""

    backbone: tuple[str, ...]  # stages that train, as in transfer.Phase
    auxiliary: bool  # whether auxiliary heads count
    optimizer: Optimizer
    augmentation: str
    cut: str | None = None  # the operation whose outputs come in, instead of images


class Update:
    """One update of one kind, with optimisers of its own: one for the heads, one for the backbone."""

    def __init__(
        self,
        network: Network,
        graph: Graph,
        kind: UpdateKind,
        augment: list[keras.layers.Layer],
        auxiliary_weight: tf.Variable,
    ) -> None:
        layers = (network.training if kind.auxiliary else network.logits).layers
        head = [layer for layer in layers if layer.name.startswith((HEAD, AUXILIARY))]
        backbone = [layer for layer in weights.backbone_layers(network.logits) if transfer.trains(layer, kind.backbone)]
        self._groups = [
            (
                [variable for layer in group for variable in layer.trainable_variables],
                optimizers.build(kind.optimizer, 0.0),
            )
            for group in (head, backbone)
            if group
        ]
        for variables, optimizer in self._groups:
            optimizer.build(variables)
        self._graph = graph
        self._kind = kind
        self._augment = augment
        self._auxiliary_weight = auxiliary_weight
        inputs = graph.signature(kind.cut, views=1 if kind.cut is None else len(VIEWS[kind.augmentation]))
        self._step = tf.function(
            self._function, input_signature=[inputs, tf.TensorSpec((None,), tf.int64)], autograph=False
        )

    def start(self, learning_rate: float, backbone_learning_rate: float) -> None:
        """Optimisers as fresh ones."""
        for (_, optimizer), rate in zip(self._groups, (learning_rate, backbone_learning_rate), strict=False):
            for variable in optimizer.variables:
                variable.assign(tf.zeros(variable.shape, variable.dtype))
            optimizer.learning_rate = rate

    @property
    def variables(self) -> list[keras.Variable]:
        """The optimisers' states."""
        return [variable for _, optimizer in self._groups for variable in optimizer.variables]

    def __call__(self, inputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Train on a batch with labels [n] int64.

        Args:
            inputs: images [n, size, size, 3] uint8; or features [n, ...] float32, [n, 2, ...] where images are flipped.

        Returns:
            [3]: the batch's mean loss, accuracy and summed auxiliary losses, as Keras' `fit` sees them.
        """
        return self._step(inputs, labels).numpy()

    def _function(self, inputs: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        graph = self._graph
        trained = [variable.value for variables, _ in self._groups for variable in variables]
        known = self._augmented(inputs)
        # what a layer's `trainable` says while this is traced plays no part
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(trained)
            wanted = graph.outputs if self._kind.auxiliary else graph.outputs[:1]
            logits, *auxiliary = graph.run(wanted, known, training=True)
            loss = _cross_entropy(labels, logits)
            auxiliary_loss = tf.add_n([_cross_entropy(labels, one) for one in auxiliary] or [0.0])
            total = loss + self._auxiliary_weight * auxiliary_loss
        gradients = tape.gradient(total, trained)
        for variables, optimizer in self._groups:
            optimizer.apply(gradients[: len(variables)], variables)
            gradients = gradients[len(variables) :]
        correct = tf.cast(tf.argmax(logits, axis=1) == labels, tf.float32)
        return tf.stack([loss, tf.reduce_mean(correct), auxiliary_loss])

    def _augmented(self, inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        if self._kind.cut is None:
            batch = tf.cast(inputs, tf.float32)
            for layer in self._augment:
                batch = layer(batch, training=True)
            return {self._graph.input: batch}
        if not self._augment:
            return {self._kind.cut: inputs}
        return {self._kind.cut: augmentation.flipped_view(self._augment, inputs)}


def _cross_entropy(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
