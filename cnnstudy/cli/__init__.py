"""The command line: the commands, and the exit codes of errors; and the same from Python.

Comes in: the user's arguments. Goes out: output, and an exit code. A command parses its arguments, calls study,
tracking, analysis or results, and shows what they return; errors raised on purpose end it with one message.

run          run-study, confirm, reproduce
start        init, diagnose
data         data
results      leaderboard, effects, report, ui, compare, watch
models       predict, export, describe
features     features export
weights      weights import, weights list
maintenance  doctor, cache
api          run, diagnose and load from Python and notebooks: cnnstudy.run and so on
sources      what arguments name: the images or the study, a network's weights
options      what several commands share: options, a worker for one job

May import: every room above.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import cnnstudy
from cnnstudy.cli import data, features, maintenance, models, results, run, start, weights
from cnnstudy.cli.options import UNEXPECTED
from cnnstudy.errors import EXIT_INTERRUPTED, CnnstudyError, EnvironmentTrouble, printable_lines
from cnnstudy.system import imports, output
from cnnstudy.system.processes import terminate_as_interrupt


class _Commands(TyperGroup):
    """The commands; what is wrong with arguments is said without their control characters."""

    def make_context(self, *given: Any, **options: Any) -> Any:
        with _printable_messages():
            return super().make_context(*given, **options)

    def invoke(self, ctx: Any) -> Any:
        with _printable_messages():
            return super().invoke(ctx)


@contextlib.contextmanager
def _printable_messages() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if hasattr(error, "format_message") and hasattr(error, "message"):  # Typer shows it
            error.message = printable_lines(str(error.message))
        raise


app = typer.Typer(
    name="cnnstudy",
    cls=_Commands,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    help="Find out why a convolutional network overfits. A study file becomes trained networks, a record in MLflow "
    "and a leaderboard.",
    epilog="Exit codes: 0 done; 2 invalid input; 3 something the study needs is missing or broken; "
    "4 done, but trials failed (or doctor found something); 130 stopped (Ctrl-C, SIGTERM, a closed terminal, a pipe "
    "without a reader), and the same command resumes.",
)
app.command("run-study")(run.run_study)
app.command("diagnose")(start.diagnose)
app.command("init")(start.init)
app.command("data")(data.show_data)
for _command in (
    run.confirm,
    run.reproduce,
    results.leaderboard,
    results.effects,
    results.report,
    results.compare,
    results.watch,
    models.predict,
    models.export,
    results.ui,
    models.describe,
    maintenance.doctor,
    maintenance.schema,
):
    app.command()(_command)
app.add_typer(features.features, name="features")
app.add_typer(weights.weights, name="weights")
app.add_typer(maintenance.cache, name="cache")


def main() -> None:
    """Run a command. An expected error becomes one message and an exit code, never a traceback."""
    try:
        with terminate_as_interrupt(), output.guard_streams():
            code = _run_command()
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    sys.exit(code)


def _run_command() -> int:
    """Run the command that the arguments name, and return its exit code."""
    try:
        with imports.reduce_garbage_collection():
            app()
    except SystemExit as end:
        return int(end.code or 0)
    except CnnstudyError as error:
        output.print_error(f"error: {error}")
        return error.exit_code
    except OSError as error:  # such as a full disk or a read-only folder
        from cnnstudy.system.scratch import restate_os_error

        plain = f"can't use {error.filename}: {error.strerror}" if error.filename and error.strerror else error
        output.print_error(f"error: {restate_os_error(error) or plain}")
        return EnvironmentTrouble.exit_code
    except Exception as error:
        output.print_traceback(error)
        return UNEXPECTED
    return 0


def _show_version(requested: bool) -> None:
    if requested:
        output.print_text(f"cnnstudy {cnnstudy.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass
