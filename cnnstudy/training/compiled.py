"""What a worker compiles once and uses for many trials: networks, and their updates.

Tracing takes seconds, a small trial less. So what differs between trials of a kind is held in variables, not in the
graph: weights, the optimisers' states, learning rates, dropout rates, the auxiliary heads' weight, and the state of
every random stream. A trial sets all of them first; there is no other way to train, so that the first trial of a
network in a worker and its hundredth come to the same numbers.
"""

from __future__ import annotations

import functools
import gc
import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from cnnstudy import architectures
from cnnstudy.architectures import Network
from cnnstudy.records import TrialSpec
from cnnstudy.training import augmentation, keras_internals, weights
from cnnstudy.training.graph import Graph
from cnnstudy.training.micro_batches import MicroBatches
from cnnstudy.training.updates import Update, UpdateKind

#: How much is kept from trial to trial: networks, updates of a network, and bytes of weights and optimisers' states.
NETWORKS, UPDATES, BYTES = 4, 6, 1 << 30
#: Dropout rate that networks are built with; each trial sets its own. Above 0: else Keras makes no random stream.
_BUILT_WITH = 0.5


class CompiledNetwork:
    """One network at one image size and number of classes."""

    def __init__(self, architecture: str, image_size: int, classes: int) -> None:
        self.network: Network = architectures.build_network(
            architectures.find(architecture), image_size, classes, _BUILT_WITH, _BUILT_WITH
        )
        self.graph = Graph(self.network)
        self.auxiliary_weight = tf.Variable(0.0, trainable=False)
        self.micro_batches = MicroBatches()
        self._augmentations: dict[str, list[keras.layers.Layer]] = {}
        self._updates: OrderedDict[UpdateKind, Update] = OrderedDict()
        self._forwards: dict[tuple[str | None, str], Callable[[np.ndarray], tf.Tensor]] = {}
        self._source: tuple[object, ...] = ()  # where the backbone's weights came from
        self._digests: dict[str, str] = {}  # of layers as the trial starts
        self._kept: dict[str, str] = {}  # of layers that are so still, now that it has ended

    def start(self, spec: TrialSpec) -> None:
        """Set everything to what a trial starts from, whatever was trained before.

        Raises:
            WeightsError: the source weights are gone.
        """
        for layer in self.network.training.layers:
            layer.trainable = True
        file = spec.weights_file if spec.levels["transfer"] != "scratch" else None
        source = (spec.seed,) if file is None else _as_it_is(Path(file))
        self._digests, self._kept = self._kept if source == self._source else {}, {}
        self._source = source
        weights.initialise(self.network, spec.seed, None if file is None else Path(file), kept=self._digests)
        self.graph.set_dropout(spec.levels)
        self.auxiliary_weight.assign(float(spec.levels.get("auxiliary_weight", 0.0)))
        augmentation.reset_augmentation(self.augmentation(str(spec.levels["augmentation"])), spec.seed)
        self.micro_batches.start(spec.micro_batch)

    def start_digests(self, layers: Iterable[keras.layers.Layer]) -> dict[str, str]:
        """Of layers of the backbone by name, as the trial started; only for layers that it has not trained yet."""
        layers = list(layers)
        self._digests |= weights.layer_digests(layer for layer in layers if layer.name not in self._digests)
        return {layer.name: self._digests[layer.name] for layer in layers}

    def keep(self, layers: Mapping[str, str]) -> None:
        """The trial has ended, and these layers of the backbone have the digests that they started with."""
        self._kept = dict(layers)

    def augmentation(self, name: str) -> list[keras.layers.Layer]:
        """The layers of one of space.AUGMENTATIONS, shared by all updates: their streams go on from phase to phase."""
        if name not in self._augmentations:
            self._augmentations[name] = augmentation.augmentation_layers(name)
        return self._augmentations[name]

    def update(self, kind: UpdateKind) -> Update:
        """The update of that kind, compiled at its first call."""
        if kind not in self._updates:
            augment = self.augmentation(kind.augmentation)
            self._updates[kind] = Update(
                self.network, self.graph, kind, augment, self.auxiliary_weight, self.micro_batches
            )
        self._updates.move_to_end(kind)
        return self._updates[kind]

    def logits(self, inputs: np.ndarray, cut: str | None = None) -> np.ndarray:
        """Logits [n, classes] in inference mode; in parts where the memory does not suffice, as features are too.

        Args:
            inputs: images [n, size, size, 3] uint8, or the outputs [n, ...] float32 of the operation `cut`.
        """
        forward = self._forward(cut, self.graph.outputs[0])
        return self.micro_batches.evaluate(inputs, lambda part: forward(part).numpy())

    def features(self, pixels: np.ndarray, cut: str) -> np.ndarray:
        """Outputs [n, ...] float32 of the operation `cut` for images [n, size, size, 3] uint8, in inference mode."""
        forward = self._forward(None, cut)
        return self.micro_batches.evaluate(pixels, lambda part: forward(part).numpy())

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

    def _forward(self, cut: str | None, wanted: str) -> Callable[[np.ndarray], tf.Tensor]:
        if (cut, wanted) not in self._forwards:

            def forward(inputs: tf.Tensor) -> tf.Tensor:
                known = {cut or self.graph.input: tf.cast(inputs, tf.float32)}
                return self.graph.run([wanted], known, training=False)[0]

            self._forwards[cut, wanted] = tf.function(
                forward, input_signature=[self.graph.signature(cut)], autograph=False
            )
        return self._forwards[cut, wanted]


def _as_it_is(file: Path) -> tuple[object, ...]:
    """The file, and whether another has taken its place."""
    try:
        status = file.stat()
    except OSError:
        return ()  # whoever reads it says so
    return str(file), status.st_mtime_ns, status.st_size


def _give_back() -> None:
    """The memory of functions that nobody holds any more."""
    gc.collect()  # graphs are full of circles
    # TensorFlow keeps the kernel of every function that ran, and with it what was compiled for it
    keras_internals.clear_kernel_cache()


class CompiledNetworks:
    """The networks that a worker keeps: those used last.

    Raises:
        WorkerError: the installed Keras or TensorFlow is one that training does not know.
    """

    def __init__(self) -> None:
        keras_internals.check()
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
        self._kept[key].micro_batches.make_room = functools.partial(self._give_up_all_but, key)
        return self._kept[key]

    def _give_up_all_but(self, key: tuple[str, int, int]) -> bool:
        """The memory ran out: of what is kept, only what is in use stays. Whether that was anything."""
        before, used = self._count(), self._kept[key]
        self._kept = OrderedDict({key: used})
        used.forget_updates(1)
        if self._count() < before:
            _give_back()
        return self._count() < before

    def clear(self) -> None:
        """Forget all."""
        self._kept.clear()
        _give_back()

    def _make_room(self, needed: int) -> None:
        """Forget what was not used for longest: networks, but not the last if it is needed; then updates."""
        before = self._count()
        while len(self._kept) >= NETWORKS + needed or (len(self._kept) > needed and self._bytes() > BYTES):
            self._kept.popitem(last=False)
        for network in self._kept.values():
            network.forget_updates(UPDATES if self._bytes() <= BYTES else 1)
        if self._count() < before:
            _give_back()

    def _bytes(self) -> int:
        return sum(network.bytes for network in self._kept.values())

    def _count(self) -> int:
        return sum(1 + network.updates for network in self._kept.values())
