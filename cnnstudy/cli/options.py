"""What several commands take and use: options, the console, a worker for one job."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated
from urllib.parse import unquote

import typer
from rich.console import Console

from cnnstudy.errors import EXIT_INTERRUPTED, without_secrets

if TYPE_CHECKING:
    from cnnstudy.execution import Executor
    from cnnstudy.system.display import Display


_OPTION, _VARIABLE = "--tracking-uri", "MLFLOW_TRACKING_URI"


def hide_secrets(uri: str | None) -> str | None:
    """The same address, its secrets hidden. Where it stands on the command line, this process begins anew without it
    there and with it in the environment, which only its user can read.
    """
    if uri is not None and without_secrets(uri) != uri:
        _hide_in_tracebacks(uri)
        _hide_in_process_list(uri)
    return uri


def _hide_in_process_list(uri: str) -> None:
    kept = _without_option(sys.orig_argv)
    if uri not in "\0".join(sys.orig_argv) or kept == sys.orig_argv:  # it came from the environment
        return
    print(
        f"note: {_OPTION} holds a password, and the list of processes shows what stands on a command line; give the "
        f"address as {_VARIABLE} in the environment",
        file=sys.stderr,
        flush=True,
    )
    if os.name == "posix":  # elsewhere it would be another process, that nobody waits for
        os.environ[_VARIABLE] = uri
        os.execv(sys.executable, [sys.executable, *kept[1:]])


def _without_option(arguments: list[str]) -> list[str]:
    kept, values = [], 0
    for argument in arguments:
        if values:
            values -= 1
        elif argument == _OPTION:
            values = 1
        elif not argument.startswith(f"{_OPTION}="):
            kept.append(argument)
    return kept


def _hide_in_tracebacks(uri: str) -> None:
    """Of errors that nobody expected; libraries may have the address, or its password alone, in theirs."""
    password = re.search(r"//[^:@/]*:(.*)@", uri)
    hidden = {uri, *((password[1], unquote(password[1])) if password and password[1] else ())}

    def show(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
        text = "".join(traceback.format_exception(kind, error, trace))
        for secret in sorted(hidden, key=len, reverse=True):
            text = text.replace(secret, without_secrets(uri) if secret == uri else "***")
        sys.stderr.write(without_secrets(text))

    sys.excepthook = show
    threading.excepthook = lambda given: show(given.exc_type, given.exc_value, given.exc_traceback)


TRIALS_FAILED, INTERRUPTED = 4, EXIT_INTERRUPTED

TrackingUri = Annotated[
    str | None,
    typer.Option(
        "--tracking-uri",
        envvar="MLFLOW_TRACKING_URI",
        show_envvar=True,
        callback=hide_secrets,
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
    from cnnstudy.execution import make_executor
    from cnnstudy.system.display import choose_display
    from cnnstudy.system.processes import terminate_as_interrupt
    from cnnstudy.system.scratch import scratch_folder

    console = Console(stderr=True)
    with (
        terminate_as_interrupt(),
        scratch_folder() as folder,
        contextlib.closing(make_executor(1, folder)) as executor,
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
