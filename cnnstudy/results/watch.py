"""The live view of a study that another process runs, perhaps on another machine: all of it is read from MLflow.

A snapshot is what MLflow has of a study; the events between two snapshots are what a display shows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from cnnstudy.config.schema import StudyConfig
from cnnstudy.errors import CnnstudyError, TrackingError
from cnnstudy.names import Metric
from cnnstudy.records import EpochRecord
from cnnstudy.study.interim import SO_FAR
from cnnstudy.study.looks import read_stopped
from cnnstudy.study.resume import missing_trials_command, resume_command
from cnnstudy.system.display import Display, format_duration
from cnnstudy.system.processes import terminate_as_interrupt
from cnnstudy.tracking.client import Tracker
from cnnstudy.tracking.recorded import RecordedRun, RecordedStudy, best_metrics
from cnnstudy.training.verdict import describe_accuracies

#: Tolerated difference, in milliseconds, between the clocks of the machines that record.
_CLOCK_TOLERANCE = 600_000
#: The kinds of runs that are counted, each separately.
PHASES = ("trial", "confirm")
#: The metrics of an epoch that a display shows.
_SHOWN = (Metric.TRAIN_ACCURACY, Metric.VAL_ACCURACY, Metric.GAP_ACCURACY)


@dataclass(frozen=True)
class Snapshot:
    """A study's own run, and the runs of its trials, pretrainings and confirmations by run id, oldest first."""

    study: RecordedRun
    runs: Mapping[str, RecordedRun]

    @property
    def running(self) -> bool:
        """Whether a driver runs the study, as far as MLflow knows."""
        return self.study.state == "running"

    @property
    def running_trials(self) -> list[RecordedRun]:
        """The runs that train now; a run without parameters is still being created."""
        return [run for run in self.runs.values() if run.state == "running" and run.epochs is not None]

    @property
    def phase(self) -> str:
        """The one of PHASES that is counted: that of the newest run."""
        kinds = [run.kind for run in self.runs.values() if run.kind in PHASES]
        return kinds[-1] if kinds else "trial"

    def done(self, phase: str) -> dict[str, RecordedRun]:
        """Return the ended runs of that kind that count, by trial."""
        return {run.trial: run for run in self.runs.values() if run.kind == phase and run.done}

    def total(self) -> int:
        """Return how many trials the study has in all; 0 if another version wrote the configuration."""
        # images and weights need not be on this machine
        config = {**self.study.config, "data": {"name": "digits"}, "weights": {}}
        try:
            return read_stopped(StudyConfig.model_validate(config), self.study.stopped).total_trials
        except (ValueError, CnnstudyError):
            return 0


def first_snapshot(tracker: Tracker, study: RecordedStudy) -> Snapshot:
    """Read everything that is recorded.

    Raises:
        TrackingError: MLflow does not answer.
    """
    return _snapshot(study.run_id, tracker.runs(study.experiment_id))


def next_snapshot(tracker: Tracker, study: RecordedStudy, before: Snapshot) -> Snapshot:
    """Read a later snapshot, asking only for runs that may have changed.

    Raises:
        TrackingError: MLflow does not answer.
    """
    since = max((run.ended for run in [before.study, *before.runs.values()]), default=0) - _CLOCK_TOLERANCE
    recent = {run.run_id: run for run in tracker.recent_runs(study.experiment_id, max(0, since))}
    if any(run.state == "running" and run.run_id not in recent for run in before.runs.values()):
        return first_snapshot(tracker, study)  # ended according to a clock that is further behind
    known = {before.study.run_id: before.study, **before.runs}
    return _snapshot(study.run_id, sorted({**known, **recent}.values(), key=lambda run: run.started))


def _snapshot(study: str, runs: Iterable[RecordedRun]) -> Snapshot:
    by_id = {run.run_id: run for run in runs}
    if study not in by_id:
        raise TrackingError("the study's own run is gone; was it deleted in MLflow?")
    return Snapshot(by_id.pop(study), by_id)


@dataclass(frozen=True)
class CountChanged:
    """The trials or the confirmations begin or continue."""

    done: int
    total: int  # 0: unknown

    def tell(self, display: Display) -> None:
        display.start_trials(self.done, self.total)


@dataclass(frozen=True)
class TrialStarted:
    """A trial began `seconds` ago."""

    key: str
    title: str
    epochs: int
    seconds: float

    def tell(self, display: Display) -> None:
        display.start_trial(self.key, self.title, self.epochs, self.seconds)


@dataclass(frozen=True)
class EpochEnded:
    """A trial ended an epoch."""

    key: str
    record: EpochRecord

    def tell(self, display: Display) -> None:
        display.epoch(self.key, self.record)


@dataclass(frozen=True)
class TrialEnded:
    """A trial is done, or (`again`) was interrupted and will run again."""

    key: str
    text: str
    again: bool

    def tell(self, display: Display) -> None:
        (display.stop_trial if self.again else display.end_trial)(self.key, self.text)


@dataclass(frozen=True)
class AnswerChanged:
    """The driver has computed what the trials say so far."""

    text: str

    def tell(self, display: Display) -> None:
        display.show_answer(self.text)


Event = CountChanged | TrialStarted | EpochEnded | TrialEnded | AnswerChanged


