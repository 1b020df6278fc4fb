"""Learning curves: how the gap opens."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cnnstudy.analysis.curves import TRAIN, VALIDATION
from cnnstudy.pages.grouping import CurvePanel
from cnnstudy.pages.style import INK, MUTED, PANEL, legend_above, panel, styled


@styled
def learning_curves(curves: CurvePanel, chance: float | None) -> Figure:
    """Clean train and validation accuracy by epoch, with bands over the seeds (or a thin line for each trial), and the
    gap after the last epoch in points.

    Args:
        chance: the accuracy (0..1) of guessing, as a line; None: without.
    """
    figure, axes = panel(curves.title, PANEL, 2.75)
    styles = (("train", TRAIN, "-", "o"), ("validation", VALIDATION, "--", "s"))
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
