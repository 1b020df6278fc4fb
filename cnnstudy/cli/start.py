"""Commands that begin with photos instead of a study file: init and diagnose."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cnnstudy.cli.options import TRIALS_FAILED, TrackingUri, open_or_print
from cnnstudy.cli.sources import GroupColumn, IgnoreFolders, ImageColumn, LabelColumn, Layout, PartColumn, find_source
from cnnstudy.errors import EXIT_INTERRUPTED, InputError, printable
from cnnstudy.system.imports import NOT_FOR_MLFLOW, fast_import
from cnnstudy.system.output import open_console, print_note, print_text

if TYPE_CHECKING:
    from cnnstudy.config.load import Study
    from cnnstudy.data.datasets import DataOptions, folder, table
    from cnnstudy.execution import Workers
    from cnnstudy.execution.time_limit import TimeLimit
    from cnnstudy.study.suggestion import Suggestion
    from cnnstudy.tracking.client import Tracker
    from cnnstudy.tracking.recorded import RecordedStudy

#: Seconds of each unit of a time.
_UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600}
#: The shortest and longest time, in seconds.
SHORTEST, LONGEST = 30, 14 * 24 * 3600
#: Of the time, the share that predictions may be off and the seconds that the effects and the page take.
MARGIN, SECONDS_TO_REPORT = 0.1, 20.0

PhotosPath = Annotated[str, typer.Argument(metavar="PATH", help="A folder, an archive or a table of photos.")]
Time = Annotated[str, typer.Option("--time", metavar="TIME", help="How long it may all take: 90s, 30m, 2h.")]
Out = Annotated[
    Path | None,
    typer.Option("--out", metavar="FILE", help="The study file.", show_default="NAME-OF-THE-FOLDER.yaml here"),
]


def init(
    path: PhotosPath,
    out: Out = None,
    time_: Time = "30m",
    force: Annotated[bool, typer.Option("--force", help="Replace a study file that exists.")] = False,
    image: ImageColumn = None,
    label: LabelColumn = None,
    part: PartColumn = None,
    group: GroupColumn = None,
    layout: Layout = None,
    ignore_folders: IgnoreFolders = None,
) -> None:
    """Look at photos, and write a commented study file that runs offline with what is here."""
    clock = TimeBudget(parse_time(time_))
    columns = {"image": image, "label": label, "part": part, "group": group}
    options = _find_photos(path, columns, layout, ignore_folders)
    file = choose_file(options.path, out)
    if file.exists() and not force:
        raise InputError(f"{printable(str(file))} exists; give another file with --out, or --force to replace it.")
    with contextlib.closing(_make_workers()) as workers:
        given = _format_arguments(path, time_, columns, layout, ignore_folders)
        suggestion = _write_study(options, file, given, workers, clock)
    command = f"python -m cnnstudy run-study {shlex.quote(str(file))}"
    print_text(f"{file}: {suggestion.config.total_trials} trials; to run them:  {command}")


def diagnose(
    path: PhotosPath,
    out: Out = None,
    time_: Time = "30m",
    open_: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in the browser.")] = False,
    image: ImageColumn = None,
    label: LabelColumn = None,
    part: PartColumn = None,
    group: GroupColumn = None,
    layout: Layout = None,
    ignore_folders: IgnoreFolders = None,
    tracking_uri: TrackingUri = None,
) -> None:
    """Say why networks overfit on photos: look at them, run a study that fits the time, and write its report."""
    columns = {"image": image, "label": label, "part": part, "group": group}
    diagnosed = run_diagnosis(path, time_, out, columns, layout, ignore_folders, tracking_uri, open_)
    if diagnosed.stopped:
        print_text("The same `diagnose` goes on, and then says what the study found.")
        raise typer.Exit(EXIT_INTERRUPTED)
    if diagnosed.failed:
        raise typer.Exit(TRIALS_FAILED)


@dataclass(frozen=True)
class Diagnosed:
    """A study that diagnose made."""

    name: str
    stopped: bool  # by the user, before its time was over
    failed: int  # trials


def run_diagnosis(
    path: str,
    time_: str,
    out: Path | None,
    columns: dict[str, str | None],
    layout: str | None,
    ignore_folders: str | None,
    tracking_uri: str | None,
    open_: bool,
    leave_at_once: bool = True,
) -> Diagnosed:
    """Look at photos, write a study of them unless there is one, run it until the time is over, and say what it found.

    Args:
        leave_at_once: as for run_study.

    Raises:
        InputError: an option does not fit the photos.
        CnnstudyError: as run_study.
    """
    from cnnstudy.config.load import load_study
    from cnnstudy.execution.time_limit import TimeLimit

    clock = TimeBudget(parse_time(time_))
    options = _find_photos(path, columns, layout, ignore_folders)
    file, limit = choose_file(options.path, out), TimeLimit()
    with contextlib.closing(_make_workers(limit)) as workers:
        if file.exists():
            print_text(f"{file} exists, and is used; what is recorded of its study is kept.")
        else:
            given = _format_arguments(path, time_, columns, layout, ignore_folders)
            _write_study(options, file, given, workers, clock)
            print_text(f"The study: {file}")
        study = load_study(str(file))
        _refuse_other_photos(study, options, file)
        limit.at = clock.started + clock.total - SECONDS_TO_REPORT
        return _answer(study, workers, limit, tracking_uri, open_, leave_at_once)


def _refuse_other_photos(study: Study, options: folder.Options | table.Options, file: Path) -> None:
    """Raise InputError if the study file is about other photos, or can't explain anything."""
    given, other = getattr(study.config.data, "path", None), "give another file with --out, or move it away."
    if given is None or os.path.realpath(given) != os.path.realpath(options.path):
        photos = "other data" if given is None else f"the photos in {printable(str(given))}"
        raise InputError(
            f"{printable(str(file))} exists and is about {photos}, not about those in "
            f"{printable(str(options.path))}; {other}"
        )
    if (kind := study.config.strategy.kind) != "factorial":
        raise InputError(f"{printable(str(file))} exists and is a {kind}, where a diagnosis takes a factorial; {other}")


