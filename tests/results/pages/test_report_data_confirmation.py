"""A recorded confirmation, as the page shows it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cnnstudy.analysis.confirmation import confirmation_from_json
from cnnstudy.analysis.confirmation_text import STANDING_HEADINGS, confirmation_sentences
from cnnstudy.results.pages.effect_figures import candidate_forest
from cnnstudy.results.pages.report_data import ConfirmationData, read_confirmation

from .example_study import confirmation

LOSS = {"metric": "val/loss", "maximum_gap": None, "minimum_accuracy": None}


def confirmed(**changes: Any) -> ConfirmationData:
    return read_confirmation(confirmation(**changes))


def test_the_page_says_what_the_terminal_says() -> None:
    sentences = confirmation_sentences(confirmed().record)
    assert sentences == confirmation_sentences(confirmation_from_json(confirmation()))
    assert sentences[0].startswith("Champion: alexnet-000 (alexnet, scratch, batch size 8), ")


def test_the_table() -> None:
    found = confirmed()
    assert found.headings == STANDING_HEADINGS
    assert found.rows[0] == [
        "alexnet-000: scratch, batch size 8", "85.0 %", "86.0 %", "[83.0, 89.0]", "+6.0", "2", "champion"
    ]  # fmt: skip


@pytest.mark.parametrize(("rule", "axis", "percent"), [({}, "accuracy, %", 100.0), (LOSS, "loss, nats", 1.0)])
def test_accuracies_are_in_percent_and_losses_in_nats(rule: dict[str, Any], axis: str, percent: float) -> None:
    found = confirmed(**({"rule": rule} if rule else {}))
    assert (found.axis, found.percent) == (f"validation {axis}", percent)
    assert found.tested == 0.84


def test_without_a_champion() -> None:
    found = confirmed(champion=None, test=None)
    assert (found.champion, found.test, found.tested) == (None, None, None)


def test_a_candidate_all_of_whose_seeds_failed_is_in_the_table_and_the_figure() -> None:
    data = json.loads(confirmation())
    nothing = {"seeds": [], "values": [], "gaps": [], "mean": None, "low": None, "high": None, "gap": None}
    data["candidates"][2] |= {**nothing, "failed": 2, "standing": "failed"}
    found = read_confirmation(json.dumps(data))
    assert found.rows[2][2:] == ["", "", "", "0, 2 failed", "failed"]
    shown = [text.get_text() for text in candidate_forest(found).axes[0].texts]
    assert any("alexnet-002: failed" in text for text in shown)
