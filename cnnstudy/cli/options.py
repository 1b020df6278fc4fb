"""Shared by several commands: options, password hiding, a worker for one job."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import unquote

import typer

from cnnstudy.errors import without_secrets
from cnnstudy.system.output import hide_in_tracebacks, open_console, print_note, print_text

if TYPE_CHECKING:
    from cnnstudy.execution import Executor, Workers
    from cnnstudy.system.display import Display


_OPTION, _VARIABLE = "--tracking-uri", "MLFLOW_TRACKING_URI"


def hide_secrets(uri: str | None) -> str | None:
    """Return the address unchanged, and hide the password in it, if any, from tracebacks and the process list.

    If the address was given on the command line, restart this process (on POSIX) with the address in the environment
    instead, which only its user can read.
    """
    if uri is not None and without_secrets(uri) != uri:
        _hide_in_tracebacks(uri)
        _hide_in_process_list(uri)
    return uri


def _hide_in_process_list(uri: str) -> None:
    arguments = _without_option(sys.orig_argv)
    if uri not in "\0".join(sys.orig_argv) or arguments == sys.orig_argv:  # it came from the environment
        return
    print_note(
        f"{_OPTION} contains a password, and the process list shows command lines; set {_VARIABLE} in the environment "
        "instead"
    )
    if os.name == "posix":  # elsewhere execv starts a second process that the shell does not wait for
        os.environ[_VARIABLE] = uri
        os.execv(sys.executable, [sys.executable, *arguments[1:]])


def _without_option(arguments: list[str]) -> list[str]:
    remaining, skip_value = [], False
    for argument in arguments:
        if skip_value:
            skip_value = False
        elif argument == _OPTION:
            skip_value = True
        elif not argument.startswith(f"{_OPTION}="):
            remaining.append(argument)
    return remaining


def _hide_in_tracebacks(uri: str) -> None:
    """Mask the address and its password in uncaught errors, including those of libraries."""
    hide_in_tracebacks(uri, without_secrets(uri))
    password = re.search(r"//[^:@/]*:(.*)@", uri)
    for secret in {password[1], unquote(password[1])} if password and password[1] else ():
        hide_in_tracebacks(secret, "***")


#: Exit codes.
UNEXPECTED, TRIALS_FAILED = 1, 4

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
        help="A study (its champion), STUDY/TRIAL, a models:/ address, an MLflow model's folder or a .keras file.",
    ),
]
StudyName = Annotated[
    str | None, typer.Argument(metavar="[STUDY]", help="A study's name.", show_default="the latest one")
]
TakeOver = Annotated[
    bool, typer.Option("--take-over", help="Resume a study that was started elsewhere; its driver must be gone.")
]
AcceptCode = Annotated[bool, typer.Option("--accept-code", help="Resume even though the training code has changed.")]
On = Annotated[
    str | None,
    typer.Option(
        "--on",
        metavar="PLACE",
        help="Where trials run: local, ray, or ray://HOST:PORT.",
        show_default="the file's execution.on, or local",
    ),
]
Slots = Annotated[
    int | None,
    typer.Option(
        "--jobs",
        min=1,
        help="Number of workers; on one machine they share the cores.",
        show_default="the file's execution.slots, or 1",
    ),
]
Jobs = Annotated[int, typer.Option("--jobs", min=1, help="Number of workers; they share the cores.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]


def plain_workers(jobs: int) -> Workers:
    """Return that many workers, which start when they are needed."""
    from cnnstudy.execution import Workers
    from cnnstudy.execution.selection import make_executor

    return Workers(lambda folder: make_executor(jobs, folder))


@contextlib.contextmanager
def one_worker() -> Iterator[tuple[Executor, Display, Path]]:
    """Yield a worker for one job, a progress display on standard error, and a scratch folder."""
    from cnnstudy.execution.selection import make_executor
    from cnnstudy.system.display import watch_command
    from cnnstudy.system.scratch import scratch_folder

    console = open_console(error=True)
    with (
        scratch_folder() as folder,
        contextlib.closing(make_executor(1, folder)) as executor,
        watch_command(console) as display,
    ):
        yield executor, display, folder


def open_or_print(url: str, open_: bool) -> None:
    """Print an address, and open it in the browser if asked to."""
    import webbrowser

    print_text(url)
    if open_:
        webbrowser.open(url)
