"""Contrasts between levels of the factors, estimated by matched pairs of trials within a seed.

A pair is two trials of the same seed that differ in one factor alone. They share split, initial weights and order of
batches, so what these do to both cancels. An interaction takes four such trials: the difference of two differences.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cnnstudy.config.factors import Choices, Levels
from cnnstudy.records import Level

#: Pairs are used for a contrast if at least this share of its trials is in one; in a fraction of a factorial few are.
MIN_PAIRED_SHARE = 1 / 3


@dataclass(frozen=True)
class Contrast:
    """`factor` at `level` minus at `baseline`; with a second factor, how much that differs between its two levels."""

    factor: str
    baseline: Level
    level: Level
    second: str | None = None
    second_baseline: Level | None = None
    second_level: Level | None = None

    @property
    def corners(self) -> list[tuple[int, dict[str, Level]]]:
        """The levels at its two (for an interaction four) corners, each with its sign in the contrast."""
        firsts = [(-1, {self.factor: self.baseline}), (1, {self.factor: self.level})]
        if self.second is None or self.second_baseline is None or self.second_level is None:
            return firsts
        seconds = [(-1, {self.second: self.second_baseline}), (1, {self.second: self.second_level})]
        return [
            (first_sign * second_sign, first | second)
            for first_sign, first in firsts
            for second_sign, second in seconds
        ]


@dataclass(frozen=True)
class SeedEstimates:
    """Contrasts, estimated within each seed."""

    values: np.ndarray  # [contrasts, seeds, outcomes], in the outcomes' units; NaN where a seed has no estimate
    spread: np.ndarray  # [contrasts, outcomes]: variance of a seed's estimate if a trial's is 1, mean over the seeds
    pairs: np.ndarray  # [contrasts, outcomes]: matched pairs (for an interaction: fours), all seeds together


def varied_levels(frame: pd.DataFrame, factors: Mapping[str, Levels]) -> dict[str, Levels]:
    """Return the factors with two or more levels among the trials; a list is reduced to these, with the baseline first.

    The baseline is the lowest level of a list of numbers, the first of a list of names.
    """
    varied: dict[str, Levels] = {}
    for name, levels in factors.items():
        present = set(frame[name].dropna()) if name in frame else set()
        if len(present) < 2:
            continue
        if isinstance(levels, Choices):
            tried = [level for level in levels.values if level in present]
            if len(tried) < 2:
                continue
            is_numeric = all(not isinstance(level, str) for level in tried)
            levels = Choices(tuple(sorted(tried)) if is_numeric else tuple(tried))
        varied[name] = levels
    return varied


def list_contrasts(frame: pd.DataFrame, varied: Mapping[str, Levels]) -> list[Contrast]:
    """Return the main contrasts, then the interactions of every two of them.

    A main contrast compares a level with the baseline, or the high end of a range with its low end. An interaction is
    omitted if one of its corners has no trials, as where a factor is not active.
    """
    ends = {
        name: (levels.values[0], levels.values[1:]) if isinstance(levels, Choices) else (levels.low, (levels.high,))
        for name, levels in varied.items()
    }
    main = [Contrast(name, baseline, level) for name, (baseline, others) in ends.items() for level in others]
    is_at = {
        (name, level): (frame[name] == level if isinstance(varied[name], Choices) else frame[name].notna()).to_numpy()
        for name, (baseline, others) in ends.items()
        for level in (baseline, *others)
    }
    pairs = [
        Contrast(one.factor, one.baseline, one.level, two.factor, two.baseline, two.level)
        for one, two in itertools.combinations(main, 2)
        if one.factor != two.factor
    ]
    return main + [
        pair
        for pair in pairs
        if all(np.all([is_at[level] for level in corner.items()], axis=0).any() for _, corner in pair.corners)
    ]


def outcome_values(frame: pd.DataFrame, column: str) -> np.ndarray:
    """Return an outcome of each trial as measured, [trials]; NaN where it has none."""
    return frame[column].to_numpy(dtype=float, na_value=math.nan).copy()


def level_indices(column: pd.Series, levels: Sequence[Level]) -> np.ndarray:
    """Return each trial's index in `levels`, [trials]; -1 where the factor is not active.

    Levels that are not listed get the following numbers.
    """
    places: dict[Level, int] = {level: place for place, level in enumerate(levels)}
    codes, present = pd.factorize(column)  # -1 where it is not active
    return np.array([*(places.setdefault(level, len(places)) for level in present), -1], dtype=int)[codes]


class Cells:
    """Trials grouped into cells, one for each combination of levels and seed; trials of the same cell are averaged.

    Args:
        frame: finished trials.
        varied: the factors that vary, lists only (from `varied_levels`).
        values: [trials, outcomes], NaN where a trial has none.
    """

    def __init__(self, frame: pd.DataFrame, varied: Mapping[str, Levels], values: np.ndarray) -> None:
        self._levels = {name: list(levels.values) for name, levels in varied.items() if isinstance(levels, Choices)}
        self._names = list(self._levels)
        columns = [level_indices(frame[name], levels) for name, levels in self._levels.items()]
        blocks = np.unique(frame["seed"], return_inverse=True)[1]
        cells, place = np.unique(np.column_stack([blocks, *columns]), axis=0, return_inverse=True)
        self._blocks, self._codes = cells[:, 0], cells[:, 1:]
        self._block_count = int(blocks.max()) + 1
        finite = np.isfinite(values)
        total, count = np.zeros((2, len(cells), values.shape[1]))
        np.add.at(total, place.ravel(), np.where(finite, values, 0.0))
        np.add.at(count, place.ravel(), finite)
        self._values = _divide(total, count)

    def match_pairs(self, contrasts: Sequence[Contrast]) -> SeedEstimates:
        """Return each contrast's mean over the matched pairs of each seed.

        Pairs agree in all other factors that are active on both sides. A factor that is active on one side only is
        averaged over, level by level, so that a level with fewer pairs counts as much as the others.
        """
        combined = [_combine(*self._corner_tables(contrast)) for contrast in contrasts]
        values, spread, pairs = (np.array(parts) for parts in zip(*combined, strict=True))
        return SeedEstimates(values, spread, pairs)

    def _corner_tables(self, contrast: Contrast) -> tuple[list[int], list[np.ndarray]]:
        """Return each corner's sign and values, [seeds, what pairs agree in, what is averaged over, outcomes]."""
        rows = [self._rows_at(levels) for _, levels in contrast.corners]
        others = [place for place, name in enumerate(self._names) if name not in (contrast.factor, contrast.second)]
        active = np.array([(self._codes[corner_rows][:, others] >= 0).any(axis=0) for corner_rows in rows])
        one_sided = active.any(axis=0) & ~active.all(axis=0)
        shared, own = np.array(others, dtype=int)[~one_sided], np.array(others, dtype=int)[one_sided]
        keys = self._number_combinations(np.concatenate(rows), shared)
        corner_keys = np.split(keys, np.cumsum([len(corner_rows) for corner_rows in rows])[:-1])
        count = keys.max(initial=-1) + 1
        tables = [self._table(*corner, count, own) for corner in zip(rows, corner_keys, strict=True)]
        return [sign for sign, _ in contrast.corners], tables

    def _rows_at(self, levels: Mapping[str, Level]) -> np.ndarray:
        chosen = np.ones(len(self._codes), dtype=bool)
        for name, level in levels.items():
            chosen &= self._codes[:, self._names.index(name)] == self._levels[name].index(level)
        return np.flatnonzero(chosen)

    def _number_combinations(self, rows: np.ndarray, factors: np.ndarray) -> np.ndarray:
        """Return a number for each row that identifies its combination of levels of `factors`."""
        number = np.zeros(len(rows), dtype=int)
        for factor in factors:
            codes = self._codes[rows, factor] + 1
            number = number * (codes.max(initial=0) + 1) + codes
        return np.unique(number, return_inverse=True)[1].ravel()

    def _table(self, rows: np.ndarray, keys: np.ndarray, key_count: int, own: np.ndarray) -> np.ndarray:
        own_keys = self._number_combinations(rows, own)
        shape = (self._block_count, key_count, own_keys.max(initial=0) + 1, self._values.shape[1])
        table = np.full(shape, math.nan)
        table[self._blocks[rows], keys, own_keys] = self._values[rows]
        return table


