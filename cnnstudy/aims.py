"""What a study is after: the keys of `objective` and `confirm`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from cnnstudy.records import Rule
from cnnstudy.space import shown
from cnnstudy.strict import Number, StrictModel, Whole, refused, stated

#: What trials can be weighed up by, all at once, and what they are unless the file says otherwise.
Goal = Literal["accuracy", "loss", "gap", "seconds", "parameters"]
DEFAULT_GOALS: tuple[Goal, ...] = ("accuracy", "gap", "seconds", "parameters")


def _no_bare_gap(given: Any) -> Any:
    if isinstance(given, str) and given.startswith("gap"):
        raise ValueError(
            f"{shown(given)} by itself is smallest where a network learns nothing: at chance there is no gap. Give "
            "val/accuracy or val/loss, and the largest gap that you accept as objective.maximum_gap."
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
            raise refused("confirm", [stated(("most_seeds",), text)])
        return self

    @property
    def seeds_where_close(self) -> int:
        """Seeds of each candidate that can't be told from the best after the first ones."""
        return self.most_seeds or 2 * self.seeds
