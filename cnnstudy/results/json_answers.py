"""What commands print with --json: the same numbers and sentences as their tables, for programs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from cnnstudy.analysis.causes import NetworkAnalysis
from cnnstudy.analysis.comparison import Comparison
from cnnstudy.analysis.comparison_text import comparison_sentences
from cnnstudy.analysis.confirmation import Confirmation
from cnnstudy.analysis.confirmation_text import confirmation_sentences
from cnnstudy.analysis.effects_text import effect_sentences
from cnnstudy.analysis.named_causes import cause_sentence
from cnnstudy.analysis.next_steps import NextStep
from cnnstudy.results.terminal import effects_table


def describe_trials(study: str, frame: pd.DataFrame) -> dict[str, Any]:
    """Return a leaderboard: a row for each trial, with the columns of its CSV."""
    return {"study": study, "trials": to_json(frame)}


def describe_effects(study: str, found: Sequence[NetworkAnalysis], steps: Sequence[NextStep]) -> dict[str, Any]:
    """Return the answers in words, the cause, what to do next, and a row for each effect, with the CSV's columns."""
    networks = [
        {"network": one.architecture, "answers": effect_sentences(one), "notes": list(one.warnings)} for one in found
    ]
    question = next((one.question.sentence() for one in found if one.effects), None)
    return {
        "study": study,
        "question": question,
        "networks": networks,
        "cause": cause_sentence(found) or None,
        "next_steps": to_json(list(steps)),
        "effects": to_json(effects_table(found)),
    }


def describe_comparison(comparison: Comparison) -> dict[str, Any]:
    """Return the answers in words, and the numbers behind them; differences are B minus A."""
    numbers = to_json(comparison)
    return {"answers": comparison_sentences(comparison), **numbers}


def describe_confirmation(study: str, confirmed: Confirmation) -> dict[str, Any]:
    """Return the champion in words, and the standings of all candidates."""
    return {"study": study, "answers": confirmation_sentences(confirmed), **to_json(confirmed)}


def to_json(value: Any) -> Any:
    """Return a value as JSON's types: numbers that do not exist are null, frames lists of rows.

    Dataclasses are objects of their public fields.
    """
    if isinstance(value, pd.DataFrame):
        return to_json(value.to_dict("records"))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [field.name for field in dataclasses.fields(value) if not field.name.startswith("_")]
        return {name: to_json(getattr(value, name)) for name in fields}
    if isinstance(value, Mapping):
        return {str(key): to_json(one) for key, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [to_json(one) for one in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)
