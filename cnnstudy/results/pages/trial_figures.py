"""Figures of trials: learning curves, the Pareto front, one trial class by class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from cnnstudy.analysis.leaderboard import pareto_front
from cnnstudy.analysis.trial_plots import TRAIN_COLOR, VALIDATION_COLOR
from cnnstudy.results.pages.curve_panels import CurvePanel
from cnnstudy.results.pages.report_data import ClassAccuracy
from cnnstudy.results.pages.svg import (
    INK,
    LINE,
    MUTED,
    PANEL,
    SERIES,
    SURFACE,
    WIDE,
    legend_above,
    mark_trials,
    panel,
    styled,
)

#: Classes that are drawn; of more, those with the largest gap.
MOST_CLASSES = 20
#: Classes up to which a confusion matrix is readable.
LARGEST_MATRIX = 30
_SIZES = (4.0, 5.5, 7.0, 8.5, 10.0)  # of markers, by quintile of training time


@styled
def learning_curves(curves: CurvePanel, chance: float | None) -> Figure:
    """Draw clean train and validation accuracy by epoch, with bands over the seeds (or a thin line for each trial), and
    the gap after the last epoch in points.

    Args:
        chance: the accuracy (0..1) of guessing, drawn as a line; None: no line.
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
        _draw_gap(axes, curves)
        ends = (float(curves.epochs[0]), float(curves.epochs[-1]))
        ticks = MaxNLocator(integer=True, nbins=7, steps=[1, 2, 5, 10]).tick_values(*ends)
        axes.set_xticks([tick for tick in ticks if ends[0] <= tick <= ends[1]])
    axes.set(xlabel="epoch", ylabel="accuracy, %", ylim=(-3, 105))
    axes.grid(axis="x", visible=False)
    legend_above(axes, 3)
    return figure


def _draw_gap(axes: Axes, curves: CurvePanel) -> None:
    """Draw a bracket after the last epoch."""
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
def pareto_figure(frame: pd.DataFrame, front: pd.Series) -> Figure:
    """Draw validation accuracy against gap for finished trials that learnt.

    Trials on the front in all goals are filled; the line joins the front of these two goals alone.

    Args:
        frame: a leaderboard.
        front: whether each trial is on the front in all goals, by the frame's index.
    """
    learnt = (frame["state"] == "finished") & (frame["verdict"] != "not-learning") & frame["val_accuracy"].notna()
    shown, front = frame[learnt], front[learnt]
    figure, axes = panel("", WIDE, 3.7)
    seconds = pd.to_numeric(shown["seconds"]).rank(pct=True).fillna(0.5)
    sizes = np.minimum((seconds * len(_SIZES)).astype(int), len(_SIZES) - 1)
    x, y = 100 * shown["gap_accuracy"].astype(float).clip(lower=0), 100 * shown["val_accuracy"].astype(float)
    best = pareto_front(shown, ("accuracy", "gap"))
    line = pd.DataFrame({"x": x[best], "y": y[best]}).sort_values(["x", "y"])
    axes.plot(line["x"], line["y"], color=MUTED, linewidth=1, linestyle="--", drawstyle="steps-post", zorder=1)
    for number, (name, trials) in enumerate(shown.groupby("architecture", sort=True)):
        colour, marker = SERIES[number % len(SERIES)]
        for size, width in enumerate(_SIZES):
            for on_front in (False, True):
                chosen = trials.index[(sizes[trials.index] == size) & (front[trials.index] == on_front)]
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
    """Draw each class's recall on train and on validation with the gap between them in points, largest gap first."""
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
    """Return the classes, largest gap first; where gaps are not known, lowest validation recall first."""
    return sorted(classes, key=lambda one: (-one.gap if one.gap is not None else 0.0, one.validation))


@styled
def confusion_figure(matrix: Sequence[Sequence[int]], classes: Sequence[str]) -> Figure:
    """Draw counts of validation images by true (rows) and predicted class, coloured by share of the true class."""
    count = len(classes)
    figure, axes = panel("", WIDE, min(WIDE, 1.7 + 0.4 * count))
    font_size = 8.5 if count <= 12 else 6
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
                    fontsize=font_size,
                    color=SURFACE if share > 0.55 else INK,
                )
    names = [shorten_name(name) for name in classes]
    short = max(map(len, names)) <= 3
    axes.set_xticks(range(count), names, rotation=0 if short else 45, ha="center" if short else "right")
    axes.set_yticks(range(count), names)
    axes.tick_params(length=0, labelsize=font_size)
    axes.set(xlabel="predicted", ylabel="true", xlim=(-0.5, count - 0.5), ylim=(count - 0.5, -0.5), aspect="equal")
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    return figure


def shorten_name(name: str) -> str:
    """Return the name on one line, cut to 24 characters so that it leaves room for the figure."""
    name = " ".join(name.split())
    return name if len(name) <= 24 else f"{name[:23]}…"