def list_events(before: Snapshot | None, now: Snapshot, clock: float) -> Iterator[Event]:
    """Yield what happened between two snapshots, in the order in which the trials began.

    Args:
        before: None for the first snapshot: runs that have ended are then only counted.
        clock: seconds since 1970.
    """
    known = before or Snapshot(now.study, {key: run for key, run in now.runs.items() if run.state != "running"})
    phase = now.phase if before is None else before.phase
    if before is None or (now.running and not before.running):
        yield _count(known, now, phase)
    for run_id, run in now.runs.items():
        if run.epochs is None:  # still being created, or its driver died while creating it
            continue
        old = known.runs.get(run_id)
        key = run.trial
        if old is None or old.epochs is None:
            if run.kind in PHASES and run.kind != phase:
                phase = run.kind
                yield _count(known, now, phase)
            seconds = max(0.0, clock - run.started / 1000)
            yield TrialStarted(key, run.name.removeprefix(key).strip(), run.epochs, seconds)
        elif old.state != "running":
            continue
        if run.epoch > (old.epoch if old else 0) and all(name in run.metrics for name in _SHOWN):
            yield EpochEnded(key, EpochRecord(run.epoch, {name: run.metrics[name] for name in _SHOWN}))
        if run.state != "running":
            yield TrialEnded(key, describe_end(run), not run.done)
    answer = now.study.note
    if now.running and answer.startswith(SO_FAR) and (before is None or answer != before.study.note):
        yield AnswerChanged(answer)


def _count(known: Snapshot, now: Snapshot, phase: str) -> CountChanged:
    return CountChanged(len(known.done(phase)), now.total() if phase == "trial" else 0)


def describe_end(run: RecordedRun) -> str:
    """Describe in a few words how a trial ended."""
    metrics = best_metrics(run)
    if run.reason == "interrupted":
        return "interrupted; the next run of the study repeats it"
    if run.state == "failed":
        return f"failed ({run.reason}): {run.message}"
    if run.from_cache:
        return "source weights from the cache"
    if not metrics.keys() >= set(_SHOWN):
        return run.state
    if run.kind == "pretrain":
        return f"validation {100 * metrics[Metric.VAL_ACCURACY]:.1f} %"
    return (
        f"{run.state}, {describe_accuracies(run.verdict_counts, metrics)}"
        + (f" at epoch {run.best_epoch}" if run.best_epoch is not None else "")
        + (f": {run.verdict}" if run.verdict else "")
    )


#: Seconds without news after which the view says so: a killed driver sends nothing.
QUIET_SECONDS = 600.0


def watch_study(
    tracker: Tracker,
    name: str | None,
    display: Display,
    poll_seconds: float = 2.0,
    until_done: bool = True,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.time,
) -> None:
    """Show a study until its driver ends; if no driver runs it, show where it stands and return.

    KeyboardInterrupt ends the view, not the study. If MLflow stops answering, it is asked until it does.

    Args:
        name: the study's name; None: the latest study.
        until_done: False: when no driver runs, wait for the next one; only KeyboardInterrupt ends the view then.
        clock: seconds since 1970.

    Raises:
        UnknownNameError: there is no such study.
        TrackingError: MLflow does not answer at the start.
    """
    study = tracker.study(name)
    before, now = None, first_snapshot(tracker, study)
    last_news, reported = clock(), False
    try:
        with terminate_as_interrupt():
            while True:
                events = list(list_events(before, now, clock())) if now.running or before is not None else []
                for event in events:
                    event.tell(display)
                if before is None or before.running != now.running:
                    display.show_message(describe_progress(study.name, now, tracker.uri))
                if until_done and not now.running:
                    return
                if events:
                    last_news, reported = clock(), False
                elif now.running and not reported and clock() - last_news >= QUIET_SECONDS:
                    silence = format_duration(clock() - last_news)
                    display.show_message(f"no news for {silence}: a long epoch, or the driver was killed")
                    reported = True
                before, now = now, _wait_for_snapshot(tracker, study, now, display, lambda: sleep(poll_seconds))
    except KeyboardInterrupt:
        display.show_message(f"View closed; study {study.name} is not affected.")
        raise


def _wait_for_snapshot(
    tracker: Tracker, study: RecordedStudy, before: Snapshot, display: Display, wait: Callable[[], None]
) -> Snapshot:
    """Return the next snapshot; if MLflow does not answer, say so once and ask again until it does."""
    reported = False
    while True:
        wait()
        try:
            snapshot = next_snapshot(tracker, study, before)
        except TrackingError as error:
            if not reported:
                display.show_message(f"{error}\nTrying again until it answers; Ctrl-C closes the view.")
            reported = True
            continue
        if reported:
            display.show_message("MLflow answers again")
        return snapshot


def describe_progress(name: str, now: Snapshot, uri: str | None = None) -> str:
    """Describe a study's progress, and if no driver runs it, how it ended.

    Args:
        uri: where the study is recorded, for the command that resumes it; None: the default.
    """
    trials, total = now.done("trial"), now.total()
    states = [run.state for run in trials.values()]
    counts = [f"{states.count(state)} {state}" for state in ("finished", "pruned", "failed")]
    missing = total - len(trials)
    if now.running:
        counts.append(f"{len(now.running_trials)} running")
        missing -= sum(run.kind == "trial" for run in now.running_trials)
    counts += [f"{max(0, missing)} {'to start' if now.running else 'missing'}"] if total else []
    if confirmations := now.done("confirm"):
        counts.append(f"{len(confirmations)} done with fresh seeds")
    text = f"study {name}: {', '.join(counts)}"
    if now.running:
        return (
            text if now.running_trials else f"{text}; no trial is running, its images or weights may be in preparation"
        )
    if now.study.reason == "interrupted":
        ending = f"it was stopped; {resume_command(now.study, uri)}"
    elif now.study.state == "failed" and now.study.message:
        ending = f"it ended with an error: {now.study.message}"
    elif now.study.state == "failed":
        ending = f"it ended with trials missing; {missing_trials_command(now.study, uri)}"
    else:
        ending = "it is done"
    return f"{text}. No driver is running: {ending}."
