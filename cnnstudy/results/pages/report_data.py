"""All that a study's page tells, as plain data."""

from __future__ import annotations

import base64
import csv
import functools
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from cnnstudy.analysis.causes import NetworkAnalysis, analyze_networks
from cnnstudy.analysis.class_metrics import class_metric_names
from cnnstudy.analysis.confirmation import RECORD, ChampionTest, Standing, confirmation_from_json
from cnnstudy.analysis.confirmation import Confirmation as Record
from cnnstudy.analysis.confirmation_text import STANDING_HEADINGS, standing_rows
from cnnstudy.analysis.data_law import TARGET
from cnnstudy.analysis.leaderboard import GOALS, leaderboard, pareto_front
from cnnstudy.analysis.observations import History
from cnnstudy.errors import DataError
from cnnstudy.names import Metric, class_name
from cnnstudy.results.pages.curve_panels import Curve
from cnnstudy.system.files import escape_formula
from cnnstudy.tracking.client import Tracker
from cnnstudy.tracking.recorded import RecordedRun, RecordedStudy, latest_trials


@dataclass(frozen=True)
class ConfirmationData:
    """A recorded confirmation, for the figure and the table."""

    record: Record

    @property
    def candidates(self) -> Sequence[Standing]:
        """Best first."""
        return self.record.standings

    @property
    def champion(self) -> str | None:
        """The trial that stands for it."""
        return None if self.record.champion is None else self.record.champion.trial

    @property
    def test(self) -> ChampionTest | None:
        return self.record.test

    @property
    def shows_accuracy(self) -> bool:
        return self.record.rule.maximize

    @property
    def percent(self) -> float:
        """What values are shown times: accuracies in percent, losses as they are."""
        return 100.0 if self.shows_accuracy else 1.0

    @property
    def axis(self) -> str:
        return "validation accuracy, %" if self.shows_accuracy else "validation loss, nats"

    @property
    def tested(self) -> float | None:
        """The champion's accuracy (0..1) on the test images."""
        return None if self.test is None else self.test.mean

    @property
    def headings(self) -> Sequence[str]:
        return STANDING_HEADINGS

    @property
    def rows(self) -> list[list[str]]:
        """Cells under `headings`."""
        return standing_rows(self.record.standings, self.record.rule)


def read_confirmation(text: str) -> ConfirmationData:
    """From the record's text.

    Raises:
        ValueError: it is not what confirming writes; says what is wrong.
    """
    return ConfirmationData(confirmation_from_json(text))


#: Pixels of the longer side, and mistakes that a page shows.
_LONGEST, MOST_SHOWN = 144, 30
#: Why a page shows none, where nobody looked for any.
LEFT_OUT = "It was left out."


@dataclass(frozen=True)
class Neighbour:
    """A training image that resembles the wrong one."""

    picture: str  # a data: address
    name: str  # its class
    key: str
    similarity: float  # cosine, -1..1


@dataclass(frozen=True)
class Mistake:
    """A validation image that the model takes for another class."""

    picture: str  # a data: address
    cams: tuple[tuple[str, str], ...]  # Grad-CAM: the class that it is for, a data: address
    true: str
    predicted: str
    probability: float
    key: str
    neighbours: tuple[Neighbour, ...]


@dataclass(frozen=True)
class Gallery:
    """What a model gets wrong, or why that can't be shown."""

    mistakes: Sequence[Mistake] = ()
    wrong: int = 0  # of its validation images, all of them
    validation: int = 0
    trial: str = ""
    places: tuple[int, int] = (0, 0)  # rows and columns of the map that Grad-CAM is drawn from
    reason: str = ""


def read_gallery(given: Mapping[str, Any] | str) -> Gallery:
    """A gallery from what a worker told (`entries`, `wrong`, `validation`, `map`, and `trial`), or from why it did not.

    Raises:
        DataError: an image that can't be decoded.
    """
    if isinstance(given, str):
        return Gallery(reason=given)
    rows, columns = given["map"]
    return Gallery(
        decode_mistakes(given["entries"]), given["wrong"], given["validation"], given["trial"], (rows, columns)
    )


