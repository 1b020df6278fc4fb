"""A trial's way through its epochs, phase by phase: where it begins, what is kept of it, and what ends it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from cnnstudy.names import Metric
from cnnstudy.records import EpochRecord
from cnnstudy.training import resumption, transfer
from cnnstudy.training.best_epoch import BestEpoch
from cnnstudy.training.checkpoints import Checkpoint, Checkpoints, Reached
from cnnstudy.training.decoding import Progress
from cnnstudy.training.features import Source, source_of
from cnnstudy.training.loop import Trainer
from cnnstudy.training.prefixes import Place, Prefixes
from cnnstudy.training.transfer import Phase

#: Told of each epoch; false means: prune. Of those that an earlier try or another trial trained it is told first, and
#: nothing is pruned.
Report = Callable[[EpochRecord], bool]


class Course:
    """Runs the epochs of every phase.

    After `run`: `records` of all epochs; `sources`, what each phase trained on; `ended_by`, as TrialResult has it.
    """

    def __init__(
        self,
        trainer: Trainer,
        best: BestEpoch,
        phases: Sequence[Phase],
        kept: Checkpoints,
        prefixes: Prefixes,
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
        if not resumption.restore(found, self.trainer, self.best, self.phases):
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
        transfer.apply(compiled.network, phase)
        source = source_of(compiled, spec, phase, progress)
        if not source.as_planned:
            self._trained_as = ""
        self.sources.append(source)
        self.trainer.start_phase(phase, source.features)

    def _keep(self, at: Place) -> None:
        """What is due of a checkpoint, and of a beginning for other trials."""
        if self._kept.is_due:
            state = resumption.state(self.trainer, self.best, self.phases, at)
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
            resumption.bytes_of_state(*given),
            lambda address: (replace(reached, address=address), resumption.state(*given)),
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