def _answer(
    study: Study, workers: Workers, limit: TimeLimit, tracking_uri: str | None, open_: bool, leave_at_once: bool
) -> Diagnosed:
    """Run the study until the time is over, and say what it found."""
    with fast_import(without=NOT_FOR_MLFLOW):
        from cnnstudy.study.run import run_study
        from cnnstudy.tracking import client
    from cnnstudy.system.display import choose_display
    from cnnstudy.tracking.relocation import require_writable
    from cnnstudy.tracking.retry import RetryPolicy

    uri, console = client.tracking_uri(tracking_uri), open_console()
    require_writable(uri)
    tracker = RetryPolicy().call(lambda: client.Tracker(uri), print_note)
    with choose_display(console, quiet=False) as display:
        outcome = run_study(study, tracker, workers, display, leave_at_once=leave_at_once, always_reads_images=True)
    from cnnstudy.results import terminal

    if outcome.interrupted and not limit.is_over:
        # after Ctrl-C the user is not kept waiting for MLflow
        stopped = RetryPolicy(give_up_after=0.0)
        stopped.call(lambda: terminal.show_stopped(console, tracker, outcome), print_note)
        return Diagnosed(outcome.recorded.name, stopped=True, failed=outcome.failed)
    if outcome.interrupted:
        print_text(
            f"{limit.reason}. Trials still missing: {outcome.missing} of {study.config.total_trials}; the same "
            "command goes on with them."
        )
    _show_answer(tracker, outcome.recorded, open_)
    return Diagnosed(outcome.recorded.name, stopped=False, failed=outcome.failed)


def _show_answer(tracker: Tracker, recorded: RecordedStudy, open_: bool) -> None:
    """Show the effects, the answer and what to do next, then write the page and say where it is."""
    from cnnstudy.analysis.causes import NETWORKS
    from cnnstudy.analysis.effects_text import answer_sentences
    from cnnstudy.results import terminal
    from cnnstudy.results.pages.study_page import write_report
    from cnnstudy.tracking.retry import RetryPolicy

    found = terminal.analyze_ended_study(tracker, recorded, print_note)
    if found is None:
        return
    terminal.show_effects(open_console(), recorded.name, found)
    print_text("")
    for one in found:
        if one.architecture != NETWORKS:
            print_text(f"Answer: {answer_sentences(one)[0]}")
    retry, folder = RetryPolicy(), Path(f"{recorded.name}-report")
    steps = retry.call(lambda: terminal.list_steps(tracker, recorded, found), print_note)
    terminal.show_conclusion(open_console(), found, steps)
    page = retry.call(lambda: write_report(tracker, recorded, folder), print_note).absolute()
    print_text(f"Page: {page}")
    if open_:
        open_or_print(page.as_uri(), open_)


