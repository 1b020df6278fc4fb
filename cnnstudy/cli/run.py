"""Commands that train: run-study, confirm and reproduce."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cnnstudy.cli.options import (
    TRIALS_FAILED,
    AcceptCode,
    Jobs,
    On,
    Quiet,
    Slots,
    StudyName,
    TakeOver,
    TrackingUri,
    plain_workers,
)
from cnnstudy.errors import EXIT_INTERRUPTED, InputError
from cnnstudy.system.imports import NOT_FOR_MLFLOW, fast_import
from cnnstudy.system.output import format_json, open_console, print_note, print_text

if TYPE_CHECKING:
    from cnnstudy.config.load import Study
    from cnnstudy.config.schema import StudyConfig
    from cnnstudy.execution import Workers
    from cnnstudy.study.run import Outcome
    from cnnstudy.system.output import Console
    from cnnstudy.tracking.client import Tracker
    from cnnstudy.tracking.recorded import RecordedStudy


def _complete_study(incomplete: str) -> list[str]:
    """Return the names of studies that begin so, for the shell."""
    from cnnstudy.config.find import list_studies

    return [name for name in list_studies() if name.startswith(incomplete)]


def run_study(
    study: Annotated[
        str,
        typer.Argument(
            metavar="[STUDY]", help="A study file, or the name of one in experiments/.", autocompletion=_complete_study
        ),
    ] = "quickstart",
    trials: Annotated[
        int | None, typer.Option(min=1, help="Number of trials of a search, instead of the file's budget.")
    ] = None,
    on: On = None,
    jobs: Slots = None,
    seed: Annotated[int | None, typer.Option(min=0, help="The study's seed, instead of the file's.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the study file, such as training.epochs=5."),
    ] = None,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="Results equal to the last bit in every run, on CPUs; slower.")
    ] = False,
    tracking_uri: TrackingUri = None,
    take_over: TakeOver = False,
    accept_code: AcceptCode = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Run trials that failed once more; not those whose loss diverged.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, estimate time, memory and disk, and record nothing.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Run a study, or resume an incomplete one, and show its leaderboard."""
    from cnnstudy.config.load import load_study

    if dry_run and retry_failed:
        raise InputError("--dry-run estimates the missing trials, and --retry-failed runs others; give one of them.")
    given = {
        "--trials": ("budget.trials", trials),
        "--on": ("execution.on", on),
        "--seed": ("seed", seed),
        "--deterministic": ("training.deterministic", "true" if deterministic else None),
    }
    options = {key: option for option, (key, value) in given.items() if value is not None}
    overrides = [*(set_ or []), *(f"{key}={value}" for key, value in given.values() if value is not None)]
    loaded = load_study(study, overrides, options)
    with contextlib.closing(make_study_workers(loaded.config, jobs)) as workers:
        workers.start()
        _run(loaded, workers, tracking_uri, take_over, accept_code, retry_failed, dry_run, quiet)


def _run(
    loaded: Study,
    workers: Workers,
    tracking_uri: str | None,
    take_over: bool,
    accept_code: bool,
    retry_failed: bool,
    dry_run: bool,
    quiet: bool,
) -> None:
    with fast_import(without=NOT_FOR_MLFLOW):
        from cnnstudy.study.run import run_study
        from cnnstudy.tracking import client
    from cnnstudy.system.display import choose_display
    from cnnstudy.tracking.relocation import require_writable
    from cnnstudy.tracking.retry import RetryPolicy

    console = open_console()
    uri = client.tracking_uri(tracking_uri)
    require_writable(uri)
    if dry_run:
        from cnnstudy.study.dry_run import plan_study

        with choose_display(console, quiet=False) as display:
            plan_study(loaded, client.find_tracker(uri), workers, display, accept_code)
        return
    tracker = RetryPolicy().call(lambda: client.Tracker(uri), print_note)
    with choose_display(console, quiet) as display:
        outcome = run_study(loaded, tracker, workers, display, take_over, accept_code=accept_code, retry=retry_failed)
    from cnnstudy.results import terminal

    if not quiet:
        # after Ctrl-C the user is not kept waiting for MLflow
        retry = RetryPolicy(give_up_after=0.0) if outcome.interrupted else RetryPolicy()
        retry.call(lambda: terminal.show_outcome(console, tracker, outcome), print_note)
        if outcome.confirmed is not None:
            terminal.show_confirmed(console, outcome.recorded.name, outcome.confirmed)
    if not outcome.interrupted:
        _conclude(loaded, tracker, outcome.recorded, quiet)
    if outcome.interrupted:
        raise typer.Exit(EXIT_INTERRUPTED)
    if outcome.failed or outcome.missing:
        raise typer.Exit(TRIALS_FAILED)


