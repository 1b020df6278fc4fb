"""Trials as wholes: the Pareto front; and one of them class by class."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, NullFormatter

from cnnstudy.analysis.causes import NetworkAnalysis
from cnnstudy.analysis.contrasts import outcome_values
from cnnstudy.analysis.data_law import DataLaw
from cnnstudy.analysis.effects import Effect
from cnnstudy.analysis.effects_text import describe_change
from cnnstudy.analysis.importance import UNEXPLAINED
from cnnstudy.analysis.intervals import CONFIDENCE
from cnnstudy.analysis.leaderboard import pareto_front
from cnnstudy.analysis.observations import GAP, VALIDATION
from cnnstudy.analysis.observations import VALIDATION as ACCURACY
from cnnstudy.analysis.trial_plots import TRAIN_COLOR, VALIDATION_COLOR
from cnnstudy.config.factors import FACTORS, Choices, Levels, find_factor
from cnnstudy.results.pages.curve_panels import CurvePanel
from cnnstudy.results.pages.report_data import ClassAccuracy, ConfirmationData
from cnnstudy.results.pages.svg import (
    GREEN,
    INK,
    LINE,
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
def learning_curves(curves: CurvePanel, chance: float | None) -> Figure:
    """Clean train and validation accuracy by epoch, with bands over the seeds (or a thin line for each trial), and the
    gap after the last epoch in points.

    Args:
        chance: the accuracy (0..1) of guessing, as a line; None: without.
    """
    figure, axes = panel(curves.title, PANEL, 2.75)
    styles = (("train", TRAIN_COLOR, "-", "o"), ("validation", VALIDATION_COLOR, "--", "s"))
    for (label, colour, line, marker), band in zip(styles, (curves.train, curves.validation), strict=True):
        for one in curves.lines if len(curves.lines) > 1 else ():
            values = one.train if label == "train" else one.validation
            axes.plot(one.epochs, [100 * value for value in values], color=colour, linewidth=0.7, alpha=0.45)
        if not curves.lines and curves.seeds > 1:
            axes.fill_between(
                curves.epochs, 100 * band.low, 100 * band.high, color=colour, alpha=0.22, linewidth=0, zorder=1.5
            )
        few = len(curves.epochs) <= 30
        axes.plot(
            curves.epochs,
            100 * band.mean,
            color=colour,
            linestyle=line,
            marker=marker if few else "",
            markersize=2.8,
            label=label,
        )
    if chance is not None:
        axes.axhline(100 * chance, color=MUTED, linestyle=":", linewidth=1, label="guessing")
    if len(curves.epochs):
        _show_gap(axes, curves)
        ends = (float(curves.epochs[0]), float(curves.epochs[-1]))
        ticks = MaxNLocator(integer=True, nbins=7, steps=[1, 2, 5, 10]).tick_values(*ends)
        axes.set_xticks([tick for tick in ticks if ends[0] <= tick <= ends[1]])
    axes.set(xlabel="epoch", ylabel="accuracy, %", ylim=(-3, 105))
    axes.grid(axis="x", visible=False)
    legend_above(axes, 3)
    return figure


def _show_gap(axes: Axes, curves: CurvePanel) -> None:
    """A bracket after the last epoch."""
    last, span = float(curves.epochs[-1]), max(1.0, float(curves.epochs[-1] - curves.epochs[0]))
    train, validation = 100 * curves.train.mean[-1], 100 * curves.validation.mean[-1]
    place = last + 0.05 * span
    axes.plot([place, place], [validation, train], color=INK, linewidth=2.2, solid_capstyle="butt")
    axes.annotate(
        f"{train - validation:+.0f}",
        (place, (train + validation) / 2),
        xytext=(4, 0),
        textcoords="offset points",
        va="center",
        fontsize=9.5,
        fontweight="bold",
        annotation_clip=False,
    )
    axes.set_xlim(float(curves.epochs[0]) - 0.05 * span, last + 0.2 * span)


@styled
def gap_by_factor(frame: pd.DataFrame, factor: str, levels: Levels) -> Figure:
    """Each trial's gap (points, last weights) by its level, and the mean of each level; those that learnt nothing are
    left out. Above each level stands its mean.

    Args:
        frame: observations of one network.
    """
    gaps = 100 * outcome_values(frame, GAP)
    shown = np.isfinite(gaps)
    figure, axes = panel(find_factor(factor).label, PANEL, 2.5)
    axes.axhline(0, color=MUTED, linewidth=0.8)
    if isinstance(levels, Choices):
        _levels_side_by_side(axes, frame[shown], factor, levels, gaps[shown])
    else:
        active = frame[factor].notna().to_numpy()
        chosen = frame[shown & active]
        (points,) = axes.plot(chosen[factor], gaps[shown & active], "o", color=PURPLE, alpha=0.7, markersize=5)
        mark_trials(points, chosen["trial"].tolist())
        axes.set_xscale("log" if levels.log else "linear")
        axes.margins(0.08, 0.1)
    axes.set_ylabel("gap, points")
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
    axes.grid(axis="x", visible=False)
    return figure


def _levels_side_by_side(axes: Axes, frame: pd.DataFrame, factor: str, levels: Choices, gaps: np.ndarray) -> None:
    for place, level in enumerate(levels.values):
        there = (frame[factor] == level).to_numpy()
        count = int(there.sum())
        if not count:
            continue
        # spread evenly and always alike
        across = ((np.arange(count) * 0.618034) % 1 - 0.5) * min(0.6, 0.06 * count)
        few = len(frame) <= 40
        (points,) = axes.plot(
            place + across,
            gaps[there],
            "o",
            color=PURPLE,
            alpha=0.75 if few else 0.45,
            markersize=5.5 if few else 3.8,
            markeredgewidth=0,
            zorder=2.5,
        )
        mark_trials(points, frame["trial"][there].tolist())
        mean = float(gaps[there].mean())
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


@styled
def shares_of_variance(title: str, importances: Mapping[str, Mapping[str, float]]) -> Figure:
    """How much of what makes gap and validation accuracy differ each factor explains, in percent."""
    names = list(dict.fromkeys(name for shares in importances.values() for name in shares if name != UNEXPLAINED))
    gap_shares = importances.get(GAP, {})
    names.sort(key=lambda name: -gap_shares.get(name, 0.0))
    rows = [*names, UNEXPLAINED]
    figure, axes = panel(title, WIDE, 1.0 + 0.36 * len(rows))
    outcomes = [(GAP, "gap", PURPLE, ""), (VALIDATION, "validation accuracy", GREEN, "")]
    outcomes = [outcome for outcome in outcomes if importances.get(outcome[0])]
    for number, (target, label, colour, _) in enumerate(outcomes):
        places = np.arange(len(rows)) + 0.19 * (2 * number - len(outcomes) + 1)
        shares = [100 * importances[target].get(name, 0.0) for name in rows]
        axes.barh(places, shares, 0.34, color=colour, label=label)
        for place, share in zip(places, shares, strict=True):
            axes.annotate(
                f"{share:.0f} %", (share, place), xytext=(3, 0), textcoords="offset points", va="center", fontsize=8
            )
    axes.set_yticks(range(len(rows)), [*(FACTORS[name].label for name in names), UNEXPLAINED])
    axes.invert_yaxis()
    axes.set(xlabel="share of the variance between trials, %", xlim=(0, 108))
    axes.grid(axis="y", visible=False)
    legend_above(axes, 2)
    return figure


@styled
def data_law(law: DataLaw) -> Figure:
    """The gap (points) by training images a class on logarithmic axes of images: means over the seeds, each seed's law,
    and the mean law with its 95 % interval, dashed beyond what was measured."""
    figure, axes = panel(law.group, PANEL, 2.75)
    images = np.array(law.images, dtype=float)
    axes.axhline(100 * law.target, color=MUTED, linestyle=":", linewidth=1.2, label=f"{100 * law.target:g} points")
    if law.of_seeds:
        _law_lines(axes, law, images)
    axes.plot(images, [100 * gap for gap in law.gaps], "o", color=PURPLE, markersize=5.5, label="measured", zorder=3)
    axes.set_xscale("log")
    axes.set_xticks(images, [f"{count:.0f}" for count in images])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="x", which="minor", length=0)
    axes.set(xlabel="training images a class", ylabel="gap, points")
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6))
    legend_above(axes, 3)
    return figure


def _law_lines(axes: Axes, law: DataLaw, images: np.ndarray) -> None:
    reach = np.geomspace(images[0], 2 * images[-1], 60)
    laws = np.array([scale * (reach / images[-1]) ** -exponent for scale, exponent in law.of_seeds])  # [seeds, 60]
    mean = laws.mean(axis=0)
    if len(laws) > 1:
        half = _t(len(laws)) * laws.std(axis=0, ddof=1) / math.sqrt(len(laws))
        axes.fill_between(reach, 100 * (mean - half), 100 * (mean + half), color=PURPLE, alpha=0.18, linewidth=0)
        for one in laws:
            axes.plot(reach, 100 * one, color=PURPLE, linewidth=0.6, alpha=0.5)
    inside = reach <= images[-1] * 1.0001
    axes.plot(reach[inside], 100 * mean[inside], color=PURPLE, label="law")
    axes.plot(reach[~inside], 100 * mean[~inside], color=PURPLE, linestyle="--")


def _t(seeds: int) -> float:
    from scipy import stats

    return float(stats.t.ppf(0.5 + CONFIDENCE / 2, seeds - 1))


def compares_levels(frame: pd.DataFrame, factor: str) -> bool:
    """Whether two trials that learnt differ in the factor: else there is nothing to compare."""
    learnt = frame[np.isfinite(outcome_values(frame, GAP))]
    return bool(learnt[factor].nunique() > 1)


def count_left_out(frame: pd.DataFrame) -> int:
    """Trials that `gap_by_factor` does not show."""
    return int((~np.isfinite(outcome_values(frame, GAP))).sum()) if len(frame) else 0


def network_levels(frame: pd.DataFrame) -> Choices:
    """The networks of a frame that compares them, as a factor's levels."""
    names: Sequence[str] = list(dict.fromkeys(frame["network"]))
    return Choices(tuple(names))


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


