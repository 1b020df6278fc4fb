"""Precision, recall and F1 of each class, from a confusion matrix."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from cnnstudy.names import Metric, class_name


def class_metrics(
    confusion: Sequence[Sequence[int]], classes: Sequence[str], train_confusion: Sequence[Sequence[int]] = ()
) -> list[dict[str, float | str]]:
    """Return precision, recall, F1 and the number of validation images of each class, all but the last 0..1.

    A class without images has recall 0, one that is never predicted has precision 0.

    Args:
        confusion: counts on validation, rows true class, columns predicted class.
        train_confusion: the same on the probe. If given, each row also has `train_recall` (0..1) and `gap`, which is
            `train_recall` minus `recall`; NaN for a class without probe images.
    """
    rows: list[dict[str, float | str]] = []
    for i, name in enumerate(classes):
        correct, images = confusion[i][i], sum(confusion[i])
        predicted = sum(row[i] for row in confusion)
        precision, recall = correct / max(1, predicted), correct / max(1, images)
        f1 = 2 * correct / max(1, predicted + images)
        rows.append({"class": name, "precision": precision, "recall": recall, "f1": f1, "images": float(images)})
        if train_confusion:
            probe_images = sum(train_confusion[i])
            train_recall = train_confusion[i][i] / probe_images if probe_images else math.nan
            rows[-1] |= {"train_recall": train_recall, "gap": train_recall - recall}
    return rows


def class_metric_names(per_class: list[dict[str, float | str]]) -> dict[str, float]:
    """Return recall, precision and, where known, recall on the probe, under names that MLflow accepts.

    Characters that MLflow rejects become `_`; classes whose names then coincide get their number appended.
    """
    named: dict[str, float] = {}
    for number, row in enumerate(per_class):
        name = re.sub(r"[^\w .-]", "_", str(row["class"]), flags=re.ASCII)[:100]
        while class_name(Metric.RECALL, name) in named or not name.strip(" ._-"):
            name = f"{name}_{number}"
        named[class_name(Metric.RECALL, name)] = float(row["recall"])
        named[class_name(Metric.PRECISION, name)] = float(row["precision"])
        if math.isfinite(train_recall := float(row.get("train_recall", math.nan))):
            named[class_name(Metric.TRAIN_RECALL, name)] = train_recall
    return named
