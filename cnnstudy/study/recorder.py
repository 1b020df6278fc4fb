"""A trial's way into MLflow: parameters and tags at its start, metrics each epoch, files and model at its end."""

from __future__ import annotations

import contextlib
import csv
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from cnnstudy.analysis.class_metrics import class_metric_names, class_metrics
from cnnstudy.config.factors import describe_levels, names_in_title
from cnnstudy.errors import TrackingUnavailableError
from cnnstudy.execution import Failed
from cnnstudy.names import Metric, Parameter, Tag, best_name, computed_on_tag
from cnnstudy.records import INTERRUPTED, EpochRecord, TrialResult, TrialSpec
from cnnstudy.study.recovery import (
    Decision,
    Found,
    apply_decisions,
    decide_recovery,
    inspect_checkpoints,
    inspect_study,
)
from cnnstudy.system.code_version import code_version, driver_versions
from cnnstudy.system.files import escape_formula
from cnnstudy.system.scratch import scratch_folder
from cnnstudy.tracking.client import Tracker
from cnnstudy.tracking.operations import EndRun, LogFiles, LogMetrics, LogModel, StartRun
from cnnstudy.tracking.outbox import Outbox
from cnnstudy.tracking.recorded import RecordedRun, RecordedStudy
from cnnstudy.tracking.retry import RetryPolicy
from cnnstudy.tracking.spool import remove_abandoned_files
from cnnstudy.training import model_files


def write_tables(
    folder: Path, classes: Sequence[str], result: TrialResult, per_class: Sequence[Mapping[str, float | str]]
) -> None:
    """Per-class metrics and the confusion matrix as CSV, and which images it had right, where the worker left that."""
    _write_rows(folder / "per_class.csv", list(per_class[0]), [list(row.values()) for row in per_class])
    rows = [[name, *counts] for name, counts in zip(classes, result.confusion, strict=True)]
    _write_rows(folder / "confusion_matrix.csv", ["true class", *classes], rows)
    if "correctness" in result.files:
        shutil.copy(result.files["correctness"], folder / "correctness.npz")


def write_spec(folder: Path, spec: TrialSpec) -> None:
    """All that the worker was told."""
    (folder / "trial.json").write_text(json.dumps(spec.to_json(), indent=2), encoding="utf-8")