def effect_forest_rows(causes: NetworkAnalysis, interactions: bool) -> list[EffectRow]:
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
            EffectRow(
                describe_change(first), tuple((column, effects[column]) for column in outcomes if column in effects)
            )
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
    labels = [wrap_text(row.label, 62) for row in shown]
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
def candidate_forest(confirmed: ConfirmationData) -> Figure:
    """The confirmed trials: each seed's value, mean and 95 % interval, what the search had said of it, and the test."""
    labels = [[f"{one.trial}: {one.standing}", *wrap_text(one.title, 62)] for one in confirmed.candidates]
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


#: Of more classes those with the largest gap are drawn.
MOST_CLASSES = 20
#: More classes have no room for a matrix that can be read.
LARGEST_MATRIX = 30
_SIZES = (4.0, 5.5, 7.0, 8.5, 10.0)  # of markers, by fifths of the trials by their seconds


@styled
def pareto_figure(frame: pd.DataFrame, front: pd.Series) -> Figure:
    """Finished trials that learnt: validation accuracy against gap, filled where they are on the front; the line joins
    those that are best in these two alone.

    Args:
        frame: a leaderboard.
        front: which trials are on the front in all goals, by the frame's index.
    """
    there = (frame["state"] == "finished") & (frame["verdict"] != "not-learning") & frame["val_accuracy"].notna()
    shown, front = frame[there], front[there]
    figure, axes = panel("", WIDE, 3.7)
    seconds = pd.to_numeric(shown["seconds"]).rank(pct=True).fillna(0.5)
    sizes = np.minimum((seconds * len(_SIZES)).astype(int), len(_SIZES) - 1)
    x, y = 100 * shown["gap_accuracy"].astype(float).clip(lower=0), 100 * shown["val_accuracy"].astype(float)
    best = pareto_front(shown, ("accuracy", "gap"))
    line = pd.DataFrame({"x": x[best], "y": y[best]}).sort_values(["x", "y"])
    axes.plot(line["x"], line["y"], color=MUTED, linewidth=1, linestyle="--", drawstyle="steps-post", zorder=1)
    for number, (name, of_network) in enumerate(shown.groupby("architecture", sort=True)):
        colour, marker = SERIES[number % len(SERIES)]
        for size, width in enumerate(_SIZES):
            for on_front in (False, True):
                chosen = of_network.index[(sizes[of_network.index] == size) & (front[of_network.index] == on_front)]
                if not len(chosen):
                    continue
                (points,) = axes.plot(
                    x[chosen],
                    y[chosen],
                    marker,
                    color=colour,
                    markersize=width,
                    markerfacecolor=colour if on_front else SURFACE,
                    markeredgecolor=SURFACE if on_front else colour,
                    markeredgewidth=0.8,
                    alpha=1.0 if on_front else 0.65,
                    zorder=3 if on_front else 2,
                )
                mark_trials(points, frame["trial"][chosen].tolist())
        axes.plot([], [], marker, color=colour, markersize=6, label=str(name))
    axes.set(xlabel="gap, points (below 0 counts as 0)", ylabel="validation accuracy, %")
    axes.margins(0.06)
    legend_above(axes, 3)
    return figure


