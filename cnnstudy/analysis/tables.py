"""The analysis of effects for any table of trials, also of other tools: `cnnstudy.effects`.

    import cnnstudy, pandas
    trials = pandas.read_csv("trials.csv")
    cnnstudy.effects(trials, factors=["batch_size", "dropout"], outcome="gap", seed="seed")

It runs the code that `python -m cnnstudy effects` runs (effects.estimate_effects), so that whoever tests one tests the
other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from pandas.api.types import is_bool_dtype, is_numeric_dtype

from cnnstudy.analysis.effects import Effect, correct_together, estimate_effects
from cnnstudy.config.factors import Choices, Levels, Range

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
    levels: Mapping[str, Levels] | None = None,
    images: int | None = None,
) -> pd.DataFrame:
    """Return the effect of each factor on an outcome, and of every two factors on each other's effects.

    A main effect compares a level with the baseline (the lowest of numbers, the first that appears of names), averaged
    over the other factors; an interaction is how much larger that is at the second factor's level than at its baseline.
    Over one call, with all its networks and interactions, the probability of any false `raises` or `lowers` is at most
    5 %. docs/statistics.md has the methods and their measured rates.

    Args:
        frame: a row per trial. A column `architecture`, if there is one, names the network, and networks are analysed
            one by one (to compare them, name it among the factors). A factor that is not active in a trial is NaN.
            A trial without an outcome (NaN), and one that other seeds have, is missing: it may have any.
        factors: the columns that are varied. A numeric column whose values hardly repeat is a range, and its two ends
            are compared.
        outcome: the column to explain. One named like an accuracy or a gap, with values in -1..1, is a share.
        seed: the column of the seed, or other block: trials of a seed are compared with each other, and the seeds are
            the sample.
        interactions: False if it is known that no two factors interact. Then a fraction of a factorial can answer about
            main effects that are mixed with interactions, and no interactions are reported.
        levels: the levels of some factors, where they should not be found from the frame.
        images: on how many images accuracies are measured; None: found from the values.

    Returns:
        A row for each contrast, with the columns

        - architecture ("" if the frame names none), factor, baseline, level; second_factor, second_baseline,
          second_level (None for main effects);
        - estimate, and low and high, the ends of its 95 % interval (NaN where there is none), in the outcome's units;
        - answer: `raises`, `lowers` or `cannot tell`; reason, in words;
        - trials, at the levels compared, and seeds that were used;
        - repeats: the probability (0..1) that a repeat of the study, with other seeds, gives the same answer; 1 where
          the design alone forbids an answer, NaN where nothing is known.

    Raises:
        ValueError: a column is missing or does not fit; the message names the columns that there are.
    """
    factors = [factors] if isinstance(factors, str) else list(factors)
    _check_columns(frame, factors, outcome, seed)
    column = f"table/{outcome}"
    trials = frame[factors].astype(object).assign(**{"seed": frame[seed], column: frame[outcome].astype(float)})
    has_networks = "architecture" in frame and "architecture" not in factors
    networks = frame["architecture"] if has_networks else pd.Series("", index=frame.index)
    trials = trials.assign(**{"architecture": networks} if "architecture" not in factors else {}).reset_index(drop=True)
    found: list[Effect] = []
    groups = (
        [trials] if "architecture" in factors else [group for _, group in trials.groupby("architecture", sort=False)]
    )
    for group in groups:
        known = {name: (levels or {}).get(name) or find_levels(group, name, factors) for name in factors}
        found += estimate_effects(group, known, [column], interactions, images)
    return pd.DataFrame([_row(effect) for effect in correct_together(found)], columns=list(COLUMNS))


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


def _check_columns(frame: pd.DataFrame, factors: Sequence[str], outcome: str, seed: str) -> None:
    """Refuse what is not in the frame, or cannot be what it is given for."""
    there = f"the columns are {', '.join(map(repr, frame.columns))}"
    if not factors:
        raise ValueError(f"no factors; {there}")
    for what, name in (*(("factor", name) for name in factors), ("outcome", outcome), ("seed", seed)):
        if name not in frame:
            raise ValueError(f"no column {name!r} for the {what}; {there}")
    if len(set(factors)) < len(factors) or {outcome, seed} & set(factors) or outcome == seed:
        raise ValueError(f"factors {factors}, outcome {outcome!r} and seed {seed!r} must be different columns")
    if not is_numeric_dtype(frame[outcome]) or is_bool_dtype(frame[outcome]):
        raise ValueError(f"the outcome {outcome!r} must be numbers, not {frame[outcome].dtype}")
    if np.isinf(frame[outcome].to_numpy(dtype=float, na_value=math.nan)).any():
        raise ValueError(f"the outcome {outcome!r} has infinite values; NaN stands for a trial without one")
    if frame[seed].isna().any():
        raise ValueError(f"the seed {seed!r} is missing in {int(frame[seed].isna().sum())} trials")
