"""Figures of effects: the gap by level, shares of variance, the gap by data size, forests of effects and candidates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

from cnnstudy.analysis.causes import NetworkAnalysis
from cnnstudy.analysis.contrasts import outcome_values
from cnnstudy.analysis.data_law import DataLaw
from cnnstudy.analysis.effects import Effect
from cnnstudy.analysis.effects_text import describe_change
from cnnstudy.analysis.importance import UNEXPLAINED, VarianceShares
from cnnstudy.analysis.observations import GAP, VALIDATION
from cnnstudy.analysis.trial_plots import VALIDATION_COLOR
from cnnstudy.config.factors import FACTORS, Choices, Levels, find_factor
from cnnstudy.results.pages.report_data import ConfirmationData
from cnnstudy.results.pages.svg import (
    GREEN,
    INK,
    MUTED,
    PANEL,
    PURPLE,
    SERIES,
    SURFACE,
    WIDE,
    legend_above,
    mark_trials,
    panel,
    styled,
    wrap_text,
)


@styled
def gap_by_factor(frame: pd.DataFrame, factor: str, levels: Levels) -> Figure:
    """Draw each trial's gap (points, last weights) by its level, with the mean of each level and its number above.

    Args:
        frame: the observations of one network; trials without a gap are not drawn.
    """
    gaps = 100 * outcome_values(frame, GAP)
    shown = np.isfinite(gaps)
    figure, axes = panel(find_factor(factor).label, PANEL, 2.5)
    axes.axhline(0, color=MUTED, linewidth=0.8)
    if isinstance(levels, Choices):
        _draw_levels(axes, frame[shown], factor, levels, gaps[shown])
    else:
        active = frame[factor].notna().to_numpy()
        chosen = frame[shown & active]
        (points,) = axes.plot(chosen[factor], gaps[shown & active], "o", color=PURPLE, alpha=0.7, markersize=5)
        mark_trials(points, chosen["trial"].tolist())
        axes.set_xscale("log" if levels.log else "linear")
        ticks = (np.geomspace if levels.log else np.linspace)(levels.low, levels.high, 3)
        axes.set_xticks(ticks, [find_factor(factor).write(float(f"{tick:.3g}")) for tick in ticks])
        axes.xaxis.set_minor_formatter(NullFormatter())  # matplotlib's own labels of such ticks are LaTeX
        axes.margins(0.08, 0.1)
    axes.set_ylabel("gap, points")
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
    axes.grid(axis="x", visible=False)
    return figure


def _draw_levels(axes: Axes, frame: pd.DataFrame, factor: str, levels: Choices, gaps: np.ndarray) -> None:
    for place, level in enumerate(levels.values):
        at_level = (frame[factor] == level).to_numpy()
        count = int(at_level.sum())
        if not count:
            continue
        # golden-ratio jitter: even, and the same each time
        jitter = ((np.arange(count) * 0.618034) % 1 - 0.5) * min(0.6, 0.06 * count)
        few = len(frame) <= 40
        (points,) = axes.plot(
            place + jitter,
            gaps[at_level],
            "o",
            color=PURPLE,
            alpha=0.75 if few else 0.45,
            markersize=5.5 if few else 3.8,
            markeredgewidth=0,
            zorder=2.5,
        )
        mark_trials(points, frame["trial"][at_level].tolist())
        mean = float(gaps[at_level].mean())
        axes.plot([place - 0.33, place + 0.33], [mean, mean], color=INK, linewidth=2.2, solid_capstyle="butt")
        axes.text(
            place,
            1.02,
            f"{mean:+.1f}",
            transform=axes.get_xaxis_transform(),
            ha="center",
            fontsize=8.5,
            fontweight="bold",
        )
    names = [find_factor(factor).write(level) for level in levels.values]
    crowded = sum(map(len, names)) > 34
    axes.set_xticks(range(len(names)), names, rotation=30 if crowded else 0, ha="right" if crowded else "center")
    axes.set_xlim(-0.5, len(names) - 0.5)
    axes.margins(y=0.12)


def compares_levels(frame: pd.DataFrame, factor: str) -> bool:
    """Return whether trials with a gap have at least two levels of the factor."""
    measured = frame[np.isfinite(outcome_values(frame, GAP))]
    return bool(measured[factor].nunique() > 1)


def network_levels(frame: pd.DataFrame) -> Choices:
    """Return the networks of a frame that compares them, as the levels of a factor."""
    names: Sequence[str] = list(dict.fromkeys(frame["network"]))
    return Choices(tuple(names))


@styled
def shares_of_variance(title: str, importances: Mapping[str, VarianceShares]) -> Figure:
    """Draw the share of the variance of gap and of validation accuracy that each factor explains, in percent.

    Lines are 95 % intervals.
    """
    shares_of = {target: one.shares for target, one in importances.items() if one.shares}
    names = list(dict.fromkeys(name for shares in shares_of.values() for name in shares if name != UNEXPLAINED))
    rows = [*names, UNEXPLAINED]
    figure, axes = panel(title, WIDE, 1.0 + 0.36 * len(rows))
    outcomes = [(GAP, "gap", PURPLE), (VALIDATION, "validation accuracy", GREEN)]
    outcomes = [outcome for outcome in outcomes if outcome[0] in shares_of]
    for number, (target, label, colour) in enumerate(outcomes):
        places = np.arange(len(rows)) + 0.19 * (2 * number - len(outcomes) + 1)
        known = [
            (place, shares_of[target][name])
            for place, name in zip(places, rows, strict=True)
            if name in shares_of[target]
        ]
        axes.barh([place for place, _ in known], [100 * one.value for _, one in known], 0.34, color=colour, label=label)
        for place, one in known:
            low, high = 100 * (one.low or 0.0), 100 * (one.high or 0.0)
            axes.plot([low, high], [place, place], color=MUTED, linewidth=1.2)
            axes.annotate(
                f"{100 * one.value:.0f} %",
                (high, place),
                xytext=(3, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
            )
    axes.set_yticks(range(len(rows)), [*(FACTORS[name].label for name in names), UNEXPLAINED])
    axes.invert_yaxis()
    axes.set(xlabel="share of the variance between trials, %", xlim=(0, 108))
    axes.grid(axis="y", visible=False)
    legend_above(axes, 2)
    return figure


@styled
def data_law_figure(law: DataLaw) -> Figure:
    """Draw an outcome (the gap in points, or accuracy in percent) against training images per class, logarithmically.

    Shown are the means over the seeds with 95 % intervals, and the law, dashed where it is extrapolated, with its
    interval at twice the images.
    """
    name, unit = ("validation accuracy", "%") if law.is_accuracy else ("gap", "points")
    figure, axes = panel(law.group, PANEL, 2.75)
    if law.target is not None:
        label = f"{100 * law.target:g} {unit}"
        axes.axhline(100 * law.target, color=MUTED, linestyle=":", linewidth=1.2, label=label)
    if law.power_law is not None:
        reach = np.geomspace(law.images[0], 2 * law.images[-1], 60)
        curve, inside = law.to_display_units(law.power_law.at(reach / law.images[-1])), reach <= law.images[-1] * 1.0001
        axes.plot(reach[inside], curve[inside], color=PURPLE, label="law")
        axes.plot(reach[~inside], curve[~inside], color=PURPLE, linestyle="--")
    twice = [(2 * law.images[-1], law.twice)] if law.twice is not None else []
    for images, value in [*zip(law.images, law.measured, strict=True), *twice]:
        if value.low is not None and value.high is not None:
            ends = [law.to_display_units(value.low), law.to_display_units(value.high)]
            axes.plot([images, images], ends, color=PURPLE, linewidth=1, alpha=0.6)
    axes.plot(
        law.images,
        [law.to_display_units(one.value) for one in law.measured],
        "o",
        color=PURPLE,
        markersize=5.5,
        label="measured",
    )
    axes.set_xscale("log")
    axes.set_xticks(law.images, [f"{count:.0f}" for count in law.images])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="x", which="minor", length=0)
    axes.set(xlabel="training images per class", ylabel=f"{name}, {unit}")
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6))
    legend_above(axes, 3)
    return figure


#: Labels of the outcomes in a forest of effects (GAPS) and in one of interactions (OUTCOMES).
GAPS = {
    GAP: "equal epochs",
    "updates/gap_accuracy": "equal updates",
    "train_loss/gap_accuracy": "equal train loss",
}
OUTCOMES = {
    GAP: "gap, equal epochs",
    "updates/gap_accuracy": "gap, equal updates",
    VALIDATION: "validation accuracy",
}
#: Rows that a forest has room for; the table has all.
MOST_ROWS = 14
_LINE, _MARK_ROW, _SPACE = 0.17, 0.14, 0.12  # inches


@dataclass(frozen=True)
class EffectRow:
    """One change of a factor, and its effect on each outcome that was analysed."""

    label: str
    effects: tuple[tuple[str, Effect], ...]  # a key of GAPS or OUTCOMES, the effect


def effect_forest_rows(causes: NetworkAnalysis, interactions: bool) -> list[EffectRow]:
    """Return the changes, largest effect on the gap first; of interactions only those with an answer."""
    outcomes = OUTCOMES if interactions else GAPS
    grouped: dict[tuple[object, ...], dict[str, Effect]] = {}
    for effect in causes.effects:
        column = f"{effect.basis}/{effect.outcome}"
        if column in outcomes and (effect.second is not None) == interactions:
            key = (effect.factor, effect.level, effect.second, effect.second_level)
            grouped.setdefault(key, {})[column] = effect
    rows = []
    for effects in sorted(grouped.values(), key=_gap_size, reverse=True):
        if interactions and all(effect.answer == "cannot tell" for effect in effects.values()):
            continue
        first = next(iter(effects.values()))
        rows.append(
            EffectRow(
                describe_change(first), tuple((column, effects[column]) for column in outcomes if column in effects)
            )
        )
    return rows


def _gap_size(effects: Mapping[str, Effect]) -> float:
    return abs(effects[GAP].estimate) if GAP in effects else 0.0


@styled
def effect_forest(
    title: str,
    rows: Sequence[EffectRow],
    outcomes: Mapping[str, str] = GAPS,
    axis: str = "change of the gap, points",
) -> Figure:
    """Draw the effect of each change, in points with 95 % intervals; hollow where it is not significant."""
    shown = rows[:MOST_ROWS]
    labels = [wrap_text(row.label, 62) for row in shown]
    used = [column for column in outcomes if any(column == key for row in shown for key, _ in row.effects)]
    tops, height = _row_layout(labels, len(used))
    figure, axes = _forest_axes(title, height)
    for row, lines, top in zip(shown, labels, tops, strict=True):
        _write_label(axes, lines, top)
        for column, effect in row.effects:
            place = top + _LINE * len(lines) + _MARK_ROW * (used.index(column) + 0.5)
            colour, marker = SERIES[list(outcomes).index(column)]
            significant = effect.answer != "cannot tell"
            if effect.low is not None and effect.high is not None:
                axes.plot(
                    [100 * effect.low, 100 * effect.high],
                    [place, place],
                    color=colour,
                    linewidth=1.6,
                    alpha=1 if significant else 0.55,
                    solid_capstyle="butt",
                )
            axes.plot(
                [100 * effect.estimate],
                [place],
                marker,
                color=colour,
                markerfacecolor=colour if significant else SURFACE,
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
def candidate_forest(confirmed: ConfirmationData) -> Figure:
    """Draw each confirmed candidate: its seeds, mean, 95 % interval, its value in the study, and the test result."""
    labels = [[f"{one.trial}: {one.standing}", *wrap_text(one.title, 62)] for one in confirmed.candidates]
    tops, height = _row_layout(labels, 1)
    figure, axes = _forest_axes("", height)
    percent = confirmed.percent
    for one, lines, top in zip(confirmed.candidates, labels, tops, strict=True):
        _write_label(axes, lines, top, bold=one.trial == confirmed.champion)
        place = top + _LINE * len(lines) + _MARK_ROW / 2
        colour = GREEN if one.standing == "champion" else INK if one.standing == "tied" else MUTED
        axes.plot([percent * value for value in one.values], [place] * len(one.values), "|", color=colour, markersize=7)
        if one.low is not None and one.high is not None:
            axes.plot([percent * one.low, percent * one.high], [place, place], color=colour, linewidth=2.2)
        if one.mean is not None:
            axes.plot([percent * one.mean], [place], "o", color=colour, markersize=6)
        if one.searched is not None:
            axes.plot(
                [percent * one.searched], [place], "D", color=VALIDATION_COLOR, markerfacecolor=SURFACE, markersize=5
            )
        if one.trial == confirmed.champion and confirmed.tested is not None and confirmed.shows_accuracy:
            axes.plot([100 * confirmed.tested], [place], "^", color=PURPLE, markersize=6.5)
    axes.plot([], [], "o", color=INK, markersize=6, label="mean of fresh seeds")
    axes.plot([], [], "D", color=VALIDATION_COLOR, markerfacecolor=SURFACE, markersize=5, label="in the study")
    if confirmed.tested is not None and confirmed.shows_accuracy:
        axes.plot([], [], "^", color=PURPLE, markersize=6.5, label="test")
    axes.set_xlabel(confirmed.axis)
    legend_above(axes, 3)
    return figure


def _row_layout(labels: Sequence[Sequence[str]], marks: int) -> tuple[list[float], float]:
    """Return where each row starts and where the last one ends, in inches from the top."""
    tops, top = [], 0.06
    for lines in labels:
        tops.append(top)
        top += _LINE * len(lines) + _MARK_ROW * marks + _SPACE
    return tops, top


def _forest_axes(title: str, height: float) -> tuple[Figure, Axes]:
    """Return axes whose y is in inches from the top, so that a row has the same height however many there are."""
    figure, axes = panel(title, WIDE, height + 0.75 + 0.3 * bool(title))
    axes.set_ylim(height, 0)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.grid(axis="y", visible=False)
    axes.margins(x=0.06)
    return figure, axes


def _write_label(axes: Axes, lines: Sequence[str], top: float, bold: bool = False) -> None:
    axes.annotate(
        "\n".join(lines),
        (0, top),
        xycoords=("axes fraction", "data"),
        va="top",
        fontsize=8.8,
        fontweight="bold" if bold else "normal",
        color=INK,
    )