def parse_time(given: str) -> float:
    """Return a time such as 90s, 30m or 2h in seconds.

    Raises:
        InputError: it is none, too short or too long.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?(s|m|min|h)", given.strip())
    seconds = float(match[1]) * _UNITS[match[2]] if match else 0.0
    if not SHORTEST <= seconds <= LONGEST:
        raise InputError(
            f"--time {printable(given)} can't be used; give a number with s, m or h, such as 90s, 30m or 2h, from "
            f"{SHORTEST}s to {LONGEST // 3600}h."
        )
    return seconds


@dataclass
class TimeBudget:
    """How much is left of the time that a command may take."""

    total: float  # seconds
    started: float = 0.0

    def __post_init__(self) -> None:
        self.started = self.started or time.monotonic()

    def seconds_for_trials(self) -> float:
        """Return the seconds that are left for trials, so that the whole ends in time."""
        elapsed = time.monotonic() - self.started
        return (1 - MARGIN) * (self.total - elapsed - SECONDS_TO_REPORT)


def _find_photos(
    path: str, columns: dict[str, str | None], layout: str | None, ignore_folders: str | None
) -> folder.Options | table.Options:
    """Return how the photos are read.

    Raises:
        InputError: as find_source; or the path is a study.
    """
    from cnnstudy.data.datasets import folder, table

    options, study = find_source(path, columns, layout, ignore_folders)
    if study is not None:
        raise InputError(f"{printable(path)} is a study already; `run-study` runs it. Give a folder of photos.")
    assert isinstance(options, folder.Options | table.Options)
    return options.model_copy(update={"path": options.path.expanduser().absolute()})


def _format_arguments(
    path: str, time_: str, columns: dict[str, str | None], layout: str | None, ignore_folders: str | None
) -> str:
    """Return what was given of the photos and the time, as it is typed."""
    options = {**columns, "layout": layout, "ignore-folders": ignore_folders}
    given = [part for name, value in options.items() if value is not None for part in (f"--{name}", value)]
    return shlex.join([path, "--time", time_, *given])


def choose_file(path: Path, out: Path | None) -> Path:
    """Return the study file: as given, or one here with the name of the photos.

    Raises:
        InputError: the name or the place can't be that of a study file.
    """
    from cnnstudy.study.suggestion_text import name_study

    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise InputError(
            f"{printable(str(path))} has a name that is no valid text, which a study file can't hold; rename it."
        ) from None
    if out is None:
        return Path(f"{name_study(path)}.yaml")
    if out.suffix not in (".yaml", ".yml"):
        raise InputError(f"--out {printable(str(out))} is no name of a study file; it must end in .yaml.")
    if not out.expanduser().absolute().parent.is_dir():
        raise InputError(f"--out {printable(str(out))}: there is no folder {printable(str(out.parent))}; create it.")
    return out.expanduser()


def _make_workers(limit: TimeLimit | None = None) -> Workers:
    from cnnstudy.execution import Workers
    from cnnstudy.execution.selection import make_executor
    from cnnstudy.execution.time_limit import TimedExecutor, TimeLimit

    limit = limit or TimeLimit()  # never over
    return Workers(lambda folder: TimedExecutor(make_executor(1, folder), limit))


def _write_study(options: DataOptions, file: Path, given: str, workers: Workers, clock: TimeBudget) -> Suggestion:
    """Look at the photos, show what there is, and write the study file.

    Args:
        given: the arguments to name in the file.
    """
    with fast_import(without=NOT_FOR_MLFLOW):
        from cnnstudy.study.new_study import fit_study, look_at_machine, look_at_photos
    from cnnstudy.results.pages.data_summary import format_short
    from cnnstudy.study.suggestion_text import name_study, write_study_file
    from cnnstudy.system.display import watch_command
    from cnnstudy.system.files import write_whole

    console, name = open_console(error=True), name_study(file.with_suffix(""))
    with watch_command(console) as display:
        examined, photos = look_at_photos(options, display)
    print_text(format_short(examined, photos.images))
    with watch_command(console) as display:
        suggestion = fit_study(name, photos, look_at_machine(), workers, clock.seconds_for_trials, display)
    write_whole(file, write_study_file(suggestion, f"python -m cnnstudy init {given}"))
    return suggestion
