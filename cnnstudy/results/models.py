"""Trained models: find one by name, classify images with it, export it for other programs.

The heavy work is done by a worker; see training/predict.py and training/export.py.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from cnnstudy.analysis import leaderboard
from cnnstudy.analysis.confirmation import RECORD_PATH, best_single_trial, describe_other_champion
from cnnstudy.data.decode import DECODER_VERSION
from cnnstudy.data.listing import list_tree
from cnnstudy.errors import DataError, InputError, ModelError, UnknownNameError, printable
from cnnstudy.execution import Executor, Job
from cnnstudy.execution.jobs import run_job
from cnnstudy.records import BadImage
from cnnstudy.system.display import Display
from cnnstudy.system.files import find_place_beside, write_whole
from cnnstudy.system.output import add_row, format_json, plain_table, print_columns, print_table
from cnnstudy.training import model_files

if TYPE_CHECKING:
    from cnnstudy.system.output import Console
    from cnnstudy.tracking.recorded import RecordedStudy
    from cnnstudy.tracking.registry import Registry, StoredModel

#: What exporting to ONNX needs.
ONNX_PACKAGES = ("tf2onnx", "onnx", "onnxruntime")
#: What a user may give as a model.
MODEL_FORMS = (
    "a study (its champion), STUDY/TRIAL, a models:/ address of MLflow, a folder with a model of MLflow or Keras, "
    "or a .keras file"
)


@dataclass(frozen=True)
class Model:
    """A Keras file on this disk, with the class names in the order of its outputs if they are known."""

    title: str
    file: Path
    classes: tuple[str, ...] | None
    note: str = ""  # a remark for the user
    contract: dict[str, Any] | None = None  # of its input, as recorded with it; see data/decode.py

    @property
    def notes(self) -> tuple[str, ...]:
        """The remarks for the user; one of them if it is not known whether images are prepared as in training."""
        if self.contract is None:
            prepared = (
                f"{self.title} has no {model_files.INPUT_FILE}, which says how images were prepared in its training; "
                "they are taken to be prepared as this version of cnnstudy does it"
            )
        elif self.contract.get("decoder") != DECODER_VERSION:
            prepared = (
                f"{self.title} was trained on images of decoder {self.contract.get('decoder')}; this version of "
                f"cnnstudy has decoder {DECODER_VERSION}, whose pixels may differ"
            )
        else:
            prepared = ""
        return tuple(filter(None, (self.note, prepared)))

    def class_name(self, index: int) -> str:
        """Return the name of a class; `class 0` if names are not known."""
        return self.classes[index] if self.classes else f"class {index}"


def find_model(given: str, uri: str | None, folder: Path) -> Model:
    """Return the model that `given` names (see MODEL_FORMS). A path takes precedence over a study of the same name.

    Args:
        uri: the tracking URI for studies and models:/ addresses, as `tracking_uri` takes it; not used for a path.
        folder: receives files that have to be downloaded.

    Raises:
        UnknownNameError: there is no such model.
        ModelError: the model is recorded but its files are missing or changed, or its class names can't be read.
        TrackingError: MLflow does not answer.
    """
    path = Path(given).expanduser()
    file = None if given.startswith("models:") else model_files.find_keras_file(path)
    if file is not None:
        return Model(given, file, model_files.read_classes(file), contract=model_files.read_contract(file))
    if _is_path(given):
        raise UnknownNameError(_no_model_at(given, path))
    from cnnstudy.tracking.client import existing_tracker
    from cnnstudy.tracking.registry import Registry

    try:
        registry = Registry(existing_tracker(uri))
    except UnknownNameError as error:
        raise UnknownNameError(f"{error} {_advise_model(given, path)}") from error
    stored, note = _find_stored(registry, given, path)
    return replace(_fetch_model(registry, stored, folder), note=note)


def _advise_model(given: str, path: Path) -> str:
    return _no_model_at(given, path) if os.path.lexists(path) else f"A model is {MODEL_FORMS}."


def _is_path(given: str) -> bool:
    """Return whether it can only be a path: a study's name has no separator and does not start with a dot."""
    path_like = given.startswith((".", "~")) or Path(given).is_absolute() or given.endswith((".keras", os.sep))
    return not given.startswith("models:") and (path_like or given.count("/") > 1)


def _no_model_at(given: str, path: Path) -> str:
    if path.is_dir():
        return (
            f"The folder {given} holds no Keras model. Expected {model_files.MLFLOW_DATA}/{model_files.KERAS_FILE} (as "
            f"MLflow saves it), {model_files.KERAS_FILE}, or exactly one .keras file."
        )
    if path.exists():
        return f"{given} is not a .keras file; other kinds of files are not loaded."
    return f"There is no {given}. A model is {MODEL_FORMS}."


def _find_stored(registry: Registry, given: str, path: Path) -> tuple[StoredModel, str]:
    if given.startswith("models:"):
        return registry.at(given), ""
    name, _, trial = given.partition("/")
    try:
        study = registry.tracker.study(name)
    except UnknownNameError as error:
        raise UnknownNameError(f"{error} {_advise_model(given, path)}") from error
    return (registry.of_trial(study, trial), "") if trial else _find_champion(registry, study)


