from __future__ import annotations

import importlib
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from scipy import stats

from cnnstudy.analysis.confirmation import (
    BEHIND,
    CHAMPION,
    FAILED,
    OUTSIDE_LIMITS,
    TIED,
    UNLEARNT,
    Candidate,
    Standing,
    best_single_trial,
    compare_candidates,
    median_seed,
    rank_candidates,
    standing_from_json,
    standing_to_json,
)
from cnnstudy.analysis.resampled import Division
from cnnstudy.names import CROSSED_METRICS, crossed_name
from cnnstudy.records import Rule
from cnnstudy.tracking.recorded import RecordedRun

ACCURACY = Rule("val/accuracy")


def candidate(number: int, searched: float = 0.8) -> Candidate:
    levels = {"transfer": "scratch", "batch_size": 8 * (number + 1), "dropout": 0.5}
    return Candidate("alexnet", number, levels, searched, 0.1)


def measured(values: Sequence[float | None], gap: float = 0.1) -> dict[int, dict[str, float] | None]:
    return {
        10_000 + seed: None if value is None else {"val/accuracy": value, "val/loss": 1 - value, "gap/accuracy": gap}
        for seed, value in enumerate(values)
    }


def named(found: Sequence[Standing]) -> dict[int, str]:
    return {one.candidate.number: one.standing for one in found}


# ---- candidates


def finished(make_run: Any, number: int, accuracy: float, **changes: Any) -> RecordedRun:
    levels = {"batch_size": changes.pop("batch_size", 8 * (number + 1))}
    metrics = changes.pop("metrics", {})
    tags = {"cnnstudy.number": str(number), **changes.pop("tags", {})}
    run = make_run(number, accuracy, levels, tags=tags, **changes)
    every = {"best/train_loss": 0.1, "best/gap_loss": 0.9 - accuracy}
    return replace(run, metrics={**run.metrics, **every, **metrics})


def test_candidates_are_the_best_combinations_by_the_mean_of_their_trials(make_run: Any) -> None:
    runs = [
        finished(make_run, 0, 0.9, batch_size=8),
        finished(make_run, 1, 0.5, batch_size=8),
        finished(make_run, 2, 0.75, batch_size=16),
        finished(make_run, 3, 0.6, batch_size=32),
        finished(make_run, 4, 0.99, state="pruned"),
    ]
    found = rank_candidates(runs, ACCURACY, 2)
    assert [(one.trial, round(one.searched, 3)) for one in found] == [("alexnet-002", 0.75), ("alexnet-000", 0.7)]
    assert found[0].title == "alexnet, scratch, batch size 16, dropout 0.5"
    assert best_single_trial(runs, ACCURACY) is runs[0], "the naive best is one lucky trial"


def test_candidates_within_the_limits_come_first_and_those_that_learnt_nothing_never(make_run: Any) -> None:
    runs = [
        finished(make_run, 0, 0.9, metrics={"best/gap_accuracy": 0.3}),
        finished(make_run, 1, 0.7, metrics={"best/gap_accuracy": 0.05}),
        finished(make_run, 2, 0.2, metrics={"best/gap_accuracy": 0.0}, tags={"cnnstudy.verdict": "not-learning"}),
    ]
    found = rank_candidates(runs, Rule("val/accuracy", maximum_gap=0.1), 5)
    assert [one.trial for one in found] == ["alexnet-001", "alexnet-000"]
    floor = rank_candidates(runs, Rule("val/accuracy", maximum_gap=0.1, minimum_accuracy=0.8), 5)
    # the one lacks 10 points of accuracy, the other has 20 points of gap too much
    assert [one.trial for one in floor] == ["alexnet-001", "alexnet-000"]
    assert rank_candidates([runs[2]], ACCURACY, 5) == []
    assert best_single_trial([], ACCURACY) is None


def test_cross_fitted_accuracies_rank_where_all_trials_have_them(make_run: Any) -> None:
    crossed = {**{crossed_name(name): 0.7 for name in CROSSED_METRICS}, "crossed/gap_accuracy": 0.1}
    lucky = finished(make_run, 0, 0.9, metrics={**crossed, "crossed/val_accuracy": 0.6})
    steady = finished(make_run, 1, 0.8, metrics={**crossed, "crossed/val_accuracy": 0.79})
    found = rank_candidates([lucky, steady], ACCURACY, 2)
    assert [(one.trial, one.searched, one.searched_gap) for one in found] == [
        ("alexnet-001", 0.79, 0.1),
        ("alexnet-000", 0.6, 0.1),
    ]
    # one trial of an older version: flattered and honest values are not compared with each other
    older = finished(make_run, 2, 0.85)
    assert [one.searched for one in rank_candidates([lucky, steady, older], ACCURACY, 3)] == [0.9, 0.85, 0.8]


