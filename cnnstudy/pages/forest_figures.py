"""Estimates with their intervals, one below the other: effects, interactions, confirmed candidates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cnnstudy.analysis.causes import Causes
from cnnstudy.analysis.curves import VALIDATION
from cnnstudy.analysis.effects import Effect
from cnnstudy.analysis.observations import GAP
from cnnstudy.analysis.observations import VALIDATION as ACCURACY
from cnnstudy.analysis.sentences import change
from cnnstudy.pages.confirmed import Confirmed
from cnnstudy.pages.style import GREEN, INK, MUTED, PURPLE, SERIES, SURFACE, WIDE, legend_above, panel, styled, wrapped

#: The outcomes of a forest of effects, and of one of interactions.
GAPS = {
    GAP: "equal epochs",
    "updates/gap_accuracy": "equal updates",
    "train_loss/gap_accuracy": "equal train loss",
}
OUTCOMES = {
    GAP: "gap, equal epochs",
    "updates/gap_accuracy": "gap, equal updates",
    ACCURACY: "validation accuracy",
}
#: So many rows are drawn; the table has all.
MOST_ROWS = 14
_LINE, _MARK_ROW, _SPACE = 0.17, 0.14, 0.12  # inches


@dataclass(frozen=True)
class EffectRow:
    """One change and what it does to each outcome that tells of it."""

    label: str
    effects: tuple[tuple[str, Effect], ...]  # a key of GAPS or OUTCOMES, the effect


def effect_forest_rows(causes: Causes, interactions: bool) -> list[EffectRow]:
    """The changes by the size of their effect on the gap; of interactions those with an answer."""
    outcomes = OUTCOMES if interactions else GAPS
    grouped: dict[tuple[object, ...], dict[str, Effect]] = {}
    for effect in causes.effects:
        column = f"{effect.basis}/{effect.outcome}"
        if column in outcomes and (effect.second is not None) == interactions:
            key = (effect.factor, effect.level, effect.second, effect.second_level)
            grouped.setdefault(key, {})[column] = effect
    rows = []
    for effects in sorted(grouped.values(), key=lambda of: -abs(of[GAP].estimate) if GAP in of else 0.0):
        if interactions and all(effect.answer == "cannot tell" for effect in effects.values()):
            continue
        first = next(iter(effects.values()))
        rows.append(
            EffectRow(change(first), tuple((column, effects[column]) for column in outcomes if column in effects))
        )
    return rows


@styled
def effect_forest(
    title: str,
    rows: Sequence[EffectRow],
    outcomes: Mapping[str, str] = GAPS,
    axis: str = "change of the gap, points",
) -> Figure:
    """What each change does, in points with 95 % intervals; hollow where it can't be told from nothing."""
    shown = rows[:MOST_ROWS]
    labels = [wrapped(row.label, 62) for row in shown]
    used = [column for column in outcomes if any(column == found for row in shown for found, _ in row.effects)]
    tops, height = _layout(labels, len(used))
    figure, axes = _forest_axes(title, height)
    for row, lines, top in zip(shown, labels, tops, strict=True):
        _label(axes, lines, top)
        for column, effect in row.effects:
            place = top + _LINE * len(lines) + _MARK_ROW * (used.index(column) + 0.5)
            colour, marker = SERIES[list(outcomes).index(column)]
            told = effect.answer != "cannot tell"
            if effect.low is not None and effect.high is not None:
                axes.plot(
                    [100 * effect.low, 100 * effect.high],
                    [place, place],
                    color=colour,
                    linewidth=1.6,
                    alpha=1 if told else 0.55,
                    solid_capstyle="butt",
                )
            axes.plot(
                [100 * effect.estimate],
                [place],
                marker,
                color=colour,
                markerfacecolor=colour if told else SURFACE,
                markersize=5,
            )
    for column in used:
        colour, marker = SERIES[list(outcomes).index(column)]
        axes.plot([], [], marker, color=colour, markersize=5, label=outcomes[column])
    axes.axvline(0, color=INK, linewidth=1)
    axes.set_xlabel(axis)
    legend_above(axes, 3)
    return figure


@styled
def candidate_forest(confirmed: Confirmed) -> Figure:
    """The confirmed trials: each seed's value, mean and 95 % interval, what the search had said of it, and the test."""
    labels = [[f"{one.trial}: {one.standing}", *wrapped(one.title, 62)] for one in confirmed.candidates]
    tops, height = _layout(labels, 1)
    figure, axes = _forest_axes("", height)
    percent = confirmed.percent
    for one, lines, top in zip(confirmed.candidates, labels, tops, strict=True):
        _label(axes, lines, top, bold=one.trial == confirmed.champion)
        place = top + _LINE * len(lines) + _MARK_ROW / 2
        colour = GREEN if one.standing == "champion" else INK if one.standing == "tied" else MUTED
        axes.plot([percent * value for value in one.values], [place] * len(one.values), "|", color=colour, markersize=7)
        if one.low is not None and one.high is not None:
            axes.plot([percent * one.low, percent * one.high], [place, place], color=colour, linewidth=2.2)
        if one.mean is not None:
            axes.plot([percent * one.mean], [place], "o", color=colour, markersize=6)
        if one.searched is not None:
            axes.plot([percent * one.searched], [place], "D", color=VALIDATION, markerfacecolor=SURFACE, markersize=5)
        if one.trial == confirmed.champion and confirmed.tested is not None and confirmed.shows_accuracy:
            axes.plot([100 * confirmed.tested], [place], "^", color=PURPLE, markersize=6.5)
    axes.plot([], [], "o", color=INK, markersize=6, label="mean of fresh seeds")
    axes.plot([], [], "D", color=VALIDATION, markerfacecolor=SURFACE, markersize=5, label="in the study")
    if confirmed.tested is not None and confirmed.shows_accuracy:
        axes.plot([], [], "^", color=PURPLE, markersize=6.5, label="test")
    axes.set_xlabel(confirmed.axis)
    legend_above(axes, 3)
    return figure


def _layout(labels: Sequence[Sequence[str]], marks: int) -> tuple[list[float], float]:
    """Where each row starts and where the last one ends, in inches from the top."""
    tops, top = [], 0.06
    for lines in labels:
        tops.append(top)
        top += _LINE * len(lines) + _MARK_ROW * marks + _SPACE
    return tops, top


def _forest_axes(title: str, height: float) -> tuple[Figure, Axes]:
    """Axes whose y is inches from the top: a row takes the same room however many there are."""
    figure, axes = panel(title, WIDE, height + 0.75 + 0.3 * bool(title))
    axes.set_ylim(height, 0)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.grid(axis="y", visible=False)
    axes.margins(x=0.06)
    return figure, axes


def _label(axes: Axes, lines: Sequence[str], top: float, bold: bool = False) -> None:
    axes.annotate(
        "\n".join(lines),
        (0, top),
        xycoords=("axes fraction", "data"),
        va="top",
        fontsize=8.8,
        fontweight="bold" if bold else "normal",
        color=INK,
    )
