"""A study from its file to its end: the one place that sees search, execution, confirmation and tracking together.

It may be stopped at any moment and called again: what MLflow holds is taken up, what is missing is run.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from pydantic import ValidationError

from cnnstudy.analysis.confirmation import Confirmation
from cnnstudy.config import schema
from cnnstudy.config.load import Study
from cnnstudy.config.schema import Confirm, StudyConfig
from cnnstudy.errors import CnnstudyError, ConfigError, TakenOverError, TrackingUnavailableError
from cnnstudy.execution import Workers
from cnnstudy.names import Tag, count_tag
from cnnstudy.search.factorial import FactorialStrategy
from cnnstudy.search.optuna_search import OptunaSearch
from cnnstudy.search.strategy import Strategy
from cnnstudy.study import resume
from cnnstudy.study.confirmation import NothingToConfirmError, confirm, find_candidates
from cnnstudy.study.driver import Driver, at_work
from cnnstudy.study.estimate import compare_forecast, describe_cost, describe_size, take_forecast
from cnnstudy.study.lock import DriverLock, hold_study_lock
from cnnstudy.study.recorder import Recorder, open_recorder
from cnnstudy.study.resources import StudyResources
from cnnstudy.study.resume import past_trials, recorded_config, recorded_runs, refuse_changes, tidy_up
from cnnstudy.system.display import Display
from cnnstudy.system.processes import terminate_as_interrupt
from cnnstudy.tracking.client import Tracker
from cnnstudy.tracking.operations import EndRun
from cnnstudy.tracking.recorded import RecordedRun, RecordedStudy
from cnnstudy.tracking.retry import RetryPolicy

COUNTS = ("finished", "pruned", "failed", "missing")


@dataclass(frozen=True)
class Outcome:
    """How a call of run-study ended."""

    recorded: RecordedStudy
    finished: int
    pruned: int
    failed: int
    missing: int  # trials that are still to be run
    interrupted: bool
    confirmed: Confirmation | None = None


def run_study(
    study: Study,
    tracker: Tracker,
    workers: Workers,
    display: Display,
    take_over: bool = False,
    patience: RetryPolicy | None = None,
    accept_code: bool = False,
) -> Outcome:
    """Run what is missing of the study; KeyboardInterrupt ends it cleanly.

    Args:
        workers: closed before MLflow is waited for at the end.
        take_over: also from a driver on another machine, of which nobody here can tell whether it lives.
        patience: how long MLflow is waited for; None: the usual one.
        accept_code: trials may be trained by other code than those that are recorded.

    Raises:
        KeyboardInterrupt: where it can't be said how far the study is, for MLflow does not answer.
        DiskFullError: nothing recorded is lost.
        StudyBusyError: another driver runs it.
        StudyChangedError: its file, its images or the code that trains no longer fit the trials that MLflow holds.
        DataError, WeightsError, TrackingError, WorkerError: before the first trial, with nothing lost.
    """
    config, name = study.config.model_dump(mode="json"), study.config.name
    with hold_study_lock(name, tracker.uri), terminate_as_interrupt(leave_at_once=True):
        tidy_up(display)
        recorded = tracker.open_study(name, config)
        with _driving(DriverLock(tracker, recorded), display, patience, take_over) as call:
            refuse_changes(recorded, config, tracker, study)
            call.running = True
            tracker.start_study(recorded, config, study.path, study.text, resume.run_command(study))
            runs = recorded_runs(call.recorder, display)
            with at_work(workers):
                resources = StudyResources(study.config, call.recorder, runs, workers, display, accept_code)
                outcome = _run_and_confirm(resources)
            _end(call.recorder, outcome)
    return outcome


def confirm_study(
    name: str | None,
    options: Mapping[str, int],
    tracker: Tracker,
    workers: Workers,
    display: Display,
    again: bool,
    take_over: bool = False,
    patience: RetryPolicy | None = None,
    accept_code: bool = False,
) -> Outcome:
    """Confirm a recorded study, or what is missing of that; KeyboardInterrupt ends it cleanly.

    Args:
        name: of the study; None: the one that was run last.
        options: keys of `confirm` that are to be others than in its file (or than the usual ones).
        workers: as for run_study.
        again: open the test split though it was opened for another champion.
        take_over: as for run_study.
        patience: how long MLflow is waited for; None: the usual one.
        accept_code: as for run_study.

    Raises:
        UnknownNameError: there is no such study.
        NothingToConfirmError: no trial has finished and learnt something.
        StudyBusyError, StudyChangedError: as run_study.
        DataError, WeightsError, TrackingError, DiskFullError, WorkerError: as run_study.
    """
    found = tracker.study(name)
    with hold_study_lock(found.name, tracker.uri), terminate_as_interrupt(leave_at_once=True):
        tidy_up(display)
        config = recorded_config(found)
        chosen = _confirm_options(config, options)
        with _driving(DriverLock(tracker, found), display, patience, take_over) as call:
            # before the study is marked as running: else it would end as failed
            find_candidates(found.name, call.recorder.runs(), config.objective.rule, chosen.top)
            call.running = True
            tracker.restart_study(found, resume.confirm_command(found.name, options, again))
            _, runs = call.recorder.put_right()
            with at_work(workers):
                resources = StudyResources(config, call.recorder, runs, workers, display, accept_code)
                outcome = _confirm(resources, chosen, again)
            _end(call.recorder, outcome)
    return outcome


@dataclass
class _Call:
    """A call that is the study's one driver."""

    recorder: Recorder
    running: bool = False  # the study is marked so, or is about to be