def _find_champion(registry: Registry, study: RecordedStudy) -> tuple[StoredModel, str]:
    """Return the champion, with a note if others moved its alias; if there is none, the best trial and a note of it."""
    record = registry.tracker.read_text(study.run_id, RECORD_PATH)
    try:
        stored = registry.champion(study)
        moved = describe_other_champion(study.name, record, stored.version, stored.trial)
        advice = f"This is the former; `python -m cnnstudy confirm {study.name}` sets the alias."
        return stored, f"{moved}. {advice}" if moved else ""
    except UnknownNameError:
        runs = [run for run in registry.tracker.runs(study.experiment_id) if run.kind == "trial" and run.model]
        best = best_single_trial(runs, study.rule)
        if best is None:
            raise
        gone = describe_other_champion(study.name, record, "", "")
        note = (
            f"{gone or f'{study.name} has no confirmed champion'}; this is {best.trial}, which has the best validation "
            f"score, perhaps by luck. `python -m cnnstudy confirm {study.name}` "
            f"{'sets the alias again' if gone else 'finds out'}."
        )
        return registry.of_trial(study, best.trial), note


def _fetch_model(registry: Registry, stored: StoredModel, folder: Path) -> Model:
    title = stored.trial or stored.address
    file = model_files.find_keras_file(registry.fetch_folder(stored, folder))
    if file is None:
        raise UnknownNameError(
            f"{stored.address} is not a Keras model: there is no {model_files.KERAS_FILE} in {stored.location}."
        )
    classes = model_files.read_classes(file) or registry.classes(stored, folder)
    return Model(title, file, classes, contract=model_files.read_contract(file))


HEADINGS = ("image", "class", "probability")


@dataclass(frozen=True)
class Prediction:
    """The classes of one image with their probabilities, best first."""

    path: str  # as the user named it
    classes: tuple[tuple[str, float], ...]


def predict_files(
    model: Model, given: Sequence[str], top: int, executor: Executor, display: Display
) -> list[Prediction | BadImage]:
    """Return the `top` classes of every image, in the order given; a folder means its images, sorted.

    An image that can't be used is in the result as a BadImage.

    Raises:
        DataError: a folder can't be read.
        ModelError: the model can't be used.
    """
    images = [image for place in given for image in _list_images(place, display)]
    usable = [image for image in images if isinstance(image, str)]
    answers: Iterator[Any] = iter(())
    if usable:
        payload = {
            "model": str(model.file.absolute()),
            "classes": None if model.classes is None else len(model.classes),
            "images": [os.path.abspath(os.path.expanduser(image)) for image in usable],
            "top": top,
        }
        answers = iter(run_job(executor, Job("predict", "predict", payload), display))
    return [image if isinstance(image, BadImage) else _prediction(image, next(answers), model) for image in images]


def _prediction(path: str, answer: dict[str, Any], model: Model) -> Prediction | BadImage:
    if "bad" in answer:
        return replace(BadImage.from_json(answer["bad"]), path=path)
    return Prediction(path, tuple((model.class_name(index), probability) for index, probability in answer["classes"]))


def _list_images(place: str, display: Display) -> Iterator[str | BadImage]:
    """Yield a file, or the images in a folder as training would find them; a BadImage if there are none."""
    path = os.path.expanduser(place)
    if not os.path.isdir(path):
        yield place if os.path.exists(path) else BadImage(place, "there is no such file")
        return
    tree = list_tree(Path(path))
    passed_over = tuple(map(str, tree.passed_over.list_kinds()))
    if passed_over:
        display.show_message(printable(f"{place}: passed over: {', '.join(passed_over)}"))
    if not tree.images:
        yield BadImage(place, "a folder without images")
    yield from sorted(os.path.join(path, *parts) for parts, _ in tree.images)


def show_predictions(console: Console, title: str, predictions: Sequence[Prediction | BadImage]) -> None:
    """Show the predictions: as a table on a terminal, else as one complete line for each image and class."""
    usable = [prediction for prediction in predictions if isinstance(prediction, Prediction)]
    if not usable:
        return
    if not console.is_terminal:
        print_columns([row for prediction in usable for row in _rows(prediction, repeated=True)])
        return
    grid = plain_table(title, padding=(0, 1))
    for heading in HEADINGS:
        number = heading == HEADINGS[-1]
        grid.add_column(heading, justify="right" if number else "left", no_wrap=number, overflow="fold")
    for prediction in usable:
        for row in _rows(prediction, repeated=False):
            add_row(grid, row)
        grid.add_section()
    print_table(console, grid)


def _rows(prediction: Prediction, repeated: bool) -> list[tuple[str, str, str]]:
    """Return the three cells of each class, with the image in every row or only in the first."""
    return [
        (prediction.path if repeated or rank == 0 else "", name, f"{100 * probability:.1f} %")
        for rank, (name, probability) in enumerate(prediction.classes)
    ]


