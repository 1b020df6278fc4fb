"""One trial from its specification to its result."""

from __future__ import annotations

import math
import platform
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import keras

from cnnstudy.architectures import Network
from cnnstudy.data.decoder_pool import Progress
from cnnstudy.data.images import TrainingImages, load_for_training
from cnnstudy.names import Metric, equal_updates_name, last_name
from cnnstudy.records import EpochRecord, TrialResult, TrialSpec
from cnnstudy.training import checkpoints, devices, metrics, model_package, transfer, weights
from cnnstudy.training.checkpoints import Checkpoints
from cnnstudy.training.compiled import CompiledNetwork, CompiledNetworks
from cnnstudy.training.metrics import confusion_matrix, curve_metrics
from cnnstudy.training.phases import PhaseRunner, Report
from cnnstudy.training.shared_epochs import SharedEpochs
from cnnstudy.training.trainer import BestEpoch, DivergedError, Trainer
from cnnstudy.training.transfer import Phase
from cnnstudy.training.verdict import judge


def run_trial(
    spec: TrialSpec,
    folder: Path,
    report: Report,
    networks: CompiledNetworks | None = None,
    progress: Progress = lambda what, done, total: None,
) -> TrialResult:
    """Train one network and leave its files in `folder`; from its checkpoint on, if an earlier try left one,
    or from what it shares with another trial.

    Args:
        networks: what earlier trials have compiled; the trial's result does not depend on it.
        progress: told of what comes before the first epoch, and of batches that do not fit into memory.

    Raises:
        DataError, WeightsError: what the trial needs is gone.
        DivergedError: the loss is no longer finite.
    """
    networks = CompiledNetworks() if networks is None else networks
    try:
        return _run(spec, folder, report, networks, progress)
    except DivergedError:
        raise
    except Exception:
        networks.clear()  # out of memory perhaps; the next trial starts with nothing
        raise


def _run(spec: TrialSpec, folder: Path, report: Report, networks: CompiledNetworks, progress: Progress) -> TrialResult:
    compiled = networks.start(spec)
    compiled.micro_batches.tell = lambda what: progress(what, 0, 0)
    network = compiled.network
    phases, begun_with = transfer.plan_phases(spec, dict(network.architecture.cut_points)), _begun_with(compiled, spec)
    kept = Checkpoints(spec, begun_with, lambda text: progress(text, 0, 0))
    computed_on = devices.describe_device(spec)
    prefixes = SharedEpochs(spec, phases, begun_with, computed_on, lambda text: progress(text, 0, 0))
    trainer = Trainer(compiled, load_images(spec), spec)
    always_frozen = _frozen_in_all_phases(network, phases)
    best = BestEpoch(spec, [layer for layer in network.logits.layers if layer not in always_frozen])
    frozen_before = compiled.start_digests(always_frozen)
    course = PhaseRunner(trainer, best, phases, kept, prefixes, computed_on)
    course.run(report, progress)
    last, last_full = trainer.latest, trainer.measure_full_train()
    assert last is not None  # a trial has an epoch at least
    best.restore()
    state = "pruned" if course.ended_by == "pruner" else "finished"
    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(1) as beside:  # one thread writes while the others measure
        saving = beside.submit(_save, network, spec, folder) if state == "finished" and spec.keep_model else None
        if best.epoch != trainer.epoch:
            restored, full = trainer.measure(), trainer.measure_full_train()
        else:
            restored, full = last, last_full
        _check_restored(restored.metrics, course.records[best.epoch - 1])
        frozen_after = _digests_as_before(always_frozen, frozen_before)
        seconds = kept.seconds  # of training: to wait for the model's file is none of it
        model = saving.result() if saving is not None else {}
    compiled.keep(frozen_after)
    trained_parameters = sum(math.prod(variable.shape) for variable in network.inference.trainable_variables)
    summary = {**restored.metrics, **full}
    matrix = confusion_matrix(restored.validation, restored.validation_labels)
    verdict = judge(
        summary[Metric.TRAIN_ACCURACY],
        len(trainer.images.probe),
        summary[Metric.VAL_ACCURACY],
        [sum(row) for row in matrix],
    )
    equal_updates = trainer.at_equal_updates.metrics if trainer.at_equal_updates else {}
    metrics.save_correctness(folder / "correctness.npz", trainer.images, restored, last)
    return TrialResult(
        state=state,
        best_epoch=best.epoch,
        epochs=trainer.epoch,
        seconds=seconds,
        summary=summary,
        final={
            **{last_name(name): value for name, value in (last.metrics | last_full).items()},
            **{equal_updates_name(name): value for name, value in equal_updates.items()},
            **curve_metrics(course.records),
        },
        ended_by=course.ended_by,
        confusion=matrix,
        trainable_parameters=trained_parameters,
        frozen_parameters=network.inference.count_params() - trained_parameters,
        frozen_digest=weights.combined_digest(frozen_after) if frozen_after else None,
        verdict=verdict.name,
        verdict_reason=verdict.reason,
        train_confusion=confusion_matrix(restored.train, restored.train_labels),
        features=" then ".join(dict.fromkeys(source.what for source in course.sources)),
        features_note="; ".join(dict.fromkeys(source.why for source in course.sources)),
        shared_epochs=sum(record.shared for record in course.records),
        checkpoint_note="; ".join(kept.notes),
        files={"correctness": str(folder / "correctness.npz"), **model},
        versions={"python": platform.python_version(), **model_package.model_versions()},
        computed_on=computed_on,
        micro_batch=trainer.micro_batch,
        evaluation_batch=compiled.micro_batches.at_once["evaluation"],
    )


