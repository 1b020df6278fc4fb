"""Studies from Python and notebooks: run, diagnose and load, as the commands of these names.

import cnnstudy
study = cnnstudy.run("quickstart")
study                      # in a notebook: its answer and its trials
study.effects              # a DataFrame
study.plot_gap()           # a matplotlib figure
"""

from __future__ import annotations

import contextlib
import functools
import html
import importlib
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import pandas as pd

with warnings.catch_warnings():  # in notebooks without ipywidgets it warns of its own progress bars, which nobody sees
    warnings.simplefilter("ignore")
    importlib.import_module("tqdm.auto")

from cnnstudy.analysis.leaderboard import leaderboard_table, set_dtypes, split_by_state
from cnnstudy.analysis.named_causes import study_answers
from cnnstudy.analysis.next_steps import NextStep, count_missing
from cnnstudy.cli.run import make_study_workers
from cnnstudy.cli.start import run_diagnosis
from cnnstudy.config.load import load_study
from cnnstudy.data.layouts import Layout
from cnnstudy.errors import InputError, UnknownNameError
from cnnstudy.names import Metric
from cnnstudy.records import RESULT_TABLES
from cnnstudy.results.pages.rendering import prose
from cnnstudy.results.pages.report_data import parse_confusion_matrix
from cnnstudy.results.study_note import record_note
from cnnstudy.results.terminal import (
    analyze_ended_study,
    analyze_study,
    effects_table,
    latest_trials,
    list_steps,
    trial_frame,
)
from cnnstudy.study.run import run_study
from cnnstudy.system.display import choose_display, count_noun
from cnnstudy.system.output import open_console, print_note
from cnnstudy.tracking import client
from cnnstudy.tracking.relocation import find_unwritable, require_writable
from cnnstudy.tracking.retry import RetryPolicy
from cnnstudy.tracking.sqlite import sqlite_file

if TYPE_CHECKING:
    import keras
    from matplotlib.figure import Figure

    from cnnstudy.analysis.causes import NetworkAnalysis
    from cnnstudy.tracking.recorded import RecordedRun

#: How many trials a notebook shows of a study.
_SHOWN_TRIALS = 10
_STOPPED = "the study was stopped; what it measured is recorded, and the same call goes on"
_CURVES = {
    **dict.fromkeys(("trial", "architecture"), "string"),
    **dict.fromkeys(("seed", "epoch"), "Int64"),
    **{f"{part}_{what}": "float64" for what in ("accuracy", "loss") for part in ("train", "val", "gap")},
}
_CONFUSION = {"trial": "string", "class": "string", "predicted": "string", "images": "Int64"}
_PREDICTIONS = {
    **dict.fromkeys(("trial", "image", "part", "class", "predicted"), "string"),
    "probability": "float64",
    "right": "boolean",
}


def run(
    study: str | Path,
    overrides: Mapping[str, object] | None = None,
    *,
    jobs: int | None = None,
    tracking_uri: str | None = None,
    take_over: bool = False,
    accept_code: bool = False,
    retry_failed: bool = False,
    quiet: bool = False,
) -> StudyResults:
    """Run a study's missing trials, and return what is recorded of it.

    Args:
        study: a study file, or the name of one in experiments/.
        overrides: keys of the study file and their values, as `--set`: `{"training.epochs": 5}`.
        jobs: number of workers; None: the study's `execution.slots`.
        tracking_uri: where MLflow keeps the record; None: MLFLOW_TRACKING_URI, or mlflow.db in the working folder.
        take_over, accept_code, retry_failed: as the options of `run-study`.
        quiet: show no progress.

    Raises:
        KeyboardInterrupt: stopped by Ctrl-C; everything measured is recorded, and the same call goes on.
        CnnstudyError: one of its subclasses, as for `run-study`; nothing measured is lost.
    """
    if jobs is not None:
        _check("jobs", jobs, int, "a whole number from 1")
        if jobs < 1:
            raise InputError(f"jobs={jobs} can't be used; give a whole number from 1.")
    loaded = load_study(str(study), _to_words(overrides))
    uri, console = _find_place(tracking_uri), open_console()
    require_writable(uri)
    tracker = RetryPolicy().call(lambda: client.Tracker(uri), print_note)
    with (
        contextlib.closing(make_study_workers(loaded.config, jobs)) as workers,
        choose_display(console, quiet) as display,
    ):
        workers.start()  # before other threads need the environment, which is changed while Ray starts
        outcome = run_study(loaded, tracker, workers, display, take_over, None, accept_code, retry_failed, False)
    if outcome.interrupted:
        raise KeyboardInterrupt(_STOPPED)
    if loaded.config.strategy.kind == "factorial":
        analyze_ended_study(tracker, outcome.recorded, print_note)
    else:
        record_note(tracker, outcome.recorded, print_note)
    return StudyResults(tracker, loaded.config.name)


