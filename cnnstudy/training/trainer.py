"""Epochs: updates on shuffled batches, then clean metrics on the probe and on all of validation.

Batches are cut from arrays in memory. No tf.data: its autotuner can wait up to seconds at the end of a pass, and passes
with a fixed number of steps see other images with every batch size.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import keras
import numpy as np
import tensorflow as tf

from cnnstudy.data.batches import Batches, evaluation_batch_size, legacy_validation_indices
from cnnstudy.data.images import Images, TrainingImages
from cnnstudy.names import Metric
from cnnstudy.records import EpochRecord, TrialSpec
from cnnstudy.system.cache import cache_folder
from cnnstudy.training import devices
from cnnstudy.training.compiled import CompiledNetwork, UpdateKind
from cnnstudy.training.features import Features
from cnnstudy.training.metrics import Measurement, clean_metrics
from cnnstudy.training.micro_batches import is_out_of_memory
from cnnstudy.training.transfer import Phase
from cnnstudy.training.updates import AT_ONCE


class BestEpoch:
    """By the trial's rule; of two that are alike the earlier one.

    Args:
        layers: those that train at some time.
    """

    def __init__(self, spec: TrialSpec, layers: Sequence[keras.layers.Layer]) -> None:
        self.spec = spec
        self.variables = {f"{layer.name}/{n}": variable for layer in layers for n, variable in enumerate(layer.weights)}
        self.epoch = 0
        self.rank: tuple[float, ...] = (-np.inf,) * 3
        self.weights: Mapping[str, np.ndarray] = {}

    def offer(self, record: EpochRecord) -> None:
        """Keep the epoch if it is better."""
        rank = self.spec.rule.rank(record.metrics)
        if rank > self.rank:
            self.take_up(record.epoch, rank, self.now())

    def is_long_ago(self, epoch: int) -> bool:
        """Whether early stopping ends the phase after that epoch."""
        return self.spec.patience is not None and epoch - self.epoch >= self.spec.patience

    def restore(self) -> None:
        """Give the network the best epoch's weights."""
        for name, variable in self.variables.items():
            variable.assign(self.weights[name])

    def now(self) -> dict[str, np.ndarray]:
        """The weights of this moment, by `<layer>/<number>`."""
        return {name: variable.numpy() for name, variable in self.variables.items()}

    def take_up(self, epoch: int, rank: tuple[float, ...], weights: Mapping[str, np.ndarray]) -> None:
        """That epoch is the best one so far."""
        self.epoch, self.rank, self.weights = epoch, rank, weights


Item = TypeVar("Item")
Batch = tuple[np.ndarray, ...]


def prefetch_one(
    items: Iterable[Item], batch_of: Callable[[Item], Batch], device: str | None
) -> Iterator[tuple[Item, tuple[Any, ...]]]:
    """Each item with its batch, in order; the next batch is made and sent to the device in a thread meanwhile.

    Args:
        device: TensorFlow's name of it; None: batches are made when they are asked for, and stay arrays.
    """
    if device is None:
        yield from ((item, batch_of(item)) for item in items)
        return
    with ThreadPoolExecutor(1, thread_name_prefix="prefetching") as thread:
        waiting = None
        for item in items:
            following = item, thread.submit(lambda item=item: _sent(batch_of(item), device))  # type: ignore[misc]
            if waiting is not None:
                yield waiting[0], waiting[1].result()
            waiting = following
        if waiting is not None:
            yield waiting[0], waiting[1].result()


def _sent(batch: Batch, device: str) -> tuple[Any, ...]:
    try:
        with tf.device(device):
            return tuple(tf.identity(tf.constant(array)) for array in batch)
    except tf.errors.OpError as error:
        if not is_out_of_memory(error):
            raise
        return batch  # the update finds out which part of it fits


#: The batch size for which a scaled learning rate is what the study file says.
REFERENCE_BATCH = 32
#: What a call trains on at most: bytes of its batches, and seconds, for which a worker can't be spoken to.
BYTES_OF_CALL, SECONDS_OF_CALL = 32 << 20, 0.25
#: Images for which features are compared with the whole network at the end of each phase that trained on them: weights
#: that changed show in any image, and more only take longer.
CHECKED = 2


class DivergedError(Exception):
    """The loss is no longer a finite number."""


