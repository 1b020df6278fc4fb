"""Verdicts over all seeds of a configuration, and the configurations of a study."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from cnnstudy.analysis.configurations import judge_cell, list_configurations
from cnnstudy.errors import InputError
from cnnstudy.tracking.recorded import RecordedRun, split_into_tags
from cnnstudy.training.verdict import Counts

MakeRun = Callable[..., RecordedRun]

PERFECT = Counts((80, 80), (80, 80), (80, 80), (80, 80))
LEARNT_BY_HEART = Counts((80, 80), (80, 80), (70, 72), (80, 80))
GUESSES = Counts((41, 40), (80, 80), (38, 41), (80, 80))


@pytest.mark.parametrize(
    ("seeds", "expected"),
    [
        ([LEARNT_BY_HEART] * 3, "overfit"),
        ([GUESSES] * 3, "not-learning"),
        ([GUESSES] * 2 + [PERFECT], "not-learning"),
        ([PERFECT] * 2 + [GUESSES] * 2, "cannot-tell"),  # half of the seeds
        ([PERFECT] * 2, "cannot-tell"),  # two equal seeds are no proof that all are
        ([PERFECT] * 6, "fit"),
        ([Counts((60, 60), (80, 80), (58, 59), (80, 80))] * 5, "underfit"),
    ],
)
def test_each_rule(seeds: list[Counts], expected: str) -> None:
    verdict = judge_cell(seeds)
    assert verdict.name == expected, verdict.reason
    assert verdict.seeds == len(seeds)


def test_intervals_stay_within_0_and_100_percent_and_are_never_of_width_0() -> None:
    verdict = judge_cell([PERFECT] * 2, own_divisions=True)
    for estimate in (verdict.train, verdict.validation, verdict.gap):
        assert estimate.low is not None
        assert estimate.high is not None
        assert -1 <= estimate.low < estimate.high <= 1
    assert verdict.validation.high == 1


def test_one_seed_has_the_verdict_of_its_trial() -> None:
    verdict = judge_cell([LEARNT_BY_HEART])
    assert verdict.name == "overfit"
    assert math.isnan(verdict.spreads[2])
    assert "over 1 seed" in verdict.sentence()


def test_the_sentence_has_the_means_their_intervals_and_their_spread() -> None:
    other = Counts((80, 80), (80, 80), (76, 72), (80, 80))
    verdict = judge_cell([LEARNT_BY_HEART, other, other])
    assert verdict.gap.value == pytest.approx((18 + 12 + 12) / 160 / 3)
    spread = np.std([18 / 160, 12 / 160, 12 / 160], ddof=1)
    assert verdict.gap.low is not None
    assert verdict.gap.high is not None
    ends = f"[{100 * verdict.gap.low:+.1f}, {100 * verdict.gap.high:+.1f}]"
    assert f"gap {100 * verdict.gap.value:+.1f} {ends} points, spread {100 * spread:.1f}" in verdict.sentence()


@pytest.mark.parametrize(
    ("seeds", "message"),
    [
        ([], "Counts of at least one seed, not \\[\\]"),
        (None, "Counts of at least one seed, not None"),
        (PERFECT, "needs a list with the Counts"),
        ([PERFECT, "abc"], "that at place 1 is 'abc'"),
        ([PERFECT[:2]], "needs the Counts of each seed; that at place 0"),
        ([PERFECT, Counts([9], [10], [5], [10])], "the same classes; given are 1 and 2"),
        ([PERFECT, Counts([81, 9], [80, 80], [5, 5], [80, 80])], "no more right images than images"),
    ],
)
def test_what_are_no_counts_of_seeds_is_refused(seeds: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        judge_cell(seeds)


def test_counts_may_be_plain_tuples_from_anywhere() -> None:
    assert judge_cell(tuple(one) for one in [PERFECT] * 3) == judge_cell([PERFECT] * 3)  # type: ignore[arg-type,misc]


def test_all_seeds_have_accuracies_of_one_kind() -> None:
    """One of three divisions gives a class more than 1.5 times the images of the other, all together do not."""
    even, uneven = Counts((80, 80), (80, 80), (8, 8), (10, 10)), Counts((61, 90), (61, 100), (3, 15), (5, 20))
    verdict = judge_cell([even, even, uneven])
    assert not verdict.balanced
    assert verdict.train.value == pytest.approx((1 + 1 + 151 / 161) / 3)
    unequal = judge_cell([uneven] * 4 + [even])
    assert unequal.balanced
    assert unequal.train.value == pytest.approx((4 * 0.95 + 1) / 5)


@pytest.fixture
def benchmark_of_verdicts(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    return importlib.import_module("verdicts")


def test_false_verdicts_are_rare_and_intervals_cover(benchmark_of_verdicts: ModuleType) -> None:
    """The whole table: python benchmarks/verdicts.py."""
    for own in (True, False):
        rates = benchmark_of_verdicts.measure_cell(5, 160, own, draws=60)
        assert rates["false overfit"] <= 0.09
        assert rates["false fit"] <= 0.12
        assert rates["covered"] >= 0.88
        assert rates["found overfit"] >= 0.9


@pytest.mark.parametrize(
    ("classes", "small", "others"), [(2, 20, 40), (5, 4, 40), (5, 9, 200), (10, 3, 30), (10, 5, 30)]
)
def test_a_small_class_makes_no_verdict_false(
    benchmark_of_verdicts: ModuleType, classes: int, small: int, others: int
) -> None:
    """Exact rates, where seeds err on the same images; the whole table: python benchmarks/verdicts.py."""
    rates = benchmark_of_verdicts.measure_small_class(classes, small, others)
    assert max(rates["false fit"], rates["over seeds"]) <= 0.05
    assert max(rates["false overfit"], rates["overfit over seeds"]) <= 0.025
    assert rates["covered"] >= 0.95


def test_two_seeds_on_one_division_that_differ_are_covered() -> None:
    """Seeds that err on the same images, and differ by 3 points: a variance of one degree of freedom tells little."""
    dice, covered, share = np.random.default_rng(0), 0, 0.9 * 0.1 / 0.03**2 - 1
    for _ in range(200):
        hardness, seeds = dice.random((5, 140)), []
        for accuracy in dice.beta(0.9 * share, 0.1 * share, 2):
            right = (hardness <= accuracy).sum(axis=1)
            seeds.append(Counts([378] * 5, [420] * 5, right.tolist(), [140] * 5))
        gap = judge_cell(seeds).gap
        assert gap.low is not None
        assert gap.high is not None
        covered += gap.low <= 0 <= gap.high
    assert covered >= 0.92 * 200  # Satterthwaite's interval covers 87 %


def test_drawn_cells_have_the_gap_that_they_should(benchmark_of_verdicts: ModuleType) -> None:
    dice = np.random.default_rng(0)
    cells = [benchmark_of_verdicts.draw_cell(dice, 3, 200, 0.95, 0.1, 0.01, own=True) for _ in range(60)]
    gaps = [sum(one[0]) / sum(one[1]) - sum(one[2]) / sum(one[3]) for cell in cells for one in cell]
    assert np.mean(gaps) == pytest.approx(0.1, abs=0.01)


def test_trials_that_differ_in_the_seed_only_are_one_configuration(make_run: MakeRun) -> None:
    tags = split_into_tags("cnnstudy.verdict_counts", LEARNT_BY_HEART._asdict())
    runs = [make_run(number, tags={**tags, "cnnstudy.seed": str(number)}) for number in range(3)]
    (found,) = list_configurations(runs)
    assert found.verdict.seeds == 3
    assert found.cells[-1] == "overfit"
    without = [replace(run, tags={k: v for k, v in run.tags.items() if "counts" not in k}) for run in runs]
    assert list_configurations(without) == []
    assert list_configurations(runs[:1]) == []
    assert asdict(found.verdict)["balanced"] is False
