"""Everything that a study's page shows, as plain data: confirmation, mistakes, classes, and the study itself."""

from __future__ import annotations

import base64
import csv
import functools
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from cnnstudy.analysis.causes import NetworkAnalysis, analyze_networks
from cnnstudy.analysis.class_metrics import class_metric_names
from cnnstudy.analysis.confirmation import RECORD_PATH, ChampionTest, Confirmation, Standing, confirmation_from_json
from cnnstudy.analysis.confirmation_text import STANDING_HEADINGS, standing_rows
from cnnstudy.analysis.curves import History
from cnnstudy.analysis.data_law import DEFAULT_TARGET_GAP
from cnnstudy.analysis.leaderboard import GOALS, build_leaderboard
from cnnstudy.analysis.next_steps import NextStep, list_next_steps
from cnnstudy.errors import DataError, TrackingError, TrackingUnavailableError
from cnnstudy.names import Metric, class_name
from cnnstudy.results.pages.curve_panels import Curve
from cnnstudy.system.files import escape_formula
from cnnstudy.tracking.client import Tracker
from cnnstudy.tracking.recorded import RecordedRun, RecordedStudy, counted_trials, mark_interrupted
from cnnstudy.tracking.ui_server import find_ui

#: Reads a text artifact of a run, by run id and path; None if there is none.
ReadText = Callable[[str, str], str | None]


@dataclass(frozen=True)
class ConfirmationData:
    """A recorded confirmation, as the figure and the table show it."""

    record: Confirmation

    @property
    def candidates(self) -> Sequence[Standing]:
        """The candidates, best first."""
        return self.record.standings

    @property
    def champion(self) -> str | None:
        """The champion's trial; None if there is no champion."""
        return None if self.record.champion is None else self.record.champion.trial

    @property
    def test(self) -> ChampionTest | None:
        return self.record.test

    @property
    def shows_accuracy(self) -> bool:
        return self.record.rule.maximize

    @property
    def percent(self) -> float:
        """The multiplier for display: 100 for accuracies, 1 for losses."""
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
    """Read a confirmation from its recorded text.

    Raises:
        ValueError: the text is not a recorded confirmation; the message says what is wrong.
    """
    return ConfirmationData(confirmation_from_json(text))


#: Pixels of a picture's longer side, and the most mistakes that a page shows.
_LONGEST, MOST_SHOWN = 144, 30
#: The text that replaces the mistakes if none were asked for.
LEFT_OUT = "Left out of this report."


@dataclass(frozen=True)
class Neighbour:
    """A training image similar to the misclassified one."""

    picture: str  # a data: URL
    name: str  # its class
    key: str
    similarity: float  # cosine, -1..1


@dataclass(frozen=True)
class Mistake:
    """A misclassified validation image."""

    picture: str  # a data: URL
    cams: tuple[tuple[str, str], ...]  # Grad-CAM maps: class, data: URL
    true: str
    predicted: str
    probability: float
    key: str
    neighbours: tuple[Neighbour, ...]


@dataclass(frozen=True)
class Gallery:
    """A model's mistakes, or the reason why they can't be shown."""

    mistakes: Sequence[Mistake] = ()
    wrong: int = 0  # all misclassified validation images
    validation: int = 0  # all validation images
    trial: str = ""
    places: tuple[int, int] = (0, 0)  # rows and columns of the feature map behind Grad-CAM
    reason: str = ""


def read_gallery(given: Mapping[str, Any] | str) -> Gallery:
    """Read a gallery from a worker's answer, or from the reason why there is none.

    Args:
        given: `entries`, `wrong`, `validation`, `map` and `trial`; or the reason.

    Raises:
        DataError: an image can't be decoded.
    """
    if isinstance(given, str):
        return Gallery(reason=given)
    rows, columns = given["map"]
    return Gallery(
        decode_mistakes(given["entries"]), given["wrong"], given["validation"], given["trial"], (rows, columns)
    )


def decode_mistakes(entries: Sequence[Mapping[str, Any]]) -> list[Mistake]:
    """Return the first entries with their images as data: URLs.

    Args:
        entries: `image`, `true`, `predicted`, `probability`, `key`, the maps `cam_predicted` and `cam_true`, and
            `neighbours` with `image`, `class`, `similarity` and `key`. Images are paths of files.

    Raises:
        DataError: an image can't be decoded.
    """
    return [
        Mistake(
            picture=_data_url(entry["image"]),
            cams=tuple((entry[role], _data_url(entry[f"cam_{role}"])) for role in ("predicted", "true")),
            true=entry["true"],
            predicted=entry["predicted"],
            probability=entry["probability"],
            key=entry["key"],
            neighbours=tuple(
                Neighbour(_data_url(near["image"]), near["class"], near["key"], near["similarity"])
                for near in entry["neighbours"]
            ),
        )
        for entry in entries[:MOST_SHOWN]
    ]


