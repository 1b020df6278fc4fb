"""One trial from its specification to its result."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np

from cnnstudy.architectures import Network
from cnnstudy.records import EpochRecord, TrialResult, TrialSpec
from cnnstudy.training import checkpoints, correctness, devices, package, resumption, transfer, weights
from cnnstudy.training.checkpoints import Checkpoints
from cnnstudy.training.compiled import CompiledNetwork, CompiledNetworks
from cnnstudy.training.decoding import Progress
from cnnstudy.training.features import Source, source_of
from cnnstudy.training.images import TrainingImages, load_for_training
from cnnstudy.training.loop import DivergedError, Trainer
from cnnstudy.training.metrics import confusion
from cnnstudy.training.milestones import milestones
from cnnstudy.training.transfer import Phase
from cnnstudy.training.verdict import judge

#: Told of each epoch; false means: prune. Of those that an earlier try trained it is told first, and nothing is pruned.
Report = Callable[[EpochRecord], bool]


def run_trial(
    spec: TrialSpec,
    folder: Path,
    report: Report,
    networks: CompiledNetworks | None = None,
    progress: Progress = lambda what, done, total: None,
) -> TrialResult:
    """Train one network and leave its files in `folder`; from its checkpoint on, if an earlier try left one.

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
    kept = Checkpoints(spec, _begun_with(compiled, spec), lambda text: progress(text, 0, 0))
    trainer = Trainer(compiled, load_images(spec), spec)
    always_frozen = _frozen_in_all_phases(network, spec)
    best = _Best(spec, [layer for layer in network.logits.layers if layer not in always_frozen])
    frozen_before = compiled.start_digests(always_frozen)
    sources: list[Source] = []
    records, ended_by = _train(trainer, best, report, sources, progress, kept)
    last, last_full = trainer.latest, trainer.measure_full_train()
    assert last is not None  # a trial has an epoch at least
    best.restore()
    restored, full = last, last_full
    if best.epoch != trainer.epoch:
        restored, full = trainer.measure(), trainer.measure_full_train()
    _check_restored(restored.metrics, records[best.epoch - 1])
    trainer.check_features()
    frozen_after = weights.digests(always_frozen)
    if frozen_before != frozen_after:
        raise RuntimeError("weights that were frozen have changed in training; please report this with the study file")
    compiled.keep(frozen_after)
    parameters = {layer.name: layer.count_params() for layer in network.inference.layers}
    frozen_now = weights.backbone_layers(network.logits)
    frozen_parameters = sum(parameters[layer.name] for layer in frozen_now if not layer.trainable)
    summary = {**restored.metrics, **full}
    matrix = confusion(restored.validation, restored.validation_labels)
    verdict = judge(
        summary["train/accuracy"], len(trainer.images.probe), summary["val/accuracy"], [sum(row) for row in matrix]
    )
    state = "pruned" if ended_by == "pruner" else "finished"
    folder.mkdir(parents=True, exist_ok=True)
    correctness.save(folder / "correctness.npz", trainer.images, restored, last)
    return TrialResult(
        state=state,
        best_epoch=best.epoch,
        epochs=trainer.epoch,
        seconds=kept.seconds,
        summary=summary,
        final={
            **_named("last", {**last.metrics, **last_full}),
            **_named("equal_updates", trainer.at_equal_updates.metrics if trainer.at_equal_updates else {}),
            **milestones(records),
        },
        ended_by=ended_by,
        confusion=matrix,
        trainable_parameters=sum(parameters.values()) - frozen_parameters,
        frozen_parameters=frozen_parameters,
        frozen_digest=weights.digest(frozen_after) if frozen_after else None,
        verdict=verdict.name,
        verdict_reason=verdict.reason,
        train_confusion=confusion(restored.train, restored.train_labels),
        features=" then ".join(dict.fromkeys(source.what for source in sources)),
        features_note="; ".join(dict.fromkeys(source.why for source in sources)),
        checkpoint_note="; ".join(kept.notes),
        files={
            "correctness": str(folder / "correctness.npz"),
            **(_save(network, spec, folder) if state == "finished" and spec.keep_model else {}),
        },
        versions={"python": platform.python_version(), **package.versions()},
        computed_on=devices.computed_on(spec),
        micro_batch=compiled.micro_batches.at_once["training"],
        evaluation_batch=compiled.micro_batches.at_once["evaluation"],
    )


