"""Run one trial, from its specification to its result."""

from __future__ import annotations

import math
import platform
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from cnnstudy.architectures import Network
from cnnstudy.data.decoder_pool import Progress
from cnnstudy.data.images import TrainingImages, load_for_training
from cnnstudy.names import Metric, crossed_name, equal_updates_name, last_name
from cnnstudy.records import RESULT_TABLES, EpochRecord, TrialResult, TrialSpec
from cnnstudy.training import checkpoints, devices, image_tables, metrics, model_package, transfer, weights
from cnnstudy.training.checkpoints import TrialCheckpoints
from cnnstudy.training.compiled import CompiledNetwork, CompiledNetworks
from cnnstudy.training.cross_fit import CrossFitted, cross_fit
from cnnstudy.training.metrics import FullTrain, Measurement, confusion_matrix, curve_metrics
from cnnstudy.training.phases import PhaseRunner, Report
from cnnstudy.training.shared_epochs import SharedEpochs
from cnnstudy.training.trainer import BestEpoch, DivergedError, Trainer
from cnnstudy.training.transfer import Phase
from cnnstudy.training.verdict import Counts, count_right, judge


def run_trial(
    spec: TrialSpec,
    folder: Path,
    report: Report,
    networks: CompiledNetworks | None = None,
    progress: Progress = lambda what, done, total: None,
) -> TrialResult:
    """Train one network and write its files to `folder`.

    Training resumes from the trial's checkpoint if an earlier attempt left one, or from epochs shared with another
    trial.

    Args:
        networks: networks compiled by earlier trials; the trial's result does not depend on them.
        progress: called with what happens before the first epoch, and when a batch does not fit into memory.

    Raises:
        DataError, WeightsError: images or source weights that the trial needs are gone.
        DivergedError: the loss is no longer finite.
    """
    networks = CompiledNetworks() if networks is None else networks
    try:
        return _run(spec, folder, report, networks, progress)
    except DivergedError:
        raise
    except Exception:
        networks.clear()  # perhaps out of memory: the next trial starts with all of it
        raise


def load_images(spec: TrialSpec) -> TrainingImages:
    """Return the images that the trial trains on and is measured on."""
    levels = spec.levels
    return load_for_training(
        spec.images,
        spec.split,
        float(levels["data_fraction"]),
        spec.block,
        float(levels["shuffled_labels"]),
        spec.seed,
    )


def _run(spec: TrialSpec, folder: Path, report: Report, networks: CompiledNetworks, progress: Progress) -> TrialResult:
    trial = _set_up(spec, networks, progress)
    trial.runner.run(report, progress)
    measured = _measure(trial, folder)
    trial.compiled.keep(measured.frozen_digests)
    return _build_result(trial, measured, folder)


@dataclass(frozen=True)
class _Trial:
    """A trial that is ready to train.

    Args:
        frozen_layers: those that train in no phase.
        frozen_digests: of these layers, before training.
    """

    spec: TrialSpec
    compiled: CompiledNetwork
    trainer: Trainer
    best: BestEpoch
    checkpoints: TrialCheckpoints
    runner: PhaseRunner
    frozen_layers: Sequence[keras.layers.Layer]
    frozen_digests: dict[str, str]
    computed_on: dict[str, str]

    @property
    def state(self) -> str:
        """As in TrialResult, "pruned" or "finished"; known after training."""
        return "pruned" if self.runner.ended_by == "pruner" else "finished"


