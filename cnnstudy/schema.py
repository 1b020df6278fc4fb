"""The keys of a study file, as frozen pydantic models; what each key allows by itself.

What keys must be together is checked in `combinations`; `config.load_study` is the one way in.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    PlainSerializer,
    SerializeAsAny,
    TypeAdapter,
    field_validator,
    model_validator,
)

from cnnstudy import architectures, datasets
from cnnstudy.datasets import DataOptions
from cnnstudy.errors import UnknownNameError
from cnnstudy.space import FACTORS, Choices, Level, Levels, Range, active_factors, grid_points, parse_levels, shown
from cnnstudy.strict import StrictModel, refused, stated

#: The transfer modes that start from source weights.
NEED_WEIGHTS = ("frozen", "last-block", "fine-tune", "two-phase")


def _data_options(given: Any) -> Any:
    """The options of the data set that `name` names."""
    if isinstance(given, DataOptions):
        return given
    if not isinstance(given, Mapping) or not isinstance(given.get("name"), str):
        text = f"is missing; it names the data set: {', '.join(datasets.names())}."
        raise refused("data", [stated(("name",), text)])
    try:
        options = datasets.find(given["name"]).Options
    except UnknownNameError as error:
        raise refused("data", [stated(("name",), str(error))]) from None
    return options.model_validate(given)


def _levels(factors: Any) -> Any:
    if not isinstance(factors, Mapping):
        raise ValueError("must hold factors, each with its level, list or range, as in `batch_size: [8, 16]`.")
    parsed: dict[str, Any] = {}
    problems = []
    parts: list[tuple[tuple[str, ...], Any]]
    for name, given in factors.items():
        by_network = isinstance(given, Mapping) and bool(set(map(str, given)) & set(architectures.names()))
        parts = [((name, network), levels) for network, levels in given.items()] if by_network else [((name,), given)]
        for key, levels in parts:
            try:
                found = levels if isinstance(levels, Choices | Range) else parse_levels(str(name), levels)
            except ValueError as error:
                problems.append(stated(key, str(error)))
                continue
            if by_network:
                parsed.setdefault(str(name), {})[str(key[1])] = found
            else:
                parsed[str(name)] = found
    if problems:
        raise refused("factors", problems)
    return parsed


def _start_levels(given: Any) -> Any:
    """The levels of one trial, each of its factor's type."""
    if not isinstance(given, Mapping):
        raise ValueError("must hold factors, each with one level, as in {transfer: scratch}.")
    parsed, problems = {}, []
    for name, level in given.items():
        try:
            if isinstance(level, list | Mapping):
                raise ValueError("must be one level here, not several.")
            levels = parse_levels(str(name), level)
            assert isinstance(levels, Choices)
            parsed[str(name)] = levels.values[0]
        except ValueError as error:
            problems.append(stated((name,), str(error)))
    if problems:
        raise refused("start_with", problems)
    return parsed


def _one_or_by_network(given: Any) -> Any:
    return (_EACH if isinstance(given, Mapping) else _ONE).validate_python(given)


def _plain_levels(factors: Mapping[str, Levels | Mapping[str, Levels]]) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for name, levels in factors.items():
        if isinstance(levels, Choices):
            plain[name] = list(levels.values)
        elif isinstance(levels, Range):
            plain[name] = {"low": levels.low, "high": levels.high, "log": levels.log, "step": levels.step}
        else:
            plain[name] = _plain_levels(levels)
    return plain


Data = Annotated[SerializeAsAny[DataOptions], BeforeValidator(_data_options)]
FactorLevels = Annotated[dict[str, Any], BeforeValidator(_levels), PlainSerializer(_plain_levels)]
StartLevels = Annotated[dict[str, Level], BeforeValidator(_start_levels)]
# strict: neither true, nor "3", nor 3.0 is a whole number
Whole = Annotated[int, Field(strict=True)]
Number = Annotated[float, Field(strict=True)]
Positive = Annotated[Whole, Field(ge=1, le=10_000)]
PositiveByNetwork = Annotated[int | dict[str, int], BeforeValidator(_one_or_by_network)]
_ONE: TypeAdapter[Any] = TypeAdapter(Positive)
_EACH: TypeAdapter[Any] = TypeAdapter(dict[str, Positive])


def _is_file(path: Path) -> bool:
    try:
        return path.expanduser().is_file()
    except (OSError, RuntimeError):  # a name too long, or the home of nobody
        return False


class Training(StrictModel):
    """How a trial trains."""

    epochs: PositiveByNetwork = Field(description="one for all networks, or one for each")
    optimizer: Literal["adam", "adamw", "sgd", "rmsprop"] = "adam"
    weight_decay: Number = Field(0.0, ge=0, le=1)
    momentum: Number = Field(0.9, ge=0, lt=1)
    early_stopping: Whole | None = Field(None, ge=1, description="epochs without a better epoch before it stops")
    head_epochs: Whole | None = Field(None, ge=1, description="two-phase: epochs for the head; default: a third")


