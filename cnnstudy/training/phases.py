"""Run a trial's epochs phase by phase: resume, report, checkpoint, share, and stop."""

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
from cnnstudy.training.augmentation import augmentation_of
from cnnstudy.training.checkpoints import Checkpoint, TrialCheckpoints, TrialProgress
from cnnstudy.training.features import Source, prepare_source
from cnnstudy.training.keras_internals import random_state
from cnnstudy.training.metrics import MEASURED_PARTS, Measurement
from cnnstudy.training.shared_epochs import Place, SharedEpochs
from cnnstudy.training.trainer import BestEpoch, Trainer
from cnnstudy.training.transfer import Phase

#: Called with each epoch's record, from epoch 0 on; returns False to prune the trial. Epochs trained by an earlier
#: attempt or by another trial are reported first; what is returned for these and for epoch 0 is ignored.
Report = Callable[[EpochRecord], bool]


class PhaseRunner:
    """Runs the epochs of every phase of a trial.

    After `run`: `start`, epoch 0; `records` of all epochs from 1; `sources`, what each phase trained on; `ended_by`, as
    in TrialResult.
    """

    def __init__(
        self,
        trainer: Trainer,
        best: BestEpoch,
        phases: Sequence[Phase],
        checkpoints: TrialCheckpoints,
        shared_epochs: SharedEpochs,
        computed_on: Mapping[str, str],
    ) -> None:
        self.trainer, self.best, self.phases = trainer, best, phases
        self.start: EpochRecord | None = None
        self.records: list[EpochRecord] = []
        self.sources: list[Source] = []
        self.ended_by = "epochs"
        self._checkpoints, self._shared_epochs = checkpoints, shared_epochs
        self._trained_as = shared_epochs.trained_as  # "" once the epochs can't be shared
        self._computed_on = ", ".join(f"{name} {value}" for name, value in computed_on.items())

    def run(self, report: Report, progress: Progress) -> None:
        """Run every epoch: report those that were trained before, train the others.

        Raises:
            DivergedError: the loss is no longer finite.
            RuntimeError: features from the cache are not those of the network.
        """
        self._run_phases(report, progress)
        self.trainer.check_features()
        # a trial with more epochs could resume here, unless early stopping would have ended it
        if self.ended_by == "epochs" and not self.best.patience_exhausted(self.trainer.epoch):
            self._share((len(self.phases) - 1, self.phases[-1].epochs))

    def _run_phases(self, report: Report, progress: Progress) -> None:
        first, done = self._resume(progress)
        for record in filter(None, (self.start, *self.records)):
            report(replace(record, replayed=True))
        for index, phase in enumerate(self.phases[first:], first):
            if not done:
                self._start_phase(phase, progress)
            if phase.fits_head and not phase.epochs:
                self.trainer.fit_head()
            elif self.trainer.epoch == 0:
                self.start = self.trainer.measure_start()
                report(self.start)
            self.ended_by = "epochs"
            for number in range(done + 1, phase.epochs + 1):
                record = self.trainer.run_epoch()
                self.records.append(record)
                self.best.update_if_better(record)
                reason = self._reason_to_end(record, wanted=report(record))
                if reason is not None:
                    self.ended_by = reason
                    return
                stops_early = self.best.patience_exhausted(record.epoch) and number < phase.epochs
                self._save((index + 1, 0) if stops_early or number == phase.epochs else (index, number))
                if stops_early:
                    self.ended_by = "early stopping"  # of this phase; the next one may still improve
                    break
            done = 0

    def _reason_to_end(self, record: EpochRecord, wanted: bool) -> str | None:
        """Return why the trial ends after that epoch; None if it continues."""
        spec = self.trainer.spec
        if self.trainer.spent:
            return "updates"
        if spec.until_train_loss is not None and record.metrics[Metric.TRAIN_LOSS] <= spec.until_train_loss:
            return "train loss"
        if not wanted and record.epoch < spec.epochs:  # pruning after the last epoch would save nothing
            return "pruner"
        return None

    # ---- start

    def _resume(self, progress: Progress) -> Place:
        """Restore the latest state that can be used; return where the trial starts."""
        checkpoint = self._checkpoints.read()
        if checkpoint is not None:
            if self._restore(checkpoint, progress):
                progress("epochs trained before", len(self.records), self.trainer.spec.epochs)
                return checkpoint.reached.phase, checkpoint.reached.done
            self._checkpoints.note("the checkpoint does not match the trial")
        for shared in self._shared_epochs.find_states():
            if self._restore(shared, progress):
                progress("epochs shared with another trial", len(self.records), self.trainer.spec.epochs)
                return shared.reached.phase, shared.reached.done
        return 0, 0

    def _restore(self, checkpoint: Checkpoint, progress: Progress) -> bool:
        """Restore that state; return False, with nothing restored, if it does not match the trial."""
        reached = checkpoint.reached
        if reached.done:
            self._start_phase(self.phases[reached.phase], progress)
        if not restore_state(checkpoint, self.trainer, self.best, self.phases):
            self.sources.clear()
            return False
        self._checkpoints.take_up(reached)
        if reached.computed_on not in ("", self._computed_on):
            self._checkpoints.note(f"started on {reached.computed_on}; resumed on {self._computed_on}")
        if reached.trained_as != self._trained_as:
            self._trained_as = ""
        self.sources[:0] = [Source(None, *source) for source in reached.sources]
        self.start, self.records[:] = reached.start, reached.records
        return True

    def _start_phase(self, phase: Phase, progress: Progress) -> None:
        compiled, spec = self.trainer.compiled, self.trainer.spec
        transfer.apply_phase(compiled.network, phase)
        source = prepare_source(compiled, spec, phase, progress)
        if not source.as_planned:
            self._trained_as = ""
        self.sources.append(source)
        self.trainer.start_phase(phase, source.features)

    # ---- save

    def _save(self, at: Place) -> None:
        """Write a checkpoint if one is due, and the epochs for other trials at the end of a phase.

        Nothing is written if no epochs are left.
        """
        if sum(phase.epochs for phase in self.phases[at[0] :]) <= at[1]:
            return
        ends_phase = at[1] == 0
        if ends_phase:
            self.trainer.check_features()  # before anything is saved that depends on them
        if self._checkpoints.is_due:
            state = resumable_state(self.trainer, self.best, self.phases, at)
            self._checkpoints.write(self._describe_state(at, self._checkpoints.address), state)
        if ends_phase:
            self._share(at)

    def _share(self, at: Place) -> None:
        reached = self._describe_state(at, "")
        if not reached.trained_as:
            return
        state = self.trainer, self.best, self.phases, at
        self._shared_epochs.keep(
            at,
            self._checkpoints.seconds_of_this_attempt,
            estimate_state_bytes(*state),
            lambda address: (replace(reached, address=address), resumable_state(*state)),
        )

    def _describe_state(self, at: Place, address: str) -> TrialProgress:
        trainer, best = self.trainer, self.best
        at_once = trainer.compiled.micro_batches.at_once
        if (at_once["training"], at_once["evaluation"]) != (trainer.spec.micro_batch, None):
            self._trained_as = ""  # when the batches were split depends on the free memory
        return TrialProgress(
            address=address,
            begun_with=self._checkpoints.begun_with,
            phase=at[0],
            done=at[1],
            epoch=trainer.epoch,
            updates=trainer.updates,
            images_seen=trainer.images_seen,
            seconds=self._checkpoints.seconds,
            best_epoch=best.epoch,
            best_rank=best.rank,
            records=tuple(self.records),
            sources=tuple((source.what, source.why) for source in self.sources),
            trained_as=self._trained_as,
            equal_updates=trainer.spec.equal_updates,
            computed_on=self._computed_on,
            start=self.start,
        )


