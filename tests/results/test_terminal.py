"""A study's outcome on the terminal."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from cnnstudy.analysis.leaderboard import build_leaderboard, write_csv
from cnnstudy.names import Tag
from cnnstudy.records import TrialResult, TrialSpec
from cnnstudy.results import terminal
from cnnstudy.study.recorder import Recorder
from cnnstudy.study.run import Outcome
from cnnstudy.tracking.client import Tracker
from cnnstudy.tracking.recorded import RecordedRun, RecordedStudy

MakeRun = Callable[..., RecordedRun]
CONFIG = {"objective": {"metric": "val/accuracy"}}


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=120)


@pytest.fixture
def study(tracker: Tracker) -> RecordedStudy:
    return tracker.open_study("fake", CONFIG)


def text(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def record(tracker: Tracker, study: RecordedStudy, spec: TrialSpec, accuracy: float | None, verdict: str = "") -> None:
    """A finished trial, or an interrupted one."""
    recorder = Recorder(tracker, study)
    recording = recorder.start(spec)
    if accuracy is None:
        tracker.end_run(recording.run_id, "failed", {Tag.REASON: "interrupted"})
        return
    summary = {"val/accuracy": accuracy, "train/accuracy": 1.0, "gap/accuracy": 1 - accuracy, "val/loss": 1 - accuracy}
    result = TrialResult("finished", 1, 1, 2.0, summary, ((1, 0), (0, 1)), 1, 0, None)
    recorder.finish(recording, dataclasses.replace(result, verdict=verdict))


def outcome(study: RecordedStudy, **changes: object) -> Outcome:
    whole = Outcome(study, finished=1, pruned=0, failed=0, missing=0, interrupted=False)
    return dataclasses.replace(whole, **changes)  # type: ignore[arg-type]


def test_an_interrupted_trial_that_ran_again_counts_once(
    tracker: Tracker, study: RecordedStudy, spec: TrialSpec
) -> None:
    record(tracker, study, spec, None)
    (unfinished,) = terminal.trial_frame(tracker, study).to_dict("records")
    assert (unfinished["state"], unfinished["reason"]) == ("interrupted", "runs again")
    record(tracker, study, spec, 0.5)
    record(tracker, study, dataclasses.replace(spec, number=8), 0.75)
    frame = terminal.trial_frame(tracker, study)
    assert list(frame["trial"]) == ["alexnet-008", "alexnet-007"]
    assert list(terminal.trial_frame(tracker, study, "trial")["trial"]) == ["alexnet-007", "alexnet-008"]


def test_source_weights_are_not_among_the_trials(tracker: Tracker, study: RecordedStudy, spec: TrialSpec) -> None:
    record(tracker, study, dataclasses.replace(spec, purpose="pretrain"), 0.5)
    assert terminal.trial_frame(tracker, study).empty


def test_finished_trials_and_apart_from_them_the_others(console: Console, make_run: MakeRun) -> None:
    message = {"cnnstudy.message": "[Errno 12] no memory"}
    runs = [
        make_run(1, 0.5),
        make_run(2, 0.75),
        make_run(3, None, state="failed", reason="oom", tags=message),
        make_run(4, 0.9, state="pruned"),
    ]
    terminal.show_trials(console, "fake", build_leaderboard(runs, "val/accuracy"), None)
    finished, _, others = text(console).partition("not finished")
    assert finished.index("alexnet-002") < finished.index("alexnet-001")
    assert "75.0 %" in finished
    assert "alexnet-003" not in finished
    assert "alexnet-004" not in finished
    assert "oom: [Errno 12] no memory" in others
    assert "pruned" in others


def test_only_the_best(console: Console, make_run: MakeRun) -> None:
    runs = [make_run(number, 0.5 + number / 10) for number in range(4)]
    terminal.show_trials(console, "fake", build_leaderboard(runs, "val/accuracy"), 2)
    assert "alexnet-003" in text(console)
    assert "alexnet-001" not in text(console)
    assert "and 2 more" in text(console)


def test_nothing_to_show(console: Console) -> None:
    terminal.show_trials(console, "fake", build_leaderboard([], "val/accuracy"), None)
    assert text(console) == "study fake has no trials yet\n"


def test_a_study_of_failures_is_shown(console: Console, make_run: MakeRun) -> None:
    frame = build_leaderboard([make_run(1, None, state="failed", reason="diverged")], "val/accuracy")
    terminal.show_trials(console, "fake", frame, 5)
    assert "diverged" in text(console)
    assert "best first" not in text(console)


def test_the_outcome_says_what_transfer_did_and_where_to_look(
    console: Console, tracker: Tracker, study: RecordedStudy, spec: TrialSpec
) -> None:
    record(tracker, study, spec, 0.5)
    frozen = dataclasses.replace(spec, number=8, levels={**spec.levels, "transfer": "frozen"}, weights_source="random")
    record(tracker, study, frozen, 0.75)
    terminal.show_outcome(console, tracker, outcome(study, finished=2, failed=1))
    shown = text(console)
    assert "alexnet: frozen (random weights) 75.0 % (1), scratch 50.0 % (1)" in shown
    assert "Trials: 2 finished, 0 pruned, 1 failed, 0 missing" in shown
    assert "python -m cnnstudy ui fake" in shown
    assert "leaderboard fake --csv" in shown
    assert "python -m cnnstudy confirm fake" in shown
    assert "Stopped" not in shown


def test_a_stopped_study_says_that_it_goes_on(console: Console, tracker: Tracker, study: RecordedStudy) -> None:
    terminal.show_outcome(console, tracker, outcome(study, finished=0, missing=3, interrupted=True))
    shown = text(console)
    assert "0 finished, 0 pruned, 0 failed, 3 missing" in shown
    assert "Stopped; the command that ran it resumes it." in shown
    assert "champion" not in shown


@pytest.mark.parametrize("elsewhere", [False, True])
def test_what_stopped_says_by_which_command_it_goes_on(
    console: Console, tracker: Tracker, study: RecordedStudy, monkeypatch: pytest.MonkeyPatch, elsewhere: bool
) -> None:
    tracker.set_tags(study.run_id, {Tag.LAST_COMMAND: "python -m cnnstudy run-study it.yaml"})
    if elsewhere:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///other.db")
    option = f" --tracking-uri {tracker.uri}" if elsewhere else ""
    line = f"Stopped; `python -m cnnstudy run-study it.yaml{option}` resumes it.\n"
    stopped = outcome(study, finished=0, missing=3, interrupted=True)
    terminal.show_stopped(console, tracker, stopped)
    assert text(console) == line
    terminal.show_outcome(console, tracker, stopped)
    assert text(console).count(line) == 2


def test_where_nothing_learnt_there_is_advice_instead_of_confirming(
    console: Console, tracker: Tracker, study: RecordedStudy, spec: TrialSpec
) -> None:
    record(tracker, study, spec, 0.5, "not-learning")
    terminal.show_outcome(console, tracker, outcome(study))
    assert "python -m cnnstudy confirm" not in text(console)
    assert "No champion: no trial has learnt anything. Try more epochs, a higher learning rate" in text(console)


def test_csv_files_without_trials_have_their_header(tracker: Tracker, tmp_path: Path) -> None:
    study = tracker.open_study(
        "empty", {**CONFIG, "factors": {"batch_size": [8, 16], "transfer": ["scratch", "frozen"]}}
    )
    frame = terminal.trial_frame(tracker, study)
    assert frame.empty
    for table, some in ((frame, {"trial", "batch_size", "val_accuracy"}), (terminal.effects_table([]), {"answer"})):
        write_csv(table, tmp_path / "table.csv")
        (header,) = (tmp_path / "table.csv").read_text(encoding="utf-8").splitlines()
        assert some <= set(header.split(","))


@pytest.mark.parametrize(("columns", "shown"), [(3, 5), (7, 3)])
def test_a_table_of_effects_leaves_out_what_would_squeeze_the_change(columns: int, shown: int) -> None:
    console = Console(file=io.StringIO(), width=160)
    headings = ["change", *(f"outcome {number}" for number in range(columns)), "the gap"]
    change = "strong augmentation instead of none"
    terminal._show_effect_rows(console, "effects", headings, [[change, *["-21.9 [-29.9, -13.9]"] * columns, "lowers"]])
    (row,) = [line for line in text(console).splitlines() if "lowers" in line]
    assert row.startswith(change)
    assert row.count("[") == shown - 2
