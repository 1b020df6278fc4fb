"""All on which the rest of a trial depends, taken from it and given back.

Weights that have trained so far (the others are what the trial starts from), the optimisers' states, the state of every
random stream, the best epoch's weights, and what was measured at equal updates. The order of the images depends on seed
and epoch alone. Where a phase is over, its optimisers are of no more use: the next phase has fresh ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from cnnstudy.architectures import AUXILIARY, HEAD
from cnnstudy.records import EpochRecord
from cnnstudy.training import transfer
from cnnstudy.training.checkpoints import Checkpoint, Checkpoints, Reached
from cnnstudy.training.features import Source
from cnnstudy.training.loop import Trainer
from cnnstudy.training.metrics import Measurement
from cnnstudy.training.transfer import Phase


class Best(Protocol):
    """The best epoch so far."""

    def kept(self) -> tuple[int, tuple[float, ...], list[np.ndarray]]:
        """The epoch, its rank, and its weights."""

    def now(self) -> list[np.ndarray]:
        """The weights of this moment, in the same order."""

    def take_up(self, epoch: int, rank: tuple[float, ...], weights: list[np.ndarray]) -> None:
        """What `kept` gave in an earlier try."""


def keep(
    checkpoints: Checkpoints,
    trainer: Trainer,
    best: Best,
    phases: Sequence[Phase],
    at: tuple[int, int],
    records: Sequence[EpochRecord],
    sources: Sequence[Source],
) -> None:
    """Write a checkpoint if one is due.

    Args:
        at: the phase that goes on (from 0) and how many of its epochs are done; at least one is left.
    """
    if not checkpoints.is_due:
        return
    arrays = {name: np.asarray(variable) for name, variable in _variables(trainer, phases, at).items()}
    best_epoch, best_rank, best_weights = best.kept()
    if best_epoch != trainer.epoch:  # else they are the weights of this moment
        arrays |= {f"best/{number}": array for number, array in enumerate(best_weights)}
    if trainer.at_equal_updates is not None:
        arrays |= {f"equal updates/{name}": array for name, array in vars(trainer.at_equal_updates).items()}
    reached = Reached(
        address=checkpoints.address,
        begun_with=checkpoints.begun_with,
        phase=at[0],
        done=at[1],
        epoch=trainer.epoch,
        updates=trainer.updates,
        images_seen=trainer.images_seen,
        seconds=checkpoints.seconds,
        best_epoch=best_epoch,
        best_rank=best_rank,
        records=tuple(records),
        sources=tuple((source.what, source.why) for source in sources),
    )
    checkpoints.write(reached, arrays)


def restore(checkpoint: Checkpoint, trainer: Trainer, best: Best, phases: Sequence[Phase]) -> bool:
    """Set everything to what it was; false, with nothing changed, where the checkpoint does not fit the trial.

    Its phase has been started, unless none of its epochs are done.
    """
    reached, arrays = checkpoint.reached, checkpoint.arrays
    variables = _variables(trainer, phases, (reached.phase, reached.done))
    wanted: dict[str, Any] = dict(variables)
    if reached.best_epoch != reached.epoch:
        wanted |= {f"best/{number}": array for number, array in enumerate(best.now())}
    if not all(name in arrays and _is_like(arrays[name], there) for name, there in wanted.items()):
        return False
    for name, variable in variables.items():
        variable.assign(arrays[name])
    bests = [arrays[name] for name in wanted if name.startswith("best/")]
    best.take_up(reached.best_epoch, reached.best_rank, bests or best.now())
    trainer.epoch, trainer.updates, trainer.images_seen = reached.epoch, reached.updates, reached.images_seen
    measured = {name.partition("/")[2]: array for name, array in arrays.items() if name.startswith("equal updates/")}
    trainer.at_equal_updates = Measurement(**measured) if measured else None
    return True


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
        f"random/{layer.name}": layer.seed_generator.state
        for layer in network.training.layers
        if getattr(layer, "seed_generator", None) is not None
    }
    augmenting = trainer.compiled.augmentation(str(trainer.spec.levels["augmentation"]))
    found |= {f"augmentation/{number}": layer.generator.state for number, layer in enumerate(augmenting)}
    if done:
        found |= {f"optimizer/{number}": variable for number, variable in enumerate(trainer.optimizer_states)}
    return found


def _is_like(array: np.ndarray, other: Any) -> bool:
    """Whether it has the shape and the type of the other, an array or a variable."""
    there = np.asarray(other)
    return array.shape == there.shape and array.dtype == there.dtype
