"""The leaderboard, with one row per trial, as a frame, CSV, Markdown and table cells; and its Pareto front."""

from __future__ import annotations

import contextlib
import csv
import difflib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cnnstudy.analysis.configurations import Configuration
from cnnstudy.analysis.confirmation_text import CROSS_FITTED, FLATTERED
from cnnstudy.config.factors import ALWAYS_SHOWN, FACTORS
from cnnstudy.config.schema import DEFAULT_GOALS
from cnnstudy.errors import InputError, did_you_mean, printable
from cnnstudy.names import (
    CROSSED_METRICS,
    Metric,
    Parameter,
    best_name,
    column_name,
    equal_fit_name,
    equal_updates_name,
    last_name,
)
from cnnstudy.system.display import count_noun
from cnnstudy.system.files import escape_formula, write_whole
from cnnstudy.system.output import print_text
from cnnstudy.tracking.recorded import RecordedRun, are_cross_fitted, score_metrics

#: Columns that tables show after the factors, with their headings; the CSV has every column.
_SHOWN = {
    "train_images_used": "images",  # only if it varies
    "train_accuracy": "train",
    "val_accuracy": "val",
    "gap_accuracy": "gap",
    # where the study ranks by another metric than accuracy
    column_name(Metric.VAL_BALANCED_ACCURACY): "balanced",
    column_name(Metric.VAL_MACRO_F1): "macro-F1",
    column_name(Metric.VAL_LOSS): "val loss",
    "verdict": "verdict",
    "best_epoch": "epoch",
}
_RANKED_BY = tuple(map(column_name, (Metric.VAL_BALANCED_ACCURACY, Metric.VAL_MACRO_F1, Metric.VAL_LOSS)))
#: Metrics at the best epoch, besides the accuracies and their gap.
_AT_THE_BEST = (
    *(Metric.FULL_TRAIN_ACCURACY, Metric.TRAIN_LOSS),
    *(Metric.VAL_LOSS, Metric.GAP_LOSS, Metric.FULL_TRAIN_LOSS),
    *(Metric.TRAIN_MACRO_F1, Metric.VAL_MACRO_F1, Metric.FULL_TRAIN_BALANCED_ACCURACY),
)
#: More columns of the CSV: metrics of the last weights, at equal updates, at equal fit, and of the usual protocol.
_AT_THE_END = {
    "last_train_accuracy": last_name(Metric.TRAIN_ACCURACY),
    "last_val_accuracy": last_name(Metric.VAL_ACCURACY),
    "last_gap_accuracy": last_name(Metric.GAP_ACCURACY),
    "last_gap_loss": last_name(Metric.GAP_LOSS),
    "last_full_train_accuracy": last_name(Metric.FULL_TRAIN_ACCURACY),
    "last_full_train_balanced_accuracy": last_name(Metric.FULL_TRAIN_BALANCED_ACCURACY),
    "last_train_balanced_accuracy": last_name(Metric.TRAIN_BALANCED_ACCURACY),
    "last_val_balanced_accuracy": last_name(Metric.VAL_BALANCED_ACCURACY),
    "last_gap_balanced_accuracy": last_name(Metric.GAP_BALANCED_ACCURACY),
    "last_train_macro_f1": last_name(Metric.TRAIN_MACRO_F1),
    "last_val_macro_f1": last_name(Metric.VAL_MACRO_F1),
    "equal_updates_gap_accuracy": equal_updates_name(Metric.GAP_ACCURACY),
    "equal_updates_val_accuracy": equal_updates_name(Metric.VAL_ACCURACY),
    "equal_fit_gap_accuracy": equal_fit_name(Metric.GAP_ACCURACY),
    "hidden_gap_accuracy": Metric.HIDDEN_GAP_ACCURACY,
    "legacy_gap_accuracy": Metric.LEGACY_GAP_ACCURACY,
    "onset_epoch": Metric.ONSET_EPOCH,
    "val_loss_rise": Metric.VAL_LOSS_RISE,
}
#: Words in the names of columns in which less is better; in all other columns of numbers, more is better.
_LESS_IS_BETTER = ("loss", "gap", "seconds", "epoch")
_WHOLE_NUMBERS = (
    *("image_size", "epochs", "best_epoch", "updates", "trainable_parameters", "frozen_parameters"),
    *("train_images", "train_images_used"),
)
#: The name of a file that stands for the terminal, or what its output is sent to.
STANDARD_OUTPUT = Path("-")
#: What is shown of trials that are not ranked by accuracy.
_NOT_ACCURACY = {
    Metric.VAL_BALANCED_ACCURACY: "Train, val and gap count every image alike; balanced is the mean recall of the "
    "classes on validation.",
    Metric.VAL_MACRO_F1: "Macro-F1 is that of the best epoch too, not cross-fitted: that takes the predicted classes, "
    "of which each epoch records only whether they are right.",
    Metric.VAL_LOSS: "Val loss is that of the best epoch too, not cross-fitted.",
}
_OF_VERDICTS = (
    "Train is measured on at most as many training images as validate; verdicts take all training images, and balanced "
    "accuracies where classes are unequal."
)
#: The table of trials that did not finish.
UNFINISHED_HEADINGS = ("trial", "state", "reason")


