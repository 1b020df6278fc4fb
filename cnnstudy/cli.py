"""The commands. Each body imports what it needs, so that --help and a mistake in a study file come at once."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

import cnnstudy
from cnnstudy import architectures
from cnnstudy.errors import CnnstudyError, EnvironmentTrouble

if TYPE_CHECKING:
    from cnnstudy.display import Display
    from cnnstudy.execution import Executor

app = typer.Typer(
    name="cnnstudy",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Why does this convolutional network overfit? A study file becomes trained networks, a record in MLflow "
    "and a leaderboard.",
    epilog="Exit codes: 0 done; 2 a mistake in what was given; 3 something around the study is missing or broken; "
    "4 done, but trials failed, or doctor found something; 130 stopped, the same command goes on.",
)
TRIALS_FAILED, INTERRUPTED = 4, 130

TrackingUri = Annotated[
    str | None,
    typer.Option(
        "--tracking-uri",
        envvar="MLFLOW_TRACKING_URI",
        show_envvar=True,
        help="Where MLflow keeps the record.  [default: sqlite:///mlflow.db]",
    ),
]
ModelName = Annotated[
    str,
    typer.Argument(
        metavar="STUDY-OR-MODEL",
        help="A study (its champion), STUDY/TRIAL, a models:/ address, a model's folder or a .keras file.",
    ),
]
TakeOver = Annotated[
    bool, typer.Option("--take-over", help="Go on with a study that was begun elsewhere; that driver must be gone.")
]
StudyName = Annotated[str | None, typer.Argument(metavar="[STUDY]", help="A study's name; default: the latest one.")]


def main() -> None:
    """Run a command; what goes wrong on purpose is one clear message, never a traceback."""
    try:
        app()
    except CnnstudyError as error:
        Console(stderr=True).print(f"error: {error}", markup=False, emoji=False, highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)
    except OSError as error:  # the disk is full, a folder may not be written: the system's words say it
        Console(stderr=True).print(f"error: {error}", markup=False, emoji=False, highlight=False, soft_wrap=True)
        sys.exit(EnvironmentTrouble.exit_code)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def wide_console() -> Console:
    """Standard output; what is not a terminal has no width that a table could be cut to."""
    console = Console()
    return console if console.is_terminal else Console(width=160)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"cnnstudy {cnnstudy.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


@app.command("run-study")
def run_study(
    study: Annotated[
        str, typer.Argument(metavar="[STUDY]", help="A study file, or the name of one in experiments/.")
    ] = "quickstart",
    trials: Annotated[int | None, typer.Option(min=1, help="Trials of a search, instead of the file's budget.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Workers that share the cores.")] = 1,
    seed: Annotated[int | None, typer.Option(min=0, help="The study's seed, instead of the file's.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key, as training.epochs=5.")
    ] = None,
    tracking_uri: TrackingUri = None,
    take_over: TakeOver = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
) -> None:
    """Run a study, or what is missing of it, and show its leaderboard."""
    from cnnstudy.config import load_study

    overrides = list(set_ or [])
    overrides += [f"budget.trials={trials}"] if trials is not None else []
    overrides += [f"seed={seed}"] if seed is not None else []
    loaded = load_study(study, overrides)

    from cnnstudy import report, tracking
    from cnnstudy import study as driver
    from cnnstudy.display import choose_display
    from cnnstudy.execution.local import LocalExecutor

    console = wide_console()
    tracker = tracking.Tracker(tracking.tracking_uri(tracking_uri))
    with choose_display(console, quiet) as display:
        outcome = driver.run_study(loaded, tracker, lambda folder: LocalExecutor(jobs, folder), display, take_over)
    if not quiet:
        report.show_outcome(console, tracker, outcome)
        if outcome.confirmed is not None:
            report.show_confirmed(console, outcome.recorded.name, outcome.confirmed)
    if loaded.config.strategy.kind == "factorial" and not outcome.interrupted:
        found = report.causes_of(tracker, outcome.recorded)
        report.record_effects(tracker, outcome.recorded, found)
        if not quiet:
            report.show_effects(console, outcome.recorded.name, found)
    if outcome.interrupted:
        raise typer.Exit(INTERRUPTED)
    if outcome.failed or outcome.missing:
        raise typer.Exit(TRIALS_FAILED)


@app.command()
def confirm(
    study: StudyName = None,
    top: Annotated[int | None, typer.Option(min=1, max=100, help="Candidates.  [default: the file's, or 3]")] = None,
    seeds: Annotated[
        int | None, typer.Option(min=2, max=100, help="Fresh seeds for each.  [default: the file's, or 5]")
    ] = None,
    most_seeds: Annotated[
        int | None, typer.Option(min=2, max=200, help="Seeds where it is close.  [default: twice the seeds]")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Trials at the same time; the cores are shared out.")] = 1,
    open_test_again: Annotated[
        bool, typer.Option("--open-test-again", help="Open the test split though it was opened for another champion.")
    ] = False,
    tracking_uri: TrackingUri = None,
    take_over: TakeOver = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
) -> None:
    """Train a study's best candidates again with fresh seeds; name the champion, and test it once."""
    from cnnstudy import report, tracking
    from cnnstudy import study as driver
    from cnnstudy.display import choose_display
    from cnnstudy.errors import InputError
    from cnnstudy.execution.local import LocalExecutor

    console = wide_console()
    tracker = tracking.Tracker(tracking.tracking_uri(tracking_uri))
    given = {"top": top, "seeds": seeds, "most_seeds": most_seeds}
    with choose_display(console, quiet) as display:
        outcome = driver.confirm_study(
            study,
            {name: value for name, value in given.items() if value is not None},
            tracker,
            lambda folder: LocalExecutor(jobs, folder),
            display,
            open_test_again,
            take_over,
        )
    if outcome.confirmed is None:
        raise typer.Exit(INTERRUPTED)
    if not quiet:
        report.show_confirmed(console, outcome.recorded.name, outcome.confirmed)
    if outcome.confirmed.refusal:
        raise InputError(outcome.confirmed.refusal)


