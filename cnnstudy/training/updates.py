"""One update of the weights, as one compiled function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import keras
import numpy as np
import tensorflow as tf

from cnnstudy.architectures import AUXILIARY, HEAD, Network
from cnnstudy.records import Optimizer
from cnnstudy.training import augmentation, optimizers, transfer, weights
from cnnstudy.training.augmentation import VIEWS
from cnnstudy.training.graph import Graph
from cnnstudy.training.micro_batches import MicroBatches
from cnnstudy.training.precision import LossScale, computing_in

Result = TypeVar("Result")


@dataclass(frozen=True)
class UpdateKind:
    """What makes an update another graph."""

    backbone: tuple[str, ...]  # stages that train, as in transfer.Phase
    auxiliary: bool  # whether auxiliary heads count
    optimizer: Optimizer
    augmentation: str
    cut: str | None = None  # the operation whose outputs come in, instead of images
    precision: str = "float32"  # or Keras' "mixed_float16", "mixed_bfloat16"
    xla: bool = False  # one program for each size of a batch; from the same streams dropout draws other numbers


class Update:
    """One update of one kind, with optimisers of its own: one for the heads, one for the backbone."""

    def __init__(
        self,
        network: Network,
        graph: Graph,
        kind: UpdateKind,
        augment: list[keras.layers.Layer],
        auxiliary_weight: tf.Variable,
        micro_batches: MicroBatches,
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
        self._micro_batches = micro_batches
        self._trained = [variable.value for variables, _ in self._groups for variable in variables]
        self._loss_scale = LossScale() if kind.precision == "mixed_float16" else None
        self._begun = tf.Variable(0, trainable=False, dtype=tf.int64)  # changes of the weights
        self._ended = 0
        inputs = graph.signature(kind.cut, views=1 if kind.cut is None else len(VIEWS[kind.augmentation]))
        batch = [inputs, tf.TensorSpec((None,), tf.int64)]
        gradients = [tf.TensorSpec(weight.shape, weight.dtype) for weight in self._trained]
        self._step = tf.function(self._whole, input_signature=batch, autograph=False)
        self._part = tf.function(
            self._of_part, input_signature=[*batch, tf.TensorSpec((), tf.float32)], autograph=False
        )
        self._end = tf.function(self._change, input_signature=[gradients], autograph=False)

    def start(self, learning_rate: float, backbone_learning_rate: float) -> None:
        """Optimisers as fresh ones."""
        for (_, optimizer), rate in zip(self._groups, (learning_rate, backbone_learning_rate), strict=False):
            for variable in optimizer.variables:
                weights.assign(variable, tf.zeros(variable.shape, variable.dtype))
            optimizer.learning_rate = rate
        if self._loss_scale is not None:
            self._loss_scale.start()

    @property
    def skipped(self) -> int | None:
        """Updates since the start that changed nothing, for gradients beyond float16; None: there are no such."""
        return None if self._loss_scale is None else int(self._loss_scale.skipped.numpy())

    @property
    def variables(self) -> list[keras.Variable]:
        """The optimisers' states."""
        return [variable for _, optimizer in self._groups for variable in optimizer.variables]

    @property
    def state(self) -> list[keras.Variable | tf.Variable]:
        """All that its next call depends on, beside the weights and the random streams."""
        return [*self.variables, *(self._loss_scale.state if self._loss_scale is not None else ())]

    def __call__(self, inputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Train on a batch with labels [n] int64; in parts where the memory does not suffice for all of it.

        The gradients of parts add up to those of the batch, each weighed by its share of the images: losses are means
        over images, and no layer looks at more than one image. What augmentation and dropout draw differs, though:
        their streams go on from part to part.

        Args:
            inputs: images [n, size, size, 3] uint8; or features [n, ...] float32, [n, 2, ...] where images are flipped.

        Returns:
            [3]: the batch's mean loss, accuracy and summed auxiliary losses, as Keras' `fit` sees them.

        Raises:
            ResourceExhaustedError: the memory does not suffice for one image.
            MemoryError: it did not suffice when some of the weights were changed already.
        """
        return self._micro_batches.run("training", len(labels), lambda parts: self._train(inputs, labels, parts))

    def _train(self, inputs: np.ndarray, labels: np.ndarray, parts: Sequence[slice]) -> np.ndarray:
        try:
            measured = self._step(inputs, labels).numpy() if len(parts) == 1 else self._add_up(inputs, labels, parts)
        except tf.errors.ResourceExhaustedError as error:
            if self._begun.numpy() == self._ended:
                raise
            raise MemoryError("out of memory while the weights were changed") from error
        self._ended += 1
        return measured

    def _add_up(self, inputs: np.ndarray, labels: np.ndarray, parts: Sequence[slice]) -> np.ndarray:
        measured, gradients = np.zeros(3, np.float32), list[tf.Tensor]()
        for part in parts:
            of_part, more = self._part(inputs[part], labels[part], len(labels[part]) / len(labels))
            measured += of_part.numpy()
            gradients = [one + other for one, other in zip(gradients, more, strict=True)] if gradients else more
        self._end(gradients)
        return measured

    def _whole(self, inputs: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        return self._by_xla(self._on_augmented)(self._augmented(inputs), labels)

    def _of_part(self, inputs: tf.Tensor, labels: tf.Tensor, share: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
        return self._by_xla(self._gradients)(self._augmented(inputs), labels, share)

    def _by_xla(self, function: Callable[..., Result]) -> Callable[..., Result]:
        """What comes after augmentation, of which XLA knows no rotation and no zoom."""
        return tf.function(function, jit_compile=True, autograph=False) if self._kind.xla else function

    def _on_augmented(self, inputs: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        measured, gradients = self._gradients(inputs, labels, 1.0)
        self._change(gradients)
        return measured

    def _gradients(
        self, inputs: tf.Tensor, labels: tf.Tensor, share: tf.Tensor | float
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """What `__call__` returns, and the gradients of the weights that train; both times `share`."""
        graph = self._graph
        known = {self._kind.cut or graph.input: inputs}
        # what a layer's `trainable` says while this is traced plays no part
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(self._trained)
            wanted = graph.outputs if self._kind.auxiliary else graph.outputs[:1]
            with computing_in(self._kind.precision, graph.inner_layers()):
                logits, *auxiliary = graph.run(wanted, known, training=True)
            loss = _cross_entropy(labels, logits)
            auxiliary_loss = tf.add_n([_cross_entropy(labels, one) for one in auxiliary] or [0.0])
            total = share * (loss + self._auxiliary_weight * auxiliary_loss)
            scaled = total if self._loss_scale is None else self._loss_scale.value * total
        gradients = tape.gradient(scaled, self._trained)
        if self._loss_scale is not None:
            gradients = [gradient / self._loss_scale.value for gradient in gradients]
        correct = tf.cast(tf.argmax(logits, axis=1) == labels, tf.float32)
        measured = share * tf.stack([loss, tf.reduce_mean(correct), auxiliary_loss])
        return measured, gradients

    def _change(self, gradients: list[tf.Tensor]) -> None:
        """The weights, once all gradients are there: where the memory runs out before, nothing has changed."""
        with tf.control_dependencies(gradients):
            begun = self._begun.assign_add(1)
        with tf.control_dependencies([begun]):
            if self._loss_scale is None:
                self._apply(gradients)
            else:
                self._loss_scale.change(gradients, lambda: self._apply(gradients))

    def _apply(self, gradients: list[tf.Tensor]) -> None:
        for variables, optimizer in self._groups:
            optimizer.apply(gradients[: len(variables)], variables)
            gradients = gradients[len(variables) :]

    def _augmented(self, inputs: tf.Tensor) -> tf.Tensor:
        if self._kind.cut is None:
            batch = tf.cast(inputs, tf.float32)
            for layer in self._augment:
                batch = layer(batch, training=True)
            return batch
        return augmentation.flipped_view(self._augment, inputs) if self._augment else inputs


def _cross_entropy(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
