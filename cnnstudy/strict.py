"""The base of everything read from a study file: frozen, and unknown keys are named with their nearest neighbour."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic_core import PydanticCustomError

from cnnstudy.errors import did_you_mean


class StrictModel(BaseModel):
    """A frozen model that refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _know_every_key(cls, given: Any) -> Any:
        if isinstance(given, dict):
            for key in given:
                if key not in cls.model_fields:
                    raise PydanticCustomError(
                        "unknown_key",
                        "unknown key{guess} The keys here are {allowed}.",
                        {
                            "key": str(key),
                            "guess": did_you_mean(str(key), cls.model_fields) or ".",
                            "allowed": ", ".join(cls.model_fields),
                        },
                    )
        return given
