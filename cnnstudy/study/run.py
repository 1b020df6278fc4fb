"""Run a study from its file to its end, or resume it: `run_study` and `confirm_study`.

A study may be stopped at any moment and run again: trials that MLflow holds are kept, missing ones are run.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from pydantic import ValidationError

from cnnstudy.analysis.confirmation import Confirmation
from cnnstudy.config import strategies
from cnnstudy.config.load import Study
from cnnstudy.config.schema import Confirm, StudyConfig
from cnnstudy.errors import CnnstudyError, ConfigError, TakenOverError, TrackingUnavailableError
from cnnstudy.execution import Workers
from cnnstudy.names import NOBODY, Tag, count_tag
from cnnstudy.search import make_strategy
from cnnstudy.search.factorial import FactorialStrategy
from cnnstudy.study import resume
from cnnstudy.study.confirmation import NothingToConfirmError, confirm, find_candidates
from cnnstudy.study.driver import Driver, closing_workers
from cnnstudy.study.estimate import (
    STAND_IN_WEIGHTS,
    report_cost,
    report_power,
    report_size,
    warn_of_few_validation_images,
)
from cnnstudy.study.forecast import pop_estimate, report_estimate_error
from cnnstudy.study.interim import InterimAnswer
from cnnstudy.study.lock import DriverLock, hold_study_lock
from cnnstudy.study.looks import read_stopped, release_block
from cnnstudy.study.recorder import Recorder, open_recorder
from cnnstudy.study.resources import StudyResources
from cnnstudy.study.resume import (
    clean_machine,
    past_trials,
    recorded_config,
    recover_runs,
    retry_failed,
    settle_settings,
    warn_of_new_record,
)
from cnnstudy.system.display import Display
from cnnstudy.system.processes import terminate_as_interrupt
from cnnstudy.system.scratch import restate_os_error
from cnnstudy.tracking.client import Tracker
from cnnstudy.tracking.operations import EndRun
from cnnstudy.tracking.origin import describe_origin
from cnnstudy.tracking.recorded import RecordedRun, RecordedStudy, counted_runs
from cnnstudy.tracking.retry import RetryPolicy

Value = TypeVar("Value")
#: The fields of Outcome that are recorded as tags.
COUNTS = ("finished", "pruned", "failed", "missing")


@dataclass(frozen=True)
class Outcome:
    """The state of a study after run-study or confirm, in numbers of trials."""

    recorded: RecordedStudy
    finished: int
    pruned: int
    failed: int
    missing: int  # still to be run
    interrupted: bool
    confirmed: Confirmation | None = None


def run_study(
    study: Study,
    tracker: Tracker,
    workers: Workers,
    display: Display,
    take_over: bool = False,
    retry_policy: RetryPolicy | None = None,
    accept_code: bool = False,
    retry: bool = False,
    leave_at_once: bool = True,
    always_reads_images: bool = False,
) -> Outcome:
    """Run the study's missing trials, then confirm it if its file says so; KeyboardInterrupt ends it cleanly.

    Args:
        workers: closed before waiting for MLflow at the end.
        take_over: take the study even from a driver on another machine, which may still be alive.
        retry_policy: how long to wait for MLflow; None: the default.
        accept_code: allow training code that differs from the code of the recorded trials.
        retry: run trials that failed again, but not those whose loss diverged.
        leave_at_once: end this process at a second interrupt; not where it holds other work, as a notebook's does.
        always_reads_images: also where no trial is missing, so that images that changed are refused.

    Raises:
        KeyboardInterrupt: interrupted while MLflow does not answer, so that the study's state is unknown.
        DiskFullError: the disk is full; nothing recorded is lost.
        StudyBusyError: another driver is running the study.
        StudyChangedError: the settings, the images or the training code differ from those of the recorded trials.
        DataError, WeightsError, TrackingError, WorkerError: before the first trial, or that of a seed; nothing is lost.
    """
    with hold_study_lock(study.config.name, tracker.uri), terminate_as_interrupt(leave_at_once):
        clean_machine(display)
        wait = functools.partial(_wait_for, retry_policy or RetryPolicy(), display)
        recorded = wait(lambda: tracker.open_study(study.config.name, study.config.model_dump(mode="json")))
        with _become_driver(DriverLock(tracker, recorded), display, retry_policy, take_over) as session:
            earlier = functools.partial(tracker.runs, recorded.experiment_id)
            study = wait(lambda: settle_settings(study, recorded, earlier, display))
            session.running = True
            session.recorder.origin = describe_origin(study.path)
            tags, config = resume.run_command(study) | session.recorder.origin, study.config.model_dump(mode="json")
            wait(lambda: tracker.start_study(recorded, config, study.path, study.text, tags))
            session.recorder.study = replace(recorded, config=config)  # with more seeds, say
            runs = recover_runs(session.recorder, display)
            warn_of_new_record(recorded, runs, display)
            runs = retry_failed(session.recorder, runs, display) if retry else runs
            with closing_workers(workers):
                resources = StudyResources(study.config, session.recorder, runs, workers, display, accept_code)
                outcome = _run_and_confirm(resources, always_reads_images)
            _end_study(session.recorder, outcome)
    return outcome


def confirm_study(
    name: str | None,
    options: Mapping[str, int],
    tracker: Tracker,
    workers: Workers,
    display: Display,
    again: bool,
    take_over: bool = False,
    retry_policy: RetryPolicy | None = None,
    accept_code: bool = False,
) -> Outcome:
    """Confirm a recorded study, or resume its confirmation; KeyboardInterrupt ends it cleanly.

    Args:
        name: of the study; None: the one that was run last.
        options: keys of `confirm` that replace those of the study's file, or the defaults.
        workers: as for run_study.
        again: evaluate on the test split even if it was already used for another champion.
        take_over: as for run_study.
        retry_policy: as for run_study.
        accept_code: as for run_study.

    Raises:
        UnknownNameError: there is no such study.
        ConfigError: an option is out of range.
        NothingToConfirmError: no trial has finished and learnt anything.
        StudyBusyError, StudyChangedError: as run_study.
        DataError, WeightsError, TrackingError, DiskFullError, WorkerError: as run_study.
    """
    wait = functools.partial(_wait_for, retry_policy or RetryPolicy(), display)
    recorded = wait(lambda: tracker.study(name))
    with hold_study_lock(recorded.name, tracker.uri), terminate_as_interrupt(leave_at_once=True):
        clean_machine(display)
        config = recorded_config(recorded)
        chosen = _confirm_options(config, options)
        with _become_driver(DriverLock(tracker, recorded), display, retry_policy, take_over) as session:
            # before the study is marked as running: otherwise it would end as failed
            find_candidates(recorded.name, session.recorder.runs(), config.objective.rule, chosen.top)
            session.running = True
            session.recorder.origin = describe_origin(None)
            wait(lambda: tracker.restart_study(recorded, resume.confirm_command(recorded.name, options, again)))
            _, runs = session.recorder.recover_interrupted()
            with closing_workers(workers):
                resources = StudyResources(config, session.recorder, runs, workers, display, accept_code)
                outcome = _confirm(resources, chosen, again)
            _end_study(session.recorder, outcome)
    return outcome


def _confirm_options(config: StudyConfig, given: Mapping[str, int]) -> Confirm:
    try:
        return Confirm.model_validate({**(config.confirm or Confirm()).model_dump(), **given})
    except ValidationError as error:
        options = {str(details["loc"][0]).replace("_", "-"): details["msg"] for details in error.errors()}
        raise ConfigError("; ".join(f"--{option} {text}" for option, text in options.items())) from None


@dataclass
class _Session:
    """This process while it is the study's driver."""

    recorder: Recorder
    running: bool = False  # the study is marked as running, or is about to be