def _conclude(loaded: Study, tracker: Tracker, recorded: RecordedStudy, quiet: bool) -> None:
    """Record what a study that has ended found, and show it."""
    from cnnstudy.results import terminal
    from cnnstudy.results.study_note import record_note
    from cnnstudy.tracking.retry import RetryPolicy

    console, is_factorial = open_console(), loaded.config.strategy.kind == "factorial"
    if is_factorial:
        found = terminal.analyze_ended_study(tracker, recorded, print_note)
    else:
        record_note(tracker, recorded, print_note)
        found = None if quiet else RetryPolicy().call(lambda: terminal.analyze_study(tracker, recorded), print_note)
    if quiet or found is None:
        return
    if is_factorial:
        terminal.show_effects(console, recorded.name, found)
    steps = RetryPolicy().call(lambda: terminal.list_steps(tracker, recorded, found), print_note)
    terminal.show_conclusion(console, found, steps)


def make_study_workers(config: StudyConfig, jobs: int | None = None) -> Workers:
    """Return workers in the study's place; the first decodes images as soon as it starts, while MLflow is imported.

    Args:
        jobs: number of workers; None: the study's.
    """
    from cnnstudy.execution import Executor, Workers
    from cnnstudy.execution.jobs import first_job
    from cnnstudy.execution.selection import make_executor

    def start_decoding(folder: Path) -> Executor:
        executor = make_executor(jobs or config.execution.slots, folder, config.execution)
        executor.deterministic = config.training.deterministic
        executor.start_ahead(first_job(config))
        return executor

    return Workers(start_decoding)


def confirm(
    study: StudyName = None,
    top: Annotated[
        int | None, typer.Option(min=1, max=100, help="Number of candidates.", show_default="the file's, or 3")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=2, max=100, help="Fresh seeds per candidate.", show_default="the file's, or 5")
    ] = None,
    most_seeds: Annotated[
        int | None,
        typer.Option(
            min=2, max=200, help="Seeds per candidate when the result is close.", show_default="twice the seeds"
        ),
    ] = None,
    jobs: Jobs = 1,
    open_test_again: Annotated[
        bool, typer.Option("--open-test-again", help="Open the test split again, for another champion.")
    ] = False,
    tracking_uri: TrackingUri = None,
    take_over: TakeOver = False,
    accept_code: AcceptCode = False,
    quiet: Quiet = False,
    json_: Annotated[bool, typer.Option("--json", help="Print only the result, as JSON.")] = False,
) -> None:
    """Retrain a study's best candidates with fresh seeds, name the champion and test it once."""
    with fast_import(without=NOT_FOR_MLFLOW):
        from cnnstudy.study.run import confirm_study
        from cnnstudy.tracking import client
    from cnnstudy.system.display import choose_display
    from cnnstudy.tracking.retry import RetryPolicy

    console = open_console(error=json_)
    tracker = RetryPolicy().call(lambda: client.existing_tracker(tracking_uri, True, tells=False), print_note)
    overrides = {"top": top, "seeds": seeds, "most_seeds": most_seeds}
    with choose_display(console, quiet) as display:
        outcome = confirm_study(
            study,
            {name: value for name, value in overrides.items() if value is not None},
            tracker,
            plain_workers(jobs),
            display,
            open_test_again,
            take_over,
            accept_code=accept_code,
        )
    if json_ and outcome.confirmed is not None:
        from cnnstudy.results.json_answers import describe_confirmation

        print_text(format_json(describe_confirmation(outcome.recorded.name, outcome.confirmed)))
    _show_confirmation(console, tracker, outcome, quiet or json_)


def _show_confirmation(console: Console, tracker: Tracker, outcome: Outcome, quiet: bool) -> None:
    """Show a confirmation, or how to resume one that was stopped.

    Raises:
        typer.Exit: it was stopped.
        InputError: the test split was not opened, since it had been opened for another champion.
    """
    from cnnstudy.errors import EXIT_INTERRUPTED, InputError
    from cnnstudy.results import terminal
    from cnnstudy.results.study_note import record_note
    from cnnstudy.tracking.retry import RetryPolicy

    if outcome.confirmed is None:
        if not quiet:
            # after Ctrl-C the user is not kept waiting for MLflow
            RetryPolicy(give_up_after=0.0).call(lambda: terminal.show_stopped(console, tracker, outcome), print_note)
        raise typer.Exit(EXIT_INTERRUPTED)
    record_note(tracker, outcome.recorded, print_note)
    if not quiet:
        terminal.show_confirmed(console, outcome.recorded.name, outcome.confirmed)
    if outcome.confirmed.refusal:
        raise InputError(outcome.confirmed.refusal)


def reproduce(
    trial: Annotated[str, typer.Argument(metavar="RUN", help="STUDY/TRIAL, or the ID of a trial's MLflow run.")],
    tracking_uri: TrackingUri = None,
    quiet: Quiet = False,
) -> None:
    """Train a trial again from its record and report how much the results differ."""
    from cnnstudy.results import terminal
    from cnnstudy.study.reproduce import reproduce_trial
    from cnnstudy.system.display import choose_display
    from cnnstudy.tracking import client
    from cnnstudy.tracking.registry import Registry

    console = open_console()
    registry = Registry(client.existing_tracker(tracking_uri))
    with choose_display(console, quiet) as display:
        reproduction = reproduce_trial(trial, registry, plain_workers(1), display)
    terminal.show_reproduction(console, reproduction)
