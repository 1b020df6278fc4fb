"""What factors do to the gap, trial by trial: levels side by side, shares of the variance, the data law."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

from cnnstudy.analysis.contrasts import measured
from cnnstudy.analysis.data_law import DataLaw
from cnnstudy.analysis.importance import UNEXPLAINED
from cnnstudy.analysis.inference import CONFIDENCE
from cnnstudy.analysis.observations import GAP, VALIDATION
from cnnstudy.pages.drawing import mark_trials
from cnnstudy.pages.style import GREEN, INK, MUTED, PANEL, PURPLE, WIDE, legend_above, panel, styled
from cnnstudy.space import FACTORS, Choices, Levels, find_factor


@styled
def gap_by_factor(frame: pd.DataFrame, factor: str, levels: Levels) -> Figure:
    """Each trial's gap (points, last weights) by its level, and the mean of each level; those that learnt nothing are
    left out. Above each level stands its mean.

    Args:
        frame: observations of one network.
    """
    gaps = 100 * measured(frame, GAP)
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


def tells_levels_apart(frame: pd.DataFrame, factor: str) -> bool:
    """Whether two trials that learnt differ in the factor: else there is nothing to compare."""
    learnt = frame[np.isfinite(measured(frame, GAP))]
    return bool(learnt[factor].nunique() > 1)


def number_left_out(frame: pd.DataFrame) -> int:
    """Trials that `gap_by_factor` does not show."""
    return int((~np.isfinite(measured(frame, GAP))).sum()) if len(frame) else 0


def network_levels(frame: pd.DataFrame) -> Choices:
    """The networks of a frame that compares them, as a factor's levels."""
    names: Sequence[str] = list(dict.fromkeys(frame["network"]))
    return Choices(tuple(names))
