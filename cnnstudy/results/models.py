"""A model for other programs: SavedModel, ONNX or Keras, whole and checked or not there at all."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from rich import box
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cnnstudy.analysis import leaderboard
from cnnstudy.analysis.confirmation import best_single_trial
from cnnstudy.data.archives import is_hidden
from cnnstudy.data.image_tree import IMAGE_SUFFIXES
from cnnstudy.errors import DataError, InputError, UnknownNameError
from cnnstudy.execution import Executor, Job
from cnnstudy.execution.jobs import run_job
from cnnstudy.records import BadImage
from cnnstudy.system.display import Display
from cnnstudy.training import model_files

if TYPE_CHECKING:
    from cnnstudy.tracking.recorded import RecordedStudy
    from cnnstudy.tracking.registry import Registry, StoredModel


NAMES = (
    "a study (its champion), STUDY/TRIAL, a models:/ address of MLflow, a folder with a model of MLflow or Keras, "
    "or a .keras file"
)


@dataclass(frozen=True)
class Model:
    """A Keras file on this disk, and the names of its classes in the order of its outputs, where they are known."""

    title: str
    file: Path
    classes: tuple[str, ...] | None
    note: str = ""  # what its user should know

    def class_name(self, index: int) -> str:
        return self.classes[index] if self.classes else f"class {index}"


def find_model(given: str, uri: str | None, folder: Path) -> Model:
    """The model that `given` names; see NAMES. A place on this disk comes before a study of the same name.

    Args:
        uri: where studies and addresses are looked up, as tracking_uri takes it; not needed for a place on this disk.
        folder: for files that have to be downloaded.

    Raises:
        UnknownNameError: there is none.
        ModelError: it is there in name only, or its classes' names can't be read.
    """
    place = Path(given).expanduser()
    file = None if given.startswith("models:") else model_files.find_keras_file(place)
    if file is not None:
        return Model(given, file, model_files.read_classes(file))
    if _is_place(given):
        raise UnknownNameError(_no_model_there(given, place))
    from cnnstudy.tracking.client import Tracker, tracking_uri
    from cnnstudy.tracking.registry import Registry

    registry = Registry(Tracker(tracking_uri(uri)))
    stored, note = _stored(registry, given, place)
    return replace(_brought(registry, stored, folder), note=note)


def _is_place(given: str) -> bool:
    """Whether it can be nothing but a path: a study's name has no separator and does not start with a dot."""
    looks = given.startswith((".", "~")) or Path(given).is_absolute() or given.endswith((".keras", os.sep))
    return not given.startswith("models:") and (looks or given.count("/") > 1)


def _no_model_there(given: str, place: Path) -> str:
    if place.is_dir():
        return (
            f"The folder {given} holds no Keras model: that is {model_files.MLFLOW_DATA}/{model_files.KERAS_FILE} as "
            f"MLflow saves it, {model_files.KERAS_FILE}, or one .keras file."
        )
    if place.exists():
        return f"{given} is no .keras file, the only kind that is loaded."
    return f"There is no {given}. A model is {NAMES}."


def _stored(registry: Registry, given: str, place: Path) -> tuple[StoredModel, str]:
    if given.startswith("models:"):
        return registry.at(given), ""
    name, _, trial = given.partition("/")
    try:
        study = registry.tracker.study(name)
    except UnknownNameError as error:
        hint = _no_model_there(given, place) if os.path.lexists(place) else f"A model is {NAMES}."
        raise UnknownNameError(f"{error} {hint}") from error
    return (registry.of_trial(study, trial), "") if trial else _champion(registry, study)


def _champion(registry: Registry, study: RecordedStudy) -> tuple[StoredModel, str]:
    """The champion; where none was confirmed yet, the best trial with a note that says so."""
    try:
        return registry.champion(study), ""
    except UnknownNameError:
        runs = [run for run in registry.tracker.runs(study.experiment_id) if run.kind == "trial" and run.model]
        best = best_single_trial(runs, study.rule)
        if best is None:
            raise
        trial = best.trial
        note = (
            f"{study.name} has no confirmed champion; this is {trial}, which validates best, perhaps by luck. "
            f"`python -m cnnstudy confirm {study.name}` tells."
        )
        return registry.of_trial(study, trial), note


