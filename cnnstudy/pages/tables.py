"""Cells of the page's tables: all trials, the best ones, effects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from cnnstudy.analysis.causes import Causes
from cnnstudy.analysis.leaderboard import table, with_weights
from cnnstudy.analysis.sentences import EFFECT_HEADINGS, effect_rows
from cnnstudy.pages.grouping import varied_factors
from cnnstudy.pages.story import Story
from cnnstudy.records import RecordedRun
from cnnstudy.space import ALWAYS_SHOWN, FACTORS, describe_levels

#: Trials of the leaderboard.
TOP = 20


@dataclass(frozen=True)
class Cell:
    """What is shown, and the number that it is sorted by (None: the text)."""

    text: str
    number: float | None = None
    numeric: bool = False


@dataclass(frozen=True)
class TrialRow:
    """One trial of the table of all, with what it is filtered by."""

    trial: str
    network: str
    transfer: str
    state: str
    verdict: str  # or ""
    front: bool
    words: str  # what the page says of it where its point is touched
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """A table of texts; numbers stand to the right."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    hidden: int = 0  # rows that are left out


#: Columns of the table of all trials, after the factors: name, heading, how it is shown, with which factor and sign.
_MEASURED = (
    ("train_accuracy", "train %", "{:.1f}", 100.0),
    ("val_accuracy", "val %", "{:.1f}", 100.0),
    ("gap_accuracy", "gap", "{:+.1f}", 100.0),
    ("last_gap_accuracy", "last gap", "{:+.1f}", 100.0),
    ("best_epoch", "epoch", "{:.0f}", 1.0),
    ("seconds", "seconds", "{:.0f}", 1.0),
)
#: After so many of them stands the verdict.
_JUDGED = 4


def trial_table(story: Story) -> tuple[list[str], list[TrialRow]]:
    """Headings and rows of all trials, the best first."""
    frame = story.frame
    if frame.empty:
        return [], []
    factors = [name for name in FACTORS if name in frame and (name in ALWAYS_SHOWN or _varies(frame, name))]
    headings = ["trial", *(_heading(name) for name in factors), "seed"]
    headings += [*(heading for _, heading, _, _ in _MEASURED[:_JUDGED]), "verdict"]
    headings += [*(heading for _, heading, _, _ in _MEASURED[_JUDGED:]), "state"]
    of_network: dict[str, list[RecordedRun]] = {}
    for run in story.runs:
        of_network.setdefault(run.architecture, []).append(run)
    varied = {network: varied_factors(runs) for network, runs in of_network.items()}
    rows = []
    by_trial = {run.trial: run for run in story.runs}
    for row, front in zip(frame.to_dict("records"), story.front, strict=True):
        measured = [_measured(row[column], text, scale) for column, _, text, scale in _MEASURED]
        verdict, state = row["verdict"] or "", row["state"]
        reason = " ".join(str(row["reason"]).split())
        rows.append(
            TrialRow(
                trial=row["trial"],
                network=row["architecture"],
                transfer=str(row.get("transfer", "")),
                state=state,
                verdict=verdict,
                front=bool(front),
                words=describe_levels(by_trial[row["trial"]].levels, varied[row["architecture"]]),
                cells=(
                    Cell(row["trial"]),
                    *(_factor(row, name) for name in factors),
                    Cell(str(row["seed"]), float(row["seed"]), True),
                    *measured[:_JUDGED],
                    Cell(verdict),
                    *measured[_JUDGED:],
                    Cell(f"{state}: {reason[:160]}" if reason else state),
                ),
            )
        )
    return headings, rows


def _varies(frame: pd.DataFrame, factor: str) -> bool:
    """Within a network: between networks a default may differ."""
    by_network = frame.groupby("architecture")[factor].nunique()
    return bool((by_network > 1).any())


def _heading(factor: str) -> str:
    return f"{FACTORS[factor].short_label} {FACTORS[factor].unit}".rstrip()


def _factor(row: dict[Any, Any], factor: str) -> Cell:
    value = row[factor]
    if pd.isna(value):
        return Cell("", None, factor != "transfer")
    if isinstance(value, str):
        return Cell(with_weights(value, row["weights"]) if factor == "transfer" else value)
    return Cell(FACTORS[factor].write(value, with_unit=False), float(value), True)


def _measured(value: float | None, text: str, scale: float) -> Cell:
    return Cell("", None, True) if pd.isna(value) else Cell(text.format(scale * float(value)), float(value), True)


def best_trials(story: Story) -> Table:
    """The best by the study's objective."""
    finished = story.finished
    if finished.empty:
        return Table((), ())
    headings, rows = table(finished.head(TOP))
    return Table(tuple(headings), tuple(map(tuple, rows)), max(0, len(finished) - TOP))


def effect_table(causes: Causes, interactions: bool) -> Table:
    """The effects of one network with the answer and their intervals; of interactions those with an answer."""
    rows, hidden = effect_rows(causes, interactions)
    headings = (EFFECT_HEADINGS[0], EFFECT_HEADINGS[-1], *EFFECT_HEADINGS[1:-1])
    return Table(headings, tuple((row[0], row[-1], *row[1:-1]) for row in rows), hidden)
