"""A study from its file to its end: the one place that sees search, execution, confirmation and tracking together.

It may be stopped at any moment and called again: what MLflow holds is taken up, what is missing is run.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from pydantic import ValidationError

from cnnstudy import calls, forecasts, strategies
from cnnstudy.aims import Confirm
from cnnstudy.claim import Claim, one_driver
from cnnstudy.config import Study
from cnnstudy.confirmation import Confirmed, NothingToConfirmError, confirm, find_candidates
from cnnstudy.display import Display
from cnnstudy.driver import Driver, MakeExecutor, Workshop
from cnnstudy.errors import CnnstudyError, ConfigError, TakenOverError, TrackingUnavailableError
from cnnstudy.estimate import tell_cost, tell_size
from cnnstudy.factorial import Factorial
from cnnstudy.names import Tag, count_tag
from cnnstudy.patience import Patience
from cnnstudy.proposals import Strategy
from cnnstudy.recording import Recorder, open_recorder
from cnnstudy.records import RecordedRun, RecordedStudy
from cnnstudy.resume import past_trials, recorded_config, recorded_runs, refuse_changes, tidy_up
from cnnstudy.schema import StudyConfig
from cnnstudy.search import Search
from cnnstudy.signals import terminate_as_interrupt
from cnnstudy.tracking import Tracker

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
    confirmed: Confirmed | None = None


def run_study(
    study: Study,
    tracker: Tracker,
    make_executor: MakeExecutor,
    display: Display,
    take_over: bool = False,
    patience: Patience | None = None,
    accept_code: bool = False,
) -> Outcome:
    """Run what is missing of the study; KeyboardInterrupt ends it cleanly.

    Args:
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
    with (
        one_driver(study.config.name, tracker.uri),
        terminate_as_interrupt(leave_at_once=True),
        contextlib.ExitStack() as stack,
    ):
        config = study.config.model_dump(mode="json")
        tidy_up(display)
        recorded = tracker.open_study(study.config.name, config)
        claim = Claim(tracker, recorded)
        with _given_up_on_error(claim):
            recorder = stack.enter_context(_recorder(claim, display, patience, take_over))
            refuse_changes(recorded, config, tracker, study)

        def work(workshop: Workshop) -> Outcome:
            runs = _run_missing(workshop)
            outcome = _outcome(study.config, recorded, runs, interrupted=False)
            options = study.config.confirm
            if options is None or outcome.missing or not outcome.finished:
                return outcome
            try:
                return replace(outcome, confirmed=confirm(workshop, runs, options))
            except NothingToConfirmError as nothing:
                display.say(str(nothing))
                return outcome

        with _running(recorder):
            tracker.start_study(recorded, config, study.path, study.text, calls.of_run(study))
            runs = recorded_runs(recorder, display)
            with contextlib.closing(
                Workshop(study.config, recorder, runs, make_executor, display, accept_code)
            ) as workshop:
                outcome = _work(workshop, work)
            _end(recorder, outcome)
        return outcome


def confirm_study(
    name: str | None,
    options: Mapping[str, int],
    tracker: Tracker,
    make_executor: MakeExecutor,
    display: Display,
    again: bool,
    take_over: bool = False,
    patience: Patience | None = None,
    accept_code: bool = False,
) -> Outcome:
    """Confirm a recorded study, or what is missing of that; KeyboardInterrupt ends it cleanly.

    Args:
        name: of the study; None: the one that was run last.
        options: keys of `confirm` that are to be others than in its file (or than the usual ones).
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
    with (
        one_driver(found.name, tracker.uri),
        terminate_as_interrupt(leave_at_once=True),
        contextlib.ExitStack() as stack,
    ):
        tidy_up(display)
        config = recorded_config(found)
        chosen, claim = _confirm_options(config, options), Claim(tracker, found)
        with _given_up_on_error(claim):
            recorder = stack.enter_context(_recorder(claim, display, patience, take_over))
            # before the study is marked as running: else it would end as failed
            find_candidates(found.name, recorder.runs(), config.objective.rule, chosen.top)

        def work(workshop: Workshop) -> Outcome:
            confirmed = confirm(workshop, workshop.recorded, chosen, again)
            return replace(_outcome(config, found, workshop.recorded, interrupted=False), confirmed=confirmed)

        with _running(recorder):
            tracker.restart_study(found, calls.of_confirm(found.name, options, again))
            _, runs = recorder.put_right()
            with contextlib.closing(Workshop(config, recorder, runs, make_executor, display, accept_code)) as workshop:
                outcome = _work(workshop, work)
            _end(recorder, outcome)
        return outcome


@contextlib.contextmanager
def _recorder(claim: Claim, display: Display, patience: Patience | None, take_over: bool) -> Iterator[Recorder]:
    """A recorder for the study's one driver, with what an earlier call left delivered."""
    claim.take(take_over)
    with open_recorder(claim.tracker, claim.study, display.say, patience, claim.check) as recorder:
        claim.take()  # what was left may have ended with the words that give the study up
        yield recorder


