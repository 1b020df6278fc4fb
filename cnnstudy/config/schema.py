"""The keys of a study file, as frozen pydantic models, and what each key allows on its own.

StudyConfig, the whole file, comes last. Combinations of keys are checked in `checks`; study files are read only by
`load.load_study`.
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
    ValidationInfo,
    field_validator,
    model_validator,
)

from cnnstudy import architectures
from cnnstudy.config.designs import count_points, fraction_size
from cnnstudy.config.execution import Execution
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
from cnnstudy.config.strategies import AnyStrategy, FactorialConfig, SearchConfig
from cnnstudy.data import datasets
from cnnstudy.data.datasets import DataOptions
from cnnstudy.errors import ConfigError, UnknownNameError
from cnnstudy.records import Level, Rule, plain_name
from cnnstudy.system.validation import Number, Positive, StrictModel, Whole, describe_place, problem, validation_error

# ---- objective


#: The goals that the Pareto front can compare, and those that it compares by default.
Goal = Literal["accuracy", "loss", "gap", "seconds", "parameters"]
DEFAULT_GOALS: tuple[Goal, ...] = ("accuracy", "gap", "seconds", "parameters")


def _refuse_gap(given: Any) -> Any:
    if isinstance(given, str) and given.startswith("gap"):
        raise ValueError(
            f"{format_given(given)} alone is smallest if a network learns nothing: at chance level there is no "
            "gap. Give val/accuracy or val/loss, and the largest gap that you accept as objective.maximum_gap."
        )
    return given


class Objective(StrictModel):
    """The metric of the clean evaluation, within limits, that ranks epochs and trials."""

    metric: Annotated[
        Literal["val/accuracy", "val/balanced_accuracy", "val/macro_f1", "val/loss"], BeforeValidator(_refuse_gap)
    ] = "val/accuracy"
    maximum_gap: Number | None = Field(
        None, ge=0, lt=1, description="largest acceptable gap of accuracy: 0.1 is 10 points"
    )
    minimum_accuracy: Number | None = Field(None, gt=0, lt=1, description="lowest acceptable validation accuracy")
    goals: tuple[Goal, ...] = Field(DEFAULT_GOALS, min_length=2, description="what the Pareto front compares")

    @property
    def rule(self) -> Rule:
        """Metric and limits as plain data, for a TrialSpec."""
        return Rule(self.metric, self.maximum_gap, self.minimum_accuracy)


# ---- question


class Question(StrictModel):
    """What the study is asked: its answers are one family, with 5 % for any false one; all else is exploratory."""

    outcome: Literal["gap", "accuracy", "balanced-accuracy"] = Field(
        "gap", description="gap of accuracy, validation accuracy, or balanced validation accuracy, at the last epoch"
    )
    factors: tuple[str, ...] | None = Field(
        None, min_length=1, description="the factors whose effects are asked for; default: all that vary"
    )


# ---- confirm


class Confirm(StrictModel):
    """How the best candidates run again, with the same fresh seeds for all, before one becomes the champion."""

    top: Whole = Field(3, ge=1, le=100, description="number of candidates")
    seeds: Whole = Field(5, ge=2, le=100, description="fresh seeds per candidate")
    most_seeds: Whole | None = Field(
        None, ge=2, le=200, description="seeds per candidate when the result is close; default: twice the seeds"
    )

    @model_validator(mode="after")
    def _check_most_seeds(self) -> Confirm:
        if self.most_seeds is not None and self.most_seeds < self.seeds:
            text = f"is {self.most_seeds}, fewer than the {self.seeds} seeds of every candidate; give at least as many."
            raise validation_error("confirm", [problem(("most_seeds",), text)])
        return self

    @property
    def maximum_seeds(self) -> int:
        """Seeds of each candidate that is still statistically tied with the best after the first `seeds`."""
        return self.most_seeds or 2 * self.seeds


# ---- data


def _parse_data(given: Any) -> Any:
    """Return the options of the data set that `name` names."""
    if isinstance(given, DataOptions):
        return given
    if not isinstance(given, Mapping) or not isinstance(given.get("name"), str):
        text = f"is missing; it names the data set, one of {', '.join(datasets.names())}."
        raise validation_error("data", [problem(("name",), text)])
    try:
        options = datasets.find(given["name"]).Options
    except UnknownNameError as error:
        raise validation_error("data", [problem(("name",), str(error))]) from None
    return options.model_validate(given)


Data = Annotated[SerializeAsAny[DataOptions], BeforeValidator(_parse_data)]


# ---- weights


def _is_file(path: Path) -> bool:
    try:
        return path.expanduser().is_file()
    except (OSError, RuntimeError):  # the name is too long, or `~` names no user
        return False


class Weights(StrictModel):
    """The source of a network's pretrained weights."""

    source: Literal["pretrain", "imagenet", "file", "random"]
    data: Data | None = None
    epochs: Positive | None = None
    batch_size: Whole = Field(32, ge=1, le=8192)
    draws: Literal["each-seed", "one"] | None = Field(
        None, description="of pretrained weights; default: each-seed in a factorial, one in a search"
    )
    file: Path | None = None

    @model_validator(mode="after")
    def _check_source_keys(self) -> Weights:
        needed = {"pretrain": {"data", "epochs"}, "file": {"file"}, "imagenet": set(), "random": set()}[self.source]
        allowed = needed | {"pretrain": {"batch_size", "draws"}, "imagenet": {"file"}}.get(self.source, set())
        fields = type(self).model_fields  # a default is none that was given: recorded settings hold them all
        given = {key for key in self.model_fields_set - {"source"} if getattr(self, key) != fields[key].default}
        allowed_keys = ", ".join(sorted(allowed)) or "no other key"
        problems = [
            problem((key,), f"is missing; source {self.source} needs it.") for key in sorted(needed - given)
        ] + [
            problem((key,), f"does not belong to source {self.source}, which takes {allowed_keys}.")
            for key in sorted(given - allowed)
        ]
        if "file" in allowed and self.file is not None and not _is_file(self.file):
            text = f"there is no file {describe_place(self.file)}; give the path of a weights file."
            problems.append(problem(("file",), text))
        if problems:
            raise validation_error("weights", problems)
        return self