@contextlib.contextmanager
def _become_driver(
    lock: DriverLock, display: Display, retry_policy: RetryPolicy | None, take_over: bool
) -> Iterator[_Session]:
    """Become the study's driver, and deliver the records that an earlier driver left behind.

    An error before the study is marked as running releases the study; a later one ends all its runs as failed.
    """
    session: _Session | None = None
    wait = functools.partial(_wait_for, retry_policy or RetryPolicy(), display)
    try:
        wait(lambda: lock.take(take_over))
        with open_recorder(lock.tracker, lock.study, display.show_message, retry_policy, lock.check) as recorder:
            wait(lock.take)  # again: the records just delivered may have ended with the one that releases the study
            session = _Session(recorder)
            try:
                yield session
            except TakenOverError:  # the runs belong to another driver now
                raise
            except BaseException as error:
                if session.running:
                    _end_as_failed(recorder, error)
                raise
    except BaseException:
        if session is None or not session.running:
            with contextlib.suppress(CnnstudyError):  # MLflow itself may be the problem
                lock.give_up()
        raise


def _wait_for(policy: RetryPolicy, display: Display, action: Callable[[], Value]) -> Value:
    """Return the result of `action`, waiting for MLflow as long as later in the study."""
    return policy.call(action, display.show_message)


