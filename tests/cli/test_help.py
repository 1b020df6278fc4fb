"""`--help` shows the text and the default of every parameter."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from cnnstudy.cli import app
from cnnstudy.system.cache import KINDS


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*path, name))


COMMANDS = dict(commands(typer.main.get_command(app)))


def test_all_commands_are_here() -> None:
    assert {("run-study",), ("ui",), ("describe",), ("cache", "clear")} <= COMMANDS.keys()


def words(text: str) -> str:
    return re.sub(r"[\s│|]+", " ", text)


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_shows_each_text_and_each_default(path: tuple[str, ...]) -> None:
    done = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "400", "TERM": "dumb", "NO_COLOR": "1"})
    assert done.exit_code == 0, done.output
    shown = words(done.output)
    for parameter in COMMANDS[path].params:
        if parameter.name == "help":
            continue
        assert len((parameter.help or "").strip()) > 4, f"{parameter.name} has no text"
        assert words(parameter.help) in shown, parameter.name
        default = parameter.show_default
        if isinstance(default, str):
            assert f"[default: ({default})]" in shown, parameter.name
        assert "default:" not in parameter.help, f"{parameter.name}: give it as show_default"


def test_what_brackets_would_hide_is_shown() -> None:
    """Defaults given in words, as far as users rely on them."""
    told = {
        (path[-1], parameter.name): parameter.show_default
        for path, command in COMMANDS.items()
        for parameter in command.params
        if isinstance(parameter.show_default, str)
    }
    assert told.pop(("ui", "port")) == "5000, or a free one"
    assert told.pop(("describe", "png")) == "ARCHITECTURE.png"
    assert told.pop(("import", "name")) == "FILE's"
    assert told.pop(("data", "network")) == "as the weights or STUDY say"
    assert {name for _, name in told} == {
        *("tracking_uri", "networks", "study", "sort", "out", "top", "seeds", "most_seeds"),
        *("jobs", "on"),
    }


def test_h_is_help() -> None:
    assert CliRunner().invoke(app, ["effects", "-h"]).output == CliRunner().invoke(app, ["effects", "--help"]).output


@pytest.mark.parametrize(
    ("words", "completed"),
    [("lea", "leaderboard"), ("run-study ti", "tiny"), ("run-study --dry", "--dry-run")],
)
def test_a_shell_completes_commands_options_and_studies(words: str, completed: str) -> None:
    line = f"cnnstudy {words}"
    variables = {
        "_CNNSTUDY_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(line.split()) - 1),
    }
    assert CliRunner().invoke(app, [], env=variables, prog_name="cnnstudy").output.split() == [completed]


def test_the_help_of_the_cache_names_its_kinds() -> None:
    said = CliRunner().invoke(app, ["cache", "list", "--help"]).output
    assert all(kind in said for kind in KINDS)