# ---- factors


def _parse_factors(factors: Any) -> Any:
    """Return factor -> levels, or factor -> network -> levels."""
    if not isinstance(factors, Mapping):
        raise ValueError("must hold factors, each with its level, list or range, as in `batch_size: [8, 16]`.")
    parsed: dict[str, Any] = {}
    problems = []
    parts: list[tuple[tuple[str, ...], Any]]
    for name, given in factors.items():
        by_network = isinstance(given, Mapping) and any(map(architectures.is_name, map(str, given)))
        parts = [((name, network), levels) for network, levels in given.items()] if by_network else [((name,), given)]
        for key, levels in parts:
            try:
                valid = levels if isinstance(levels, Choices | Range) else parse_levels(str(name), levels)
            except ValueError as error:
                problems.append(problem(key, str(error)))
                continue
            if by_network:
                parsed.setdefault(str(name), {})[str(key[1])] = valid
            else:
                parsed[str(name)] = valid
    if problems:
        raise validation_error("factors", problems)
    return parsed


def _plain_levels(factors: Mapping[str, Levels | Mapping[str, Levels]]) -> dict[str, Any]:
    """Return the factors as JSON's types."""
    plain: dict[str, Any] = {}
    for name, levels in factors.items():
        if isinstance(levels, Choices):
            plain[name] = list(levels.values)
        elif isinstance(levels, Range):
            plain[name] = {"low": levels.low, "high": levels.high, "log": levels.log, "step": levels.step}
        else:
            plain[name] = _plain_levels(levels)
    return plain


FactorLevels = Annotated[dict[str, Any], BeforeValidator(_parse_factors), PlainSerializer(_plain_levels)]