def remove_trial_files(result: TrialResult) -> None:
    """What the worker left on disk; MLflow has it now."""
    for path in map(Path, result.files.values()):
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def _write_rows(path: Path, header: Sequence[object], rows: Sequence[Sequence[object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerows([escape_formula(cell) for cell in row] for row in (header, *rows))


@dataclass
class TrialRecording:
    """One trial on its way: its run, and what it reported so far."""

    spec: TrialSpec
    run_id: str  # or what names it in the outbox
    title: str
    epochs: list[EpochRecord] = field(default_factory=list)


class TrialRecorder(Protocol):
    """Takes what a trial reports, from its start to its end."""

    @property
    def study(self) -> RecordedStudy:
        """The study that the trials belong to."""

    def start(self, spec: TrialSpec, extra_tags: Mapping[str, str] | None = None) -> TrialRecording:
        """Begin a trial, with all that is known before it trains."""

    def epoch(self, recording: TrialRecording, record: EpochRecord) -> None:
        """Take the metrics of an epoch."""

    def finish(self, recording: TrialRecording, result: TrialResult) -> None:
        """Take what a trial came to."""

    def fail(self, recording: TrialRecording, failed: Failed, again: bool = False) -> None:
        """Take why a trial failed.

        Args:
            again: the trial runs once more; this run does not count.
        """


@dataclass(frozen=True)
class Unrecorded:
    """A TrialRecorder that writes nothing: for a dry run, and where another driver may be at work in the study."""

    study: RecordedStudy

    def start(self, spec: TrialSpec, extra_tags: Mapping[str, str] | None = None) -> TrialRecording:
        return TrialRecording(spec, "", trial_title(spec))

    def epoch(self, recording: TrialRecording, record: EpochRecord) -> None:
        recording.epochs.append(record)

    def finish(self, recording: TrialRecording, result: TrialResult) -> None:
        """Nothing is written."""

    def fail(self, recording: TrialRecording, failed: Failed, again: bool = False) -> None:
        """Nothing is written."""


class Recorder:
    """Writes the trials of one study to MLflow: a TrialRecorder.

    Args:
        check: called before anything but metrics is written, to raise where that is no longer to be done.
        outbox: one with the same check; None: one whose records nobody has left, and nobody is told of.

    Raises, whatever it writes:
        TakenOverError: as `check` does.
        TrackingError: MLflow refuses it; while MLflow only does not answer, the outbox has it.
        DiskFullError: when a record is complete, where the disk is full; or before, where it can't be kept.
    """

    def __init__(
        self,
        tracker: Tracker,
        study: RecordedStudy,
        check: Callable[[], None] = lambda: None,
        outbox: Outbox | None = None,
    ) -> None:
        self.tracker = tracker
        self.study = study
        self.outbox = outbox or Outbox(tracker, study, check=check)
        self._check = check
        self._code_version = code_version()

    def runs(self) -> list[RecordedRun]:
        """Every run of the study, oldest first, once all that was written has arrived.

        Raises:
            TrackingUnavailableError: MLflow does not answer, for longer than the outbox' patience.
        """
        return self.outbox.delivery.ask(lambda: self.tracker.runs(self.study.experiment_id))

    def start(self, spec: TrialSpec, extra_tags: Mapping[str, str] | None = None) -> TrialRecording:
        """A run for the trial, with all that is known before it trains."""
        title = trial_title(spec)
        parameters = {
            Parameter.ARCHITECTURE: spec.architecture,
            **spec.levels,
            Parameter.WEIGHTS: spec.weights_source if spec.levels["transfer"] != "scratch" else "none",
            Parameter.SEED: spec.seed,
            Parameter.IMAGE_SIZE: spec.images.size,
            Parameter.EPOCHS: spec.epochs,
            Parameter.OPTIMIZER: spec.optimizer.name,
            Parameter.WEIGHT_DECAY: spec.optimizer.weight_decay,
            Parameter.EARLY_STOPPING: spec.patience,
            Parameter.UPDATES: spec.updates,
            Parameter.UNTIL_TRAIN_LOSS: spec.until_train_loss,
            Parameter.BLOCK: spec.block,
            Parameter.DETERMINISTIC: spec.deterministic,
            Parameter.PRECISION: spec.precision,
            Parameter.XLA: "auto" if spec.xla is None else spec.xla,
            Parameter.DATA: spec.images.name,
            Parameter.CLASSES: len(spec.images.classes),
            Parameter.TRAIN_IMAGES: sum(spec.images.train),
            Parameter.VALIDATION_IMAGES: sum(spec.images.validation),
        }
        tags = {
            Tag.KIND: spec.purpose,
            Tag.STATE: "running",
            Tag.LEVELS: json.dumps(spec.levels),
            Tag.STUDY: self.study.name,
            Tag.TRIAL: spec.key,
            Tag.NUMBER: str(spec.number),
            Tag.ARCHITECTURE: spec.architecture,
            Tag.TRANSFER: str(spec.levels["transfer"]),
            Tag.WEIGHTS: str(parameters[Parameter.WEIGHTS]),
            Tag.SEED: str(spec.seed),
            Tag.DATA_DIGEST: spec.images.digest,
            Tag.CODE_VERSION: self._code_version,
            Tag.PACKAGES: json.dumps(driver_versions()),
            **(extra_tags or {}),
        }
        texts = {name: str(value) for name, value in parameters.items()}
        run_id = self.outbox.start_run(StartRun(f"{spec.key} {title}", tags, texts, spec.images))
        return TrialRecording(spec, run_id, title)

    def epoch(self, recording: TrialRecording, record: EpochRecord) -> None:
        recording.epochs.append(record)
        self.outbox.write(recording.run_id, LogMetrics(record.metrics, record.epoch))
        self.outbox.delivery.stop_if_full()

    def finish(self, recording: TrialRecording, result: TrialResult) -> None:
        """Summary metrics, pictures, per-class metrics, the model; then the state."""
        spec, run_id = recording.spec, recording.run_id
        best = {best_name(name): value for name, value in result.summary.items()}
        best[Metric.BEST_EPOCH] = float(result.best_epoch)
        per_class = class_metrics(result.confusion, spec.images.classes, result.train_confusion)
        has_model = "model" in result.files
        metrics = {
            **({} if has_model else best),  # else they come with the model, which has them too then
            Metric.TOTAL_SECONDS: result.seconds,
            Metric.TRAINABLE_PARAMETERS: float(result.trainable_parameters),
            Metric.FROZEN_PARAMETERS: float(result.frozen_parameters),
            **result.final,
            **class_metric_names(per_class),
        }
        self.outbox.write(run_id, LogMetrics(metrics, result.epochs))
        with scratch_folder() as folder:
            self._write_files(folder, recording, result, per_class)
            self.outbox.write(run_id, LogFiles(folder))
        if has_model:
            model = Path(result.files["model"])
            about = {
                Tag.STUDY: self.study.name,
                Tag.TRIAL: spec.key,
                Tag.MODEL_HASH: model_files.hash_keras_file(model) or "",
            }
            self.outbox.write(run_id, LogModel(model, spec.key, best, result.epochs, spec.images, about))
        tags = {
            Tag.PACKAGES: json.dumps({**driver_versions(), **result.versions}),
            Tag.ENDED_BY: result.ended_by,
            **_not_trained(recording),
        }
        if result.checkpoint_note:
            tags[Tag.CHECKPOINT_NOTE] = result.checkpoint_note
        if result.verdict:
            tags |= {Tag.VERDICT: result.verdict, Tag.VERDICT_REASON: result.verdict_reason}
        if result.features:
            tags |= {Tag.FEATURES: result.features, Tag.FEATURES_NOTE: result.features_note}
        tags |= {computed_on_tag(name): value for name, value in result.computed_on.items()}
        sizes = {Tag.MICRO_BATCH: result.micro_batch, Tag.EVALUATION_BATCH: result.evaluation_batch}
        tags |= {name: str(images) for name, images in sizes.items() if images}
        if result.frozen_digest:
            tags[Tag.FROZEN_DIGEST] = result.frozen_digest
        self.outbox.write(run_id, EndRun(result.state, tags))
        self.outbox.delivery.stop_if_full()

    def fail(self, recording: TrialRecording, failed: Failed, again: bool = False) -> None:
        """The reason, the traceback as a file, and the curves so far.

        Args:
            again: the trial runs once more; this run does not count.
        """
        with scratch_folder() as folder:
            (folder / "traceback.txt").write_text(failed.traceback, encoding="utf-8", errors="replace")
            write_spec(folder, recording.spec)
            if recording.epochs:
                from cnnstudy.analysis.trial_plots import draw_curves

                draw_curves(recording.epochs, 0, f"{recording.spec.key}  {recording.title}", folder / "curves.png")
            self.outbox.write(recording.run_id, LogFiles(folder))
        tags = {Tag.REASON: failed.reason, Tag.MESSAGE: failed.message.split("\n")[0], **_not_trained(recording)}
        if failed.reason == "diverged":
            tags |= {Tag.VERDICT: "diverged", Tag.VERDICT_REASON: tags[Tag.MESSAGE]}
        if again:
            tags[Tag.RETRIED] = "true"
        self.outbox.write(recording.run_id, EndRun("failed", tags))
        self.outbox.delivery.stop_if_full()

    def put_right(self) -> tuple[list[RecordedRun], list[RecordedRun]]:
        """Put right what was stopped from outside, the study's own run aside.

        Only for the study's one driver: what is under way then is its own, or was left by one that is gone. All that
        was written has arrived before: a trial whose last word waits in the outbox has ended.

        Returns:
            The runs that are to run again, and all runs of the study as they are now.

        Raises:
            TrackingUnavailableError: MLflow does not answer, for longer than the outbox' patience.
        """
        found, decisions = self.outbox.delivery.ask(self._put_right)
        changed = any(decision.what == "run" for decision in decisions)
        return _interrupted(found, decisions), self.runs() if changed else list(found)

    def interrupt_unfinished(self) -> list[RecordedRun]:
        """The same for those who are about to stop and wait for nothing.

        While MLflow does not answer, the runs of this recorder are marked in the outbox, and none are returned.
        """
        with contextlib.suppress(TrackingUnavailableError):
            if self.outbox.delivery.settle():
                return _interrupted(*self._put_right())
        self.outbox.leave_interrupted({Tag.REASON: INTERRUPTED})
        return []

    def _put_right(self) -> tuple[Sequence[RecordedRun], list[Decision]]:
        """The study's runs as they were, and what was done."""
        self._check()
        found = inspect_study(self.tracker, self.study, "gone")
        kept = inspect_checkpoints(self.tracker, [self.study], {found.name: found.runs})
        others = replace(found, runs=tuple(run for run in found.runs if run.kind != "study"))
        decisions = decide_recovery(Found((others,), checkpoints=tuple(one for one in kept if one.study == found.name)))
        apply_decisions(decisions, self.tracker)
        return found.runs, decisions

    def end_study(self, state: str, tags: Mapping[str, str]) -> None:
        """The last word on the study, whatever comes of it; it is nobody's then."""
        last = {**tags, Tag.DRIVER: ""}
        if self.outbox.delivery.waits:
            self.outbox.leave(self.study.run_id, EndRun(state, last))
        else:
            self.tracker.end_run(self.study.run_id, state, last)

    def _write_files(
        self, folder: Path, recording: TrialRecording, result: TrialResult, per_class: list[dict[str, float | str]]
    ) -> None:
        from cnnstudy.analysis.trial_plots import (
            draw_confusion,
            draw_curves,  # while the next trial trains
        )

        classes = recording.spec.images.classes
        title = f"{recording.spec.key}  {recording.title}"
        draw_curves(recording.epochs, result.best_epoch, title, folder / "curves.png")
        draw_confusion(result.confusion, classes, f"validation, {title}", folder / "confusion_matrix.png")
        write_tables(folder, classes, result, per_class)
        write_spec(folder, recording.spec)


@contextlib.contextmanager
def open_recorder(
    tracker: Tracker,
    study: RecordedStudy,
    say: Callable[[str], None],
    patience: RetryPolicy | None,
    check: Callable[[], None] = lambda: None,
) -> Iterator[Recorder]:
    """A recorder of the study; what an earlier call left for MLflow has arrived.

    Raises:
        TrackingError: that can't be delivered.
        DiskFullError: there is no room for a record that may have to wait.
    """
    with contextlib.closing(Outbox(tracker, study, say, patience, check)) as outbox:
        outbox.delivery.deliver_left()
        remove_abandoned_files()
        yield Recorder(tracker, study, check, outbox)


def trial_title(spec: TrialSpec) -> str:
    """The trial in a few words: `frozen, batch size 32, dropout 0.5`."""
    transfer, *others = names_in_title(spec.levels)
    random_weights = spec.weights_source == "random" and spec.levels[transfer] != "scratch"
    first = f"{describe_levels(spec.levels, [transfer])}{' (random weights)' if random_weights else ''}"
    return ", ".join(filter(None, [first, describe_levels(spec.levels, others)]))


def _interrupted(runs: Sequence[RecordedRun], decisions: Sequence[Decision]) -> list[RecordedRun]:
    ids = {decision.key for decision in decisions if decision.becomes == INTERRUPTED}
    return [run for run in runs if run.run_id in ids]


def _not_trained(recording: TrialRecording) -> dict[str, str]:
    """How many epochs another trial trained, and which one an earlier try came to, if this one went on from there."""
    shared = [record for record in recording.epochs if record.shared]
    before = [record.epoch for record in recording.epochs if record.replayed and not record.shared]
    return {
        **({Tag.SHARED_EPOCHS: str(len(shared))} if shared else {}),
        **({Tag.RESUMED_FROM_EPOCH: str(before[-1])} if before else {}),
    }