@styled
def class_gaps(title: str, classes: Sequence[ClassAccuracy]) -> Figure:
    """Recall of each class on train and on validation, and the gap between them in points, the largest first."""
    shown = sort_by_gap(classes)[:MOST_CLASSES]
    figure, axes = panel(title, WIDE, 1.15 + 0.27 * len(shown))
    for place, one in enumerate(shown):
        if one.train is not None:
            axes.plot([100 * one.validation, 100 * one.train], [place, place], color=MUTED, linewidth=1.6, zorder=1)
            axes.plot([100 * one.train], [place], "o", color=TRAIN_COLOR, markersize=6, zorder=2)
        axes.plot([100 * one.validation], [place], "s", color=VALIDATION_COLOR, markersize=5.5, zorder=3)
        text = f"{100 * one.validation:.0f} %" if one.gap is None else f"{100 * one.gap:+.0f}"
        axes.annotate(
            text, (1.01, place), xycoords=("axes fraction", "data"), va="center", fontsize=8.5, fontweight="bold"
        )
    if any(one.train is not None for one in shown):
        axes.plot([], [], "o", color=TRAIN_COLOR, markersize=6, label="train")
    axes.plot([], [], "s", color=VALIDATION_COLOR, markersize=5.5, label="validation")
    axes.set_yticks(range(len(shown)), [shorten_name(one.name) for one in shown])
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set(xlabel="recall, %", xlim=(-2, 102))
    legend_above(axes, 2)
    return figure


