"""The base class of everything read from a study file: frozen, with suggestions for unknown keys."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from cnnstudy.errors import did_you_mean, nearest_name

KeyPath = tuple[str | int, ...]
# strict, so that true, "3" and 3.0 are refused as whole numbers
Whole = Annotated[int, Field(strict=True)]
Number = Annotated[float, Field(strict=True)]
Positive = Annotated[Whole, Field(ge=1, le=10_000)]


class StrictModel(BaseModel):
    """A frozen model that rejects unknown keys and suggests the nearest known one."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="wrap")
    @classmethod
    def _name_unknown_keys(cls, given: Any, check: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return check(given)
        except ValidationError as error:
            problems = cls._without_misspelt(given, error.errors())
            raise validation_error(cls.__name__, [cls._with_suggestion(details) for details in problems]) from None

    @classmethod
    def _without_misspelt(cls, given: Any, problems: Sequence[Any]) -> list[Any]:
        """Drop "missing key" problems for keys that an unknown key probably misspells: one typo is one problem."""
        names = [str(key) for key in given] if isinstance(given, Mapping) else []
        unknown = [name for name in names if name not in cls.model_fields]
        misspelt = {nearest_name(name, cls.model_fields) for name in unknown} - set(names)
        return [details for details in problems if len(details["loc"]) != 1 or details["loc"][0] not in misspelt]

    @classmethod
    def _with_suggestion(cls, details: Any) -> InitErrorDetails:
        key: KeyPath = details["loc"]
        if len(key) == 1 and key[0] not in cls.model_fields:
            guess = did_you_mean(str(key[0]), cls.model_fields)
            return problem(key, f"unknown key{guess} The keys here are {', '.join(cls.model_fields)}.")
        return restate_problem(details)


def describe_place(path: Path) -> str:
    """Return a path for a message, with where it leads if it is relative or begins with `~`."""
    place = os.path.abspath(os.path.expanduser(path))
    return str(path) if str(path) == place else f"{path} (looked for {place})"


def restate_problem(details: Any) -> InitErrorDetails:
    """Return one of `ValidationError.errors()` in the form that a new ValidationError takes."""
    same = PydanticCustomError(details["type"], "{text}", {**details.get("ctx", {}), "text": details["msg"]})
    return InitErrorDetails(type=same, loc=details["loc"], input=details["input"])


def problem(key: KeyPath, text: str) -> InitErrorDetails:
    """Return a problem with a key; the text says what was given and what is allowed."""
    return InitErrorDetails(type=PydanticCustomError("stated", "{text}", {"text": text}), loc=key, input=None)


def validation_error(name: str, problems: list[InitErrorDetails]) -> ValidationError:
    """Return all problems as one error, for a validator to raise."""
    return ValidationError.from_exception_data(name, problems)
