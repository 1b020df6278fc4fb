"""Which command goes on with a study: its run keeps the calls, for those who see that one was stopped.

A study's name is not where its file lies, and what was given besides the file belongs to the call: without it the study
would be another, which is refused.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from cnnstudy.config import SHIPPED, Study
from cnnstudy.names import Tag
from cnnstudy.records import RecordedRun


def of_run(study: Study) -> dict[str, str]:
    """The tags of a run-study."""
    overrides = [word for override in study.overrides for word in ("--set", override)]
    command = _command("run-study", _file(study), *overrides)
    return {Tag.RUN_COMMAND: command, Tag.LAST_COMMAND: command}


def of_confirm(name: str, options: Mapping[str, int], again: bool) -> dict[str, str]:
    """The tags of a confirm of the study of that name.

    Args:
        options: those that were given.
        again: with --open-test-again.
    """
    given = [word for option, value in options.items() for word in (f"--{option.replace('_', '-')}", str(value))]
    return {Tag.LAST_COMMAND: _command("confirm", name, *given, *(["--open-test-again"] if again else []))}


def that_goes_on(own: RecordedRun) -> str:
    """How to go on with what was stopped, from the study's own run."""
    return _said(own.last_command or own.run_command)


def that_runs_what_is_missing(own: RecordedRun) -> str:
    """How to run the trials that are missing, from the study's own run."""
    return _said(own.run_command)


def _said(command: str) -> str:
    return f"`{command}` goes on" if command else "the command that ran it goes on"


def _file(study: Study) -> str:
    """Its name where it comes with cnnstudy, which is known everywhere; else where it lies."""
    path = study.path.absolute()
    shipped = path.suffix == ".yaml" and path.resolve().parent == SHIPPED.resolve()
    return path.stem if shipped else str(path)


def _command(*words: str) -> str:
    return shlex.join(["python", "-m", "cnnstudy", *words])