def _brought(registry: Registry, stored: StoredModel, folder: Path) -> Model:
    title = stored.trial or stored.address
    place = registry.bring(stored, folder)
    file = model_files.find_keras_file(place)
    if file is None:
        raise UnknownNameError(
            f"{stored.address} is no Keras model: no {model_files.KERAS_FILE} is in {stored.location}."
        )
    return Model(title, file, model_files.read_classes(file) or registry.classes(stored, folder))


HEADINGS = ("image", "class", "probability")


@dataclass(frozen=True)
class Prediction:
    """The classes of one image with their probabilities, best first."""

    path: str  # as the user named it
    classes: tuple[tuple[str, float], ...]


def predict_files(
    model: Model, given: Sequence[str], top: int, executor: Executor, display: Display
) -> list[Prediction | BadImage]:
    """Return the `top` classes of every image, in the order given; of a folder the images in it, sorted.

    Raises:
        ModelError: the model can't be used. An image that can't be used is an answer of its own.
    """
    places = [image for place in given for image in _images_at(place)]
    usable = [image for image in places if isinstance(image, str)]
    answers: Iterator[Any] = iter(())
    if usable:
        payload = {
            "model": str(model.file.absolute()),
            "classes": None if model.classes is None else len(model.classes),
            "images": [os.path.abspath(os.path.expanduser(image)) for image in usable],
            "top": top,
        }
        answers = iter(run_job(executor, Job("predict", "predict", payload), display))
    return [image if isinstance(image, BadImage) else _prediction(image, next(answers), model) for image in places]


def _prediction(path: str, answer: dict[str, Any], model: Model) -> Prediction | BadImage:
    if "bad" in answer:
        return replace(BadImage.from_json(answer["bad"]), path=path)
    return Prediction(path, tuple((model.class_name(index), probability) for index, probability in answer["classes"]))


def _images_at(place: str) -> Iterator[str | BadImage]:
    """Yield the image files that a place stands for; a bad image where there is none."""
    path = os.path.expanduser(place)
    if not os.path.isdir(path):
        yield place if os.path.exists(path) else BadImage(place, "there is no such file")
        return
    names = []
    for folder, folders, files in os.walk(path):
        folders[:] = [name for name in folders if not is_hidden(name)]
        images = [name for name in files if name.lower().endswith(IMAGE_SUFFIXES) and not is_hidden(name)]
        names += [os.path.join(folder, name) for name in images]
    if not names:
        yield BadImage(place, f"a folder without images; they end in {', '.join(IMAGE_SUFFIXES)}")
    yield from sorted(names)


def show_predictions(console: Console, title: str, predictions: Sequence[Prediction | BadImage]) -> None:
    """What could be predicted: a table on a terminal, else a line for each image and class that says it all."""
    usable = [prediction for prediction in predictions if isinstance(prediction, Prediction)]
    if not usable:
        return
    if not console.is_terminal:
        lines = [row for prediction in usable for row in _rows(prediction, repeated=True)]
        widths = [max(cell_len(line[column]) for line in lines) for column in range(3)]
        for image, name, share in lines:
            print(f"{set_cell_size(image, widths[0])}  {set_cell_size(name, widths[1])}  {share:>{widths[2]}}")
        return
    grid = Table(title=Text(_printable(title)), title_justify="left", box=box.SIMPLE_HEAD, show_edge=False)
    for heading in HEADINGS:
        number = heading == HEADINGS[-1]
        grid.add_column(heading, justify="right" if number else "left", no_wrap=number, overflow="fold")
    for prediction in usable:
        for row in _rows(prediction, repeated=False):
            grid.add_row(*map(Text, row))
        grid.add_section()
    console.print(grid, markup=False, emoji=False)


