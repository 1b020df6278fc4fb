"""Record trials in MLflow: parameters and tags at the start, metrics after each epoch, files and model at the end."""

from __future__ import annotations

import contextlib
import csv
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from cnnstudy.analysis.class_metrics import class_metric_names, class_metrics
from cnnstudy.config.factors import FACTORS, Choices, describe_levels, recorded_factors, title_factors
from cnnstudy.errors import CnnstudyError, EnvironmentTrouble, TrackingUnavailableError
from cnnstudy.execution import Failed
from cnnstudy.names import NOBODY, Metric, Parameter, Tag, best_name, computed_on_tag
from cnnstudy.records import INTERRUPTED, OUTSIDE_REASONS, RESULT_TABLES, EpochRecord, TrialResult, TrialSpec
from cnnstudy.study.budget import count_train_images
from cnnstudy.study.recovery import (
    Decision,
    Leftovers,
    apply_decisions,
    decide_recovery,
    inspect_checkpoints,
    inspect_study,
)
from cnnstudy.system.code_version import code_version, driver_versions
from cnnstudy.system.files import escape_formula
from cnnstudy.system.scratch import scratch_folder
from cnnstudy.tracking.client import Tracker
from cnnstudy.tracking.operations import EndRun, LogFiles, LogMetrics, LogModel, SetTags, StartRun
from cnnstudy.tracking.outbox import Outbox, adopt_records
from cnnstudy.tracking.recorded import RecordedRun, RecordedStudy, config_tags, split_into_tags
from cnnstudy.tracking.retry import RetryPolicy
from cnnstudy.tracking.spool import remove_abandoned_files
from cnnstudy.tracking.system_metrics import SystemMetrics, measuring_system
from cnnstudy.training import model_files

#: The pairs of true and predicted class that validation has, as MLflow's UI shows tables.
CONFUSION_TABLE = "confusion.json"


@dataclass
class TrialRecording:
    """A trial under way: its run in MLflow, and the epochs reported so far."""

    spec: TrialSpec
    run_id: str  # or its token in the outbox
    title: str
    epochs: list[EpochRecord] = field(default_factory=list)


class TrialRecorder(Protocol):
    """The interface for recording a trial from its start to its end."""

    @property
    def study(self) -> RecordedStudy:
        """The study to which the trials belong."""

    def study_tags(self) -> Mapping[str, str]:
        """Return the tags of the study's own run."""

    def tag_study(self, tags: Mapping[str, str]) -> None:
        """Record tags on the study's own run."""

    def record_config(self, config: dict[str, Any]) -> None:
        """Record the study's settings, which changed after it was started."""

    def start(self, spec: TrialSpec, extra_tags: Mapping[str, str] | None = None) -> TrialRecording:
        """Record the start of a trial, with everything known before it trains."""

    def epoch(self, recording: TrialRecording, record: EpochRecord) -> None:
        """Record the metrics of an epoch."""

    def finish(self, recording: TrialRecording, result: TrialResult) -> None:
        """Record the result of a trial."""

    def fail(self, recording: TrialRecording, failed: Failed, again: bool = False) -> None:
        """Record why a trial failed.

        Args:
            again: the trial is retried; this run does not count.
        """


@dataclass(frozen=True)
class NullRecorder:
    """A TrialRecorder that writes nothing: for dry runs and reproductions, which may run beside the study's driver."""

    study: RecordedStudy
    tags: Mapping[str, str] = field(default_factory=dict)  # of the study's own run

    def study_tags(self) -> Mapping[str, str]:
        return self.tags

    def tag_study(self, tags: Mapping[str, str]) -> None:
        """Write nothing."""

    def record_config(self, config: dict[str, Any]) -> None:
        """Write nothing."""

    def start(self, spec: TrialSpec, extra_tags: Mapping[str, str] | None = None) -> TrialRecording:
        return TrialRecording(spec, "", trial_title(spec))

    def epoch(self, recording: TrialRecording, record: EpochRecord) -> None:
        recording.epochs.append(record)

    def finish(self, recording: TrialRecording, result: TrialResult) -> None:
        """Write nothing."""

    def fail(self, recording: TrialRecording, failed: Failed, again: bool = False) -> None:
        """Write nothing."""


