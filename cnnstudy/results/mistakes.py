"""A trial's mistakes beside the training images that its model finds most alike, or why they can't be shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cnnstudy.analysis.confirmation import best_single_trial
from cnnstudy.errors import DataError, ModelError, UnknownNameError, WorkerError
from cnnstudy.execution import Executor, Job
from cnnstudy.execution.jobs import run_job
from cnnstudy.records import TrialSpec
from cnnstudy.system.display import Display
from cnnstudy.system.scratch import scratch_folder
from cnnstudy.tracking.recorded import RecordedRun, RecordedStudy
from cnnstudy.tracking.registry import Registry
from cnnstudy.training import model_files

#: Mistakes in a gallery.
COUNT = 12
#: Factors that say which images a trial saw.
_NEEDED = ("data_fraction", "shuffled_labels")


def explain_study_mistakes(
    registry: Registry, study: RecordedStudy, executor: Executor, display: Display, folder: Path
) -> dict[str, Any] | str:
    """The gallery of the champion's model, else of the best trial that kept one; or why there is none.

    Raises:
        TrackingError: MLflow does not answer.
    """
    runs = registry.tracker.runs(study.experiment_id)
    try:
        champion = registry.champion(study).run_id
    except UnknownNameError:
        champion = None
    run = next((run for run in runs if run.run_id == champion), None)
    if run is None:
        kept = [run for run in runs if run.kind == "trial" and run.model]
        run = best_single_trial(kept, study.rule)
    if run is None:
        return (
            f"No model of this study was kept. `python -m cnnstudy confirm {study.name}` keeps those of its candidates."
        )
    found = explain_trial_mistakes(registry, study, run, executor, display, folder)
    return found if isinstance(found, str) else {**found, "trial": run.trial}


def explain_trial_mistakes(
    registry: Registry,
    study: RecordedStudy,
    run: RecordedRun,
    executor: Executor,
    display: Display,
    folder: Path,
    count: int = COUNT,
) -> dict[str, Any] | str:
    """What training/mistakes.py's `explain_errors` gives for a trial, with its pictures in `folder`; else why not.

    Raises:
        TrackingError: MLflow does not answer.
    """
    trial = f"{study.name}/{run.trial or run.name}"
    with scratch_folder() as own:
        spec = _spec_of(registry, run, trial, own)
        if isinstance(spec, str):
            return spec
        try:
            file = _model_file(registry, run, trial, own)
            payload = {"spec": spec.to_json(), "model": str(file), "folder": str(folder.absolute()), "count": count}
            found = run_job(executor, Job(f"gallery-{spec.key}", "explain_errors", payload), display)
        except (DataError, ModelError, UnknownNameError) as reason:
            return _first_line(reason)
        except WorkerError as reason:
            return f"looking for the mistakes of {trial} failed: {_first_line(reason)}"
    if not found["wrong"]:
        return f"{trial} is right on all of its {found['validation']} validation images: there is no mistake to show."
    return dict(found)


def _spec_of(registry: Registry, run: RecordedRun, trial: str, folder: Path) -> TrialSpec | str:
    """What the trial was asked to do, where its model and images can still be there; else why not."""
    if not run.model:
        return f"{trial} has no model; trials that finish keep theirs unless the study says `keep_models: false`."
    asked = registry.asked(run.run_id, folder)
    if asked is None:
        return f"{trial} has no trial.json that can be read, so nobody knows which images it saw."
    try:
        spec = TrialSpec.from_json(asked)
        images, known = Path(spec.images.folder), set(_NEEDED) <= set(spec.levels)
    except (TypeError, ValueError, AttributeError):
        known = False
    if not known:
        return f"the trial.json of {trial} is of another version of cnnstudy; run the study again under another name."
    if not all((images / name).is_file() for name in ("images.npy", "index.json")):
        return (
            f"the decoded images that {trial} saw are not in {images} (removed, or on another machine); running one "
            "more trial of the study, by a larger budget or more seeds, decodes them again."
        )
    return spec


def _model_file(registry: Registry, run: RecordedRun, trial: str, folder: Path) -> Path:
    """Raises ModelError or UnknownNameError where it is gone."""
    place = registry.bring(registry.at(run.model), folder)
    file = model_files.find_keras_file(place)
    if file is None:
        raise ModelError(f"the model of {trial} is gone: no {model_files.KERAS_FILE} is in {place}.")
    return file.absolute()


def _first_line(reason: Exception) -> str:
    """A worker's error may have a traceback below."""
    return str(reason).strip().split("\n")[0]
