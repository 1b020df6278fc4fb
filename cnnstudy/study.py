"""A study from its file to its end: the one place that sees search, execution, confirmation and tracking together.

It may be stopped at any moment and called again: what MLflow holds is taken up, what is missing is run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from pydantic import ValidationError

from cnnstudy import strategies
from cnnstudy.claim import Claim, one_driver
from cnnstudy.config import Study
from cnnstudy.confirmation import Confirmed, NothingToConfirmError, confirm
from cnnstudy.display import Display
from cnnstudy.driver import Driver, MakeExecutor, Workshop
from cnnstudy.errors import CnnstudyError, ConfigError, StudyChangedError, TakenOverError
from cnnstudy.estimate import tell_cost, tell_size
from cnnstudy.factorial import Factorial
from cnnstudy.proposals import Strategy
from cnnstudy.recording import Recorder
from cnnstudy.records import RecordedRun, RecordedStudy
from cnnstudy.resume import past_trials, refuse_changes, tidy_up
from cnnstudy.schema import Confirm, StudyConfig
from cnnstudy.search import Search
from cnnstudy.signals import terminate_as_interrupt
from cnnstudy.tracking import DRIVER, REASON, Tracker

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
    study: Study, tracker: Tracker, make_executor: MakeExecutor, display: Display, take_over: bool = False
) -> Outcome:
    """Run what is missing of the study; KeyboardInterrupt ends it cleanly.

    Args:
        take_over: also from a driver on another machine, of which nobody here can tell whether it lives.

    Raises:
        StudyBusyError: another driver runs it.
        StudyChangedError: its file no longer fits the trials that MLflow holds.
        DataError, WeightsError, TrackingError, WorkerError: before the first trial, with nothing lost.
    """
    with one_driver(study.config.name, tracker.uri), terminate_as_interrupt(leave_at_once=True):
        config = study.config.model_dump(mode="json")
        tidy_up(display)
        recorded = tracker.open_study(study.config.name, config)
        refuse_changes(recorded, config, tracker, study)
        claim = Claim(tracker, recorded)
        claim.take(take_over)
        recorder = Recorder(tracker, recorded, claim.check)

        def work(workshop: Workshop) -> Outcome:
            _run_missing(workshop)
            outcome = _outcome(study.config, recorder, interrupted=False)
            options = study.config.confirm
            if options is None or outcome.missing or not outcome.finished:
                return outcome
            try:
                return replace(outcome, confirmed=confirm(workshop, options))
            except NothingToConfirmError as nothing:
                display.say(str(nothing))
                return outcome

        with _running(recorder):
            tracker.start_study(recorded, config, study.path, study.text)
            with contextlib.closing(Workshop(study.config, recorder, make_executor, display)) as workshop:
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
) -> Outcome:
    """Confirm a recorded study, or what is missing of that; KeyboardInterrupt ends it cleanly.

    Args:
        name: of the study; None: the one that was run last.
        options: keys of `confirm` that are to be others than in its file (or than the usual ones).
        again: open the test split though it was opened for another champion.
        take_over: as for run_study.

    Raises:
        UnknownNameError: there is no such study.
        NothingToConfirmError: no trial has finished and learnt something.
        StudyBusyError, DataError, WeightsError, TrackingError, WorkerError: as run_study.
    """
    found = tracker.study(name)
    with one_driver(found.name, tracker.uri), terminate_as_interrupt(leave_at_once=True):
        tidy_up(display)
        claim = Claim(tracker, found)
        config, recorder = _recorded_config(found), Recorder(tracker, found, claim.check)
        chosen = _confirm_options(config, options)

        def work(workshop: Workshop) -> Outcome:
            confirmed = confirm(workshop, chosen, again)
            return replace(_outcome(config, recorder, interrupted=False), confirmed=confirmed)

        claim.take(take_over)
        with _running(recorder):
            tracker.restart_study(found)
            recorder.interrupt_unfinished()
            with contextlib.closing(Workshop(config, recorder, make_executor, display)) as workshop:
                outcome = _work(workshop, work)
            _end(recorder, outcome)
        return outcome


def _confirm_options(config: StudyConfig, given: Mapping[str, int]) -> Confirm:
    try:
        return Confirm.model_validate({**(config.confirm or Confirm()).model_dump(), **given})
    except ValidationError as error:
        options = {str(details["loc"][0]).replace("_", "-"): details["msg"] for details in error.errors()}
        raise ConfigError("; ".join(f"--{option} {text}" for option, text in options.items())) from None


def _recorded_config(study: RecordedStudy) -> StudyConfig:
    try:
        return StudyConfig.model_validate(study.config)
    except ValueError as error:
        raise StudyChangedError(
            f"study {study.name!r} was recorded by another version, whose settings this one can't read: {error}"
        ) from error


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
            tags = {REASON: reason, "cnnstudy.message": str(error), DRIVER: ""}
            recorder.tracker.end_run(recorder.study.run_id, "failed", tags)
        raise


def _work(workshop: Workshop, work: Callable[[Workshop], Outcome]) -> Outcome:
    """The work, or where it was interrupted how far it is."""
    try:
        return work(workshop)
    except KeyboardInterrupt:
        workshop.recorder.interrupt_unfinished()
        return _outcome(workshop.config, workshop.recorder, interrupted=True)


def _end(recorder: Recorder, outcome: Outcome) -> None:
    tags = {f"cnnstudy.trials_{name}": str(getattr(outcome, name)) for name in COUNTS}
    tags |= {REASON: "interrupted"} if outcome.interrupted else {}
    tags[DRIVER] = ""
    recorder.tracker.end_run(recorder.study.run_id, "failed" if outcome.missing else "finished", tags)


def _run_missing(workshop: Workshop) -> None:
    """Run the trials that are missing."""
    config, recorder, display = workshop.config, workshop.recorder, workshop.display
    past = past_trials(config, recorder, display)
    factorial = Factorial(config, past) if isinstance(config.strategy, strategies.Factorial) else None
    strategy: Strategy = factorial or Search(config, past)
    if factorial is not None:
        tell_size(config, factorial.remaining, display)
    if strategy.remaining <= 0:  # below 0 where the budget was lowered
        return
    driver = Driver(workshop, strategy)
    if factorial is not None:
        specs = [workshop.spec_of(proposal) for proposal in factorial.upcoming]
        tell_cost(specs, recorder, workshop.executor, display)
    driver.run(config.total_trials)


def _outcome(config: StudyConfig, recorder: Recorder, interrupted: bool) -> Outcome:
    trials = [run for run in recorder.tracker.runs(recorder.study.experiment_id) if run.kind == "trial"]
    done = [run for run in trials if run.done]
    return Outcome(
        recorded=recorder.study,
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
        numbers = {int(run.tags["cnnstudy.number"]) for run in done if run.tags["cnnstudy.architecture"] == name}
        if isinstance(config.strategy, strategies.Factorial):
            numbers = {number for number in numbers if number < config.trials_of(name)}
        missing += max(0, config.trials_of(name) - len(numbers))
    return missing