def build_leaderboard(
    trials: Sequence[RecordedRun], objective: str, sort: str | None = None, goals: Sequence[str] = DEFAULT_GOALS
) -> pd.DataFrame:
    """Return a row for each trial: finished ones, best first, then pruned ones, then all others.

    Args:
        trials: the run of each trial that counts.
        objective: the study's metric, such as `val/accuracy`, which is sorted by unless `sort` is given.
        sort: the column to sort by.
        goals: of the Pareto front.

    Raises:
        InputError: there is no such column.
    """
    cross_fitted = are_cross_fitted(trial for trial in trials if trial.state == "finished")
    frame = pd.DataFrame([_row(trial, cross_fitted) for trial in trials])
    if frame.empty:
        return frame
    frame = frame.assign(objective=objective, pareto_front=pareto_front(frame, goals))
    unused = [factor for factor in FACTORS if frame[factor].isna().all()]
    frame = frame.drop(columns=unused)
    column = _find_column(frame, sort) if sort else column_name(objective)
    frame["_place"] = frame["state"].map({"finished": 0, "pruned": 1}).fillna(2)
    ascending = frame[column].dtype == object or any(word in column for word in _LESS_IS_BETTER)
    ascending = ascending or not pd.api.types.is_numeric_dtype(frame[column])
    order = frame.sort_values("trial")
    for key, upwards in (("val_loss", True), (column, ascending), ("_place", True)):
        order = order.sort_values(key, ascending=upwards, kind="stable")
    return order.drop(columns="_place").reset_index(drop=True)


def _find_column(frame: pd.DataFrame, given: str) -> str:
    """Return the column of that name, or with that heading in tables.

    Raises:
        InputError: there is none.
    """
    headings = {heading: column for column, heading in _SHOWN.items() if column in frame}
    headings |= {FACTORS[name].short_label: name for name in FACTORS if name in frame}
    if (column := headings.get(given, given)) in frame:
        return column
    near = difflib.get_close_matches(given, [*headings, *frame.columns], n=5, cutoff=0.4)
    meant = f" Did you mean {', '.join(near)}?" if near else ""
    raise InputError(f"there is no column {given!r} to sort by.{meant} `--csv FILE` writes all columns.")


def _row(trial: RecordedRun, cross_fitted: bool) -> dict[str, Any]:
    """Return a trial's row; train, validation and gap accuracy are cross-fitted or all those at the best epoch."""
    levels = trial.levels
    metrics, parameters, scores = trial.metrics, trial.parameters, score_metrics(trial, cross_fitted)
    row: dict[str, Any] = {
        "trial": trial.trial,
        "architecture": trial.architecture,
        **{factor: levels.get(factor) for factor in FACTORS},
        "weights": trial.weights,
        "seed": trial.seed,
        # these are missing if the driver died before it recorded parameters
        "image_size": trial.image_size,
        "epochs": trial.epochs,
        "optimizer": parameters.get(Parameter.OPTIMIZER, ""),
        **{column_name(name): scores.get(name) for name in CROSSED_METRICS},
        **{column_name(name): metrics.get(best_name(name)) for name in _AT_THE_BEST},
        **{f"best_{column_name(name)}": metrics.get(best_name(name)) for name in CROSSED_METRICS},
        "cross_fitted": cross_fitted,
        "verdict": trial.verdict,
        "verdict_reason": trial.verdict_reason,
        "best_epoch": trial.best_epoch,
        **{column: metrics.get(name) for column, name in _AT_THE_END.items()},
        "updates": trial.updates,
        "trainable_parameters": trial.trainable_parameters,
        "frozen_parameters": trial.frozen_parameters,
        "seconds": trial.seconds,
        "state": trial.state,
        "reason": ": ".join(filter(None, [trial.reason, trial.message])),
        "run_id": trial.run_id,
        "model": trial.model,
    }
    return row | {name: _number_or_text(text) for name, text in parameters.items() if name not in row}


