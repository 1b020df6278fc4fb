"""Tables of a trial's single images: in which part each is, and what the network says of it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
from scipy.special import softmax

from cnnstudy.data.images import TrainingImages, image_keys, list_parts
from cnnstudy.records import TrialSpec
from cnnstudy.system.files import escape_formula
from cnnstudy.training.metrics import Measurement


def write_split(path: Path, spec: TrialSpec, images: TrainingImages) -> None:
    """Write a CSV file with every image: its file, class, part, and whether the trial trains on it.

    The part is train, validation or test. Of the training images a `data_fraction` below 1 leaves some unused.
    """
    keys = image_keys(spec.images)
    used = {keys[place] for place in images.train.places.tolist()}
    with path.open("w", newline="", encoding="utf-8", errors="replace") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "class", "part", "trained on"])
        for key, name, part in list_parts(spec.images, spec.split, spec.block):
            writer.writerow([escape_formula(key), escape_formula(name), part, "yes" if key in used else "no"])


def write_predictions(path: Path, spec: TrialSpec, images: TrainingImages, restored: Measurement) -> None:
    """Write what the network of the best epoch says of each probe and validation image, as a table of MLflow.

    Its columns are image, part (probe or validation), class (of the probe that trained on, which may be shuffled),
    predicted, probability (0..1, of the predicted class) and right.

    Args:
        restored: measured with the weights of the best epoch.
    """
    keys, classes, rows = image_keys(spec.images), spec.images.classes, []
    for part, of_part, logits in (
        ("probe", images.probe, restored.train),
        ("validation", images.validation, restored.validation),
    ):
        chosen = logits.argmax(axis=1)
        sure = softmax(logits.astype(np.float64), axis=1).max(axis=1)
        for place, label, best, probability in zip(of_part.places, of_part.labels, chosen, sure, strict=True):
            right = bool(label == best)
            rows.append([keys[place], part, classes[label], classes[best], round(float(probability), 4), right])
    columns = ["image", "part", "class", "predicted", "probability", "right"]
    path.write_text(json.dumps({"columns": columns, "data": rows}), encoding="utf-8")
