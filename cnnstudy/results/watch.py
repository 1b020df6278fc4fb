"""A live view of a study that another process runs, maybe on another machine: all of it is read from MLflow."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from cnnstudy.config.schema import StudyConfig
from cnnstudy.errors import CnnstudyError, TrackingError
from cnnstudy.names import Metric, best_name
from cnnstudy.records import EpochRecord
from cnnstudy.study.resume import missing_trials_command, resume_command
from cnnstudy.system.display import Display, format_duration
from cnnstudy.system.processes import terminate_as_interrupt
from cnnstudy.tracking.client import Tracker
from cnnstudy.tracking.recorded import RecordedRun, RecordedStudy

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
class CountChanged:
    """Trials, or confirmations, begin or go on."""

    done: int
    total: int  # 0: not known

    def tell(self, display: Display) -> None:
        display.start_trials(self.done, self.total)


@dataclass(frozen=True)
class TrialStarted:
    """It began so many seconds ago."""

    key: str
    title: str
    epochs: int
    seconds: float

    def tell(self, display: Display) -> None:
        display.start_trial(self.key, self.title, self.epochs, self.seconds)


@dataclass(frozen=True)
class EpochEnded:
    """It ended an epoch."""

    key: str
    record: EpochRecord

    def tell(self, display: Display) -> None:
        display.epoch(self.key, self.record)


@dataclass(frozen=True)
class TrialEnded:
    """It is done, or (`again`) was interrupted and is to run again."""

    key: str
    text: str
    again: bool

    def tell(self, display: Display) -> None:
        (display.stop_trial if self.again else display.end_trial)(self.key, self.text)


News = CountChanged | TrialStarted | EpochEnded | TrialEnded


def list_events(before: Snapshot | None, now: Snapshot, clock: float) -> Iterator[News]:
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
            yield TrialStarted(key, run.name.removeprefix(key).strip(), run.epochs, seconds)
        elif old.state != "running":
            continue
        if run.epoch > (old.epoch if old else 0) and all(name in run.metrics for name in _SHOWN):
            yield EpochEnded(key, EpochRecord(run.epoch, {name: run.metrics[name] for name in _SHOWN}))
        if run.state != "running":
            yield TrialEnded(key, describe_ending(run), not run.done)


def _counted(known: Snapshot, now: Snapshot, phase: str) -> CountChanged:
    return CountChanged(len(known.done(phase)), now.total() if phase == "trial" else 0)


def describe_ending(run: RecordedRun) -> str:
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


#: After so many seconds without news the view says so: a driver that was killed says nothing any more.
QUIET = 600.0


def watch_study(
    tracker: Tracker,
    name: str | None,
    display: Display,
    poll_seconds: float = 2.0,
    until_done: bool = True,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.time,
) -> None:
    """Show a study until its driver ends; a study that none runs is told and left, unless it is to be waited for.

    KeyboardInterrupt ends the view, not the study. Where MLflow stops answering it is asked again and again.

    Args:
        name: of the study; None: the one that was run last.
        until_done: else it waits for the next driver, and is ended by KeyboardInterrupt alone.
        clock: seconds since 1970.

    Raises:
        UnknownNameError: there is no such study.
        TrackingError: MLflow does not answer at the start.
    """
    study = tracker.study(name)
    before, now = None, first_snapshot(tracker, study)
    latest, silent = clock(), False
    try:
        with terminate_as_interrupt():
            while True:
                found = list(list_events(before, now, clock())) if now.running or before is not None else []
                for one in found:
                    one.tell(display)
                if before is None or before.running != now.running:
                    display.say(describe_standing(study.name, now))
                if until_done and not now.running:
                    return
                if found:
                    latest, silent = clock(), False
                elif now.running and not silent and clock() - latest >= QUIET:
                    display.say(
                        f"no news for {format_duration(clock() - latest)}: a long epoch, or its driver was killed"
                    )
                    silent = True
                before, now = now, _next(tracker, study, now, display, lambda: sleep(poll_seconds))
    except KeyboardInterrupt:
        display.say(f"The view ends; study {study.name} is left as it is.")
        raise


def _next(
    tracker: Tracker, study: RecordedStudy, before: Snapshot, display: Display, wait: Callable[[], None]
) -> Snapshot:
    """The next snapshot that can be had."""
    silent = False
    while True:
        wait()
        try:
            found = next_snapshot(tracker, study, before)
        except TrackingError as error:
            if not silent:
                display.say(f"{error}\nTrying again until it does; Ctrl-C ends the view.")
            silent = True
            continue
        if silent:
            display.say("MLflow answers again")
        return found


def describe_standing(name: str, now: Snapshot) -> str:
    """Where the study of that name stands: how far it is, and how it ended where no driver runs it."""
    trials, total = now.done("trial"), now.total()
    states = [run.state for run in trials.values()]
    counts = [f"{states.count(state)} {state}" for state in ("finished", "pruned", "failed")]
    missing = total - len(trials)
    if now.running:
        counts.append(f"{len(now.under_way)} under way")
        missing -= sum(run.kind == "trial" for run in now.under_way)
    counts += [f"{max(0, missing)} {'to begin' if now.running else 'missing'}"] if total else []
    if confirmations := now.done("confirm"):
        counts.append(f"{len(confirmations)} done with fresh seeds")
    text = f"study {name}: {', '.join(counts)}"
    if now.running:
        return text if now.under_way else f"{text}; no trial is under way, its images or weights may be in the making"
    if now.study.reason == "interrupted":
        ended = f"it was stopped; {resume_command(now.study)}"
    elif now.study.state == "failed" and now.study.message:
        ended = f"it ended with an error: {now.study.message}"
    elif now.study.state == "failed":
        ended = f"it ended with trials missing; {missing_trials_command(now.study)}"
    else:
        ended = "it is done"
    return f"{text}. No driver is running: {ended}."