def diagnose(
    path: str | Path,
    time: str = "30m",
    *,
    out: str | Path | None = None,
    tracking_uri: str | None = None,
    image: str | None = None,
    label: str | None = None,
    part: str | None = None,
    group: str | None = None,
    layout: str | None = None,
    ignore_folders: str | None = None,
) -> StudyResults:
    """Say why networks overfit on photos, as the command `diagnose`, and return the study that it made.

    Args:
        path: a folder, an archive or a table of photos.
        time: how long it may all take: 90s, 30m, 2h.
        out: the study file; None: named after the photos, in the working folder.
        tracking_uri: as for `run`.
        image, label, part, group: columns of a table.
        layout, ignore_folders: as the command's options.

    Raises:
        KeyboardInterrupt: as for `run`.
        InputError: an option does not fit the photos.
        CnnstudyError: another of its subclasses, as for `run`.
    """
    columns = {"image": image, "label": label, "part": part, "group": group}
    _check("path", path, str | Path, "a folder, an archive or a table, such as diagnose('photos')")
    _check("time", time, str, "a text such as '30m'")
    _check("out", out, str | Path | None, "the path of a study file, such as 'photos.yaml'")
    for name, given in {**columns, "layout": layout, "ignore_folders": ignore_folders}.items():
        _check(name, given, str | None, f"a text, as of --{name.replace('_', '-')}")
    if layout not in (None, *get_args(Layout)):
        raise InputError(f"layout={layout!r} is no layout; give one of {', '.join(get_args(Layout))}, or None.")
    file, uri = None if out is None else Path(out), _find_place(tracking_uri)
    diagnosed = run_diagnosis(
        str(path), time, file, columns, layout, ignore_folders, uri, open_=False, leave_at_once=False
    )
    if diagnosed.stopped:
        raise KeyboardInterrupt(_STOPPED)
    return load(diagnosed.name, uri)


def load(study: str | None = None, tracking_uri: str | None = None) -> StudyResults:
    """Return what is recorded of a study.

    Args:
        study: its name; None: the one that was run last.
        tracking_uri: as for `run`.

    Raises:
        UnknownNameError: there is no such study, or no record at all.
        TrackingError: MLflow does not answer.
    """
    _check("study", study, str | None, "a study's name, such as load('tiny')")
    return StudyResults(client.existing_tracker(_find_place(tracking_uri)), study)