@app.command()
def leaderboard(
    study: StudyName = None,
    csv: Annotated[Path | None, typer.Option(help="Write every column of every trial to this CSV file.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write the table to this Markdown file.")] = None,
    sort: Annotated[str | None, typer.Option(help="Sort by this column.  [default: the study's objective]")] = None,
    top: Annotated[int | None, typer.Option(min=1, help="Show only the best so many.")] = None,
    tracking_uri: TrackingUri = None,
) -> None:
    """Show a study's trials, best first."""
    from cnnstudy import report, tracking
    from cnnstudy.analysis import leaderboard as table

    tracker = tracking.Tracker(tracking.tracking_uri(tracking_uri))
    recorded = tracker.study(study)
    frame = report.trials(tracker, recorded, sort)
    wanted = frame if top is None else frame.head(top)
    if csv is not None:
        table.write_csv(wanted, csv)
    if markdown is not None:
        table.write_markdown(wanted, markdown)
    report.show_trials(wide_console(), recorded.name, frame, top)


@app.command()
def effects(
    study: StudyName = None,
    csv: Annotated[Path | None, typer.Option(help="Write every effect and interaction to this CSV file.")] = None,
    gap: Annotated[float, typer.Option(min=0.1, max=50, help="Points of gap that the data law aims at.")] = 5.0,
    tracking_uri: TrackingUri = None,
) -> None:
    """Say which factor causes how many points of gap, with intervals."""
    from cnnstudy import report, tracking
    from cnnstudy.analysis.causes import effects_frame
    from cnnstudy.analysis.leaderboard import write_csv

    tracker = tracking.Tracker(tracking.tracking_uri(tracking_uri))
    recorded = tracker.study(study)
    found = report.causes_of(tracker, recorded, gap / 100)
    if csv is not None:
        write_csv(effects_frame(found), csv)
    report.show_effects(wide_console(), recorded.name, found)


@app.command()
def predict(
    model: ModelName,
    images: Annotated[list[str], typer.Argument(metavar="IMAGE...", help="Image files, or folders of them.")],
    top: Annotated[int, typer.Option(min=1, help="Classes to tell for each image.")] = 5,
    csv: Annotated[Path | None, typer.Option(help="Write them to this CSV file too.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write them to this JSON file too.")] = None,
    tracking_uri: TrackingUri = None,
) -> None:
    """Say what a trained model sees on images: classes with probabilities, best first."""
    from cnnstudy import prediction
    from cnnstudy.models import find_model

    with _worker() as (executor, display, folder):
        found = find_model(model, tracking_uri, folder)
        _note(found.note)
        predictions = prediction.predict(found, images, top, executor, display)
    if found.classes is None:
        _note(f"{model} came without the names of its classes (classes.json); they are numbered")
    prediction.show(wide_console(), found.title, predictions)
    if csv is not None:
        prediction.write_csv(predictions, csv)
    if json is not None:
        prediction.write_json(found.title, predictions, json)
    prediction.check(predictions)


