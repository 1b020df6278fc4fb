"""The base of everything read from a study file: frozen, and unknown keys are named with their nearest neighbour."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from cnnstudy.errors import did_you_mean

KeyPath = tuple[str | int, ...]
# strict: neither true, nor "3", nor 3.0 is a whole number
Whole = Annotated[int, Field(strict=True)]
Number = Annotated[float, Field(strict=True)]
Positive = Annotated[Whole, Field(ge=1, le=10_000)]


class StrictModel(BaseModel):
    """A frozen model that refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="wrap")
    @classmethod
    def _name_unknown_keys(cls, given: Any, check: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return check(given)
        except ValidationError as error:
            raise validation_error(cls.__name__, [cls._named(details) for details in error.errors()]) from None

    @classmethod
    def _named(cls, details: Any) -> InitErrorDetails:
        key: KeyPath = details["loc"]
        if len(key) == 1 and key[0] not in cls.model_fields:
            guess = did_you_mean(str(key[0]), cls.model_fields)
            return problem(key, f"unknown key{guess} The keys here are {', '.join(cls.model_fields)}.")
        return restated(details)


def restated(details: Any) -> InitErrorDetails:
    """Return the same problem, one of `ValidationError.errors()`, for another error to hold."""
    same = PydanticCustomError(details["type"], "{text}", {**details.get("ctx", {}), "text": details["msg"]})
    return InitErrorDetails(type=same, loc=details["loc"], input=details["input"])


def problem(key: KeyPath, text: str) -> InitErrorDetails:
    """A problem with that key, in a sentence that says what was given and what is allowed."""
    return InitErrorDetails(type=PydanticCustomError("stated", "{text}", {"text": text}), loc=key, input=None)


def validation_error(name: str, problems: list[InitErrorDetails]) -> ValidationError:
    """All problems as one error, for a validator to raise."""
    return ValidationError.from_exception_data(name, problems)
