"""How probable it is that a repeat gives the same answer."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cnnstudy.analysis.repeats import TrueSizes, probability_of_repeat

#: Of a family whose effects are all much larger than their errors.
LARGE = TrueSizes.learn([30.0, -50.0, 80.0, -20.0, 45.0, 60.0], [1.0] * 6, [math.inf] * 6)
#: Of one whose effects are no larger than chance.
NONE = TrueSizes.learn([0.3, -1.1, 0.8, -0.2, 0.9, -0.6, 0.1, 1.96], [1.0] * 8, [math.inf] * 8)


def test_just_beyond_significance_half_of_the_repeats_agree_where_effects_are_large() -> None:
    # Goodman (1992): p = 0.05 with a known variance is found again with probability 0.5, p = 0.001 with 0.83
    for z, expected in ((1.96, 0.5), (3.29, 0.83)):
        found = probability_of_repeat("raises", z, 1.0, math.inf, 0, 0.05, _everywhere())
        assert found == pytest.approx(expected, abs=0.02)
    assert probability_of_repeat("lowers", -3.29, 1.0, math.inf, 0, 0.05, _everywhere()) == pytest.approx(
        0.83, abs=0.02
    )


def test_among_effects_that_chance_explains_the_largest_is_seldom_found_again() -> None:
    assert probability_of_repeat("raises", 1.96, 1.0, math.inf, 0, 0.05, NONE) < 0.25
    assert probability_of_repeat("raises", 5.0, 1.0, math.inf, 0, 0.05, LARGE) > 0.9


def test_the_number_is_right_on_average_over_effects_drawn_as_assumed() -> None:
    rng, said, happened = np.random.default_rng(0), [], []
    for spread in rng.choice([1.0, 2.0, 4.0, 8.0], 300):
        truths = np.where(rng.random(6) < rng.choice([0.1, 0.3, 1.0]), rng.normal(0, spread, 6), 0)
        estimates, again = truths + rng.normal(size=6), truths + rng.normal(size=6)
        sizes = TrueSizes.learn(estimates.tolist(), [1.0] * 6, [math.inf] * 6)
        for one, other in zip(estimates, again, strict=True):
            if abs(one) > 2.5:
                answer = "raises" if one > 0 else "lowers"
                said.append(probability_of_repeat(answer, float(one), 1.0, math.inf, 0, 0.0124, sizes))
                happened.append(abs(other) > 2.5 and other * one > 0)
    assert len(said) > 300
    assert np.mean(said) == pytest.approx(np.mean(happened), abs=0.06)


def test_the_answers_sum_to_1() -> None:
    answers = [
        probability_of_repeat(one, 0.02, 0.01, 12.0, 4, 0.01, NONE) for one in ("raises", "lowers", "cannot tell")
    ]
    assert sum(answers) == pytest.approx(1)
    assert answers[0] > 5 * answers[1]


def test_a_sure_effect_repeats_and_missing_trials_make_it_less_sure() -> None:
    sizes = TrueSizes.learn([0.2], [0.01], [20.0])
    sure = probability_of_repeat("raises", 0.2, 0.01, 20.0, 5, 0.01, sizes)
    assert sure > 0.98
    assert probability_of_repeat("raises", 0.2, 0.01, 20.0, 5, 0.01, sizes, missing=0.15) < sure


@pytest.mark.parametrize("error", [1e-12, 1e-3])
def test_effects_far_beyond_their_errors_repeat(error: float) -> None:
    sizes = TrueSizes.learn([0.5, 0.1, 1e-5], [error] * 3, [math.inf] * 3)
    assert probability_of_repeat("raises", 0.5, error, math.inf, 0, 0.01, sizes) == pytest.approx(1)


def test_without_an_error_nothing_is_known() -> None:
    assert math.isnan(probability_of_repeat("raises", 0.2, math.nan, 4.0, 3, 0.01, NONE))
    unknown = TrueSizes.learn([0.2, math.nan], [math.nan, 0.1], [math.nan, 2.0])
    assert unknown.shares.sum() == pytest.approx(1)


def _everywhere() -> TrueSizes:
    """Return sizes that are large beyond doubt, so that an estimate is taken as it is."""
    return TrueSizes(np.array([1e4]), np.ones(1))
