"""The command line: the commands, and the exit codes of errors.

Comes in: the user's arguments. Goes out: output, and an exit code. A command parses its arguments, calls study,
tracking, analysis or results, and shows what they return; errors raised on purpose end it with one message.

run          run-study, confirm, reproduce
data         data
results      leaderboard, effects, report, ui, compare, watch
models       predict, export, describe
maintenance  doctor, cache
options      what several commands share: options, the console, a worker for one job

May import: every room above.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.console import Console

import cnnstudy
from cnnstudy.cli import data, maintenance, models, results, run
from cnnstudy.cli.options import INTERRUPTED
from cnnstudy.errors import CnnstudyError, EnvironmentTrouble
from cnnstudy.system import imports

app = typer.Typer(
    name="cnnstudy",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Find out why a convolutional network overfits. A study file becomes trained networks, a record in MLflow "
    "and a leaderboard.",
    epilog="Exit codes: 0 done; 2 invalid input; 3 something the study needs is missing or broken; "
    "4 done, but trials failed (or doctor found something); 130 stopped, and the same command resumes.",
)
app.command("run-study")(run.run_study)
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
):
    app.command()(_command)
app.add_typer(maintenance.cache, name="cache")


def main() -> None:
    """Run a command. An expected error becomes one message and an exit code, never a traceback."""
    try:
        with imports.reduce_garbage_collection():
            app()
    except CnnstudyError as error:
        Console(stderr=True).print(f"error: {error}", markup=False, emoji=False, highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)
    except OSError as error:  # such as a full disk or a read-only folder
        from cnnstudy.system.scratch import restate_os_error

        text = f"error: {restate_os_error(error) or error}"
        Console(stderr=True).print(text, markup=False, emoji=False, highlight=False, soft_wrap=True)
        sys.exit(EnvironmentTrouble.exit_code)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _show_version(requested: bool) -> None:
    if requested:
        print(f"cnnstudy {cnnstudy.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass
