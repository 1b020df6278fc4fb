"""All that a study's page tells, as plain data."""

from __future__ import annotations

import csv
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from cnnstudy.analysis.causes import Causes, causes
from cnnstudy.analysis.classes import metric_names
from cnnstudy.analysis.confirmed import RECORD
from cnnstudy.analysis.data_law import TARGET
from cnnstudy.analysis.leaderboard import leaderboard
from cnnstudy.analysis.observations import History
from cnnstudy.analysis.pareto import GOALS, non_dominated
from cnnstudy.analysis.spreadsheet import without_formula
from cnnstudy.analysis.trials import latest_trials
from cnnstudy.names import Metric, class_name
from cnnstudy.pages.confirmed import Confirmed, read_confirmed
from cnnstudy.pages.gallery import LEFT_OUT, Gallery, read_gallery
from cnnstudy.pages.grouping import Curve
from cnnstudy.records import RecordedRun, RecordedStudy
from cnnstudy.tracking import Tracker


@dataclass(frozen=True)
class ClassAccuracy:
    """A class's recall (shares of 0..1): on validation, and on the training images of the probe where it is known."""

    name: str
    validation: float
    train: float | None

    @property
    def gap(self) -> float | None:
        return None if self.train is None else self.train - self.validation


#: Reads a text among a run's artifacts; None where there is none.
ReadText = Callable[[str, str], str | None]


@dataclass(frozen=True)
class Classes:
    """One trial class by class, and all trials that learnt together."""

    trial: str
    of_trial: tuple[ClassAccuracy, ...]
    mean: tuple[ClassAccuracy, ...]  # over the trials that learnt
    trials: int  # so many
    matrix: tuple[tuple[int, ...], ...]  # validation images: rows true class, columns predicted; () if not recorded


@dataclass(frozen=True)
class Story:
    """A study with its trials and what they tell."""

    study: RecordedStudy
    runs: Sequence[RecordedRun]  # the run of each trial that counts
    frame: pd.DataFrame  # the leaderboard
    front: pd.Series  # which of its rows are on the Pareto front
    causes: Sequence[Causes]
    curves: Mapping[str, Curve]  # of finished trials
    classes: Classes | None
    confirmed: Confirmed | None
    gallery: Gallery
    files: Mapping[str, str]  # the study's files as they were given, by name
    unreadable: Sequence[str] = ()  # what was recorded but can't be read, in sentences

    @property
    def finished(self) -> pd.DataFrame:
        """Of the leaderboard the trials that finished, best first."""
        return self.frame[self.frame["state"] == "finished"] if len(self.frame) else self.frame

    def run_of(self, trial: str) -> RecordedRun | None:
        return next((run for run in self.runs if run.trial == trial), None)


def collect(
    tracker: Tracker, study: RecordedStudy, target_gap: float = TARGET, gallery: Mapping[str, Any] | str = LEFT_OUT
) -> Story:
    """The story of a recorded study.

    Args:
        target_gap: the gap (0..1) that the data law aims at.
        gallery: images that are wrong, or why there are none (gallery.read_gallery).

    Raises:
        TrackingError: MLflow does not answer.
        DataError: an image of the gallery can't be decoded.
    """
    files = {
        path.rpartition("/")[2]: text
        for path in tracker.files(study.run_id, "study")
        if (text := tracker.read_text(study.run_id, path)) is not None
    }
    runs = latest_trials(tracker.runs(study.experiment_id))
    return tell(study, runs, tracker.metric_history, tracker.read_text, target_gap, gallery, files)