@contextlib.contextmanager
def _given_up_on_error(claim: Claim) -> Iterator[None]:
    """Whatever stops a call before the study is marked as running leaves it for others to run."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(CnnstudyError):  # MLflow itself may be what is broken
            claim.give_up()
        raise


def _confirm_options(config: StudyConfig, given: Mapping[str, int]) -> Confirm:
    try:
        return Confirm.model_validate({**(config.confirm or Confirm()).model_dump(), **given})
    except ValidationError as error:
        options = {str(details["loc"][0]).replace("_", "-"): details["msg"] for details in error.errors()}
        raise ConfigError("; ".join(f"--{option} {text}" for option, text in options.items())) from None


@contextlib.contextmanager
def _running(recorder: Recorder) -> Iterator[None]:
    """Whatever ends the body, no run is left as running."""
    try:
        yield
    except TakenOverError:  # all of it is another driver's now
        raise
    except BaseException as error:
        reason = "interrupted" if isinstance(error, KeyboardInterrupt) else ""
        with contextlib.suppress(CnnstudyError):  # the tracking server itself may be what is broken
            recorder.interrupt_unfinished()
            recorder.end_study("failed", {Tag.REASON: reason, Tag.MESSAGE: str(error)})
        raise


def _work(workshop: Workshop, work: Callable[[Workshop], Outcome]) -> Outcome:
    """The work, or where it was interrupted how far it is."""
    try:
        return work(workshop)
    except KeyboardInterrupt:
        recorder = workshop.recorder
        recorder.interrupt_unfinished()
        if recorder.outbox.waits:
            raise
        try:
            runs = recorder.tracker.runs(recorder.study.experiment_id)
        except TrackingUnavailableError:  # who stops does not wait for an answer
            raise KeyboardInterrupt from None
        return _outcome(workshop.config, recorder.study, runs, interrupted=True)


def _end(recorder: Recorder, outcome: Outcome) -> None:
    tags = {count_tag(name): str(getattr(outcome, name)) for name in COUNTS}
    tags |= {Tag.REASON: "interrupted"} if outcome.interrupted else {}
    tags[Tag.DRIVER] = ""
    recorder.outbox.end_run(recorder.study.run_id, "failed" if outcome.missing else "finished", tags)
    recorder.outbox.wait()


def _run_missing(workshop: Workshop) -> Sequence[RecordedRun]:
    """Run the trials that are missing; the study's runs after that."""
    config, recorder, display = workshop.config, workshop.recorder, workshop.display
    past = past_trials(config, recorder, workshop.recorded)
    factorial = Factorial(config, past) if isinstance(config.strategy, strategies.Factorial) else None
    strategy: Strategy = factorial or Search(config, past)
    if factorial is not None:
        tell_size(config, factorial.remaining, display)
    if strategy.remaining <= 0:  # below 0 where the budget was lowered
        return workshop.recorded
    workshop.prepare()
    driver = Driver(workshop, strategy)
    if factorial is None:
        estimate = forecasts.take(config, strategy.remaining, workshop.executor.slots)
    else:
        specs = [workshop.spec_of(proposal) for proposal in factorial.upcoming]
        experiment = recorder.study.experiment_id
        artifacts = recorder.outbox.ask(lambda: recorder.tracker.artifacts_of(experiment))
        estimate = tell_cost(specs, workshop.recorded, artifacts, workshop.executor, display)
    started = time.monotonic()
    driver.run(config.total_trials)
    if estimate is not None:
        forecasts.compare(estimate, time.monotonic() - started, recorder, display)
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
        if isinstance(config.strategy, strategies.Factorial):
            numbers = {number for number in numbers if number < config.trials_of(name)}
        missing += max(0, config.trials_of(name) - len(numbers))
    return missing
