"""Cells of the page's tables."""

from __future__ import annotations

import json

import pytest

from cnnstudy.analysis.leaderboard import describe_front
from cnnstudy.results.pages.content import (
    compared_table,
    describe_missing_factors,
    facts,
    trial_table,
)
from cnnstudy.results.pages.study_page import chance_accuracy, list_illustrations

from .example_study import Example


def test_a_trial_is_named_by_what_varies_in_its_own_network() -> None:
    example = Example(seeds=1, networks=("alexnet", "vgg16"), factors={"batch_size": [8, 64], "dropout": [0.0, 0.5]})
    for run in list(example.runs):
        if run.tags["cnnstudy.architecture"] == "vgg16":
            levels = {**json.loads(run.tags["cnnstudy.levels"]), "batch_size": 32}
            example.change(run, tags={"cnnstudy.levels": json.dumps(levels)})
    _, rows = trial_table(example.report())
    words = {row.trial: row.words for row in rows}
    assert words["alexnet-001"] == "batch size 8, dropout 0.5"
    assert words["vgg16-001"] == "dropout 0.5", "all of its trials have the same batch size"


def test_a_study_in_which_nothing_was_learnt_still_has_factors_with_levels() -> None:
    report = Example(seeds=2, silent=1000).report()
    drawn = [one.description for one in list_illustrations(report) if one.section == "factors"]
    assert "alexnet: gap of each trial by batch size" in drawn
    one_level = Example(seeds=2, factors={"batch_size": [8]}).report()
    assert describe_missing_factors(one_level) == "No factor has two levels among 2 finished trials."
    assert [one for one in list_illustrations(one_level) if one.section == "factors"] == []


def test_gap_and_front_say_which_trials_count() -> None:
    example = Example(seeds=2, factors={"batch_size": [8, 64], "dropout": [0.0, 0.5]}, silent=3)
    report = example.report()
    (mean,) = [fact for fact in facts(report) if fact.name == "Mean gap"]
    gaps = [run.metrics["last/gap_accuracy"] for run in example.runs]
    assert mean.value == f"{100 * sum(gaps) / len(gaps):+.1f}"
    assert mean.note == "points after the last epoch, over 8 finished trials, of which 3 did not learn"
    front = describe_front(report.frame)
    assert front.startswith(f"{report.front.sum()} of 8 finished trials are on the Pareto front")
    assert "3 that did not learn are left out" in front


@pytest.mark.parametrize(("rows", "share"), [([[7, 1], [1, 1]], "80"), ([[5, 5], [5, 5]], "50"), (None, "50")])
def test_guessing_is_the_share_of_the_largest_class(rows: list[list[int]] | None, share: str) -> None:
    example = Example(seeds=1, factors={"batch_size": [8]}, classes=("cat", "dog"))
    text = "" if rows is None else "\n".join(["true class,cat,dog", *(f"c,{row[0]},{row[1]}" for row in rows)])
    example.texts[example.runs[0].run_id, "confusion_matrix.csv"] = text
    assert f"{100 * (chance_accuracy(example.report()) or 0):.0f}" == share


def test_trials_that_are_compared_are_counted_by_level() -> None:
    (one,) = Example(seeds=2, factors={"batch_size": [8, 64]}).report().causes
    table = compared_table(one)
    assert table.headings[:4] == ("level", "trials", "learnt", "at 30 updates")
    assert [row[0] for row in table.rows] == ["all", "batch size 8", "batch size 64"]
