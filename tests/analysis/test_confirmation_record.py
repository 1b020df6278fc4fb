"""The record of a confirmation is read as it was written."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from cnnstudy.analysis.confirmation import (
    Candidate,
    ChampionTest,
    Confirmation,
    compare_candidates,
    confirmation_from_json,
    confirmation_to_json,
    describe_other_champion,
)
from cnnstudy.records import Rule

RULE = Rule("val/accuracy", maximum_gap=0.1)
TEST = ChampionTest(
    "2026-11-24T13:00:00+00:00", "vgg16-003", ("a", "b"), 1, 50, "d", (0.7, 0.8), (0.6, 0.4), 0.75, 0.6, 0.9
)


def confirmed(rule: Rule = RULE, test: ChampionTest | None = TEST, **changes: Any) -> Confirmation:
    def measured(value: float) -> dict[str, float]:
        shares = dict.fromkeys(("val/accuracy", "val/balanced_accuracy", "val/macro_f1"), value)
        return {**shares, "val/loss": 1 - value, "gap/accuracy": 0.05}

    levels = {"transfer": "frozen", "batch_size": 8, "dropout": 0.25}
    best, failed = (
        Candidate("vgg16", 3, levels, 0.9, 0.08),
        Candidate("vgg16", 12, {**levels, "batch_size": 16}, 0.8, 0.0),
    )
    found = compare_candidates([(failed, {1: None, 2: None}), (best, {1: measured(0.8), 2: measured(0.84)})], rule)
    whole = Confirmation(rule, tuple(found), ("vgg16-012", 0.9), found[0], "models:/m", "2", "the best", test)
    return dataclasses.replace(whole, **changes)


@pytest.mark.parametrize(
    "written",
    [
        confirmed(),
        confirmed(test=dataclasses.replace(TEST, confusion=((3, 1), (0, 4)))),
        confirmed(test=None, refusal="it was opened for another"),
        confirmed(champion=None, test=None, model="", version="", reason="of 2 candidates 2 failed"),
    ],
)
def test_what_is_written_is_read(written: Confirmation) -> None:
    text = json.dumps(confirmation_to_json(written), allow_nan=False)
    # compared by repr, because NaN does not equal itself
    assert repr(confirmation_from_json(text)) == repr(written)


def test_an_alias_that_was_moved_is_told_of() -> None:
    record = json.dumps(confirmation_to_json(confirmed()))
    assert describe_other_champion("mine", record, "2", "mine/vgg16-003") == ""
    assert describe_other_champion("mine", None, "2", "") == "", "there is nothing to disagree with"
    assert describe_other_champion("mine", "no record", "2", "") == "", "`report` says that"
    assert describe_other_champion("mine", record, "7", "") == (
        "the alias `champion` of mine leads to version 7, of no trial, but the study's confirmation named version 2, "
        "of mine/vgg16-003"
    )
    assert describe_other_champion("mine", record, "", "") == (
        "the alias `champion` of mine is gone, but the study's confirmation named version 2, of mine/vgg16-003"
    )
    none = json.dumps(confirmation_to_json(confirmed(champion=None, test=None, model="", version="")))
    assert describe_other_champion("mine", none, "1", "other/alexnet-000") == (
        "the alias `champion` of mine leads to version 1, of other/alexnet-000, but the study's confirmation named no "
        "champion"
    )
    assert describe_other_champion("mine", none, "", "") == ""


def test_what_a_later_version_adds_is_passed_over() -> None:
    data = confirmation_to_json(confirmed())
    data["candidates"][0]["colour"] = data["test"]["colour"] = data["colour"] = "green"
    assert repr(confirmation_from_json(json.dumps(data))) == repr(confirmed())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "it is not JSON"),
        ("", "it is not JSON"),
        ("[]", "wrong type"),
        ("null", "wrong type"),
        ("{}", "the key 'candidates' is missing"),
        ({"candidates": None}, "wrong type"),
        ({"candidates": [{"trial": "a-1"}]}, "the key 'levels' is missing"),
        ({"test": {}}, "the key 'opened' is missing"),
        ({"rule": {"minimum": 0.1}}, "wrong type"),
        ({"best_validation": {"trial": "a", "value": "much"}}, "wrong type"),
        ({"champion": "vgg16-999"}, "its champion 'vgg16-999' is not among its candidates"),
    ],
)
def test_what_confirming_did_not_write_says_why(text: str | dict[str, Any], message: str) -> None:
    given = text if isinstance(text, str) else json.dumps({**confirmation_to_json(confirmed()), **text})
    with pytest.raises(ValueError, match=message):
        confirmation_from_json(given)


def test_the_best_score_flatters_by_accuracy_or_by_loss() -> None:
    assert confirmed().optimism == pytest.approx(0.9 - 0.75)
    by_loss = confirmed(Rule("val/loss"), best_validation=("vgg16-012", 0.3))
    assert (by_loss.tested, by_loss.optimism) == (pytest.approx(0.5), pytest.approx(0.2))
    test = dataclasses.replace(TEST, confusion=((90, 10, 0), (3, 3, 0), (0, 0, 0)))
    balanced = confirmed(Rule("val/balanced_accuracy"), best_validation=("vgg16-012", 0.8), test=test)
    assert (balanced.tested, balanced.optimism) == (pytest.approx((0.9 + 0.5) / 2), pytest.approx(0.1))
    macro = confirmed(Rule("val/macro_f1"), test=test)
    assert (macro.tested, macro.optimism) == (None, None)
    opened = dataclasses.replace(TEST, mean=None, values=(), losses=())  # and stopped before it was measured
    assert confirmed(test=opened).optimism is None
    assert confirmed(test=None).optimism is None
