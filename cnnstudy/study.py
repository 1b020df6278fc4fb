"""The driver loop: the one place that sees search, execution and tracking together.

It may be stopped at any moment and called again: what MLflow holds is taken up, what is missing is run.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cnnstudy import strategies
from cnnstudy.budget import epochs_of_trial, equal_updates
from cnnstudy.config import Study
from cnnstudy.display import Display
from cnnstudy.errors import CnnstudyError
from cnnstudy.estimate import tell_cost, tell_size
from cnnstudy.execution import Done, Epoch, Executor, Failed, Job, Progress
from cnnstudy.factorial import Factorial
from cnnstudy.preparation import Preparation, SourceWeights
from cnnstudy.proposals import Proposal, Strategy
from cnnstudy.recording import Recorder, Recording, remove_files
from cnnstudy.records import (
    Optimizer,
    PreparedImages,
    RecordedRun,
    RecordedStudy,
    Split,
    TrialResult,
    TrialSpec,
    best_name,
)
from cnnstudy.resume import one_driver, past_trials, refuse_changes, refuse_other_images
from cnnstudy.schema import StudyConfig
from cnnstudy.search import Search
from cnnstudy.signals import terminate_as_interrupt
from cnnstudy.tracking import REASON, Tracker

#: Makes an executor that leaves the files of trials in a folder.
MakeExecutor = Callable[[Path], Executor]
COUNTS = ("finished", "pruned", "failed", "missing")


@dataclass(frozen=True)
class Outcome:
    """How a call of run-study ended."""

    recorded: RecordedStudy
    finished: int
    pruned: int
    failed: int
    missing: int  # trials that are still to be run
    interrupted: bool


def run_study(study: Study, tracker: Tracker, make_executor: MakeExecutor, display: Display) -> Outcome:
    """Run what is missing of the study; KeyboardInterrupt ends it cleanly.

    Raises:
        StudyBusyError: another driver runs it.
        StudyChangedError: its file no longer fits the trials that MLflow holds.
        DataError, WeightsError, TrackingError, WorkerError: before the first trial, with nothing lost.
    """
    with one_driver(study.config.name, tracker.uri), terminate_as_interrupt():
        config = study.config.model_dump(mode="json")
        recorded = tracker.open_study(study.config.name, config)
        refuse_changes(recorded, config, tracker, study)
        recorder = Recorder(tracker, recorded)
        try:
            tracker.start_study(recorded, config, study.path, study.text)
            interrupted = _run_missing(study.config, recorder, make_executor, display)
            outcome = _outcome(study.config, recorder, interrupted)
            tags = {f"cnnstudy.trials_{name}": str(getattr(outcome, name)) for name in COUNTS}
            tags |= {REASON: "interrupted"} if interrupted else {}
            tracker.end_run(recorded.run_id, "failed" if outcome.missing else "finished", tags)
        except BaseException as error:
            reason = "interrupted" if isinstance(error, KeyboardInterrupt) else ""
            with contextlib.suppress(CnnstudyError):  # the tracking server itself may be what is broken
                recorder.interrupt_unfinished()
                tracker.end_run(recorded.run_id, "failed", {REASON: reason, "cnnstudy.message": str(error)})
            raise
        return outcome


def _run_missing(config: StudyConfig, recorder: Recorder, make_executor: MakeExecutor, display: Display) -> bool:
    """Run the trials that are missing; whether that was interrupted."""
    past = past_trials(config, recorder, display)
    factorial = Factorial(config, past) if isinstance(config.strategy, strategies.Factorial) else None
    strategy: Strategy = factorial or Search(config, past)
    if factorial is not None:
        tell_size(config, factorial.remaining, display)
    if strategy.remaining <= 0:  # below 0 where the budget was lowered
        return False
    with tempfile.TemporaryDirectory(prefix="cnnstudy-", ignore_cleanup_errors=True) as folder:
        executor = make_executor(Path(folder))
        try:
            preparation = Preparation(config, executor, recorder, display)
            images = preparation.images(config.data, config.architectures)
            refuse_other_images(recorder, next(iter(images.values())))
            weights = preparation.source_weights(len(next(iter(images.values())).classes))
            driver = Driver(config, strategy, recorder, executor, display, images, weights)
            if factorial is not None:
                tell_cost([driver.spec_of(proposal) for proposal in factorial.upcoming], recorder, executor, display)
            driver.run()
        except KeyboardInterrupt:
            recorder.interrupt_unfinished()
            return True
        finally:
            executor.close()
    return False


class Driver:
    """Keeps the workers busy until the strategy has nothing more to propose."""

    def __init__(
        self,
        config: StudyConfig,
        strategy: Strategy,
        recorder: Recorder,
        executor: Executor,
        display: Display,
        images: dict[str, PreparedImages],
        weights: dict[str, SourceWeights],
    ) -> None:
        self.config = config
        self.strategy = strategy
        self.recorder = recorder
        self.executor = executor
        self.display = display
        self.images = images
        self.weights = weights
        self._running: dict[str, tuple[Proposal, Recording]] = {}

    def run(self) -> None:
        """All trials that are missing."""
        total = self.config.total_trials
        self.display.start_trials(total - self.strategy.remaining, total)
        try:
            self._fill_slots()
            while self._running:
                event = self.executor.next_event(timeout=3600)
                if isinstance(event, Epoch):
                    self._on_epoch(event)
                elif isinstance(event, Done):
                    self._on_done(event)
                elif isinstance(event, Failed):
                    self._on_failed(event)
                elif isinstance(event, Progress):
                    self.display.count(f"{event.key}: {event.what}", event.done, event.total)
        except BaseException:
            for key in self._running:
                self.display.say(f"{key}  interrupted; the next call runs it again")
            raise

    def _fill_slots(self) -> None:
        while len(self._running) < self.executor.slots:
            proposal = self.strategy.next()
            if proposal is None:
                return
            spec = self.spec_of(proposal)
            digest = self.weights[proposal.architecture].digest
            from_weights = digest and spec.levels["transfer"] != "scratch"
            recording = self.recorder.start(spec, {"cnnstudy.weights_digest": digest} if from_weights else None)
            self._running[spec.key] = (proposal, recording)
            self.executor.submit(Job(spec.key, "run_trial", spec.to_json()))
            self.display.start_trial(spec.key, recording.title, spec.epochs)

    def spec_of(self, proposal: Proposal) -> TrialSpec:
        """The whole of a trial, as a worker needs it."""
        config, training = self.config, self.config.training
        name, weights = proposal.architecture, self.weights[proposal.architecture]
        epochs = epochs_of_trial(config, name, proposal.levels, self.images[name])
        return TrialSpec(
            study=config.name,
            purpose="trial",
            architecture=name,
            number=proposal.number,
            seed=proposal.seed,
            levels=proposal.levels,
            images=self.images[name],
            split=Split(config.data.validation, config.data.test, config.seed),
            epochs=epochs,
            head_epochs=config.head_epochs_of(name, epochs),
            patience=training.early_stopping,
            monitor=config.objective.metric,
            optimizer=Optimizer(training.optimizer, training.weight_decay, training.momentum),
            weights_source=weights.source,
            weights_file=weights.file,
            updates=training.updates,
            until_train_loss=training.until_train_loss,
            keep_model=training.keep_models,
            equal_updates=equal_updates(config, name, self.images[name]),
            block=proposal.block,
        )

    def _on_epoch(self, event: Epoch) -> None:
        proposal, recording = self._running[event.key]
        prune = self.strategy.report(proposal, event.record.epoch, event.record.metrics[self.config.objective.metric])
        self.executor.answer(event.key, not prune)
        # the worker trains on while the epoch is recorded
        self.recorder.epoch(recording, event.record)
        self.display.epoch(event.key, event.record)

    def _on_done(self, event: Done) -> None:
        proposal, recording = self._running[event.key]
        result = TrialResult.from_json(event.result)
        self.strategy.tell(proposal, result.state, result.summary[self.config.objective.metric])
        del self._running[event.key]
        # the worker trains on while pictures are drawn and the trial is recorded
        self._fill_slots()
        self.recorder.finish(recording, result)
        remove_files(result)
        summary = result.summary
        self.display.end_trial(
            event.key,
            f"{result.state}, train {100 * summary['train/accuracy']:.1f} %, validation "
            f"{100 * summary['val/accuracy']:.1f} %, gap {100 * summary['gap/accuracy']:+.1f} points "
            f"at epoch {result.best_epoch}: {result.verdict}; {result.trainable_parameters:,} parameters trained, "
            f"{result.frozen_parameters:,} frozen",
        )

    def _on_failed(self, event: Failed) -> None:
        proposal, recording = self._running[event.key]
        self.strategy.tell(proposal, "failed", None)
        self.recorder.fail(recording, event)
        del self._running[event.key]
        self._fill_slots()
        self.display.end_trial(event.key, f"failed ({event.reason}): {event.message}")


def _outcome(config: StudyConfig, recorder: Recorder, interrupted: bool) -> Outcome:
    trials = [run for run in recorder.tracker.runs(recorder.study.experiment_id) if run.kind == "trial"]
    done = [run for run in trials if run.done]
    finished = [run for run in done if run.state == "finished"]
    outcome = Outcome(
        recorded=recorder.study,
        finished=len(finished),
        pruned=sum(run.state == "pruned" for run in done),
        failed=sum(run.state == "failed" for run in done),
        missing=_missing(config, done),
        interrupted=interrupted,
    )
    best = best_trial(finished, config.objective.metric)
    if best is not None and not interrupted:
        value = best.metrics[best_name(config.objective.metric)]
        recorder.tracker.register_champion(config.name, best, f"best {config.objective.metric}: {value:.4f}")
    return outcome


def _missing(config: StudyConfig, done: list[RecordedRun]) -> int:
    """A search needs so many trials of each network, a factorial those with the numbers of its cells and seeds."""
    missing = 0
    for name in config.architectures:
        numbers = {int(run.tags["cnnstudy.number"]) for run in done if run.tags["cnnstudy.architecture"] == name}
        if isinstance(config.strategy, strategies.Factorial):
            numbers = {number for number in numbers if number < config.trials_of(name)}
        missing += max(0, config.trials_of(name) - len(numbers))
    return missing


def best_trial(finished: list[RecordedRun], metric: str) -> RecordedRun | None:
    """The best by the objective, and between equals by validation loss."""
    sign = -1 if metric == "val/loss" else 1
    rated = [run for run in finished if "cnnstudy.model" in run.tags]
    key = best_name(metric)
    return max(rated, key=lambda run: (sign * run.metrics[key], -run.metrics["best/val_loss"]), default=None)