def _set_up(spec: TrialSpec, networks: CompiledNetworks, progress: Progress) -> _Trial:
    def note(text: str) -> None:
        progress(text, 0, 0)

    compiled = networks.start(spec)
    compiled.micro_batches.tell = note
    network = compiled.network
    phases = transfer.plan_trial(spec, network)
    source_digest = _digest_source(compiled, spec)
    trial_checkpoints = TrialCheckpoints(spec, source_digest, note)
    computed_on = devices.describe_device(spec)
    shared_epochs = SharedEpochs(spec, phases, source_digest, computed_on, note)
    trainer = Trainer(compiled, load_images(spec), spec)
    frozen_layers = _find_always_frozen(network, phases)
    best = BestEpoch(spec, [layer for layer in network.logits.layers if layer not in frozen_layers])
    return _Trial(
        spec=spec,
        compiled=compiled,
        trainer=trainer,
        best=best,
        checkpoints=trial_checkpoints,
        runner=PhaseRunner(trainer, best, phases, trial_checkpoints, shared_epochs, computed_on),
        frozen_layers=frozen_layers,
        frozen_digests=compiled.start_digests(frozen_layers),
        computed_on=computed_on,
    )


def _digest_source(compiled: CompiledNetwork, spec: TrialSpec) -> str:
    """Return a digest of the source weights that the trial starts from; "" if it has none, or no file needs it."""
    needed = spec.checkpoints != checkpoints.NONE or spec.share_epochs
    if not needed or spec.weights_file is None or spec.levels["transfer"] == "scratch":
        return ""
    return weights.combined_digest(compiled.start_digests(weights.backbone_layers(compiled.network.logits)))


def _find_always_frozen(network: Network, phases: Sequence[Phase]) -> list[keras.layers.Layer]:
    frozen = [{layer.name for layer in transfer.apply_phase(network, phase)} for phase in phases]
    return [layer for layer in network.logits.layers if layer.name in set.intersection(*frozen)]


@dataclass(frozen=True)
class _Measured:
    """What is measured after training: with the last epoch's weights, and with the best epoch's restored.

    Args:
        last_full, restored_full: of all training images.
        seconds: of training; does not include the wait for the model's file.
        model_files: paths by artifact name; empty if no model is kept.
    """

    last: Measurement
    last_full: FullTrain
    restored: Measurement
    restored_full: FullTrain
    frozen_digests: dict[str, str]
    seconds: float
    model_files: dict[str, str]


def _measure(trial: _Trial, folder: Path) -> _Measured:
    spec, trainer, best, network = trial.spec, trial.trainer, trial.best, trial.compiled.network
    last, last_full = trainer.latest, trainer.measure_full_train()
    assert last is not None  # a trial has at least one epoch
    best.restore()
    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(1) as thread:  # writes the model while this thread measures
        keep_model = trial.state == "finished" and spec.keep_model
        saving = thread.submit(_save_model_files, network, spec, folder) if keep_model else None
        if best.epoch != trainer.epoch:
            restored, restored_full = trainer.measure(), trainer.measure_full_train()
        else:
            restored, restored_full = last, last_full
        _check_restored(restored.metrics, trial.runner.records[best.epoch - 1])
        frozen_digests = _check_frozen(trial.frozen_layers, trial.frozen_digests)
        seconds = trial.checkpoints.seconds
        model_files = saving.result() if saving is not None else {}
    return _Measured(last, last_full, restored, restored_full, frozen_digests, seconds, model_files)


def _check_restored(restored: dict[str, float], recorded: EpochRecord) -> None:
    """Raise RuntimeError if the restored weights do not give the loss measured when they were stored."""
    before, after = recorded.metrics[Metric.VAL_LOSS], restored[Metric.VAL_LOSS]
    if abs(before - after) > devices.numeric_tolerance() * max(1.0, before):
        raise RuntimeError(
            f"the weights kept at epoch {recorded.epoch} had a validation loss of {before:.5f}, but {after:.5f} after "
            "they were restored; please report this with the study file"
        )


def _check_frozen(frozen: Sequence[keras.layers.Layer], before: dict[str, str]) -> dict[str, str]:
    """Return the digests of the frozen layers; raise RuntimeError if training changed them."""
    after = weights.layer_digests(frozen)
    if after != before:
        raise RuntimeError("training changed weights that were frozen; please report this with the study file")
    return after


