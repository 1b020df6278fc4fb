"""Two studies' champions: confirmed ones, best trials in their place, and the difference."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from typing import Any

import pytest
from scipy import stats

from cnnstudy.analysis.comparison_champions import CONFIRMED, UNCONFIRMED, Champion, compare_champions, find_champion
from cnnstudy.names import CROSSED_METRICS, crossed_name
from cnnstudy.records import Rule
from cnnstudy.tracking.recorded import RecordedRun

ACCURACY, LOSS = Rule("val/accuracy"), Rule("val/loss")
VALUES = [0.80, 0.82, 0.85, 0.79, 0.84]
TEST = {"images": 200, "values": [0.8, 0.82], "mean": 0.81, "low": 0.75, "high": 0.86, "losses": [0.5, 0.4]}
TEST |= {"opened": "2026-11-24", "champion": "alexnet-003", "runs": ["a", "b"], "openings": 1, "digest": "d"}
MakeRun = Callable[..., RecordedRun]


def record(values: list[float] = VALUES, test: dict[str, Any] | None = TEST, **changes: Any) -> str:
    both = {"architecture": "alexnet", "searched": 0.9, "searched_gap": 0.1, "keeps": True, "failed": 0, "gap": 0.1}
    other = {**both, "trial": "alexnet-001", "levels": {"transfer": "scratch"}, "values": [0.1], "gaps": [0.1]}
    other |= {"seeds": [1], "mean": 0.1, "low": None, "high": None, "standing": "behind"}
    mean = sum(values) / len(values)
    best = {**both, "trial": "alexnet-003", "levels": {"transfer": "frozen"}, "values": values, "mean": mean}
    best |= {"seeds": list(range(len(values))), "gaps": [0.1] * len(values)}
    best |= {"low": mean - 0.05, "high": mean + 0.03, "standing": "champion"}
    whole = {"rule": ACCURACY.to_json(), "best_validation": {"trial": "alexnet-001", "value": 0.9}, "model": "m"}
    whole |= {"version": "1", "reason": "the best of 2", "refusal": "", "champion": "alexnet-003"}
    return json.dumps({**whole, "candidates": [other, best], "test": test, **changes})


def champion(values: list[float] = VALUES, rule: Rule = ACCURACY, test: dict[str, Any] | None = TEST) -> Champion:
    found = find_champion(record(values, test), [], rule)
    assert found is not None
    return found


def test_a_confirmed_champion_is_read_as_it_was_recorded() -> None:
    found = champion()
    assert (found.trial, found.title, found.standing) == ("alexnet-003", "alexnet, frozen", CONFIRMED)
    assert found.values == tuple(VALUES)
    assert (found.value.value, found.value.low) == pytest.approx((0.82, 0.77))
    assert found.gap == 0.1
    assert found.test is not None
    assert (found.test.value, found.test.low, found.test.high, found.test.count) == (0.81, 0.75, 0.86, 2)


@pytest.mark.parametrize("test", [None, {**TEST, "mean": None, "low": None, "high": None, "values": []}])
def test_a_test_that_was_not_measured_is_none(test: dict[str, Any] | None) -> None:
    assert champion(test=test).test is None


def test_without_confirmation_the_best_trial_stands_in(make_run: MakeRun) -> None:
    runs = [make_run(1, 0.6), make_run(2, 0.8, name="alexnet-002 frozen, batch 8"), make_run(3, 0.9, state="pruned")]
    found = find_champion(None, runs, ACCURACY)
    assert found is not None
    assert (found.trial, found.title, found.standing) == ("alexnet-002", "frozen, batch 8", UNCONFIRMED)
    assert (found.value.value, found.value.low, found.confirmed) == (0.8, None, False)
    loss = find_champion(None, runs, LOSS)
    assert loss is not None
    assert loss.value.value == pytest.approx(0.2)
    assert find_champion(None, [], ACCURACY) is None


def test_the_best_trial_is_the_one_that_the_leaderboard_shows_first(make_run: MakeRun) -> None:
    lucky, steady = make_run(1, 0.9, name="alexnet-001 a"), make_run(2, 0.8, name="alexnet-002 b")
    crossed = {crossed_name(name): 0.6 for name in CROSSED_METRICS}
    runs = [
        dataclasses.replace(lucky, metrics={**lucky.metrics, **crossed}),
        dataclasses.replace(steady, metrics={**steady.metrics, **dict.fromkeys(crossed, 0.7)}),
    ]
    found = find_champion(None, runs, ACCURACY)
    assert found is not None
    assert (found.trial, found.value.value, found.gap) == ("alexnet-002", 0.7, 0.7)


def test_where_there_is_no_champion_the_records_own_reason_is_told(make_run: MakeRun) -> None:
    found = find_champion(record(champion=None, reason="of 2 candidates 2 failed"), [make_run(1)], ACCURACY)
    assert found is not None
    assert (found.confirmed, found.standing) == (False, "best trial; no champion: of 2 candidates 2 failed")


def test_what_confirming_did_not_write_is_refused() -> None:
    with pytest.raises(ValueError, match="the key 'candidates' is missing"):
        find_champion("{}", [], ACCURACY)


def test_fresh_seeds_are_compared_by_both_recorded_intervals() -> None:
    better = [0.90, 0.91, 0.93]
    found = compare_champions(champion(), champion(better))
    assert found.value is not None
    difference = sum(better) / 3 - 0.82
    # both intervals reach 5 points down and 3 points up
    ends = (difference - math.hypot(0.05, 0.03), difference + math.hypot(0.05, 0.03))
    assert (found.value.value, found.value.low, found.value.high) == pytest.approx((difference, *ends))
    assert (found.value.sign, found.reason) == (1, "")


def test_an_interval_of_an_older_version_is_cut_at_100_percent() -> None:
    found = champion([0.98, 0.99, 1.0])
    assert (found.value.value, found.value.high) == (pytest.approx(0.99), 1.0)


def test_tests_are_compared_by_both_intervals() -> None:
    """Newcombe's interval for a difference of proportions, in his own example (1998, table II (a): 56/70 and 48/80)."""
    ends = [stats.binomtest(right, of).proportion_ci(0.95, "wilson") for right, of in ((48, 80), (56, 70))]
    tests = [
        {**TEST, "images": of, "values": [share], "mean": share, "low": end.low, "high": end.high}
        for (share, of), end in zip(((48 / 80, 80), (56 / 70, 70)), ends, strict=True)
    ]
    found = compare_champions(champion(test=tests[0]), champion(test=tests[1])).test
    assert found is not None
    assert (found.value, found.low, found.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=1e-4)
    assert compare_champions(champion(), champion(test=None)).test is None


def test_luck_is_not_compared(make_run: MakeRun) -> None:
    lucky = find_champion(None, [make_run(1, 0.95)], ACCURACY)
    found = compare_champions(champion(), lucky)
    assert found.value is not None
    assert (found.value.value, found.value.low) == (pytest.approx(0.13), None)
    assert "best trial of B was not confirmed" in found.reason
    assert "best trial of A and B was not" in compare_champions(lucky, lucky).reason


def test_what_is_chosen_by_other_metrics_is_not_compared() -> None:
    found = compare_champions(champion(), champion(rule=LOSS))
    assert found.value is None
    assert found.reason == "A is selected by val/accuracy, B by val/loss"
    assert found.test is not None  # accuracy for both
    assert compare_champions(champion(), None).value is None


@pytest.mark.parametrize("values", [[0.9], [0.9, 0.91]])
def test_fewer_than_three_fresh_seeds_decide_nothing(values: list[float]) -> None:
    found = compare_champions(champion(), champion(values))
    assert found.value is not None
    assert (found.value.low, found.reason) == (None, "that takes an interval from at least 3 fresh seeds")
