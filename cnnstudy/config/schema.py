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
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails

from cnnstudy import architectures
from cnnstudy.config.designs import count_points, fraction_size
from cnnstudy.config.factors import (
    FACTORS,
    Choices,
    Levels,
    Range,
    active_factors,
    format_given,
    grid_points,
    parse_levels,
)
from cnnstudy.data import datasets
from cnnstudy.data.datasets import DataOptions
from cnnstudy.errors import UnknownNameError
from cnnstudy.records import Level, Rule
from cnnstudy.system.validation import Number, Positive, StrictModel, Whole, problem, restated, validation_error

#: What trials can be weighed up by, all at once, and what they are unless the file says otherwise.
Goal = Literal["accuracy", "loss", "gap", "seconds", "parameters"]
DEFAULT_GOALS: tuple[Goal, ...] = ("accuracy", "gap", "seconds", "parameters")


def _no_bare_gap(given: Any) -> Any:
    if isinstance(given, str) and given.startswith("gap"):
        raise ValueError(
            f"{format_given(given)} by itself is smallest where a network learns nothing: at chance there is no gap. "
            "Give val/accuracy or val/loss, and the largest gap that you accept as objective.maximum_gap."
        )
    return given


class Objective(StrictModel):
    """What makes one epoch, and one trial, better than another: a metric of the clean evaluation, within limits."""

    metric: Annotated[Literal["val/accuracy", "val/loss"], BeforeValidator(_no_bare_gap)] = "val/accuracy"
    maximum_gap: Number | None = Field(None, ge=0, lt=1, description="of accuracy, 0.1 being 10 points")
    minimum_accuracy: Number | None = Field(None, gt=0, lt=1, description="of validation, at least")
    goals: tuple[Goal, ...] = Field(DEFAULT_GOALS, min_length=2, description="what the Pareto front weighs up")

    @property
    def rule(self) -> Rule:
        """The same as plain data."""
        return Rule(self.metric, self.maximum_gap, self.minimum_accuracy)


class Confirm(StrictModel):
    """Run the best candidates again with fresh seeds, the same for all, before one is called the champion."""

    top: Whole = Field(3, ge=1, le=100, description="candidates")
    seeds: Whole = Field(5, ge=2, le=100, description="fresh seeds for each")
    most_seeds: Whole | None = Field(None, ge=2, le=200, description="where it is close; default: twice the seeds")

    @model_validator(mode="after")
    def _fit_the_seeds(self) -> Confirm:
        if self.most_seeds is not None and self.most_seeds < self.seeds:
            text = f"is {self.most_seeds}, fewer than the {self.seeds} seeds that every candidate gets."
            raise validation_error("confirm", [problem(("most_seeds",), text)])
        return self

    @property
    def seeds_where_close(self) -> int:
        """Seeds of each candidate that can't be told from the best after the first ones."""
        return self.most_seeds or 2 * self.seeds


#: The transfer modes that start from source weights.
NEED_WEIGHTS = ("frozen", "last-block", "fine-tune", "two-phase")


def _data_options(given: Any) -> Any:
    """The options of the data set that `name` names."""
    if isinstance(given, DataOptions):
        return given
    if not isinstance(given, Mapping) or not isinstance(given.get("name"), str):
        text = f"is missing; it names the data set: {', '.join(datasets.names())}."
        raise validation_error("data", [problem(("name",), text)])
    try:
        options = datasets.find(given["name"]).Options
    except UnknownNameError as error:
        raise validation_error("data", [problem(("name",), str(error))]) from None
    return options.model_validate(given)


Data = Annotated[SerializeAsAny[DataOptions], BeforeValidator(_data_options)]


def _is_file(path: Path) -> bool:
    try:
        return path.expanduser().is_file()
    except (OSError, RuntimeError):  # a name too long, or the home of nobody
        return False


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
        problems = [
            problem((key,), f"is missing; source {self.source} needs it.") for key in sorted(needed - given)
        ] + [
            problem((key,), f"does not belong to source {self.source}, which takes {fitting}.")
            for key in sorted(given - allowed)
        ]
        if "file" in allowed and self.file is not None and not _is_file(self.file):
            problems.append(
                problem(("file",), f"there is no file {str(self.file)!r}; give the path of a weights file.")
            )
        if problems:
            raise validation_error("weights", problems)
        return self


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
            problems.append(problem((name,), str(error)))
    if problems:
        raise validation_error("start_with", problems)
    return parsed


StartLevels = Annotated[dict[str, Level], BeforeValidator(_start_levels)]


