"""What terminal, page and CSV files say of a study that was really run is the same, and is what its curves show."""

from __future__ import annotations

import dataclasses
import html
import io
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from rich.console import Console
from scipy import stats
from sklearn.datasets import load_digits

from cnnstudy.analysis.causes import NetworkAnalysis
from cnnstudy.analysis.configurations import list_configurations
from cnnstudy.analysis.effects_text import effect_sentences
from cnnstudy.analysis.leaderboard import describe_configurations, describe_front, describe_scores, write_csv
from cnnstudy.config.load import load_study
from cnnstudy.execution import Workers
from cnnstudy.execution.local import LocalExecutor
from cnnstudy.results import terminal
from cnnstudy.results.pages.report_data import collect_report_data
from cnnstudy.results.pages.study_page import write_page
from cnnstudy.study.run import run_study
from cnnstudy.system.display import SilentDisplay
from cnnstudy.tracking.client import Tracker
from cnnstudy.tracking.recorded import RecordedRun
from cnnstudy.training.verdict import Counts, judge

IMAGES = {1: 36, 2: 20, 0: 15}  # by digit
STUDY = """\
name: unequal
data: {name: folder, path: photos, validation: 0.3}
image_size: 64
architectures: [alexnet]
factors: {dropout: [0.0, 0.4], data_fraction: [0.5, 1.0], batch_size: 4, learning_rate: 0.0002}
training: {epochs: 5, keep_models: false}
strategy: {kind: factorial, seeds: 3}
"""
CURVES = ("train/accuracy", "val/accuracy", "train/balanced_accuracy", "val/balanced_accuracy", "val/loss")


class Display(SilentDisplay):
    """Keeps the line of each finished trial."""

    def __init__(self) -> None:
        self.ended: dict[str, str] = {}

    def end_trial(self, key: str, text: str) -> None:
        self.ended[key] = text


@dataclasses.dataclass(frozen=True)
class Said:
    """A study's runs and curves, and all that is said of it."""

    runs: dict[str, RecordedRun]  # by trial
    curves: dict[str, pd.DataFrame]  # of CURVES, by epoch from 1 on
    ended: dict[str, str]
    board: pd.DataFrame  # from the CSV
    effects: pd.DataFrame  # from the CSV
    analysis: NetworkAnalysis
    terminal: str
    page: str

    @property
    def page_text(self) -> str:
        """What the page says, without the links to runs, with single spaces."""
        without_links = re.sub(r'<a class="runs".*?</a>', "", self.page)
        return " ".join(html.unescape(re.sub(r"<[^>]+>", "", without_links)).split())

    @property
    def rows(self) -> list[list[str]]:
        """The cells of all tables of the page."""
        rows = re.findall(r"<tr[^>]*>(.*?)</tr>", self.page, re.DOTALL)
        return [
            [re.sub(r"<[^>]+>", "", cell).strip() for cell in re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL)]
            for row in rows
        ]


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Said:
    folder, digits = tmp_path_factory.mktemp("agreement"), load_digits()
    for digit, count in IMAGES.items():
        (folder / "photos" / f"digit-{digit}").mkdir(parents=True)
        for number, pixels in enumerate(digits.images[digits.target == digit][:count]):
            Image.fromarray((pixels * 15).astype(np.uint8)).save(folder / f"photos/digit-{digit}/{number}.png")
    shutil.copy(empty_database, folder / "mlflow.db")
    (folder / "study.yaml").write_text(STUDY, encoding="utf-8")
    tracker, display = Tracker(f"sqlite:///{folder / 'mlflow.db'}"), Display()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        workers = Workers(lambda _: LocalExecutor(1, folder))
        outcome = run_study(load_study("study.yaml"), tracker, workers, display)
    recorded, console = outcome.recorded, Console(file=io.StringIO(), width=250)
    found = terminal.analyze_study(tracker, recorded)
    terminal.show_outcome(console, tracker, outcome)
    terminal.show_effects(console, recorded.name, found)
    write_csv(terminal.trial_frame(tracker, recorded), folder / "board.csv")
    write_csv(terminal.effects_table(found), folder / "effects.csv")
    page = write_page(collect_report_data(tracker, recorded), folder / "report")
    runs = {run.trial: run for run in terminal.latest_trials(tracker, recorded)}
    assert isinstance(console.file, io.StringIO)
    return Said(
        runs,
        {trial: _curves(tracker, run) for trial, run in runs.items()},
        display.ended,
        pd.read_csv(folder / "board.csv"),
        pd.read_csv(folder / "effects.csv"),
        found[0],
        console.file.getvalue(),
        page.read_text(encoding="utf-8"),
    )


def _curves(tracker: Tracker, run: RecordedRun) -> pd.DataFrame:
    frame = pd.DataFrame({name: pd.Series(dict(tracker.metric_history(run.run_id, name))) for name in CURVES})
    return frame[frame.index > 0].sort_index()


def test_every_sentence_of_the_terminal_is_on_the_page(said: Said) -> None:
    finished = said.board[said.board["state"] == "finished"]
    sentences = [*effect_sentences(said.analysis), describe_scores(finished), describe_front(said.board)]
    sentences.append(describe_configurations(list_configurations(said.runs.values())))
    for sentence in sentences:
        assert sentence in said.terminal
        assert sentence.replace("`", "") in said.page_text


