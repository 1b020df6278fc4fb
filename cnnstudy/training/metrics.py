"""A trial's metrics: those of the network at one moment, and those of the learning curves.

From logits, computed in inference mode: clean_metrics, Measurement, FullTrain, confusion_matrix, and which images are
right: pack_correctness, save_correctness.
From the records of all epochs: curve_metrics, with the onset of overfitting and the gap at equal fit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from scipy.special import log_softmax

from cnnstudy.data.images import TrainingImages
from cnnstudy.names import Metric, equal_fit_name
from cnnstudy.records import EpochRecord

#: A final validation loss this share above the lowest one counts as overfitting (Prechelt 1998, "Early stopping - but
#: when?", criterion GL with alpha 5).
RISE = 0.05
#: The clean train accuracy at which trials are compared at equal fit.
EQUAL_FIT = 0.9
#: The images that are measured after every epoch.
MEASURED_PARTS = ("probe", "validation")


def clean_metrics(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Return metrics of logits [n, classes] against labels [n]: `loss` in nats, the others in 0..1.

    Balanced accuracy (Brodersen et al. 2010) is the mean recall over the classes that have images; macro-F1 the mean F1
    over the classes that have images or are predicted, as scikit-learn has it.
    """
    log_probabilities = log_softmax(logits.astype(np.float64), axis=1)
    counts = np.array(confusion_matrix(logits, labels))
    right, of_class, predicted = counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0)
    present, mentioned = of_class > 0, of_class + predicted > 0
    return {
        "loss": float(-log_probabilities[np.arange(len(labels)), labels].mean()),
        "accuracy": float((logits.argmax(axis=1) == labels).mean()),
        "balanced_accuracy": float((right[present] / of_class[present]).mean()),
        "macro_f1": float((2 * right[mentioned] / (of_class + predicted)[mentioned]).mean()),
    }


def name_metrics(train: dict[str, float], validation: dict[str, float]) -> dict[str, float]:
    """Return train, validation and gap metrics by their names in MLflow; a positive gap means better on train."""
    return {
        Metric.TRAIN_LOSS: train["loss"],
        Metric.TRAIN_ACCURACY: train["accuracy"],
        Metric.VAL_LOSS: validation["loss"],
        Metric.VAL_ACCURACY: validation["accuracy"],
        Metric.GAP_ACCURACY: train["accuracy"] - validation["accuracy"],
        Metric.GAP_LOSS: validation["loss"] - train["loss"],
        Metric.TRAIN_BALANCED_ACCURACY: train["balanced_accuracy"],
        Metric.VAL_BALANCED_ACCURACY: validation["balanced_accuracy"],
        Metric.GAP_BALANCED_ACCURACY: train["balanced_accuracy"] - validation["balanced_accuracy"],
        Metric.TRAIN_MACRO_F1: train["macro_f1"],
        Metric.VAL_MACRO_F1: validation["macro_f1"],
    }


@dataclass(frozen=True)
class Measurement:
    """The network's outputs for probe and validation at one moment: logits [n, classes] and labels [n]."""

    train: np.ndarray
    train_labels: np.ndarray
    validation: np.ndarray
    validation_labels: np.ndarray

    @property
    def metrics(self) -> dict[str, float]:
        """Clean train, validation and gap metrics, by their names in MLflow."""
        return name_metrics(
            clean_metrics(self.train, self.train_labels), clean_metrics(self.validation, self.validation_labels)
        )


@dataclass(frozen=True)
class FullTrain:
    """What all training images tell of the network at one moment.

    Args:
        metrics: by their names in MLflow.
        confusion: [classes, classes] images: rows are the classes trained on, which may be shuffled; columns the
            predicted ones.
    """

    metrics: dict[str, float]
    confusion: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, logits: np.ndarray, labels: np.ndarray) -> Self:
        """Return what logits [n, classes] and labels [n] tell."""
        measured = clean_metrics(logits, labels)
        metrics = {
            Metric.FULL_TRAIN_LOSS: measured["loss"],
            Metric.FULL_TRAIN_ACCURACY: measured["accuracy"],
            Metric.FULL_TRAIN_BALANCED_ACCURACY: measured["balanced_accuracy"],
        }
        return cls(metrics, confusion_matrix(logits, labels))


