"""--json prints the sentences and numbers of the tables, as JSON that any program reads."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from study.test_confirmation import Desk
from typer.testing import CliRunner

from cnnstudy.analysis.comparison_text import comparison_sentences
from cnnstudy.analysis.confirmation_text import confirmation_sentences
from cnnstudy.analysis.effects_text import effect_sentences
from cnnstudy.analysis.named_causes import cause_sentence
from cnnstudy.cli import app
from cnnstudy.results import json_answers, terminal
from cnnstudy.tracking.client import Tracker

from .test_terminal_comparison import _plain_pictures, studies

__all__ = ["_plain_pictures", "studies"]  # fixtures


def answer(tracker: Tracker, *arguments: str) -> Any:
    """Return what a command prints, read as strict JSON."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    done = CliRunner().invoke(app, [*arguments, "--json", "--tracking-uri", tracker.uri])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout, parse_constant=refuse)


def test_the_leaderboard_has_the_rows_and_columns_of_its_csv(studies: Tracker, tmp_path: Path) -> None:
    said = answer(studies, "leaderboard", "plain", "--top", "3", "--csv", str(tmp_path / "trials.csv"))
    frame = pd.read_csv(tmp_path / "trials.csv")
    assert said["study"] == "plain"
    assert [list(trial) for trial in said["trials"]] == [list(frame.columns)] * 3
    for column in ("trial", "val_accuracy", "gap_accuracy", "batch_size"):
        assert [trial[column] for trial in said["trials"]] == list(frame[column])


def test_effects_have_the_answers_and_every_effect(studies: Tracker) -> None:
    said = answer(studies, "effects", "plain")
    found = terminal.analyze_study(studies, studies.study("plain"))
    assert [one["answers"] for one in said["networks"]] == [effect_sentences(one) for one in found]
    assert said["question"] == found[0].question.sentence()
    assert said["cause"] == (cause_sentence(found) or None)
    table = terminal.effects_table(found)
    assert len(said["effects"]) == len(table) > 0
    assert [list(effect) for effect in said["effects"]] == [list(table.columns)] * len(table)


def test_a_comparison_has_the_answers_and_the_numbers(studies: Tracker) -> None:
    said = answer(studies, "compare", "plain", "decayed")
    found = terminal.compare_recorded_studies(studies, "plain", "decayed")
    assert said["answers"] == comparison_sentences(found)
    assert (said["a"], said["b"]) == ("plain", "decayed")
    assert [one["outcome"] for one in said["outcomes"]] == [one.outcome for one in found.outcomes]
    assert said["outcomes"][0]["difference"]["value"] == found.outcomes[0].difference.value  # type: ignore[union-attr]


def test_a_confirmation_has_the_champion_and_all_candidates(tmp_path: Path, tracker: Tracker) -> None:
    desk = Desk(tmp_path, tracker)
    desk.search()
    confirmed = desk.confirm().confirmed
    assert confirmed is not None
    said = json.loads(json.dumps(json_answers.describe_confirmation("fake", confirmed), allow_nan=False))
    assert said["answers"] == confirmation_sentences(confirmed)
    assert [one["candidate"]["number"] for one in said["standings"]] == [
        one.candidate.number for one in confirmed.standings
    ]
    assert said["champion"] == said["standings"][0]


@dataclasses.dataclass
class Point:
    x: float
    _hidden: int = 0


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (math.nan, None),
        (math.inf, None),
        (np.float64(0.5), 0.5),
        (np.int64(3), 3),
        (np.bool_(True), True),
        ((1, "a", None), [1, "a", None]),
        ({1: Point(math.nan)}, {"1": {"x": None}}),
        (pd.DataFrame({"a": [1.0, math.nan]}), [{"a": 1.0}, {"a": None}]),
        (Path("folder"), "folder"),
    ],
    ids=str,
)
def test_any_value_becomes_a_type_of_json(value: Any, plain: Any) -> None:
    assert json_answers.to_json(value) == plain