def _number_or_text(text: str) -> float | int | str | None:
    """Return a parameter's value, which MLflow stores as text."""
    if text == "None":
        return None
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


#: The dtypes of columns whose values do not tell: of text, yes or no, whole numbers, and levels of several factors.
_DTYPES = {
    **dict.fromkeys(("trial", "architecture", "weights", "optimizer", "objective", "verdict"), "string"),
    **dict.fromkeys(("verdict_reason", "state", "reason", "run_id", "model", "data", "precision", "xla"), "string"),
    **dict.fromkeys(("factor", "second", "basis", "outcome", "method", "doubt", "answer"), "string"),
    **dict.fromkeys(("cross_fitted", "pareto_front", "deterministic", "ceiling"), "boolean"),
    **dict.fromkeys(("seed", "onset_epoch", "early_stopping", "block", "classes", *_WHOLE_NUMBERS), "Int64"),
    **dict.fromkeys(("validation_images", "split_seed", "head_epochs", "seeds", "pairs", "trials"), "Int64"),
    **dict.fromkeys(("baseline", "level", "second_baseline", "second_level"), "object"),
}
_KINDS = {int: "Int64", float: "float64", str: "string"}


def set_dtypes(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a frame whose text is string, whole numbers Int64, other numbers float64, and yes or no boolean.

    Levels of several factors in one column are object. What is missing is <NA>, of float64 NaN.
    """
    return pd.DataFrame({name: _set_dtype(str(name), frame[name]) for name in frame.columns}, index=frame.index)


def _set_dtype(name: str, column: pd.Series) -> pd.Series:
    dtype = _KINDS[FACTORS[name].kind] if name in FACTORS else _DTYPES.get(name, "float64")
    if dtype == "boolean":  # parameters are recorded as text
        column = column.map({"True": True, "False": False, True: True, False: False})
    if dtype in ("Int64", "float64"):
        column = pd.to_numeric(column.astype(object).where(column.notna(), None), errors="coerce")
    return column.astype(dtype)  # type: ignore[call-overload]


def write_csv(frame: pd.DataFrame, path: Path) -> None:
    """Write a frame as CSV, with the shortest text of each number that reads back exactly.

    Text that a spreadsheet would read as a formula is escaped.

    Args:
        path: of the file; `-` (STANDARD_OUTPUT) prints it.

    Raises:
        InputError: the file can't be written.
    """
    safe = frame.copy()
    texts = [str(column) for column, kind in frame.dtypes.items() if not pd.api.types.is_numeric_dtype(kind)]
    safe[texts] = frame[texts].map(escape_formula)
    for column in frame.select_dtypes(float).columns:
        if column in _WHOLE_NUMBERS:
            safe[column] = frame[column].astype("Int64")  # missing values turned them into floats
    # as it is, pandas does not quote a lone carriage return, which would end the row
    returns = safe[texts].map(lambda cell: isinstance(cell, str) and "\r" in cell).to_numpy().any()
    text = safe.to_csv(index=False, quoting=csv.QUOTE_NONNUMERIC if returns else csv.QUOTE_MINIMAL)
    if path == STANDARD_OUTPUT:
        print_text(text.removesuffix("\n"))
        return
    try:
        write_whole(path, text)
    except OSError as error:
        raise InputError(f"can't write {path}: {error.strerror or error}") from error


def write_markdown(frame: pd.DataFrame, path: Path) -> None:
    """Write the finished trials as a Markdown table, and the others with their reasons as a second one.

    Raises:
        InputError: the file can't be written.
    """
    finished, others = split_by_state(frame)
    tables = [_markdown(*leaderboard_table(finished)), describe_scores(finished)] if len(finished) else []
    tables += ["Not finished:", _markdown(list(UNFINISHED_HEADINGS), unfinished_rows(others))] if len(others) else []
    try:
        write_whole(path, "\n\n".join(tables or ["No trials yet."]) + "\n")
    except OSError as error:
        raise InputError(f"can't write {path}: {error.strerror or error}") from error


def _markdown(headings: list[str], rows: list[list[str]]) -> str:
    import tabulate

    escaped = [[printable(cell.replace("|", r"\|").replace("\n", " ")) for cell in row] for row in rows]
    aligned = ["left" if heading in ("transfer", "verdict", *UNFINISHED_HEADINGS) else "right" for heading in headings]
    return str(tabulate.tabulate(escaped, headings, "pipe", colalign=aligned, disable_numparse=True))


def split_by_state(frame: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the finished trials, and the others."""
    if frame.empty:
        return frame, frame
    finished = frame["state"] == "finished"
    return frame[finished], frame[~finished]


def unfinished_rows(others: pd.DataFrame) -> list[list[str]]:
    """Return cells under UNFINISHED_HEADINGS."""
    return [[str(trial[heading]) for heading in UNFINISHED_HEADINGS] for trial in others.to_dict("records")]


def leaderboard_table(frame: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Return headings and cells: the factors that vary, accuracies in percent, gaps in points with their sign."""
    factors = [name for name in FACTORS if name in frame and (name in ALWAYS_SHOWN or _varies(frame, name))]
    others = set(_RANKED_BY) - set(map(column_name, frame.get("objective", ())))
    shown = [name for name in _SHOWN if name in frame and (name != "verdict" or frame[name].any())]
    if Parameter.USED_TRAIN_IMAGES in shown and frame[Parameter.USED_TRAIN_IMAGES].nunique() < 2:
        shown.remove(Parameter.USED_TRAIN_IMAGES)
    columns = [name for name in ("trial", *factors, *shown) if name in frame and name not in others]
    headings = [FACTORS[name].short_label if name in FACTORS else _SHOWN.get(name, name) for name in columns]
    return headings, [[_cell(row, column) for column in columns] for row in frame.to_dict("records")]


def describe_scores(frame: pd.DataFrame) -> str:
    """Return what the numbers in the table of a leaderboard's finished trials are."""
    parts = [CROSS_FITTED if len(frame) and frame["cross_fitted"].all() else FLATTERED]
    for metric, words in _NOT_ACCURACY.items():
        if (frame["objective"] == metric).any():
            parts.append(words)
    return " ".join([*parts, _OF_VERDICTS])


def describe_configurations(found: Sequence[Configuration]) -> str:
    """Return what the table of configurations over their seeds shows."""
    balanced = [one.verdict.balanced for one in found]
    kind = "balanced accuracies" if all(balanced) else f"accuracies{', some balanced' * any(balanced)}"
    return (
        f"Configurations over their seeds, best first: mean {kind}, on validation (as above) and all training images, "
        "with 95 % intervals"
    )


def _varies(frame: pd.DataFrame, factor: str) -> bool:
    # within a network, because networks have different defaults
    return bool((frame.groupby("architecture")[factor].nunique() > 1).any())


def _cell(row: dict[Any, Any], column: str) -> str:
    value = row[column]
    if pd.isna(value):
        return ""
    if column == "gap_accuracy":
        return f"{100 * value:+.1f}"
    if column == column_name(Metric.VAL_LOSS):
        return f"{value:.3f}"
    if column.endswith(("accuracy", "macro_f1")):
        return f"{100 * value:.1f} %"
    if column == "transfer":
        return transfer_label(value, row["weights"])
    if column in FACTORS:
        return FACTORS[column].write(value)
    return str(int(value)) if column in _WHOLE_NUMBERS else str(value)


def transfer_label(transfer: str, weights: str) -> str:
    """Return the transfer mode, marked if its source weights are random, which are for timing only."""
    return f"{transfer} (random weights)" if weights == "random" else transfer


def best_by_transfer(frame: pd.DataFrame) -> list[str]:
    """Return a line for each network with several transfer modes: the best validation accuracy of each mode.

    It is that of the trials that learnt, if any did. The number of finished trials follows in brackets.
    """
    finished = frame[frame["state"] == "finished"]
    lines = []
    for architecture, trials in finished.groupby("architecture", sort=False):
        modes = trials.groupby(["transfer", "weights"], sort=False)
        if len(modes) < 2:
            continue
        best = []
        for (mode, source), group in modes:
            learnt = group[group["verdict"] != "not-learning"]
            value, count = (learnt if len(learnt) else group)["val_accuracy"].max(), str(len(group))
            name = transfer_label(str(mode), str(source))
            best.append((value, name, count if len(learnt) else f"{count}, none learnt"))
        shown = ", ".join(f"{name} {100 * value:.1f} % ({note})" for value, name, note in sorted(best, reverse=True))
        lines.append(f"{architecture}: {shown}")
    return lines


# ---- the Pareto front

#: The default goals.
GOALS: tuple[str, ...] = DEFAULT_GOALS
#: The cost of each trial of a leaderboard in each goal; less is better.
_COSTS: dict[str, Callable[[pd.DataFrame], pd.Series]] = {
    "accuracy": lambda frame: -_numbers(frame, "val_accuracy"),
    "loss": lambda frame: _numbers(frame, "val_loss"),
    # a validation accuracy above that on train is luck of the split, not merit
    "gap": lambda frame: _numbers(frame, "gap_accuracy").clip(lower=0.0),
    "seconds": lambda frame: _numbers(frame, "seconds"),
    "parameters": lambda frame: _numbers(frame, "trainable_parameters") + _numbers(frame, "frozen_parameters"),
}


def pareto_front(frame: pd.DataFrame, goals: Sequence[str] = GOALS) -> pd.Series:
    """Return for each trial whether it is on the Pareto front, with the frame's index.

    A trial is on the front if no other trial is at least as good in every goal and better in one; trials that are equal
    in all goals are all on it. Only finished trials with a value in every goal count, and only those that learnt: at
    chance level a gap of 0 is no success.

    Args:
        frame: a leaderboard.
        goals: from "accuracy" and "loss" (validation), "gap" (below 0 counts as 0), "seconds", "parameters" (trainable
            and frozen).

    Raises:
        InputError: there is no goal, or an unknown one.
    """
    if not goals:
        raise InputError(f"give at least one goal; the goals are {', '.join(_COSTS)}.")
    for goal in goals:
        if goal not in _COSTS:
            raise InputError(
                f"there is no goal {goal!r}{did_you_mean(goal, _COSTS) or '.'} The goals are {', '.join(_COSTS)}."
            )
    if frame.empty:
        return pd.Series(False, index=frame.index, dtype=bool)
    costs = np.column_stack([_COSTS[goal](frame) for goal in goals]) + 0.0  # -0 is 0
    counts = _counts_for_front(frame) & np.isfinite(costs).all(axis=1)
    # sorted, so that only those before may be better, and if any is, then one of the front
    different, places = np.unique(costs[counts], axis=0, return_inverse=True)
    best, found = np.empty_like(different), 0
    is_best = np.zeros(len(different), dtype=bool)
    for place, own in enumerate(different):
        if not (best[:found] <= own).all(axis=1).any():
            best[found], is_best[place] = own, True
            found += 1
    front = counts.copy()
    front[counts] = is_best[places.ravel()]
    return pd.Series(front, index=frame.index)


def describe_front(frame: pd.DataFrame) -> str:
    """Return how many finished trials of a leaderboard are on its Pareto front, and how many do not count for it."""
    finished, front = int((frame["state"] == "finished").sum()), int(frame["pareto_front"].sum())
    unlearnt = finished - int(_counts_for_front(frame).sum())
    are = ["is" if count == 1 else "are" for count in (front, unlearnt)]
    rest = f"; {unlearnt} that did not learn {are[1]} left out: at chance level a gap of 0 is no success"
    what = count_noun(finished, "finished trial")
    return f"{front} of {what} {are[0]} on the Pareto front{rest if unlearnt else ''}."


def _counts_for_front(frame: pd.DataFrame) -> np.ndarray:
    return ((frame["state"] == "finished") & (frame["verdict"] != "not-learning")).to_numpy()


def _numbers(frame: pd.DataFrame, column: str) -> pd.Series:
    """Return a column as floats, NaN where a trial has none; if all failed, its type is not numeric."""
    return pd.to_numeric(frame[column]).astype(float)