def test_by_loss_the_lowest_is_best(make_run: Any) -> None:
    runs = [finished(make_run, n, 0.5, metrics={"best/val_loss": loss}) for n, loss in enumerate((0.9, 0.4, 0.6))]
    assert [one.trial for one in rank_candidates(runs, Rule("val/loss"), 2)] == ["alexnet-001", "alexnet-002"]


# ---- standings


def test_the_best_by_mean_is_champion_and_what_is_clearly_worse_is_behind() -> None:
    found = compare_candidates(
        [
            (candidate(0), measured([0.70, 0.72, 0.71, 0.69, 0.70])),
            (candidate(1), measured([0.80, 0.82, 0.81, 0.79, 0.80])),
            (candidate(2), measured([0.79, 0.83, 0.80, 0.80, 0.79])),
        ],
        ACCURACY,
        division=Division(300, 100),
    )
    assert [one.candidate.number for one in found] == [1, 2, 0]
    assert named(found) == {1: CHAMPION, 2: TIED, 0: BEHIND}


def test_pairs_count_and_not_the_spread_between_seeds() -> None:
    """A seed that is hard for both candidates does not hide that one is always better."""
    hard = [0.5, 0.9, 0.6, 0.8, 0.7]
    found = compare_candidates(
        [
            (candidate(0), measured(hard)),
            (candidate(1), measured([value - 0.02 - 0.001 * i for i, value in enumerate(hard)])),
        ],
        ACCURACY,
    )
    assert named(found) == {0: CHAMPION, 1: BEHIND}


def test_equal_candidates_are_tied_and_a_constant_difference_is_none_of_chance() -> None:
    values = [0.5, 0.6, 0.7]
    same = compare_candidates([(candidate(0), measured(values)), (candidate(1), measured(values))], ACCURACY)
    assert named(same) == {0: CHAMPION, 1: TIED}
    less = [value - 0.3 for value in values]
    pair = [(candidate(0), measured(values)), (candidate(1), measured(less))]
    assert named(compare_candidates(pair, ACCURACY, division=Division(300, 100))) == {0: CHAMPION, 1: BEHIND}
    # of how many images these are shares is not known, so neither is what chance explains
    assert named(compare_candidates(pair, ACCURACY)) == {0: CHAMPION, 1: TIED}


def test_one_image_less_is_no_difference_and_perfect_seeds_are_not_certain() -> None:
    division = Division(180, 45)
    best, rival = compare_candidates(
        [(candidate(0), measured([1.0] * 5)), (candidate(1), measured([44 / 45] * 5))], ACCURACY, division=division
    )
    assert (best.standing, rival.standing) == (CHAMPION, TIED)
    assert best.low is not None
    assert best.low < 0.95
    assert best.high == 1.0


def test_two_seeds_decide_nothing() -> None:
    pair = [(candidate(0), measured([0.9, 0.92])), (candidate(1), measured([0.5, 0.52]))]
    found = compare_candidates(pair, ACCURACY, division=Division(300, 100))
    assert named(found) == {0: CHAMPION, 1: TIED}
    assert all(one.low is not None and one.high is not None and 0 <= one.low < one.high <= 1 for one in found)


def test_seeds_that_divide_one_pool_know_less() -> None:
    """The corrected resampled t-test: 1 / J + n_validation / n_train instead of 1 / J."""
    differences = [0.02, 0.03, 0.05, 0.01]
    pair = [
        (candidate(0), measured([0.8 + by for by in differences])),
        (candidate(1), measured([0.8] * 4)),
    ]
    assert stats.ttest_1samp(differences, 0).pvalue < 0.05
    assert named(compare_candidates(pair, ACCURACY))[1] == BEHIND
    assert named(compare_candidates(pair, ACCURACY, division=Division(3000, 1000)))[1] == TIED
    assert named(compare_candidates(pair, ACCURACY, division=Division(3000, 1000, redrawn=False)))[1] == BEHIND


def test_more_looks_ask_for_more() -> None:
    pair = [
        (candidate(0), measured([0.80, 0.82, 0.84, 0.81])),
        (candidate(1), measured([0.78, 0.79, 0.79, 0.80])),
    ]
    assert 0.025 < stats.ttest_1samp([0.02, 0.03, 0.05, 0.01], 0).pvalue < 0.05
    assert named(compare_candidates(pair, ACCURACY, looks=1))[1] == BEHIND
    assert named(compare_candidates(pair, ACCURACY, looks=2))[1] == TIED


def test_limits_hold_on_average_and_a_failed_seed_is_no_champion() -> None:
    rule = Rule("val/accuracy", maximum_gap=0.12)
    found = compare_candidates(
        [
            (candidate(0), measured([0.9, 0.91, 0.92], gap=0.2)),
            (candidate(1), measured([0.7, 0.71, 0.72], gap=0.1)),
            (candidate(2), measured([0.95, None, 0.96], gap=0.1)),
        ],
        rule,
    )
    assert named(found) == {1: CHAMPION, 0: OUTSIDE_LIMITS, 2: FAILED}
    assert [one.failed for one in found] == [0, 0, 1]
    none = compare_candidates(
        [(candidate(0), measured([0.9, 0.9], gap=0.2)), (candidate(2), measured([None, None]))], rule
    )
    assert [one.standing for one in none] == [OUTSIDE_LIMITS, FAILED]
    assert math.isnan(none[1].mean)
    assert standing_to_json(none[1])["mean"] is None
    json.dumps([standing_to_json(one) for one in none], allow_nan=False)


