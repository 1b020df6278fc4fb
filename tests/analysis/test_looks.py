"""Levels of tests where a study is looked at after each seed, against simulated t-tests."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from cnnstudy.analysis.intervals import LEVEL
from cnnstudy.analysis.looks import EXPONENT, Looks


@pytest.mark.parametrize(("most", "spent"), [(4, 0.05), (10, 0.05), (10, 0.3)])
def test_the_looks_together_find_a_false_effect_as_often_as_they_may(most: int, spent: float) -> None:
    """Student's t after each seed of studies without an effect crosses its level in the share of them that is spent."""
    studies = 100_000
    seeds = np.random.default_rng(5).normal(size=(studies, most))
    count = np.arange(1, most + 1)
    total, squares = np.cumsum(seeds, axis=1), np.cumsum(seeds**2, axis=1)
    crossed = np.zeros(studies, dtype=bool)
    for number in range(3, most + 1):
        variance = (squares[:, number - 1] - total[:, number - 1] ** 2 / number) / (number - 1)
        t = total[:, number - 1] / count[number - 1] / np.sqrt(variance / number)
        crossed |= 2 * stats.t.sf(np.abs(t), number - 1) < Looks(most, number).level_of(spent)
        allowed = spent * (number / most) ** EXPONENT
        # four standard errors
        assert crossed.mean() == pytest.approx(allowed, abs=4 * np.sqrt(allowed / studies) + 0.02 * allowed)


def test_p_values_are_compared_with_the_usual_level() -> None:
    looks = Looks(20, 6)
    assert looks.level < LEVEL / 10, "little is spent before a third of the seeds have run"
    assert looks.adjust(np.array([looks.level]))[0] == pytest.approx(LEVEL, rel=1e-6)
    p = np.array([1e-14, 1e-9, 1e-4, 0.01, 0.2, 0.9, 1.0])
    adjusted = looks.adjust(p)
    assert (np.diff(adjusted) >= 0).all()
    assert (adjusted >= p).all()
    assert adjusted[-1] == 1
    assert np.isnan(looks.adjust(np.array([np.nan])))[0]


def test_intervals_are_those_of_the_level_of_their_look() -> None:
    looks, seeds = Looks(10, 5), np.array([0.02, 0.05, 0.03, 0.06, 0.04])
    plain = stats.t.interval(0.95, 4, seeds.mean(), stats.sem(seeds))
    p = stats.ttest_1samp(seeds, 0).pvalue
    tests = np.array([[seeds.mean(), *plain, p], [np.nan] * 4])
    widened = looks.widen(tests, np.array([4, -1]))
    expected = stats.t.interval(1 - looks.level, 4, seeds.mean(), stats.sem(seeds))
    assert widened[0, 1:3] == pytest.approx(expected)
    assert widened[0, 3] == pytest.approx(looks.adjust(np.array([p]))[0])
    assert np.isnan(widened[1]).all()


def test_a_look_beyond_those_planned_is_the_last_one() -> None:
    assert Looks(10, 12).level == Looks(10, 10).level
    assert Looks(10, 1).level == Looks(10, 3).level