def _end_as_failed(recorder: Recorder, error: BaseException) -> None:
    """Mark unfinished runs as interrupted, and record the error on the study's own run."""
    reason = "interrupted" if isinstance(error, KeyboardInterrupt) else ""
    error = (restate_os_error(error) if isinstance(error, OSError) else None) or error
    with contextlib.suppress(CnnstudyError):  # MLflow itself may be the problem
        recorder.interrupt_unfinished()
        recorder.end_study("failed", {Tag.REASON: reason, Tag.MESSAGE: str(error)})


def _run_and_confirm(resources: StudyResources, always_reads_images: bool) -> Outcome:
    """Run the missing trials, then confirm the study if its file says so; return the state reached if interrupted."""
    config = resources.config
    try:
        if always_reads_images:
            _ = resources.images  # refuses others than those of the recorded trials
        runs = _run_missing(resources)
        outcome = _outcome(_planned(resources), resources.recorder.study, runs, interrupted=False)
        if config.confirm is None or outcome.missing or not outcome.finished:
            return outcome
        return replace(outcome, confirmed=confirm(resources, runs, config.confirm))
    except NothingToConfirmError as nothing:
        resources.display.show_message(str(nothing))
        return outcome
    except KeyboardInterrupt:
        return _interrupted_outcome(resources)


def _planned(resources: StudyResources) -> StudyConfig:
    """Return the study's settings; of a factorial that has stopped, with the seeds that have run."""
    config, recorder = resources.config, resources.recorder
    if getattr(config.strategy, "least_seeds", None) is None:
        return config
    return read_stopped(config, recorder.study_tags().get(Tag.STOPPED, ""))


def _run_missing(resources: StudyResources) -> Sequence[RecordedRun]:
    """Run the missing trials, and return all of the study's runs."""
    config, recorder, display = resources.config, resources.recorder, resources.display
    past = past_trials(config, recorder, resources.recorded)
    strategy = make_strategy(config, past)
    report_size(config, strategy.remaining, display)
    if strategy.remaining <= 0:  # below 0 if the budget was lowered
        return resources.recorded
    look = functools.partial(release_block, strategy, config, recorder, display=display)
    if isinstance(strategy, FactorialStrategy) and not strategy.may_propose and not look(resources.recorded):
        return resources.recorded
    resources.prepare()
    data = list({images.digest: images for images in resources.images.values()}.values())  # networks may share them
    recorder.outbox.delivery.read(lambda: recorder.tracker.add_inputs(recorder.study.run_id, data))
    warn_of_few_validation_images(resources.images.values(), display)
    if not isinstance(strategy, FactorialStrategy):
        estimate = pop_estimate(config, strategy.remaining, resources.executor.slots)
    else:
        report_power(config, resources.images, resources.recorded, display)
        specs = [resources.build_spec(one, resources.weights_of(one) or STAND_IN_WEIGHTS) for one in strategy.upcoming]
        specs += resources.find_untrained(strategy.upcoming)
        experiment = recorder.study.experiment_id
        artifacts = recorder.outbox.delivery.read(lambda: recorder.tracker.artifact_location(experiment))
        redrawn = [name for name in config.architectures if config.pretrains_each_seed(name)]
        estimate = report_cost(specs, resources.recorded, artifacts, resources.executor, display, redrawn)
    started = time.monotonic()
    with contextlib.closing(_make_interim(config, recorder)) as interim:
        driver = Driver(resources, strategy, interim if _tells_so_far(config) else None)
        driver.run(config.total_trials)
        while look(runs := recorder.runs()):
            driver.run(config.total_trials)
    if estimate is not None and not strategy.remaining:
        taken = time.monotonic() - started - resources.pretraining_seconds
        report_estimate_error(estimate, taken, recorder, display)
    return runs