def tell(
    study: RecordedStudy,
    runs: Sequence[RecordedRun],
    history: History,
    read_text: ReadText,
    target_gap: float = TARGET,
    gallery: Mapping[str, Any] | str = LEFT_OUT,
    files: Mapping[str, str] | None = None,
) -> Story:
    """The story of trials, from whatever looks up their histories and texts."""
    history = functools.cache(history)  # a call to MLflow takes milliseconds, and curves ask for the same again
    frame = leaderboard(runs, study.objective)
    confirmed, unreadable = _confirmed(study, read_text)
    found = causes(study, runs, history, target_gap) if runs else []
    finished = [run for run in runs if run.state == "finished"]
    by_trial = {run.trial: run for run in finished}
    wanted = [confirmed.champion] if confirmed is not None else []
    wanted += frame["trial"].tolist() if len(frame) else []
    of_trial = next((by_trial[trial] for trial in wanted if trial in by_trial), None)
    return Story(
        study=study,
        runs=runs,
        frame=frame,
        front=non_dominated(frame, study.goals or GOALS),
        causes=found,
        curves={run.trial: _curve(run, history) for run in finished},
        classes=_classes(of_trial, finished, read_text) if of_trial is not None else None,
        confirmed=confirmed,
        gallery=read_gallery(gallery),
        files=files or {},
        unreadable=unreadable,
    )


def _confirmed(study: RecordedStudy, read_text: ReadText) -> tuple[Confirmed | None, list[str]]:
    text = read_text(study.run_id, RECORD)
    if text is None:
        return None, []
    try:
        return read_confirmed(text), []
    except ValueError as error:
        again = f"`python -m cnnstudy confirm {study.name}` writes it again"
        return None, [f"{RECORD} of this study can't be read, so the confirmation is left out: {error}; {again}."]


def _curve(run: RecordedRun, history: History) -> Curve:
    """Train accuracy is validation accuracy and gap together, which the analysis has asked for already."""
    validation, gap = history(run.run_id, Metric.VAL_ACCURACY), history(run.run_id, Metric.GAP_ACCURACY)
    epochs = tuple(sorted(set(validation) & set(gap)))
    return Curve(
        epochs,
        tuple(validation[epoch] + gap[epoch] for epoch in epochs),
        tuple(validation[epoch] for epoch in epochs),
    )


def _classes(run: RecordedRun, finished: Sequence[RecordedRun], read_text: ReadText) -> Classes | None:
    header, matrix = _matrix(read_text(run.run_id, "confusion_matrix.csv"))
    recalls = class_name(Metric.RECALL, "")
    recorded = [name.removeprefix(recalls) for name in run.metrics if name.startswith(recalls)]
    named = [name.removeprefix(recalls) for name in metric_names(_rows(header)) if name.startswith(recalls)]
    names = dict(zip(named, header, strict=True)) if set(named) == set(recorded) else {name: name for name in recorded}
    if not names:
        return None
    learnt = [one for one in finished if one.verdict != "not-learning"] or [run]
    return Classes(
        run.trial,
        tuple(_accuracy(name, shown, [run]) for name, shown in names.items()),
        tuple(_accuracy(name, shown, learnt) for name, shown in names.items()),
        len(learnt),
        matrix,
    )


def _rows(names: Sequence[str]) -> list[dict[str, float | str]]:
    return [{"class": name, "recall": 0.0, "precision": 0.0} for name in names]


def _accuracy(name: str, shown: str, runs: Sequence[RecordedRun]) -> ClassAccuracy:
    validation, train = (
        [run.metrics[metric] for run in runs if metric in run.metrics]
        for metric in (class_name(Metric.RECALL, name), class_name(Metric.TRAIN_RECALL, name))
    )
    known = len(train) == len(validation) > 0
    return ClassAccuracy(
        shown, float(np.mean(validation)) if validation else math.nan, float(np.mean(train)) if known else None
    )


def _matrix(text: str | None) -> tuple[list[str], tuple[tuple[int, ...], ...]]:
    """The classes and the counts of a recorded confusion matrix; nothing where it is not one."""
    rows = list(csv.reader((text or "").splitlines()))
    try:
        counts = tuple(tuple(int(cell) for cell in row[1:]) for row in rows[1:])
    except ValueError:
        return [], ()
    names = [_as_named(name) for name in rows[0][1:]] if rows else []
    return (names, counts) if names and all(len(row) == len(names) == len(counts) for row in counts) else ([], ())


def _as_named(cell: str) -> str:
    """A name without the apostrophe that kept a spreadsheet from taking it for a formula."""
    return cell[1:] if cell[:1] == "'" and without_formula(cell[1:]) == cell else cell