def _train(
    trainer: Trainer, best: _Best, report: Report, sources: list[Source], progress: Progress, kept: Checkpoints
) -> tuple[list[EpochRecord], str]:
    """Run the epochs of every phase; their records, and what ended them. `sources` gets what each phase trained on."""
    spec, network, ended_by = trainer.spec, trainer.compiled.network, "epochs"
    phases = transfer.phases(spec, dict(network.architecture.cut_points))

    def start(phase: Phase) -> None:
        transfer.apply(network, phase)
        sources.append(source_of(trainer.compiled, spec, phase, progress))
        trainer.start_phase(phase, sources[-1].features)

    (first, done), records = _go_on(trainer, best, phases, start, sources, kept)
    if records:
        progress("epochs that were trained before", len(records), spec.epochs)
    for record in records:
        report(replace(record, replayed=True))
    for index, phase in enumerate(phases[first:], first):
        if not done:
            start(phase)
        ended_by = "epochs"
        for number in range(done + 1, phase.epochs + 1):
            record = trainer.run_epoch()
            records.append(record)
            best.offer(record)
            go_on = report(record)
            if trainer.spent:
                return records, "updates"
            if spec.until_train_loss is not None and record.metrics["train/loss"] <= spec.until_train_loss:
                return records, "train loss"
            # after its last epoch there is nothing left to save
            if not go_on and record.epoch < spec.epochs:
                return records, "pruner"
            stops = best.is_long_ago(record.epoch) and number < phase.epochs
            at = (index + 1, 0) if stops or number == phase.epochs else (index, number)
            if sum(phase.epochs for phase in phases[at[0] :]) > at[1]:
                resumption.keep(kept, trainer, best, phases, at, records, sources)
            if stops:
                ended_by = "early stopping"  # of this phase; the next one may still gain
                break
        done = 0
    return records, ended_by


def _go_on(
    trainer: Trainer,
    best: _Best,
    phases: Sequence[Phase],
    start: Callable[[Phase], None],
    sources: list[Source],
    kept: Checkpoints,
) -> tuple[tuple[int, int], list[EpochRecord]]:
    """Where the trial begins: the phase, from 0, and how many of its epochs are done; and the records before that."""
    found = kept.read()
    if found is None:
        return (0, 0), []
    reached = found.reached
    if reached.done:
        start(phases[reached.phase])
    if not resumption.restore(found, trainer, best, phases):
        kept.note("the checkpoint does not fit the trial")
        sources.clear()
        return (0, 0), []
    kept.take_up(reached)
    sources[:0] = [Source(None, *source) for source in reached.sources]
    return (reached.phase, reached.done), list(reached.records)


def _begun_with(compiled: CompiledNetwork, spec: TrialSpec) -> str:
    if spec.checkpoints == checkpoints.NONE or spec.weights_file is None or spec.levels["transfer"] == "scratch":
        return ""
    return weights.digest(compiled.start_digests(weights.backbone_layers(compiled.network.logits)))


def _named(prefix: str, metrics: dict[str, float]) -> dict[str, float]:
    return {f"{prefix}/{name.replace('/', '_')}": value for name, value in metrics.items()}


def _check_restored(restored: dict[str, float], recorded: EpochRecord) -> None:
    """The restored weights must give what was measured when they were kept."""
    before, after = recorded.metrics["val/loss"], restored["val/loss"]
    if abs(before - after) > 1e-3 * max(1.0, before):
        raise RuntimeError(
            f"the weights kept at epoch {recorded.epoch} gave a validation loss of {before:.5f} and give {after:.5f} "
            "now that they are restored; please report this with the study file"
        )


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


def _frozen_in_all_phases(network: Network, spec: TrialSpec) -> list[keras.layers.Layer]:
    phases = transfer.phases(spec, dict(network.architecture.cut_points))
    frozen = [{layer.name for layer in transfer.apply(network, phase)} for phase in phases]
    return [layer for layer in network.logits.layers if layer.name in set.intersection(*frozen)]


def _save(network: Network, spec: TrialSpec, folder: Path) -> dict[str, str]:
    package.save(network.inference, folder / "model", spec.images.classes)
    files = {"model": str(folder / "model")}
    if spec.purpose == "pretrain":
        weights.save_backbone(network, folder / "backbone.npz")
        files["backbone"] = str(folder / "backbone.npz")
    return files


class _Best:
    """The best epoch so far, and its weights: those of layers that train at some time."""

    def __init__(self, spec: TrialSpec, layers: list[keras.layers.Layer]) -> None:
        self.spec = spec
        self.variables = [variable for layer in layers for variable in layer.weights]
        self.epoch = 0
        self._rank: tuple[float, ...] = (-np.inf,) * 3
        self._weights: list[np.ndarray] = []

    def offer(self, record: EpochRecord) -> None:
        """Keep the epoch if it is better."""
        rank = self.spec.rule.rank(record.metrics)
        if rank > self._rank:
            self._rank, self.epoch = rank, record.epoch
            self._weights = self.now()

    def is_long_ago(self, epoch: int) -> bool:
        return self.spec.patience is not None and epoch - self.epoch >= self.spec.patience

    def restore(self) -> None:
        for variable, kept in zip(self.variables, self._weights, strict=True):
            variable.assign(kept)

    def now(self) -> list[np.ndarray]:
        return [variable.numpy() for variable in self.variables]

    def kept(self) -> tuple[int, tuple[float, ...], list[np.ndarray]]:
        return self.epoch, self._rank, self._weights

    def take_up(self, epoch: int, rank: tuple[float, ...], weights: list[np.ndarray]) -> None:
        self.epoch, self._rank, self._weights = epoch, rank, weights