class StudyResults:
    """What is recorded of a study, as data frames. Each is read from MLflow once; `load` again for later trials.

    Whole numbers are Int64, other numbers float64, text string, yes or no boolean; what is missing is <NA> or NaN.
    Accuracies and gaps are shares of 0..1, losses are in nats.
    """

    def __init__(self, tracker: client.Tracker, study: str | None) -> None:
        self._tracker = tracker
        self._recorded = tracker.study(study)
        self.name = self._recorded.name

    @functools.cached_property
    def trials(self) -> pd.DataFrame:
        """The leaderboard: a row for each trial, best first; the columns are those of `leaderboard --csv`."""
        return set_dtypes(trial_frame(self._tracker, self._recorded))

    @functools.cached_property
    def curves(self) -> pd.DataFrame:
        """A row for each trial and epoch, from 0, before the first update: accuracies, losses and gaps.

        Columns: trial, architecture, seed, epoch, train_accuracy, val_accuracy, gap_accuracy, train_loss, val_loss,
        gap_loss.
        """
        tables = [pd.DataFrame(columns=list(_CURVES))]
        for one in self._runs:
            val, gap, val_loss, gap_loss = (
                pd.Series(self._tracker.metric_history(one.run_id, name), dtype="float64")
                for name in (Metric.VAL_ACCURACY, Metric.GAP_ACCURACY, Metric.VAL_LOSS, Metric.GAP_LOSS)
            )
            accuracies = {"train_accuracy": val + gap, "val_accuracy": val, "gap_accuracy": gap}
            losses = {"train_loss": val_loss - gap_loss, "val_loss": val_loss, "gap_loss": gap_loss}
            measured = pd.DataFrame(accuracies | losses).rename_axis("epoch").sort_index().reset_index()
            tables.append(measured.assign(trial=one.trial, architecture=one.architecture, seed=one.seed))
        return _join(tables, _CURVES)

    @functools.cached_property
    def effects(self) -> pd.DataFrame:
        """The effects of the factors on each outcome, a row each; the columns are those of `effects --csv`."""
        return set_dtypes(effects_table(self._analyses))

    @functools.cached_property
    def confusion(self) -> pd.DataFrame:
        """How many validation images of each class each trial took for which, at its best epoch.

        Columns: trial, class, predicted, images.
        """
        rows = []
        for one in self._finished:
            text = self._tracker.read_text(one.run_id, "confusion_matrix.csv")
            classes, matrix = parse_confusion_matrix(text)
            rows += [
                (one.trial, classes[true], classes[predicted], images)
                for true, counts in enumerate(matrix)
                for predicted, images in enumerate(counts)
            ]
        return _join([pd.DataFrame(rows, columns=list(_CONFUSION))], _CONFUSION)

    @functools.cached_property
    def predictions(self) -> pd.DataFrame:
        """What each trial's best epoch says of each probe and validation image.

        Columns: trial, image (its file), part (probe or validation), class, predicted, probability, right. Trials that
        an earlier version recorded have none.
        """
        tables = [pd.DataFrame(columns=list(_PREDICTIONS))]
        for one in self._finished:
            text = self._tracker.read_text(one.run_id, RESULT_TABLES["predictions"])
            if text is not None:
                table = json.loads(text)
                tables.append(pd.DataFrame(table["data"], columns=table["columns"]).assign(trial=one.trial))
        return _join(tables, _PREDICTIONS)

    @property
    def answers(self) -> list[str]:
        """What the study found, in sentences: whether each network overfits, what changes that, and the cause."""
        return study_answers(self._analyses)

    @property
    def next_steps(self) -> list[NextStep]:
        """What to do next, the most useful first, each with its evidence, its cost and a line to copy."""
        return list_steps(self._tracker, self._recorded, self._analyses, self._runs)

    def model(self, trial: str | None = None) -> keras.Model:
        """Load the model of a trial, or of the champion; without one, of the best trial.

        It takes images of [n, height, width, 3], 0..255, and returns probabilities [n, classes].

        Raises:
            UnknownNameError: there is no such trial, or it has no model.
            ModelError: its files are missing or damaged.
        """
        from cnnstudy.results.models import find_model
        from cnnstudy.system.scratch import scratch_folder
        from cnnstudy.training.model_package import load_saved_model

        _check("trial", trial, str | None, "its name, such as 'alexnet-002'")
        with scratch_folder() as folder:
            name = self._name_champion() if trial is None else f"{self.name}/{trial.removeprefix(f'{self.name}/')}"
            found = find_model(name, self._tracker.uri, folder)
            for note in found.notes:
                print_note(note)
            return load_saved_model(found.file)

    def _name_champion(self) -> str:
        """Return the address of the champion's model; without one, that of the best trial that has a model.

        Raises:
            UnknownNameError: no trial has one.
        """
        from cnnstudy.tracking.registry import Registry

        try:
            Registry(self._tracker).champion(self._recorded)
        except UnknownNameError:
            finished, _ = split_by_state(self.trials)
            with_model = finished[finished["model"].fillna("") != ""] if len(finished) else finished
            if with_model.empty:
                raise
            best = with_model["trial"].iloc[0]
            print_note(f"{self.name} has no confirmed champion; this is {best}, the first of its leaderboard.")
            return f"{self.name}/{best}"
        return self.name

    def plot_gap(self) -> Figure:
        """Draw train and validation accuracy over the epochs, the mean of the finished trials of each network.

        The area between them is the gap. Trials that ended early are in the mean until then.
        """
        from matplotlib.ticker import MaxNLocator

        finished = {one.trial for one in self._finished}
        curves = self.curves[self.curves["trial"].isin(finished)]
        networks = list(dict.fromkeys(curves["architecture"]))
        figure = _shown_figure(figsize=(4.5 * max(len(networks), 1), 3.5), layout="constrained")
        panels = figure.subplots(1, max(len(networks), 1), sharey=True, squeeze=False)[0]
        for axes, network in zip(panels, networks or ["no trial has finished"], strict=True):
            of_network = curves[curves["architecture"] == network]
            means = 100 * of_network.groupby("epoch")[["train_accuracy", "val_accuracy"]].mean()
            epochs = means.index.to_numpy(dtype=float)
            axes.plot(epochs, means["train_accuracy"], color="#d1495b", label="train")
            axes.plot(epochs, means["val_accuracy"], color="#00798c", label="validation")
            axes.fill_between(epochs, means["val_accuracy"], means["train_accuracy"], color="#888888", alpha=0.2)
            trials = of_network["trial"].nunique()
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.set(xlabel="epoch", title=f"{network}, mean of {count_noun(trials, 'trial')}" if trials else network)
        panels[0].set_ylabel("accuracy, %")
        panels[0].legend()
        figure.suptitle(self.name)
        return figure

    def report(self, folder: str | Path | None = None) -> Path:
        """Write the study's page, as `report` does, and return its path.

        Args:
            folder: where; None: STUDY-report in the working folder.

        Raises:
            OSError: the folder can't be written.
            TrackingError: MLflow does not answer.
        """
        from cnnstudy.results.pages.study_page import write_report

        locked = find_unwritable(self._tracker.uri)
        page = write_report(
            self._tracker, self._recorded, Path(folder or f"{self.name}-report"), records=locked is None
        )
        if locked is not None:
            print_note(f"{locked} can't be written, so the page is not recorded in MLflow.")
        return page

    def __repr__(self) -> str:
        return "\n".join([f"study {self.name}: {self._describe_state()}", *self.answers])

    def _repr_html_(self) -> str:
        finished, _ = split_by_state(trial_frame(self._tracker, self._recorded))
        shown = finished.head(_SHOWN_TRIALS)
        headings, rows = leaderboard_table(shown) if len(shown) else ([], [])
        left_out = len(finished) - len(shown)
        return "".join(
            [
                f"<p><b>study {html.escape(self.name)}</b>: {html.escape(self._describe_state())}</p>",
                "<ul>",
                *(f"<li>{prose(answer)}</li>" for answer in self.answers),
                "</ul><table><thead><tr>",
                *(f"<th>{html.escape(heading)}</th>" for heading in headings),
                "</tr></thead><tbody>",
                *_html_rows(rows),
                "</tbody></table>",
                f"<p>and {count_noun(left_out, 'trial')} more in <code>.trials</code></p>" if left_out else "",
            ]
        )

    def _describe_state(self) -> str:
        """Return how many trials finished, of all that are planned, and how many failed or were pruned."""
        counted = [one for one in self._runs if one.done]
        planned = max(len(counted) + count_missing(self._tracker.tags(self._recorded.run_id)), len(self._runs))
        states = [one.state for one in counted]
        others = [f"{states.count(state)} {state}" for state in ("failed", "pruned") if state in states]
        return ", ".join([f"{len(self._finished)} of {count_noun(planned, 'trial')} finished", *others])

    @functools.cached_property
    def _runs(self) -> list[RecordedRun]:
        return latest_trials(self._tracker, self._recorded)

    @property
    def _finished(self) -> list[RecordedRun]:
        return [one for one in self._runs if one.state == "finished"]

    @functools.cached_property
    def _analyses(self) -> list[NetworkAnalysis]:
        return analyze_study(self._tracker, self._recorded, trials=self._runs)