@app.command()
def export(
    model: ModelName,
    folder: Annotated[Path, typer.Argument(help="Where to write it: a folder that is empty or not there yet.")],
    format_: Annotated[Literal["saved-model", "onnx", "keras"], typer.Option("--format")] = "saved-model",
    tracking_uri: TrackingUri = None,
) -> None:
    """Write a trained model for other programs, checked to give the same probabilities."""
    from cnnstudy import exporting
    from cnnstudy.models import find_model

    exporting.check_target(folder)
    with _worker() as (executor, display, own):
        found = find_model(model, tracking_uri, own)
        _note(found.note)
        done = exporting.export(found, folder, format_, executor, display)
    print(exporting.told(found, folder, format_, done))


@app.command()
def ui(
    study: StudyName = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="[default: 5000, or a free one]")] = None,
    open_: Annotated[bool, typer.Option("--open/--no-open", help="Open the address in the browser.")] = True,
    tracking_uri: TrackingUri = None,
) -> None:
    """Serve MLflow's UI on loopback, at the study's trials and gap charts."""
    from cnnstudy import tracking
    from cnnstudy import ui as server
    from cnnstudy.mlflow_view import study_url

    uri = tracking.tracking_uri(tracking_uri)
    recorded = tracking.Tracker(uri).study(study)
    if server.is_server(uri):
        _open_or_print(study_url(uri, recorded.experiment_id), open_)
        return
    with server.serve(uri, port) as (base, process):
        _open_or_print(study_url(base, recorded.experiment_id), open_)
        print("Ctrl-C stops the server.", flush=True)
        process.wait()


@app.command()
def doctor(
    repair: Annotated[bool, typer.Option("--repair", help="Put right what killed processes left.")] = False,
    tracking_uri: TrackingUri = None,
) -> None:
    """Check packages, machine, cache, database and studies. Exit code 4: something is to be looked at."""
    from cnnstudy import doctor as examination
    from cnnstudy import tracking

    uri = tracking.tracking_uri(tracking_uri)
    done = examination.repair(uri) if repair else None
    findings = examination.examine(uri)
    examination.show(wide_console(), findings, done)
    if any(finding.trouble for finding in findings):
        raise typer.Exit(TRIALS_FAILED)


@app.command()
def describe(
    architecture: Annotated[str, typer.Argument(help=f"One of {', '.join(architectures.names())}.")],
    image_size: Annotated[int, typer.Option(min=1, help="Pixels.")] = 224,
    classes: Annotated[int, typer.Option(min=2)] = 5,
    png: Annotated[Path | None, typer.Option(help="Draw the structure here.  [default: ARCHITECTURE.png]")] = None,
) -> None:
    """Print a network's layers and draw its structure."""
    found = architectures.find(architecture)
    found.check_size(image_size)
    from cnnstudy.architectures.describe import describe as describe_network

    describe_network(found, image_size, classes, png or Path(f"{architecture}.png"), Console())


@contextlib.contextmanager
def _worker() -> Iterator[tuple[Executor, Display, Path]]:
    """A worker for one job, a display of its progress that leaves standard output alone, and a folder for files."""
    from cnnstudy.display import choose_display
    from cnnstudy.execution.local import LocalExecutor
    from cnnstudy.scratch import scratch_folder
    from cnnstudy.signals import terminate_as_interrupt

    console = Console(stderr=True)
    with (
        terminate_as_interrupt(),
        scratch_folder() as folder,
        contextlib.closing(LocalExecutor(1, folder)) as executor,
        choose_display(console, quiet=not console.is_terminal) as display,
    ):
        yield executor, display, folder


def _note(text: str) -> None:
    if text:
        print(f"note: {text}", file=sys.stderr)


def _open_or_print(url: str, open_: bool) -> None:
    import webbrowser

    print(url, flush=True)
    if open_:
        webbrowser.open(url)
