"""Intervals and tests over few seeds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from cnnstudy.analysis.intervals import (
    Estimate,
    Resolution,
    compare_seeds,
    correct_family,
    differ_beyond_chance,
    shrink_variances,
    welch_difference,
)

NONE = math.nan
#: Of a continuous outcome.
UNKNOWN = Resolution(0.0, math.nan)


def test_each_contrast_has_the_t_test_of_its_own_seeds() -> None:
    of_seeds = np.array([[0.01, 0.03, 0.04, 0.02], [0.05, NONE, 0.01, NONE], [0.02, NONE, NONE, NONE], [NONE] * 4])
    tests = compare_seeds(of_seeds, np.ones(4), UNKNOWN).tests
    for row, there in zip(tests, ([0.01, 0.03, 0.04, 0.02], [0.05, 0.01]), strict=False):
        t = stats.ttest_1samp(there, 0.0)
        assert row == pytest.approx([np.mean(there), *t.confidence_interval(0.95), t.pvalue])
    assert tests[2] == pytest.approx([0.02, NONE, NONE, NONE], nan_ok=True)
    assert np.isnan(tests[3]).all()


def test_seeds_that_agree_to_the_last_digit() -> None:
    of_seeds = np.array([[0.1 + 0.2, 0.3, 0.3], [0.0, 1e-17, -1e-17]])
    unknown = compare_seeds(of_seeds, np.ones(2), UNKNOWN)
    assert unknown.tests == pytest.approx(np.array([[0.3, NONE, NONE, NONE], [0.0, NONE, NONE, NONE]]), nan_ok=True)
    assert np.isnan(unknown.shrunk_p).all()
    known = compare_seeds(of_seeds, np.array([1.0, 0.5]), Resolution(1e-6, 0.003))
    half = stats.t.ppf(0.975, 2) * np.sqrt(np.array([0.003, 0.0015]) / 3)
    assert known.tests[:, 1] == pytest.approx([0.3 - half[0], -half[1]])
    assert known.tests[:, 2] == pytest.approx([0.3 + half[0], half[1]])
    assert known.tests[1, 3] == pytest.approx(1.0)


def test_the_prior_of_variances_is_found() -> None:
    rng = np.random.default_rng(0)
    # Smyth's model: 1 / variance has 6 degrees of freedom and scale 2, each is seen with 4, on scales of its own
    true = 6 * 2.0 / rng.chisquare(6, 4000)
    spread = rng.choice([0.5, 3.0], 4000)
    seen = spread * true * rng.chisquare(4, 4000) / 4
    shrunk, freedom = shrink_variances(seen, np.full(4000, 4), spread)
    assert freedom == pytest.approx(4 + 6, rel=0.1)
    expected = spread * (6 * 2.0 + 4 * seen / spread) / 10
    assert shrunk == pytest.approx(expected, rel=0.15)
    assert np.abs(np.log(shrunk / spread / true)).mean() < 0.7 * np.abs(np.log(seen / spread / true)).mean()


def test_variances_that_do_not_differ_are_one() -> None:
    shrunk, freedom = shrink_variances(np.array([1.0, 1.1, 0.9, 4.0]), np.full(4, 2), np.array([1.0, 1.0, 1.0, 4.0]))
    assert shrunk == pytest.approx([1.0, 1.0, 1.0, 4.0])
    assert list(freedom) == [8.0] * 4  # no more than there are in all


def test_two_variances_make_no_prior() -> None:
    given = np.array([1.0, 9.0, NONE])
    shrunk, freedom = shrink_variances(given, np.array([2, 2, 0]), np.ones(3))
    assert list(shrunk[:2]) == [1.0, 9.0]
    assert list(freedom) == [2.0, 2.0, 0.0]


def test_one_variance_of_0_among_others() -> None:
    shrunk, _ = shrink_variances(np.array([0.0, 1.0, 2.0, 1.5]), np.full(4, 2), np.ones(4))
    assert (shrunk > 0).all()
    shrunk, _ = shrink_variances(np.zeros(4), np.full(4, 2), np.ones(4))
    assert list(shrunk) == [0.0] * 4


def test_holm_is_that_of_statsmodels() -> None:
    rng = np.random.default_rng(0)
    p = rng.random(12) ** 4
    for kind in (False, True):
        adjusted, _ = correct_family(np.zeros(12), p, np.full(12, kind))
        assert adjusted == pytest.approx(multipletests(p, method="holm")[1])


def test_main_effects_have_most_of_the_level() -> None:
    p = np.array([0.02, 0.02, 0.002, 0.02])
    adjusted, levels = correct_family(np.zeros(4), p, np.array([False, False, True, True]))
    # weights 0.45, 0.45, 0.05, 0.05: first 0.002 / 0.05 and 0.02 / 0.45, then what is left is 0.95 and so on
    second = 0.02 / 0.45 * 0.95
    assert adjusted == pytest.approx([second, second, 0.002 / 0.05, second])
    assert levels == pytest.approx([0.05 * 0.45 / 0.95, 0.05 * 0.45 / 0.5, 0.05 * 0.05, 0.05])


def test_an_effect_has_to_pass_both_tests() -> None:
    adjusted, _ = correct_family(np.array([0.3, 0.001, NONE]), np.array([0.001, 0.04, 0.01]), np.zeros(3, dtype=bool))
    assert adjusted == pytest.approx([0.3, 0.04, NONE], nan_ok=True)


def t_interval(sample: list[float]) -> Estimate:
    low, high = stats.t.interval(0.95, len(sample) - 1, np.mean(sample), stats.sem(sample))
    return Estimate(float(np.mean(sample)), float(low), float(high), count=len(sample))


def test_two_samples_are_compared_by_welch() -> None:
    one, other = [0.1, 0.3, 0.2, 0.6], [0.5, 0.55, 0.45]
    found = welch_difference(t_interval(one), t_interval(other))
    reference = stats.ttest_ind(other, one, equal_var=False)
    assert (found.low, found.high) == pytest.approx(tuple(reference.confidence_interval(0.95)))
    assert (found.p, found.count) == (pytest.approx(reference.pvalue), 3)
    assert welch_difference(t_interval(one), Estimate(0.5)) == Estimate(pytest.approx(0.2), count=1)


def test_two_samples_without_noise_have_no_interval() -> None:
    one = Estimate(0.2, 0.2, 0.2, 0.0, 3)
    assert welch_difference(one, Estimate(0.5, 0.5, 0.5, 0.0, 3)) == Estimate(pytest.approx(0.3), count=3)


@pytest.mark.parametrize("seed", range(20))
def test_bartletts_test_is_that_of_scipy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    samples = [rng.normal(0, rng.choice([1, 2]), rng.integers(3, 9)) for _ in range(rng.integers(2, 7))]
    variance, freedom = np.array([one.var(ddof=1) for one in samples]), np.array([len(one) - 1 for one in samples])
    assert differ_beyond_chance(variance, freedom) == (stats.bartlett(*samples).pvalue < 0.05)


@pytest.mark.parametrize(("seeds", "shrunk"), [(5, True), (8, False)])
def test_variances_that_differ_beyond_chance_are_kept_where_seeds_can_show_it(seeds: int, shrunk: bool) -> None:
    variance = np.array([1.0, 1.2, 0.9, 30.0])
    kept, freedom = shrink_variances(variance, np.full(4, seeds - 1), np.ones(4))
    assert bool((kept != variance).any()) == shrunk
    assert bool((freedom > seeds - 1).any()) == shrunk
    alike = np.array([1.0, 1.2, 0.9, 1.1])
    assert (shrink_variances(alike, np.full(4, seeds - 1), np.ones(4))[0] != alike).all()