class Weights(StrictModel):
    """Where the source weights of one network come from."""

    source: Literal["pretrain", "imagenet", "file", "random"]
    data: Data | None = None
    epochs: Positive | None = None
    batch_size: Whole = Field(32, ge=1, le=8192)
    file: Path | None = None

    @model_validator(mode="after")
    def _fit_the_source(self) -> Weights:
        needed = {"pretrain": {"data", "epochs"}, "file": {"file"}, "imagenet": set(), "random": set()}[self.source]
        allowed = needed | {"pretrain": {"batch_size"}, "imagenet": {"file"}}.get(self.source, set())
        given = {key for key in self.model_fields_set - {"source"} if getattr(self, key) is not None}
        fitting = ", ".join(sorted(allowed)) or "no other key"
        problems = [stated((key,), f"is missing; source {self.source} needs it.") for key in sorted(needed - given)] + [
            stated((key,), f"does not belong to source {self.source}, which takes {fitting}.")
            for key in sorted(given - allowed)
        ]
        if "file" in allowed and self.file is not None and not _is_file(self.file):
            problems.append(stated(("file",), f"there is no file {str(self.file)!r}; give the path of a weights file."))
        if problems:
            raise refused("weights", problems)
        return self


class Search(StrictModel):
    """Optuna samples, and may prune: finds the best."""

    kind: Literal["search"] = "search"
    sampler: Literal["tpe", "random", "qmc", "grid"] = "tpe"
    pruner: Literal["hyperband", "median", "none"] = "none"
    startup_trials: Whole | None = Field(None, ge=1, description="per network, before TPE or the median pruner decide")
    start_with: tuple[StartLevels, ...] = Field((), description="levels of the first trials of every network")


class Objective(StrictModel):
    """What makes one epoch, and one trial, better than another: a metric of the clean evaluation."""

    metric: Literal["val/accuracy", "val/loss"] = "val/accuracy"

    @property
    def maximize(self) -> bool:
        return self.metric == "val/accuracy"


class Budget(StrictModel):
    """`trials` is the total over all networks, in equal shares."""

    trials: Whole = Field(ge=1, le=100_000)


class StudyConfig(StrictModel):
    """One study file, checked."""

    name: str
    data: Data
    image_size: PositiveByNetwork = Field(224, description="pixels; one for all networks, or one for each")
    architectures: tuple[str, ...] = Field(min_length=1)
    factors: FactorLevels = Field(default_factory=dict, description="levels for all networks, or by network")
    training: Training
    weights: dict[str, Weights] = Field(default_factory=dict, description="by network, or `default` for the others")
    strategy: Search = Search()
    objective: Objective = Objective()
    budget: Budget
    seed: Whole = Field(0, ge=0, lt=2**31)

    @field_validator("name", mode="after")
    @classmethod
    def _fit_for_files(cls, given: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", given):
            raise ValueError(
                f"{shown(given)} can't be a name; it is 1 to 100 of letters, digits, '.', '_' and '-', and starts "
                "with a letter or digit."
            )
        return given

    @field_validator("architectures", mode="after")
    @classmethod
    def _know_the_architectures(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        problems = []
        for index, name in enumerate(given):
            try:
                architectures.find(name)
            except UnknownNameError as error:
                problems.append(stated((index,), str(error)))
            if name in given[:index]:
                problems.append(stated((index,), f"{name} stands twice in the list; give each network once."))
        if problems:
            raise refused("architectures", problems)
        return given

    def size_of(self, architecture: str) -> int:
        """Its image size in pixels."""
        return self.image_size if isinstance(self.image_size, int) else self.image_size[architecture]

    def weights_of(self, architecture: str) -> Weights | None:
        """Where its source weights come from, if the file says."""
        return self.weights.get(architecture, self.weights.get("default"))

    def epochs_of(self, architecture: str) -> int:
        """Its epochs."""
        epochs = self.training.epochs
        return epochs if isinstance(epochs, int) else epochs[architecture]

    def head_epochs_of(self, architecture: str) -> int:
        """How many epochs of a two-phase trial train the head only."""
        return self.training.head_epochs or max(1, self.epochs_of(architecture) // 3)

    def factors_of(self, architecture: str) -> dict[str, Levels]:
        """The levels that the file gives for that network; a factor without any has its default."""
        by_name = {
            name: levels.get(architecture) if isinstance(levels, dict) else levels
            for name, levels in self.factors.items()
        }
        return {name: levels for name, levels in by_name.items() if levels is not None}

    def transfer_modes_of(self, architecture: str) -> tuple[Level, ...]:
        """The transfer modes that its trials may have."""
        levels = self.factors_of(architecture).get("transfer")
        return levels.values if isinstance(levels, Choices) else (str(FACTORS["transfer"].default),)

    def trials_of(self, architecture: str) -> int:
        """Its share of the budget; where it does not divide, the networks named first get one trial more."""
        share, rest = divmod(self.budget.trials, len(self.architectures))
        return share + (self.architectures.index(architecture) < rest)

    def grid_of(self, architecture: str) -> list[dict[str, Level]]:
        """Every distinct combination of the levels of its factors."""
        found = architectures.find(architecture)
        return grid_points(self.factors_of(architecture), found.has_auxiliary_heads, found.defaults)

    def active_factors_of(self, architecture: str) -> set[str]:
        """Those of its factors that act in some trial."""
        found = architectures.find(architecture)
        return active_factors(self.factors_of(architecture), found.has_auxiliary_heads, found.defaults)
