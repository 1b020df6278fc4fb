"""The leaderboard: one row a trial, as a table for the terminal, CSV and Markdown."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from cnnstudy.errors import InputError, did_you_mean
from cnnstudy.space import FACTORS

#: Columns that hold text; all others are numbers.
_TEXT = (
    "trial",
    "architecture",
    "transfer",
    "weights",
    "augmentation",
    "optimizer",
    "state",
    "reason",
    "run_id",
    "model",
)
#: Whether the best comes first when a column is sorted in ascending order.
_ASCENDING = ("loss", "gap", "seconds", "epoch", "trial", "architecture", "transfer", "weights", "state")
TERMINAL_COLUMNS = (
    "trial",
    "transfer",
    "batch_size",
    "dropout",
    "train_accuracy",
    "val_accuracy",
    "gap_accuracy",
    "best_epoch",
    "seconds",
)


class Trial(Protocol):
    """What a row is made from: a run as MLflow has it."""

    @property
    def run_id(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def reason(self) -> str: ...
    @property
    def parameters(self) -> Any: ...
    @property
    def metrics(self) -> Any: ...
    @property
    def tags(self) -> Any: ...


def leaderboard(trials: Sequence[Trial], sort: str | None, loss_decides: bool) -> pd.DataFrame:
    """One row for each trial, the finished ones first and best first.

    Args:
        sort: a column; None sorts by the study's objective.
        loss_decides: whether that objective is validation loss rather than accuracy.

    Raises:
        InputError: no such column.
    """
    frame = pd.DataFrame([_row(trial) for trial in trials])
    if frame.empty:
        return frame
    # a factor that no trial of this study has would be an empty column
    frame = frame.dropna(axis="columns", how="all")
    key = sort or ("val_loss" if loss_decides else "val_accuracy")
    if sort and sort not in frame:
        raise InputError(
            f"there is no column {sort!r} to sort by{did_you_mean(sort, frame.columns) or '.'} "
            f"There are {', '.join(frame.columns)}."
        )
    order = frame.assign(_rest=frame["state"].map({"finished": 0, "pruned": 1}).fillna(2))
    keys = ["_rest", *([key] if key in frame else []), *(["val_loss"] if "val_loss" in frame else []), "trial"]
    ascending = [True, *([any(word in key for word in _ASCENDING)] if key in frame else []), *[True] * (len(keys) - 2)]
    return order.sort_values(list(dict.fromkeys(keys)), ascending=ascending[: len(dict.fromkeys(keys))]).drop(
        columns="_rest", errors="ignore"
    )


def _row(trial: Trial) -> dict[str, Any]:
    levels = json.loads(trial.tags["cnnstudy.levels"])
    metrics = trial.metrics
    row = {
        "trial": trial.tags["cnnstudy.trial"],
        "architecture": trial.parameters["architecture"],
        **{name: levels.get(name) for name in FACTORS},
        "weights": trial.parameters["weights"],
        "seed": int(trial.parameters["seed"]),
        "image_size": int(trial.parameters["image_size"]),
        "epochs": int(trial.parameters["epochs"]),
        "optimizer": trial.parameters["optimizer"],
    }
    for name in ("train_accuracy", "val_accuracy", "gap_accuracy", "train_loss", "val_loss", "gap_loss"):
        row[name] = metrics.get(f"best/{name}")
    row |= {
        "full_train_accuracy": metrics.get("best/full_train_accuracy"),
        "full_train_loss": metrics.get("best/full_train_loss"),
        "best_epoch": metrics.get("best/epoch"),
        "updates": metrics.get("optimizer/updates"),
        "trainable_parameters": metrics.get("parameters/trainable"),
        "frozen_parameters": metrics.get("parameters/frozen"),
        "seconds": metrics.get("time/total_seconds"),
        "state": trial.state,
        "reason": " ".join(filter(None, [trial.reason, trial.tags.get("cnnstudy.message", "")])),
        "run_id": trial.run_id,
        "model": trial.tags.get("cnnstudy.model", ""),
    }
    return row


def write_csv(frame: pd.DataFrame, path: Path) -> None:
    """Numbers as their shortest text that reads back exactly; text never as a spreadsheet's formula."""
    safe = frame.copy()
    for column in set(_TEXT) & set(frame.columns):
        safe[column] = safe[column].map(without_formula)
    try:
        safe.to_csv(path, index=False, encoding="utf-8")
    except OSError as error:
        raise InputError(f"can't write {path}: {error.strerror or error}") from error


def without_formula(text: Any) -> Any:
    """The text with an apostrophe before it where a spreadsheet would take it for a formula."""
    return f"'{text}" if isinstance(text, str) and text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def write_markdown(frame: pd.DataFrame, path: Path) -> None:
    """The columns of the terminal table, as a Markdown table."""
    try:
        path.write_text(markdown(frame) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"can't write {path}: {error.strerror or error}") from error


def markdown(frame: pd.DataFrame) -> str:
    rows = cells(frame)
    escaped = [[cell.replace("|", r"\|").replace("\n", " ") for cell in row] for row in rows]
    import tabulate

    numeric = {"batch_size", "dropout", "train_accuracy", "val_accuracy", "gap_accuracy", "best_epoch", "seconds"}
    columns = columns_of(frame)
    return str(
        tabulate.tabulate(
            escaped,
            headers=[heading(column) for column in columns],
            tablefmt="pipe",
            colalign=["right" if column in numeric else "left" for column in columns],
            disable_numparse=True,
        )
    )


def columns_of(frame: pd.DataFrame) -> list[str]:
    """The columns for terminal and Markdown that this frame has; the state where not all are finished."""
    columns = [column for column in TERMINAL_COLUMNS if column in frame]
    return columns


def heading(column: str) -> str:
    return {"val_accuracy": "validation", "train_accuracy": "train", "gap_accuracy": "gap"}.get(
        column, column.replace("_", " ")
    )


def cells(frame: pd.DataFrame) -> list[list[str]]:
    """The terminal's columns as text: accuracies in percent, gaps in signed points."""
    return [[_cell(row, column) for column in columns_of(frame)] for row in frame.to_dict("records")]


def _cell(row: dict[str, Any], column: str) -> str:
    value = row[column]
    if value is None or value != value:
        return ""
    if column == "gap_accuracy":
        return f"{100 * value:+.1f}"
    if column in ("train_accuracy", "val_accuracy"):
        return f"{100 * value:.1f} %"
    if column == "transfer" and row.get("weights") == "random" and value != "scratch":
        return f"{value} (random weights)"
    if column == "seconds":
        return f"{value:.1f}"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