class Recorder:
    """The TrialRecorder that writes the trials of one study to MLflow, through an outbox.

    Args:
        check: called before anything but metrics is written; raises TakenOverError once another driver has the study.
        outbox: with the same check; None: a new one, without records from earlier drivers and without messages.
        system: what this machine does while trials run; None: nothing is measured.

    Raises, from every method that writes:
        TakenOverError: as `check`.
        TrackingError: MLflow refuses a record; while MLflow merely does not answer, the outbox keeps it.
        DiskFullError: the disk is full; raised once the current record is complete, or at once if it can't be kept.
    """

    def __init__(
        self,
        tracker: Tracker,
        study: RecordedStudy,
        check: Callable[[], None] = lambda: None,
        outbox: Outbox | None = None,
        system: SystemMetrics | None = None,
    ) -> None:
        self.tracker = tracker
        self.study = study
        self.outbox = outbox or Outbox(tracker, study, check=check)
        self.origin: Mapping[str, str] = {}  # MLflow's tags of who runs what, for every run
        self._check = check
        self._system = system or SystemMetrics()
        self._code_version = code_version()

    def runs(self) -> list[RecordedRun]:
        """Return every run of the study, oldest first, once all records have arrived in MLflow.

        Raises:
            TrackingUnavailableError: MLflow did not answer within the outbox's retry policy.
        """
        return self.outbox.delivery.read(lambda: self.tracker.runs(self.study.experiment_id))

    def study_tags(self) -> Mapping[str, str]:
        return self.outbox.delivery.read(lambda: self.tracker.tags(self.study.run_id))

    def tag_study(self, tags: Mapping[str, str]) -> None:
        self.outbox.write(self.study.run_id, SetTags(tags))

    def record_config(self, config: dict[str, Any]) -> None:
        self.study = replace(self.study, config=config)
        self.tag_study(config_tags(config))

    def start(self, spec: TrialSpec, extra_tags: Mapping[str, str] | None = None) -> TrialRecording:
        """Create the trial's run, with all parameters and tags known before it trains."""
        parameters = _list_parameters(spec)
        tags = {
            Tag.KIND: spec.purpose,
            Tag.STATE: "running",
            Tag.LEVELS: json.dumps(spec.levels),
            Tag.STUDY: self.study.name,
            Tag.TRIAL: spec.key,
            Tag.TITLE: trial_title(spec),
            Tag.NUMBER: str(spec.number),
            Tag.ARCHITECTURE: spec.architecture,
            Tag.TRANSFER: str(spec.levels["transfer"]),
            Tag.WEIGHTS: str(parameters[Parameter.WEIGHTS]),
            Tag.SEED: str(spec.seed),
            Tag.DATA_DIGEST: spec.images.digest,
            Tag.CODE_VERSION: self._code_version,
            Tag.PACKAGES: json.dumps(driver_versions()),
            **self.origin,
        } | dict(extra_tags or {})
        texts = {name: str(value) for name, value in parameters.items()}
        run_id = self.outbox.start_run(StartRun(self._name_run(spec), tags, texts, spec.images))
        self._system.begin(run_id)
        return TrialRecording(spec, run_id, tags[Tag.TITLE])

    def _name_run(self, spec: TrialSpec) -> str:
        """Return the name of a trial's run; it begins with what differs, because MLflow's UI cuts it."""
        levels = recorded_factors(self.study.config, spec.architecture)
        varied = {name for name, given in levels.items() if not isinstance(given, Choices) or len(given.values) > 1}
        network = spec.architecture if len(self.study.config.get("architectures", ())) > 1 else ""
        words = [network, _describe_levels(spec, filter(varied.__contains__, FACTORS)), f"seed {spec.seed}"]
        return f"{', '.join(filter(None, words))} ({spec.key})"

    def epoch(self, recording: TrialRecording, record: EpochRecord) -> None:
        recording.epochs.append(record)
        system = {} if record.replayed else self._system.take(recording.run_id)
        self.outbox.write(recording.run_id, LogMetrics({**record.metrics, **system}, record.epoch))
        self.outbox.delivery.raise_if_disk_full()

    def finish(self, recording: TrialRecording, result: TrialResult) -> None:
        """Write plots, tables, the model, and summary and per-class metrics; the final state comes last."""
        spec, run_id = recording.spec, recording.run_id
        self._system.end(run_id)
        best = {best_name(name): value for name, value in result.summary.items()}
        best[Metric.BEST_EPOCH] = float(result.best_epoch)
        per_class = class_metrics(result.confusion, spec.images.classes, result.train_confusion)
        has_model = "model" in result.files
        metrics = {
            **({} if has_model else best),  # with a model they are logged for both
            Metric.TOTAL_SECONDS: result.seconds,
            Metric.TRAINABLE_PARAMETERS: float(result.trainable_parameters),
            Metric.FROZEN_PARAMETERS: float(result.frozen_parameters),
            **result.final,
            **class_metric_names(per_class),
        }
        with scratch_folder() as folder:
            _write_trial_files(folder, recording, result, per_class)
            self.outbox.write(run_id, LogFiles(folder))
        end = EndRun(result.state, _result_tags(recording, result), metrics, result.epochs)
        if has_model:
            model = Path(result.files["model"])
            about = {
                Tag.STUDY: self.study.name,
                Tag.TRIAL: spec.key,
                Tag.MODEL_HASH: model_files.hash_keras_file(model) or "",
            }
            self.outbox.write(run_id, LogModel(model, spec.key, best, result.epochs, spec.images, about, end))
        else:
            self.outbox.write(run_id, end)
        self.outbox.delivery.raise_if_disk_full()

    def fail(self, recording: TrialRecording, failed: Failed, again: bool = False) -> None:
        """Write the reason, the traceback as a file, and the curves so far.

        Args:
            again: the trial is retried; this run does not count.
        """
        self._system.end(recording.run_id)
        try:
            self._log_failure(recording, failed)
        except (OSError, EnvironmentTrouble):
            if failed.reason not in OUTSIDE_REASONS:
                raise
            # the cause may be a full disk, which leaves no room for files either
        tags = {
            Tag.REASON: failed.reason,
            Tag.MESSAGE: failed.message.split("\n")[0],
            **_untrained_epoch_tags(recording),
        }
        if failed.reason == "diverged":
            tags |= {Tag.VERDICT: "diverged", Tag.VERDICT_REASON: tags[Tag.MESSAGE]}
        if again:
            tags[Tag.RETRIED] = "true"
        self.outbox.write(recording.run_id, EndRun("failed", tags))
        self.outbox.delivery.raise_if_disk_full()

    def _log_failure(self, recording: TrialRecording, failed: Failed) -> None:
        with scratch_folder() as folder:
            (folder / "traceback.txt").write_text(failed.traceback, encoding="utf-8", errors="replace")
            write_spec(folder, recording.spec)
            if recording.epochs:
                from cnnstudy.analysis.trial_plots import draw_curves

                draw_curves(recording.epochs, 0, f"{recording.spec.key}  {recording.title}", folder / "curves.png")
            self.outbox.write(recording.run_id, LogFiles(folder))

    def recover_interrupted(self) -> tuple[list[RecordedRun], list[RecordedRun]]:
        """Mark trials that were stopped from outside as interrupted, and remove what they left; not the study's run.

        Only for the study's driver: no other may have trials under way. All records are delivered first, because a
        trial whose end still waits in the outbox has ended.

        Returns:
            The interrupted runs, to be run again; and all runs of the study as they are now.

        Raises:
            TrackingUnavailableError: MLflow did not answer within the outbox's retry policy.
        """
        before, decisions = self.outbox.delivery.read(self._recover)
        changed = any(decision.what == "run" for decision in decisions)
        return _interrupted_runs(before, decisions), self.runs() if changed else list(before)

    def interrupt_unfinished(self) -> list[RecordedRun]:
        """Do the same as `recover_interrupted` without waiting for MLflow, and return the interrupted runs.

        While MLflow does not answer, this recorder's runs are marked in the outbox, and none are returned.
        """
        with contextlib.suppress(CnnstudyError):  # MLflow itself may be the problem
            self.outbox.send_held()
        with contextlib.suppress(TrackingUnavailableError):
            if self.outbox.delivery.settle():
                return _interrupted_runs(*self._recover())
        self.outbox.store_interrupted_ends({Tag.REASON: INTERRUPTED})
        return []

    def _recover(self) -> tuple[Sequence[RecordedRun], list[Decision]]:
        """Return the study's runs as they were, and the decisions that were carried out."""
        self._check()
        found = inspect_study(self.tracker, self.study, "gone")
        trials = replace(found, runs=tuple(run for run in found.runs if run.kind != "study"))
        on_disk = inspect_checkpoints(self.tracker, [self.study], {found.name: found.runs})
        own = tuple(checkpoint for checkpoint in on_disk if checkpoint.study == found.name)
        decisions = decide_recovery(Leftovers((trials,), checkpoints=own))
        apply_decisions(decisions, self.tracker)
        return found.runs, decisions

    def end_study(self, state: str, tags: Mapping[str, str]) -> None:
        """Record how the study ended, and release it; never waits for MLflow."""
        last = {**tags, Tag.DRIVER: NOBODY}
        if self.outbox.delivery.has_pending:
            self.outbox.leave(self.study.run_id, EndRun(state, last))
        else:
            self.tracker.end_run(self.study.run_id, state, last)


