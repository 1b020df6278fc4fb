"""Plots of a trial: its learning curves with the gap, and its confusion matrix.

The plots of a study's trials differ only in their numbers. Creating axes, ticks and legends takes as long as drawing
them, so the last figure of each kind is reused with new data.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cnnstudy.names import Metric
from cnnstudy.records import EpochRecord

TRAIN_COLOR, VALIDATION_COLOR, GAP_COLOR = "#0b6e99", "#c4521b", "#f1c9a5"
#: With more classes, the counts are not written into the cells of the confusion matrix.
MAX_CLASSES_WITH_COUNTS = 20
#: With more classes, only every second, third, ... is named: names would overlap, and hundreds take half a minute.
MAX_NAMES = 60


def draw_curves(records: Sequence[EpochRecord], best_epoch: int, title: str, path: Path) -> None:
    """Write a PNG with clean train and validation accuracy and loss by epoch, the gap between them shaded.

    Args:
        records: the trial's epochs.
        best_epoch: the epoch to mark; 0 for none.
        title: above the plot.
        path: the file.

    Raises:
        OSError: the file can't be written.
    """
    _curves(bool(best_epoch)).draw(records, best_epoch, title, path)


def draw_confusion(matrix: Sequence[Sequence[int]], classes: Sequence[str], title: str, path: Path) -> None:
    """Write a PNG with the confusion matrix on validation, coloured by the share of the true class.

    Args:
        matrix: counts, rows true class, columns predicted class.
        classes: their names.
        title: above the plot.
        path: the file.

    Raises:
        OSError: the file can't be written.
    """
    _confusion(tuple(classes)).draw(matrix, title, path)


class _Panel:
    """One metric on train and validation by epoch."""

    def __init__(self, axes: Axes, names: tuple[str, str], label: str, has_best: bool) -> None:
        self._axes = axes
        self._names = names
        self._gap = axes.fill_between([1], [0.0], [0.0], color=GAP_COLOR, alpha=0.6, linewidth=0, label="gap")
        (self._train,) = axes.plot([], [], color=TRAIN_COLOR, marker="o", markersize=3, label="train (clean)")
        (self._validation,) = axes.plot([], [], color=VALIDATION_COLOR, marker="o", markersize=3, label="validation")
        self._best = axes.axvline(1, color="grey", linestyle=":", linewidth=1, label="best epoch") if has_best else None
        axes.set(xlabel="epoch", ylabel=label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)

    def set(self, records: Sequence[EpochRecord], best_epoch: int) -> None:
        epochs = [record.epoch for record in records]
        train, validation = ([record.metrics[name] for record in records] for name in self._names)
        self._gap.set_data(epochs, train, validation)
        self._train.set_data(epochs, train)
        self._validation.set_data(epochs, validation)
        if self._best is not None:
            self._best.set_xdata([best_epoch, best_epoch])
        self._axes.relim()
        self._axes.autoscale_view()


class _Curves:
    """A figure with panels for accuracy and loss, with or without a mark at the best epoch."""

    def __init__(self, has_best: bool) -> None:
        self._figure = Figure(figsize=(9, 3.8))
        self._title = self._figure.suptitle("", fontsize=11)
        # a layout engine would draw everything twice, and only the title's text differs
        self._figure.subplots_adjust(left=0.075, right=0.985, bottom=0.13, top=0.9, wspace=0.2)
        labels = {
            "accuracy": (Metric.TRAIN_ACCURACY, Metric.VAL_ACCURACY),
            "loss (nats)": (Metric.TRAIN_LOSS, Metric.VAL_LOSS),
        }
        axes = self._figure.subplots(1, len(labels))
        self._panels = [
            _Panel(one, names, label, has_best) for one, (label, names) in zip(axes, labels.items(), strict=True)
        ]

    def draw(self, records: Sequence[EpochRecord], best_epoch: int, title: str, path: Path) -> None:
        self._title.set_text(title)
        for panel in self._panels:
            panel.set(records, best_epoch)
        _save(self._figure, path)


class _Confusion:
    """A figure with the confusion matrix of these classes."""

    def __init__(self, classes: Sequence[str]) -> None:
        size = min(14.0, 2.5 + 0.5 * len(classes))
        self._figure = Figure(figsize=(size + 0.8, size), layout="constrained")
        self._axes = self._figure.subplots()
        self._image = self._axes.imshow([[0.0] * len(classes)] * len(classes), cmap="Blues", vmin=0, vmax=1)
        self._axes.set(xlabel="predicted", ylabel="true", title=" ")
        self._axes.title.set_fontsize(10)
        ticks = range(len(classes))
        named = ticks[:: math.ceil(len(classes) / MAX_NAMES)]
        names = [_tick_label(classes[place]) for place in named]
        self._axes.set_xticks(named, names, rotation=45, ha="right", fontsize=8)
        self._axes.set_yticks(named, names, fontsize=8)
        cells = [(row, column) for row in ticks for column in ticks] if len(classes) <= MAX_CLASSES_WITH_COUNTS else []
        self._counts = {
            (row, column): self._axes.text(column, row, "", ha="center", va="center", fontsize=8)
            for row, column in cells
        }

    def draw(self, matrix: Sequence[Sequence[int]], title: str, path: Path) -> None:
        shares = [[count / max(1, sum(row)) for count in row] for row in matrix]
        self._image.set_data(shares)
        self._axes.set_title(title, fontsize=10)
        for (row, column), text in self._counts.items():
            text.set_text(str(matrix[row][column]))
            text.set_color("white" if shares[row][column] > 0.5 else "k")
        _save(self._figure, path)
        # the layout now fits the class names, which are the same in every trial
        self._figure.set_layout_engine("none")


_curves = functools.lru_cache(maxsize=2)(_Curves)
_confusion = functools.lru_cache(maxsize=1)(_Confusion)


def _tick_label(name: str) -> str:
    """Return a class name, shortened to leave room for the matrix, with `$` escaped (matplotlib's mathematics)."""
    return (name if len(name) <= 30 else f"{name[:29]}…").replace("$", r"\$")


def _save(figure: Figure, path: Path) -> None:
    with warnings.catch_warnings():
        # letters that matplotlib's font lacks are drawn as boxes
        warnings.filterwarnings("ignore", r"Glyph \d+", UserWarning)
        figure.savefig(path, dpi=110)