def _tells_so_far(config: StudyConfig) -> bool:
    """Return whether a study tells its answer so far: a factorial, unless it looks after each seed anyway."""
    return isinstance(config.strategy, strategies.FactorialConfig) and config.strategy.least_seeds is None


def _make_interim(config: StudyConfig, recorder: Recorder) -> InterimAnswer:
    """Return what computes the answer so far of a factorial; there is nothing to compute of other studies."""
    blocks = config.strategy.seeds if isinstance(config.strategy, strategies.FactorialConfig) else 0
    return InterimAnswer(recorder.tracker.uri, config.name, range(config.seed, config.seed + blocks))


def _confirm(resources: StudyResources, options: Confirm, again: bool) -> Outcome:
    """Confirm the study; return the state reached if interrupted."""
    try:
        confirmed = confirm(resources, resources.recorded, options, again)
    except KeyboardInterrupt:
        return _interrupted_outcome(resources)
    outcome = _outcome(_planned(resources), resources.recorder.study, resources.recorded, interrupted=False)
    return replace(outcome, confirmed=confirmed)


def _interrupted_outcome(resources: StudyResources) -> Outcome:
    """Mark unfinished runs as interrupted, and return the state reached.

    Raises:
        KeyboardInterrupt: MLflow does not answer; an interrupted study does not wait for it.
    """
    recorder = resources.recorder
    recorder.interrupt_unfinished()
    if recorder.outbox.delivery.has_pending:
        raise KeyboardInterrupt
    try:
        runs = recorder.tracker.runs(recorder.study.experiment_id)
        planned = _planned(resources)
    except TrackingUnavailableError:
        raise KeyboardInterrupt from None
    return _outcome(planned, recorder.study, runs, interrupted=True)


def _outcome(config: StudyConfig, study: RecordedStudy, runs: Sequence[RecordedRun], interrupted: bool) -> Outcome:
    counted = counted_runs(run for run in runs if run.kind == "trial")  # one of each: a deleted one may be restored
    done = [run for run in counted.values() if run.done]
    return Outcome(
        recorded=study,
        finished=sum(run.state == "finished" for run in done),
        pruned=sum(run.state == "pruned" for run in done),
        failed=sum(run.state == "failed" for run in done),
        missing=_count_missing(config, done),
        interrupted=interrupted,
    )


def _count_missing(config: StudyConfig, done: list[RecordedRun]) -> int:
    """Count the trials still to be run: a search counts them per network, a factorial by cell and seed."""
    missing = 0
    for name in config.architectures:
        numbers = {run.number for run in done if run.architecture == name}
        if isinstance(config.strategy, strategies.FactorialConfig):
            numbers = {number for number in numbers if number < config.trials_of(name)}
        missing += max(0, config.trials_of(name) - len(numbers))
    return missing


def _end_study(recorder: Recorder, outcome: Outcome) -> None:
    """Record how the study ended, release it, and wait until MLflow has every record."""
    tags = {count_tag(name): str(getattr(outcome, name)) for name in COUNTS}
    tags |= {Tag.REASON: "interrupted"} if outcome.interrupted else {}
    tags[Tag.DRIVER] = NOBODY
    recorder.outbox.write(recorder.study.run_id, EndRun("failed" if outcome.missing else "finished", tags))
    recorder.outbox.delivery.wait()