def confusion_matrix(logits: np.ndarray, labels: np.ndarray) -> tuple[tuple[int, ...], ...]:
    """Return counts [classes, classes]: rows are the true classes, columns the predicted ones."""
    classes = logits.shape[1]
    # importing scikit-learn's would take each worker half a second
    counts = np.bincount(classes * labels.astype(np.int64) + logits.argmax(axis=1), minlength=classes**2)
    return tuple(tuple(int(count) for count in row) for row in counts.reshape(classes, classes))


def pack_correctness(measured: Measurement) -> dict[str, np.ndarray]:
    """Return which images of each of MEASURED_PARTS are classified correctly, packed: np.unpackbits(..., count=n)."""
    correct = (
        measured.train.argmax(axis=1) == measured.train_labels,
        measured.validation.argmax(axis=1) == measured.validation_labels,
    )
    return {part: np.packbits(of_part) for part, of_part in zip(MEASURED_PARTS, correct, strict=True)}


def save_correctness(
    path: Path,
    images: TrainingImages,
    restored: Measurement,
    last: Measurement,
    by_epoch: Mapping[str, Sequence[np.ndarray]],
) -> None:
    """Write which images are classified correctly to `path` (.npz), for each of MEASURED_PARTS:

    `<part>_places`      [n] int64, the images' indices in the data set
    `<part>_labels`      [n] int64, their classes; of the probe those trained on, which may be shuffled
    `<part>_restored`    correct or not with the restored weights, packed: np.unpackbits(..., count=n)
    `<part>_last`        the same with the last weights
    `<part>_by_epoch`    [epochs, n] packed: np.unpackbits(..., axis=1, count=n); row i is after epoch i + 1

    Files of earlier versions lack the labels and the epochs.

    Args:
        by_epoch: for each part, the result of `pack_correctness` after every epoch.
    """
    arrays: dict[str, np.ndarray] = {}
    packed_restored, packed_last = pack_correctness(restored), pack_correctness(last)
    for part, of_part in zip(MEASURED_PARTS, (images.probe, images.validation), strict=True):
        arrays[f"{part}_places"] = of_part.places
        arrays[f"{part}_labels"] = of_part.labels.astype(np.int64)
        arrays[f"{part}_restored"], arrays[f"{part}_last"] = packed_restored[part], packed_last[part]
        arrays[f"{part}_by_epoch"] = np.stack(by_epoch[part])
    np.savez_compressed(path, allow_pickle=False, **arrays)


def curve_metrics(records: Sequence[EpochRecord]) -> dict[str, float]:
    """Return the onset of overfitting and the metrics at equal fit, by their names in MLflow.

    `overfitting/onset_epoch` is the epoch of the lowest validation loss. It is present only if the validation loss ends
    at least 5 % higher while the train loss kept falling. `overfitting/val_loss_rise` (nats) is always present. The
    metrics at equal fit are present only if the clean train accuracy reaches EQUAL_FIT.
    """
    lowest = min(records, key=lambda record: record.metrics[Metric.VAL_LOSS])
    end = records[-1].metrics
    rise = end[Metric.VAL_LOSS] - lowest.metrics[Metric.VAL_LOSS]
    metrics = {Metric.VAL_LOSS_RISE: rise}
    if rise >= RISE * lowest.metrics[Metric.VAL_LOSS] and end[Metric.TRAIN_LOSS] < lowest.metrics[Metric.TRAIN_LOSS]:
        metrics[Metric.ONSET_EPOCH] = float(lowest.epoch)
    return metrics | _at_equal_fit(records)


def _at_equal_fit(records: Sequence[EpochRecord]) -> dict[str, float]:
    """Interpolate linearly to the point where the clean train accuracy first reaches EQUAL_FIT."""
    for before, after in zip([None, *records], records, strict=False):
        reached = after.metrics[Metric.TRAIN_ACCURACY]
        if reached < EQUAL_FIT:
            continue
        share = 1.0
        if before is not None:
            earlier = before.metrics[Metric.TRAIN_ACCURACY]
            share = (EQUAL_FIT - earlier) / (reached - earlier)
        else:
            before = after  # reached within the first epoch, at whose end it was first measured

        def between(name: str, share: float = share, before: EpochRecord = before, after: EpochRecord = after) -> float:
            return before.metrics[name] + share * (after.metrics[name] - before.metrics[name])

        names = (Metric.GAP_ACCURACY, Metric.GAP_LOSS, Metric.VAL_ACCURACY, Metric.VAL_LOSS)
        interpolated = {equal_fit_name(name): between(name) for name in names}
        return {**interpolated, Metric.EQUAL_FIT_EPOCH: before.epoch + share * (after.epoch - before.epoch)}
    return {}
