"""Update the weights: one compiled function that makes several updates per call."""

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
from cnnstudy.training import augmentation, devices, keras_internals, transfer, weights
from cnnstudy.training.augmentation import VIEWS
from cnnstudy.training.graph import Graph, keeps_statistics
from cnnstudy.training.keras_internals import SingleDeviceOptimizer
from cnnstudy.training.micro_batches import MicroBatches, is_out_of_memory
from cnnstudy.training.replicas import Parts, gradients_on_devices

Result = TypeVar("Result")
#: Updates per call at most: enough to make the cost of the call itself negligible.
MAX_UPDATES_PER_CALL = 64
#: The first loss scale of a phase, and consecutive updates with finite gradients after which it doubles: as in Keras.
FIRST_SCALE, STEPS_TO_GROW = 2.0**15, 2000


@dataclass(frozen=True)
class UpdateKind:
    """The settings that an update is compiled for."""

    backbone: tuple[str, ...]  # stages that train, and whether BatchNormalization in them does, as in transfer.Phase
    auxiliary: bool  # whether auxiliary heads add to the loss
    optimizer: Optimizer
    augmentation: str
    smooths_labels: bool = False
    weighs_classes: bool = False
    batch_norm: bool = True
    by_stage: bool = False  # whether each stage of the backbone has a learning rate of its own
    cut: str | None = None  # operation whose outputs are the inputs; None: images are
    precision: str = "float32"  # or Keras' policies "mixed_float16", "mixed_bfloat16"
    xla: bool = False  # one program per batch size; dropout draws other numbers from the same random streams


