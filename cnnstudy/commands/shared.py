"""What several commands take and use: options, the console, a worker for one job."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from cnnstudy.commands.secrets import guard

if TYPE_CHECKING:
    from cnnstudy.display import Display
    from cnnstudy.execution import Executor

TRIALS_FAILED, INTERRUPTED = 4, 130

TrackingUri = Annotated[
    str | None,
    typer.Option(
        "--tracking-uri",
        envvar="MLFLOW_TRACKING_URI",
        show_envvar=True,
        callback=guard,
        help="Where MLflow keeps the record.",
        show_default="sqlite:///mlflow.db",
    ),
]
ModelName = Annotated[
    str,
    typer.Argument(
        metavar="STUDY-OR-MODEL",
        help="A study (its champion), STUDY/TRIAL, a models:/ address, a model's folder or a .keras file.",
    ),
]
StudyName = Annotated[
    str | None, typer.Argument(metavar="[STUDY]", help="A study's name.", show_default="the latest one")
]
TakeOver = Annotated[
    bool, typer.Option("--take-over", help="Go on with a study that was begun elsewhere; that driver must be gone.")
]
AcceptCode = Annotated[
    bool, typer.Option("--accept-code", help="Go on though other code has trained the trials so far.")
]
Jobs = Annotated[int, typer.Option("--jobs", min=1, help="Workers that share the cores.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]


def wide_console() -> Console:
    """Standard output; what is not a terminal has no width that a table could be cut to."""
    console = Console()
    return console if console.is_terminal else Console(width=160)


@contextlib.contextmanager
def one_worker() -> Iterator[tuple[Executor, Display, Path]]:
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


def note(text: str) -> None:
    if text:
        print(f"note: {text}", file=sys.stderr)


def open_or_print(url: str, open_: bool) -> None:
    import webbrowser

    print(url, flush=True)
    if open_:
        webbrowser.open(url)
