"""Draw the structure of a network from top to bottom, wrapped into columns that fill a landscape page.

Branches are drawn side by side below the layer that they start from, auxiliary heads to the left of the layer that they
are attached to. Lengths are in inches.
"""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Patch
from matplotlib.path import Path as Line

from cnnstudy.architectures import AUXILIARY, HEAD
from cnnstudy.system.files import write_whole


@dataclass(frozen=True)
class LayerRow:
    """One layer of a network, as the table and the drawing show it."""

    name: str
    kind: str  # convolution, pooling, dense, dropout, merge, preprocessing or other
    label: str  # the kind with kernel and stride
    shape: tuple[int, ...]  # of the output, without the batch dimension
    parameters: int
    trainable: int  # parameters that an optimiser updates: without moving statistics
    multiply_adds: int
    receptive_field: int | None  # width in input pixels; None: the whole image
    part: str  # BACKBONE, HEAD or AUXILIARY
    inputs: tuple[str, ...]  # names of layers

    @property
    def shape_text(self) -> str:
        return "x".join(map(str, self.shape))


COLOURS = {
    "preprocessing": "#fbe6a2",
    "convolution": "#a9cfe6",
    "pooling": "#f5b594",
    "merge": "#d9c8ec",
    "dropout": "#e3e3e3",
    "dense": "#b2dba6",
    "other": "#ffffff",
}
LEGEND = {"other": "flatten, softmax"}
INK, PAPER = "#333333", "#f4f6f7"

LEVEL, BOX_HEIGHT = 0.56, 0.36  # distance between layers, height of a box
LANE, BOX_WIDTH = 0.98, 0.84  # distance between branches, width of a box
TRUNK_WIDTH = 1.3  # width of a box with nothing beside it
LABEL = 0.22  # space left of a stage for its name, written upwards
GUTTER = 0.34  # space between columns, for the arrow to the next one
MARGIN, TOP = 0.15, 0.75  # TOP: height of title and legend
PADDING = 0.06  # around the boxes of a stage
NARROWEST = 6.0  # width that title and legend need
LANDSCAPE, MOST_COLUMNS = 1.5, 5  # LANDSCAPE: width to height of the page


@dataclass(frozen=True)
class _Box:
    row: LayerRow
    x: float  # centre
    y: float  # centre, downwards from the top
    width: float

    @property
    def top(self) -> float:
        return self.y - BOX_HEIGHT / 2

    @property
    def bottom(self) -> float:
        return self.y + BOX_HEIGHT / 2

    @property
    def left(self) -> float:
        return self.x - self.width / 2

    @property
    def right(self) -> float:
        return self.x + self.width / 2


def draw_network(rows: Sequence[LayerRow], title: str, path: Path) -> None:
    """Draw the layers to a PNG file.

    Raises:
        OSError: the file can't be written.
    """
    layout = _Layout(rows)
    figure = Figure(figsize=(layout.width, layout.height))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, layout.width), ylim=(layout.height, 0))
    axes.set_axis_off()
    axes.text(MARGIN, 0.22, title, fontsize=11, fontweight="bold", color=INK, va="center")
    kinds = {row.kind for row in rows}
    axes.legend(
        handles=[
            Patch(facecolor=colour, edgecolor=INK, linewidth=0.6, label=LEGEND.get(kind, kind))
            for kind, colour in COLOURS.items()
            if kind in kinds
        ],
        loc="center left",
        bbox_to_anchor=(MARGIN / layout.width, 1 - 0.5 / layout.height),
        ncols=len(kinds),
        fontsize=7.5,
        frameon=False,
        borderpad=0,
        borderaxespad=0,
        handlelength=1.2,
        columnspacing=1.2,
    )
    names: dict[str, str] = {}  # without the name of the stage that they are in
    for stage, boxes in layout.stages():
        _draw_stage(axes, stage, boxes)
        names |= {box.row.name: box.row.name.removeprefix(stage).lstrip("_") or box.row.name for box in boxes}
    for points in layout.edges():
        _draw_arrow(axes, points)
    for name, box in layout.boxes.items():
        _draw_box(axes, box, names.get(name, name))
    figure.savefig(file := io.BytesIO(), format="png", dpi=150)
    write_whole(path, file.getvalue())


