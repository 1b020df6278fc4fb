"""Compiled networks and updates, which a worker reuses for many trials.

Tracing takes seconds, longer than a small trial. Whatever differs between trials of a kind is therefore held in
variables, not in the graph: weights, optimiser states, learning rates, dropout rates, the auxiliary heads' weight, and
the state of every random stream. Every trial sets all of them first, so the first trial of a network in a worker and
its hundredth give the same numbers.
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
from cnnstudy.records import LinearInput, TrialSpec, read_probe
from cnnstudy.training import augmentation, keras_internals, transfer, weights
from cnnstudy.training.graph import Graph
from cnnstudy.training.micro_batches import MicroBatches
from cnnstudy.training.updates import Update, UpdateKind

#: Kept from trial to trial at most: networks, updates per network, and bytes of weights and optimiser states.
MAX_NETWORKS, MAX_UPDATES, MAX_BYTES = 4, 6, 1 << 30
#: Networks are built with this dropout rate; each trial sets its own. At 0 Keras would create no random stream.
_INITIAL_DROPOUT = 0.5
#: What tells networks apart: name, image size in pixels, classes, and what a linear head takes, if it has one.
_Key = tuple[str, int, int, LinearInput | None]


class CompiledNetwork:
    """A network at one image size and number of classes, with its compiled updates.

    Args:
        linear: with the head of architectures.linear_head.
    """

    def __init__(self, architecture: str, image_size: int, classes: int, linear: LinearInput | None = None) -> None:
        self.network: Network = architectures.build_network(
            architectures.find(architecture), image_size, classes, _INITIAL_DROPOUT, _INITIAL_DROPOUT, linear
        )
        self.linear = linear
        self.graph = Graph(self.network)
        self.has_batch_norm = any(map(transfer.is_batch_norm, weights.backbone_layers(self.network.logits)))
        self.auxiliary_weight = tf.Variable(0.0, trainable=False)
        self.micro_batches = MicroBatches()
        self._augmentations: dict[str, list[keras.layers.Layer]] = {}
        self._updates: OrderedDict[UpdateKind, Update] = OrderedDict()
        self._forwards: dict[tuple[str | None, str], Callable[[np.ndarray], tf.Tensor]] = {}
        self._source: tuple[object, ...] = ()  # identifies the backbone's initial weights
        self._start_digests: dict[str, str] = {}  # of layers as the trial starts
        self._unchanged: dict[str, str] = {}  # digests of layers that the last trial left unchanged

    def start(self, spec: TrialSpec) -> None:
        """Set everything to the trial's initial state, whatever was trained before.

        Raises:
            WeightsError: the source weights are gone.
        """
        for layer in self.network.training.layers:
            layer.trainable = True
        file = spec.weights_file if spec.levels["transfer"] != "scratch" else None
        source = (spec.seed,) if file is None else _identify_file(Path(file))
        self._start_digests, self._unchanged = self._unchanged if source == self._source else {}, {}
        self._source = source
        weights.initialise(self.network, spec.seed, None if file is None else Path(file), kept=self._start_digests)
        self.graph.set_dropout(spec.levels)
        self.auxiliary_weight.assign(float(spec.levels.get("auxiliary_weight", 0.0)))
        augmentation.reset_augmentation(self.augmentation(augmentation.augmentation_of(spec)), spec.seed)
        self.micro_batches.start(spec.micro_batch)

    def start_digests(self, layers: Iterable[keras.layers.Layer]) -> dict[str, str]:
        """Return digests of backbone layers by name, as the trial started; only valid before these layers train."""
        layers = list(layers)
        self._start_digests |= weights.layer_digests(layer for layer in layers if layer.name not in self._start_digests)
        return {layer.name: self._start_digests[layer.name] for layer in layers}

    def keep(self, layers: Mapping[str, str]) -> None:
        """Remember, at the end of a trial, the backbone layers that it left unchanged, by name with their digests."""
        self._unchanged = dict(layers)

    def augmentation(self, name: str) -> list[keras.layers.Layer]:
        """Return the layers of one of factors.AUGMENTATIONS; shared by all updates, so random streams span phases."""
        if name not in self._augmentations:
            self._augmentations[name] = augmentation.augmentation_layers(name)
        return self._augmentations[name]

    def update(self, kind: UpdateKind) -> Update:
        """Return the update of that kind, which compiles at its first call."""
        if kind not in self._updates:
            augment = self.augmentation(kind.augmentation)
            self._updates[kind] = Update(
                self.network, self.graph, kind, augment, self.auxiliary_weight, self.micro_batches
            )
        self._updates.move_to_end(kind)
        return self._updates[kind]

    def logits(self, inputs: np.ndarray, cut: str | None = None) -> np.ndarray:
        """Return logits [n, classes] in inference mode; split if memory does not suffice, as `features` is.

        Args:
            inputs: images [n, size, size, 3] uint8, or outputs [n, ...] float32 of the operation `cut`.
        """
        forward = self._forward(cut, self.graph.outputs[0])
        return self.micro_batches.evaluate(inputs, lambda part: forward(part).numpy())

    def features(self, pixels: np.ndarray, cut: str) -> np.ndarray:
        """Return the outputs [n, ...] float32 of the operation `cut` in inference mode.

        Args:
            pixels: images [n, size, size, 3] uint8.
        """
        forward = self._forward(None, cut)
        return self.micro_batches.evaluate(pixels, lambda part: forward(part).numpy())

    def drop_updates(self, kept: int) -> None:
        """Keep only the `kept` most recently used updates."""
        while len(self._updates) > kept:
            self._updates.popitem(last=False)

    @property
    def updates(self) -> int:
        """The number of updates."""
        return len(self._updates)

    @property
    def bytes(self) -> int:
        """The bytes of the weights and of all optimiser states."""
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


def _identify_file(file: Path) -> tuple[object, ...]:
    """Return what changes when the file is replaced or written to."""
    try:
        status = file.stat()
    except OSError:
        return ()  # reading it raises the error
    return str(file), status.st_mtime_ns, status.st_size


class CompiledNetworks:
    """The networks that a worker keeps: those used last.

    Raises:
        WorkerError: training does not support the installed Keras or TensorFlow.
    """

    def __init__(self) -> None:
        keras_internals.check_versions()
        self._networks: OrderedDict[_Key, CompiledNetwork] = OrderedDict()

    def start(self, spec: TrialSpec) -> CompiledNetwork:
        """Return the trial's network, with weights, rates and random streams set to the trial's initial state.

        Raises:
            WeightsError: the source weights are gone.
        """
        probe = read_probe(spec.levels["transfer"])
        key = (spec.architecture, spec.images.size, len(spec.images.classes), probe.takes if probe else None)
        known = key in self._networks
        if known:
            self._networks.move_to_end(key)
        self._make_room(needed=int(known))
        if not known:
            # restart Keras' automatic names, so that they are the same in a saved model of every trial
            keras.utils.clear_session(free_memory=False)
            self._networks[key] = CompiledNetwork(*key)
        self._networks[key].start(spec)
        self._networks[key].micro_batches.make_room = functools.partial(self._drop_all_but, key)
        return self._networks[key]

    def _drop_all_but(self, key: _Key) -> bool:
        """Drop everything but the network and the update in use; return whether anything was dropped."""
        before, used = self._count(), self._networks[key]
        self._networks = OrderedDict({key: used})
        used.drop_updates(1)
        if self._count() < before:
            _free_functions()
        return self._count() < before

    def clear(self) -> None:
        """Drop all networks."""
        self._networks.clear()
        _free_functions()

    def _make_room(self, needed: int) -> None:
        """Drop the least recently used networks, then updates, to stay within the limits.

        Args:
            needed: networks, the most recent ones, that must stay.
        """
        before = self._count()
        while len(self._networks) >= MAX_NETWORKS + needed or (
            len(self._networks) > needed and self._bytes() > MAX_BYTES
        ):
            self._networks.popitem(last=False)
        for network in self._networks.values():
            network.drop_updates(MAX_UPDATES if self._bytes() <= MAX_BYTES else 1)
        if self._count() < before:
            _free_functions()

    def _bytes(self) -> int:
        return sum(network.bytes for network in self._networks.values())

    def _count(self) -> int:
        return sum(1 + network.updates for network in self._networks.values())


def _free_functions() -> None:
    """Free the memory of functions that are no longer referenced."""
    gc.collect()  # graphs are full of reference cycles
    # TensorFlow caches the kernel of every function that ran, and with it whatever was compiled for it
    keras_internals.clear_kernel_cache()