def test_the_leaderboard_is_that_of_the_curves(said: Said) -> None:
    rows = {row[0].removesuffix(" ◆"): row for row in said.rows if len(row) > 12}
    for row in said.board.itertuples():
        curve = said.curves[row.trial]
        best = min(
            curve.index,
            key=lambda epoch: (-round(curve["val/balanced_accuracy"][epoch], 9), curve["val/loss"][epoch], epoch),
        )
        last = curve.iloc[-1]
        assert row.best_epoch == best
        assert row.best_val_balanced_accuracy == pytest.approx(curve["val/balanced_accuracy"][best])
        assert row.last_gap_accuracy == pytest.approx(last["train/accuracy"] - last["val/accuracy"])
        assert row.cross_fitted
        for kind in ("accuracy", "balanced_accuracy"):
            train, validation, gap = (getattr(row, f"{part}_{kind}") for part in ("train", "val", "gap"))
            assert train - validation == pytest.approx(gap)
        written = [f"{100 * row.train_accuracy:.1f}", f"{100 * row.val_accuracy:.1f}", f"{100 * row.gap_accuracy:+.1f}"]
        balanced = f"{100 * row.val_balanced_accuracy:.1f}"
        (line,) = [text for text in said.terminal.splitlines() if text.startswith(f"{row.trial} ")]
        shown = re.findall(r"[-+]?\d+\.\d(?= |$)", line)
        assert shown[-4:] == [*written, balanced]
        assert [*written, f"{100 * row.last_gap_accuracy:+.1f}", balanced, row.verdict] == rows[row.trial][-9:-3]


def test_verdicts_are_judged_by_the_numbers_that_are_shown(said: Said) -> None:
    board = said.board.set_index("trial")
    for trial, run in said.runs.items():
        counts, row = Counts(**run.verdict_counts), board.loc[trial]
        again = judge(*counts)
        assert (row["verdict"], row["verdict_reason"]) == (again.name, again.reason)
        recalls = np.divide(counts.train_right, counts.train_images)
        assert row["full_train_balanced_accuracy"] == pytest.approx(recalls.mean())
        recalls = np.divide(counts.validation_right, counts.validation_images)
        rounding = 0.5 * np.mean(1 / np.array(counts.validation_images))
        assert row["val_balanced_accuracy"] == pytest.approx(recalls.mean(), abs=rounding)
        shown = re.search(
            r"balanced train (\S+) %, val (\S+) %, gap (\S+) at epoch (\d+): ([\w-]+)",
            said.ended[trial],
        )
        assert shown is not None
        train, validation, gap, epoch, verdict = shown.groups()
        assert f"train {train} % of all {sum(counts.train_images)} training images" in again.reason
        assert f"validation {validation} % of {sum(counts.validation_images)}" in again.reason
        assert float(gap) == pytest.approx(float(train) - float(validation), abs=0.11)
        assert (int(epoch), verdict) == (row["best_epoch"], again.name)
    whole = board[board["data_fraction"] == 1]
    words = ", ".join(f"{count} {verdict}" for verdict, count in whole["verdict"].value_counts().items())
    assert f"the weights of the best epoch: {words}." in effect_sentences(said.analysis)[0]
    for verdict, count in board["verdict"].value_counts().items():
        assert re.search(rf">{verdict}</span> {count}</span>", said.page)


def _at_the_end(said: Said) -> pd.DataFrame:
    last = pd.DataFrame({trial: curve.iloc[-1] for trial, curve in said.curves.items()}).T
    levels = pd.DataFrame({trial: {**run.levels, "seed": run.seed} for trial, run in said.runs.items()}).T
    last["gap"] = last["train/accuracy"] - last["val/accuracy"]
    last["balanced gap"] = last["train/balanced_accuracy"] - last["val/balanced_accuracy"]
    return last.join(levels)


def test_the_headline_is_that_of_the_curves(said: Said) -> None:
    last = _at_the_end(said)
    last = last[last["data_fraction"] == 1]
    headline = effect_sentences(said.analysis)[0]
    train, validation = (f"{100 * last[f'{part}/balanced_accuracy'].mean():.1f} %" for part in ("train", "val"))
    seeds = last.groupby("seed")["balanced gap"].mean()
    half = stats.t.ppf(0.975, 2) * seeds.std() / math.sqrt(3)
    gap = [f"{100 * number:+.1f}" for number in (seeds.mean(), seeds.mean() - half, seeds.mean() + half)]
    assert (
        f"the gap is {gap[0]} [{gap[1]}, {gap[2]}] points on average over all 6 finished trials on all training"
        in headline
    )
    assert f"(balanced train {train}, validation {validation}; interval over 3 seeds)" in headline
    assert f"<dt>Mean gap</dt><dd>{100 * last['balanced gap'].mean():+.1f}</dd>" in said.page


@pytest.mark.parametrize(
    ("factor", "change"), [("dropout", "dropout 0.4 instead of 0"), ("data_fraction", "2 times the training images")]
)
def test_effects_are_those_of_the_curves(said: Said, factor: str, change: str) -> None:
    last = _at_the_end(said)
    other = {"dropout": "data_fraction", "data_fraction": "dropout"}[factor]
    lines = [text.lower() for text in said.terminal.splitlines()]
    (line,) = [text for text in lines if text.startswith(change) and "points" not in text]
    (row,) = [row for row in said.rows if row and row[0].lower() == change]
    for outcome, name in (("gap_accuracy", "gap"), ("val_accuracy", "val/accuracy")):
        wide = last.pivot_table(index=["seed", other], columns=factor, values=name, aggfunc="first").astype(float)
        differences = (wide[wide.columns[1]] - wide[wide.columns[0]]).groupby("seed").mean()
        effects = said.effects[said.effects["second"].isna() & (said.effects["outcome"] == outcome)]
        (effect,) = effects[(effects["factor"] == factor) & (effects["basis"] == "epochs")].to_dict("records")
        assert effect["estimate"] == pytest.approx(differences.mean())
        low, high = 100 * effect["low"], 100 * effect["high"]
        cell = f"{100 * differences.mean():+.1f} [{low:+.1f}, {high:+.1f}]"
        assert cell in line
        assert cell in row
