"""What a confusion matrix says of each class."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from cnnstudy.names import Metric, class_name


def class_metrics(
    confusion: Sequence[Sequence[int]], classes: Sequence[str], train_confusion: Sequence[Sequence[int]] = ()
) -> list[dict[str, float | str]]:
    """Precision, recall, F1 and the number of validation images of each class; 0 where nothing was predicted.

    With the probe's confusion also `train_recall`, and `gap`, by how much that is above the validation recall (shares
    of 0..1); NaN for a class that the probe has no image of.
    """
    rows: list[dict[str, float | str]] = []
    for i, name in enumerate(classes):
        correct, images = confusion[i][i], sum(confusion[i])
        predicted = sum(row[i] for row in confusion)
        precision, recall = correct / max(1, predicted), correct / max(1, images)
        f1 = 2 * correct / max(1, predicted + images)
        rows.append({"class": name, "precision": precision, "recall": recall, "f1": f1, "images": float(images)})
        if train_confusion:
            of_class = sum(train_confusion[i])
            train_recall = train_confusion[i][i] / of_class if of_class else math.nan
            rows[-1] |= {"train_recall": train_recall, "gap": train_recall - recall}
    return rows


def class_metric_names(per_class: list[dict[str, float | str]]) -> dict[str, float]:
    """Recall, precision and, where it is known, recall on the probe under names that MLflow takes; classes that look
    alike there are numbered."""
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
