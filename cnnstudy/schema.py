"""The keys of a study file, as frozen pydantic models; what each key allows by itself.

What keys must be together is checked in `combinations`; `config.load_study` is the one way in.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    PlainSerializer,
    TypeAdapter,
    ValidationInfo,
    field_validator,
)

from cnnstudy import architectures
from cnnstudy.aims import Confirm, Objective
from cnnstudy.designs import count_points, size_of_fraction
from cnnstudy.errors import UnknownNameError
from cnnstudy.sources import Data, Weights
from cnnstudy.space import FACTORS, Choices, Level, Levels, Range, active_factors, grid_points, parse_levels, shown
from cnnstudy.strategies import AnyStrategy, Factorial, Search
from cnnstudy.strict import Number, Positive, StrictModel, Whole, refused, stated


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


FactorLevels = Annotated[dict[str, Any], BeforeValidator(_levels), PlainSerializer(_plain_levels)]
PositiveByNetwork = Annotated[int | dict[str, int], BeforeValidator(_one_or_by_network)]
_ONE: TypeAdapter[Any] = TypeAdapter(Positive)
_EACH: TypeAdapter[Any] = TypeAdapter(dict[str, Positive])


def _when(given: Any) -> Any:
    if not isinstance(given, bool) and given != "every-epoch":  # 1 is no bool, and equals true
        raise ValueError(f"must be true, false or 'every-epoch', not {shown(given)}.")
    return given


def _auto_or_flag(given: Any) -> Any:
    if given != "auto" and not isinstance(given, bool):
        raise ValueError(f"must be auto, true or false, not {shown(given)}.")
    return given


def _of_the_optimizer(given: Any, info: ValidationInfo) -> Any:
    """What is given, or what Keras' optimizer of that name does by itself."""
    return {"adamw": 0.004}.get(info.data.get("optimizer", ""), 0.0) if given is None else given


class Training(StrictModel):
    """How a trial trains."""

    epochs: PositiveByNetwork = Field(description="at most; one for all networks, or one for each")
    updates: Whole | None = Field(None, ge=1, le=100_000_000, description="a trial ends after so many updates")
    until_train_loss: Number | None = Field(None, gt=0, description="a trial ends at a clean train loss (nats) so low")
    optimizer: Literal["adam", "adamw", "sgd", "rmsprop"] = "adam"
    weight_decay: Annotated[Number, BeforeValidator(_of_the_optimizer)] = Field(
        None, validate_default=True, ge=0, le=1, description="decoupled from the gradient; default: 0, adamw 0.004"
    )
    momentum: Number = Field(0.9, ge=0, lt=1)
    early_stopping: Whole | None = Field(None, ge=1, description="epochs without a better epoch before it stops")
    keep_models: Annotated[bool, Field(strict=True)] = Field(True, description="false saves the disk, not the models")
    deterministic: Annotated[bool, Field(strict=True)] = Field(False, description="bit-equal on CPUs, and slower")
    precision: Literal["auto", "float32", "mixed_float16", "mixed_bfloat16"] = Field(
        "float32",
        description="of updates; all is measured and saved in float32. auto: mixed_float16 on GPUs made for it, "
        "so that the numbers depend on the machine",
    )
    xla: Annotated[Literal["auto", True, False], BeforeValidator(_auto_or_flag)] = Field(
        "auto", description="compile updates by XLA; auto: on GPUs, but for deterministic trials"
    )
    head_epochs: Whole | None = Field(None, ge=1, description="two-phase: epochs for the head; default: a third")
    timeout: Number | None = Field(
        None, gt=0, description="seconds that an epoch (the first with its set-up) may take; default: by those so far"
    )
    checkpoints: Annotated[bool | str, BeforeValidator(_when)] = Field(
        True,
        description="a killed trial goes on from its last; true: after an epoch, once a minute and 20 times what "
        "writing takes have passed since the one before; every-epoch: one epoch is repeated at most; false: none",
    )
    share_epochs: Annotated[bool, Field(strict=True)] = Field(
        True,
        description="first epochs that another trial has trained in the same way (the head's phase, or all of a "
        "shorter training) are not trained again; not where trials are pruned",
    )
    equal_failures: Whole = Field(3, ge=1, description="so many trials in a row that fail alike stop the study")

    @property
    def checkpoint_mode(self) -> str:
        """As TrialSpec has it."""
        names: dict[bool | str, str] = {True: "sparing", False: "none"}
        return names.get(self.checkpoints, "every-epoch")


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
    strategy: AnyStrategy = Search()
    objective: Objective = Objective()
    confirm: Confirm | None = Field(None, description="choose the champion by fresh seeds, at the end of run-study")
    budget: Budget | None = Field(None, validate_default=True, description="a search needs it, a factorial has none")
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

    @field_validator("budget", mode="after")
    @classmethod
    def _fit_the_strategy(cls, given: Budget | None, info: ValidationInfo) -> Budget | None:
        strategy = info.data.get("strategy")  # not there where it can't be used itself
        if isinstance(strategy, Search) and given is None:
            raise ValueError("is missing; for a search it must hold `trials`, how many to run in all.")
        if isinstance(strategy, Factorial) and given is not None:
            raise ValueError(
                "does not go with a factorial, which runs every cell once with each seed; leave it (and --trials) out, "
                "and give the number of seeds as strategy.seeds."
            )
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

    def head_epochs_of(self, architecture: str, epochs: int | None = None) -> int:
        """How many epochs of a two-phase trial (of so many, or of all that the file gives) train the head only."""
        return self.training.head_epochs or max(1, (epochs or self.epochs_of(architecture)) // 3)

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

    @property
    def pruner(self) -> str:
        """How trials are pruned; a factorial's never are."""
        return self.strategy.pruner if isinstance(self.strategy, Search) else "none"

    @property
    def total_trials(self) -> int:
        """Trials of all networks."""
        return sum(map(self.trials_of, self.architectures))

    def trials_of(self, architecture: str) -> int:
        """Its share of the budget (where it does not divide, the networks named first get one trial more), or its
        cells times the seeds."""
        if isinstance(self.strategy, Factorial):
            return self.cells_of(architecture) * self.strategy.seeds
        assert self.budget is not None  # checked where it was read
        share, rest = divmod(self.budget.trials, len(self.architectures))
        return share + (self.architectures.index(architecture) < rest)

    def cells_of(self, architecture: str) -> int:
        """How many cells a factorial has there."""
        assert isinstance(self.strategy, Factorial)
        if self.strategy.design == "full":
            return len(self.grid_of(architecture))
        if self.strategy.fraction is not None:
            return size_of_fraction(self.grid_of(architecture), self.strategy.fraction)
        assert self.strategy.cells is not None  # qmc
        return int(min(self.strategy.cells, self.combinations_of(architecture)))

    def combinations_of(self, architecture: str) -> int | float:
        """How many distinct combinations the levels of its factors have; a range may have infinitely many."""
        found = architectures.find(architecture)
        return count_points(self.factors_of(architecture), found.has_auxiliary_heads, found.defaults)

    def grid_of(self, architecture: str) -> list[dict[str, Level]]:
        """Every distinct combination of the levels of its factors."""
        found = architectures.find(architecture)
        return grid_points(self.factors_of(architecture), found.has_auxiliary_heads, found.defaults)

    def active_factors_of(self, architecture: str) -> set[str]:
        """Those of its factors that act in some trial."""
        found = architectures.find(architecture)
        return active_factors(self.factors_of(architecture), found.has_auxiliary_heads, found.defaults)
