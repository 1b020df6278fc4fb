"""A model's mistakes next to the training images most similar to them, or the reason why they can't be shown."""

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

#: Number of mistakes in a gallery.
MOST_MISTAKES = 12
#: Factors that determine which images a trial saw.
_NEEDED = ("data_fraction", "shuffled_labels")


def explain_study_mistakes(
    registry: Registry, study: RecordedStudy, executor: Executor, display: Display, folder: Path
) -> dict[str, Any] | str:
    """Explain the mistakes of the champion's model, else of the best trial whose model was kept.

    Returns:
        The gallery (see `explain_trial_mistakes`) with the `trial`, or a sentence that says why there is none.

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
        run = best_single_trial([run for run in runs if run.kind == "trial" and run.model], study.rule)
    if run is None:
        return (
            f"No model of this study was kept. `python -m cnnstudy confirm {study.name}` keeps those of its candidates."
        )
    gallery = explain_trial_mistakes(registry, study, run, executor, display, folder)
    return gallery if isinstance(gallery, str) else {**gallery, "trial": run.trial}


def explain_trial_mistakes(
    registry: Registry,
    study: RecordedStudy,
    run: RecordedRun,
    executor: Executor,
    display: Display,
    folder: Path,
    count: int = MOST_MISTAKES,
) -> dict[str, Any] | str:
    """Explain a trial's mistakes.

    Args:
        folder: receives the pictures.
        count: the most mistakes to explain.

    Returns:
        The answer of `explain_mistakes` in training/mistakes.py, or a sentence that says why there is none.

    Raises:
        TrackingError: MLflow does not answer.
    """
    trial = f"{study.name}/{run.trial or run.name}"
    with scratch_folder() as scratch:
        spec = _read_spec(registry, run, trial, scratch)
        if isinstance(spec, str):
            return spec
        try:
            file = _fetch_model_file(registry, run, trial, scratch)
            payload = {"spec": spec.to_json(), "model": str(file), "folder": str(folder.absolute()), "count": count}
            answer = run_job(executor, Job(f"gallery-{spec.key}", "explain_mistakes", payload), display)
        except (DataError, ModelError, UnknownNameError) as reason:
            return _first_line(reason)
        except WorkerError as reason:
            return f"looking for the mistakes of {trial} failed: {_first_line(reason)}"
    if not answer["wrong"]:
        count = answer["validation"]
        return f"{trial} classifies all of its {count} validation images correctly: there is no mistake to show."
    return dict(answer)


def _read_spec(registry: Registry, run: RecordedRun, trial: str, folder: Path) -> TrialSpec | str:
    """Return the trial's specification if its model and images may still exist; else a sentence that says why not."""
    if not run.model:
        return f"{trial} has no model; finished trials keep theirs unless the study file says `keep_models: false`."
    asked = registry.read_trial_json(run.run_id, folder)
    if asked is None:
        return f"{trial} has no readable trial.json, so it is not known which images it saw."
    try:
        spec = TrialSpec.from_json(asked)
        images, complete = Path(spec.images.folder), set(_NEEDED) <= set(spec.levels)
    except (TypeError, ValueError, AttributeError):
        complete = False
    if not complete:
        return f"the trial.json of {trial} is from another version of cnnstudy; run the study again under another name."
    if not all((images / name).is_file() for name in ("images.npy", "index.json")):
        return (
            f"the decoded images that {trial} saw are not in {images} (removed, or on another machine); to decode them "
            "again, run one more trial of the study, with a larger budget or more seeds."
        )
    return spec


def _fetch_model_file(registry: Registry, run: RecordedRun, trial: str, folder: Path) -> Path:
    """Return the path of the trial's Keras file; raise ModelError or UnknownNameError if it is gone."""
    model = registry.fetch_folder(registry.at(run.model), folder)
    file = model_files.find_keras_file(model)
    if file is None:
        raise ModelError(f"the model of {trial} is gone: there is no {model_files.KERAS_FILE} in {model}.")
    return file.absolute()


def _first_line(reason: Exception) -> str:
    """Return the message without a worker's traceback below it."""
    return str(reason).strip().split("\n")[0]
