"""The keys of `strategy` in a study file: a search, which finds the best, or a factorial, which explains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails

from cnnstudy.config.factors import (
    Choices,
    format_given,
    parse_levels,
)
from cnnstudy.records import Level
from cnnstudy.system.validation import Number, StrictModel, Whole, problem, restate_problem, validation_error


def _parse_start_levels(given: Any) -> Any:
    """Return the levels of one trial, each of its factor's type."""
    if not isinstance(given, Mapping):
        raise ValueError("must hold factors, each with one level, as in {transfer: scratch}.")
    parsed, problems = {}, []
    for name, level in given.items():
        try:
            if isinstance(level, list) or (isinstance(level, Mapping) and list(level) != ["from"]):
                raise ValueError("must be one level here, not several.")
            levels = parse_levels(str(name), level)
            assert isinstance(levels, Choices)
            parsed[str(name)] = levels.values[0]
        except ValueError as error:
            problems.append(problem((name,), str(error)))
    if problems:
        raise validation_error("start_with", problems)
    return parsed


StartLevels = Annotated[dict[str, Level], BeforeValidator(_parse_start_levels)]


def count_startup_trials(given: int | None, trials: int) -> int:
    """Return how many of a network's trials run before TPE or the median pruner decide.

    Args:
        given: `strategy.startup_trials`.
    """
    return given or min(10, max(2, trials // 3))


class SearchConfig(StrictModel):
    """A search: Optuna samples trials, and may prune them, to find the best combination."""

    kind: Literal["search"] = "search"
    sampler: Literal["tpe", "random", "qmc", "grid"] = "tpe"
    pruner: Literal["hyperband", "median", "none"] = "none"
    startup_trials: Whole | None = Field(
        None, ge=1, description="trials of each network before TPE or the median pruner decide"
    )
    start_with: tuple[StartLevels, ...] = Field((), description="levels of the first trials of every network")


#: The fewest seeds after which a factorial may stop early, as no answer is given with fewer, and the most it may plan.
FEWEST_LOOK, MOST_LOOKED_AT = 3, 100


def _describe_seeds(schema: dict[str, Any]) -> None:
    """Add the form {least: ..., most: ...} to the schema of `seeds`."""
    number = {key: schema.pop(key) for key in ("type", "minimum", "maximum")}
    number_here = {**number, "minimum": FEWEST_LOOK, "maximum": MOST_LOOKED_AT}
    ends = {
        "least": {**number_here, "description": "seeds that run in any case"},
        "most": {**number_here, "description": "seeds after which the study ends in any case"},
    }
    several = {
        "description": "Seeds of a study that stops when its question is answered.",
        "type": "object",
        "properties": ends,
        "required": [*ends],
        "additionalProperties": False,
    }
    schema["anyOf"] = [number, several]


class FactorialConfig(StrictModel):
    """A factorial: balanced cells, each run with the same seeds, to estimate effects.

    `seeds: {least: 3, most: 20}` in a file is `seeds: 20` with `least_seeds: 3`.
    """

    kind: Literal["factorial"] = "factorial"
    design: Literal["full", "fractional", "qmc"] = "full"
    seeds: Whole = Field(
        5,
        ge=1,
        le=1000,
        description="blocks: each runs every cell once, with a seed of its own; {least: 3, most: 20} stops when the "
        "question is answered",
        json_schema_extra=_describe_seeds,
    )
    fraction: Whole | None = Field(None, ge=2, le=1000, description="fractional: run about one in this many cells")
    cells: Whole | None = Field(None, ge=2, le=10_000, description="qmc: number of cells of each network")
    assume_no_interactions: bool = Field(
        False,
        strict=True,
        description="factors do not interact, so that a fraction can answer about effects mixed with interactions",
    )
    tune: tuple[str, ...] = Field(
        (), description="factors, such as learning_rate, that take their best level in each cell"
    )
    least_seeds: Whole | None = Field(
        None, ge=FEWEST_LOOK, le=MOST_LOOKED_AT, description="seeds after which the study may stop; `seeds` is the most"
    )
    precision: Number | None = Field(
        None, gt=0, lt=1, description="half width, as a share, of an interval that is narrow enough to stop"
    )

    @field_validator("precision", mode="before")
    @classmethod
    def _refuse_points(cls, given: Any) -> Any:
        """Refuse a precision in points, which are hundredths."""
        if type(given) in (int, float) and 1 <= given < 100:
            raise ValueError(f"is a share of 1: for {given:g} points give {given / 100:g}, not {given:g}.")
        return given

    @model_validator(mode="before")
    @classmethod
    def _split_seeds(cls, given: Any) -> Any:
        """Return the keys with `seeds: {least: 3, most: 20}` as `seeds: 20` and `least_seeds: 3`."""
        seeds = given.get("seeds") if isinstance(given, Mapping) else None
        if not isinstance(seeds, Mapping):
            return given
        ends = ("least", "most")
        problems = [
            problem(("seeds", str(key)), "unknown key. The keys here are least, most.")
            for key in seeds
            if key not in ends
        ]
        for end in ends:
            if end not in seeds:
                problems.append(problem(("seeds", end), "is missing; give {least: 3, most: 20}."))
            elif type(seeds[end]) is not int or not FEWEST_LOOK <= seeds[end] <= MOST_LOOKED_AT:
                text = f"must be a whole number from {FEWEST_LOOK} to {MOST_LOOKED_AT}, not {format_given(seeds[end])}."
                problems.append(problem(("seeds", end), text))
        if not problems and seeds["least"] >= seeds["most"]:
            text = f"is {seeds['least']}, and must be less than the most, {seeds['most']}."
            problems.append(problem(("seeds", "least"), text))
        if "least_seeds" in given:
            problems.append(problem(("least_seeds",), "is given twice, also as seeds.least; remove one."))
        if problems:
            raise validation_error("strategy", problems)
        return {**given, "seeds": seeds["most"], "least_seeds": seeds["least"]}

    @model_validator(mode="after")
    def _check_early_stop(self) -> FactorialConfig:
        problems = []
        if self.least_seeds is None:
            if self.precision is not None:
                text = "tells when to stop, and nothing stops with one number; give seeds as {least: 3, most: 20}."
                problems.append(problem(("precision",), text))
        elif self.seeds > MOST_LOOKED_AT:
            text = f"is {self.seeds}; a study that stops when it is clear plans at most {MOST_LOOKED_AT}."
            problems.append(problem(("seeds",), text))
        elif self.least_seeds >= self.seeds:
            text = f"is {self.least_seeds}, and must be less than the most, {self.seeds}."
            problems.append(problem(("least_seeds",), text))
        elif self.design == "qmc" or self.tune:
            what = "design qmc" if self.design == "qmc" else "tune"
            text = f"can't be least and most with {what}, whose intervals hold at the end only; give one number."
            problems.append(problem(("seeds",), text))
        if problems:
            raise validation_error("strategy", problems)
        return self

    @model_validator(mode="after")
    def _check_design_keys(self) -> FactorialConfig:
        needed = {"fractional": "fraction", "qmc": "cells"}.get(self.design)
        problems = []
        for key, design in (("fraction", "fractional"), ("cells", "qmc")):
            given = getattr(self, key) is not None
            if given and key != needed:
                problems.append(problem((key,), f"belongs to design {design}, not to {self.design}; remove it."))
            elif key == needed and not given:
                problems.append(problem((key,), f"is missing; design {design} needs it."))
        if problems:
            raise validation_error("strategy", problems)
        return self


STRATEGY_KINDS: dict[str, type[SearchConfig] | type[FactorialConfig]] = {
    "search": SearchConfig,
    "factorial": FactorialConfig,
}


def parse_strategy(given: Any) -> Any:
    """Return the strategy that `kind` names; without it a search."""
    if isinstance(given, SearchConfig | FactorialConfig):
        return given
    kind = given.get("kind", "search") if isinstance(given, Mapping) else "search"
    if not isinstance(kind, str) or kind not in STRATEGY_KINDS:
        text = f"must be 'search' (finds the best) or 'factorial' (explains), not {format_given(kind)}."
        raise validation_error("strategy", [problem(("kind",), text)])
    try:
        return STRATEGY_KINDS[kind].model_validate(given)
    except ValidationError as error:
        raise validation_error("strategy", [_name_other_kind(kind, details) for details in error.errors()]) from None


def _name_other_kind(kind: str, details: Any) -> InitErrorDetails:
    """Return the problem; if its key belongs to another kind of strategy, say so."""
    key, keys = details["loc"], STRATEGY_KINDS[kind].model_fields
    other = (
        next((name for name, model in STRATEGY_KINDS.items() if key[0] in model.model_fields), None)
        if len(key) == 1
        else None
    )
    if other is None or key[0] in keys:
        return restate_problem(details)
    default = " (the default)" if kind == "search" else ""
    return problem(key, f"belongs to kind {other}; this is kind {kind}{default}. The keys here are {', '.join(keys)}.")


AnyStrategy = Annotated[SearchConfig | FactorialConfig, Field(discriminator="kind"), BeforeValidator(parse_strategy)]
