"""What `confirm` left behind, as it is read and told."""

from __future__ import annotations

import json
from typing import Any

import pytest
from example_study import confirmation

from cnnstudy.pages.confirmed import read_confirmed
from cnnstudy.pages.words import confirmation as in_words


def told(**changes: Any) -> str:
    return " ".join(in_words(read_confirmed(confirmation(**changes))))


def test_the_champion_with_its_interval_its_test_and_what_it_was_chosen_from() -> None:
    assert in_words(read_confirmed(confirmation())) == [
        "Trained again with 2 fresh seeds, the champion alexnet-000 (alexnet, scratch, batch size 8) reaches 86.0 % "
        "[83.0, 89.0] on validation, with a gap of +6.0 points; it keeps a gap of at most 10 points.",
        "It can't be told from alexnet-001 (84.0 %): tied. Any of them may be as good; choose among them by cost.",
        "The best of the study was alexnet-001; fresh seeds do not make it the champion.",
        "On the 50 test images, which nothing was chosen by, it reaches 84.0 % [80.0, 88.0] (looked at on 2026-11-24, "
        "once).",
        "The best validation of the study was 91.0 % (alexnet-001): 5.0 points better than the champion with fresh "
        "seeds and 7.0 points better than its test. So much it flatters to choose by one value.",
    ]


def test_a_study_that_did_not_flatter() -> None:
    text = told(best_validation={"trial": "alexnet-000", "value": 0.85}, optimism=-0.01)
    assert "1.0 points worse than the champion with fresh seeds and 1.0 points worse than its test." in text
    assert "flatters" not in text
    assert "do not make it" not in text


def test_without_a_test() -> None:
    text = told(test=None, optimism=None)
    assert "The test images were not looked at." in text
    assert "than its test" not in text
    assert "Not tested: it was opened before" in told(test=None, optimism=None, refusal="it was opened before")


def test_test_images_that_were_looked_at_twice() -> None:
    test = {"opened": "yesterday", "images": 50, "mean": 0.84, "low": None, "high": None, "openings": 2}
    assert "it reaches 84.0 % (looked at on yesterday, 2 times, so they are no longer untouched)" in told(test=test)


def test_no_champion() -> None:
    text = told(champion=None, reason="none keeps the rule.", test=None, optimism=None)
    assert text.startswith("No champion: none keeps the rule.")
    assert "fresh seed," not in text
    nothing = told(champion=None, reason="", test=None, optimism=None)
    assert nothing.startswith("No champion: no candidate keeps a gap of at most 10 points with fresh seeds.")


def test_why_a_candidate_is_out() -> None:
    data = json.loads(confirmation())
    data["candidates"][1]["standing"] = "breaks the rule"
    assert "Out of the running: alexnet-001 (breaks the rule)." in told(candidates=data["candidates"])


def test_by_loss() -> None:
    rule = {"metric": "val/loss", "maximum_gap": None, "minimum": None}
    text = told(rule=rule, best_validation={"trial": "alexnet-001", "value": 0.5}, optimism=0.3)
    assert "reaches 0.860 [0.830, 0.890] on validation" in text
    assert "0.500 (alexnet-001): 0.360 nats better than the champion with fresh seeds" in text


def test_a_candidate_all_of_whose_seeds_failed() -> None:
    data = json.loads(confirmation())
    data["candidates"][2] |= {"values": [], "mean": float("nan"), "low": None, "high": None, "standing": "failed"}
    confirmed = read_confirmed(json.dumps({**data}))
    assert confirmed.candidates[2].mean is None
    assert "alexnet-002 (failed)" in " ".join(in_words(confirmed))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "it is no JSON"),
        ("[]", "another type"),
        ("{}", "the key 'rule' is missing"),
        (confirmation(candidates=[{"trial": "a"}]), "the key 'values' is missing"),
        (confirmation(candidates=None), "another type"),
        (confirmation(optimism="much"), "another type"),
    ],
)
def test_what_is_no_confirmation_says_why(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_confirmed(text)
