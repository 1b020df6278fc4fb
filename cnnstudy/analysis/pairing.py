"""Two studies' trials matched with each other: pairs of the same levels and seed, and what they differ by.

Trials of one seed share split, initial weights and order of batches, in one study as in the other if both saw the same
images. What these do cancels in a pair, as within a study (contrasts).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cnnstudy.analysis.contrasts import Cells, Contrast, measured
from cnnstudy.analysis.effects import Effect
from cnnstudy.analysis.inference import Estimate, seed_tests
from cnnstudy.space import FACTORS, Choices, Level

_STUDY, _A, _B = "study", "A", "B"


@dataclass(frozen=True)
class Pairs:
    """What differs by how much, over the seeds that both studies have.

    `shrunk_p` is for a correction for many comparisons (inference.adjusted_p).
    """

    difference: Estimate  # B less A
    shrunk_p: float
    pairs: int  # of an effect: fours


class Paired:
    """The trials of one network in both studies, side by side.

    Args:
        a, b: observations, with the tuned factors at their best.
        tuned: factors that were tuned, so that they do not make a cell another one.
    """

    def __init__(self, a: pd.DataFrame, b: pd.DataFrame, tuned: Sequence[str]) -> None:
        names = [name for name in ("network", *FACTORS) if name in a and name in b and name not in tuned]
        self._factors = {
            name: Choices(tuple(dict.fromkeys([*a[name].dropna(), *b[name].dropna()])))
            for name in names
            if max(a[name].nunique(), b[name].nunique()) > 1
        }
        plain = [
            # a factor may be active in one of the two alone: its column has no type of its own in the other
            frame.astype(dict.fromkeys(self._factors, object)).assign(**{_STUDY: name})
            for frame, name in ((a, _A), (b, _B))
        ]
        columns = [*self._factors, _STUDY, "seed", "verdict"]
        outcomes = [name for name in map(str, a) if "/" in name and name in b]
        self._frame = pd.concat([frame[columns + outcomes] for frame in plain], ignore_index=True)
        cells = [_cells(frame, list(self._factors)) for frame in plain]
        self.same_cells = cells[0] == cells[1]

    def level(self, column: str) -> Pairs | None:
        """By how much an outcome differs; None where no pairs, or too few, tell."""
        return self._matched([Contrast(_STUDY, _A, _B)], column)[0]

    def effects(self, effects: Sequence[Effect], column: str) -> list[Pairs | None]:
        """By how much each of these main effects on an outcome differs."""
        contrasts: list[Contrast | None] = []
        for effect in effects:
            known: tuple[Level, ...] = self._factors[effect.factor].values if effect.factor in self._factors else ()
            # the ends of a range are no trials' levels
            listed = effect.baseline in known and effect.level in known
            contrast = Contrast(effect.factor, effect.baseline, effect.level, _STUDY, _A, _B)
            contrasts.append(contrast if listed else None)
        found = iter(self._matched([contrast for contrast in contrasts if contrast is not None], column))
        return [None if contrast is None else next(found) for contrast in contrasts]

    def _matched(self, contrasts: Sequence[Contrast], column: str) -> list[Pairs | None]:
        if not contrasts:
            return []
        varied = {**self._factors, _STUDY: Choices((_A, _B))}
        cells = Cells(self._frame, varied, measured(self._frame, column)[:, None])
        matched = cells.matched(contrasts)
        of_seeds = matched.values[:, :, 0]
        tests, shrunk = seed_tests(of_seeds, matched.spread[:, 0])
        counts = np.isfinite(of_seeds).sum(axis=1)
        # one seed has no interval; of two samples it may be told all the same
        return [
            Pairs(Estimate(value, low, high, p, count), shrunk_p, pairs) if count > 1 else None
            for (value, low, high, p), shrunk_p, count, pairs in zip(
                tests.tolist(), shrunk.tolist(), counts.tolist(), matched.pairs[:, 0].tolist(), strict=True
            )
        ]


def _cells(frame: pd.DataFrame, names: list[str]) -> set[tuple[object, ...]]:
    return set(frame[names].where(frame[names].notna(), None).itertuples(index=False, name=None))
