"""The best epoch of a trial so far, and its weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import keras
import numpy as np

from cnnstudy.records import EpochRecord, TrialSpec


class BestEpoch:
    """By the trial's rule; of two that are alike the earlier one.

    Args:
        layers: those that train at some time.
    """

    def __init__(self, spec: TrialSpec, layers: Sequence[keras.layers.Layer]) -> None:
        self.spec = spec
        self.variables = {f"{layer.name}/{n}": variable for layer in layers for n, variable in enumerate(layer.weights)}
        self.epoch = 0
        self.rank: tuple[float, ...] = (-np.inf,) * 3
        self.weights: Mapping[str, np.ndarray] = {}

    def offer(self, record: EpochRecord) -> None:
        """Keep the epoch if it is better."""
        rank = self.spec.rule.rank(record.metrics)
        if rank > self.rank:
            self.take_up(record.epoch, rank, self.now())

    def is_long_ago(self, epoch: int) -> bool:
        """Whether early stopping ends the phase after that epoch."""
        return self.spec.patience is not None and epoch - self.epoch >= self.spec.patience

    def restore(self) -> None:
        """Give the network the best epoch's weights."""
        for name, variable in self.variables.items():
            variable.assign(self.weights[name])

    def now(self) -> dict[str, np.ndarray]:
        """The weights of this moment, by `<layer>/<number>`."""
        return {name: variable.numpy() for name, variable in self.variables.items()}

    def take_up(self, epoch: int, rank: tuple[float, ...], weights: Mapping[str, np.ndarray]) -> None:
        """That epoch is the best one so far."""
        self.epoch, self.rank, self.weights = epoch, rank, weights