@pytest.mark.parametrize("rule", [ACCURACY, Rule("val/accuracy", maximum_gap=0.12)])
@pytest.mark.parametrize("verdict", ["not-learning", "diverged"])
def test_what_learnt_nothing_with_any_seed_is_no_champion(rule: Rule, verdict: str) -> None:
    """Its gap of 0 is within any limit, but it can't be champion, with limits or without."""
    silent, other = (candidate(0), measured([0.5, 0.5], gap=0.0)), (candidate(1), measured([0.4, 0.42], gap=0.1))
    told = {silent[0].trial: [verdict, verdict], other[0].trial: ["overfit", "not-learning"]}
    found = compare_candidates([silent, other], rule, verdicts=told)
    assert [(one.candidate.number, one.standing, one.keeps) for one in found] == [
        (1, CHAMPION, True),
        (0, UNLEARNT, False),
    ]
    (alone,) = compare_candidates([silent], rule, verdicts=told)
    assert (alone.standing, alone.keeps) == (UNLEARNT, False)


def test_many_rivals_are_corrected_by_holm() -> None:
    """The same three differences (p = 0.03) are significant for one rival, but not for two."""
    differences = [0.02, 0.03, 0.05, 0.01]
    best, less = [0.8, 0.81, 0.82, 0.83], lambda: measured([0.8 + 0.01 * i - by for i, by in enumerate(differences)])
    assert 0.025 < stats.ttest_1samp(differences, 0).pvalue < 0.05
    assert named(compare_candidates([(candidate(0), measured(best)), (candidate(1), less())], ACCURACY))[1] == BEHIND
    both = [(candidate(0), measured(best)), (candidate(1), less()), (candidate(2), less())]
    assert set(named(compare_candidates(both, ACCURACY)).values()) == {CHAMPION, TIED}


def test_a_standing_is_read_as_it_was_written() -> None:
    for one in compare_candidates(
        [(candidate(0), measured([0.7, 0.72])), (candidate(12), measured([0.6, None]))], ACCURACY
    ):
        assert standing_from_json(json.loads(json.dumps(standing_to_json(one))), ACCURACY.maximize) == one
    (alone,) = compare_candidates([(candidate(3), measured([None]))], ACCURACY)
    again = standing_from_json(standing_to_json(alone), ACCURACY.maximize)
    assert repr(again) == repr(alone), "its mean is not a number"


def test_the_interval_allows_for_the_choice_on_its_flattering_side_only() -> None:
    values = [0.70, 0.74, 0.71, 0.69, 0.73]
    mean, error = np.mean(values), np.std(values, ddof=1) / math.sqrt(5)
    best = compare_candidates([(candidate(n), measured([v - 0.1 * n for v in values])) for n in range(4)], ACCURACY)[0]
    # Wilson's ends differ a little from those of the t-interval
    assert best.high == pytest.approx(mean + stats.t.ppf(0.975, 4) * error, abs=2e-3)
    assert best.low == pytest.approx(mean - stats.t.ppf(1 - 0.025 / 4, 4) * error, abs=3e-3)
    alone = compare_candidates([(candidate(0), measured(values))], ACCURACY)[0]
    assert (alone.low, alone.high) == pytest.approx(stats.t.interval(0.95, 4, mean, error), abs=2e-3)
    losses = compare_candidates(
        [(candidate(n), measured([v - 0.1 * n for v in values])) for n in range(4)], Rule("val/loss")
    )[0]
    assert losses.mean - losses.low < losses.high - losses.mean, "there a loss that is too low flatters"


def test_the_typical_seed_is_the_median_one() -> None:
    assert median_seed(compare_candidates([(candidate(0), measured([0.9, 0.1, 0.5]))], ACCURACY)[0]) == 10_002
    assert median_seed(compare_candidates([(candidate(0), measured([0.9, 0.1, 0.5, 0.6]))], ACCURACY)[0]) == 10_002


# ---- a search whose true values are known


@pytest.fixture
def champions(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    return importlib.import_module("champions")


def test_the_champions_interval_covers_the_truth_and_that_of_the_best_epoch_does_not(champions: ModuleType) -> None:
    scenario, rng = champions.Scenario(12, 200), np.random.default_rng(5)
    found = [champions.simulate(scenario, rng) for _ in range(20)]
    assert sum(one.covered for one in found) >= 17
    assert sum(one.covered_by_t(one.flattered) for one in found) <= 14
    assert np.mean([np.mean(one.flattered) - one.truth for one in found]) > 0.02
    assert abs(np.mean([one.champion.mean - one.truth for one in found])) < 0.03
