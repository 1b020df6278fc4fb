"""Colours and sizes that figures and pages share.

Each colour has a name; on a page the figure's colour becomes the variable of that name, which the theme sets. Train,
validation and the marks are told apart by people who see few colours, and by their shapes and labels.
"""

from __future__ import annotations

from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from cnnstudy.analysis.curves import TRAIN, VALIDATION

INK, MUTED, LINE, SURFACE = "#1c2126", "#5a646e", "#dfe3e8", "#fefefe"
PURPLE, GREEN, GOLD, ROSE = "#7b4fa3", "#2f7d4f", "#9a7200", "#b03a6f"
#: The variable of the page that stands for a figure's colour.
VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    LINE: "--line",
    SURFACE: "--surface",
    TRAIN: "--train",
    VALIDATION: "--validation",
    PURPLE: "--purple",
    GREEN: "--green",
    GOLD: "--gold",
    ROSE: "--rose",
}
#: Groups that are compared in one figure: colour and marker of each.
SERIES = ((PURPLE, "o"), (GREEN, "s"), (GOLD, "^"), (ROSE, "D"), (INK, "v"), (MUTED, "P"))

#: Widths in inches. On the page an inch is 96 pixels: a phone shows either nearly as it was drawn.
PANEL, WIDE = 3.5, 4.9
_SETTINGS: Any = {
    "font.size": 9,
    "font.family": ["sans-serif"],
    "text.color": INK,
    # a study's names are names, and no mathematics
    "text.parse_math": False,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 9,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.facecolor": SURFACE,
    "grid.color": LINE,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.borderpad": 0.0,
    "legend.handlelength": 1.4,
    "figure.facecolor": SURFACE,
    "savefig.facecolor": SURFACE,
    "lines.linewidth": 1.6,
    "svg.fonttype": "none",
    # the same figure has the same text each time
    "svg.hashsalt": "cnnstudy",
}
#: Decorates what makes or saves figures.
styled = matplotlib.rc_context(_SETTINGS)


def panel(title: str, width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of one panel, with its title above (at most two lines).

    Args:
        width, height: inches.
    """
    figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.05))
    if title:
        shown = "\n".join(wrapped(title, round(width * 12.5))[:2])
        figure.suptitle(shown, x=0.012, ha="left", fontsize=9.5, fontweight="bold")
    return figure, figure.subplots()


def wrapped(text: str, width: int) -> list[str]:
    """The text in lines of at most so many characters."""
    import textwrap

    return textwrap.wrap(text, width, break_long_words=True) or [""]


def legend_above(axes: Axes, columns: int) -> None:
    """The legend between title and plot, where it covers nothing."""
    axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.01), ncols=columns, columnspacing=1.2, borderaxespad=0.0)