def _shown_figure(**options: Any) -> Figure:
    """Return an empty matplotlib figure that a notebook shows, whatever its backend."""
    import io

    from matplotlib.figure import Figure

    class _ShownFigure(Figure):
        def _repr_png_(self) -> bytes:
            file = io.BytesIO()
            self.savefig(file, format="png")
            return file.getvalue()

    return _ShownFigure(**options)


def _check(name: str, given: object, kind: Any, expected: str) -> None:
    """Raise InputError if an argument has another type."""
    if not isinstance(given, kind) or (kind is int and isinstance(given, bool)):
        raise InputError(f"{name}={given!r} is of type {type(given).__name__}; give {expected}.")


def _to_words(overrides: Mapping[str, object] | None) -> list[str]:
    """Return the arguments of --set, with values as JSON, which YAML reads.

    Raises:
        InputError: they are no mapping, or a value has a type that no study file has.
    """
    _check("overrides", overrides, Mapping | None, 'a mapping such as {"training.epochs": 5}')
    return [f"{key}={_to_text(key, value)}" for key, value in (overrides or {}).items()]


def _to_text(key: str, value: object) -> str:
    def convert(one: object) -> object:
        if isinstance(one, np.generic | np.ndarray):
            return one.tolist()
        if isinstance(one, Path):
            return str(one)
        raise InputError(
            f"overrides: {key} has a value of type {type(one).__name__}; give a text, a number, True, False, None, a "
            "list or a dictionary."
        )

    return json.dumps(value, default=convert)


def _find_place(given: str | None) -> str:
    """Return where MLflow keeps the record; a database's path absolute.

    MLflow keeps one connection for each address, and would read the old database after a change of the working folder.
    """
    _check("tracking_uri", given, str | None, "an address such as sqlite:///mlflow.db")
    uri = client.tracking_uri(given)
    file = sqlite_file(uri)
    return uri if file is None else f"sqlite:///{file}{''.join(uri.partition('?')[1:])}"


def _join(tables: Sequence[pd.DataFrame], dtypes: Mapping[str, str]) -> pd.DataFrame:
    """Return the rows of all tables, with those columns and dtypes."""
    filled = [table for table in tables if len(table)] or tables
    return pd.concat(filled, ignore_index=True)[list(dtypes)].astype(dict(dtypes))


def _html_rows(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    for row in rows:
        yield f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>"