def _data_url(file: str) -> str:
    """Return the picture, scaled down to the size at which it is shown, as a data: URL."""
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
    """A class's recall (0..1) on validation images, and on the training images of the probe if known."""

    name: str
    validation: float
    train: float | None

    @property
    def gap(self) -> float | None:
        return None if self.train is None else self.train - self.validation


@dataclass(frozen=True)
class Classes:
    """Recall by class: of one trial, and the mean over the trials that learnt."""

    trial: str
    of_trial: tuple[ClassAccuracy, ...]
    mean: tuple[ClassAccuracy, ...]  # over the trials that learnt
    trials: int  # how many learnt
    matrix: tuple[tuple[int, ...], ...]  # counts of validation images [true class][predicted class]; () if not recorded


def _collect_classes(run: RecordedRun, finished: Sequence[RecordedRun], read_text: ReadText) -> Classes | None:
    header, matrix = parse_confusion_matrix(read_text(run.run_id, "confusion_matrix.csv"))
    recalls = class_name(Metric.RECALL, "")
    recorded = [name.removeprefix(recalls) for name in run.metrics if name.startswith(recalls)]
    named = [name.removeprefix(recalls) for name in class_metric_names(_class_rows(header)) if name.startswith(recalls)]
    names = dict(zip(named, header, strict=True)) if set(named) == set(recorded) else {name: name for name in recorded}
    if not names:
        return None
    learnt = [one for one in finished if one.verdict != "not-learning"] or [run]
    return Classes(
        run.trial,
        tuple(_class_accuracy(name, shown, [run]) for name, shown in names.items()),
        tuple(_class_accuracy(name, shown, learnt) for name, shown in names.items()),
        len(learnt),
        matrix,
    )


def _class_rows(names: Sequence[str]) -> list[dict[str, float | str]]:
    return [{"class": name, "recall": 0.0, "precision": 0.0} for name in names]


def _class_accuracy(name: str, shown: str, runs: Sequence[RecordedRun]) -> ClassAccuracy:
    validation, train = (
        [run.metrics[metric] for run in runs if metric in run.metrics]
        for metric in (class_name(Metric.RECALL, name), class_name(Metric.TRAIN_RECALL, name))
    )
    known = len(train) == len(validation) > 0
    return ClassAccuracy(
        shown, float(np.mean(validation)) if validation else math.nan, float(np.mean(train)) if known else None
    )


def parse_confusion_matrix(text: str | None) -> tuple[list[str], tuple[tuple[int, ...], ...]]:
    """Return the classes and counts of a recorded confusion matrix; both empty if the text is not one."""
    rows = list(csv.reader((text or "").splitlines()))
    try:
        counts = tuple(tuple(int(cell) for cell in row[1:]) for row in rows[1:])
    except ValueError:
        return [], ()
    names = [_unescape_formula(name) for name in rows[0][1:]] if rows else []
    return (names, counts) if names and all(len(row) == len(names) == len(counts) for row in counts) else ([], ())


def _unescape_formula(cell: str) -> str:
    """Remove the apostrophe that kept a spreadsheet from evaluating the name as a formula."""
    return cell[1:] if cell[:1] == "'" and escape_formula(cell[1:]) == cell else cell


@dataclass(frozen=True)
class ReportData:
    """A study with its trials and their analysis."""

    study: RecordedStudy
    runs: Sequence[RecordedRun]  # the latest run of each trial
    frame: pd.DataFrame  # the leaderboard
    causes: Sequence[NetworkAnalysis]
    curves: Mapping[str, Curve]  # of finished trials
    classes: Classes | None
    confirmed: ConfirmationData | None
    gallery: Gallery
    files: Mapping[str, str]  # the study's files as given, by name
    next_steps: Sequence[NextStep] = ()
    unreadable: Sequence[str] = ()  # sentences about records that can't be read
    ui: str = ""  # the address of MLflow's UI; "": there are no links to runs

    @property
    def front(self) -> pd.Series:
        """Whether each row of the leaderboard is on the Pareto front."""
        return self.frame["pareto_front"] if len(self.frame) else pd.Series(dtype=bool)

    @property
    def finished(self) -> pd.DataFrame:
        """The leaderboard's finished trials, best first."""
        return self.frame[self.frame["state"] == "finished"] if len(self.frame) else self.frame

    def run_of(self, trial: str) -> RecordedRun | None:
        """Return the run of a trial; None if there is none."""
        return next((run for run in self.runs if run.trial == trial), None)


