"""Choose which layers train in which phase, for each mode of factors.TRANSFER_MODES.

The backbone stages that a mode trains come from the network's own table (`Architecture.cut_points`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cnnstudy.architectures import Network
from cnnstudy.records import TrialSpec
from cnnstudy.training.weights import backbone_layers

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class Phase:
    """Consecutive epochs in which the same layers train."""

    epochs: int
    backbone: tuple[str, ...]  # name prefixes of the stages that train; "" matches all
    multiplier: float  # the backbone's learning rate relative to the heads'


def plan_phases(spec: TrialSpec, cut_points: dict[str, tuple[str, ...]]) -> list[Phase]:
    """Return the phases of a trial, in order; their epochs add up to the trial's.

    Args:
        cut_points: stages that train, by transfer mode.
    """
    mode = str(spec.levels["transfer"])
    multiplier = float(spec.levels.get("backbone_learning_rate_multiplier", 1.0))
    everything, nothing = ("",), ()
    if mode == "scratch":
        return [Phase(spec.epochs, everything, 1.0)]
    if mode == "frozen":
        return [Phase(spec.epochs, nothing, 1.0)]
    if mode == "fine-tune":
        return [Phase(spec.epochs, everything, multiplier)]
    if mode == "two-phase":
        return [
            Phase(spec.head_epochs, nothing, 1.0),
            Phase(spec.epochs - spec.head_epochs, everything, multiplier),
        ]
    return [Phase(spec.epochs, cut_points[mode], multiplier)]


def is_trained_in(layer: keras.layers.Layer, stages: tuple[str, ...]) -> bool:
    """Check whether a backbone layer is in one of the stages that train."""
    return bool(stages) and layer.name.startswith(stages)


def apply_phase(network: Network, phase: Phase) -> list[keras.layers.Layer]:
    """Set `trainable` of each backbone layer; return the frozen ones."""
    frozen = []
    for layer in backbone_layers(network.logits):
        layer.trainable = is_trained_in(layer, phase.backbone)
        if not layer.trainable:
            frozen.append(layer)
    return frozen
