"""Run epochs: updates on shuffled batches, then clean metrics on the probe and on the whole validation set.

Batches are slices of arrays in memory. tf.data is not used: its autotuner can wait up to seconds at the end of a pass,
and with a fixed number of steps, which images a pass uses depends on the batch size.
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

from cnnstudy.architectures import HEAD
from cnnstudy.data.batches import Batches, evaluation_batch_size, legacy_validation_indices
from cnnstudy.data.images import Images, TrainingImages
from cnnstudy.names import Metric
from cnnstudy.records import EpochRecord, TrialSpec, read_probe
from cnnstudy.system.cache import cache_folder
from cnnstudy.training import devices
from cnnstudy.training.augmentation import augmentation_of
from cnnstudy.training.compiled import CompiledNetwork, UpdateKind
from cnnstudy.training.features import Features
from cnnstudy.training.metrics import MEASURED_PARTS, FullTrain, Measurement, clean_metrics, pack_correctness
from cnnstudy.training.micro_batches import is_out_of_memory
from cnnstudy.training.transfer import Phase
from cnnstudy.training.updates import MAX_UPDATES_PER_CALL, Update, balanced_class_weights

Item = TypeVar("Item")
Batch = tuple[np.ndarray, ...]

#: The batch size at which a scaled learning rate equals the rate in the study file.
REFERENCE_BATCH = 32
#: Limits of one compiled call: bytes of its batches, and seconds, during which the worker can't be reached.
MAX_CALL_BYTES, MAX_CALL_SECONDS = 32 << 20, 0.25
#: Images for which features are compared with the whole network at the end of each phase trained on features. Few are
#: enough: changed weights show in any image.
CHECKED_IMAGES = 2


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
        #: By part, the images that were right after each epoch (metrics.pack_correctness).
        self.correct_by_epoch: dict[str, list[np.ndarray]] = {part: [] for part in MEASURED_PARTS}
        self._features: Features | None = None
        self._may_split = False  # whether some phase's batches can be split
        self._seconds = MAX_CALL_SECONDS  # per update; measured from the first one on
        self._bytes = 0  # of an update's inputs, per image
        size = spec.batch_size
        self._batches = Batches(len(images.train), size, spec.seed, str(spec.levels.get("protocol", "clean")))
        self._update: Update | None = None  # of the current phase; None: its head is fitted
        self._legacy_indices = legacy_validation_indices(images.validation.labels, size)
        labels, classes = images.validation.labels, len(spec.images.classes)
        # reported with the first epoch only, since MLflow stores a row for each report
        rates = {Metric.LEARNING_RATE: self.learning_rate} if "learning_rate" in spec.levels else {}
        self._constants = {
            **rates,
            Metric.IMAGES_VALIDATION: float(len(labels)),
            Metric.SMALLEST_VALIDATION_CLASS: float(np.bincount(labels, minlength=classes).min()),
            Metric.LEGACY_VALIDATION_IMAGES: float(len(self._legacy_indices)),
            Metric.LEGACY_SMALLEST_VALIDATION_CLASS: float(
                np.bincount(labels[self._legacy_indices], minlength=classes).min()
            ),
        }

    def start_phase(self, phase: Phase, features: Features | None = None) -> None:
        """Start a phase with fresh optimisers for the layers that train: one for the heads, one for the backbone.

        Args:
            features: trained on and measured on instead of images.
        """
        self._features = features
        if phase.fits_head:
            self._update = None
            return
        label_smoothing = float(self.spec.levels.get("label_smoothing", 0.0))
        weighs_classes = self.spec.levels.get("class_weights", "none") == "balanced"
        kind = UpdateKind(
            backbone=phase.backbone,
            by_stage=phase.discriminative != 1,
            batch_norm=phase.batch_norm or not self.compiled.has_batch_norm,
            auxiliary=bool(self.auxiliary_weight),
            optimizer=self.spec.optimizer,
            augmentation=augmentation_of(self.spec),
            smooths_labels=label_smoothing > 0,
            weighs_classes=weighs_classes,
            cut=features.cut if features is not None else None,
            precision=devices.choose_precision(self.spec.precision),
            xla=devices.uses_xla(self.spec),
        )
        self._update = self.compiled.update(kind)
        class_weights = balanced_class_weights(self.images.train.labels, len(self.spec.images.classes))
        self._update.start(
            self.learning_rate,
            self.learning_rate * phase.multiplier,
            label_smoothing,
            class_weights if weighs_classes else None,
            phase.discriminative,
        )
        self._may_split |= self._update.can_split
        self._seconds = MAX_CALL_SECONDS
        self._bytes = self._load_batch(np.arange(1))[0].nbytes

    @property
    def optimizer_states(self) -> list[keras.Variable]:
        """The optimisers' states in the current phase."""
        return [] if self._update is None else self._update.state

    @property
    def micro_batch(self) -> int | None:
        """Images per micro-batch in updates whose batch did not fit into memory; None: no batch was split."""
        return self.compiled.micro_batches.at_once["training"] if self._may_split else None

    @property
    def spent(self) -> bool:
        """Whether the update budget is exhausted."""
        return self.updates == self.spec.updates

    def measure_start(self) -> EpochRecord:
        """Measure the clean metrics before the first update, as epoch 0.

        Raises:
            DivergedError: the loss is not finite with the weights that training starts from.
        """
        metrics = self.measure().metrics
        self._check_is_finite(metrics)
        return EpochRecord(0, metrics)

    def run_epoch(self) -> EpochRecord:
        """Train one epoch, using every training image once, then measure the clean metrics.

        Raises:
            DivergedError: the loss is no longer finite.
        """
        started = time.perf_counter()
        self.epoch += 1
        running = self._fit_in_one_epoch() if self._update is None else self._train_on_all_batches()
        trained = time.perf_counter()
        measured = self.latest = self.measure()
        for part, correct in pack_correctness(measured).items():
            self.correct_by_epoch[part].append(correct)
        if self.updates == self.spec.equal_updates:
            self.at_equal_updates = measured
        metrics = {**measured.metrics, **running}
        self._check_is_finite(metrics)
        # the part of the usual gap that comes from dropout, augmentation and changing weights, not from overfitting
        metrics[Metric.HIDDEN_GAP_ACCURACY] = metrics[Metric.TRAIN_ACCURACY] - metrics[Metric.RUNNING_ACCURACY]
        metrics[Metric.HIDDEN_GAP_LOSS] = metrics[Metric.RUNNING_LOSS] - metrics[Metric.TRAIN_LOSS]
        metrics |= self._legacy_metrics(measured, metrics[Metric.RUNNING_ACCURACY])
        metrics |= self._constants if self.epoch == 1 else {}
        metrics[Metric.TRAINING_SECONDS] = trained - started
        metrics[Metric.SECONDS] = time.perf_counter() - started
        return EpochRecord(self.epoch, metrics)

    def fit_head(self) -> None:
        """Set the last layer's weights to those of a probe of all training images; report its regularisation."""
        from cnnstudy.training.linear_head import fit_head  # scikit-learn takes a second, and few trials need it

        train, classes = self.images.train, len(self.spec.images.classes)
        probe = read_probe(self.spec.levels["transfer"])
        assert probe is not None  # one of its phases fits the head
        weighs_classes = self.spec.levels.get("class_weights", "none") == "balanced"
        head = fit_head(
            self._head_inputs(train),
            train.labels,
            classes,
            self.spec.seed,
            train.groups,
            balanced_class_weights(train.labels, classes) if weighs_classes else None,
            probe.classifier,
        )
        self.compiled.network.logits.get_layer(f"{HEAD}_logits").set_weights([head.kernel, head.bias])
        self._constants[Metric.REGULARISATION] = 1 / head.c

    def _fit_in_one_epoch(self) -> dict[str, float]:
        """Fit the head.

        Returns:
            The epoch's metrics without a number of updates: the trial is compared with none at equal updates.
        """
        self.fit_head()
        train = self.images.train
        self.images_seen += len(train)
        measured = self.measure_full_train().metrics
        return {
            Metric.RUNNING_LOSS: measured[Metric.FULL_TRAIN_LOSS],
            Metric.RUNNING_ACCURACY: measured[Metric.FULL_TRAIN_ACCURACY],
            Metric.IMAGES_SEEN: float(self.images_seen),
            Metric.IMAGES_TRAIN: float(len(train)),
        }

    def _head_inputs(self, images: Images) -> np.ndarray:
        """Return what the last layer takes for these images, [n, features]."""
        graph, size = self.compiled.graph, evaluation_batch_size(self.spec.images.size)
        (cut,) = graph.sources[graph.outputs[0]]
        if self._features is not None and self._features.cut == cut:
            return self._features.of(images.places)
        starts = range(0, len(images), size)
        return np.concatenate([self.compiled.features(images.pixels[at : at + size], cut) for at in starts])

    def measure(self) -> Measurement:
        """Measure the probe and the validation set with the current weights, every image once."""
        probe, validation = self.images.probe, self.images.validation
        return Measurement(self.logits(probe), probe.labels, self.logits(validation), validation.labels)

    def _check_is_finite(self, metrics: Mapping[str, float]) -> None:
        losses = [metrics.get(name, 0.0) for name in (Metric.RUNNING_LOSS, Metric.VAL_LOSS, Metric.TRAIN_LOSS)]
        if not math.isfinite(sum(losses)):
            raise DivergedError(f"the loss is not finite after epoch {self.epoch} ({self.updates} updates)")

    def measure_full_train(self) -> FullTrain:
        """Measure every image that the trial trains on, not only the probe."""
        return FullTrain.of(self.logits(self.images.train), self.images.train.labels)

    def logits(self, images: Images) -> np.ndarray:
        """Return the logits [n, classes] of all images in inference mode."""
        size = evaluation_batch_size(self.spec.images.size)
        starts = range(0, len(images), size)
        if self._features is None:
            return np.concatenate([self.compiled.logits(images.pixels[start : start + size]) for start in starts])
        features = self._features
        return np.concatenate(
            [self.compiled.logits(features.of(images.places[start : start + size]), features.cut) for start in starts]
        )

    def check_features(self) -> None:
        """Check that the whole network gives the same logits for a few images as for their features.

        Mirror images are checked too if there are features of them. Without features nothing is checked.

        Raises:
            RuntimeError: the logits differ.
        """
        if self._features is None:
            return
        validation = self.images.validation
        pixels, views = (
            validation.pixels[:CHECKED_IMAGES],
            self._features.select_views(validation.places[:CHECKED_IMAGES]),
        )
        for view, features in zip((pixels, pixels[:, :, ::-1]), views, strict=False):
            whole = self.compiled.logits(view)
            difference = float(np.abs(whole - self.compiled.logits(features, self._features.cut)).max())
            if difference > devices.numeric_tolerance() * max(1.0, float(np.abs(whole).max())):
                raise RuntimeError(
                    f"features from the cache give logits that differ by {difference:.5f} from those of the whole "
                    f"network; remove {cache_folder() / 'features'}, and please report this with the study file"
                )

    def update(self, chosen: np.ndarray) -> np.ndarray:
        """Update on the training images of these indices; return [3]: mean loss, accuracy, summed auxiliary losses."""
        return self.update_several([chosen])[0]

    def update_several(self, batches: Sequence[np.ndarray]) -> np.ndarray:
        """Update on each batch, in one call; return [batches, 3] as `update` does for one."""
        assert self._update is not None  # asked for in phases with updates
        return self._update(*self._load_batch(np.concatenate(batches)), [len(batch) for batch in batches])

    def _load_batch(self, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return an update's inputs, images or features, and the labels."""
        train = self.images.train
        if self._features is None:
            return train.pixels[chosen], train.labels[chosen]
        return self._features.update_inputs(train.places[chosen]), train.labels[chosen]

    def _train_on_all_batches(self) -> dict[str, float]:
        assert self._update is not None
        totals, seen = np.zeros(3), 0
        calls = prefetch_one(
            self._group_into_calls(), lambda batches: self._load_batch(np.concatenate(batches)), devices.gpu_name()
        )
        for batches, (inputs, labels) in calls:
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
            metrics[Metric.SKIPPED_UPDATES] = float(self._update.skipped)  # in this phase
        return {**metrics, Metric.RUNNING_AUXILIARY_LOSS: auxiliary} if self.auxiliary_weight else metrics

    def _group_into_calls(self) -> Iterator[list[np.ndarray]]:
        """Yield the epoch's batches, grouped by the call that trains on them.

        A call ends where something is measured, where the trial ends, and at the limit of `at_once`.
        """
        size = self._batches.size
        updates, group, limit = self.updates, list[np.ndarray](), self.at_once(size, self._seconds)
        for batch in self._batches.iterate_epoch(self.epoch):
            group.append(batch)
            updates += 1
            if updates in (self.spec.equal_updates, self.spec.updates) or len(group) == limit:
                yield group
                group, limit = [], self.at_once(size, self._seconds)
            if updates == self.spec.updates:
                return
        if group:
            yield group

    def at_once(self, size: int, seconds: float) -> int:
        """Return how many updates one call makes, given the batch size and the seconds that an update takes."""
        if self.compiled.micro_batches.at_once["training"] is not None:
            return 1  # memory has run out before
        fit = MAX_CALL_BYTES // (self._bytes * size)
        return max(1, min(MAX_UPDATES_PER_CALL, fit, int(MAX_CALL_SECONDS / seconds)))

    def _legacy_metrics(self, measured: Measurement, running_accuracy: float) -> dict[str, float]:
        """Return validation accuracy and gap as the running metric and `validation_steps = images // batch_size` give.

        It costs nothing: inference does not depend on the batch, and the whole validation set is measured anyway.
        """
        labels = measured.validation_labels[self._legacy_indices]
        accuracy = clean_metrics(measured.validation[self._legacy_indices], labels)["accuracy"]
        return {
            Metric.LEGACY_VAL_ACCURACY: accuracy,
            Metric.LEGACY_GAP_ACCURACY: running_accuracy - accuracy,
        }


def scaled_learning_rate(spec: TrialSpec) -> float:
    """Return the optimiser's learning rate, scaled by the batch size as factors.LEARNING_RATE_SCALINGS says.

    It is 0 where there are no updates.
    """
    if "learning_rate" not in spec.levels:
        return 0.0
    ratio = spec.batch_size / REFERENCE_BATCH
    factor = {"fixed": 1.0, "linear": ratio, "square-root": math.sqrt(ratio)}
    return float(spec.levels["learning_rate"]) * factor[str(spec.levels["learning_rate_scaling"])]


class BestEpoch:
    """The best epoch so far by the trial's rule, with its weights; the earlier of two equal ones.

    Args:
        layers: those that train in some phase.
    """

    def __init__(self, spec: TrialSpec, layers: Sequence[keras.layers.Layer]) -> None:
        self.spec = spec
        self.variables = {f"{layer.name}/{n}": variable for layer in layers for n, variable in enumerate(layer.weights)}
        self.epoch = 0
        self.rank: tuple[float, ...] = (-np.inf,) * 3
        self.weights: Mapping[str, np.ndarray] = {}

    def update_if_better(self, record: EpochRecord) -> None:
        """Keep the epoch and the current weights if it is better than the best so far."""
        rank = self.spec.rule.rank(record.metrics)
        if rank > self.rank:
            self.take_up(record.epoch, rank, self.now())

    def patience_exhausted(self, epoch: int) -> bool:
        """Check whether early stopping ends the phase after that epoch."""
        return self.spec.patience is not None and epoch - self.epoch >= self.spec.patience

    def restore(self) -> None:
        """Set the network's weights to the best epoch's."""
        for name, variable in self.variables.items():
            variable.assign(self.weights[name])

    def now(self) -> dict[str, np.ndarray]:
        """Return the current weights by `<layer>/<number>`."""
        return {name: variable.numpy() for name, variable in self.variables.items()}

    def take_up(self, epoch: int, rank: tuple[float, ...], weights: Mapping[str, np.ndarray]) -> None:
        """Set the best epoch."""
        self.epoch, self.rank, self.weights = epoch, rank, weights


def prefetch_one(
    items: Iterable[Item], batch_of: Callable[[Item], Batch], device: str | None
) -> Iterator[tuple[Item, tuple[Any, ...]]]:
    """Yield each item with its batch, in order; meanwhile a thread prepares the next batch and sends it to the device.

    Args:
        device: TensorFlow's name of it; None: prepare a batch when it is asked for, and leave it as arrays.
    """
    if device is None:
        yield from ((item, batch_of(item)) for item in items)
        return
    with ThreadPoolExecutor(1, thread_name_prefix="prefetching") as thread:
        waiting = None
        for item in items:
            following = item, thread.submit(lambda item=item: _send(batch_of(item), device))  # type: ignore[misc]
            if waiting is not None:
                yield waiting[0], waiting[1].result()
            waiting = following
        if waiting is not None:
            yield waiting[0], waiting[1].result()


def _send(batch: Batch, device: str) -> tuple[Any, ...]:
    try:
        with tf.device(device):
            return tuple(tf.identity(tf.constant(array)) for array in batch)
    except tf.errors.OpError as error:
        if not is_out_of_memory(error):
            raise
        return batch  # the update finds out how much of it fits
