"""The exceptions, as a tree. Each message says what was given and where, what is allowed, and what to do.

CnnstudyError
├── InputError            exit 2: something the user wrote
│   ├── ConfigError         the study file or --set
│   ├── UnknownNameError    a study, network or data set that does not exist
│   └── StudyChangedError   the file, data or code no longer fits the trials already recorded
└── EnvironmentTrouble    exit 3: something around the study
    ├── DataError           images that are missing or can't be decoded
    ├── WeightsError        source weights that are missing or don't fit
    ├── ModelError          a trained model that can't be loaded or exported
    ├── TrackingError       MLflow's store can't be reached or written
    │   ├── TrackingUnavailableError   temporarily: retrying may succeed
    │   └── LostRunError               a study or a run that was deleted there, or that it does not have any more
    ├── DiskFullError       no space on this disk to record what was measured
    ├── CacheError          a cache that can't be used, or an entry of it that others could have changed
    ├── StudyBusyError      another driver runs this study
    │   └── TakenOverError    another driver has taken the study over from this one
    ├── WorkerError         a worker process that can't start or stops answering
    └── RepeatedFailureError  consecutive trials that fail in the same way
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

#: The exit code of a command that was interrupted; those of errors are their `exit_code`.
EXIT_INTERRUPTED = 130


class CnnstudyError(Exception):
    """The base class of everything cnnstudy raises on purpose; its text is shown to the user as it is."""

    exit_code = 1

    def __str__(self) -> str:
        return without_secrets(super().__str__())


class InputError(CnnstudyError):
    """Something the user wrote can't be used."""

    exit_code = 2


class ConfigError(InputError):
    """A study file, or a --set on top of it, that can't be used."""


class UnknownNameError(InputError):
    """The name of a study, network or data set that does not exist."""


class StudyChangedError(InputError):
    """A study whose file, data or code changed in a way that its recorded trials depend on."""


class EnvironmentTrouble(CnnstudyError):  # noqa: N818 - a branch of the tree, not itself an error
    """Something around the study is missing or broken."""

    exit_code = 3


class DataError(EnvironmentTrouble):
    """Images that are missing or can't be decoded."""


class CacheError(EnvironmentTrouble):
    """A cache that can't be used, or an entry that can't be trusted, because others could have changed it."""


class WeightsError(EnvironmentTrouble):
    """Source weights that are missing or don't fit the network."""


class ModelError(EnvironmentTrouble):
    """A trained model that can't be loaded, used or exported."""


class TrackingError(EnvironmentTrouble):
    """MLflow's store can't be reached, read or written."""


class TrackingUnavailableError(TrackingError):
    """MLflow's store temporarily can't be reached, read or written: it is locked, slow, full or restarting.

    Attributes:
        disk_full: whether the cause is a full disk on this machine.
    """

    disk_full = False


class LostRunError(TrackingError):
    """A study or a run that was deleted in MLflow, or that its store does not have any more."""


class DiskFullError(EnvironmentTrouble):
    """No space on this disk to record what was measured."""


class StudyBusyError(EnvironmentTrouble):
    """Another driver runs this study."""


class TakenOverError(StudyBusyError):
    """Another driver has taken the study over from this one."""


class WorkerError(EnvironmentTrouble):
    """A worker process that can't start or stops answering."""


class RepeatedFailureError(EnvironmentTrouble):
    """Several consecutive trials failed in the same way."""


#: Errors by name, so that one raised in a worker can be raised again in the driver.
BY_NAME: dict[str, type[CnnstudyError]] = {
    cls.__name__: cls
    for cls in (
        ConfigError,
        UnknownNameError,
        CacheError,
        DataError,
        WeightsError,
        ModelError,
        TrackingError,
        TrackingUnavailableError,
        DiskFullError,
        StudyBusyError,
        WorkerError,
    )
}


def did_you_mean(given: str, allowed: Iterable[str]) -> str:
    """Return the end of a sentence: `"; did you mean 'epochs'?"` if an allowed name is similar, else a period."""
    near = nearest_name(given, allowed)
    return "." if near is None else f"; did you mean {near!r}?"


def nearest_name(given: str, allowed: Iterable[str]) -> str | None:
    """Return the allowed name that is most similar to the given one; None if none is similar."""
    lowered = {name.lower(): name for name in map(str, allowed)}
    close = difflib.get_close_matches(given.lower().replace("-", "_"), lowered, n=1, cutoff=0.6)
    close = close or difflib.get_close_matches(given.lower(), lowered, n=1, cutoff=0.6)
    return lowered[close[0]] if close else None


#: The most lines that a message lists.
MAX_LISTED = 20


def printable(text: str) -> str:
    """Return foreign text, such as a file name, as one line with control and unprintable characters escaped."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def printable_lines(text: str) -> str:
    """Return a message whose lines are `printable`, all but the first indented: none of them begins a message."""
    first, *rest = map(printable, text.split("\n"))
    indent = "  " if any(line[:1] != " " for line in rest if line) else ""
    return "\n".join([first, *(f"{indent}{line}".rstrip() for line in rest)])


def format_list(lines: Sequence[str]) -> str:
    """Return each of the first MAX_LISTED lines on an indented line of its own, and how many more there are."""
    more = f"\n  and {len(lines) - MAX_LISTED} more" if len(lines) > MAX_LISTED else ""
    return "".join(f"\n  {line}" for line in lines[:MAX_LISTED]) + more


def as_sentence(error: BaseException | str) -> str:
    """Return a message with exactly one period at its end, so that another sentence may follow."""
    return f"{str(error).rstrip('.')}."


def without_secrets(text: str) -> str:
    """Return the text with the secrets in its URLs replaced by `***`.

    The secrets are user and password, which may contain `@` and `/`, and all values of a query, where a signature or a
    key may have any name. The values of assignments such as `password=...` are replaced too.
    """
    hidden = re.sub(r"//\S*@", "//***@", text)
    hidden = re.sub(r"(\w:/)\S*:\S*@", r"\1***@", hidden)  # a URL that was taken for a path
    hidden = re.sub(r"\?[\w.-]+=[^\s'\"]*", lambda query: re.sub(r"=[^&;]*", "=***", query[0]), hidden)
    return re.sub(r"(?i)((?:password|passwd|pwd|token|secret|signature|api_?key))=[^&\s'\"]*", r"\1=***", hidden)
