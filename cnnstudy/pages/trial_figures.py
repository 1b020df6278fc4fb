"""Trials as wholes: the Pareto front; and one of them class by class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from cnnstudy.analysis.curves import TRAIN, VALIDATION
from cnnstudy.analysis.pareto import non_dominated
from cnnstudy.pages.drawing import mark_trials
from cnnstudy.pages.story import ClassAccuracy
from cnnstudy.pages.style import INK, LINE, MUTED, SERIES, SURFACE, WIDE, legend_above, panel, styled

#: Of more classes those with the largest gap are drawn.
MOST_CLASSES = 20
#: More classes have no room for a matrix that can be read.
LARGEST_MATRIX = 30
_SIZES = (4.0, 5.5, 7.0, 8.5, 10.0)  # of markers, by fifths of the trials by their seconds


@styled
def pareto_front(frame: pd.DataFrame, front: pd.Series) -> Figure:
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
    best = non_dominated(shown, ("accuracy", "gap"))
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
    shown = by_gap(classes)[:MOST_CLASSES]
    figure, axes = panel(title, WIDE, 1.15 + 0.27 * len(shown))
    for place, one in enumerate(shown):
        if one.train is not None:
            axes.plot([100 * one.validation, 100 * one.train], [place, place], color=MUTED, linewidth=1.6, zorder=1)
            axes.plot([100 * one.train], [place], "o", color=TRAIN, markersize=6, zorder=2)
        axes.plot([100 * one.validation], [place], "s", color=VALIDATION, markersize=5.5, zorder=3)
        text = f"{100 * one.validation:.0f} %" if one.gap is None else f"{100 * one.gap:+.0f}"
        axes.annotate(
            text, (1.01, place), xycoords=("axes fraction", "data"), va="center", fontsize=8.5, fontweight="bold"
        )
    if any(one.train is not None for one in shown):
        axes.plot([], [], "o", color=TRAIN, markersize=6, label="train")
    axes.plot([], [], "s", color=VALIDATION, markersize=5.5, label="validation")
    axes.set_yticks(range(len(shown)), [short(one.name) for one in shown])
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set(xlabel="recall, %", xlim=(-2, 102))
    legend_above(axes, 2)
    return figure


def by_gap(classes: Sequence[ClassAccuracy]) -> list[ClassAccuracy]:
    """The largest gap first; where gaps are not known the lowest validation recall."""
    return sorted(classes, key=lambda one: (-one.gap if one.gap is not None else 0.0, one.validation))


@styled
def confusion_matrix(matrix: Sequence[Sequence[int]], classes: Sequence[str]) -> Figure:
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
                    Rectangle(place, 1, 1, facecolor=TRAIN if i == j else VALIDATION, alpha=0.08 + 0.92 * share)
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
    names = [short(name) for name in classes]
    axes.set_xticks(range(count), names, rotation=0 if max(map(len, names)) <= 3 else 45, ha="center")
    if max(map(len, names)) > 3:
        axes.set_xticks(range(count), names, rotation=45, ha="right")
    axes.set_yticks(range(count), names)
    axes.tick_params(length=0, labelsize=letters)
    axes.set(xlabel="predicted", ylabel="true", xlim=(-0.5, count - 0.5), ylim=(count - 0.5, -0.5), aspect="equal")
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    return figure


def short(name: str) -> str:
    """A name at a length that leaves room for the figure."""
    name = " ".join(name.split())
    return name if len(name) <= 24 else f"{name[:23]}…"