# ---- training, budget


_POSITIVE: TypeAdapter[Any] = TypeAdapter(Positive)
_POSITIVES: TypeAdapter[Any] = TypeAdapter(dict[str, Positive])


def _parse_positive(given: Any) -> Any:
    return (_POSITIVES if isinstance(given, Mapping) else _POSITIVE).validate_python(given)


#: A whole number for all networks, or one for each.
PositiveByNetwork = Annotated[int | dict[str, int], BeforeValidator(_parse_positive)]


def _check_checkpoints(given: Any) -> Any:
    if not isinstance(given, bool) and given != "every-epoch":  # pydantic would take 1 for true
        raise ValueError(f"must be true, false or 'every-epoch', not {format_given(given)}.")
    return given


def _check_xla(given: Any) -> Any:
    if given != "auto" and not isinstance(given, bool):
        raise ValueError(f"must be auto, true or false, not {format_given(given)}.")
    return given


def _default_weight_decay(given: Any, info: ValidationInfo) -> Any:
    """Return what is given, else the default of Keras' optimizer of that name."""
    return {"adamw": 0.004}.get(info.data.get("optimizer", ""), 0.0) if given is None else given


def _default_momentum(given: Any, info: ValidationInfo) -> Any:
    """Return what is given, else Keras' default; of adam, which has none, what its studies have always recorded."""
    return {"sgd": 0.0, "rmsprop": 0.0}.get(info.data.get("optimizer", ""), 0.9) if given is None else given


class Training(StrictModel):
    """How each trial trains."""

    epochs: PositiveByNetwork = Field(description="maximum number; one for all networks, or one per network")
    updates: Whole | None = Field(None, ge=1, le=100_000_000, description="end a trial after this many updates")
    until_train_loss: Number | None = Field(
        None, gt=0, description="end a trial once its clean train loss (nats) is this low"
    )
    optimizer: Literal["adam", "adamw", "sgd", "rmsprop"] = Field(
        "adam", description="the Keras optimizer of that name, with Keras' defaults except for the learning rate"
    )
    weight_decay: Annotated[Number, BeforeValidator(_default_weight_decay)] = Field(
        None,
        validate_default=True,
        ge=0,
        le=1,
        description="decoupled, scaled by the learning rate; default: 0, adamw 0.004",
    )
    momentum: Annotated[Number, BeforeValidator(_default_momentum)] = Field(
        None,
        validate_default=True,
        ge=0,
        lt=1,
        description="of sgd and rmsprop, as Keras defines it there (sgd: not Nesterov's); default: 0",
    )
    early_stopping: Whole | None = Field(
        None, ge=1, description="end a trial after this many epochs without a better one"
    )
    keep_models: Annotated[bool, Field(strict=True)] = Field(
        True, description="false: do not store the models of trials, which saves disk"
    )
    deterministic: Annotated[bool, Field(strict=True)] = Field(
        False, description="equal to the last bit on CPUs of one kind; slower"
    )
    precision: Literal["auto", "float32", "mixed_float16", "mixed_bfloat16"] = Field(
        "float32",
        description="of updates; metrics are computed and models saved in float32. auto: mixed_float16 on GPUs with "
        "hardware for it, so that results depend on the machine",
    )
    xla: Annotated[Literal["auto", True, False], BeforeValidator(_check_xla)] = Field(
        "auto", description="compile updates with XLA; auto: on GPUs, unless deterministic"
    )
    head_epochs: Whole | None = Field(
        None, ge=1, description="epochs of two-phase that train only the head; default: a third"
    )
    timeout: Number | None = Field(
        None,
        gt=0,
        description="seconds that an epoch (the first with its set-up) may take; default: ten times the slowest",
    )
    checkpoints: Annotated[bool | str, BeforeValidator(_check_checkpoints)] = Field(
        True,
        description="a killed trial resumes from its last checkpoint. true: write one after an epoch if at least a "
        "minute, and 20 times the writing time, has passed since the last; every-epoch: at most one epoch is repeated; "
        "false: none",
    )
    share_epochs: Annotated[bool, Field(strict=True)] = Field(
        True,
        description="do not repeat first epochs that another trial has trained in the same way (the head's phase, or "
        "all of a shorter training); not in a study that prunes",
    )
    equal_failures: Whole = Field(3, ge=1, description="stop the study after this many consecutive identical failures")

    @property
    def checkpoint_mode(self) -> str:
        """`checkpoints` as in a TrialSpec: "sparing", "every-epoch" or "none"."""
        names: dict[bool | str, str] = {True: "sparing", False: "none"}
        return names.get(self.checkpoints, "every-epoch")


