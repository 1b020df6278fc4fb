"""What MLflow holds of a study at a moment, and what happened between two moments: news for a display."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from cnnstudy.display import Display
from cnnstudy.errors import CnnstudyError, TrackingError
from cnnstudy.names import Metric, best_name
from cnnstudy.records import EpochRecord, RecordedRun, RecordedStudy
from cnnstudy.schema import StudyConfig
from cnnstudy.tracking import Tracker

#: Clocks of the machines that record may differ by so many milliseconds.
_CLOCKS_DIFFER = 600_000
#: The kinds of runs that are counted, each by itself.
PHASES = ("trial", "confirm")
#: What a display shows of an epoch.
_SHOWN = (Metric.TRAIN_ACCURACY, Metric.VAL_ACCURACY, Metric.GAP_ACCURACY)


@dataclass(frozen=True)
class Snapshot:
    """A study's own run, and its trials, pretrainings and confirmations by run id, oldest first."""

    study: RecordedRun
    runs: Mapping[str, RecordedRun]

    @property
    def running(self) -> bool:
        """Whether a driver runs it, as far as MLflow knows."""
        return self.study.state == "running"

    @property
    def under_way(self) -> list[RecordedRun]:
        """What trains now. A run without parameters is just being made."""
        return [run for run in self.runs.values() if run.state == "running" and run.epochs is not None]

    @property
    def phase(self) -> str:
        """What is counted: the one of PHASES that began last."""
        kinds = [run.kind for run in self.runs.values() if run.kind in PHASES]
        return kinds[-1] if kinds else "trial"

    def done(self, phase: str) -> dict[str, RecordedRun]:
        """By trial the runs of that kind that count."""
        return {run.trial: run for run in self.runs.values() if run.kind == phase and run.done}

    def total(self) -> int:
        """How many trials there are to be; 0 where the configuration is another version's."""
        # neither images nor weights need be on this machine
        config = {**self.study.config, "data": {"name": "digits"}, "weights": {}}
        try:
            return StudyConfig.model_validate(config).total_trials
        except (ValueError, CnnstudyError):
            return 0


def first_snapshot(tracker: Tracker, study: RecordedStudy) -> Snapshot:
    """All that is recorded.

    Raises:
        TrackingError: MLflow does not answer.
    """
    return _snapshot(study.run_id, tracker.runs(study.experiment_id))


def next_snapshot(tracker: Tracker, study: RecordedStudy, before: Snapshot) -> Snapshot:
    """The same later on, from what may have changed only.

    Raises:
        TrackingError: MLflow does not answer.
    """
    since = max((run.ended for run in [before.study, *before.runs.values()]), default=0) - _CLOCKS_DIFFER
    recent = {run.run_id: run for run in tracker.recent_runs(study.experiment_id, max(0, since))}
    if any(run.state == "running" and run.run_id not in recent for run in before.runs.values()):
        return first_snapshot(tracker, study)  # ended by a clock that is further behind
    known = {before.study.run_id: before.study, **before.runs}
    return _snapshot(study.run_id, sorted({**known, **recent}.values(), key=lambda run: run.started))


def _snapshot(study: str, runs: Iterable[RecordedRun]) -> Snapshot:
    by_id = {run.run_id: run for run in runs}
    if study not in by_id:
        raise TrackingError("the study's own run is gone; was it deleted in MLflow?")
    return Snapshot(by_id.pop(study), by_id)


@dataclass(frozen=True)
class Counted:
    """Trials, or confirmations, begin or go on."""

    done: int
    total: int  # 0: not known

    def tell(self, display: Display) -> None:
        display.start_trials(self.done, self.total)


@dataclass(frozen=True)
class Started:
    """It began so many seconds ago."""

    key: str
    title: str
    epochs: int
    seconds: float

    def tell(self, display: Display) -> None:
        display.start_trial(self.key, self.title, self.epochs, self.seconds)


@dataclass(frozen=True)
class Reached:
    """It ended an epoch."""

    key: str
    record: EpochRecord

    def tell(self, display: Display) -> None:
        display.epoch(self.key, self.record)


@dataclass(frozen=True)
class Ended:
    """It is done, or (`again`) was interrupted and is to run again."""

    key: str
    text: str
    again: bool

    def tell(self, display: Display) -> None:
        (display.stop_trial if self.again else display.end_trial)(self.key, self.text)


News = Counted | Started | Reached | Ended


def news(before: Snapshot | None, now: Snapshot, clock: float) -> Iterator[News]:
    """What happened from one snapshot to the next, in the order in which the trials began.

    Args:
        before: None for the first one: what has ended by then is no news, it is only counted.
        clock: seconds since 1970.
    """
    known = before or Snapshot(now.study, {key: run for key, run in now.runs.items() if run.state != "running"})
    phase = now.phase if before is None else before.phase
    if before is None or (now.running and not before.running):
        yield _counted(known, now, phase)
    for run_id, run in now.runs.items():
        if run.epochs is None:  # just being made, or its driver died over that
            continue
        old = known.runs.get(run_id)
        key = run.trial
        if old is None or old.epochs is None:
            if run.kind in PHASES and run.kind != phase:
                phase = run.kind
                yield _counted(known, now, phase)
            seconds = max(0.0, clock - run.started / 1000)
            yield Started(key, run.name.removeprefix(key).strip(), run.epochs, seconds)
        elif old.state != "running":
            continue
        if run.epoch > (old.epoch if old else 0) and all(name in run.metrics for name in _SHOWN):
            yield Reached(key, EpochRecord(run.epoch, {name: run.metrics[name] for name in _SHOWN}))
        if run.state != "running":
            yield Ended(key, ending(run), not run.done)


def _counted(known: Snapshot, now: Snapshot, phase: str) -> Counted:
    return Counted(len(known.done(phase)), now.total() if phase == "trial" else 0)


def ending(run: RecordedRun) -> str:
    """How a trial ended, in a few words."""
    metrics = {name: run.metrics.get(best_name(name)) for name in _SHOWN}
    train, validation, gap = metrics.values()
    if run.reason == "interrupted":
        return "interrupted; the next call runs it again"
    if run.state == "failed":
        return f"failed ({run.reason}): {run.message}"
    if run.from_cache:
        return "source weights from the cache"
    if train is None or validation is None or gap is None:
        return run.state
    if run.kind == "pretrain":
        return f"validation {100 * validation:.1f} %"
    return (
        f"{run.state}, train {100 * train:.1f} %, validation {100 * validation:.1f} %, gap {100 * gap:+.1f} points"
        + (f" at epoch {run.best_epoch}" if run.best_epoch is not None else "")
        + (f": {run.verdict}" if run.verdict else "")
    )