@contextlib.contextmanager
def open_recorder(
    tracker: Tracker,
    study: RecordedStudy,
    say: Callable[[str], None],
    retry_policy: RetryPolicy | None,
    check: Callable[[], None] = lambda: None,
) -> Iterator[Recorder]:
    """Open a recorder for the study, after delivering the records that an earlier driver left behind.

    Raises:
        TrackingError: they can't be delivered.
        DiskFullError: there is no room for a record that may have to wait.
    """
    with contextlib.closing(Outbox(tracker, study, say, retry_policy, check)) as outbox, measuring_system() as system:
        outbox.delivery.read(lambda: adopt_records(tracker, study, say))
        outbox.delivery.send_stored()
        remove_abandoned_files()
        yield Recorder(tracker, study, check, outbox, system)


def trial_title(spec: TrialSpec) -> str:
    """Return a short description of the trial: `frozen, batch size 32, dropout 0.5`."""
    return _describe_levels(spec, title_factors(spec.levels))


def _describe_levels(spec: TrialSpec, names: Iterable[str]) -> str:
    """Return the trial's levels of these factors, and that its source weights are random if they are."""
    random = spec.weights_source == "random" and spec.levels["transfer"] != "scratch"
    notes = {"transfer": " (random weights)"} if random else {}
    words = {name: describe_levels(spec.levels, [name]) for name in names}
    return ", ".join(f"{text}{notes.get(name, '')}" for name, text in words.items() if text)


