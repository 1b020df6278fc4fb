"""Write the features that a recorded trial trains on, with labels, to a file for other programs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from cnnstudy.config.transfer_modes import starts_from_source
from cnnstudy.errors import InputError, UnknownNameError, printable
from cnnstudy.execution import Job, Workers
from cnnstudy.execution.jobs import run_job
from cnnstudy.study.driver import closing_workers
from cnnstudy.study.preparation import Preparation
from cnnstudy.study.recorder import NullRecorder
from cnnstudy.study.reproduce import find_trial, locate_inputs, read_spec
from cnnstudy.study.resume import recorded_config
from cnnstudy.system.display import Display
from cnnstudy.system.files import write_whole
from cnnstudy.tracking.client import Tracker
from cnnstudy.tracking.recorded import counted_runs
from cnnstudy.tracking.registry import Registry

#: The kinds of files, by their suffixes.
SUFFIXES = (".parquet", ".npz")
#: The transfer modes in which no layer with source weights stays as it is.
_NOTHING_FROZEN = ("scratch", "fine-tune")


@dataclass(frozen=True)
class ExportedFeatures:
    """What was written."""

    trial: str  # STUDY/TRIAL
    layer: str  # the layer whose output they are
    shape: tuple[int, ...]  # of the features of one image
    images: int


def check_target(path: Path) -> None:
    """Check that features can be written to that file, before a worker starts.

    Raises:
        InputError: its suffix is none of SUFFIXES, it is a folder, a pipe or a device, or nothing can be written there.
    """
    shown = printable(str(path))
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{shown} is to hold features, so its name must end with {' or '.join(SUFFIXES)}.")
    if path.is_dir():
        raise InputError(f"{shown} is a folder; give the name of a file.")
    if path.exists() and not path.is_file():
        raise InputError(f"{shown} is a pipe or a device; give the name of a file.")
    above = Path(os.path.realpath(path)).parent
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise InputError(f"can't write {shown}: {printable(str(above))} is no folder in which you can write.")


def export_features(given: str, path: Path, registry: Registry, workers: Workers, display: Display) -> ExportedFeatures:
    """Write the outputs of a trial's frozen layers for all images outside the test split; record nothing.

    Args:
        given: STUDY/TRIAL, the id of a run in MLflow, or STUDY for its first trial that has frozen layers.
        path: with one of SUFFIXES.
        workers: closed at the end.

    Raises:
        InputError: the trial has no frozen layers, or the file can't be written.
        UnknownNameError: there is no such trial, or its record lacks the specification.
        StudyChangedError: the images or the source weights differ from those of the trial.
        DataError, WeightsError, WorkerError: the features can't be computed.
    """
    check_target(path)
    study, run = find_trial(_choose_trial(given, registry.tracker), registry.tracker, "exported")
    spec = read_spec(given, run, registry)
    trial = f"{study.name}/{spec.key}"
    if not starts_from_source(spec.levels["transfer"]):
        raise InputError(f"{trial} has transfer scratch: it starts from no source weights, and no layer is frozen.")
    config = recorded_config(study).model_copy(update={"architectures": (spec.architecture,)})
    recorded = registry.tracker.runs(study.experiment_id)
    with closing_workers(workers):
        preparation = Preparation(config, workers.executor, NullRecorder(study), recorded, display)
        spec = locate_inputs(spec, preparation)
        written = workers.folder / f"features{path.suffix.lower()}"
        payload = {"spec": spec.to_json(), "path": str(written)}
        result = run_job(workers.executor, Job("features", "export_features", payload), display)
        try:
            write_whole(path, written.read_bytes())
        except OSError as reason:
            raise InputError(f"can't write {path}: {reason.strerror or reason}") from reason
    return ExportedFeatures(trial, result["layer"], tuple(result["shape"]), result["images"])


def _choose_trial(given: str, tracker: Tracker) -> str:
    """Return STUDY/TRIAL of a study's first trial that has frozen layers; what names no study as it is.

    Raises:
        UnknownNameError: it has no such trial.
    """
    study = next((study for study in tracker.studies() if study.name == given), None)
    if study is None:
        return given
    runs = [run for run in tracker.runs(study.experiment_id) if run.kind == "trial" and run.state == "finished"]
    for trial, run in sorted(counted_runs(runs).items()):
        if run.levels["transfer"] not in _NOTHING_FROZEN:
            return f"{given}/{trial}"
    raise UnknownNameError(
        f"no finished trial of {given} has frozen layers, whose outputs are features: give `transfer` in its study "
        "file the level probe or frozen."
    )


def describe_features(path: Path, written: ExportedFeatures) -> str:
    """Say what was written."""
    shape = " x ".join(map(str, written.shape))
    return (
        f"{path}: features of {written.images} images outside the test split, {shape} each: the output of "
        f"{written.layer} in {written.trial}"
    )