# ---- the state from which a trial resumes


def resumable_state(
    trainer: Trainer, best: BestEpoch, phases: Sequence[Phase], at: tuple[int, int]
) -> dict[str, np.ndarray]:
    """Return the arrays of everything that training changes, by name.

    Args:
        at: the phase that continues (from 0), and how many of its epochs are done.
    """
    variables = _changing_variables(trainer, phases, at)
    arrays = {name: np.asarray(variable) for name, variable in variables.items()}
    if best.epoch != trainer.epoch:  # otherwise the best weights are the current ones
        arrays |= {f"best/{name}": best.weights[name] for name in _trained_names(best, variables)}
    arrays |= {f"correct/{part}": np.stack(rows) for part, rows in trainer.correct_by_epoch.items()}
    if trainer.at_equal_updates is not None:
        arrays |= {f"equal updates/{name}": array for name, array in vars(trainer.at_equal_updates).items()}
    return arrays


def estimate_state_bytes(trainer: Trainer, best: BestEpoch, phases: Sequence[Phase], at: tuple[int, int]) -> int:
    """Return about how many bytes `resumable_state` takes."""
    variables = _changing_variables(trainer, phases, at)
    best_names = _trained_names(best, variables) if best.epoch != trainer.epoch else []
    counted = [*variables.values(), *(best.variables[name] for name in best_names)]
    return sum(math.prod(variable.shape) * int(tf.as_dtype(variable.dtype).size) for variable in counted)