def _begun_with(compiled: CompiledNetwork, spec: TrialSpec) -> str:
    unasked = spec.checkpoints == checkpoints.NONE and not spec.share_epochs
    if unasked or spec.weights_file is None or spec.levels["transfer"] == "scratch":
        return ""
    return weights.combined_digest(compiled.start_digests(weights.backbone_layers(compiled.network.logits)))


def _check_restored(restored: dict[str, float], recorded: EpochRecord) -> None:
    """The restored weights must give what was measured when they were kept."""
    before, after = recorded.metrics[Metric.VAL_LOSS], restored[Metric.VAL_LOSS]
    if abs(before - after) > devices.numeric_tolerance() * max(1.0, before):
        raise RuntimeError(
            f"the weights kept at epoch {recorded.epoch} gave a validation loss of {before:.5f} and give {after:.5f} "
            "now that they are restored; please report this with the study file"
        )


def _digests_as_before(frozen: Sequence[keras.layers.Layer], before: dict[str, str]) -> dict[str, str]:
    """Of the layers, which training must have left as they were."""
    after = weights.layer_digests(frozen)
    if after != before:
        raise RuntimeError("weights that were frozen have changed in training; please report this with the study file")
    return after


def load_images(spec: TrialSpec) -> TrainingImages:
    """What the trial trains on and is measured on."""
    levels = spec.levels
    return load_for_training(
        spec.images,
        spec.split,
        float(levels["data_fraction"]),
        spec.block,
        float(levels["shuffled_labels"]),
        spec.seed,
    )


def _frozen_in_all_phases(network: Network, phases: Sequence[Phase]) -> list[keras.layers.Layer]:
    frozen = [{layer.name for layer in transfer.apply_phase(network, phase)} for phase in phases]
    return [layer for layer in network.logits.layers if layer.name in set.intersection(*frozen)]


def _save(network: Network, spec: TrialSpec, folder: Path) -> dict[str, str]:
    model_package.save_model(network.inference, folder / "model", spec.images.classes)
    files = {"model": str(folder / "model")}
    if spec.purpose == "pretrain":
        weights.save_backbone(network, folder / "backbone.npz")
        files["backbone"] = str(folder / "backbone.npz")
    return files