def _interrupted_runs(runs: Sequence[RecordedRun], decisions: Sequence[Decision]) -> list[RecordedRun]:
    ids = {decision.key for decision in decisions if decision.becomes == INTERRUPTED}
    return [run for run in runs if run.run_id in ids]


def _result_tags(recording: TrialRecording, result: TrialResult) -> dict[str, str]:
    tags = {
        Tag.PACKAGES: json.dumps({**driver_versions(), **result.versions}),
        Tag.ENDED_BY: result.ended_by,
        **_untrained_epoch_tags(recording),
        Tag.NOTE: _describe_trial(recording, result),
    }
    tables = [CONFUSION_TABLE, *([RESULT_TABLES["predictions"]] if "predictions" in result.files else [])]
    tags[Tag.TABLES] = json.dumps([{"path": path, "type": "table"} for path in tables])
    if result.checkpoint_note:
        tags[Tag.CHECKPOINT_NOTE] = result.checkpoint_note
    if result.verdict:
        tags |= {Tag.VERDICT: result.verdict, Tag.VERDICT_REASON: result.verdict_reason}
    if result.verdict_counts:
        tags |= split_into_tags(Tag.VERDICT_COUNTS, result.verdict_counts)
    if result.features:
        tags |= {Tag.FEATURES: result.features, Tag.FEATURES_NOTE: result.features_note}
    tags |= {computed_on_tag(name): value for name, value in result.computed_on.items()}
    sizes = {Tag.MICRO_BATCH: result.micro_batch, Tag.EVALUATION_BATCH: result.evaluation_batch}
    tags |= {name: str(images) for name, images in sizes.items() if images}
    if result.frozen_digest:
        tags[Tag.FROZEN_DIGEST] = result.frozen_digest
    return tags


def _describe_trial(recording: TrialRecording, result: TrialResult) -> str:
    """Return the description of a trial's run, in Markdown."""
    verdict = f"**{result.verdict}**: {result.verdict_reason}." if result.verdict else f"**{result.state}**"
    kept = f"{'The model' if 'model' in result.files else '`best_...`'} is that of epoch {result.best_epoch}"
    return (
        f"{verdict}\n\n{recording.title}; seed {recording.spec.seed}. {kept} of {result.epochs}, the best by "
        f"{recording.spec.rule.metric}; `val/accuracy` and the other curves end with the last epoch."
    )