def sort_by_gap(classes: Sequence[ClassAccuracy]) -> list[ClassAccuracy]:
    """The largest gap first; where gaps are not known the lowest validation recall."""
    return sorted(classes, key=lambda one: (-one.gap if one.gap is not None else 0.0, one.validation))


@styled
def confusion_figure(matrix: Sequence[Sequence[int]], classes: Sequence[str]) -> Figure:
    """Validation images by true (rows) and predicted class, coloured by the share of the true class."""
    count = len(classes)
    figure, axes = panel("", WIDE, min(WIDE, 1.7 + 0.4 * count))
    letters = 8.5 if count <= 12 else 6
    for i, row in enumerate(matrix):
        for j, images in enumerate(row):
            share = images / max(1, sum(row))
            place = (j - 0.5, i - 0.5)
            if images:
                axes.add_patch(
                    Rectangle(
                        place, 1, 1, facecolor=TRAIN_COLOR if i == j else VALIDATION_COLOR, alpha=0.08 + 0.92 * share
                    )
                )
            axes.add_patch(Rectangle(place, 1, 1, fill=False, edgecolor=LINE, linewidth=0.6))
            if images and count <= 20:
                axes.text(
                    j,
                    i,
                    str(images),
                    ha="center",
                    va="center",
                    fontsize=letters,
                    color=SURFACE if share > 0.55 else INK,
                )
    names = [shorten_name(name) for name in classes]
    axes.set_xticks(range(count), names, rotation=0 if max(map(len, names)) <= 3 else 45, ha="center")
    if max(map(len, names)) > 3:
        axes.set_xticks(range(count), names, rotation=45, ha="right")
    axes.set_yticks(range(count), names)
    axes.tick_params(length=0, labelsize=letters)
    axes.set(xlabel="predicted", ylabel="true", xlim=(-0.5, count - 0.5), ylim=(count - 0.5, -0.5), aspect="equal")
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    return figure


def shorten_name(name: str) -> str:
    """A name at a length that leaves room for the figure."""
    name = " ".join(name.split())
    return name if len(name) <= 24 else f"{name[:23]}…"
