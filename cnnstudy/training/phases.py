"""A trial's way through its epochs, phase by phase: where it begins, what is kept of it, and what ends it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import tensorflow as tf

from cnnstudy.architectures import AUXILIARY, HEAD
from cnnstudy.data.decoder_pool import Progress
from cnnstudy.names import Metric
from cnnstudy.records import EpochRecord
from cnnstudy.training import transfer
from cnnstudy.training.checkpoints import Checkpoint, Checkpoints, Reached
from cnnstudy.training.features import Source, prepare_source
from cnnstudy.training.keras_internals import random_state
from cnnstudy.training.metrics import Measurement
from cnnstudy.training.shared_epochs import Place, SharedEpochs
from cnnstudy.training.trainer import BestEpoch, Trainer
from cnnstudy.training.transfer import Phase


def resumable_state(
    trainer: Trainer, best: BestEpoch, phases: Sequence[Phase], at: tuple[int, int]
) -> dict[str, np.ndarray]:
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


def estimate_state_bytes(trainer: Trainer, best: BestEpoch, phases: Sequence[Phase], at: tuple[int, int]) -> int:
    """About how much `state` would take."""
    variables = _variables(trainer, phases, at)
    again = _trained(best, variables) if best.epoch != trainer.epoch else []
    counted = [*variables.values(), *(best.variables[name] for name in again)]
    return sum(math.prod(one.shape) * int(tf.as_dtype(one.dtype).size) for one in counted)


def restore_state(checkpoint: Checkpoint, trainer: Trainer, best: BestEpoch, phases: Sequence[Phase]) -> bool:
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
        if layer.name.startswith((HEAD, AUXILIARY)) or any(transfer.is_trained_in(layer, one.backbone) for one in begun)
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


#: Told of each epoch; false means: prune. Of those that an earlier try or another trial trained it is told first, and
#: nothing is pruned.
Report = Callable[[EpochRecord], bool]


class PhaseRunner:
    """Runs the epochs of every phase.

    After `run`: `records` of all epochs; `sources`, what each phase trained on; `ended_by`, as TrialResult has it.
    """

    def __init__(
        self,
        trainer: Trainer,
        best: BestEpoch,
        phases: Sequence[Phase],
        kept: Checkpoints,
        prefixes: SharedEpochs,
        computed_on: Mapping[str, str],
    ) -> None:
        self.trainer, self.best, self.phases = trainer, best, phases
        self.records: list[EpochRecord] = []
        self.sources: list[Source] = []
        self.ended_by = "epochs"
        self._kept, self._prefixes = kept, prefixes
        self._trained_as = prefixes.trained_as
        self._computed_on = ", ".join(f"{name} {value}" for name, value in computed_on.items())

    def run(self, report: Report, progress: Progress) -> None:
        """Every epoch: told again where it was trained before, and trained where not.

        Raises:
            DivergedError: the loss is no longer finite.
            RuntimeError: features from the cache are not those of the network.
        """
        self._train(report, progress)
        self.trainer.check_features()
        # a longer trial would have stopped where the best epoch is long ago
        if self.ended_by == "epochs" and not self.best.is_long_ago(self.trainer.epoch):
            self._share((len(self.phases) - 1, self.phases[-1].epochs))

    def _train(self, report: Report, progress: Progress) -> None:
        spec, trainer, best = self.trainer.spec, self.trainer, self.best
        first, done = self._go_on(progress)
        for record in self.records:
            report(replace(record, replayed=True))
        for index, phase in enumerate(self.phases[first:], first):
            if not done:
                self._start(phase, progress)
            self.ended_by = "epochs"
            for number in range(done + 1, phase.epochs + 1):
                record = trainer.run_epoch()
                self.records.append(record)
                best.offer(record)
                go_on = report(record)
                if trainer.spent:
                    self.ended_by = "updates"
                    return
                if spec.until_train_loss is not None and record.metrics[Metric.TRAIN_LOSS] <= spec.until_train_loss:
                    self.ended_by = "train loss"
                    return
                # after its last epoch there is nothing left to save
                if not go_on and record.epoch < spec.epochs:
                    self.ended_by = "pruner"
                    return
                stops = best.is_long_ago(record.epoch) and number < phase.epochs
                at = (index + 1, 0) if stops or number == phase.epochs else (index, number)
                if sum(phase.epochs for phase in self.phases[at[0] :]) > at[1]:
                    if at[1] == 0:  # the end of a phase, of which nothing false is to be kept
                        trainer.check_features()
                    self._keep(at)
                if stops:
                    self.ended_by = "early stopping"  # of this phase; the next one may still gain
                    break
            done = 0

    def _go_on(self, progress: Progress) -> Place:
        """Where the trial begins, with the records before that."""
        found = self._kept.read()
        if found is not None:
            if self._take_up(found, progress):
                progress("epochs that were trained before", len(self.records), self.trainer.spec.epochs)
                return found.reached.phase, found.reached.done
            self._kept.note("the checkpoint does not fit the trial")
        for shared in self._prefixes.found():
            if self._take_up(shared, progress):
                progress("epochs shared with another trial", len(self.records), self.trainer.spec.epochs)
                return shared.reached.phase, shared.reached.done
        return 0, 0

    def _take_up(self, found: Checkpoint, progress: Progress) -> bool:
        reached = found.reached
        if reached.done:
            self._start(self.phases[reached.phase], progress)
        if not restore_state(found, self.trainer, self.best, self.phases):
            self.sources.clear()
            return False
        self._kept.take_up(reached)
        if reached.computed_on not in ("", self._computed_on):
            self._kept.note(f"begun on {reached.computed_on}; it goes on on {self._computed_on}")
        if reached.trained_as != self._trained_as:
            self._trained_as = ""
        self.sources[:0] = [Source(None, *source) for source in reached.sources]
        self.records[:] = reached.records
        return True

    def _start(self, phase: Phase, progress: Progress) -> None:
        compiled, spec = self.trainer.compiled, self.trainer.spec
        transfer.apply_phase(compiled.network, phase)
        source = prepare_source(compiled, spec, phase, progress)
        if not source.as_planned:
            self._trained_as = ""
        self.sources.append(source)
        self.trainer.start_phase(phase, source.features)

    def _keep(self, at: Place) -> None:
        """What is due of a checkpoint, and of a beginning for other trials."""
        if self._kept.is_due:
            state = resumable_state(self.trainer, self.best, self.phases, at)
            self._kept.write(self._reached(at, self._kept.address), state)
        if at[1] == 0:
            self._share(at)

    def _share(self, at: Place) -> None:
        reached = self._reached(at, "")
        if not reached.trained_as:
            return
        given = self.trainer, self.best, self.phases, at
        self._prefixes.keep(
            at,
            self._kept.seconds_of_this_try,
            estimate_state_bytes(*given),
            lambda address: (replace(reached, address=address), resumable_state(*given)),
        )

    def _reached(self, at: Place, address: str) -> Reached:
        trainer, best = self.trainer, self.best
        at_once, begun_with = trainer.compiled.micro_batches.at_once, trainer.spec.micro_batch
        if (at_once["training"], at_once["evaluation"]) != (begun_with, None):
            self._trained_as = ""  # where that happens depends on the memory
        return Reached(
            address=address,
            begun_with=self._kept.begun_with,
            phase=at[0],
            done=at[1],
            epoch=trainer.epoch,
            updates=trainer.updates,
            images_seen=trainer.images_seen,
            seconds=self._kept.seconds,
            best_epoch=best.epoch,
            best_rank=best.rank,
            records=tuple(self.records),
            sources=tuple((source.what, source.why) for source in self.sources),
            trained_as=self._trained_as,
            equal_updates=trainer.spec.equal_updates,
            computed_on=self._computed_on,
        )