def decode_mistakes(entries: Sequence[Mapping[str, Any]]) -> list[Mistake]:
    """Entries of plain data as pictures: `image`, `true`, `predicted`, `probability`, `key`, and `neighbours` with
    `image`, `class`, `similarity`, `key`; the maps are `cam_predicted` and `cam_true`. Images are paths of files.

    Raises:
        DataError: an image that can't be decoded.
    """
    return [
        Mistake(
            picture=_address(entry["image"]),
            cams=tuple((entry[of], _address(entry[f"cam_{of}"])) for of in ("predicted", "true")),
            true=entry["true"],
            predicted=entry["predicted"],
            probability=entry["probability"],
            key=entry["key"],
            neighbours=tuple(
                Neighbour(_address(near["image"]), near["class"], near["key"], near["similarity"])
                for near in entry["neighbours"]
            ),
        )
        for entry in entries[:MOST_SHOWN]
    ]


def _address(file: str) -> str:
    """The picture, no larger than it is shown, as a data: address."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file) as image:
            small = image.convert("RGB")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise DataError(f"can't decode an image of the gallery, {file}: {error}") from error
    small.thumbnail((_LONGEST, _LONGEST))
    encoded = io.BytesIO()
    small.save(encoded, "WEBP", quality=85)
    return f"data:image/webp;base64,{base64.b64encode(encoded.getvalue()).decode()}"


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
class ReportData:
    """A study with its trials and what they tell."""

    study: RecordedStudy
    runs: Sequence[RecordedRun]  # the run of each trial that counts
    frame: pd.DataFrame  # the leaderboard
    front: pd.Series  # which of its rows are on the Pareto front
    causes: Sequence[NetworkAnalysis]
    curves: Mapping[str, Curve]  # of finished trials
    classes: Classes | None
    confirmed: ConfirmationData | None
    gallery: Gallery
    files: Mapping[str, str]  # the study's files as they were given, by name
    unreadable: Sequence[str] = ()  # what was recorded but can't be read, in sentences

    @property
    def finished(self) -> pd.DataFrame:
        """Of the leaderboard the trials that finished, best first."""
        return self.frame[self.frame["state"] == "finished"] if len(self.frame) else self.frame

    def run_of(self, trial: str) -> RecordedRun | None:
        return next((run for run in self.runs if run.trial == trial), None)


def collect_report_data(
    tracker: Tracker, study: RecordedStudy, target_gap: float = TARGET, gallery: Mapping[str, Any] | str = LEFT_OUT
) -> ReportData:
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
    return build_report_data(study, runs, tracker.metric_history, tracker.read_text, target_gap, gallery, files)


def build_report_data(
    study: RecordedStudy,
    runs: Sequence[RecordedRun],
    history: History,
    read_text: ReadText,
    target_gap: float = TARGET,
    gallery: Mapping[str, Any] | str = LEFT_OUT,
    files: Mapping[str, str] | None = None,
) -> ReportData:
    """The story of trials, from whatever looks up their histories and texts."""
    history = functools.cache(history)  # a call to MLflow takes milliseconds, and curves ask for the same again
    frame = leaderboard(runs, study.objective)
    confirmed, unreadable = _confirmed(study, read_text)
    found = analyze_networks(study, runs, history, target_gap) if runs else []
    finished = [run for run in runs if run.state == "finished"]
    by_trial = {run.trial: run for run in finished}
    wanted = [confirmed.champion] if confirmed is not None else []
    wanted += frame["trial"].tolist() if len(frame) else []
    of_trial = next((by_trial[trial] for trial in wanted if trial in by_trial), None)
    return ReportData(
        study=study,
        runs=runs,
        frame=frame,
        front=pareto_front(frame, study.goals or GOALS),
        causes=found,
        curves={run.trial: _curve(run, history) for run in finished},
        classes=_classes(of_trial, finished, read_text) if of_trial is not None else None,
        confirmed=confirmed,
        gallery=read_gallery(gallery),
        files=files or {},
        unreadable=unreadable,
    )


def _confirmed(study: RecordedStudy, read_text: ReadText) -> tuple[ConfirmationData | None, list[str]]:
    text = read_text(study.run_id, RECORD)
    if text is None:
        return None, []
    try:
        return read_confirmation(text), []
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
    named = [name.removeprefix(recalls) for name in class_metric_names(_rows(header)) if name.startswith(recalls)]
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
    return cell[1:] if cell[:1] == "'" and escape_formula(cell[1:]) == cell else cell
