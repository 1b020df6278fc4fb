"""A trained model, whatever it was named by: a study, a trial, an address in MLflow, or a place on this disk."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from cnnstudy.analysis.champion import naive_best
from cnnstudy.errors import UnknownNameError
from cnnstudy.training import layout

if TYPE_CHECKING:
    from cnnstudy.records import RecordedStudy
    from cnnstudy.registry import Registry, StoredModel

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
    file = None if given.startswith("models:") else layout.keras_file(place)
    if file is not None:
        return Model(given, file, layout.read_classes(file))
    if _is_place(given):
        raise UnknownNameError(_no_model_there(given, place))
    from cnnstudy.registry import Registry
    from cnnstudy.tracking import Tracker, tracking_uri

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
            f"The folder {given} holds no Keras model: that is {layout.MLFLOW_DATA}/{layout.KERAS_FILE} as MLflow "
            f"saves it, {layout.KERAS_FILE}, or one .keras file."
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
        best = naive_best(runs, study.rule)
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
    file = layout.keras_file(place)
    if file is None:
        raise UnknownNameError(f"{stored.address} is no Keras model: no {layout.KERAS_FILE} is in {stored.location}.")
    return Model(title, file, layout.read_classes(file) or registry.classes(stored, folder))
