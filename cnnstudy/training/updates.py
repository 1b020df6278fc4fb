"""Updates of the weights, as one compiled function that makes several of them a call."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import keras
import numpy as np
import tensorflow as tf
from keras import optimizers

from cnnstudy.architectures import AUXILIARY, HEAD, Network
from cnnstudy.records import Optimizer
from cnnstudy.training import augmentation, keras_internals, transfer, weights
from cnnstudy.training.augmentation import VIEWS
from cnnstudy.training.graph import Graph, keeps_statistics
from cnnstudy.training.keras_internals import OneDevice
from cnnstudy.training.micro_batches import MicroBatches, is_out_of_memory

#: The loss scale of a fresh phase, and the updates in a row with finite gradients after which it doubles: as in Keras.
FIRST_SCALE, STEPS_TO_GROW = 2.0**15, 2000


@contextlib.contextmanager
def use_precision(precision: str, layers: Iterable[keras.layers.Layer]) -> Iterator[None]:
    """The layers have that policy, one of Keras', for so long; "float32" is what they are built with."""
    before = [(layer, layer.dtype_policy) for layer in layers] if precision != "float32" else []
    try:
        for layer, _ in before:
            layer.dtype_policy = keras.dtype_policies.DTypePolicy(precision)
        yield
    finally:
        for layer, policy in before:
            layer.dtype_policy = policy


class LossScale:
    """What the loss is multiplied by, so that float16 does not lose small gradients; they are divided by it again.

    An update whose gradients are not all finite is skipped, and the scale halved.
    """

    def __init__(self) -> None:
        self.value = tf.Variable(FIRST_SCALE, trainable=False)
        self.skipped = tf.Variable(0, trainable=False, dtype=tf.int64)  # updates since the start
        self._finite_in_a_row = tf.Variable(0, trainable=False, dtype=tf.int64)

    @property
    def state(self) -> tuple[tf.Variable, ...]:
        """All that its next update depends on, and what it has counted."""
        return self.value, self.skipped, self._finite_in_a_row

    def start(self) -> None:
        """As a fresh one."""
        self.value.assign(FIRST_SCALE)
        self.skipped.assign(0)
        self._finite_in_a_row.assign(0)

    def change(self, gradients: list[tf.Tensor], change: Callable[[], None]) -> None:
        """Call `change` where the gradients, divided already, are finite; then set the scale for the next update."""
        finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(gradient)) for gradient in gradients])

        def go_on() -> tf.Tensor:
            change()
            row = self._finite_in_a_row.assign_add(1)
            grows = row == STEPS_TO_GROW
            self._finite_in_a_row.assign(tf.where(grows, tf.zeros_like(row), row))
            return self.value.assign(tf.where(grows, 2 * self.value, self.value))

        def skip() -> tf.Tensor:
            self.skipped.assign_add(1)
            self._finite_in_a_row.assign(0)
            return self.value.assign(tf.maximum(self.value / 2, 1.0))

        tf.cond(finite, go_on, skip)


class _OneKernel(OneDevice):
    """Adam's update in one pass over the memory, which is what large heads wait for; Keras takes several.

    The formula is Keras' own (Kingma & Ba 2014, the form before section 2.1), its sums are rounded otherwise.
    """

    def update_step(self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: tf.Tensor) -> None:
        assert isinstance(self, optimizers.Adam)
        momentum, velocity = keras_internals.moments(self, variable)
        step = tf.cast(self.iterations.value + 1, variable.dtype)
        beta_1, beta_2 = (tf.constant(beta, variable.dtype) for beta in (self.beta_1, self.beta_2))
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=keras_internals.handle(momentum),
            v=keras_internals.handle(velocity),
            beta1_power=beta_1**step,
            beta2_power=beta_2**step,
            lr=tf.cast(learning_rate, variable.dtype),
            beta1=beta_1,
            beta2=beta_2,
            epsilon=self.epsilon,
            grad=tf.cast(gradient, variable.dtype),
        )


class Adam(_OneKernel, optimizers.Adam):
    """Keras' Adam."""


class AdamW(_OneKernel, optimizers.AdamW):
    """Keras' AdamW."""


class SGD(OneDevice, optimizers.SGD):
    """Keras' SGD."""


class RMSprop(OneDevice, optimizers.RMSprop):
    """Keras' RMSprop."""


