"""The pages of the documentation that are made from the code: keys of study files, commands, the Python API."""

from __future__ import annotations

import inspect
import re

import typer.cli
import typer.main
from keys import KeysPage

import cnnstudy
from cnnstudy import cli
from cnnstudy.config.json_schema import make_schema

PROGRAM = "python -m cnnstudy"
COMMANDS = f"""\
# The command line

What `{PROGRAM} COMMAND --help` says, of all commands. [Commands and results](docs/commands.md) says what they are for.
"""
API = """\
# The Python API

Everything here is imported from `cnnstudy`. [From Python](docs/python.md) shows how it is used.

"""


def make_pages() -> dict[str, str]:
    """Return the pages as MyST Markdown, by the name of their file."""
    return {"keys.md": KeysPage(make_schema()).write(), "command-line.md": list_commands(), "api.md": list_api()}


def list_commands() -> str:
    """Return the page of all commands, with their own help."""
    command = typer.main.get_command(cli.app)
    page = typer.cli.get_docs_for_click(obj=command, ctx=typer.Context(command, info_name=PROGRAM), name=PROGRAM)
    page = page.partition("\n")[2].replace(f"# `{PROGRAM} ", "# `")  # the headings are the commands' names
    page = page.replace("* `--help`:", "* `-h, --help`:")
    for name in command.commands:
        # Typer cuts the sentences of this list short; they are whole below each heading
        page = re.sub(rf"(?m)^\* `{name}`: .*", f"* [`{name}`](#{name})", page, count=1)
    return COMMANDS + page


def list_api() -> str:
    """Return the page that has Sphinx read the docstrings of each public name."""
    parts = [API]
    for name in cnnstudy._API:
        kind = "function" if inspect.isfunction(getattr(cnnstudy, name)) else "class"
        members = "" if kind == "function" else "\n   :members:"
        directive = f".. auto{kind}:: cnnstudy.{name}{members}"
        parts.append(f"## {name}\n\n```{{eval-rst}}\n{directive}\n```\n\n")
    return "".join(parts)