def startup_count(given: int | None, trials: int) -> int:
    """Of so many trials of a network those that come before TPE or the median pruner decide."""
    return given or min(10, max(2, trials // 3))


class SearchConfig(StrictModel):
    """Optuna samples, and may prune: finds the best."""

    kind: Literal["search"] = "search"
    sampler: Literal["tpe", "random", "qmc", "grid"] = "tpe"
    pruner: Literal["hyperband", "median", "none"] = "none"
    startup_trials: Whole | None = Field(None, ge=1, description="per network, before TPE or the median pruner decide")
    start_with: tuple[StartLevels, ...] = Field((), description="levels of the first trials of every network")


class FactorialConfig(StrictModel):
    """Cells that balance the factors, each with the same seeds: explains."""

    kind: Literal["factorial"] = "factorial"
    design: Literal["full", "fractional", "qmc"] = "full"
    seeds: Whole = Field(5, ge=1, le=1000, description="blocks: each runs every cell once, with a seed of its own")
    fraction: Whole | None = Field(None, ge=2, le=1000, description="fractional: about one in so many cells")
    cells: Whole | None = Field(None, ge=2, le=10_000, description="qmc: cells of each network")
    tune: tuple[str, ...] = Field((), description="factors that take their best level in each cell, as learning_rate")

    @model_validator(mode="after")
    def _fit_the_design(self) -> FactorialConfig:
        needed = {"fractional": "fraction", "qmc": "cells"}.get(self.design)
        problems = []
        for key, design in (("fraction", "fractional"), ("cells", "qmc")):
            given = getattr(self, key) is not None
            if given and key != needed:
                problems.append(problem((key,), f"belongs to design {design}, not to {self.design}; take it out."))
            elif key == needed and not given:
                problems.append(problem((key,), f"is missing; design {design} needs it."))
        if problems:
            raise validation_error("strategy", problems)
        return self


KINDS: dict[str, type[SearchConfig] | type[FactorialConfig]] = {"search": SearchConfig, "factorial": FactorialConfig}


def _by_kind(given: Any) -> Any:
    """The strategy that `kind` names; without it a search."""
    if isinstance(given, SearchConfig | FactorialConfig):
        return given
    kind = given.get("kind", "search") if isinstance(given, Mapping) else "search"
    if not isinstance(kind, str) or kind not in KINDS:
        text = f"must be 'search' (finds the best) or 'factorial' (explains), not {format_given(kind)}."
        raise validation_error("strategy", [problem(("kind",), text)])
    try:
        return KINDS[kind].model_validate(given)
    except ValidationError as error:
        raise validation_error("strategy", [_of_other_kind(kind, details) for details in error.errors()]) from None


def _of_other_kind(own: str, details: Any) -> InitErrorDetails:
    """Return the problem, with the kind that the key belongs to where it is another one's."""
    key, keys = details["loc"], KINDS[own].model_fields
    other = (
        next((kind for kind, model in KINDS.items() if key[0] in model.model_fields), None) if len(key) == 1 else None
    )
    if other is None or key[0] in keys:
        return restated(details)
    default = " (as where no kind is given)" if own == "search" else ""
    return problem(key, f"belongs to kind {other}; this is kind {own}{default}. The keys here are {', '.join(keys)}.")


AnyStrategy = Annotated[SearchConfig | FactorialConfig, Field(discriminator="kind"), BeforeValidator(_by_kind)]


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
                problems.append(problem(key, str(error)))
                continue
            if by_network:
                parsed.setdefault(str(name), {})[str(key[1])] = found
            else:
                parsed[str(name)] = found
    if problems:
        raise validation_error("factors", problems)
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
        raise ValueError(f"must be true, false or 'every-epoch', not {format_given(given)}.")
    return given


def _auto_or_flag(given: Any) -> Any:
    if given != "auto" and not isinstance(given, bool):
        raise ValueError(f"must be auto, true or false, not {format_given(given)}.")
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
    strategy: AnyStrategy = SearchConfig()
    objective: Objective = Objective()
    confirm: Confirm | None = Field(None, description="choose the champion by fresh seeds, at the end of run-study")
    budget: Budget | None = Field(None, validate_default=True, description="a search needs it, a factorial has none")
    seed: Whole = Field(0, ge=0, lt=2**31)

    @field_validator("name", mode="after")
    @classmethod
    def _fit_for_files(cls, given: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", given):
            raise ValueError(
                f"{format_given(given)} can't be a name; it is 1 to 100 of letters, digits, '.', '_' and '-', and "
                "starts with a letter or digit."
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
                problems.append(problem((index,), str(error)))
            if name in given[:index]:
                problems.append(problem((index,), f"{name} stands twice in the list; give each network once."))
        if problems:
            raise validation_error("architectures", problems)
        return given

    @field_validator("budget", mode="after")
    @classmethod
    def _fit_the_strategy(cls, given: Budget | None, info: ValidationInfo) -> Budget | None:
        strategy = info.data.get("strategy")  # not there where it can't be used itself
        if isinstance(strategy, SearchConfig) and given is None:
            raise ValueError("is missing; for a search it must hold `trials`, how many to run in all.")
        if isinstance(strategy, FactorialConfig) and given is not None:
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
        return self.strategy.pruner if isinstance(self.strategy, SearchConfig) else "none"

    @property
    def total_trials(self) -> int:
        """Trials of all networks."""
        return sum(map(self.trials_of, self.architectures))

    def trials_of(self, architecture: str) -> int:
        """Its share of the budget (where it does not divide, the networks named first get one trial more), or its
        cells times the seeds."""
        if isinstance(self.strategy, FactorialConfig):
            return self.cells_of(architecture) * self.strategy.seeds
        assert self.budget is not None  # checked where it was read
        share, rest = divmod(self.budget.trials, len(self.architectures))
        return share + (self.architectures.index(architecture) < rest)

    def cells_of(self, architecture: str) -> int:
        """How many cells a factorial has there."""
        assert isinstance(self.strategy, FactorialConfig)
        if self.strategy.design == "full":
            return len(self.grid_of(architecture))
        if self.strategy.fraction is not None:
            return fraction_size(self.grid_of(architecture), self.strategy.fraction)
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