def _save_model_files(network: Network, spec: TrialSpec, folder: Path) -> dict[str, str]:
    model_package.save_model(network.inference, folder / "model", spec.images.classes)
    files = {"model": str(folder / "model")}
    if spec.purpose == "pretrain":
        weights.save_backbone(network, folder / "backbone.npz")
        files["backbone"] = str(folder / "backbone.npz")
    return files


def _build_result(trial: _Trial, measured: _Measured, folder: Path) -> TrialResult:
    trainer, runner, inference = trial.trainer, trial.runner, trial.compiled.network.inference
    last, restored = measured.last, measured.restored
    summary = {**restored.metrics, **measured.restored_full.metrics}
    matrix = confusion_matrix(restored.validation, restored.validation_labels)
    train_matrix = confusion_matrix(restored.train, restored.train_labels)
    crossed = _cross_fit(trial)
    right, images = count_right(matrix)
    if crossed is not None:
        right = crossed.count_right(len(images))
    counts = Counts(*count_right(measured.restored_full.confusion), right, images)
    verdict = judge(*counts)
    trainable = sum(math.prod(variable.shape) for variable in inference.trainable_variables)
    tables = {name: folder / file for name, file in RESULT_TABLES.items()}
    metrics.save_correctness(tables["correctness"], trainer.images, restored, last, trainer.correct_by_epoch)
    fitted_with = ["scikit-learn"] if trial.spec.fits_head else []
    image_tables.write_split(tables["split"], trial.spec, trainer.images)
    image_tables.write_predictions(tables["predictions"], trial.spec, trainer.images, restored)
    return TrialResult(
        state=trial.state,
        best_epoch=trial.best.epoch,
        epochs=trainer.epoch,
        seconds=measured.seconds,
        summary=summary,
        final=_final_metrics(trial, measured, crossed),
        ended_by=runner.ended_by,
        confusion=matrix,
        trainable_parameters=trainable,
        frozen_parameters=inference.count_params() - trainable,
        frozen_digest=weights.combined_digest(measured.frozen_digests) if measured.frozen_digests else None,
        verdict=verdict.name,
        verdict_reason=verdict.reason,
        verdict_counts=counts._asdict(),
        train_confusion=train_matrix,
        features=" then ".join(dict.fromkeys(source.what for source in runner.sources)),
        features_note="; ".join(dict.fromkeys(source.why for source in runner.sources)),
        shared_epochs=sum(record.shared for record in runner.records),
        checkpoint_note="; ".join(trial.checkpoints.notes),
        files={**{name: str(file) for name, file in tables.items()}, **measured.model_files},
        versions={"python": platform.python_version(), **model_package.model_versions(*fitted_with)},
        computed_on=trial.computed_on,
        micro_batch=trainer.micro_batch,
        evaluation_batch=trial.compiled.micro_batches.at_once["evaluation"],
    )


def _final_metrics(trial: _Trial, measured: _Measured, crossed: CrossFitted | None) -> dict[str, float]:
    at_equal_updates = trial.trainer.at_equal_updates
    return {
        **{last_name(name): value for name, value in (measured.last.metrics | measured.last_full.metrics).items()},
        **{
            equal_updates_name(name): value
            for name, value in (at_equal_updates.metrics if at_equal_updates else {}).items()
        },
        **curve_metrics(trial.runner.records),
        **{crossed_name(name): value for name, value in (crossed.metrics if crossed else {}).items()},
    }


def _cross_fit(trial: _Trial) -> CrossFitted | None:
    """Return the best epoch's right answers that its choice does not flatter."""
    images, by_epoch = trial.trainer.images, trial.trainer.correct_by_epoch
    probe, validation = (
        np.unpackbits(np.stack(by_epoch[part]), axis=1, count=len(of_part)).astype(bool)
        for part, of_part in zip(metrics.MEASURED_PARTS, (images.probe, images.validation), strict=True)
    )
    validated = images.validation
    return cross_fit(probe, images.probe.labels, validation, validated.labels, trial.spec.rule, groups=validated.groups)
