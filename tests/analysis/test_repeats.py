"""How probable it is that a repeat gives the same answer."""

from __future__ import annotations

import math

import pytest

from cnnstudy.analysis.repeats import probability_of_repeat


def test_just_beyond_significance_half_of_the_repeats_agree() -> None:
    # Goodman (1992): p = 0.05 with a known variance is found again with probability 0.5, p = 0.001 with 0.83
    for z, expected in ((1.96, 0.5), (3.29, 0.83)):
        found = probability_of_repeat("raises", z, 1.0, math.inf, 0, 0.05)
        assert found == pytest.approx(expected, abs=0.02)
    assert probability_of_repeat("lowers", -3.29, 1.0, math.inf, 0, 0.05) == pytest.approx(0.83, abs=0.02)


def test_the_answers_sum_to_1() -> None:
    answers = [probability_of_repeat(one, 0.02, 0.01, 12.0, 4, 0.01) for one in ("raises", "lowers", "cannot tell")]
    assert sum(answers) == pytest.approx(1)
    assert answers[0] > 5 * answers[1]


def test_a_sure_effect_repeats_and_missing_trials_make_it_less_sure() -> None:
    sure = probability_of_repeat("raises", 0.2, 0.01, 20.0, 5, 0.01)
    assert sure > 0.98
    assert probability_of_repeat("raises", 0.2, 0.01, 20.0, 5, 0.01, missing=0.15) < sure


def test_without_an_error_nothing_is_known() -> None:
    assert math.isnan(probability_of_repeat("raises", 0.2, math.nan, 4.0, 3, 0.01))