def _untrained_epoch_tags(recording: TrialRecording) -> dict[str, str]:
    """Return the number of epochs shared with another trial, and the epoch that an earlier attempt had reached."""
    trained = [record for record in recording.epochs if record.epoch]
    shared = [record for record in trained if record.shared]
    before = [record.epoch for record in trained if record.replayed and not record.shared]
    return {
        **({Tag.SHARED_EPOCHS: str(len(shared))} if shared else {}),
        **({Tag.RESUMED_FROM_EPOCH: str(before[-1])} if before else {}),
    }


def _write_trial_files(
    folder: Path, recording: TrialRecording, result: TrialResult, per_class: list[dict[str, float | str]]
) -> None:
    from cnnstudy.analysis.trial_plots import (
        draw_confusion,
        draw_curves,  # slow: imported while the next trial trains
    )

    classes = recording.spec.images.classes
    title = f"{recording.spec.key}  {recording.title}"
    draw_curves(recording.epochs, result.best_epoch, title, folder / "curves.png")
    draw_confusion(result.confusion, classes, f"validation, {title}", folder / "confusion_matrix.png")
    write_tables(folder, classes, result, per_class)
    write_spec(folder, recording.spec)


def write_tables(
    folder: Path, classes: Sequence[str], result: TrialResult, per_class: Sequence[Mapping[str, float | str]]
) -> None:
    """Write per-class metrics, the confusion matrix as CSV and as a table, and the tables that the worker saved."""
    _write_rows(folder / "per_class.csv", list(per_class[0]), [list(row.values()) for row in per_class])
    pairs = [
        [name, predicted, images]
        for name, counts in zip(classes, result.confusion, strict=True)
        for predicted, images in zip(classes, counts, strict=True)
        if images
    ]
    table = {"columns": ["class", "predicted", "images"], "data": pairs}
    (folder / CONFUSION_TABLE).write_text(json.dumps(table), encoding="utf-8")
    rows = [[name, *counts] for name, counts in zip(classes, result.confusion, strict=True)]
    _write_rows(folder / "confusion_matrix.csv", ["true class", *classes], rows)
    for name, file in RESULT_TABLES.items():
        if name in result.files:
            shutil.copy(result.files[name], folder / file)


def write_spec(folder: Path, spec: TrialSpec) -> None:
    """Write the trial's specification as trial.json."""
    (folder / "trial.json").write_text(json.dumps(spec.to_json(), indent=2), encoding="utf-8")


def remove_trial_files(result: TrialResult) -> None:
    """Remove the files that the worker wrote; MLflow has copies."""
    for path in map(Path, result.files.values()):
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def _write_rows(path: Path, header: Sequence[object], rows: Sequence[Sequence[object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerows([escape_formula(cell) for cell in row] for row in (header, *rows))


def _list_parameters(spec: TrialSpec) -> dict[str, Any]:
    """Return everything that a trial was asked to do, as MLflow's parameters."""
    return {
        Parameter.ARCHITECTURE: spec.architecture,
        **spec.levels,
        Parameter.WEIGHTS: spec.weights_source if spec.levels["transfer"] != "scratch" else "none",
        Parameter.SEED: spec.seed,
        Parameter.IMAGE_SIZE: spec.images.size,
        Parameter.EPOCHS: spec.epochs,
        Parameter.OPTIMIZER: spec.optimizer.name,
        Parameter.WEIGHT_DECAY: spec.optimizer.weight_decay,
        Parameter.MOMENTUM: spec.optimizer.momentum if spec.optimizer.name in ("sgd", "rmsprop") else None,
        Parameter.HEAD_EPOCHS: spec.head_epochs if spec.levels["transfer"] == "two-phase" else None,
        Parameter.EARLY_STOPPING: spec.patience,
        Parameter.UPDATES: spec.updates,
        Parameter.UNTIL_TRAIN_LOSS: spec.until_train_loss,
        Parameter.VALIDATION_SHARE: spec.split.validation,
        Parameter.TEST_SHARE: spec.split.test,
        Parameter.SPLIT_SEED: spec.split.seed,
        Parameter.BLOCK: spec.block,
        Parameter.DETERMINISTIC: spec.deterministic,
        Parameter.PRECISION: spec.precision,
        Parameter.XLA: "auto" if spec.xla is None else spec.xla,
        Parameter.DATA: spec.images.name,
        Parameter.CLASSES: len(spec.images.classes),
        Parameter.TRAIN_IMAGES: sum(spec.images.train),
        Parameter.USED_TRAIN_IMAGES: count_train_images(spec.levels, spec.images),
        Parameter.VALIDATION_IMAGES: sum(spec.images.validation),
    }