class Trainer:
    """Trains one network on one trial's images, epoch by epoch."""

    def __init__(self, compiled: CompiledNetwork, images: TrainingImages, spec: TrialSpec) -> None:
        self.compiled = compiled
        self.images = images
        self.spec = spec
        self.auxiliary_weight = float(spec.levels.get("auxiliary_weight", 0.0))
        self.learning_rate = scaled_learning_rate(spec)
        self.epoch = 0
        self.updates = 0
        self.images_seen = 0
        self.latest: Measurement | None = None  # after the last epoch
        self.at_equal_updates: Measurement | None = None
        self._features: Features | None = None
        self._may_split = False  # whether batches of some phase can be trained in parts
        self._seconds = SECONDS_OF_CALL  # that an update takes: the first one shows it
        self._bytes = 0  # that an update takes in for each image
        size = int(spec.levels["batch_size"])
        self._batches = Batches(len(images.train), size, spec.seed, str(spec.levels["protocol"]))
        self._legacy = legacy_validation_indices(images.validation.labels, size)
        labels, classes = images.validation.labels, len(spec.images.classes)
        # what no epoch changes is told with the first one: each is a row in MLflow for every time that it is told
        self._constants = {
            Metric.LEARNING_RATE: self.learning_rate,
            Metric.IMAGES_VALIDATION: float(len(labels)),
            Metric.SMALLEST_VALIDATION_CLASS: float(np.bincount(labels, minlength=classes).min()),
            Metric.LEGACY_VALIDATION_IMAGES: float(len(self._legacy)),
            Metric.LEGACY_SMALLEST_VALIDATION_CLASS: float(np.bincount(labels[self._legacy], minlength=classes).min()),
        }

    def start_phase(self, phase: Phase, features: Features | None = None) -> None:
        """Fresh optimisers for the layers that train now: one for the heads, one for the backbone.

        Args:
            features: what the phase trains on and is measured on, in place of images.
        """
        self._features = features
        kind = UpdateKind(
            backbone=phase.backbone,
            auxiliary=bool(self.auxiliary_weight),
            optimizer=self.spec.optimizer,
            augmentation=str(self.spec.levels["augmentation"]),
            cut=features.cut if features is not None else None,
            precision=devices.choose_precision(self.spec.precision),
            xla=devices.uses_xla(self.spec),
        )
        self._update = self.compiled.update(kind)
        self._update.start(self.learning_rate, self.learning_rate * phase.multiplier)
        self._may_split |= self._update.can_be_in_parts
        self._seconds = SECONDS_OF_CALL
        self._bytes = self._batch(np.arange(1))[0].nbytes

    @property
    def optimizer_states(self) -> list[keras.Variable]:
        """Of the phase that was started."""
        return self._update.state

    @property
    def micro_batch(self) -> int | None:
        """Images at once in the updates of batches that did not fit into memory; None: all were trained whole."""
        return self.compiled.micro_batches.at_once["training"] if self._may_split else None

    @property
    def spent(self) -> bool:
        """Whether the budget of updates is."""
        return self.updates == self.spec.updates

    def run_epoch(self) -> EpochRecord:
        """One pass over the training images, every image once, then the clean metrics.

        Raises:
            DivergedError: the loss is no longer finite.
        """
        started = time.perf_counter()
        self.epoch += 1
        running = self._update_on_every_batch()
        trained = time.perf_counter()
        measured = self.latest = self.measure()
        if self.updates == self.spec.equal_updates:
            self.at_equal_updates = measured
        metrics = {**measured.metrics, **running}
        if not math.isfinite(metrics[Metric.RUNNING_LOSS] + metrics[Metric.VAL_LOSS] + metrics[Metric.TRAIN_LOSS]):
            raise DivergedError(f"the loss is not finite after epoch {self.epoch} ({self.updates} updates)")
        # how much of the usual gap is dropout, augmentation and moving weights rather than overfitting
        metrics[Metric.HIDDEN_GAP_ACCURACY] = metrics[Metric.TRAIN_ACCURACY] - metrics[Metric.RUNNING_ACCURACY]
        metrics[Metric.HIDDEN_GAP_LOSS] = metrics[Metric.RUNNING_LOSS] - metrics[Metric.TRAIN_LOSS]
        metrics |= self._as_the_legacy_protocol_has_it(measured, metrics[Metric.RUNNING_ACCURACY])
        metrics |= self._constants if self.epoch == 1 else {}
        metrics[Metric.TRAINING_SECONDS] = trained - started
        metrics[Metric.SECONDS] = time.perf_counter() - started
        return EpochRecord(self.epoch, metrics)

    def measure(self) -> Measurement:
        """Probe and validation with the weights of this moment, every image once."""
        probe, validation = self.images.probe, self.images.validation
        return Measurement(self.logits(probe), probe.labels, self.logits(validation), validation.labels)

    def measure_full_train(self) -> dict[str, float]:
        """Clean metrics on every training image, not only on the probe."""
        train = self.images.train
        measured = clean_metrics(self.logits(train), train.labels)
        return {Metric.FULL_TRAIN_LOSS: measured["loss"], Metric.FULL_TRAIN_ACCURACY: measured["accuracy"]}

    def logits(self, images: Images) -> np.ndarray:
        """Logits [n, classes] in inference mode, for every image once."""
        size = evaluation_batch_size(self.spec.images.size)
        starts = range(0, len(images), size)
        if self._features is None:
            return np.concatenate([self.compiled.logits(images.pixels[start : start + size]) for start in starts])
        of, cut = self._features.of, self._features.cut
        return np.concatenate([self.compiled.logits(of(images.places[start : start + size]), cut) for start in starts])

    def check_features(self) -> None:
        """The whole network must give for a few images what it gives for their features, and so it must for their
        mirror images where the features have those too.

        Raises:
            RuntimeError: it does not.
        """
        if self._features is None:
            return
        validation = self.images.validation
        pixels, of_views = validation.pixels[:CHECKED], self._features.all_views_of(validation.places[:CHECKED])
        for view, features in zip((pixels, pixels[:, :, ::-1]), of_views, strict=False):
            whole = self.compiled.logits(view)
            off = float(np.abs(whole - self.compiled.logits(features, self._features.cut)).max())
            if off > devices.numeric_tolerance() * max(1.0, float(np.abs(whole).max())):
                raise RuntimeError(
                    f"features from the cache give logits that are off by {off:.5f} from those of the whole network; "
                    f"remove {cache_folder() / 'features'}, and please report this with the study file"
                )

    def update(self, chosen: np.ndarray) -> np.ndarray:
        """One update on those training images (their places); mean loss, accuracy and summed auxiliary losses [3]."""
        return self.update_several([chosen])[0]

    def update_several(self, batches: Sequence[np.ndarray]) -> np.ndarray:
        """An update on each batch, in one call: [batches, 3]."""
        return self._update(*self._batch(np.concatenate(batches)), [len(batch) for batch in batches])

    def _batch(self, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What updates take, and the labels."""
        train = self.images.train
        if self._features is None:
            return train.pixels[chosen], train.labels[chosen]
        return self._features.views_of(train.places[chosen]), train.labels[chosen]

    def _update_on_every_batch(self) -> dict[str, float]:
        totals, seen = np.zeros(3), 0
        together = prefetch_one(self._calls(), lambda batches: self._batch(np.concatenate(batches)), devices.gpu_name())
        for batches, (inputs, labels) in together:
            if self.updates and self.updates == self.spec.equal_updates and self.at_equal_updates is None:
                self.at_equal_updates = self.measure()
            sizes = [len(batch) for batch in batches]
            started = time.perf_counter()
            for size, measured in zip(sizes, self._update(inputs, labels, sizes), strict=True):
                totals += size * measured
            self._seconds = (time.perf_counter() - started) / sum(sizes) * self._batches.size
            seen += sum(sizes)
            self.updates += len(batches)
        self.images_seen += seen
        loss, accuracy, auxiliary = (totals / seen).tolist()
        metrics = {
            Metric.RUNNING_LOSS: loss,
            Metric.RUNNING_ACCURACY: accuracy,
            Metric.UPDATES: float(self.updates),
            Metric.IMAGES_SEEN: float(self.images_seen),
            Metric.IMAGES_TRAIN: float(seen),
        }
        if self._update.skipped is not None:
            metrics[Metric.SKIPPED_UPDATES] = float(self._update.skipped)  # of this phase
        return {**metrics, Metric.RUNNING_AUXILIARY_LOSS: auxiliary} if self.auxiliary_weight else metrics

    def _calls(self) -> Iterator[list[np.ndarray]]:
        """The epoch's batches, those together that one call trains on: what is counted or measured between them parts
        them, and nobody is to wait long for a call.
        """
        size = self._batches.size
        made, together, most = self.updates, list[np.ndarray](), self.at_once(size, self._seconds)
        for batch in self._batches.of_epoch(self.epoch):
            together.append(batch)
            made += 1
            if made in (self.spec.equal_updates, self.spec.updates) or len(together) == most:
                yield together
                together, most = [], self.at_once(size, self._seconds)
            if made == self.spec.updates:
                return
        if together:
            yield together

    def at_once(self, size: int, seconds: float) -> int:
        """How many updates one call makes, on so many images each, if one takes so many seconds."""
        if self.compiled.micro_batches.at_once["training"] is not None:
            return 1  # the memory is short, or was
        fit = BYTES_OF_CALL // (self._bytes * size)
        return max(1, min(AT_ONCE, fit, int(SECONDS_OF_CALL / seconds)))

    def _as_the_legacy_protocol_has_it(self, measured: Measurement, running_accuracy: float) -> dict[str, float]:
        """The gap that the running metric and `validation_steps = images // batch_size` show, and what they leave out.

        It costs nothing: inference does not depend on the batch, and all of validation is measured anyway.
        """
        labels = measured.validation_labels[self._legacy]
        accuracy = clean_metrics(measured.validation[self._legacy], labels)["accuracy"]
        return {
            Metric.LEGACY_VAL_ACCURACY: accuracy,
            Metric.LEGACY_GAP_ACCURACY: running_accuracy - accuracy,
        }


def scaled_learning_rate(spec: TrialSpec) -> float:
    """The learning rate that the optimiser gets, by space.LEARNING_RATE_SCALINGS."""
    ratio = int(spec.levels["batch_size"]) / REFERENCE_BATCH
    factor = {"fixed": 1.0, "linear": ratio, "square-root": math.sqrt(ratio)}
    return float(spec.levels["learning_rate"]) * factor[str(spec.levels["learning_rate_scaling"])]
