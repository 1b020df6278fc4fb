"""From logits to numbers: what `clean` means is here.

Clean metrics are computed on the main head's logits in inference mode, in float64, for every image once; the loss is
cross-entropy and nothing else (no auxiliary losses, no weight decay).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import log_softmax

from cnnstudy.names import Metric


def clean_metrics(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """`loss` (nats) and `accuracy` (0..1) of logits [n, classes] against labels [n]."""
    log_probabilities = log_softmax(logits.astype(np.float64), axis=1)
    return {
        "loss": float(-log_probabilities[np.arange(len(labels)), labels].mean()),
        "accuracy": float((logits.argmax(axis=1) == labels).mean()),
    }


def with_gap(train: dict[str, float], validation: dict[str, float]) -> dict[str, float]:
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
        return with_gap(
            clean_metrics(self.train, self.train_labels), clean_metrics(self.validation, self.validation_labels)
        )


def confusion(logits: np.ndarray, labels: np.ndarray) -> tuple[tuple[int, ...], ...]:
    """Counts [classes, classes]: rows are the true class, columns the predicted one."""
    classes = logits.shape[1]
    # scikit-learn's would take each worker half a second to import
    counts = np.bincount(classes * labels.astype(np.int64) + logits.argmax(axis=1), minlength=classes**2)
    return tuple(tuple(int(count) for count in row) for row in counts.reshape(classes, classes))
