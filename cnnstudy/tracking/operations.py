"""The six ways to write to MLflow, as plain data, and their form on disk."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cnnstudy.names import Tag
from cnnstudy.records import PreparedImages


@dataclass(frozen=True)
class StartRun:
    """Create a run with its parameters, and the data set as its input."""

    name: str
    tags: Mapping[str, str]
    parameters: Mapping[str, str]
    images: PreparedImages


@dataclass(frozen=True)
class Step:
    """The metrics of one step, and when they were reported."""

    metrics: Mapping[str, float]
    step: int
    at: int  # milliseconds since 1970


@dataclass(frozen=True)
class LogMetrics:
    """Log all metrics of one step, and those of earlier steps that were held back."""

    metrics: Mapping[str, float]
    step: int
    earlier: Sequence[Step] = ()


@dataclass(frozen=True)
class SetTags:
    """Set tags; long values are cut to what MLflow accepts."""

    tags: Mapping[str, str]


@dataclass(frozen=True)
class LogFiles:
    """Log the folder's contents as artifacts of the run."""

    folder: Path


@dataclass(frozen=True)
class EndRun:
    """Set the final state of the run, with its last metrics."""

    state: str
    tags: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    step: int = 0


@dataclass(frozen=True)
class LogModel:
    """Log the folder of a packaged model as an output of the run, with the model's metrics; then end the run.

    Both at once spare a tracking server two requests.
    """

    folder: Path
    name: str
    metrics: Mapping[str, float]
    step: int
    images: PreparedImages
    tags: Mapping[str, str] = field(default_factory=dict)
    end: EndRun | None = None  # None: the run goes on


Operation = StartRun | LogMetrics | SetTags | LogFiles | LogModel | EndRun

#: By their names on disk, which never change: records of an earlier version may still be there.
_KINDS: dict[str, type[Operation]] = {
    "start_run": StartRun,
    "log_metrics": LogMetrics,
    "set_tags": SetTags,
    "log_files": LogFiles,
    "log_model": LogModel,
    "end_run": EndRun,
}
_NAMES = {kind: name for name, kind in _KINDS.items()}
#: What an earlier version does not know, and which is left out where it is not used.
_NEWER: dict[type[Operation], tuple[str, ...]] = {
    EndRun: ("metrics", "step"),
    LogModel: ("end",),
    LogMetrics: ("earlier",),
}


@dataclass(frozen=True)
class Attempt:
    """The time of an operation, and how to find the result of an earlier attempt at it."""

    at: int | None = None  # milliseconds since 1970; None: now
    token: str = ""  # value of a tag on the run or model that is created; "": untagged
    again: bool = False  # an earlier attempt may have created it

    def mark(self, tags: Mapping[str, str]) -> dict[str, str]:
        """Return the tags of what is created, with the token."""
        return {**tags, Tag.TOKEN: self.token} if self.token else dict(tags)


FIRST_ATTEMPT = Attempt()


def current_time() -> int:
    """Return the time of an operation that happens now, milliseconds since 1970."""
    return int(time.time() * 1000)


def to_json(operation: Operation) -> tuple[str, dict[str, Any]]:
    """Return the operation's name on disk and its arguments in JSON types, without the folder."""
    arguments = dataclasses.asdict(operation)
    arguments.pop("folder", None)
    if isinstance(operation, StartRun | LogModel):
        arguments["images"] = operation.images.to_json()
    for name in _NEWER.get(type(operation), ()):
        if not arguments.get(name, True):
            del arguments[name]
    return _NAMES[type(operation)], arguments


def from_json(name: str, arguments: Mapping[str, Any], folder: Path | None) -> Operation:
    """Return the operation that `to_json` converted, with its folder if it has one.

    Raises:
        KeyError, TypeError: this version has no such operation.
    """
    values = dict(arguments)
    if "images" in values:
        values["images"] = PreparedImages.from_json(values["images"])
    if values.get("end") is not None:
        values["end"] = EndRun(**values["end"])
    if values.get("earlier"):
        values["earlier"] = tuple(Step(**step) for step in values["earlier"])
    if folder is not None:
        values["folder"] = folder
    return _KINDS[name](**values)