def build_optimizer(optimizer: Optimizer, learning_rate: float) -> keras.optimizers.Optimizer:
    """A fresh optimiser; `weight_decay` is decoupled from the gradient (Loshchilov & Hutter 2019) in all of them."""
    decay = optimizer.weight_decay or None
    table = {
        "adam": lambda: Adam(learning_rate, weight_decay=decay),
        "adamw": lambda: AdamW(learning_rate, weight_decay=optimizer.weight_decay),
        "sgd": lambda: SGD(learning_rate, momentum=optimizer.momentum, nesterov=True, weight_decay=decay),
        "rmsprop": lambda: RMSprop(learning_rate, momentum=optimizer.momentum, weight_decay=decay),
    }
    return table[optimizer.name]()


Result = TypeVar("Result")
#: Updates a call at most: enough for what a call costs by itself not to count.
AT_ONCE = 64


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
    """Updates of one kind, with optimisers of their own: one for the heads, one for the backbone."""

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
        backbone = [
            layer for layer in weights.backbone_layers(network.logits) if transfer.is_trained_in(layer, kind.backbone)
        ]
        self._groups = [
            (
                [variable for layer in group for variable in layer.trainable_variables],
                build_optimizer(kind.optimizer, 0.0),
            )
            for group in (head, backbone)
            if any(layer.trainable_variables for layer in group)
        ]
        for variables, optimizer in self._groups:
            optimizer.build(variables)
        self._graph = graph
        self._kind = kind
        # what such a layer makes of an image depends on the others in the batch
        self._with_statistics = [layer for layer in (*head, *backbone) if keeps_statistics(layer)]
        self._augment = augment
        self._auxiliary_weight = auxiliary_weight
        self._micro_batches = micro_batches
        self._trained = [variable.value for variables, _ in self._groups for variable in variables]
        self._loss_scale = LossScale() if kind.precision == "mixed_float16" else None
        # changes of the weights that were begun, and that are whole
        self._begun, self._ended = (tf.Variable(0, trainable=False, dtype=tf.int64) for _ in range(2))
        self._measured = tf.Variable(tf.zeros((AT_ONCE, 3)), trainable=False)  # of each update of a call
        inputs = graph.signature(kind.cut, views=1 if kind.cut is None else len(VIEWS[kind.augmentation]))
        batch = [inputs, tf.TensorSpec((None,), tf.int64)]
        gradients = [tf.TensorSpec(weight.shape, weight.dtype) for weight in self._trained]
        self._steps = tf.function(
            self._one_after_another, input_signature=[*batch, tf.TensorSpec((None,), tf.int32)], autograph=False
        )
        self._part = tf.function(
            self._of_part, input_signature=[*batch, tf.TensorSpec((), tf.float32)], autograph=False
        )
        self._end = tf.function(self._change, input_signature=[gradients], autograph=False)

    def start(self, learning_rate: float, backbone_learning_rate: float) -> None:
        """Optimisers as fresh ones."""
        for (_, optimizer), rate in zip(self._groups, (learning_rate, backbone_learning_rate), strict=False):
            for variable in optimizer.variables:
                weights.assign(variable, tf.raw_ops.ZerosLike(x=variable.value))  # tf.zeros takes ten times as long
            optimizer.learning_rate = rate
        if self._loss_scale is not None:
            self._loss_scale.start()

    @property
    def can_be_in_parts(self) -> bool:
        """Whether the gradients of a batch's parts add up to those of the batch."""
        return not self._with_statistics

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

    def __call__(self, inputs: np.ndarray, labels: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
        """Train on batches one after the other, at most AT_ONCE; on one in parts where the memory does not suffice.

        The gradients of parts add up to those of the batch, each weighed by its share of the images: losses are means
        over images, and no layer looks at more than one image (where one does, no batch is trained in parts). What
        augmentation and dropout draw differs, though: their streams go on from part to part. How batches are divided
        among calls makes no difference.

        Args:
            inputs: images [n, size, size, 3] uint8; or features [n, ...] float32, [n, 2, ...] where images are flipped.
            labels: [n] int64.
            sizes: of the batches that they consist of, n images in all.

        Returns:
            [batches, 3]: of each its mean loss, accuracy and summed auxiliary losses, as Keras' `fit` sees them.

        Raises:
            OpError: the memory does not suffice for one image.
            MemoryError: it did not suffice when some of the weights were changed already, or for a whole batch where
                parts of one can't be trained.
        """
        ends = np.cumsum(sizes, dtype=np.int32)
        measured = list(self._whole_batches(inputs, labels, ends))
        for end, size in list(zip(ends, sizes, strict=True))[len(measured) :]:
            measured.append(self._by_itself(inputs, labels, slice(end - size, end)))
        return np.stack(measured)

    def _whole_batches(self, inputs: np.ndarray, labels: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """[k, 3] of the first k batches: all of them, or those that were trained on when the memory ran out."""
        if self.can_be_in_parts and self._micro_batches.at_once["training"] is not None:
            return np.empty((0, 3), np.float32)
        before = int(self._ended.numpy())
        try:
            return self._steps(inputs, labels, ends).numpy()[: len(ends)]
        except tf.errors.OpError as error:
            if not is_out_of_memory(error):
                raise
            self._check_that_parts_will_do(int(np.diff(ends, prepend=0).max()), error)
            self._check_that_no_change_is_half_done(error)
        return self._measured.numpy()[: int(self._ended.numpy()) - before]

    def _by_itself(self, inputs: np.ndarray, labels: np.ndarray, batch: slice) -> np.ndarray:
        """An update on one of the batches, in parts where it has to be: [3]."""
        return self._micro_batches.run(
            "training", batch.stop - batch.start, lambda parts: self._train(inputs[batch], labels[batch], parts)
        )

    def _train(self, inputs: np.ndarray, labels: np.ndarray, parts: Sequence[slice]) -> np.ndarray:
        try:
            if len(parts) == 1:
                return self._steps(inputs, labels, np.array([len(labels)], np.int32)).numpy()[0]
            return self._add_up(inputs, labels, parts)
        except tf.errors.OpError as error:
            if is_out_of_memory(error):
                self._check_that_no_change_is_half_done(error)
            raise

    def _check_that_parts_will_do(self, size: int, error: tf.errors.OpError) -> None:
        """Raise MemoryError where they would be another update; the statistics may have changed already, too."""
        if not self.can_be_in_parts:
            layer = self._with_statistics[0]
            raise MemoryError(
                f"a batch of {size} images does not fit into memory, and training it in parts would be another update: "
                f"{layer.name} ({type(layer).__name__}) depends on all images of a batch together. Choose a smaller "
                "batch_size or image_size, or fewer --jobs."
            ) from error

    def _check_that_no_change_is_half_done(self, error: tf.errors.OpError) -> None:
        if self._begun.numpy() != self._ended.numpy():
            raise MemoryError("out of memory while the weights were changed") from error

    def _add_up(self, inputs: np.ndarray, labels: np.ndarray, parts: Sequence[slice]) -> np.ndarray:
        measured, gradients = np.zeros(3, np.float32), list[tf.Tensor]()
        for part in parts:
            of_part, more = self._part(inputs[part], labels[part], len(labels[part]) / len(labels))
            measured += of_part.numpy()
            gradients = [one + other for one, other in zip(gradients, more, strict=True)] if gradients else more
        self._end(gradients)
        return measured

    def _one_after_another(self, inputs: tf.Tensor, labels: tf.Tensor, ends: tf.Tensor) -> tf.Tensor:
        starts = tf.concat([[0], ends[:-1]], axis=0)

        def update(step: tf.Tensor) -> tuple[tf.Tensor]:
            part = slice(starts[step], ends[step])
            measured = self._by_xla(self._on_augmented)(self._augmented(inputs[part]), labels[part])
            with tf.control_dependencies([self._measured[step].assign(measured)]):
                return (step + 1,)

        # one at a time: each needs what the one before has made of the weights
        done = tf.while_loop(lambda step: step < tf.size(ends), update, (tf.constant(0),), parallel_iterations=1)
        with tf.control_dependencies(done):
            return self._measured.read_value()

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
        # what a layer's `trainable` says while this is traced decides one thing alone: a frozen BatchNormalization is
        # in inference mode; it says the same in every phase with this kind of update
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(self._trained)
            wanted = graph.outputs if self._kind.auxiliary else graph.outputs[:1]
            with use_precision(self._kind.precision, graph.inner_layers()):
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
        graph = tf.compat.v1.get_default_graph()
        before = len(graph.get_operations())
        with tf.control_dependencies([begun]):
            if self._loss_scale is None:
                self._apply(gradients)
            else:
                self._loss_scale.change(gradients, lambda: self._apply(gradients))
        with tf.control_dependencies(graph.get_operations()[before:]):
            self._ended.assign_add(1)

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
