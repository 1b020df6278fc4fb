"""The keys of a study file, as frozen pydantic models; what each key allows by itself.

What keys must be together is checked in `config`, whose `load_study` is the one way in.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, SerializeAsAny, field_validator, model_validator
from pydantic_core import PydanticCustomError

from cnnstudy import architectures, datasets
from cnnstudy.datasets import DataOptions
from cnnstudy.errors import UnknownNameError
from cnnstudy.space import FACTORS, Choices, Level, Levels, Range, complete_levels, grid_points, parse_levels
from cnnstudy.strict import StrictModel

#: The transfer modes that start from source weights.
NEED_WEIGHTS = ("frozen", "last-block", "fine-tune", "two-phase")


def _data_options(given: Any) -> Any:
    """The options of the data set that `name` names."""
    if isinstance(given, DataOptions):
        return given
    if not isinstance(given, Mapping) or not isinstance(given.get("name"), str):
        raise PydanticCustomError(
            "data_name", "needs a name: one of {names}.", {"names": ", ".join(datasets.names()), "key": "name"}
        )
    try:
        options = datasets.find(given["name"]).Options
    except UnknownNameError as error:
        raise PydanticCustomError("data_name", "{text}", {"text": str(error), "key": "name"}) from None
    return options.model_validate(given)


def _levels(factors: Any) -> Any:
    if not isinstance(factors, Mapping):
        raise ValueError("factors is a mapping: a factor, then its level, list or range.")
    parsed = {}
    for name, given in factors.items():
        try:
            parsed[name] = given if isinstance(given, Choices | Range) else parse_levels(str(name), given)
        except ValueError as error:
            raise PydanticCustomError("factor", "{text}", {"text": str(error), "key": str(name)}) from None
    return parsed


def _plain_levels(factors: dict[str, Levels]) -> dict[str, Any]:
    return {
        name: list(levels.values)
        if isinstance(levels, Choices)
        else {"low": levels.low, "high": levels.high, "log": levels.log, "step": levels.step}
        for name, levels in factors.items()
    }


Data = Annotated[SerializeAsAny[DataOptions], BeforeValidator(_data_options)]
FactorLevels = Annotated[dict[str, Any], BeforeValidator(_levels), PlainSerializer(_plain_levels)]


class Training(StrictModel):
    """How a trial trains."""

    epochs: int = Field(ge=1, le=10_000)
    optimizer: Literal["adam", "adamw", "sgd", "rmsprop"] = "adam"
    weight_decay: float = Field(0.0, ge=0, le=1)
    momentum: float = Field(0.9, ge=0, lt=1)
    early_stopping: int | None = Field(None, ge=1, description="epochs without a better epoch before it stops")
    head_epochs: int | None = Field(None, ge=1, description="two-phase: epochs for the head; default: a third")


class Weights(StrictModel):
    """Where the source weights of one network come from."""

    source: Literal["pretrain", "imagenet", "file", "random"]
    data: Data | None = None
    epochs: int | None = Field(None, ge=1, le=10_000)
    batch_size: int = Field(32, ge=1, le=8192)
    file: Path | None = None

    @model_validator(mode="after")
    def _fit_the_source(self) -> Weights:
        needed = {"pretrain": {"data", "epochs"}, "file": {"file"}, "imagenet": set(), "random": set()}[self.source]
        allowed = needed | {"pretrain": {"batch_size"}, "imagenet": {"file"}}.get(self.source, set())
        given = self.model_fields_set - {"source"}
        for key in sorted(needed - given):
            raise PydanticCustomError("weights", "source {source} needs {key}.", {"source": self.source, "key": key})
        for key in sorted(given - allowed):
            raise PydanticCustomError(
                "weights", "does not belong to source {source}.", {"source": self.source, "key": key}
            )
        if self.file is not None and not self.file.expanduser().is_file():
            raise PydanticCustomError("weights", "there is no file {file}.", {"file": str(self.file), "key": "file"})
        return self


class Search(StrictModel):
    """Optuna samples, and may prune: finds the best."""

    kind: Literal["search"] = "search"
    sampler: Literal["tpe", "random", "qmc", "grid"] = "tpe"
    pruner: Literal["hyperband", "median", "none"] = "none"
    startup_trials: int | None = Field(None, ge=1, description="per network, before TPE or the median pruner decide")
    start_with: tuple[dict[str, int | float | str], ...] = Field(
        (), description="levels of the first trials of every network"
    )


class Objective(StrictModel):
    """What makes one epoch, and one trial, better than another: a metric of the clean evaluation."""

    metric: Literal["val/accuracy", "val/loss"] = "val/accuracy"

    @property
    def maximize(self) -> bool:
        return self.metric == "val/accuracy"


class Budget(StrictModel):
    """`trials` is the total over all networks, in equal shares."""

    trials: int = Field(ge=1, le=100_000)


class StudyConfig(StrictModel):
    """One study file, checked."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    data: Data
    image_size: int | dict[str, int] = Field(224, description="pixels; one for all networks, or one for each")
    architectures: tuple[str, ...] = Field(min_length=1)
    factors: FactorLevels = Field(default_factory=dict)
    training: Training
    weights: dict[str, Weights] = Field(default_factory=dict, description="by network, or `default` for the others")
    strategy: Search = Search()
    objective: Objective = Objective()
    budget: Budget
    seed: int = Field(0, ge=0, lt=2**31)

    @field_validator("architectures", mode="after")
    @classmethod
    def _know_the_architectures(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        for name in given:
            try:
                architectures.find(name)
            except UnknownNameError as error:
                raise ValueError(str(error)) from None
        if len(set(given)) < len(given):
            raise ValueError("a network stands twice in the list; give each once.")
        return given

    def size_of(self, architecture: str) -> int:
        """Its image size in pixels."""
        return self.image_size if isinstance(self.image_size, int) else self.image_size[architecture]

    def weights_of(self, architecture: str) -> Weights | None:
        """Where its source weights come from, if the file says."""
        return self.weights.get(architecture, self.weights.get("default"))

    def transfer_modes(self) -> tuple[Level, ...]:
        """The transfer modes that a trial may have."""
        levels = self.factors.get("transfer", Choices((FACTORS["transfer"].default or "",)))
        return tuple(levels.values)

    def trials_of(self, architecture: str) -> int:
        """Its share of the budget; where it does not divide, the networks named first get one trial more."""
        share, rest = divmod(self.budget.trials, len(self.architectures))
        return share + (self.architectures.index(architecture) < rest)

    def head_epochs(self) -> int:
        """How many epochs of a two-phase trial train the head only."""
        return self.training.head_epochs or max(1, self.training.epochs // 3)

    def grid_of(self, architecture: str) -> list[dict[str, Level]]:
        """Every distinct combination of the levels of this study's factors for that network."""
        found = architectures.find(architecture)
        return grid_points(self.factors, found.has_auxiliary_heads, found.defaults)

    def levels_of(self, architecture: str, chosen: Mapping[str, Level]) -> dict[str, Level]:
        """Every active factor's level: the chosen one, else the file's only one, else the network's default."""
        found = architectures.find(architecture)

        def choose(factor: Any) -> Level | None:
            levels = self.factors.get(factor.name)
            fixed = levels.values[0] if isinstance(levels, Choices) else None
            return chosen.get(factor.name, fixed)

        return complete_levels(found.has_auxiliary_heads, found.defaults, choose)
