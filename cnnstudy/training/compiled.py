"""What a worker compiles once and uses for many trials: networks, and their updates.

Tracing takes seconds, a small trial less. So what differs between trials of a kind is held in variables, not in the
graph: weights, the optimisers' states, learning rates, dropout rates, the auxiliary heads' weight, and the state of
every random stream. A trial sets all of them first; there is no other way to train, so that the first trial of a
network in a worker and its hundredth come to the same numbers.
"""

from __future__ import annotations

import gc
import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from cnnstudy import architectures
from cnnstudy.architectures import AUXILIARY, HEAD, Network
from cnnstudy.records import Optimizer, TrialSpec
from cnnstudy.training import augmentation, optimizers, transfer, weights
from cnnstudy.training.graph import AUXILIARY_DROPOUT, DROPOUT, Graph

#: How much is kept from trial to trial: networks, updates of a network, and bytes of weights and optimisers' states.
NETWORKS, UPDATES, BYTES = 4, 6, 1 << 30


@dataclass(frozen=True)
class UpdateKind:
    """What makes an update another graph."""

    backbone: tuple[str, ...]  # stages that train, as in transfer.Phase
    auxiliary: bool  # whether auxiliary heads count
    optimizer: Optimizer
    augmentation: str


class CompiledNetwork:
    """One network at one image size and number of classes."""

    def __init__(self, architecture: str, image_size: int, classes: int) -> None:
        self.network: Network = architectures.build_network(
            architectures.find(architecture), image_size, classes, DROPOUT, AUXILIARY_DROPOUT
        )
        self.graph = Graph(self.network)
        self.auxiliary_weight = tf.Variable(0.0, trainable=False)
        self.batch = tf.TensorSpec((None, image_size, image_size, 3), tf.uint8)
        self._augmentations: dict[str, list[keras.layers.Layer]] = {}
        self._updates: OrderedDict[UpdateKind, Update] = OrderedDict()
        self._forward = tf.function(self._logits_of, input_signature=[self.batch])

    def start(self, spec: TrialSpec) -> None:
        """Set everything to what a trial starts from, whatever was trained before.

        Raises:
            WeightsError: the source weights are gone.
        """
        for layer in self.network.training.layers:
            layer.trainable = True
        weights.initialise(self.network, spec.seed)
        if spec.weights_file is not None and spec.levels["transfer"] != "scratch":
            weights.load_backbone(self.network, Path(spec.weights_file))
        self.graph.set_dropout(float(spec.levels["dropout"]), float(spec.levels.get("auxiliary_dropout", 0.0)))
        self.auxiliary_weight.assign(float(spec.levels.get("auxiliary_weight", 0.0)))
        augmentation.start(self.augmentation(str(spec.levels["augmentation"])), spec.seed)

    def augmentation(self, name: str) -> list[keras.layers.Layer]:
        """The layers of one of space.AUGMENTATIONS, shared by all updates: their streams go on from phase to phase."""
        if name not in self._augmentations:
            self._augmentations[name] = augmentation.layers(name)
        return self._augmentations[name]

    def update(self, kind: UpdateKind) -> Update:
        """The update of that kind, compiled at its first call."""
        if kind not in self._updates:
            self._updates[kind] = Update(self, kind)
        self._updates.move_to_end(kind)
        return self._updates[kind]

    def logits(self, pixels: np.ndarray) -> np.ndarray:
        """Logits [n, classes] of images [n, size, size, 3] uint8, in inference mode."""
        return self._forward(pixels).numpy()

    def forget_updates(self, kept: int) -> None:
        """All but so many that were used last."""
        while len(self._updates) > kept:
            self._updates.popitem(last=False)

    @property
    def updates(self) -> int:
        """How many there are."""
        return len(self._updates)

    @property
    def bytes(self) -> int:
        """Of the weights and of all optimisers' states."""
        states = [variable for update in self._updates.values() for variable in update.variables]
        return sum(
            variable.value.dtype.size * math.prod(variable.shape)
            for variable in (*self.network.training.weights, *states)
        )

    def _logits_of(self, pixels: tf.Tensor) -> tf.Tensor:
        known = {self.graph.input: tf.cast(pixels, tf.float32)}
        return self.graph.run(self.graph.outputs[:1], known, training=False)[0]


class Update:
    """One update of one kind, with optimisers of its own: one for the heads, one for the backbone."""

    def __init__(self, compiled: CompiledNetwork, kind: UpdateKind) -> None:
        network = compiled.network
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
        self._step = tf.function(
            self._function(compiled, kind), input_signature=[compiled.batch, tf.TensorSpec((None,), tf.int64)]
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

    def __call__(self, pixels: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Train on images [n, size, size, 3] uint8 with labels [n] int64.

        Returns:
            [3]: the batch's mean loss, accuracy and summed auxiliary losses, as Keras' `fit` sees them.
        """
        return self._step(pixels, labels).numpy()

    def _function(self, compiled: CompiledNetwork, kind: UpdateKind) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
        graph, augment = compiled.graph, compiled.augmentation(kind.augmentation)
        outputs = graph.outputs if kind.auxiliary else graph.outputs[:1]
        trained = [variable.value for variables, _ in self._groups for variable in variables]

        def cross_entropy(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
            return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))

        def step(pixels: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
            batch = tf.cast(pixels, tf.float32)
            for layer in augment:
                batch = layer(batch, training=True)
            # what a layer's `trainable` says while this is traced plays no part
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(trained)
                logits, *auxiliary = graph.run(outputs, {graph.input: batch}, training=True)
                loss = cross_entropy(labels, logits)
                auxiliary_loss = tf.add_n([cross_entropy(labels, one) for one in auxiliary] or [0.0])
                total = loss + compiled.auxiliary_weight * auxiliary_loss
            gradients = tape.gradient(total, trained)
            for variables, optimizer in self._groups:
                optimizer.apply(gradients[: len(variables)], variables)
                gradients = gradients[len(variables) :]
            correct = tf.cast(tf.argmax(logits, axis=1) == labels, tf.float32)
            return tf.stack([loss, tf.reduce_mean(correct), auxiliary_loss])

        return step


class CompiledNetworks:
    """The networks that a worker keeps: those used last."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, int, int], CompiledNetwork] = OrderedDict()

    def start(self, spec: TrialSpec) -> CompiledNetwork:
        """The trial's network with the weights, rates and random streams that the trial starts from.

        Raises:
            WeightsError: the source weights are gone.
        """
        key = (spec.architecture, spec.images.size, len(spec.images.classes))
        known = key in self._kept
        if known:
            self._kept.move_to_end(key)
        self._make_room(needed=int(known))
        if not known:
            # the names that Keras gives by itself begin anew, so that a saved model has the same ones in every trial
            keras.utils.clear_session(free_memory=False)
            self._kept[key] = CompiledNetwork(*key)
        self._kept[key].start(spec)
        return self._kept[key]

    def clear(self) -> None:
        """Forget all."""
        self._kept.clear()
        gc.collect()

    def _make_room(self, needed: int) -> None:
        """Forget what was not used for longest: networks, but not the last if it is needed; then updates."""
        before = self._count()
        while len(self._kept) >= NETWORKS + needed or (len(self._kept) > needed and self._bytes() > BYTES):
            self._kept.popitem(last=False)
        for network in self._kept.values():
            network.forget_updates(UPDATES if self._bytes() <= BYTES else 1)
        if self._count() < before:
            gc.collect()  # graphs are full of circles

    def _bytes(self) -> int:
        return sum(network.bytes for network in self._kept.values())

    def _count(self) -> int:
        return sum(1 + network.updates for network in self._kept.values())