def stage_of(name: str) -> str:
    """Return the stage in a layer's name: `block5` for `block5_conv1`, `inception_4a` for `inception_4a_3x3`."""
    if name.startswith(HEAD):
        return HEAD
    match = re.match(r"(?:[^\W\d]+_)?[^\W_]*\d[^\W_]*(?=_|$)", name)
    return match[0] if match else name


class _Layout:
    """The position of each layer."""

    def __init__(self, rows: Sequence[LayerRow]) -> None:
        self.rows = {row.name: row for row in rows}
        self.main = [row for row in rows if row.part != AUXILIARY]
        self.level: dict[str, int] = {}
        # the level on the main path; for a layer of an auxiliary head, that of the layer the head is attached to
        self.main_level: dict[str, int] = {}
        for row in rows:
            self.level[row.name] = max((self.level[name] + 1 for name in row.inputs), default=0)
            is_auxiliary = row.part == AUXILIARY
            self.main_level[row.name] = self.main_level[row.inputs[0]] if is_auxiliary else self.level[row.name]
        self.lane = self._find_lanes()
        self.starts = self._choose_starts()  # the first level of each column
        self.column = {
            name: sum(level >= start for start in self.starts) - 1 for name, level in self.main_level.items()
        }
        self.lefts = list(itertools.accumulate(self._widths(self.starts), initial=MARGIN))
        self.width = max(self.lefts[-1] - GUTTER + MARGIN, NARROWEST)
        self.height = TOP + self._tallest(self.starts) * LEVEL + MARGIN
        self.boxes = {row.name: self._place(row) for row in rows}

    def _find_lanes(self) -> dict[str, tuple[int, int]]:
        """Return, for each layer between a fork and a merge, the index of its branch and the number of branches."""
        lane: dict[str, tuple[int, int]] = {}
        for row in self.main:
            if len(row.inputs) != 1:
                continue
            siblings = [other.name for other in self.main if other.inputs == row.inputs]
            if len(siblings) > 1:
                lane[row.name] = (siblings.index(row.name), len(siblings))
            elif row.inputs[0] in lane:
                lane[row.name] = lane[row.inputs[0]]
        return lane

    def _choose_starts(self) -> tuple[int, ...]:
        """Return the first level of each column such that the drawing is largest on a landscape page."""
        possible = [level for level in range(1, max(self.main_level.values()) + 1) if self._may_start(level)]

        def size(starts: tuple[int, ...]) -> tuple[float, int]:
            tallest = self._tallest(starts)
            return max(sum(self._widths(starts)) / LANDSCAPE, TOP + tallest * LEVEL), tallest

        candidates = (
            (0, *breaks) for columns in range(MOST_COLUMNS) for breaks in itertools.combinations(possible, columns)
        )
        return min(candidates, key=size)

    def _may_start(self, level: int) -> bool:
        """Return whether a column may start at this level: its only input from above is one layer of another stage."""
        crossing = {
            name for row in self.main for name in row.inputs if self.level[name] < level <= self.level[row.name]
        }
        stages = {stage_of(row.name) for row in self.main if self.level[row.name] == level}
        return len(crossing) == 1 and not stages & set(map(stage_of, crossing))

    def _tallest(self, starts: tuple[int, ...]) -> int:
        """Return the number of levels in the longest column."""
        return 1 + max(
            self.level[name] - max(start for start in starts if start <= level)
            for name, level in self.main_level.items()
        )

    def _widths(self, starts: tuple[int, ...]) -> list[float]:
        widths = []
        for start, end in itertools.pairwise((*starts, len(self.rows))):
            names = [row.name for row in self.main if start <= self.level[row.name] < end]
            widths.append(self._side_width(names) + self._trunk_width(names) + GUTTER)
        return widths

    def _trunk_width(self, names: Collection[str]) -> float:
        lanes = max((self.lane[name][1] for name in names if name in self.lane), default=1)
        return LABEL + max(TRUNK_WIDTH, lanes * LANE)

    def _side_width(self, names: Collection[str]) -> float:
        """Return the width that auxiliary heads beside these layers need."""
        sources = {name for row in self.rows.values() if row.part == AUXILIARY for name in row.inputs}
        return LABEL + LANE if sources & set(names) else 0

    def _place(self, row: LayerRow) -> _Box:
        column = self.column[row.name]
        neighbours = [other.name for other in self.main if self.column[other.name] == column]
        y = TOP + (self.level[row.name] - self.starts[column] + 0.5) * LEVEL
        if row.part == AUXILIARY:
            return _Box(row, self.lefts[column] + LABEL + LANE / 2, y, BOX_WIDTH)
        trunk = self._trunk_width(neighbours)
        middle = self.lefts[column] + self._side_width(neighbours) + LABEL + (trunk - LABEL) / 2
        if row.name in self.lane:
            number, count = self.lane[row.name]
            return _Box(row, middle + (number - (count - 1) / 2) * LANE, y, BOX_WIDTH)
        merged = max((self.lane[name][1] for name in row.inputs if name in self.lane), default=1)
        wide = merged * LANE - (LANE - BOX_WIDTH) if len(row.inputs) > 1 else 0
        return _Box(row, middle, y, max(TRUNK_WIDTH, wide))

    def stages(self) -> list[tuple[str, list[_Box]]]:
        """Return the stages of more than one layer with their boxes."""
        by_stage: dict[str, list[_Box]] = {}
        for name, box in self.boxes.items():
            by_stage.setdefault(stage_of(name), []).append(box)
        return [(stage, boxes) for stage, boxes in by_stage.items() if len(boxes) > 1]

    def edges(self) -> Iterator[list[tuple[float, float]]]:
        """Yield the corners of each arrow."""
        for target in self.boxes.values():
            for name in target.row.inputs:
                yield self._route(self.boxes[name], target)

    def _route(self, source: _Box, target: _Box) -> list[tuple[float, float]]:
        half_gap = (LEVEL - BOX_HEIGHT) / 2
        column = self.column[target.row.name]
        if self.column[source.row.name] != column:  # through the gutter, to above the first layer of the next column
            gutter, below, above = self.lefts[column] - GUTTER / 2, source.bottom + half_gap, target.top - half_gap
            start = [(source.x, source.bottom), (source.x, below), (gutter, below)]
            return [*start, (gutter, above), (target.x, above), (target.x, target.top)]
        if target.row.part == AUXILIARY and source.row.part != AUXILIARY:
            return [(source.left, source.y), (target.x, source.y), (target.x, target.top)]
        if target.top - source.bottom > LEVEL and source.x == target.x:  # a shortcut past the layers in between
            outside = max(source.right, target.right) + half_gap
            return [(source.right, source.y), (outside, source.y), (outside, target.y), (target.right, target.y)]
        if source.width > TRUNK_WIDTH or target.width > TRUNK_WIDTH:  # a branch starts or ends at a wide box
            x = min(source, target, key=lambda box: box.width).x
            return [(x, source.bottom), (x, target.top)]
        turn = target.top - half_gap
        return [(source.x, source.bottom), (source.x, turn), (target.x, turn), (target.x, target.top)]


