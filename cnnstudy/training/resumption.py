"""All on which the rest of a trial depends, taken from it and given back.

Weights that have trained so far (the others are what the trial starts from), the optimisers' states, the state of every
random stream, the best epoch's weights, and what was measured at equal updates. The order of the images depends on seed
and epoch alone. Where a phase is over, its optimisers are of no more use: the next phase has fresh ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from cnnstudy.architectures import AUXILIARY, HEAD
from cnnstudy.training import transfer
from cnnstudy.training.best_epoch import BestEpoch
from cnnstudy.training.checkpoints import Checkpoint
from cnnstudy.training.keras_internals import random_state
from cnnstudy.training.loop import Trainer
from cnnstudy.training.metrics import Measurement
from cnnstudy.training.transfer import Phase


def state(trainer: Trainer, best: BestEpoch, phases: Sequence[Phase], at: tuple[int, int]) -> dict[str, np.ndarray]:
    """The arrays, each by a name of its own.

    Args:
        at: the phase that goes on (from 0) and how many of its epochs are done.
    """
    variables = _variables(trainer, phases, at)
    arrays = {name: np.asarray(variable) for name, variable in variables.items()}
    if best.epoch != trainer.epoch:  # else they are the weights of this moment
        arrays |= {f"best/{name}": best.weights[name] for name in _trained(best, variables)}
    if trainer.at_equal_updates is not None:
        arrays |= {f"equal updates/{name}": array for name, array in vars(trainer.at_equal_updates).items()}
    return arrays


def bytes_of_state(trainer: Trainer, best: BestEpoch, phases: Sequence[Phase], at: tuple[int, int]) -> int:
    """About how much `state` would take."""
    variables = _variables(trainer, phases, at)
    again = _trained(best, variables) if best.epoch != trainer.epoch else []
    counted = [*variables.values(), *(best.variables[name] for name in again)]
    return sum(math.prod(one.shape) * int(tf.as_dtype(one.dtype).size) for one in counted)


def restore(checkpoint: Checkpoint, trainer: Trainer, best: BestEpoch, phases: Sequence[Phase]) -> bool:
    """Set everything to what it was; false, with nothing changed, where the checkpoint does not fit the trial.

    Its phase has been started, unless none of its epochs are done.
    """
    reached, arrays = checkpoint.reached, checkpoint.arrays
    variables = _variables(trainer, phases, (reached.phase, reached.done))
    again = _trained(best, variables) if reached.best_epoch != reached.epoch else []
    wanted: dict[str, Any] = {**variables, **{f"best/{name}": best.variables[name] for name in again}}
    if not all(name in arrays and _is_like(arrays[name], there) for name, there in wanted.items()):
        return False
    for name, variable in variables.items():
        variable.assign(arrays[name])
    weights = {**best.now(), **{name: arrays[f"best/{name}"] for name in again}}
    best.take_up(reached.best_epoch, reached.best_rank, weights)
    trainer.epoch, trainer.updates, trainer.images_seen = reached.epoch, reached.updates, reached.images_seen
    measured = {name.partition("/")[2]: array for name, array in arrays.items() if name.startswith("equal updates/")}
    trainer.at_equal_updates = Measurement(**measured) if measured else None
    return True


def _trained(best: BestEpoch, variables: dict[str, Any]) -> list[str]:
    """The best epoch's weights, by their names there, that are no longer those that the trial started with."""
    return [name for name in best.variables if f"weights/{name}" in variables]


def _variables(trainer: Trainer, phases: Sequence[Phase], at: tuple[int, int]) -> dict[str, Any]:
    """What changes in training, by a name of its own."""
    network, (phase, done) = trainer.compiled.network, at
    begun = phases[: phase + bool(done)]
    found = {
        f"weights/{layer.name}/{number}": weight
        for layer in (network.training if trainer.auxiliary_weight else network.logits).layers
        if layer.name.startswith((HEAD, AUXILIARY)) or any(transfer.trains(layer, one.backbone) for one in begun)
        for number, weight in enumerate(layer.weights)
    }
    found |= {
        f"random/{layer.name}": state for layer in network.training.layers if (state := random_state(layer)) is not None
    }
    augmenting = trainer.compiled.augmentation(str(trainer.spec.levels["augmentation"]))
    found |= {f"augmentation/{number}": random_state(layer) for number, layer in enumerate(augmenting)}
    if done:
        found |= {f"optimizer/{number}": variable for number, variable in enumerate(trainer.optimizer_states)}
    return found


def _is_like(array: np.ndarray, other: Any) -> bool:
    """Whether it has the shape and the type of the other, an array or a variable."""
    there = np.asarray(other)
    return array.shape == there.shape and array.dtype == there.dtype
