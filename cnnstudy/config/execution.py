"""The key `execution` of a study file: where a study's trials run, and what each gets of its machine."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from cnnstudy.config.factors import format_given
from cnnstudy.system.validation import Number, StrictModel, Whole

#: Names of places: this machine; a Ray cluster, or its address.
_PLACES = r"local|ray|ray://[^\s/]+:[0-9]+"


def _check_place(given: Any) -> Any:
    if isinstance(given, str) and not re.fullmatch(_PLACES, given):
        raise ValueError(
            f"{format_given(given)} is no place to run trials; give local (worker processes on this machine), ray (the "
            "Ray cluster of this machine, or a new one) or ray://HOST:PORT (the Ray Client server of a cluster)."
        )
    return given


def _check_gpus(given: Any) -> Any:
    if isinstance(given, float) and given > 1 and not given.is_integer():
        raise ValueError(f"{format_given(given)} can't be given out; a slot gets whole GPUs, or a fraction of one.")
    return given


class Execution(StrictModel):
    """Where trials run; no result depends on it beyond rounding. `cpus` and `memory` are of a cluster's nodes."""

    on: Annotated[str, BeforeValidator(_check_place), Field(pattern=f"^({_PLACES})$")] = Field(
        "local", description="local: this machine; ray, or ray://HOST:PORT: a Ray cluster"
    )
    slots: Whole = Field(1, ge=1, le=10_000, description="trials at a time, as --jobs")
    cpus: Number = Field(1, gt=0, description="cores of a node for each slot")
    gpus: Annotated[Number, BeforeValidator(_check_gpus)] = Field(
        0,
        ge=0,
        description="GPUs for each slot: several divide each update among them, a fraction shares one; 0 on local: one "
        "of those there are",
    )
    memory: Number | None = Field(None, gt=0, description="GB of a node that each slot reserves; default: none")
