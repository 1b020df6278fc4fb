"""Where the parts of a saved model lie, for driver and worker: the Keras file, the names of its classes; its hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from cnnstudy.errors import ModelError

KERAS_FILE, ONNX_FILE, CLASSES_FILE = "model.keras", "model.onnx", "classes.json"
#: Where MLflow puts the Keras file in a model's folder.
MLFLOW_DATA = "data"


def find_keras_file(place: Path) -> Path | None:
    """The Keras file that a place stands for: itself, MLflow's, or the only one in a folder; None where there is none.

    Args:
        place: a `.keras` file, an MLflow model's folder, or a folder with one `.keras` file.
    """
    if place.is_file():
        return place if place.suffix == ".keras" else None
    for candidate in (place / MLFLOW_DATA / KERAS_FILE, place / KERAS_FILE):
        if candidate.is_file():
            return candidate
    found = [path for path in place.glob("*.keras") if path.is_file()] if place.is_dir() else []
    return found[0] if len(found) == 1 else None


def hash_keras_file(place: Path) -> str | None:
    """SHA-256 of the Keras file that a place stands for, in hexadecimal digits; None where there is none.

    Raises:
        OSError: it can't be read.
    """
    file = find_keras_file(place)
    if file is None:
        return None
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def write_classes(folder: Path, classes: Sequence[str]) -> None:
    """Leave the classes' names, in the order of the model's outputs, with a saved model."""
    text = json.dumps(list(classes), ensure_ascii=False, indent=2)
    (folder / CLASSES_FILE).write_text(f"{text}\n", encoding="utf-8", errors="replace")


def read_classes(file: Path) -> tuple[str, ...] | None:
    """The classes' names that were left with a Keras file; None where there are none.

    Raises:
        ModelError: there are, but they can't be read.
    """
    folders = [file.parent, file.parent.parent] if file.parent.name == MLFLOW_DATA else [file.parent]
    path = next((folder / CLASSES_FILE for folder in folders if (folder / CLASSES_FILE).is_file()), None)
    if path is None:
        return None
    try:
        names = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as reason:
        raise ModelError(f"can't read the names of the classes from {path}: {reason}") from reason
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ModelError(f'{path} must be a list of the classes\' names, such as ["daisy", "tulips"].')
    return tuple(names)
