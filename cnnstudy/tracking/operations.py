"""The six ways to write to MLflow, each as plain data: its arguments, and how they lie on disk."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cnnstudy.records import PreparedImages


@dataclass(frozen=True)
class StartRun:
    """Make a run with its parameters, and with the data set as its input."""

    name: str
    tags: Mapping[str, str]
    parameters: Mapping[str, str]
    images: PreparedImages


@dataclass(frozen=True)
class LogMetrics:
    """Log all metrics of one step."""

    metrics: Mapping[str, float]
    step: int


@dataclass(frozen=True)
class SetTags:
    """Set tags, which may be cut to what MLflow takes."""

    tags: Mapping[str, str]


@dataclass(frozen=True)
class LogFiles:
    """Log the folder's content as the run's artifacts."""

    folder: Path


@dataclass(frozen=True)
class LogModel:
    """Log the folder, a model that a worker packaged, as an output of the run, with its metrics."""

    folder: Path
    name: str
    metrics: Mapping[str, float]
    step: int
    images: PreparedImages
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class EndRun:
    """Give the run its final state."""

    state: str
    tags: Mapping[str, str] = field(default_factory=dict)


Operation = StartRun | LogMetrics | SetTags | LogFiles | LogModel | EndRun

#: By the names that they have on disk: records that an earlier version left there are read by them.
_KINDS: dict[str, type[Operation]] = {
    "start_run": StartRun,
    "log_metrics": LogMetrics,
    "set_tags": SetTags,
    "log_files": LogFiles,
    "log_model": LogModel,
    "end_run": EndRun,
}
_NAMES = {kind: name for name, kind in _KINDS.items()}


@dataclass(frozen=True)
class Attempt:
    """When an operation was meant, and how to find what an earlier attempt at it has made."""

    at: int | None = None  # milliseconds since 1970; None: now
    token: str = ""  # a tag of the run or model that is made
    again: bool = False  # it may be there already


FIRST_ATTEMPT = Attempt()


def to_json(operation: Operation) -> tuple[str, dict[str, Any]]:
    """Return the operation's name and its arguments as JSON's types, without the folder."""
    arguments = dataclasses.asdict(operation)
    arguments.pop("folder", None)
    return _NAMES[type(operation)], arguments


def from_json(name: str, arguments: Mapping[str, Any], folder: Path | None) -> Operation:
    """Return the operation that `to_json` told of, with its folder where it has one.

    Raises:
        KeyError, TypeError: this version knows no such operation.
    """
    given = dict(arguments)
    if "images" in given:
        given["images"] = PreparedImages.from_json(given["images"])
    if folder is not None:
        given["folder"] = folder
    return _KINDS[name](**given)