def collect_report_data(
    tracker: Tracker,
    study: RecordedStudy,
    target_gap: float = DEFAULT_TARGET_GAP,
    gallery: Mapping[str, Any] | str = LEFT_OUT,
) -> ReportData:
    """Collect the data of a recorded study's report.

    Args:
        target_gap: the target gap (0..1) of the data-size projection.
        gallery: the model's mistakes, or the reason why there are none (see read_gallery).

    Raises:
        TrackingError: MLflow does not answer.
        DataError: an image of the gallery can't be decoded.
    """
    files = _read_study_files(tracker, study)
    runs = counted_trials(tracker.runs(study.experiment_id))
    tags, history, read_text = tracker.tags(study.run_id), tracker.metric_history, tracker.read_text
    report = build_report_data(study, runs, history, read_text, target_gap, gallery, files, tags)
    return replace(report, ui=find_ui(tracker.uri))


def _read_study_files(tracker: Tracker, study: RecordedStudy) -> dict[str, str]:
    """Return the text of each recorded study file by its name, without those that MLflow can't give back.

    Earlier versions recorded files under names with `#` and `?`, which MLflow takes for parts of an address.
    """
    files = {}
    for path in tracker.files(study.run_id, "study"):
        try:
            text = tracker.read_text(study.run_id, path)
        except TrackingUnavailableError:
            raise
        except TrackingError:
            continue
        if text is not None:
            files[path.rpartition("/")[2]] = text
    return files


def build_report_data(
    study: RecordedStudy,
    runs: Sequence[RecordedRun],
    history: History,
    read_text: ReadText,
    target_gap: float = DEFAULT_TARGET_GAP,
    gallery: Mapping[str, Any] | str = LEFT_OUT,
    files: Mapping[str, str] | None = None,
    tags: Mapping[str, str] | None = None,
) -> ReportData:
    """Build the data of a report from runs and from functions that read their histories and texts.

    Args:
        tags: of the study's own run; None: there are no next steps.
    """
    history = functools.cache(
        history
    )  # each call to MLflow takes milliseconds, and curves need the same histories as the analysis
    frame = build_leaderboard(mark_interrupted(runs), study.objective, goals=study.goals or GOALS)
    confirmed, unreadable = _read_recorded_confirmation(study, read_text)
    finished = [run for run in runs if run.state == "finished"]
    by_trial = {run.trial: run for run in finished}
    candidates = [confirmed.champion] if confirmed is not None else []
    candidates += frame["trial"].tolist() if len(frame) else []
    best = next((by_trial[trial] for trial in candidates if trial in by_trial), None)
    causes = analyze_networks(study, runs, history, target_gap) if runs else []
    return ReportData(
        study=study,
        runs=runs,
        frame=frame,
        causes=causes,
        next_steps=list_next_steps(causes, study, runs, tags) if tags and runs else [],
        curves={run.trial: _read_curve(run, history) for run in finished},
        classes=_collect_classes(best, finished, read_text) if best is not None else None,
        confirmed=confirmed,
        gallery=read_gallery(gallery),
        files=files or {},
        unreadable=unreadable,
    )


def _read_recorded_confirmation(study: RecordedStudy, read_text: ReadText) -> tuple[ConfirmationData | None, list[str]]:
    text = read_text(study.run_id, RECORD_PATH)
    if text is None:
        return None, []
    try:
        return read_confirmation(text), []
    except ValueError as error:
        fix = f"`python -m cnnstudy confirm {study.name}` writes it again"
        return None, [f"{RECORD_PATH} of this study can't be read, so the confirmation is left out: {error}; {fix}."]


def _read_curve(run: RecordedRun, history: History) -> Curve:
    # train accuracy is validation accuracy plus gap, whose histories the analysis has read already
    validation, gap = history(run.run_id, Metric.VAL_ACCURACY), history(run.run_id, Metric.GAP_ACCURACY)
    epochs = tuple(sorted(set(validation) & set(gap)))
    return Curve(
        epochs,
        tuple(validation[epoch] + gap[epoch] for epoch in epochs),
        tuple(validation[epoch] for epoch in epochs),
    )
