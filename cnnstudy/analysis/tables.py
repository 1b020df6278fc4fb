"""The analysis of effects for any table of trials, also of other tools: `cnnstudy.effects`.

    import cnnstudy, pandas
    trials = pandas.read_csv("trials.csv")
    cnnstudy.effects(trials, factors=["batch_size", "dropout"], outcome="gap", seed="seed")

It runs the code that `python -m cnnstudy effects` runs (effects.estimate_effects), so that whoever tests one tests the
other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
from pandas import CategoricalDtype

from cnnstudy.analysis.contrasts import list_contrasts, varied_levels
from cnnstudy.analysis.effects import Effect, correct_together, estimate_effects
from cnnstudy.analysis.frames import check_columns, number_seeds, read_levels, read_numbers
from cnnstudy.analysis.resolution import is_share
from cnnstudy.config.factors import Choices, Levels, Range
from cnnstudy.errors import InputError
from cnnstudy.records import Level

COLUMNS = (
    "architecture",
    "factor",
    "baseline",
    "level",
    "second_factor",
    "second_baseline",
    "second_level",
    "estimate",
    "low",
    "high",
    "answer",
    "reason",
    "trials",
    "seeds",
    "repeats",
)
#: Of these, those that are as the frame has them.
LEVELS = ("baseline", "level", "second_baseline", "second_level")
#: A column of numbers is a range if it has more distinct values than this, and than half of the combinations.
_MOST_LISTED = 10
#: A range is logarithmic if its ends are positive and differ by this factor.
_LOG_FROM = 50.0


def effects(
    frame: pd.DataFrame,
    factors: Sequence[str],
    outcome: str = "gap",
    seed: str = "seed",
    *,
    interactions: bool = True,
    levels: Mapping[str, Levels | Sequence[Level]] | None = None,
    images: int | None = None,
) -> pd.DataFrame:
    """Return the effect of each factor on an outcome, and of every two factors on each other's effects.

    A main effect compares a level with the baseline (the lowest of numbers, the first of a categorical, the first that
    appears of names), averaged over the other factors; an interaction is how much larger that is at the second factor's
    level than at its baseline. Over one call, the probability of any false `raises` or `lowers` is about 5 %, but more
    for each factor whose effect is 0 and differs strongly from seed to seed (docs/statistics.md).

    Args:
        frame: a row per trial. A column `architecture`, if there is one, names the network, and networks are analysed
            one by one (to compare them, name it among the factors). A factor that is not active in a trial is NaN.
            A trial without an outcome (NaN), and one that other seeds have, is missing: it may have any.
        factors: the columns that are varied. Of numbers that hardly repeat, the two ends are compared.
        outcome: the column to explain. One named like an accuracy or a gap, with values in -1..1, is a share.
        seed: the column of the seed, or other block: trials are compared within a seed, and seeds are the sample.
        interactions: False if it is known that factors do not interact; a fraction can then answer about more.
        levels: of some factors, the baseline of names first: `{"transfer": ["scratch", "frozen"]}`.
        images: on how many images accuracies are measured, which must then be shares; None: found from the values.

    Returns:
        A row for each contrast, with the columns
        - architecture ("" if the frame names none), factor, baseline, level;
        - second_factor, second_baseline, second_level (missing for main effects);
        - estimate, and low and high, the ends of its 95 % interval, in the outcome's units (NaN: there is none);
        - answer: `raises`, `lowers` or `cannot tell`; reason, in words;
        - trials, at the levels compared, and seeds that were used;
        - repeats: the probability that a repeat with other seeds gives the same answer; 1 where the design decides.

    Raises:
        InputError: a column is missing or does not fit, or a factor has one level; the message says what is allowed.
    """
    factors, given = _check_arguments(frame, factors, outcome, seed, levels)
    _check_images(images, outcome, read_numbers(frame, outcome, "outcome"))
    column, tables = f"table/{outcome}", []
    found: list[Effect] = []
    for trials in _by_network(frame, factors, outcome, seed, column):
        known = {name: given.get(name) or find_levels(trials, name, factors) for name in factors}
        tables.append((trials, known))
        found += estimate_effects(trials, known, [column], interactions, images)
    missing = [row for trials, known in tables for row in _rows_without_estimate(trials, known, column, found)]
    return _make_table([*map(_row, correct_together(found)), *missing])


def _make_table(rows: Sequence[tuple[object, ...]]) -> pd.DataFrame:
    """Return the rows under COLUMNS. Levels stay what they are: among None, pandas would make 4 a 4.0."""
    table = pd.DataFrame(rows, columns=list(COLUMNS), dtype=object)
    return table.astype({name: table[name].infer_objects().dtype for name in COLUMNS if name not in LEVELS})


def _by_network(
    frame: pd.DataFrame, factors: Sequence[str], outcome: str, seed: str, column: str
) -> Iterator[pd.DataFrame]:
    """Yield the trials of each network as observations, with the outcome in `column`; all, if networks are compared."""
    trials = pd.DataFrame({name: read_levels(frame, name).to_numpy() for name in factors})
    trials["seed"], trials[column] = number_seeds(frame, seed), read_numbers(frame, outcome, "outcome")
    if "architecture" in factors:
        yield trials
        return
    trials["architecture"] = read_levels(frame, "architecture").to_numpy() if "architecture" in frame else ""
    yield from (group for _, group in trials.groupby("architecture", sort=False))


def _rows_without_estimate(
    trials: pd.DataFrame, levels: Mapping[str, Levels], column: str, found: Sequence[Effect]
) -> Iterator[tuple[object, ...]]:
    """Yield a row for each main effect that these trials cannot estimate."""
    network = "" if "architecture" in levels else str(trials["architecture"].iloc[0])
    told = {(one.architecture, one.factor, one.level) for one in found if one.second is None}
    reason = "the trials that have the outcome are too few, or cannot separate this effect from others"
    for one in list_contrasts(trials, varied_levels(trials, levels)):
        if one.second is None and (network, one.factor, one.level) not in told:
            used = trials[trials[column].notna() & trials[one.factor].notna()]
            key = (network, one.factor, one.baseline, one.level, None, None, None)
            counts = (len(used), used["seed"].nunique())
            yield (*key, math.nan, math.nan, math.nan, "cannot tell", reason, *counts, 1.0)


def find_levels(frame: pd.DataFrame, name: str, factors: Sequence[str]) -> Levels:
    """Return the levels of a factor: a list, or a range if it is numeric and its values hardly repeat."""
    column = frame[name].dropna()
    present = list(dict.fromkeys(column.tolist()))
    is_number = all(isinstance(level, int | float | np.number) and not isinstance(level, bool) for level in present)
    combinations = len(frame[list(factors)].drop_duplicates())
    if not is_number or len(present) <= max(_MOST_LISTED, combinations / 2):
        return Choices(tuple(present))
    low, high = float(min(present)), float(max(present))
    return Range(low, high, log=low > 0 and high >= _LOG_FROM * low)


def _row(effect: Effect) -> tuple[object, ...]:
    low, high = (math.nan if end is None else end for end in (effect.low, effect.high))
    repeats = math.nan if effect.repeats is None else effect.repeats
    levels = (effect.baseline, effect.level, effect.second, effect.second_baseline, effect.second_level)
    numbers = (effect.estimate, low, high, effect.answer, effect.reason, effect.trials, effect.seeds, repeats)
    return (effect.architecture, effect.factor, *levels, *numbers)


def _check_arguments(
    frame: pd.DataFrame,
    factors: Sequence[str],
    outcome: str,
    seed: str,
    levels: Mapping[str, Levels | Sequence[Level]] | None,
) -> tuple[list[str], dict[str, Levels]]:
    """Return the factors, and the levels that are given or in a categorical's order; refuse what does not fit."""
    if not isinstance(factors, str | Sequence | pd.Index):
        raise InputError(f"factors must be a list of columns, not {factors!r}.")
    factors = [factors] if isinstance(factors, str) else list(factors)
    check_columns(frame, {"outcome": outcome, "seed": seed}, factors)
    if not factors:
        raise InputError(f"no factors are given; the columns are {', '.join(map(repr, frame.columns))}.")
    if frame.empty:
        raise InputError("the table has no trials.")
    for name in factors:
        present = read_levels(frame, name).dropna().unique()
        if len(present) < 2:
            what = f"one level ({present[0]})" if len(present) else "no level"
            raise InputError(f"the factor {name!r} has {what} in all trials; leave it out of the factors.")
    if "architecture" in (outcome, seed):
        raise InputError("the column 'architecture' names the network and is no outcome or seed; rename it.")
    if "seed" in factors:
        raise InputError(f"a factor cannot be named 'seed', which the blocks are called; rename it (seed is {seed!r}).")
    if "architecture" in frame and frame["architecture"].isna().any():
        missing = int(frame["architecture"].isna().sum())
        raise InputError(f"the architecture is missing in {missing} trials; name it, or leave these out.")
    if levels is not None and not isinstance(levels, Mapping):
        raise InputError(f"levels must be a dictionary of lists by factor, not {levels!r}.")
    orders = {
        name: list(frame[name].cat.categories) for name in factors if isinstance(frame[name].dtype, CategoricalDtype)
    }
    return factors, {name: _check_levels(name, of, factors) for name, of in {**orders, **(levels or {})}.items()}


def _check_images(images: int | None, outcome: str, values: np.ndarray) -> None:
    if images is None:
        return
    if not isinstance(images, int | np.integer) or isinstance(images, bool) or images <= 0:
        raise InputError(f"images must be a whole number above 0, not {images!r}.")
    if not is_share(outcome, values):
        raise InputError(
            f"with images, {outcome!r} must be named like an accuracy or a gap and lie in -1..1; divide percentages by "
            "100."
        )


def _check_levels(name: str, given: Levels | Sequence[Level], factors: Sequence[str]) -> Levels:
    if name not in factors:
        raise InputError(f"levels are given for {name!r}, which is no factor; factors are {', '.join(factors)}.")
    if isinstance(given, Choices | Range):
        return given
    if isinstance(given, str) or not isinstance(given, Sequence) or len(set(given)) < 2:
        raise InputError(f"levels of {name!r} must be a list of at least two, not {given!r}.")
    return Choices(tuple(given))
