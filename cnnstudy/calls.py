"""Which command goes on with a study: its run keeps the calls, for those who see that one was stopped.

A study's name is not where its file lies, and what was given besides the file belongs to the call: without it the study
would be another, which is refused.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from cnnstudy.config import SHIPPED, Study

#: Tags of the study's own run: the last run-study, and the last call of any command that runs trials of it.
RUN, LAST = "cnnstudy.run_command", "cnnstudy.last_command"


def of_run(study: Study) -> dict[str, str]:
    """The tags of a run-study."""
    overrides = [word for override in study.overrides for word in ("--set", override)]
    command = _command("run-study", _file(study), *overrides)
    return {RUN: command, LAST: command}


def of_confirm(name: str, options: Mapping[str, int], again: bool) -> dict[str, str]:
    """The tags of a confirm of the study of that name.

    Args:
        options: those that were given.
        again: with --open-test-again.
    """
    given = [word for option, value in options.items() for word in (f"--{option.replace('_', '-')}", str(value))]
    return {LAST: _command("confirm", name, *given, *(["--open-test-again"] if again else []))}


def that_goes_on(tags: Mapping[str, str]) -> str:
    """How to go on with what was stopped, from the tags of the study's own run."""
    return _said(tags, (LAST, RUN))


def that_runs_what_is_missing(tags: Mapping[str, str]) -> str:
    """How to run the trials that are missing, from the tags of the study's own run."""
    return _said(tags, (RUN,))


def _said(tags: Mapping[str, str], names: Sequence[str]) -> str:
    found = next((tags[name] for name in names if name in tags), "")
    return f"`{found}` goes on" if found else "the command that ran it goes on"


def _file(study: Study) -> str:
    """Its name where it comes with cnnstudy, which is known everywhere; else where it lies."""
    path = study.path.absolute()
    shipped = path.suffix == ".yaml" and path.resolve().parent == SHIPPED.resolve()
    return path.stem if shipped else str(path)


def _command(*words: str) -> str:
    return shlex.join(["python", "-m", "cnnstudy", *words])