def restore_state(checkpoint: Checkpoint, trainer: Trainer, best: BestEpoch, phases: Sequence[Phase]) -> bool:
    """Restore everything from a checkpoint; return False, with nothing changed, if it does not match the trial.

    The checkpoint's phase must have been started, unless none of its epochs are done.
    """
    reached, arrays = checkpoint.reached, checkpoint.arrays
    variables = _changing_variables(trainer, phases, (reached.phase, reached.done))
    best_names = _trained_names(best, variables) if reached.best_epoch != reached.epoch else []
    expected: dict[str, Any] = {**variables, **{f"best/{name}": best.variables[name] for name in best_names}}
    if not all(name in arrays and _has_form_of(arrays[name], variable) for name, variable in expected.items()):
        return False
    correct = {part: arrays.get(f"correct/{part}", ()) for part in MEASURED_PARTS}
    if any(len(rows) != reached.epoch for rows in correct.values()):
        return False
    for name, variable in variables.items():
        variable.assign(arrays[name])
    weights = {**best.now(), **{name: arrays[f"best/{name}"] for name in best_names}}
    best.take_up(reached.best_epoch, reached.best_rank, weights)
    trainer.epoch, trainer.updates, trainer.images_seen = reached.epoch, reached.updates, reached.images_seen
    trainer.correct_by_epoch = {part: list(rows) for part, rows in correct.items()}
    measured = {name.partition("/")[2]: array for name, array in arrays.items() if name.startswith("equal updates/")}
    trainer.at_equal_updates = Measurement(**measured) if measured else None
    return True


def _trained_names(best: BestEpoch, variables: dict[str, Any]) -> list[str]:
    """Return the names of the best epoch's weights that have trained already, and so differ from the initial ones."""
    return [name for name in best.variables if f"weights/{name}" in variables]


def _changing_variables(trainer: Trainer, phases: Sequence[Phase], at: tuple[int, int]) -> dict[str, Any]:
    """Return the variables that training has changed so far or that the next epoch depends on, by name."""
    network, (phase, done) = trainer.compiled.network, at
    started = phases[: phase + bool(done)]
    variables = {
        f"weights/{layer.name}/{number}": weight
        for layer in (network.training if trainer.auxiliary_weight else network.logits).layers
        if layer.name.startswith((HEAD, AUXILIARY)) or any(transfer.is_trained_in(layer, one) for one in started)
        for number, weight in enumerate(layer.weights)
    }
    variables |= {
        f"random/{layer.name}": state for layer in network.training.layers if (state := random_state(layer)) is not None
    }
    augmenting = trainer.compiled.augmentation(augmentation_of(trainer.spec))
    variables |= {f"augmentation/{number}": random_state(layer) for number, layer in enumerate(augmenting)}
    if done:
        variables |= {f"optimizer/{number}": variable for number, variable in enumerate(trainer.optimizer_states)}
    return variables


def _has_form_of(array: np.ndarray, variable: Any) -> bool:
    """Check whether the array has the shape and the type of a variable or another array."""
    other = np.asarray(variable)
    return array.shape == other.shape and array.dtype == other.dtype