def _draw_stage(axes: Axes, stage: str, boxes: Sequence[_Box]) -> None:
    left, right = min(box.left for box in boxes) - LABEL, max(box.right for box in boxes) + PADDING
    top, bottom = min(box.top for box in boxes) - PADDING, max(box.bottom for box in boxes) + PADDING
    shape = FancyBboxPatch(
        (left, top), right - left, bottom - top, "round,pad=0,rounding_size=0.06", fc=PAPER, ec="#c8cfd3", lw=0.6
    )
    axes.add_patch(shape)
    label = f"{stage}, training only" if boxes[0].row.part == AUXILIARY else stage
    axes.text(left + LABEL / 2, (top + bottom) / 2, label, fontsize=7, color=INK, rotation=90, ha="center", va="center")


def _draw_arrow(axes: Axes, points: Sequence[tuple[float, float]]) -> None:
    axes.add_patch(
        FancyArrowPatch(path=Line(points), arrowstyle="-|>", mutation_scale=6, lw=0.8, color=INK, joinstyle="round")
    )


def _draw_box(axes: Axes, box: _Box, name: str) -> None:
    shape = FancyBboxPatch(
        (box.left, box.top),
        box.width,
        BOX_HEIGHT,
        "round,pad=0,rounding_size=0.05",
        facecolor=COLOURS.get(box.row.kind, COLOURS["other"]),
        edgecolor=INK,
        linewidth=0.6,
        zorder=3,
    )
    axes.add_patch(shape)
    style: dict[str, Any] = {"ha": "center", "va": "center", "color": INK, "zorder": 4}
    axes.text(box.x, box.y - 0.07, name, fontsize=7, fontweight="bold", **style)
    axes.text(box.x, box.y + 0.085, box.row.shape_text, fontsize=6.5, **style)