def write_predictions_csv(predictions: Sequence[Prediction | BadImage], path: Path) -> None:
    """Write a row for each image and class, with probabilities in [0, 1]; an image that failed gets one row.

    Raises:
        InputError: the file can't be written.
    """
    rows = [
        (_encodable(one.path), _encodable(name), probability, _encodable(_error(one) or ""))
        for one in predictions
        for name, probability in _classes(one) or (("", None),)
    ]
    leaderboard.write_csv(pd.DataFrame(rows, columns=[*HEADINGS, "error"]), path)


def _encodable(text: str) -> str:
    """Escape what UTF-8 can't encode: the name of a file may contain bytes that are no valid text."""
    return text.encode(errors="backslashreplace").decode()


def write_predictions_json(title: str, predictions: Sequence[Prediction | BadImage], path: Path) -> None:
    """Write the predictions as JSON: the `model`, and `images` with `image`, `classes` and `error` (or null) each.

    A class has `class` and `probability`.

    Raises:
        InputError: the file can't be written.
    """
    images = [
        {
            "image": one.path,
            "classes": [{"class": name, "probability": probability} for name, probability in _classes(one)],
            "error": _error(one),
        }
        for one in predictions
    ]
    try:
        write_whole(path, f"{format_json({'model': title, 'images': images})}\n")
    except OSError as reason:
        raise InputError(f"can't write {path}: {reason.strerror or reason}") from reason


def _classes(one: Prediction | BadImage) -> tuple[tuple[str, float], ...]:
    return one.classes if isinstance(one, Prediction) else ()


def _error(one: Prediction | BadImage) -> str | None:
    return one.reason if isinstance(one, BadImage) else None


def check_predictions(predictions: Sequence[Prediction | BadImage]) -> None:
    """Raise DataError if an image could not be predicted; the message names all of them."""
    bad = [one for one in predictions if isinstance(one, BadImage)]
    if bad:
        lines = "".join(f"\n  {one}" for one in bad)
        raise DataError(f"{len(bad)} of {len(predictions)} images can't be predicted:{lines}")


@dataclass(frozen=True)
class Exported:
    """The exported model, and the largest difference of a probability from Keras on random images."""

    size: int  # pixels
    classes: int
    difference: float
    tolerance: float
    images: int


def check_export(folder: Path, name: str) -> None:
    """Check what an export needs, before a worker starts.

    Args:
        name: a format of training/export.py.

    Raises:
        InputError: the folder is not empty, is the current one or a file, or can't be written.
        ModelError: a package for exporting to ONNX is not installed.
    """
    missing = [package for package in ONNX_PACKAGES if name == "onnx" and find_spec(package) is None]
    if missing:
        raise ModelError(
            f"exporting to ONNX needs the packages {', '.join(ONNX_PACKAGES)}; not installed: {', '.join(missing)}. "
            "Install them from cnnstudy's folder: python -m pip install -c constraints.txt -e '.[onnx]'"
        )
    if folder.is_dir() and any(folder.iterdir()):
        raise InputError(f"the folder {folder} is not empty; give a folder that is empty or does not exist yet.")
    if os.path.realpath(folder) == os.getcwd():
        raise InputError(f"the export replaces its folder, and {folder} is the current one; give a folder in it.")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; give a folder that is empty or does not exist yet.")
    above = next(place for place in Path(os.path.realpath(folder)).parents if place.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise InputError(f"nothing can be written in {above}, so not {folder}; give a folder where you can write.")


def export_to(model: Model, folder: Path, name: str, executor: Executor, display: Display) -> Exported:
    """Write the model to `folder` in a format of training/export.py.

    Raises:
        InputError, ModelError: as `check_export`.
        ModelError: the model can't be loaded or exported, or its probabilities differ from Keras; nothing is written.
    """
    check_export(folder, name)
    folder = Path(os.path.realpath(folder))
    folder.parent.mkdir(parents=True, exist_ok=True)
    complete = find_place_beside(folder)
    complete.mkdir()
    try:
        payload = {
            "model": str(model.file.absolute()),
            "classes": model.classes,
            "contract": model.contract,
            "folder": str(complete / "model"),
            "format": name,
        }
        result = run_job(executor, Job("export", "export_model", payload), display)
        if folder.exists():
            folder.rmdir()
        (complete / "model").rename(folder)
    finally:
        shutil.rmtree(complete)
    return Exported(**result)


def describe_export(model: Model, folder: Path, name: str, done: Exported) -> str:
    """Describe the exported model: its inputs, its outputs, and how it was checked."""
    order = f"in the order of {model_files.CLASSES_FILE}" if model.classes else "of classes without names"
    return (
        f"{folder}: {model.title} as {name}\n"
        f"input: RGB images [n, {done.size}, {done.size}, 3] of 0..255 (uint8); output: probabilities "
        f"[n, {done.classes}] {order}; {model_files.CARD_FILE}: how to prepare photos\n"
        f"on {done.images} random images the probabilities differ from Keras by at most {done.difference:.1e} "
        f"(tolerance {done.tolerance:.0e})"
    )
