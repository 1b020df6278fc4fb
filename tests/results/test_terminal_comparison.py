"""The comparison of two studies, from a real MLflow database to the terminal."""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from pictures import leave_out_pictures
from rich.console import Console

from cnnstudy.analysis.comparison import Comparison
from cnnstudy.analysis.comparison_champions import CONFIRMED, UNCONFIRMED
from cnnstudy.analysis.confirmation import RECORD_PATH
from cnnstudy.errors import InputError, TrackingError, UnknownNameError
from cnnstudy.names import Tag
from cnnstudy.records import TrialResult, TrialSpec
from cnnstudy.results.terminal import compare_recorded_studies, show_comparison
from cnnstudy.study.recorder import Recorder
from cnnstudy.tracking.client import Tracker

CONFIG: dict[str, Any] = {
    "objective": {"metric": "val/accuracy"},
    "architectures": ["alexnet"],
    "factors": {"batch_size": [8, 64]},
    "strategy": {"kind": "factorial", "design": "full", "seeds": 3, "tune": []},
    "training": {"epochs": 3},
}


@pytest.fixture(autouse=True)
def _plain_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes most of the time here and is tested elsewhere."""
    leave_out_pictures(monkeypatch)


def record(tracker: Tracker, name: str, spec: TrialSpec, gap: float, **config: Any) -> None:
    """A study of two batch sizes and three seeds; the larger batch adds 2 points to the gap."""
    recorder = Recorder(tracker, tracker.open_study(name, {**CONFIG, **config, "name": name}))
    many = dataclasses.replace(spec.images, train=(4000, 4000), validation=(4000, 4000))
    spec = dataclasses.replace(spec, images=many)  # accuracies of few images differ by chance
    for number, (seed, batch_size) in enumerate(itertools.product(range(3), (8, 64))):
        levels = {**spec.levels, "batch_size": batch_size}
        recording = recorder.start(dataclasses.replace(spec, number=number, seed=seed, levels=levels))
        own = gap + (0.02 if batch_size == 64 else 0.0) + 0.01 * seed + 0.001 * (number % 3)
        summary = {"val/accuracy": 0.9 - own, "train/accuracy": 0.9, "gap/accuracy": own, "val/loss": own}
        final = {f"last/{key.replace('/', '_')}": value for key, value in summary.items()}
        result = TrialResult("finished", 1, 1, 2.0, summary, ((3, 1), (0, 4)), 1, 0, None, final, verdict="overfit")
        recorder.finish(recording, result)
    interrupted = recorder.start(
        dataclasses.replace(spec, number=0, seed=0)
    )  # beside one that is done it does not count
    tracker.end_run(interrupted.run_id, "failed", {Tag.REASON: "interrupted"})


@pytest.fixture
def studies(tracker: Tracker, spec: TrialSpec) -> Tracker:
    record(tracker, "plain", spec, 0.1)
    record(tracker, "decayed", spec, 0.05, training={"epochs": 3, "weight_decay": 0.01})
    return tracker


def confirmed(tracker: Tracker, name: str, folder: Path, text: str) -> None:
    (folder / "out" / RECORD_PATH).parent.mkdir(parents=True, exist_ok=True)
    (folder / "out" / RECORD_PATH).write_text(text, encoding="utf-8")
    tracker.log_files(tracker.study(name).run_id, folder / "out")


def champion(values: list[float]) -> str:
    mean, count = sum(values) / len(values), len(values)
    of_both = {"values": values, "mean": mean}
    one = {**of_both, "trial": "alexnet-001", "architecture": "alexnet", "levels": {"transfer": "scratch"}, "gap": 0.1}
    one |= {"low": mean - 0.01, "high": mean + 0.01, "gaps": [0.1] * count, "seeds": list(range(count))}
    one |= {"searched": 0.9, "searched_gap": 0.1, "keeps": True, "failed": 0, "standing": "champion"}
    test = {**of_both, "images": 50, "low": mean - 0.1, "high": mean + 0.1, "losses": values, "openings": 1}
    test |= {"opened": "2026-11-24", "champion": "alexnet-001", "runs": ["a"], "digest": "d"}
    rule = {"metric": "val/accuracy", "maximum_gap": None, "minimum_accuracy": None}
    whole = {"rule": rule, "best_validation": {"trial": "alexnet-001", "value": 0.9}, "champion": "alexnet-001"}
    whole |= {"model": "m", "version": "1", "reason": "", "refusal": ""}
    return json.dumps({**whole, "candidates": [one], "test": test})


def shown(comparison: Comparison, width: int) -> str:
    console = Console(file=io.StringIO(), width=width)
    show_comparison(console, comparison)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_two_studies_side_by_side(studies: Tracker) -> None:
    comparison = compare_recorded_studies(studies, "plain", "decayed")
    assert (comparison.a, comparison.b) == ("plain", "decayed")
    assert [(one.key, one.a, one.b) for one in comparison.differences] == [("training.weight_decay", None, 0.01)]
    gap = comparison.outcomes[0]
    assert (gap.outcome, gap.answer, gap.pairs) == ("gap_accuracy", "lower", 6)  # without the interrupted run
    assert gap.difference is not None
    assert gap.difference.value == pytest.approx(-0.05)
    assert {(one.a.factor, one.a.level) for one in comparison.effects} == {("batch_size", 64)}
    found = comparison.champions
    assert found.a is not None
    assert found.b is not None
    assert (found.a.trial, found.a.standing) == ("alexnet-000", UNCONFIRMED)
    assert found.a.title == "scratch, batch size 8, dropout 0.5"
    assert found.value is not None
    assert (found.value.value, found.value.low) == (pytest.approx(0.05), None)


def test_what_the_terminal_shows(studies: Tracker) -> None:
    text = shown(compare_recorded_studies(studies, "plain", "decayed"), 200)
    first, *_ = text.splitlines()
    assert first.startswith("A is plain, B is decayed")
    assert "alexnet: the gap is lower in B: -5.0 [" in text
    assert "6 matched pairs over 3 seeds" in text
    for title in ("what differed", "outcomes at the end of training", "effects in points", "champions"):
        assert title in text
    assert "training.weight_decay" in text
    assert "Champion of A: alexnet-000 (scratch, batch size 8, dropout 0.5), validation accuracy " in text
    assert "Cannot tell which champion is better: +5.0 points of validation accuracy" in text


def test_a_narrow_terminal_gets_fewer_columns(studies: Tracker) -> None:
    comparison = compare_recorded_studies(studies, "plain", "decayed")
    _, _, tables = shown(comparison, 80).partition("outcomes at the end")
    assert max(map(len, tables.splitlines())) <= 80
    assert "method" not in tables
    assert "network" not in tables  # there is one only
    assert "B - A" in tables
    assert "-5.0 [" in tables
    assert "[+9" not in tables
    assert "network" in shown(comparison, 200).partition("outcomes at the end")[2]


def test_confirmed_champions(studies: Tracker, tmp_path: Path) -> None:
    confirmed(studies, "plain", tmp_path / "a", champion([0.80, 0.81, 0.79]))
    confirmed(studies, "decayed", tmp_path / "b", champion([0.85, 0.86, 0.87]))
    comparison = compare_recorded_studies(studies, "plain", "decayed")
    found = comparison.champions
    assert found.a is not None
    assert (found.a.standing, found.a.values) == (CONFIRMED, (0.80, 0.81, 0.79))
    assert found.value is not None
    assert found.value.sign == 1
    text = shown(comparison, 200)
    assert "B's champion is better with fresh seeds: +6.0 [" in text
    assert "Cannot tell which champion is better on the test split: +6.0 [-8.1, +20.1] points." in text


def test_a_confirmation_that_cannot_be_read(studies: Tracker, tmp_path: Path) -> None:
    confirmed(studies, "decayed", tmp_path, "{}")
    with pytest.raises(
        TrackingError, match=r"confirm/confirm.json of study 'decayed' can't be used: .*confirm decayed"
    ):
        compare_recorded_studies(studies, "plain", "decayed")


def test_a_study_and_itself(studies: Tracker) -> None:
    with pytest.raises(InputError, match="'plain' can't be compared with itself; give two studies"):
        compare_recorded_studies(studies, "plain", "plain")


def test_an_unknown_study(studies: Tracker) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'plain'"):
        compare_recorded_studies(studies, "decayed", "plane")


def test_text_of_others_is_no_markup(studies: Tracker, tmp_path: Path) -> None:
    record = json.loads(champion([0.8, 0.9]))
    record["candidates"][0]["levels"]["transfer"] = "[red]alexnet[/red] :smile:"
    confirmed(studies, "plain", tmp_path, json.dumps(record))
    assert "[red]alexnet[/red] :smile:" in shown(compare_recorded_studies(studies, "plain", "decayed"), 200)
