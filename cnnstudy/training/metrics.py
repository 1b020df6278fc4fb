"""What a trial's learning curves say: where overfitting sets in, and the gap at a given fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import log_softmax

from cnnstudy.data.images import TrainingImages
from cnnstudy.names import Metric, equal_fit_name
from cnnstudy.records import EpochRecord


def clean_metrics(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """`loss` (nats) and `accuracy` (0..1) of logits [n, classes] against labels [n]."""
    log_probabilities = log_softmax(logits.astype(np.float64), axis=1)
    return {
        "loss": float(-log_probabilities[np.arange(len(labels)), labels].mean()),
        "accuracy": float((logits.argmax(axis=1) == labels).mean()),
    }


def name_metrics(train: dict[str, float], validation: dict[str, float]) -> dict[str, float]:
    """Train, validation and gap under MLflow's names; a positive gap means better on train than on validation."""
    return {
        Metric.TRAIN_LOSS: train["loss"],
        Metric.TRAIN_ACCURACY: train["accuracy"],
        Metric.VAL_LOSS: validation["loss"],
        Metric.VAL_ACCURACY: validation["accuracy"],
        Metric.GAP_ACCURACY: train["accuracy"] - validation["accuracy"],
        Metric.GAP_LOSS: validation["loss"] - train["loss"],
    }


@dataclass(frozen=True)
class Measurement:
    """What the network says of probe and validation at one moment: logits [n, classes] beside labels [n]."""

    train: np.ndarray
    train_labels: np.ndarray
    validation: np.ndarray
    validation_labels: np.ndarray

    @property
    def metrics(self) -> dict[str, float]:
        """Clean train, validation and gap metrics."""
        return name_metrics(
            clean_metrics(self.train, self.train_labels), clean_metrics(self.validation, self.validation_labels)
        )


def confusion_matrix(logits: np.ndarray, labels: np.ndarray) -> tuple[tuple[int, ...], ...]:
    """Counts [classes, classes]: rows are the true class, columns the predicted one."""
    classes = logits.shape[1]
    # scikit-learn's would take each worker half a second to import
    counts = np.bincount(classes * labels.astype(np.int64) + logits.argmax(axis=1), minlength=classes**2)
    return tuple(tuple(int(count) for count in row) for row in counts.reshape(classes, classes))


def save_correctness(path: Path, images: TrainingImages, restored: Measurement, last: Measurement) -> None:
    """Write `path` (.npz), for each part, "probe" and "validation", of n images:

    `<part>_places`      [n] int64, the images' places in the data set
    `<part>_restored`    right or wrong with the restored weights, packed: np.unpackbits(..., count=n)
    `<part>_last`        the same with the last weights
    """
    arrays = {"probe_places": images.probe.places, "validation_places": images.validation.places}
    for moment, measured in (("restored", restored), ("last", last)):
        arrays[f"probe_{moment}"] = np.packbits(measured.train.argmax(axis=1) == measured.train_labels)
        arrays[f"validation_{moment}"] = np.packbits(measured.validation.argmax(axis=1) == measured.validation_labels)
    np.savez_compressed(path, allow_pickle=False, **arrays)


#: Validation loss this share above its lowest value is overfitting (Prechelt 1998, "Early stopping - but when?": GL 5).
RISE = 0.05
#: The clean train accuracy at which trials are compared that fit alike.
EQUAL_FIT = 0.9


def curve_metrics(records: Sequence[EpochRecord]) -> dict[str, float]:
    """Where overfitting sets in, and the gap where the network fits 90 % of the probe; by MLflow's names.

    `overfitting/onset_epoch` is the epoch of the lowest validation loss. It is there only if the loss ends at least 5 %
    above that while the train loss fell on; `overfitting/val_loss_rise` (nats) is there always.
    """
    lowest = min(records, key=lambda record: record.metrics[Metric.VAL_LOSS])
    end = records[-1].metrics
    rise = end[Metric.VAL_LOSS] - lowest.metrics[Metric.VAL_LOSS]
    found = {Metric.VAL_LOSS_RISE: rise}
    if rise >= RISE * lowest.metrics[Metric.VAL_LOSS] and end[Metric.TRAIN_LOSS] < lowest.metrics[Metric.TRAIN_LOSS]:
        found[Metric.ONSET_EPOCH] = float(lowest.epoch)
    return found | _at_equal_fit(records)


def _at_equal_fit(records: Sequence[EpochRecord]) -> dict[str, float]:
    """Where clean train accuracy first reaches EQUAL_FIT: on the straight line between the epochs around it."""
    for before, after in zip([None, *records], records, strict=False):
        reached = after.metrics[Metric.TRAIN_ACCURACY]
        if reached < EQUAL_FIT:
            continue
        share = 1.0
        if before is not None:
            earlier = before.metrics[Metric.TRAIN_ACCURACY]
            share = (EQUAL_FIT - earlier) / (reached - earlier)
        else:
            before = after  # fitted within the first epoch: that is where it was measured first

        def between(name: str, share: float = share, before: EpochRecord = before, after: EpochRecord = after) -> float:
            return before.metrics[name] + share * (after.metrics[name] - before.metrics[name])

        names = (Metric.GAP_ACCURACY, Metric.GAP_LOSS, Metric.VAL_ACCURACY, Metric.VAL_LOSS)
        at = {equal_fit_name(name): between(name) for name in names}
        return {**at, Metric.EQUAL_FIT_EPOCH: before.epoch + share * (after.epoch - before.epoch)}
    return {}
