"""A model for other programs: SavedModel, ONNX or Keras, whole and checked or not there at all."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from cnnstudy.display import Display
from cnnstudy.errors import InputError
from cnnstudy.execution import Executor, Job
from cnnstudy.jobs import result_of
from cnnstudy.models import Model
from cnnstudy.training import layout


@dataclass(frozen=True)
class Exported:
    """What was written, and the largest difference of a probability from Keras' on random images."""

    size: int  # pixels
    classes: int
    difference: float
    tolerance: float
    images: int


def check_target(folder: Path) -> None:
    """Raise InputError where something is already at the place."""
    if folder.is_dir() and any(folder.iterdir()):
        raise InputError(f"the folder {folder} is not empty; give one that is, or that is not there yet.")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; give a folder that is empty or not there yet.")


def export(model: Model, folder: Path, name: str, executor: Executor, display: Display) -> Exported:
    """Write the model into `folder` in a format of training/export.py.

    Raises:
        ModelError: it can't be loaded or exported, or gives other probabilities than Keras; nothing is left then.
    """
    check_target(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as parent:
        whole = Path(parent).absolute() / "model"
        payload = {"model": str(model.file.absolute()), "classes": model.classes, "folder": str(whole), "format": name}
        result = result_of(executor, Job("export", "export_model", payload), display)
        if folder.exists():
            folder.rmdir()
        whole.rename(folder)
    return Exported(**result)


def told(model: Model, folder: Path, name: str, done: Exported) -> str:
    """What was written, what it takes and gives, and how it was checked, in words."""
    order = f"in the order of {layout.CLASSES_FILE}" if model.classes else "whose classes have no names"
    return (
        f"{folder}: {model.title} as {name}\n"
        f"takes RGB images [n, {done.size}, {done.size}, 3] of 0..255 (uint8), gives probabilities [n, {done.classes}] "
        f"{order}\n"
        f"on {done.images} random images they differ from Keras' by at most {done.difference:.1e} "
        f"({done.tolerance:.0e} would pass)"
    )