def _rows(prediction: Prediction, repeated: bool) -> list[tuple[str, str, str]]:
    """The three cells of each class; the image in all of them, or in the first only."""
    return [
        (_printable(prediction.path) if repeated or rank == 0 else "", _printable(name), f"{100 * probability:.1f} %")
        for rank, (name, probability) in enumerate(prediction.classes)
    ]


def write_predictions_csv(predictions: Sequence[Prediction | BadImage], path: Path) -> None:
    """A row for each image and class, with probabilities in [0, 1]; one for an image without.

    Raises:
        InputError: the file can't be written.
    """
    rows = [
        (_printable(one.path), name, probability, _error(one) or "")
        for one in predictions
        for name, probability in _classes(one) or (("", None),)
    ]
    leaderboard.write_csv(pd.DataFrame(rows, columns=[*HEADINGS, "error"]), path)


def write_predictions_json(title: str, predictions: Sequence[Prediction | BadImage], path: Path) -> None:
    """`{"model": ..., "images": [{"image": ..., "classes": [{"class": ..., "probability": ...}], "error": ...}]}`.

    Raises:
        InputError: the file can't be written.
    """
    images = [
        {
            "image": _printable(one.path),
            "classes": [{"class": name, "probability": probability} for name, probability in _classes(one)],
            "error": _error(one),
        }
        for one in predictions
    ]
    text = json.dumps({"model": title, "images": images}, ensure_ascii=False, indent=2)
    try:
        path.write_text(f"{text}\n", encoding="utf-8", errors="backslashreplace")
    except OSError as reason:
        raise InputError(f"can't write {path}: {reason.strerror or reason}") from reason


def _classes(one: Prediction | BadImage) -> tuple[tuple[str, float], ...]:
    return one.classes if isinstance(one, Prediction) else ()


def _error(one: Prediction | BadImage) -> str | None:
    return one.reason if isinstance(one, BadImage) else None


def check_predictions(predictions: Sequence[Prediction | BadImage]) -> None:
    """Raise DataError that names each image that could not be predicted, if any."""
    bad = [one for one in predictions if isinstance(one, BadImage)]
    if bad:
        lines = "".join(f"\n  {one}" for one in bad)
        raise DataError(f"{len(bad)} of {len(predictions)} images can't be predicted:{lines}")


def _printable(text: str) -> str:
    """A file's name may hold bytes that are no text."""
    return text.encode(errors="backslashreplace").decode()


@dataclass(frozen=True)
class Exported:
    """What was written, and the largest difference of a probability from Keras' on random images."""

    size: int  # pixels
    classes: int
    difference: float
    tolerance: float
    images: int


def check_export_target(folder: Path) -> None:
    """Raise InputError where something is already at the place."""
    if folder.is_dir() and any(folder.iterdir()):
        raise InputError(f"the folder {folder} is not empty; give one that is, or that is not there yet.")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; give a folder that is empty or not there yet.")


def export_to(model: Model, folder: Path, name: str, executor: Executor, display: Display) -> Exported:
    """Write the model into `folder` in a format of training/export.py.

    Raises:
        ModelError: it can't be loaded or exported, or gives other probabilities than Keras; nothing is left then.
    """
    check_export_target(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as parent:
        whole = Path(parent).absolute() / "model"
        payload = {"model": str(model.file.absolute()), "classes": model.classes, "folder": str(whole), "format": name}
        result = run_job(executor, Job("export", "export_model", payload), display)
        if folder.exists():
            folder.rmdir()
        whole.rename(folder)
    return Exported(**result)


def describe_export(model: Model, folder: Path, name: str, done: Exported) -> str:
    """What was written, what it takes and gives, and how it was checked, in words."""
    order = f"in the order of {model_files.CLASSES_FILE}" if model.classes else "whose classes have no names"
    return (
        f"{folder}: {model.title} as {name}\n"
        f"takes RGB images [n, {done.size}, {done.size}, 3] of 0..255 (uint8), gives probabilities [n, {done.classes}] "
        f"{order}\n"
        f"on {done.images} random images they differ from Keras' by at most {done.difference:.1e} "
        f"({done.tolerance:.0e} would pass)"
    )
