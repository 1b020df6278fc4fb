"""A factorial that stops when its question is answered, through the real driver: looks, stops, resumes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fake_executor
import pytest
from fake_executor import FakeExecutor
from pictures import leave_out_pictures

from cnnstudy.config.load import load_study
from cnnstudy.config.schema import StudyConfig
from cnnstudy.errors import StudyChangedError, WorkerError
from cnnstudy.execution import Workers
from cnnstudy.names import Tag, last_name
from cnnstudy.records import TrialResult, TrialSpec
from cnnstudy.results import terminal
from cnnstudy.results.watch import describe_progress, first_snapshot
from cnnstudy.study import looks
from cnnstudy.study.dry_run import plan_study
from cnnstudy.study.run import Outcome, run_study
from cnnstudy.system.display import PlainDisplay
from cnnstudy.tracking.client import Tracker
from cnnstudy.tracking.recorded import RecordedRun

FILE = """
name: fake
data: {name: digits, classes: [0, 1, 2]}
image_size: 64
architectures: [alexnet]
factors: {batch_size: [8, 32]}
training: {epochs: 1}
strategy: {kind: factorial, seeds: {least: 3, most: 6}, precision: 0.001}
"""
#: What the seeds add to the validation accuracy of the second cell: clear after three, and never clear.
CLEAR, UNCLEAR = (0.3, 0.28, 0.32, 0.3, 0.29, 0.31), (0.0, 0.2, -0.05, 0.25, 0.0, 0.1)


class Desk:
    """Runs a study of two cells on one database, as the command does."""

    def __init__(self, folder: Path, tracker: Tracker) -> None:
        self.tracker, self.file = tracker, folder / "fake.yaml"
        self.file.write_text(FILE, encoding="utf-8")
        self.said: list[str] = []
        self.executor: FakeExecutor | None = None

    def _workers(self, differences: tuple[float, ...], **script: Any) -> Workers:
        accuracy = {f"alexnet-{2 * seed:03d}": 0.4 for seed in range(6)}
        accuracy |= {f"alexnet-{2 * seed + 1:03d}": 0.4 + more for seed, more in enumerate(differences)}
        self.executor = None

        def make(folder: Path) -> FakeExecutor:
            self.executor = FakeExecutor(folder, accuracy=accuracy, **script)
            return self.executor

        return Workers(make)

    def run(self, differences: tuple[float, ...], *overrides: str, **script: Any) -> Outcome:
        self.said.clear()
        study = load_study(str(self.file), overrides)
        return run_study(study, self.tracker, self._workers(differences, **script), PlainDisplay(self.said.append))

    def plan(self, *overrides: str) -> list[str]:
        self.said.clear()
        study = load_study(str(self.file), overrides)
        plan_study(study, self.tracker, self._workers(CLEAR), PlainDisplay(self.said.append))
        return self.said

    @property
    def trained(self) -> int:
        return 0 if self.executor is None else len(self.executor.trials)

    def looks(self) -> list[str]:
        return [line for line in self.said if line.startswith("The number of seeds follows from the results")]

    def own(self) -> RecordedRun:
        (run,) = (run for run in self.tracker.runs(self.tracker.study("fake").experiment_id) if run.kind == "study")
        return run


@pytest.fixture
def desk(own_places: Path, tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> Desk:
    leave_out_pictures(monkeypatch)

    def measure_end(spec: TrialSpec, best: dict[str, float], *more: Any) -> TrialResult:
        result = original(spec, best, *more)
        ends = {last_name(name): best[name] for name in ("gap/accuracy", "val/accuracy", "train/accuracy")}
        return dataclasses.replace(result, final={**result.final, **ends})

    original = fake_executor._result
    monkeypatch.setattr(fake_executor, "_result", measure_end)
    return Desk(own_places, tracker)


def test_it_stops_when_the_answer_is_clear_and_says_so_everywhere(desk: Desk) -> None:
    outcome = desk.run(CLEAR)
    assert (outcome.finished, outcome.missing, desk.trained) == (6, 0, 6)
    (told,) = desk.looks()
    assert "3 of at most 6 have run, look 1: it stops. Of 1 answer: 1 told." in told
    assert (desk.own().tags[Tag.STOPPED], desk.own().state) == ("3", "finished")
    (found,) = terminal.analyze_study(desk.tracker, desk.tracker.study("fake"))
    assert found.question.progress == told, "effects and report say what the driver said"
    (effect,) = found.main_effects(found.question.column)
    assert effect.answer == "lowers"
    progress = describe_progress("fake", first_snapshot(desk.tracker, desk.tracker.study("fake")))
    assert "0 missing" in progress
    assert "it is done" in progress
    assert desk.run(CLEAR).finished == 6
    assert desk.trained == 0, "it asks again and gets the same answer"
    assert desk.looks() == [told]
    planned = desk.plan()
    assert planned[0].endswith("= 6 trials (6 recorded, 0 to run)")
    assert planned[-1] == "  it stopped, with at most 6 seeds planned, because its question is answered"


def test_it_goes_on_while_the_answer_is_open_up_to_the_most(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    said = [(False, "open after 3"), (False, "open after 4"), (False, "open after 5")]
    monkeypatch.setattr(looks, "_ask", lambda config, runs: said.pop(0))
    outcome = desk.run(UNCLEAR)
    assert (outcome.finished, outcome.missing, desk.trained) == (12, 0, 12)
    assert [line[-1] for line in desk.said if line.startswith("open after ")] == ["3", "4", "5"]
    assert desk.own().tags[Tag.STOPPED] == ""


@pytest.mark.parametrize("at", [3, 16])
def test_interrupted_anywhere_it_ends_as_the_whole(desk: Desk, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """In the first seed, and in the seed after the first look."""
    asked: list[int] = []

    def ask(config: StudyConfig, runs: Sequence[RecordedRun]) -> tuple[bool, str]:
        asked.append(len({run.seed for run in runs if run.kind == "trial" and run.done}))
        return asked[-1] == 5, f"{asked[-1]} seeds"

    monkeypatch.setattr(looks, "_ask", ask)
    stopped = desk.run(UNCLEAR, interrupt_at=at)
    assert stopped.interrupted
    assert stopped.missing == 12 - stopped.finished
    before, first = len(asked), stopped.finished
    assert (before, first >= 6) == ((1, True) if at == 16 else (0, False))
    outcome = desk.run(UNCLEAR)
    assert (outcome.finished, outcome.missing, desk.trained) == (10, 0, 10 - first)
    assert asked == [3, 4, 5], "no look is made twice once its next seed has begun"


def test_a_look_that_cannot_be_computed_is_told_and_made_again(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(looks, "PROGRAM", ("-c", "raise SystemExit('no memory')"))
        with pytest.raises(WorkerError, match="whether the study's question is answered can't be computed: no memory"):
            desk.run(CLEAR)
    outcome = desk.run(CLEAR)
    assert (outcome.finished, outcome.missing, desk.trained) == (6, 0, 0)
    assert "it stops" in desk.looks()[0]


def test_the_number_of_looks_is_fixed_and_the_precision_is_not(desk: Desk) -> None:
    desk.run(CLEAR)
    for change, shown in (
        ("strategy.seeds={least: 3, most: 9}", "strategy.seeds: 6 -> 9"),
        ("strategy={kind: factorial, seeds: 6}", "strategy.least_seeds: 3 -> null"),
    ):
        with pytest.raises(StudyChangedError) as refused:
            desk.run(CLEAR, change)
        assert shown in str(refused.value)
    assert desk.run(CLEAR, "strategy.precision=0.5").finished == 6


def test_a_dry_run_tells_the_fewest_and_the_most(desk: Desk) -> None:
    said = desk.plan("strategy.precision=0.025")
    assert said[0] == "factorial: 1 network x 2 cells x 3 to 6 seeds = 6 to 12 trials (0 recorded, at most 12 to run)"
    assert said[2] == (
        "  it stops after 3 seeds or more, as soon as each answer to its question is told, known to within 2.5 points "
        "or unlikely to be with all seeds; estimates are for all"
    )
    assert any(line.startswith("  power: with 6 seeds, the most, and ") for line in said)