@contextlib.contextmanager
def _driving(claim: DriverLock, display: Display, patience: RetryPolicy | None, take_over: bool) -> Iterator[_Call]:
    """Be the study's one driver, with what an earlier call left delivered.

    Whatever stops a call before the study is marked as running leaves it for others to run; whatever stops it later
    leaves no run as running.
    """
    call: _Call | None = None
    try:
        claim.take(take_over)
        with open_recorder(claim.tracker, claim.study, display.say, patience, claim.check) as recorder:
            claim.take()  # what was left may have ended with the words that give the study up
            call = _Call(recorder)
            try:
                yield call
            except TakenOverError:  # all of it is another driver's now
                raise
            except BaseException as error:
                if call.running:
                    _end_as_failed(recorder, error)
                raise
    except BaseException:
        if call is None or not call.running:
            with contextlib.suppress(CnnstudyError):  # MLflow itself may be what is broken
                claim.give_up()
        raise


def _confirm_options(config: StudyConfig, given: Mapping[str, int]) -> Confirm:
    try:
        return Confirm.model_validate({**(config.confirm or Confirm()).model_dump(), **given})
    except ValidationError as error:
        options = {str(details["loc"][0]).replace("_", "-"): details["msg"] for details in error.errors()}
        raise ConfigError("; ".join(f"--{option} {text}" for option, text in options.items())) from None


def _end_as_failed(recorder: Recorder, error: BaseException) -> None:
    """Leave no run as running, and say on the study's own run what ended it."""
    reason = "interrupted" if isinstance(error, KeyboardInterrupt) else ""
    with contextlib.suppress(CnnstudyError):  # the tracking server itself may be what is broken
        recorder.interrupt_unfinished()
        recorder.end_study("failed", {Tag.REASON: reason, Tag.MESSAGE: str(error)})


def _run_and_confirm(resources: StudyResources) -> Outcome:
    """Run the missing trials, and confirm the study where its file says so; how far it is where that is interrupted."""
    config, study = resources.config, resources.recorder.study
    try:
        runs = _run_missing(resources)
        outcome = _outcome(config, study, runs, interrupted=False)
        if config.confirm is None or outcome.missing or not outcome.finished:
            return outcome
        return replace(outcome, confirmed=confirm(resources, runs, config.confirm))
    except NothingToConfirmError as nothing:
        resources.display.say(str(nothing))
        return outcome
    except KeyboardInterrupt:
        return _interrupted(resources)


