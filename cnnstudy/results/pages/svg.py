"""The style of the page's figures; figures as SVG in the colours of the page's theme, and as PNG files."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib
from markupsafe import Markup
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from cnnstudy.analysis.trial_plots import TRAIN_COLOR, VALIDATION_COLOR
from cnnstudy.system.files import write_whole

INK, MUTED, LINE, SURFACE = "#1c2126", "#5a646e", "#dfe3e8", "#fefefe"
PURPLE, GREEN, GOLD, ROSE = "#7b4fa3", "#2f7d4f", "#9a7200", "#b03a6f"
#: A figure's colour -> the CSS variable of the page that replaces it.
VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    LINE: "--line",
    SURFACE: "--surface",
    TRAIN_COLOR: "--train",
    VALIDATION_COLOR: "--validation",
    PURPLE: "--purple",
    GREEN: "--green",
    GOLD: "--gold",
    ROSE: "--rose",
}
#: Colour and marker of each group in a figure that compares groups.
SERIES = ((PURPLE, "o"), (GREEN, "s"), (GOLD, "^"), (ROSE, "D"), (INK, "v"), (MUTED, "P"))

#: Widths in inches. On the page an inch is 96 pixels, so a phone shows either at nearly its full size.
PANEL, WIDE = 3.5, 4.9
_SETTINGS: Any = {
    "font.size": 9,
    "font.family": ["sans-serif"],
    "text.color": INK,
    # names of studies and classes may contain $, which is not mathematics
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
    # the same figure gives the same file each time
    "svg.hashsalt": "cnnstudy",
}
#: Decorator of functions that make or save figures.
styled = matplotlib.rc_context(_SETTINGS)


def panel(title: str, width: float, height: float) -> tuple[Figure, Axes]:
    """Return a figure of one panel, and its axes; the title is above (at most two lines).

    Args:
        width, height: inches.
    """
    figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.05))
    if title:
        shown = "\n".join(wrap_text(title, round(width * 12.5))[:2])
        figure.suptitle(shown, x=0.012, ha="left", fontsize=9.5, fontweight="bold")
    return figure, figure.subplots()


def wrap_text(text: str, width: int) -> list[str]:
    """Return the text in lines of at most `width` characters."""
    import textwrap

    return textwrap.wrap(text, width, break_long_words=True) or [""]


def legend_above(axes: Axes, columns: int) -> None:
    """Put the legend between title and plot, where it covers nothing."""
    axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.01), ncols=columns, columnspacing=1.2, borderaxespad=0.0)


#: Without date and version, so that the same figure gives the same file.
_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}
_MARK = "trials:"
_DOTS_PER_INCH, _LARGEST_SCALE = 200, 1.25
_COLOUR = re.compile(r"#[0-9a-fA-F]{6}")
_FONT = re.compile(r"font: (?:(bold|\d+) )?([\d.]+)px [^;]*")
_DECIMALS = re.compile(r"-?\d+\.\d{3,}")
_NUMBERS = ("d", "x", "y", "transform", "width", "height", "points")


def mark_trials(artist: Artist, trials: Sequence[str]) -> None:
    """Record which trial each point of the artist is, in order; the page shows it on touch."""
    artist.set_gid(_MARK + "|".join(trials))


def inline_svg(text: str, name: str, description: str) -> Markup:
    """Return an SVG document of `svg_text` as an element of a page.

    Args:
        name: unique on the page; the prefix of the ids inside.
        description: the text alternative, for screen readers.
    """
    root = ElementTree.fromstring(text)
    _remove_metadata_and_style(root)
    used = {target for element in root.iter() for value in element.attrib.values() for target in _references(value)}
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        _mark_points(element)
        attributes = {key.rpartition("}")[2]: value for key, value in element.attrib.items()}
        element.attrib.clear()
        for key, value in attributes.items():
            if key != "id" or value in used:
                element.set(key, _page_attribute(key, value, name))
    width, height = (float(size) / 0.75 for size in root.attrib["viewBox"].split()[2:])  # points to pixels
    root.attrib = {
        "viewBox": root.attrib["viewBox"],
        "width": f"{width:g}",
        "height": f"{height:g}",
        "style": f"max-width: {width * _LARGEST_SCALE:.0f}px",
        "role": "img",
        "aria-label": description,
    }
    return Markup(ElementTree.tostring(root, encoding="unicode"))


@styled
def svg_text(figure: Figure) -> str:
    """Return the figure as an SVG document."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        # a glyph that matplotlib's font lacks may be in the reader's font
        warnings.filterwarnings("ignore", r"Glyph \d+", UserWarning)
        figure.savefig(file, format="svg", metadata=_METADATA)
    # the layout is computed: a PNG of the same figure then matches, and takes half the time
    figure.set_layout_engine("none")
    return file.getvalue().decode()


@styled
def save_png(figure: Figure, path: Path) -> None:
    """Save the figure as PNG, at 200 dots per inch."""
    with warnings.catch_warnings():
        # matplotlib draws a box for a glyph that its font lacks
        warnings.filterwarnings("ignore", r"Glyph \d+", UserWarning)
        figure.savefig(file := io.BytesIO(), format="png", dpi=_DOTS_PER_INCH, metadata={"Software": None})
    write_whole(path, file.getvalue())


def _remove_metadata_and_style(root: ElementTree.Element) -> None:
    """Remove the metadata, and the style sheet, which would apply to the whole page."""
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.rpartition("}")[2] in ("metadata", "style"):
                parent.remove(child)


def _references(value: str) -> list[str]:
    """Return the ids that an attribute refers to."""
    return (
        [value[1:]] if value.startswith("#") and not _COLOUR.fullmatch(value) else re.findall(r"url\(#(.*?)\)", value)
    )


def _mark_points(element: ElementTree.Element) -> None:
    """Give the points of a marked group the names of their trials."""
    trials = element.get("id", "")
    if not trials.startswith(_MARK):
        return
    names = trials.removeprefix(_MARK).split("|")
    points = [point for point in element.iter() if point.tag.rpartition("}")[2] == "use"]
    if len(points) == len(names):  # a point outside the axes is not drawn
        for point, trial in zip(points, names, strict=True):
            point.set("data-trial", trial)


def _page_attribute(key: str, value: str, name: str) -> str:
    if key == "id":
        return f"{name}-{value}"
    if key == "href":
        return f"#{name}-{value[1:]}"
    if key == "clip-path":
        return value.replace("url(#", f"url(#{name}-")
    if key == "style":
        coloured = _COLOUR.sub(lambda match: _css_colour(match[0]), value)
        return _FONT.sub(
            lambda match: f"font-size: {match[2]}px" + (f"; font-weight: {match[1]}" if match[1] else ""), coloured
        )
    if key in _NUMBERS:
        return _DECIMALS.sub(lambda match: f"{float(match[0]):.2f}".rstrip("0").rstrip("."), value)
    return value


def _css_colour(colour: str) -> str:
    variable = VARIABLES.get(colour.lower())
    return f"var({variable})" if variable else colour