class Budget(StrictModel):
    """The number of trials of a search."""

    trials: Whole = Field(ge=1, le=100_000, description="total number, in equal shares for the networks")


# ---- the whole file


class StudyConfig(StrictModel):
    """A checked study file, and what follows from it for each network."""

    name: str
    data: Data
    image_size: PositiveByNetwork = Field(224, description="pixels; one for all networks, or one per network")
    architectures: tuple[str, ...] = Field(min_length=1)
    factors: FactorLevels = Field(default_factory=dict, description="levels for all networks, or per network")
    training: Training
    strategy: AnyStrategy = SearchConfig()
    weights: dict[str, Weights] = Field(default_factory=dict, description="per network, or `default` for the others")
    objective: Objective = Objective()
    question: Question = Question()
    confirm: Confirm | None = Field(None, description="choose the champion with fresh seeds once the trials are done")
    budget: Budget | None = Field(
        None, validate_default=True, description="required by a search, not allowed in a factorial"
    )
    execution: Execution = Field(Execution(), description="where trials run")
    seed: Whole = Field(0, ge=0, lt=2**31)

    @field_validator("name", mode="after")
    @classmethod
    def _check_name(cls, given: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", given):
            raise ValueError(
                f"{format_given(given)} can't be a name; a name has 1 to 100 letters, digits, '.', '_' and '-', and "
                "starts with a letter or digit."
            )
        return given

    @field_validator("architectures", mode="after")
    @classmethod
    def _check_architectures(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        problems = []
        for index, name in enumerate(given):
            try:
                architectures.find(name)
            except (UnknownNameError, ConfigError) as error:
                problems.append(problem((index,), str(error)))
            if plain_name(name) in map(plain_name, given[:index]):
                problems.append(problem((index,), f"{name} is listed twice; list each network once, by its own name."))
        if problems:
            raise validation_error("architectures", problems)
        return given

    @field_validator("weights", mode="after")
    @classmethod
    def _default_draws(cls, given: dict[str, Weights], info: ValidationInfo) -> dict[str, Weights]:
        """Draw pretrained weights for each seed of a factorial, and once for a search; as if not given in the file."""
        draws = "each-seed" if isinstance(info.data.get("strategy"), FactorialConfig) else "one"
        return {
            name: Weights.model_construct(weights.model_fields_set, **{**dict(weights), "draws": draws})
            if weights.source == "pretrain" and weights.draws is None
            else weights
            for name, weights in given.items()
        }

    @field_validator("budget", mode="after")
    @classmethod
    def _check_budget(cls, given: Budget | None, info: ValidationInfo) -> Budget | None:
        strategy = info.data.get("strategy")  # None if it is invalid itself
        if isinstance(strategy, SearchConfig) and given is None:
            raise ValueError("is missing; for a search it must hold `trials`, the total number of trials.")
        if isinstance(strategy, FactorialConfig) and given is not None:
            raise ValueError(
                "can't be combined with a factorial, which runs every cell once with each seed; leave it "
                "(and --trials) out, and give the number of seeds as strategy.seeds."
            )
        return given

    def image_size_of(self, architecture: str) -> int:
        """Return the network's image size in pixels."""
        return self.image_size if isinstance(self.image_size, int) else self.image_size[architecture]

    def weights_of(self, architecture: str) -> Weights | None:
        """Return the source of the network's weights, if the file gives one."""
        return self.weights.get(architecture, self.weights.get("default"))

    def pretrains_each_seed(self, architecture: str) -> bool:
        """Return whether each seed of the network's trials starts from source weights of its own."""
        weights = self.weights_of(architecture)
        return weights is not None and weights.draws == "each-seed"

    def epochs_of(self, architecture: str) -> int:
        """Return the network's maximum number of epochs."""
        epochs = self.training.epochs
        return epochs if isinstance(epochs, int) else epochs[architecture]

    def head_epochs_of(self, architecture: str, epochs: int | None = None) -> int:
        """Return how many epochs of a two-phase trial train only the head.

        Args:
            epochs: of the trial; default: those that the file gives the network.
        """
        return self.training.head_epochs or max(1, (epochs or self.epochs_of(architecture)) // 3)

    def factors_of(self, architecture: str) -> dict[str, Levels]:
        """Return the levels that the file gives for the network; a factor not among them has its default."""
        by_name = {
            name: levels.get(architecture) if isinstance(levels, dict) else levels
            for name, levels in self.factors.items()
        }
        return {name: levels for name, levels in by_name.items() if levels is not None}

    def transfer_modes_of(self, architecture: str) -> tuple[Level, ...]:
        """Return the transfer modes of the network's trials."""
        levels = self.factors_of(architecture).get("transfer")
        return levels.values if isinstance(levels, Choices) else (str(FACTORS["transfer"].default),)

    @property
    def pruner(self) -> str:
        """The name of the pruner; a factorial has none."""
        return self.strategy.pruner if isinstance(self.strategy, SearchConfig) else "none"

    @property
    def total_trials(self) -> int:
        """The number of trials of all networks."""
        return sum(map(self.trials_of, self.architectures))

    def trials_of(self, architecture: str) -> int:
        """Return the network's number of trials: its share of the budget, or in a factorial its cells times the seeds.

        If the budget does not divide evenly, the networks listed first get one trial more.
        """
        if isinstance(self.strategy, FactorialConfig):
            return self.cells_of(architecture) * self.strategy.seeds
        assert self.budget is not None  # a search without it is refused
        share, rest = divmod(self.budget.trials, len(self.architectures))
        return share + (self.architectures.index(architecture) < rest)

    def stopped_after(self, seeds: int) -> StudyConfig:
        """Return the settings of a factorial that stopped after so many seeds, as if it had planned these."""
        fewer = {"seeds": seeds, "least_seeds": None, "precision": None}
        return self.model_copy(update={"strategy": self.strategy.model_copy(update=fewer)})

    def cells_of(self, architecture: str) -> int:
        """Return the network's number of cells in a factorial."""
        assert isinstance(self.strategy, FactorialConfig)
        if self.strategy.design == "full":
            return len(self.grid_of(architecture))
        if self.strategy.fraction is not None:
            return fraction_size(self.grid_of(architecture), self.strategy.fraction)
        assert self.strategy.cells is not None  # qmc
        return int(min(self.strategy.cells, self.combinations_of(architecture)))

    def combinations_of(self, architecture: str) -> int | float:
        """Return how many distinct combinations the levels of the network's factors have; infinity with some ranges."""
        network = architectures.find(architecture)
        return count_points(self.factors_of(architecture), network.has_auxiliary_heads, network.defaults)

    def grid_of(self, architecture: str) -> list[dict[str, Level]]:
        """Return every distinct combination of the levels of the network's factors."""
        network = architectures.find(architecture)
        return grid_points(self.factors_of(architecture), network.has_auxiliary_heads, network.defaults)

    def active_factors_of(self, architecture: str) -> set[str]:
        """Return those of the network's factors that are active in at least one trial."""
        network = architectures.find(architecture)
        return active_factors(self.factors_of(architecture), network.has_auxiliary_heads, network.defaults)