def _combine(signs: Sequence[int], tables: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return one contrast's values [seeds, outcomes], spread and pairs [outcomes], as in SeedEstimates."""
    blocks, keys, _, outcomes = tables[0].shape
    sides = [table.shape[2] for table in tables]
    axes = tuple(range(2, 2 + len(sides)))  # one for each corner: what is averaged over in it
    difference: np.ndarray = np.zeros((blocks, keys, *[1] * len(sides), outcomes))
    for place, (sign, table) in enumerate(zip(signs, tables, strict=True)):
        shape = [side if other == place else 1 for other, side in enumerate(sides)]
        difference = difference + sign * table.reshape(blocks, keys, *shape, outcomes)
    paired = np.isfinite(difference)
    # [corners, seeds, outcomes]: number of cells that are in a pair
    used = np.array(
        [paired.any(axis=tuple(other for other in axes if other != axis)).sum(axis=(1, 2)) for axis in axes]
    )
    finished = sum(np.isfinite(table).sum(axis=(0, 1, 2)) for table in tables)
    enough = used.sum(axis=(0, 1)) >= MIN_PAIRED_SHARE * np.maximum(finished, 1)
    values = nanmean(nanmean(difference, 1).reshape(blocks, -1, outcomes), 1)
    values[:, ~enough] = math.nan
    spread = nanmean(_divide(np.ones(used.shape), used).sum(axis=0), 0)
    return values, spread, np.where(enough, paired.any(axis=axes).sum(axis=(0, 1)), 0)


def nanmean(values: np.ndarray, axis: int) -> np.ndarray:
    """Return the mean of the finite values; NaN, without NumPy's warning, where there are none."""
    finite = np.isfinite(values)
    return _divide(np.where(finite, values, 0.0).sum(axis=axis), finite.sum(axis=axis))


def _divide(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Return total / count; NaN where the count is 0."""
    return np.divide(total, count, out=np.full(total.shape, math.nan), where=count > 0)
