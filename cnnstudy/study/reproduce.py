"""A trial trained again from its record alone, and how far what comes out is from what was recorded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from cnnstudy.errors import UnknownNameError, WorkerError, did_you_mean
from cnnstudy.execution import Executor, Failed, Job, Workers
from cnnstudy.execution.jobs import run_watched
from cnnstudy.names import best_name
from cnnstudy.records import EpochRecord, TrialResult, TrialSpec
from cnnstudy.study.driver import at_work
from cnnstudy.study.preparation import Preparation
from cnnstudy.study.recorder import Unrecorded
from cnnstudy.study.resume import recorded_config, refuse_other_images
from cnnstudy.system.code_version import code_version, driver_versions
from cnnstudy.system.display import Display
from cnnstudy.system.scratch import scratch_folder
from cnnstudy.tracking.client import Tracker
from cnnstudy.tracking.recorded import RecordedRun, RecordedStudy, latest_runs
from cnnstudy.tracking.registry import Registry

#: Metrics that tell of the machine and not of the trial.
_OF_THE_MACHINE = "time/"


@dataclass(frozen=True)
class MetricDifference:
    """One number of the record that came out otherwise."""

    metric: str
    epoch: int | None  # None: of the whole trial
    recorded: float
    again: float

    @property
    def size(self) -> float:
        return abs(self.again - self.recorded)


@dataclass(frozen=True)
class Reproduction:
    """What came of training a trial again."""

    trial: str  # STUDY/TRIAL
    compared: int  # numbers
    differences: tuple[MetricDifference, ...]  # those that are not equal to the last bit, the largest first
    changed: Mapping[str, tuple[str, str]]  # what it runs on that is not as it was: name -> then, now


def reproduce_trial(given: str, registry: Registry, workers: Workers, display: Display) -> Reproduction:
    """Train a trial again with the specification that its run holds; nothing is recorded of it.

    Args:
        given: STUDY/TRIAL, or the id of a run in MLflow.
        workers: closed at the end.

    Raises:
        UnknownNameError: no such trial, it did not finish, or its record lacks what it was asked to do.
        StudyChangedError: the images or the source weights are no longer those that it was trained with.
        DataError, WeightsError, WorkerError: it can't be trained.
    """
    study, run = _find(given, registry.tracker)
    with scratch_folder() as folder:
        asked = registry.asked(run.run_id, folder)
    try:
        spec = TrialSpec.from_json(asked)
    except (TypeError, KeyError, AttributeError) as reason:
        raise UnknownNameError(
            f"the run of {given} does not hold what it was asked to do (trial.json), or another version "
            f"wrote it: {reason}"
        ) from reason
    # images and weights of this one network, and no others, are to be had; and all is trained again
    config = recorded_config(study)
    training = config.training.model_copy(update={"share_epochs": False})
    config = config.model_copy(update={"architectures": (spec.architecture,), "training": training})
    recorded = registry.tracker.runs(study.experiment_id)
    with at_work(workers):
        executor = workers.executor
        executor.deterministic = config.training.deterministic
        if spec.purpose != "pretrain":
            # images and weights may lie elsewhere by now; that they are the same ones is checked by their digests
            preparation = Preparation(config, executor, Unrecorded(study), recorded, display)
            spec = _with_inputs(spec, preparation)
        spec = replace(spec, keep_model=False, checkpoints="none", share_epochs=False)
        executor.deterministic = spec.deterministic
        epochs, result = _train(given, spec, executor, display)
    compared, differences = _compare(registry.tracker, run, epochs, result)
    return Reproduction(f"{study.name}/{spec.key}", compared, differences, _changed(run, result))


def _with_inputs(spec: TrialSpec, preparation: Preparation) -> TrialSpec:
    """Return the specification with the places of its images and source weights, as they are to be had now."""
    config, name = preparation.config, spec.architecture
    images = preparation.images(config.data, config.architectures)
    refuse_other_images(preparation.recorder.study.name, preparation.recorded, images[name])
    if spec.weights_source == "none":
        return replace(spec, images=images[name], weights_file=None)
    weights = preparation.source_weights(len(images[name].classes))
    return replace(spec, images=images[name], weights_file=weights[name].file)


def _train(given: str, spec: TrialSpec, executor: Executor, display: Display) -> tuple[list[EpochRecord], TrialResult]:
    """Train the trial.

    Raises:
        WorkerError: it failed.
    """
    epochs: list[EpochRecord] = []

    def on_epoch(record: EpochRecord) -> None:
        epochs.append(record)
        display.epoch(spec.key, record)

    display.start_trial(spec.key, "again", spec.epochs)
    outcome = run_watched(executor, Job(spec.key, "run_trial", spec.to_json()), display, on_epoch)
    if isinstance(outcome, Failed):
        raise WorkerError(f"{given} failed this time ({outcome.reason}): {outcome.message}")
    result = TrialResult.from_json(outcome.result)
    display.end_trial(spec.key, result.state)
    return epochs, result


def _find(given: str, tracker: Tracker) -> tuple[RecordedStudy, RecordedRun]:
    studies = tracker.studies()
    name, _, trial = given.partition("/")
    for study in studies:
        if trial and study.name != name:
            continue
        runs = [run for run in tracker.runs(study.experiment_id) if run.trial]
        by_name = latest_runs(runs)
        found = by_name.get(trial) if trial else next((run for run in runs if run.run_id == given), None)
        if found is not None:
            if found.state != "finished":
                raise UnknownNameError(f"{given} can't be compared with itself: it is {found.state}, not finished.")
            return study, found
        if trial:
            raise UnknownNameError(f"there is no trial {trial!r} in study {name!r}{did_you_mean(trial, by_name)}")
    names = ", ".join(study.name for study in studies) or "none"
    raise UnknownNameError(f"{given!r} is neither STUDY/TRIAL nor the id of a trial's run. The studies are {names}.")


def _compare(
    tracker: Tracker, run: RecordedRun, epochs: list[EpochRecord], result: TrialResult
) -> tuple[int, tuple[MetricDifference, ...]]:
    """How many numbers were compared, and those that differ."""
    again: dict[tuple[str, int | None], float] = {}
    for record in epochs:
        again |= {(name, record.epoch): value for name, value in record.metrics.items()}
    again |= {(best_name(name), None): value for name, value in result.summary.items()}
    again |= {(name, None): value for name, value in result.final.items()}
    recorded: dict[tuple[str, int | None], float] = {}
    for name in {name for name, epoch in again if epoch is not None}:
        recorded |= {(name, epoch): value for epoch, value in tracker.metric_history(run.run_id, name).items()}
    recorded |= {(name, None): run.metrics[name] for name, epoch in again if epoch is None and name in run.metrics}
    both = [key for key in recorded if key in again and not key[0].startswith(_OF_THE_MACHINE)]
    found = [MetricDifference(*key, recorded[key], again[key]) for key in both if recorded[key] != again[key]]
    return len(both), tuple(sorted(found, key=lambda one: (-one.size, one.metric, one.epoch or 0)))


def _changed(run: RecordedRun, result: TrialResult) -> dict[str, tuple[str, str]]:
    then = {**run.packages, "code": run.code_version}
    then |= {name: value for name in result.computed_on if (value := run.computed_on(name))}
    now = {**driver_versions(), **result.versions, "code": code_version(), **result.computed_on}
    return {name: (then[name], now[name]) for name in sorted(now) if name in then and then[name] != now[name]}