def _confirm(resources: StudyResources, options: Confirm, again: bool) -> Outcome:
    """Confirm the study; how far it is where that is interrupted."""
    try:
        confirmed = confirm(resources, resources.recorded, options, again)
    except KeyboardInterrupt:
        return _interrupted(resources)
    outcome = _outcome(resources.config, resources.recorder.study, resources.recorded, interrupted=False)
    return replace(outcome, confirmed=confirmed)


def _interrupted(resources: StudyResources) -> Outcome:
    """How far the study is.

    Raises:
        KeyboardInterrupt: MLflow does not answer; who stops does not wait for that.
    """
    recorder = resources.recorder
    recorder.interrupt_unfinished()
    if recorder.outbox.delivery.waits:
        raise KeyboardInterrupt
    try:
        runs = recorder.tracker.runs(recorder.study.experiment_id)
    except TrackingUnavailableError:
        raise KeyboardInterrupt from None
    return _outcome(resources.config, recorder.study, runs, interrupted=True)


def _end(recorder: Recorder, outcome: Outcome) -> None:
    tags = {count_tag(name): str(getattr(outcome, name)) for name in COUNTS}
    tags |= {Tag.REASON: "interrupted"} if outcome.interrupted else {}
    tags[Tag.DRIVER] = ""
    recorder.outbox.write(recorder.study.run_id, EndRun("failed" if outcome.missing else "finished", tags))
    recorder.outbox.delivery.wait()


def _run_missing(resources: StudyResources) -> Sequence[RecordedRun]:
    """Run the trials that are missing; the study's runs after that."""
    config, recorder, display = resources.config, resources.recorder, resources.display
    past = past_trials(config, recorder, resources.recorded)
    factorial = FactorialStrategy(config, past) if isinstance(config.strategy, schema.FactorialConfig) else None
    strategy: Strategy = factorial or OptunaSearch(config, past)
    if factorial is not None:
        describe_size(config, factorial.remaining, display)
    if strategy.remaining <= 0:  # below 0 where the budget was lowered
        return resources.recorded
    resources.prepare()
    driver = Driver(resources, strategy)
    if factorial is None:
        estimate = take_forecast(config, strategy.remaining, resources.executor.slots)
    else:
        specs = [resources.spec_of(proposal) for proposal in factorial.upcoming]
        experiment = recorder.study.experiment_id
        artifacts = recorder.outbox.delivery.ask(lambda: recorder.tracker.artifacts_of(experiment))
        estimate = describe_cost(specs, resources.recorded, artifacts, resources.executor, display)
    started = time.monotonic()
    driver.run(config.total_trials)
    if estimate is not None:
        compare_forecast(estimate, time.monotonic() - started, recorder, display)
    return recorder.runs()


def _outcome(config: StudyConfig, study: RecordedStudy, runs: Sequence[RecordedRun], interrupted: bool) -> Outcome:
    done = [run for run in runs if run.kind == "trial" and run.done]
    return Outcome(
        recorded=study,
        finished=sum(run.state == "finished" for run in done),
        pruned=sum(run.state == "pruned" for run in done),
        failed=sum(run.state == "failed" for run in done),
        missing=_missing(config, done),
        interrupted=interrupted,
    )


def _missing(config: StudyConfig, done: list[RecordedRun]) -> int:
    """A search needs so many trials of each network, a factorial those with the numbers of its cells and seeds."""
    missing = 0
    for name in config.architectures:
        numbers = {run.number for run in done if run.architecture == name}
        if isinstance(config.strategy, schema.FactorialConfig):
            numbers = {number for number in numbers if number < config.trials_of(name)}
        missing += max(0, config.trials_of(name) - len(numbers))
    return missing
