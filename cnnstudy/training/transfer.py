"""Choose which layers train in which phase, for each mode of factors.TRANSFER_MODES.

The backbone stages that a mode trains come from the network's own table (`Architecture.cut_points`). Where they start
from source weights, BatchNormalization in them stays as it is unless the factor `batch_norm` says `trained`: the
statistics of a few small batches would replace those of the source.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from cnnstudy.architectures import Network
from cnnstudy.records import TrialSpec
from cnnstudy.training.weights import backbone_layers

if TYPE_CHECKING:
    import keras


class Trains(Protocol):
    """Says which backbone layers train."""

    @property
    def backbone(self) -> tuple[str, ...]:
        """Name prefixes of the stages that train; "" matches all."""

    @property
    def batch_norm(self) -> bool:
        """Whether BatchNormalization in these stages trains; else it is frozen, in inference mode."""


@dataclass(frozen=True)
class Phase:
    """Consecutive epochs in which the same layers train: those that `Trains` describes."""

    epochs: int
    backbone: tuple[str, ...]
    multiplier: float  # the backbone's learning rate relative to the heads'
    batch_norm: bool = True


def plan_phases(spec: TrialSpec, cut_points: dict[str, tuple[str, ...]]) -> list[Phase]:
    """Return the phases of a trial, in order; their epochs add up to the trial's.

    Args:
        cut_points: stages that train, by transfer mode.
    """
    mode = str(spec.levels["transfer"])
    multiplier = float(spec.levels.get("backbone_learning_rate_multiplier", 1.0))
    everything, nothing = ("",), ()
    batch_norm = spec.levels.get("batch_norm", "frozen") == "trained"
    if mode == "scratch":
        return [Phase(spec.epochs, everything, 1.0)]
    if mode == "frozen":
        return [Phase(spec.epochs, nothing, 1.0)]
    if mode == "fine-tune":
        return [Phase(spec.epochs, everything, multiplier, batch_norm)]
    if mode == "two-phase":
        return [
            Phase(spec.head_epochs, nothing, 1.0),
            Phase(spec.epochs - spec.head_epochs, everything, multiplier, batch_norm),
        ]
    return [Phase(spec.epochs, cut_points[mode], multiplier, batch_norm)]


def is_trained_in(layer: keras.layers.Layer, what: Trains) -> bool:
    """Check whether a backbone layer trains."""
    in_stage = bool(what.backbone) and layer.name.startswith(what.backbone)
    return in_stage and (what.batch_norm or not is_batch_norm(layer))


def is_batch_norm(layer: keras.layers.Layer) -> bool:
    """Check whether the layer is a BatchNormalization."""
    return type(layer).__name__ == "BatchNormalization"


def apply_phase(network: Network, phase: Phase) -> list[keras.layers.Layer]:
    """Set `trainable` of each backbone layer; return the frozen ones."""
    frozen = []
    for layer in backbone_layers(network.logits):
        layer.trainable = is_trained_in(layer, phase)
        if not layer.trainable:
            frozen.append(layer)
    return frozen
