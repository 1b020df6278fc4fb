"""Pictures of a trial: its learning curves with the gap, and its confusion matrix."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cnnstudy.records import EpochRecord

TRAIN, VALIDATION, GAP = "#0b6e99", "#c4521b", "#f1c9a5"


def draw_curves(records: Sequence[EpochRecord], best_epoch: int, title: str, path: Path) -> None:
    """Clean train and validation accuracy and loss by epoch as PNG, the gap between them shaded."""
    figure = Figure(figsize=(9, 3.8))
    figure.suptitle(title, fontsize=11)
    # a layout engine would draw everything twice, and of texts all that differs is the title
    figure.subplots_adjust(left=0.075, right=0.985, bottom=0.13, top=0.9, wspace=0.2)
    epochs = [record.epoch for record in records]
    for axes, name in zip(figure.subplots(1, 2), ("accuracy", "loss"), strict=True):
        train = [record.metrics[f"train/{name}"] for record in records]
        validation = [record.metrics[f"val/{name}"] for record in records]
        axes.fill_between(epochs, train, validation, color=GAP, alpha=0.6, linewidth=0, label="gap")
        axes.plot(epochs, train, color=TRAIN, marker="o", markersize=3, label="train (clean)")
        axes.plot(epochs, validation, color=VALIDATION, marker="o", markersize=3, label="validation")
        if best_epoch:
            axes.axvline(best_epoch, color="grey", linestyle=":", linewidth=1, label="best epoch")
        axes.set(xlabel="epoch", ylabel=name if name == "accuracy" else "loss (nats)")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    _save(figure, path)


def draw_confusion(matrix: Sequence[Sequence[int]], classes: Sequence[str], title: str, path: Path) -> None:
    """The confusion matrix of validation as PNG, coloured by the share of the true class."""
    size = min(14.0, 2.5 + 0.5 * len(classes))
    figure = Figure(figsize=(size + 0.8, size), layout="constrained")
    axes = figure.subplots()
    shares = [[count / max(1, sum(row)) for count in row] for row in matrix]
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="predicted", ylabel="true", title=title)
    axes.title.set_fontsize(10)
    ticks = range(len(classes))
    names = [_shown(name) for name in classes]
    axes.set_xticks(ticks, names, rotation=45, ha="right", fontsize=8)
    axes.set_yticks(ticks, names, fontsize=8)
    if len(classes) <= 20:
        for i, row in enumerate(matrix):
            for j, count in enumerate(row):
                axes.text(
                    j, i, str(count), ha="center", va="center", fontsize=8, color="white" if shares[i][j] > 0.5 else "k"
                )
    _save(figure, path)


def _shown(name: str) -> str:
    """A class's name at a length that leaves room for the matrix; `$` is a dollar there and no mathematics."""
    return (name if len(name) <= 30 else f"{name[:29]}…").replace("$", r"\$")


def _save(figure: Figure, path: Path) -> None:
    with warnings.catch_warnings():
        # a box stands for a letter that matplotlib's font does not have
        warnings.filterwarnings("ignore", r"Glyph \d+", UserWarning)
        figure.savefig(path, dpi=110)
