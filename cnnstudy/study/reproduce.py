"""Train a trial again from its record alone, and compare the numbers with the recorded ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from cnnstudy.errors import UnknownNameError, WorkerError, did_you_mean
from cnnstudy.execution import Executor, Failed, Job, Workers
from cnnstudy.execution.jobs import run_to_end
from cnnstudy.names import best_name
from cnnstudy.records import INTERRUPTED, EpochRecord, TrialResult, TrialSpec
from cnnstudy.study.driver import closing_workers
from cnnstudy.study.preparation import Preparation
from cnnstudy.study.recorder import NullRecorder
from cnnstudy.study.resume import recorded_config, refuse_other_images
from cnnstudy.system.code_version import code_version, driver_versions
from cnnstudy.system.display import Display
from cnnstudy.system.scratch import scratch_folder
from cnnstudy.tracking.client import Tracker
from cnnstudy.tracking.recorded import RecordedRun, RecordedStudy, counted_runs
from cnnstudy.tracking.registry import Registry

#: Metrics that depend on the machine are not compared.
_MACHINE_METRICS = "time/"


@dataclass(frozen=True)
class MetricDifference:
    """A recorded number that the reproduction did not match."""

    metric: str
    epoch: int | None  # None: a metric of the whole trial
    recorded: float
    again: float

    @property
    def size(self) -> float:
        return abs(self.again - self.recorded)


@dataclass(frozen=True)
class Reproduction:
    """The comparison of a trial with its reproduction."""

    trial: str  # STUDY/TRIAL
    compared: int  # how many numbers
    differences: tuple[MetricDifference, ...]  # numbers not equal to the last bit, the largest difference first
    changed: Mapping[str, tuple[str, str]]  # versions and devices that differ: name -> then, now


def reproduce_trial(given: str, registry: Registry, workers: Workers, display: Display) -> Reproduction:
    """Train a trial again with the specification in its run, and compare the numbers; record nothing.

    Args:
        given: STUDY/TRIAL, or the id of a run in MLflow.
        workers: closed at the end.

    Raises:
        UnknownNameError: there is no such trial, it did not finish, or its record lacks the specification.
        StudyChangedError: the images or the source weights differ from those of the trial.
        DataError, WeightsError, WorkerError: it can't be trained.
    """
    study, run = find_trial(given, registry.tracker)
    spec = read_spec(given, run, registry)
    # prepare images and weights for this network alone, and train every epoch instead of sharing some
    config = recorded_config(study)
    training = config.training.model_copy(update={"share_epochs": False})
    config = config.model_copy(update={"architectures": (spec.architecture,), "training": training})
    recorded = registry.tracker.runs(study.experiment_id)
    with closing_workers(workers):
        executor = workers.executor
        executor.deterministic = config.training.deterministic
        if spec.purpose != "pretrain":
            # images and weights may have moved since; their digests show that they are the same
            spec = locate_inputs(spec, Preparation(config, executor, NullRecorder(study), recorded, display))
        spec = replace(spec, keep_model=False, checkpoints="none", share_epochs=False)
        executor.deterministic = spec.deterministic
        epochs, result = _train(given, spec, executor, display)
    compared, differences = _compare(registry.tracker, run, epochs, result)
    return Reproduction(f"{study.name}/{spec.key}", compared, differences, _changed_environment(run, result))


def read_spec(given: str, run: RecordedRun, registry: Registry) -> TrialSpec:
    """Return the specification that a trial's run holds.

    Raises:
        UnknownNameError: it holds none that this version can read.
    """
    with scratch_folder() as folder:
        recorded_spec = registry.read_trial_json(run.run_id, folder)
    try:
        return TrialSpec.from_json(recorded_spec)
    except (TypeError, KeyError, AttributeError) as reason:
        raise UnknownNameError(
            f"the run of {given} has no specification (trial.json), or another version of cnnstudy wrote it: {reason}"
        ) from reason


def locate_inputs(spec: TrialSpec, preparation: Preparation) -> TrialSpec:
    """Return the specification with the present paths of its images and source weights.

    Raises:
        StudyChangedError: they are not the same ones.
    """
    config, name = preparation.config, spec.architecture
    images = preparation.images(config.data, config.architectures)
    refuse_other_images(preparation.recorder.study.name, preparation.recorded, images[name])
    if spec.weights_source == "none":
        return replace(spec, images=images[name], weights_file=None)
    shared = preparation.source_weights().get(name)
    weights = shared or preparation.pretrain(name, spec.block)
    return replace(spec, images=images[name], weights_file=weights.file)


def _train(given: str, spec: TrialSpec, executor: Executor, display: Display) -> tuple[list[EpochRecord], TrialResult]:
    """Train the trial, and return its epochs and result.

    Raises:
        WorkerError: it failed.
    """
    epochs: list[EpochRecord] = []

    def on_epoch(record: EpochRecord) -> None:
        epochs.append(record)
        display.epoch(spec.key, record)

    display.start_trial(spec.key, "again", spec.epochs)
    outcome = run_to_end(executor, Job(spec.key, "run_trial", spec.to_json()), display, on_epoch)
    if isinstance(outcome, Failed):
        raise WorkerError(f"the reproduction of {given} failed ({outcome.reason}): {outcome.message}")
    result = TrialResult.from_json(outcome.result)
    display.end_trial(spec.key, result.state)
    return epochs, result


def find_trial(given: str, tracker: Tracker, what: str = "reproduced") -> tuple[RecordedStudy, RecordedRun]:
    """Return a trial's study and run.

    Args:
        given: STUDY/TRIAL, or the id of a run in MLflow.
        what: is to be done with it, for the message.

    Raises:
        UnknownNameError: there is no such trial, or it did not finish.
    """
    studies = tracker.studies()
    name, _, trial = given.partition("/")
    for study in studies:
        if trial and study.name != name:
            continue
        runs = [run for run in tracker.runs(study.experiment_id) if run.trial]
        by_name = counted_runs(runs)
        found = by_name.get(trial) if trial else next((run for run in runs if run.run_id == given), None)
        if found is not None:
            if found.state != "finished":
                state = found.reason if found.reason == INTERRUPTED else found.state
                raise UnknownNameError(
                    f"{given} can't be {what}: it is {state}, not finished. `run-study` runs interrupted trials again."
                )
            return study, found
        if trial:
            raise UnknownNameError(f"there is no trial {trial!r} in study {name!r}{did_you_mean(trial, by_name)}")
    names = ", ".join(study.name for study in studies) or "none"
    raise UnknownNameError(f"{given!r} is neither STUDY/TRIAL nor the id of a trial's run. The studies are {names}.")


def _compare(
    tracker: Tracker, run: RecordedRun, epochs: list[EpochRecord], result: TrialResult
) -> tuple[int, tuple[MetricDifference, ...]]:
    """Return how many numbers were compared, and those that differ."""
    again: dict[tuple[str, int | None], float] = {}  # metric, epoch -> value
    for record in epochs:
        again |= {(name, record.epoch): value for name, value in record.metrics.items()}
    again |= {(best_name(name), None): value for name, value in result.summary.items()}
    again |= {(name, None): value for name, value in result.final.items()}
    recorded: dict[tuple[str, int | None], float] = {}
    for name in {name for name, epoch in again if epoch is not None}:
        recorded |= {(name, epoch): value for epoch, value in tracker.metric_history(run.run_id, name).items()}
    recorded |= {(name, None): run.metrics[name] for name, epoch in again if epoch is None and name in run.metrics}
    both = [key for key in recorded if key in again and not key[0].startswith(_MACHINE_METRICS)]
    differences = [MetricDifference(*key, recorded[key], again[key]) for key in both if recorded[key] != again[key]]
    return len(both), tuple(sorted(differences, key=lambda one: (-one.size, one.metric, one.epoch or 0)))


def _changed_environment(run: RecordedRun, result: TrialResult) -> dict[str, tuple[str, str]]:
    """Return the versions and devices that differ from those of the recorded run: name -> then, now."""
    then = {**run.packages, "code": run.code_version}
    then |= {name: value for name in result.computed_on if (value := run.computed_on(name))}
    then["replicas"] = run.computed_on("replicas") or "1"  # recorded if there are several
    now = {**driver_versions(), **result.versions, "code": code_version(), "replicas": "1", **result.computed_on}
    return {name: (then[name], now[name]) for name in sorted(now) if name in then and then[name] != now[name]}