class Update:
    """Updates of one kind, with their own optimisers: one for the heads, one for the backbone or each of its stages."""

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
        backbone = [one for one in weights.backbone_layers(network.logits) if transfer.is_trained_in(one, kind)]
        self._groups = [
            (
                [variable for layer in group for variable in layer.trainable_variables],
                build_optimizer(kind.optimizer, 0.0),
            )
            for group in (head, *(reversed(transfer.group_by_stage(backbone)) if kind.by_stage else [backbone]))
            if any(layer.trainable_variables for layer in group)
        ]
        for variables, optimizer in self._groups:
            optimizer.build(variables)
        self._graph, self._devices = graph, devices.list_devices()
        self._frozen = graph.find_constants({layer.name for layer in (*head, *backbone)}.__contains__)
        self._kind = kind
        # such a layer's output for an image depends on the whole batch
        self._with_statistics = [layer for layer in (*head, *backbone) if keeps_statistics(layer)]
        self._augment = augment
        self._auxiliary_weight = auxiliary_weight
        self._label_smoothing = tf.Variable(0.0, trainable=False)
        self._class_weights = tf.Variable(tf.ones(network.logits.output_shape[-1]), trainable=False)
        self._micro_batches = micro_batches
        self._trained = [variable.value for variables, _ in self._groups for variable in variables]
        self._loss_scale = LossScale() if kind.precision == "mixed_float16" else None
        # weight changes that were started, and those that were completed
        self._changes_started, self._changes_completed = (
            tf.Variable(0, trainable=False, dtype=tf.int64) for _ in range(2)
        )
        # one row per update of a call
        self._measured = tf.Variable(tf.zeros((MAX_UPDATES_PER_CALL, 3)), trainable=False)
        inputs = graph.signature(kind.cut, views=1 if kind.cut is None else len(VIEWS[kind.augmentation]))
        batch = [inputs, tf.TensorSpec((None,), tf.int64)]
        gradients = [tf.TensorSpec(weight.shape, weight.dtype) for weight in self._trained]
        self._steps = tf.function(
            self._run_steps, input_signature=[*batch, tf.TensorSpec((None,), tf.int32)], autograph=False
        )
        self._compute_part = tf.function(
            self._run_part, input_signature=[*batch, tf.TensorSpec((), tf.float32)], autograph=False
        )
        self._finish_parts = tf.function(self._change_weights, input_signature=[gradients], autograph=False)

    def start(
        self,
        learning_rate: float,
        backbone_learning_rate: float,
        label_smoothing: float = 0.0,
        class_weights: np.ndarray | None = None,
        discriminative: float = 1.0,
    ) -> None:
        """Reset the optimisers; set the learning rates of the heads and of the backbone, and how the loss is weighed.

        Args:
            class_weights: [classes], by which the losses of their images are multiplied if the kind weighs classes.
            discriminative: where stages have rates of their own, how many times lower each is than the next one's; the
                last has the backbone's.
        """
        self._label_smoothing.assign(label_smoothing)
        self._class_weights.assign(np.ones(self._class_weights.shape) if class_weights is None else class_weights)
        rates = [learning_rate, *(backbone_learning_rate / discriminative**stage for stage in range(len(self._groups)))]
        for (_, optimizer), rate in zip(self._groups, rates, strict=False):
            for variable in optimizer.variables:
                weights.assign(variable, tf.raw_ops.ZerosLike(x=variable.value))  # tf.zeros takes ten times as long
            optimizer.learning_rate = rate
        if self._loss_scale is not None:
            self._loss_scale.start()

    @property
    def can_split(self) -> bool:
        """Whether a batch can be split: whether its parts' gradients add up to its own."""
        return not self._with_statistics

    @property
    def skipped(self) -> int | None:
        """Updates since `start` that were skipped because gradients overflowed float16; None with other precisions."""
        return None if self._loss_scale is None else int(self._loss_scale.skipped.numpy())

    @property
    def variables(self) -> list[keras.Variable]:
        """The optimisers' variables."""
        return [variable for _, optimizer in self._groups for variable in optimizer.variables]

    @property
    def state(self) -> list[keras.Variable | tf.Variable]:
        """Everything that the next call depends on besides the weights and the random streams."""
        return [*self.variables, *(self._loss_scale.state if self._loss_scale is not None else ())]

    def __call__(self, inputs: np.ndarray, labels: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
        """Update once per batch, for at most AT_ONCE batches; a batch that does not fit into memory is split.

        The gradients of the parts, each weighted by its share of the images, add up to those of the batch: losses are
        means over images, and no layer's output for an image depends on other images (where one does, no batch is
        split). Augmentation and dropout draw other numbers then, since their streams advance part by part. The results
        do not depend on how batches are grouped into calls.

        Args:
            inputs: images [n, size, size, 3] uint8; or features [n, ...] float32, [n, 2, ...] if images are flipped.
            labels: [n] int64.
            sizes: of the consecutive batches; they add up to n.

        Returns:
            [batches, 3]: mean loss, accuracy and summed auxiliary losses of each, as Keras' `fit` reports them.

        Raises:
            OpError: not even one image fits into memory.
            MemoryError: memory ran out when some weights had changed already, or for a batch that can't be split.
        """
        ends = np.cumsum(sizes, dtype=np.int32)
        measured = list(self._train_whole_batches(inputs, labels, ends))
        for end, size in list(zip(ends, sizes, strict=True))[len(measured) :]:
            measured.append(self._train_batch(inputs, labels, slice(end - size, end)))
        return np.stack(measured)

    def _train_whole_batches(self, inputs: np.ndarray, labels: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """Return [k, 3] of the first k batches: all of them, or those completed when memory ran out."""
        if self.can_split and self._micro_batches.at_once["training"] is not None:
            return np.empty((0, 3), np.float32)
        completed_before = int(self._changes_completed.numpy())
        try:
            return self._steps(inputs, labels, ends).numpy()[: len(ends)]
        except tf.errors.OpError as error:
            if not is_out_of_memory(error):
                raise
            self._check_can_split(int(np.diff(ends, prepend=0).max()), error)
            self._check_weights_are_whole(error)
        return self._measured.numpy()[: int(self._changes_completed.numpy()) - completed_before]

    def _train_batch(self, inputs: np.ndarray, labels: np.ndarray, batch: slice) -> np.ndarray:
        """Update on one batch, split if need be; return [3]."""
        return self._micro_batches.run(
            "training", batch.stop - batch.start, lambda parts: self._train_parts(inputs[batch], labels[batch], parts)
        )

    def _train_parts(self, inputs: np.ndarray, labels: np.ndarray, parts: Sequence[slice]) -> np.ndarray:
        try:
            if len(parts) == 1:
                return self._steps(inputs, labels, np.array([len(labels)], np.int32)).numpy()[0]
            return self._accumulate(inputs, labels, parts)
        except tf.errors.OpError as error:
            if is_out_of_memory(error):
                self._check_weights_are_whole(error)
            raise

    def _check_can_split(self, size: int, error: tf.errors.OpError) -> None:
        """Raise MemoryError if parts would make a different update; statistics may have changed already as well."""
        if not self.can_split:
            layer = self._with_statistics[0]
            raise MemoryError(
                f"a batch of {size} images does not fit into memory, and it can't be split: the output of {layer.name} "
                f"({type(layer).__name__}) depends on all images of a batch. Choose a smaller batch_size or "
                "image_size, fewer --jobs, or (with source weights) `batch_norm: frozen`."
            ) from error

    def _check_weights_are_whole(self, error: tf.errors.OpError) -> None:
        if self._changes_started.numpy() != self._changes_completed.numpy():
            raise MemoryError("out of memory while the weights were being updated") from error

    def _accumulate(self, inputs: np.ndarray, labels: np.ndarray, parts: Sequence[slice]) -> np.ndarray:
        measured, gradients = np.zeros(3, np.float32), list[tf.Tensor]()
        for part in parts:
            part_measured, part_gradients = self._compute_part(
                inputs[part], labels[part], len(labels[part]) / len(labels)
            )
            measured += part_measured.numpy()
            gradients = (
                [total + more for total, more in zip(gradients, part_gradients, strict=True)]
                if gradients
                else part_gradients
            )
        self._finish_parts(gradients)
        return measured

    def _run_steps(self, inputs: tf.Tensor, labels: tf.Tensor, ends: tf.Tensor) -> tf.Tensor:
        starts = tf.concat([[0], ends[:-1]], axis=0)

        def update(step: tf.Tensor) -> tuple[tf.Tensor]:
            part = slice(starts[step], ends[step])
            measured = self._with_xla(self._update_on)(self._augment_batch(inputs[part]), labels[part])
            with tf.control_dependencies([self._measured[step].assign(measured)]):
                return (step + 1,)

        # one at a time: each update needs the weights left by the one before
        done = tf.while_loop(lambda step: step < tf.size(ends), update, (tf.constant(0),), parallel_iterations=1)
        with tf.control_dependencies(done):
            return self._measured.read_value()

    def _run_part(self, inputs: tf.Tensor, labels: tf.Tensor, share: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
        return self._with_xla(self._compute_gradients)(self._augment_batch(inputs), labels, share)

    def _with_xla(self, function: Callable[..., Result]) -> Callable[..., Result]:
        """Compile a function with XLA if the kind asks for it; not augmentation, since XLA can't rotate or zoom."""
        return tf.function(function, jit_compile=True, autograph=False) if self._kind.xla else function

    def _update_on(self, inputs: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        measured, gradients = self._compute_gradients(inputs, labels, 1.0)
        self._change_weights(gradients)
        return measured

    def _compute_gradients(
        self, inputs: tf.Tensor, labels: tf.Tensor, share: tf.Tensor | float
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Return a row [3] as of `__call__`, and the gradients of the weights that train; both times `share`."""
        graph = self._graph
        known = {self._kind.cut or graph.input: inputs}
        # all that `trainable` does here is to run a frozen BatchNormalization in inference mode; its value is the same
        # in every phase with this kind of update
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(self._trained)
            wanted = graph.outputs if self._kind.auxiliary else graph.outputs[:1]
            with use_precision(self._kind.precision, graph.inner_layers()):
                logits, *auxiliary = self._run(wanted, known)
            loss = _cross_entropy(labels, logits)
            auxiliary_loss = tf.add_n([_cross_entropy(labels, one) for one in auxiliary] or [0.0])
            objective = loss + self._auxiliary_weight * auxiliary_loss
            weights = tf.gather(self._class_weights, labels) if self._kind.weighs_classes else None
            if weights is not None:
                weighted = tf.add_n([_cross_entropy(labels, one, weights) for one in auxiliary] or [0.0])
                objective = _cross_entropy(labels, logits, weights) + self._auxiliary_weight * weighted
            if self._kind.smooths_labels:
                uniform = tf.add_n([_uniform_cross_entropy(one, weights) for one in auxiliary] or [0.0])
                uniform = _uniform_cross_entropy(logits, weights) + self._auxiliary_weight * uniform
                objective += self._label_smoothing * (uniform - objective)
            total = share * objective
            scaled = total if self._loss_scale is None else self._loss_scale.value * total
        if len(self._devices) > 1:
            gradients = gradients_on_devices(scaled, self._trained)
        else:
            gradients = tape.gradient(scaled, self._trained)
        if self._loss_scale is not None:
            gradients = [gradient / self._loss_scale.value for gradient in gradients]
        correct = tf.cast(tf.argmax(logits, axis=1) == labels, tf.float32)
        measured = share * tf.stack([loss, tf.reduce_mean(correct), auxiliary_loss])
        return measured, gradients

    def _run(self, wanted: list[str], known: dict[str, tf.Tensor]) -> list[tf.Tensor]:
        """Return outputs [n, ...] of the network in training, computed on all devices."""
        if len(self._devices) == 1:
            return self._graph.run(wanted, known, training=True, frozen=self._frozen)
        (batch,) = known.values()
        return self._graph.run_in_parts(wanted, known, self._frozen, Parts(self._devices, tf.shape(batch)[0]))

    def _change_weights(self, gradients: list[tf.Tensor]) -> None:
        """Change the weights once all gradients are computed: if memory runs out before, nothing has changed."""
        # A control dependency on the output of a function, such as the gradient in graph.apply_dense, is lost when
        # TensorFlow inlines the function; one on an identity of the output is not.
        gradients = [tf.identity(gradient) for gradient in gradients]
        with tf.control_dependencies(gradients):
            started = self._changes_started.assign_add(1)
        graph = tf.compat.v1.get_default_graph()
        before = len(graph.get_operations())
        with tf.control_dependencies([started]):
            if self._loss_scale is None:
                self._apply(gradients)
            else:
                self._loss_scale.change(gradients, lambda: self._apply(gradients))
        with tf.control_dependencies(graph.get_operations()[before:]):
            self._changes_completed.assign_add(1)

    def _apply(self, gradients: list[tf.Tensor]) -> None:
        for variables, optimizer in self._groups:
            optimizer.apply(gradients[: len(variables)], variables)
            gradients = gradients[len(variables) :]

    def _augment_batch(self, inputs: tf.Tensor) -> tf.Tensor:
        if self._kind.cut is None:
            batch = tf.cast(inputs, tf.float32)
            for layer in self._augment:
                batch = layer(batch, training=True)
            return batch
        return augmentation.flipped_view(self._augment, inputs) if self._augment else inputs


def _cross_entropy(labels: tf.Tensor, logits: tf.Tensor, weights: tf.Tensor | None = None) -> tf.Tensor:
    """Return the mean over the images, each times its weight [n]; as in Keras not over the weights: parts add up."""
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    return tf.reduce_mean(losses if weights is None else weights * losses)


def _uniform_cross_entropy(logits: tf.Tensor, weights: tf.Tensor | None) -> tf.Tensor:
    """Return the same against labels that are spread evenly over all classes."""
    losses = tf.nn.log_softmax(logits)
    return -tf.reduce_mean(losses if weights is None else weights[:, None] * losses)


def balanced_class_weights(labels: np.ndarray, classes: int) -> np.ndarray:
    """Return n / (classes with images * images of the class), [classes] float32; 0 for a class without images.

    It is scikit-learn's "balanced". The mean over the images is 1, so that the learning rate keeps its meaning.
    """
    counts = np.bincount(labels, minlength=classes)
    present = counts > 0
    weights = np.zeros(classes, np.float32)
    weights[present] = len(labels) / (present.sum() * counts[present])
    return weights


# ---- half precision


@contextlib.contextmanager
def use_precision(precision: str, layers: Iterable[keras.layers.Layer]) -> Iterator[None]:
    """Give the layers a Keras dtype policy within the context; "float32" is the one that they are built with."""
    policies = [(layer, layer.dtype_policy) for layer in layers] if precision != "float32" else []
    try:
        for layer, _ in policies:
            layer.dtype_policy = keras.dtype_policies.DTypePolicy(precision)
        yield
    finally:
        for layer, policy in policies:
            layer.dtype_policy = policy


class LossScale:
    """A factor that keeps small gradients from vanishing in float16: the loss is multiplied, gradients are divided.

    An update whose gradients are not all finite is skipped, and the scale halved.
    """

    def __init__(self) -> None:
        self.value = tf.Variable(FIRST_SCALE, trainable=False)
        self.skipped = tf.Variable(0, trainable=False, dtype=tf.int64)  # updates since `start`
        self._consecutive_finite = tf.Variable(0, trainable=False, dtype=tf.int64)

    @property
    def state(self) -> tuple[tf.Variable, ...]:
        """Everything that the next update depends on, and the count of skipped updates."""
        return self.value, self.skipped, self._consecutive_finite

    def start(self) -> None:
        """Reset the scale and the counts."""
        self.value.assign(FIRST_SCALE)
        self.skipped.assign(0)
        self._consecutive_finite.assign(0)

    def change(self, gradients: list[tf.Tensor], change: Callable[[], None]) -> None:
        """Call `change` if the gradients, divided already, are finite; then set the scale for the next update."""
        finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(gradient)) for gradient in gradients])

        def apply() -> tf.Tensor:
            change()
            count = self._consecutive_finite.assign_add(1)
            grows = count == STEPS_TO_GROW
            self._consecutive_finite.assign(tf.where(grows, tf.zeros_like(count), count))
            return self.value.assign(tf.where(grows, 2 * self.value, self.value))

        def skip() -> tf.Tensor:
            self.skipped.assign_add(1)
            self._consecutive_finite.assign(0)
            return self.value.assign(tf.maximum(self.value / 2, 1.0))

        tf.cond(finite, apply, skip)


# ---- optimisers


class _OneKernel(SingleDeviceOptimizer):
    """Adam's update in one pass over memory, where Keras takes several: memory bandwidth limits large heads.

    The formula is Keras' own (Kingma & Ba 2014, the form before section 2.1); only the rounding of sums differs.
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


class SGD(SingleDeviceOptimizer, optimizers.SGD):
    """Keras' SGD."""


class RMSprop(SingleDeviceOptimizer, optimizers.RMSprop):
    """Keras' RMSprop."""


def build_optimizer(optimizer: Optimizer, learning_rate: float) -> keras.optimizers.Optimizer:
    """Return a fresh optimiser as Keras' of that name, with decoupled weight decay (Loshchilov & Hutter 2019)."""
    decay = optimizer.weight_decay or None
    table = {
        "adam": lambda: Adam(learning_rate, weight_decay=decay),
        "adamw": lambda: AdamW(learning_rate, weight_decay=optimizer.weight_decay),
        "sgd": lambda: SGD(learning_rate, momentum=optimizer.momentum, weight_decay=decay),
        "rmsprop": lambda: RMSprop(learning_rate, momentum=optimizer.momentum, weight_decay=decay),
    }
    return table[optimizer.name]()
