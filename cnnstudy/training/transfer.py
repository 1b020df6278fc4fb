"""Choose which layers train in which phase, for each mode of factors.TRANSFER_MODES.

The backbone stages that a mode trains come from the network's own table (`Architecture.cut_points`), or are all from
the one on that the mode names. Where they start
from source weights, BatchNormalization in them stays as it is unless the factor `batch_norm` says `trained`: the
statistics of a few small batches would replace those of the source.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from cnnstudy.architectures import Network, stage_of
from cnnstudy.errors import ConfigError, did_you_mean
from cnnstudy.records import FROM, PROBE_FIRST, TrialSpec, read_probe, split_epochs
from cnnstudy.training.weights import backbone_layers

if TYPE_CHECKING:
    import keras


class Trains(Protocol):
    """Says which backbone layers train."""

    @property
    def backbone(self) -> tuple[str, ...]:
        """Name prefixes of the stages that train; "" matches all, and one that ends with `$` a whole name."""

    @property
    def batch_norm(self) -> bool:
        """Whether BatchNormalization in these stages trains; else it is frozen, in inference mode."""


@dataclass(frozen=True)
class Phase:
    """Consecutive epochs in which the same layers train: those that `Trains` describes.

    One without epochs, whose head is fitted, is what the next one starts from.
    """

    epochs: int
    backbone: tuple[str, ...]
    multiplier: float  # the backbone's learning rate relative to the heads'
    batch_norm: bool = True
    discriminative: float = 1.0  # how many times lower a stage's learning rate is than the next one's
    fits_head: bool = False  # the head is fitted by training/linear_head.py instead of by updates


def find_cut_points(network: Network, mode: str) -> dict[str, tuple[str, ...]]:
    """Return the stages that train by transfer mode: those of the network's table, and of this mode.

    Raises:
        ConfigError: the mode names a stage that the network does not have.
    """
    cut_points = dict(network.architecture.cut_points)
    if not mode.startswith(FROM):
        return cut_points
    stage = mode.removeprefix(FROM)
    names = [layer.name for layer in backbone_layers(network.logits)]
    first = next((at for at, name in enumerate(names) if re.match(rf"{re.escape(stage)}(?!\d)", name)), None)
    if first is None:
        stages = list(dict.fromkeys(map(stage_of, names)))
        raise ConfigError(
            f"transfer {mode!r}: {network.architecture.title} has no stage {stage!r}{did_you_mean(stage, stages)} Its "
            f"stages are {', '.join(stages)}."
        )
    return {**cut_points, mode: tuple(f"{name}$" for name in names[first:])}


def plan_trial(spec: TrialSpec, network: Network) -> list[Phase]:
    """Return the phases of a trial of that network, as `plan_phases`; layers may unfreeze in phases of their own.

    Raises:
        ConfigError: as `find_cut_points`.
    """
    phases = plan_phases(spec, find_cut_points(network, str(spec.levels["transfer"])))
    return _unfreeze_gradually(phases[0], network) if spec.levels.get("unfreeze") == "gradual" else phases


def _unfreeze_gradually(phase: Phase, network: Network) -> list[Phase]:
    """Divide a phase into one of the head and one for each stage more that trains; each has at least one epoch."""
    layers = [layer for layer in backbone_layers(network.logits) if is_trained_in(layer, phase)]
    names = [[f"{layer.name}$" for layer in stage] for stage in reversed(group_by_stage(layers))]
    count = min(len(names) + 1, phase.epochs)
    phases = []
    for number, epochs in enumerate(split_epochs(phase.epochs, count), 1):
        stages = names[: round(len(names) * (number - 1) / (count - 1))] if number < count else []
        backbone = tuple(sorted(itertools.chain(*stages))) if number < count else phase.backbone
        phases.append(replace(phase, epochs=epochs, backbone=backbone))
    return phases


def group_by_stage(layers: Iterable[keras.layers.Layer]) -> list[list[keras.layers.Layer]]:
    """Return the layers of each stage, in their order."""
    stages: dict[str, list[keras.layers.Layer]] = {}
    for layer in layers:
        stages.setdefault(stage_of(layer.name), []).append(layer)
    return list(stages.values())


def plan_phases(spec: TrialSpec, cut_points: dict[str, tuple[str, ...]]) -> list[Phase]:
    """Return the phases of a trial, in order; their epochs add up to the trial's.

    Args:
        cut_points: of `find_cut_points`.
    """
    mode = str(spec.levels["transfer"])
    multiplier = float(spec.levels.get("backbone_learning_rate_multiplier", 1.0))
    everything, nothing = ("",), ()
    batch_norm = spec.levels.get("batch_norm", "frozen") == "trained"
    discriminative = float(spec.levels.get("discriminative", 1.0))
    if mode == "scratch":
        return [Phase(spec.epochs, everything, 1.0)]
    if mode == PROBE_FIRST:
        return [
            Phase(0, nothing, 1.0, fits_head=True),
            Phase(spec.epochs, everything, multiplier, batch_norm, discriminative),
        ]
    if read_probe(mode) is not None:
        return [Phase(spec.epochs, nothing, 1.0, fits_head=True)]
    if mode == "frozen":
        return [Phase(spec.epochs, nothing, 1.0)]
    if mode == "fine-tune":
        return [Phase(spec.epochs, everything, multiplier, batch_norm, discriminative)]
    if mode == "two-phase":
        return [
            Phase(spec.head_epochs, nothing, 1.0),
            Phase(spec.epochs - spec.head_epochs, everything, multiplier, batch_norm, discriminative),
        ]
    return [Phase(spec.epochs, cut_points[mode], multiplier, batch_norm, discriminative)]


def is_trained_in(layer: keras.layers.Layer, what: Trains) -> bool:
    """Check whether a backbone layer trains."""
    in_stage = bool(what.backbone) and f"{layer.name}$".startswith(what.backbone)
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
