"""Checks of the tables that users give to `cnnstudy.effects` and `cnnstudy.data_law`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real

import numpy as np
import pandas as pd
from pandas.api.types import is_bool_dtype, is_complex_dtype, is_numeric_dtype

from cnnstudy.errors import InputError

#: Larger numbers overflow where they are squared.
_LARGEST = 1e100


def check_columns(frame: object, roles: Mapping[str, object], factors: Sequence[object]) -> None:
    """Refuse what is no table, and columns that it lacks or that have two roles.

    Args:
        frame: should have a row per trial.
        roles: what a column is used for, as `outcome` -> its name.
        factors: the names of the columns of factors.
    """
    if not isinstance(frame, pd.DataFrame):
        raise InputError(f"trials must be a pandas DataFrame with a row per trial, not {type(frame).__name__}.")
    if not frame.columns.is_unique:
        raise InputError(f"columns must have different names, not {', '.join(map(repr, frame.columns))}.")
    there = ", ".join(map(repr, frame.columns)) or "none"
    used = [*roles.items(), *(("factor", name) for name in factors)]
    for role, name in used:
        if not isinstance(name, str | int) or name not in frame.columns:
            raise InputError(f"there is no column {name!r} for the {role}; the columns are {there}.")
    names = [name for _, name in used]
    if len(set(names)) < len(names):
        given = ", ".join(f"{role} {name!r}" for role, name in used)
        raise InputError(f"each column has one role; given are {given}.")


def read_numbers(frame: pd.DataFrame, name: str, role: str) -> np.ndarray:
    """Return a column of finite numbers, [trials]; NaN where a trial has none."""
    column = frame[name]
    is_plain = is_numeric_dtype(column) and not is_bool_dtype(column) and not is_complex_dtype(column)
    if not is_plain:
        column = column.astype(object)
        other = [value for value in column[column.notna()] if not isinstance(value, Real) or isinstance(value, bool)]
        if other:
            raise InputError(
                f"the {role} {name!r} must be numbers; {other[0]!r} is {type(other[0]).__name__}. "
                "pandas.to_numeric turns text into numbers."
            )
    values: np.ndarray = column.to_numpy(dtype=float, na_value=math.nan)
    if (np.abs(values) > _LARGEST).any():
        raise InputError(
            f"the {role} {name!r} is infinite, or beyond {_LARGEST:g}, in {int((np.abs(values) > _LARGEST).sum())} "
            "trials; leave these out, or give NaN for a trial without a value."
        )
    return values


def number_seeds(frame: pd.DataFrame, name: str) -> np.ndarray:
    """Return a number for each trial's seed, [trials], whatever the seeds are."""
    missing = int(frame[name].isna().sum())
    if missing:
        raise InputError(f"the seed {name!r} is missing in {missing} trials; give each trial one, or leave it out.")
    _check_levels(frame, name, "seed")
    return pd.factorize(frame[name].astype(object))[0]


def read_levels(frame: pd.DataFrame, name: str) -> pd.Series:
    """Return a factor's levels as plain objects, None where it is not active.

    Numbers that agree to 12 digits are one level.
    """
    column = frame[name].astype(object)
    _check_levels(frame, name, "factor")
    codes, present = pd.factorize(column)  # of thousands of trials, each level is looked at once
    levels = [float(f"{level:.12g}") if isinstance(level, float) else level for level in present]
    texts = sorted(level for level in levels if isinstance(level, str))
    others = [level for level in levels if not isinstance(level, str)]
    if texts and others:
        raise InputError(
            f"the factor {name!r} has texts and numbers among its levels, as {texts[0]!r} and {others[0]!r}; write all "
            "of them in one way."
        )
    if any(isinstance(level, float) and math.isinf(level) for level in levels):
        raise InputError(f"the factor {name!r} has an infinite level; give it a name, as 'none', or leave it out.")
    return pd.Series([*levels, None], dtype=object).iloc[codes].set_axis(column.index)


def _check_levels(frame: pd.DataFrame, name: str, role: str) -> None:
    for level in frame[name].astype(object):
        try:
            hash(level)
        except TypeError:
            raise InputError(
                f"the {role} {name!r} must hold numbers or names; {level!r} is {type(level).__name__}."
            ) from None
