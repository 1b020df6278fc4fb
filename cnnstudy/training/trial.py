"""One trial from its specification to its result."""

from __future__ import annotations

import gc
import platform
import time
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np

from cnnstudy import architectures
from cnnstudy.architectures import Network
from cnnstudy.records import EpochRecord, TrialResult, TrialSpec
from cnnstudy.training import package, transfer, weights
from cnnstudy.training.images import load_for_training
from cnnstudy.training.loop import Trainer
from cnnstudy.training.metrics import confusion
from cnnstudy.training.verdict import judge

#: Told of each epoch; false means: prune.
Report = Callable[[EpochRecord], bool]


def run_trial(spec: TrialSpec, folder: Path, report: Report) -> TrialResult:
    """Train one network and leave its files in `folder`.

    Raises:
        DataError, WeightsError: what the trial needs is gone.
        DivergedError: the loss is no longer finite.
    """
    keras.utils.clear_session(free_memory=False)
    gc.collect()
    started = time.perf_counter()
    network = build(spec)
    trainer = Trainer(network, load_for_training(spec.images, spec.split, float(spec.levels["data_fraction"])), spec)
    best = _Best(spec, network)
    state = "finished"
    always_frozen = _frozen_in_all_phases(network, spec)
    frozen_before = weights.digest(always_frozen) if always_frozen else None
    for phase in transfer.phases(spec, dict(network.architecture.cut_points)):
        frozen = transfer.apply(network, phase)
        trainer.start_phase(phase)
        for _ in range(phase.epochs):
            record = trainer.run_epoch()
            best.offer(record)
            # after its last epoch there is nothing left to save
            if not report(record) and record.epoch < spec.epochs:
                state = "pruned"
            if state == "pruned" or best.is_long_ago(record.epoch):
                break
        if state == "pruned":
            break
    best.restore()
    frozen_after = weights.digest(always_frozen) if always_frozen else None
    if frozen_before != frozen_after:
        raise RuntimeError("weights that were frozen have changed in training; please report this with the study file")
    parameters = {layer.name: layer.count_params() for layer in network.inference.layers}
    frozen_parameters = sum(parameters[layer.name] for layer in frozen)
    validation = trainer.images.validation
    summary = {**trainer.measure(trainer.images.probe), **trainer.measure_full_train()}
    matrix = confusion(trainer.logits(validation), validation.labels)
    verdict = judge(
        summary["train/accuracy"], len(trainer.images.probe), summary["val/accuracy"], [sum(row) for row in matrix]
    )
    return TrialResult(
        state=state,
        best_epoch=best.epoch,
        epochs=trainer.epoch,
        seconds=time.perf_counter() - started,
        summary=summary,
        confusion=matrix,
        trainable_parameters=sum(parameters.values()) - frozen_parameters,
        frozen_parameters=frozen_parameters,
        frozen_digest=frozen_after,
        verdict=verdict.name,
        verdict_reason=verdict.reason,
        files=_save(network, spec, folder) if state == "finished" else {},
        versions={"python": platform.python_version(), **package.versions()},
    )


def build(spec: TrialSpec) -> Network:
    """The network with the weights that the trial starts from."""
    network = architectures.build_network(
        architectures.find(spec.architecture),
        spec.images.size,
        len(spec.images.classes),
        float(spec.levels["dropout"]),
        float(spec.levels.get("auxiliary_dropout", 0.0)),
    )
    weights.initialise(network, spec.seed)
    if spec.weights_file is not None and spec.levels["transfer"] != "scratch":
        weights.load_backbone(network, Path(spec.weights_file))
    return network


def _frozen_in_all_phases(network: Network, spec: TrialSpec) -> list[keras.layers.Layer]:
    phases = transfer.phases(spec, dict(network.architecture.cut_points))
    frozen = [{layer.name for layer in transfer.apply(network, phase)} for phase in phases]
    return [layer for layer in network.logits.layers if layer.name in set.intersection(*frozen)]


def _save(network: Network, spec: TrialSpec, folder: Path) -> dict[str, str]:
    folder.mkdir(parents=True, exist_ok=True)
    package.save(network.inference, folder / "model")
    files = {"model": str(folder / "model")}
    if spec.purpose == "pretrain":
        weights.save_backbone(network, folder / "backbone.npz")
        files["backbone"] = str(folder / "backbone.npz")
    return files


class _Best:
    """The best epoch so far, and its weights."""

    def __init__(self, spec: TrialSpec, network: Network) -> None:
        self.spec = spec
        self.network = network
        self.epoch = 0
        self._rank = (-np.inf, -np.inf)
        self._weights: list[np.ndarray] = []

    def offer(self, record: EpochRecord) -> None:
        """Keep the epoch if it is better: by the monitor, and between equals by validation loss."""
        value = record.metrics[self.spec.monitor]
        rank = (value if self.spec.monitor == "val/accuracy" else -value, -record.metrics["val/loss"])
        if rank > self._rank:
            self._rank, self.epoch = rank, record.epoch
            self._weights = self.network.logits.get_weights()

    def is_long_ago(self, epoch: int) -> bool:
        return self.spec.patience is not None and epoch - self.epoch >= self.spec.patience

    def restore(self) -> None:
        self.network.logits.set_weights(self._weights)
