"""The driver loop: the one place that sees search, execution and tracking together.

It may be stopped at any moment and called again: what MLflow holds is taken up, what is missing is run.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock

from cnnstudy.cache import cache_folder, content_address
from cnnstudy.config import Study
from cnnstudy.display import Display
from cnnstudy.errors import StudyBusyError, StudyChangedError
from cnnstudy.execution import Done, Epoch, Executor, Failed
from cnnstudy.execution import Job as Job
from cnnstudy.preparation import Preparation, SourceWeights
from cnnstudy.records import Optimizer, PreparedImages, Split, TrialResult, TrialSpec
from cnnstudy.recording import Recorder, Recording, remove_files
from cnnstudy.schema import StudyConfig
from cnnstudy.search import PastTrial, Proposal, Search
from cnnstudy.tracking import LEVELS, RecordedRun, RecordedStudy, Tracker

#: Makes an executor that leaves the files of trials in a folder.
MakeExecutor = Callable[[Path], Executor]


@dataclass(frozen=True)
class Outcome:
    """How a call of run-study ended."""

    recorded: RecordedStudy
    finished: int
    pruned: int
    failed: int
    missing: int  # trials of the budget that are still to be run
    interrupted: bool


def run_study(study: Study, tracker: Tracker, make_executor: MakeExecutor, display: Display) -> Outcome:
    """Run what is missing of the study; KeyboardInterrupt ends it cleanly.

    Raises:
        StudyBusyError: another driver runs it.
        StudyChangedError: its file no longer fits the trials that MLflow holds.
        DataError, WeightsError, TrackingError, WorkerError: before the first trial, with nothing lost.
    """
    with _one_driver(study.config.name, tracker.uri), _terminate_as_interrupt():
        config = study.config.model_dump(mode="json")
        recorded = tracker.open_study(study.config.name, config, study.path, study.text)
        _refuse_changes(recorded.config, config, study)
        tracker.update_study(recorded, config)
        recorder = Recorder(tracker, recorded)
        search = Search(study.config, _past_trials(study.config, recorder, display))
        interrupted = False
        try:
            if search.remaining:
                _run_missing(study.config, search, recorder, make_executor, display)
        except KeyboardInterrupt:
            interrupted = True
        outcome = _outcome(study.config, recorder, interrupted)
        tracker.end_run(recorded.run_id, "finished" if not outcome.missing else "failed", _study_tags(outcome))
        return outcome


def _run_missing(
    config: StudyConfig, search: Search, recorder: Recorder, make_executor: MakeExecutor, display: Display
) -> None:
    with tempfile.TemporaryDirectory(prefix="cnnstudy-", ignore_cleanup_errors=True) as folder:
        executor = make_executor(Path(folder))
        try:
            preparation = Preparation(config, executor, recorder, display)
            images = preparation.images(config.data, config.architectures)
            weights = preparation.source_weights(len(next(iter(images.values())).classes))
            Driver(config, search, recorder, executor, display, images, weights).run()
        finally:
            executor.close()


class Driver:
    """Keeps the workers busy until the search has nothing more to propose."""

    def __init__(
        self,
        config: StudyConfig,
        search: Search,
        recorder: Recorder,
        executor: Executor,
        display: Display,
        images: dict[str, PreparedImages],
        weights: dict[str, SourceWeights],
    ) -> None:
        self.config = config
        self.search = search
        self.recorder = recorder
        self.executor = executor
        self.display = display
        self.images = images
        self.weights = weights
        self._running: dict[str, tuple[Proposal, Recording]] = {}

    def run(self) -> None:
        """All trials that are missing. On Ctrl-C those under way are marked interrupted."""
        total = self.config.budget.trials
        self.display.start_trials(total - self.search.remaining, total)
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
        except BaseException:
            self.executor.close()
            for key, (_, recording) in self._running.items():
                self.recorder.interrupt(recording.run_id)
                self.display.end_trial(key, "interrupted; the next call runs it again")
            raise

    def _fill_slots(self) -> None:
        while len(self._running) < self.executor.slots:
            proposal = self.search.next()
            if proposal is None:
                return
            spec = self._spec(proposal)
            recording = self.recorder.start(spec)
            self._running[spec.key] = (proposal, recording)
            self.executor.submit(Job(spec.key, "run_trial", spec.to_json()))
            self.display.start_trial(spec.key, recording.title, spec.epochs)

    def _spec(self, proposal: Proposal) -> TrialSpec:
        config, training = self.config, self.config.training
        weights = self.weights[proposal.architecture]
        return TrialSpec(
            study=config.name,
            purpose="trial",
            architecture=proposal.architecture,
            number=proposal.number,
            seed=proposal.seed,
            levels=proposal.levels,
            images=self.images[proposal.architecture],
            split=Split(config.data.validation, config.data.test, config.seed),
            epochs=training.epochs,
            head_epochs=config.head_epochs(),
            patience=training.early_stopping,
            monitor=config.objective.metric,
            optimizer=Optimizer(training.optimizer, training.weight_decay, training.momentum),
            weights_source=weights.source,
            weights_file=weights.file,
        )

    def _on_epoch(self, event: Epoch) -> None:
        proposal, recording = self._running[event.key]
        prune = self.search.report(proposal, event.record.epoch, event.record.metrics[self.config.objective.metric])
        self.executor.answer(event.key, not prune)
        # the worker trains on while the epoch is recorded
        self.recorder.epoch(recording, event.record)
        self.display.epoch(event.key, event.record)

    def _on_done(self, event: Done) -> None:
        proposal, recording = self._running[event.key]
        result = TrialResult.from_json(event.result)
        self.search.tell(proposal, result.state, result.summary[self.config.objective.metric])
        self.recorder.finish(recording, result)
        del self._running[event.key]
        self._fill_slots()
        remove_files(result)
        summary = result.summary
        self.display.end_trial(
            event.key,
            f"{result.state}, train {100 * summary['train/accuracy']:.1f} %, validation "
            f"{100 * summary['val/accuracy']:.1f} %, gap {100 * summary['gap/accuracy']:+.1f} points "
            f"at epoch {result.best_epoch}",
        )

    def _on_failed(self, event: Failed) -> None:
        proposal, recording = self._running[event.key]
        self.search.tell(proposal, "failed", None)
        self.recorder.fail(recording, event)
        del self._running[event.key]
        self._fill_slots()
        self.display.end_trial(event.key, f"failed ({event.reason}): {event.message}")


def _past_trials(config: StudyConfig, recorder: Recorder, display: Display) -> list[PastTrial]:
    """The trials that MLflow holds. One that still counts as running was left by a driver that died: interrupted."""
    tracker, metric = recorder.tracker, config.objective.metric
    latest: dict[tuple[str, int], PastTrial] = {}
    for run in tracker.runs(recorder.study.experiment_id):
        if run.kind == "study":
            continue
        if run.state == "running":
            recorder.interrupt(run.run_id)
            display.say(f"{run.name} was left unfinished by a driver that is gone: marked interrupted")
        if run.kind != "trial":
            continue
        past = _past_trial(run, metric)
        if past.done and config.strategy.pruner != "none":
            past = PastTrial(**{**vars(past), "reported": tracker.metric_history(run.run_id, metric)})
        key = (past.architecture, past.number)
        if key not in latest or not latest[key].done:
            latest[key] = past
    return list(latest.values())


def _past_trial(run: RecordedRun, metric: str) -> PastTrial:
    state = "failed" if run.state == "running" else run.state
    return PastTrial(
        architecture=run.tags["cnnstudy.architecture"],
        number=int(run.tags["cnnstudy.number"]),
        levels=json.loads(run.tags[LEVELS]),
        state=state,
        done=run.state != "running" and run.reason != "interrupted",
        value=run.metrics.get(f"best/{metric.replace('/', '_')}"),
    )


def _outcome(config: StudyConfig, recorder: Recorder, interrupted: bool) -> Outcome:
    trials = [run for run in recorder.tracker.runs(recorder.study.experiment_id) if run.kind == "trial"]
    done = [run for run in trials if run.state != "running" and run.reason != "interrupted"]
    finished = [run for run in done if run.state == "finished"]
    outcome = Outcome(
        recorded=recorder.study,
        finished=len(finished),
        pruned=sum(run.state == "pruned" for run in done),
        failed=sum(run.state == "failed" for run in done),
        missing=max(0, config.budget.trials - len(done)),
        interrupted=interrupted,
    )
    best = best_trial(finished, config.objective.metric)
    if best is not None and not interrupted:
        value = best.metrics[f"best/{config.objective.metric.replace('/', '_')}"]
        recorder.tracker.register_champion(config.name, best, f"best {config.objective.metric}: {value:.4f}")
    return outcome


def best_trial(finished: list[RecordedRun], metric: str) -> RecordedRun | None:
    """The best by the objective, and between equals by validation loss."""
    sign = -1 if metric == "val/loss" else 1
    rated = [run for run in finished if "cnnstudy.model" in run.tags]
    key = f"best/{metric.replace('/', '_')}"
    return max(rated, key=lambda run: (sign * run.metrics[key], -run.metrics["best/val_loss"]), default=None)


def _study_tags(outcome: Outcome) -> dict[str, str]:
    counts = {name: getattr(outcome, name) for name in ("finished", "pruned", "failed", "missing")}
    return {f"cnnstudy.trials_{name}": str(count) for name, count in counts.items()}


#: May change between calls: how much to run, and what the trials already recorded do not depend on.
_HARMLESS = ("budget",)


def _refuse_changes(recorded: dict[str, Any], given: dict[str, Any], study: Study) -> None:
    changes = [
        f"  {key}: {json.dumps(old)} -> {json.dumps(new)}"
        for key, old, new in _differences(recorded, given, "")
        if key.split(".")[0] not in _HARMLESS
    ]
    if changes:
        raise StudyChangedError(
            f"{study.path}: study {study.config.name!r} has trials recorded with other settings:\n"
            + "\n".join(changes)
            + "\nTrials of both would not be comparable. Take the change back, or give the study another name "
            f"(`name:` in the file, or --set name={study.config.name}-2)."
        )


def _differences(old: Any, new: Any, key: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        for name in [*old, *(name for name in new if name not in old)]:
            yield from _differences(old.get(name), new.get(name), f"{key}.{name}".lstrip("."))
    elif old != new:
        yield key, old, new


@contextlib.contextmanager
def _one_driver(name: str, uri: str) -> Iterator[None]:
    """Hold the study on this machine; the lock goes with the process, whatever ends it."""
    folder = cache_folder() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    absolute = str(Path(uri.removeprefix("sqlite:///")).absolute()) if uri.startswith("sqlite:///") else uri
    path = folder / content_address([name, absolute])
    lock = filelock.FileLock(f"{path}.lock", timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        holder = path.with_suffix(".holder")
        who = holder.read_text(encoding="utf-8") if holder.is_file() else "unknown"
        raise StudyBusyError(
            f"study {name!r} is being run by another process ({who}); wait for it, or stop it first."
        ) from None
    try:
        path.with_suffix(".holder").write_text(f"pid {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def _terminate_as_interrupt() -> Iterator[None]:
    """SIGTERM, as Slurm and Docker send it, ends a study as Ctrl-C does."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not in the main thread: whoever runs us there handles signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
