"""The files of a saved model: the Keras file and its hash, and the class names. Light enough for the driver."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from cnnstudy.errors import ModelError

KERAS_FILE, ONNX_FILE, CLASSES_FILE = "model.keras", "model.onnx", "classes.json"
#: The subfolder of an MLflow model in which MLflow puts the Keras file.
MLFLOW_DATA = "data"


def find_keras_file(place: Path) -> Path | None:
    """Return the Keras file of a saved model; None if there is none.

    Args:
        place: a `.keras` file, the folder of an MLflow model, or a folder with exactly one `.keras` file.
    """
    if place.is_file():
        return place if place.suffix == ".keras" else None
    for candidate in (place / MLFLOW_DATA / KERAS_FILE, place / KERAS_FILE):
        if candidate.is_file():
            return candidate
    files = [path for path in place.glob("*.keras") if path.is_file()] if place.is_dir() else []
    return files[0] if len(files) == 1 else None


def hash_keras_file(place: Path) -> str | None:
    """Return the SHA-256 of the Keras file that `find_keras_file` finds, in hexadecimal digits; None if it finds none.

    Raises:
        OSError: the file can't be read.
    """
    file = find_keras_file(place)
    if file is None:
        return None
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def write_classes(folder: Path, classes: Sequence[str]) -> None:
    """Write the class names, in the order of the model's outputs, to the folder of a saved model."""
    text = json.dumps(list(classes), ensure_ascii=False, indent=2)
    (folder / CLASSES_FILE).write_text(f"{text}\n", encoding="utf-8", errors="replace")


def read_classes(file: Path) -> tuple[str, ...] | None:
    """Return the class names that were saved with a Keras file; None if there are none.

    Raises:
        ModelError: they can't be read, or are not a list of names.
    """
    folders = [file.parent, file.parent.parent] if file.parent.name == MLFLOW_DATA else [file.parent]
    path = next((folder / CLASSES_FILE for folder in folders if (folder / CLASSES_FILE).is_file()), None)
    if path is None:
        return None
    try:
        names = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as reason:
        raise ModelError(f"can't read the class names from {path}: {reason}") from reason
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ModelError(f'{path} must be a list of class names, such as ["daisy", "tulips"].')
    return tuple(names)
