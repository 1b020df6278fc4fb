"""How a study chooses its trials: the keys of `strategy`, one model a kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails

from cnnstudy.space import Choices, Level, parse_levels, shown
from cnnstudy.strict import StrictModel, Whole, refused, restated, stated


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


StartLevels = Annotated[dict[str, Level], BeforeValidator(_start_levels)]


def startup_count(given: int | None, trials: int) -> int:
    """Of so many trials of a network those that come before TPE or the median pruner decide."""
    return given or min(10, max(2, trials // 3))


class Search(StrictModel):
    """Optuna samples, and may prune: finds the best."""

    kind: Literal["search"] = "search"
    sampler: Literal["tpe", "random", "qmc", "grid"] = "tpe"
    pruner: Literal["hyperband", "median", "none"] = "none"
    startup_trials: Whole | None = Field(None, ge=1, description="per network, before TPE or the median pruner decide")
    start_with: tuple[StartLevels, ...] = Field((), description="levels of the first trials of every network")


class Factorial(StrictModel):
    """Cells that balance the factors, each with the same seeds: explains."""

    kind: Literal["factorial"] = "factorial"
    design: Literal["full", "fractional", "qmc"] = "full"
    seeds: Whole = Field(5, ge=1, le=1000, description="blocks: each runs every cell once, with a seed of its own")
    fraction: Whole | None = Field(None, ge=2, le=1000, description="fractional: about one in so many cells")
    cells: Whole | None = Field(None, ge=2, le=10_000, description="qmc: cells of each network")
    tune: tuple[str, ...] = Field((), description="factors that take their best level in each cell, as learning_rate")

    @model_validator(mode="after")
    def _fit_the_design(self) -> Factorial:
        needed = {"fractional": "fraction", "qmc": "cells"}.get(self.design)
        problems = []
        for key, design in (("fraction", "fractional"), ("cells", "qmc")):
            given = getattr(self, key) is not None
            if given and key != needed:
                problems.append(stated((key,), f"belongs to design {design}, not to {self.design}; take it out."))
            elif key == needed and not given:
                problems.append(stated((key,), f"is missing; design {design} needs it."))
        if problems:
            raise refused("strategy", problems)
        return self


KINDS: dict[str, type[Search] | type[Factorial]] = {"search": Search, "factorial": Factorial}


def _by_kind(given: Any) -> Any:
    """The strategy that `kind` names; without it a search."""
    if isinstance(given, Search | Factorial):
        return given
    kind = given.get("kind", "search") if isinstance(given, Mapping) else "search"
    if not isinstance(kind, str) or kind not in KINDS:
        text = f"must be 'search' (finds the best) or 'factorial' (explains), not {shown(kind)}."
        raise refused("strategy", [stated(("kind",), text)])
    try:
        return KINDS[kind].model_validate(given)
    except ValidationError as error:
        raise refused("strategy", [_of_other_kind(kind, details) for details in error.errors()]) from None


def _of_other_kind(own: str, details: Any) -> InitErrorDetails:
    """Return the problem, with the kind that the key belongs to where it is another one's."""
    key, keys = details["loc"], KINDS[own].model_fields
    other = (
        next((kind for kind, model in KINDS.items() if key[0] in model.model_fields), None) if len(key) == 1 else None
    )
    if other is None or key[0] in keys:
        return restated(details)
    default = " (as where no kind is given)" if own == "search" else ""
    return stated(key, f"belongs to kind {other}; this is kind {own}{default}. The keys here are {', '.join(keys)}.")


AnyStrategy = Annotated[Search | Factorial, Field(discriminator="kind"), BeforeValidator(_by_kind)]
