"""Intervals and tests of means over seeds that divide one pool of images."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from cnnstudy.analysis.intervals import Estimate
from cnnstudy.analysis.resampled import (
    Division,
    ImageVariance,
    effective_images,
    estimate_resampled_mean,
    measure_images,
    paired_p,
    read_division,
    widen_for_overlap,
)

VALUES = [0.70, 0.74, 0.71, 0.69, 0.73]
POOL = Division(300, 100)


def test_the_variance_is_that_of_nadeau_and_bengio() -> None:
    found = estimate_resampled_mean(VALUES, POOL, is_share=False)
    assert found is not None
    error = np.std(VALUES, ddof=1) * math.sqrt(1 / 5 + 1 / 3)
    assert (found.low, found.high) == pytest.approx(stats.t.interval(0.95, 4, np.mean(VALUES), error))
    fixed = estimate_resampled_mean(VALUES, Division(300, 100, redrawn=False), is_share=False)
    assert fixed is not None
    assert (fixed.low, fixed.high) == pytest.approx(stats.t.interval(0.95, 4, np.mean(VALUES), stats.sem(VALUES)))


@pytest.mark.parametrize("values", [[0.99, 1.0], [0.0, 0.02, 0.3], [0.5, 1.0], [1.0] * 5, [0.0] * 3])
def test_an_interval_of_an_accuracy_is_within_0_and_1(values: list[float]) -> None:
    found = estimate_resampled_mean(values, POOL)
    assert found is not None
    assert found.low is not None
    assert found.high is not None
    assert 0 <= found.low < found.high <= 1


def test_equal_seeds_are_as_certain_as_their_images_allow() -> None:
    images = POOL.distinct_images(5)
    assert images == pytest.approx(400 * (1 - 0.75**5))
    assert effective_images([0.9] * 5, POOL) == images
    found = estimate_resampled_mean([1.0] * 5, POOL)
    assert found is not None
    quantile = stats.t.ppf(0.975, 4)
    # Wilson's interval for n of n
    assert (found.low, found.high) == (pytest.approx(images / (images + quantile**2)), 1.0)
    unknown = estimate_resampled_mean([1.0] * 5)
    assert unknown is not None
    assert (unknown.value, unknown.low, unknown.high) == (1.0, None, None)


def test_one_seed_and_none() -> None:
    found = estimate_resampled_mean([0.8], POOL)
    assert found is not None
    assert (found.value, found.low, found.count) == (0.8, None, 1)
    assert estimate_resampled_mean([], POOL) is None


def test_levels_move_one_end_each() -> None:
    plain, wide = estimate_resampled_mean(VALUES, POOL), estimate_resampled_mean(VALUES, POOL, level_below=0.01)
    assert plain is not None
    assert wide is not None
    assert plain.low is not None
    assert wide.low is not None
    assert wide.low < plain.low
    assert wide.high == plain.high


def test_images_explain_what_a_sum_over_clusters_varies() -> None:
    # one seed: the variance of a mean of independent images
    right = np.array([1.0, 0.0, 0.5, 1.0, 1.0])
    assert measure_images([(np.arange(5), right)]) == ImageVariance(pytest.approx(right.var() / 5), 5)
    # the same images again with the same answers know no more; others do
    assert measure_images([(np.arange(5), right)] * 3) == ImageVariance(pytest.approx(right.var() / 5), 5)
    others = [(np.arange(5) + 5 * seed, right) for seed in range(3)]
    assert measure_images(others) == ImageVariance(pytest.approx(right.var() / 15), 15)
    # an image that two seeds share, at any place in them: its deviations belong together
    found = measure_images([(np.array([7, 3]), np.array([1.0, 0.0])), (np.array([3, 9]), np.array([0.5, 1.0]))])
    mean = 2.5 / 4
    totals = [1 - mean, (0 - mean) + (0.5 - mean), 1 - mean]
    assert found == ImageVariance(pytest.approx(sum(total**2 for total in totals) / 16), 3)


def test_what_images_explain_is_known_as_well_as_there_are_images() -> None:
    mean = np.mean(VALUES)
    variance = max(np.var(VALUES, ddof=1) * (1 / 5 + 1 / 3), mean * (1 - mean) / POOL.distinct_images(5))
    images = mean * (1 - mean) / variance

    def ends(freedom: float) -> tuple[float, float]:
        """Wilson's, as the roots of his quadratic."""
        square = stats.t.ppf(0.975, freedom) ** 2 / images
        low, high = np.sort(np.roots([1 + square, -2 * mean - square, mean**2]))
        return float(low), float(high)

    def found(of_images: ImageVariance | None, division: Division | None = POOL) -> tuple[float | None, float | None]:
        estimate = estimate_resampled_mean(VALUES, division, images=of_images)
        assert estimate is not None
        return estimate.low, estimate.high

    assert found(None) == pytest.approx(ends(4))
    assert found(ImageVariance(0.0, 300)) == pytest.approx(ends(4))
    assert found(ImageVariance(2 * variance, 300)) == pytest.approx(ends(299)), "at most all of it"
    half = variance**2 / ((variance / 2) ** 2 / 299 + (variance / 2) ** 2 / 4)
    assert found(ImageVariance(variance / 2, 300)) == pytest.approx(ends(half))
    for other in (None, Division(300, 100, redrawn=False)):
        assert found(ImageVariance(variance, 300), other) == found(None, other), "of seeds that divide one pool only"
    losses = [estimate_resampled_mean(VALUES, POOL, is_share=False, images=one) for one in (None, ImageVariance(1, 9))]
    assert losses[0] == losses[1]
    certain = [estimate_resampled_mean([1.0] * 5, POOL, images=one) for one in (None, ImageVariance(0.0, 300))]
    assert certain[0] == certain[1]


def test_a_difference_of_few_images_is_chance() -> None:
    assert paired_p([1 / 45] * 5, Division(180, 45), is_share=True) > 0.1
    assert paired_p([0.3] * 5, Division(180, 45), is_share=True) < 0.01
    assert paired_p([0.3] * 2, Division(180, 45), is_share=True) == 1.0
    assert paired_p([0.0] * 5, POOL, is_share=True) == 1.0
    assert paired_p([0.3] * 5, None, is_share=True) == 1.0, "of how many images is not known"
    losses = [0.2, 0.25, 0.22]
    t = np.mean(losses) / (np.std(losses, ddof=1) * math.sqrt(1 / 3 + 1 / 3))
    assert paired_p(losses, POOL, is_share=False) == pytest.approx(2 * stats.t.sf(t, 2))


def test_the_division_is_read_from_the_trials(make_run: Any) -> None:
    run = make_run(0)
    assert read_division([run]) is None
    searched = make_run(1, parameters={"train_images": "300", "validation_images": "100"})
    assert read_division([run, searched]) == Division(300, 100, redrawn=False)
    block = make_run(1, parameters={"train_images": "300", "validation_images": "100", "block": "10000"})
    assert read_division([block]) == POOL


def test_coverage_where_seeds_divide_one_pool() -> None:
    """Images that share their difficulty: Student's t covers too little, the corrected one enough."""
    rng, truth, corrected, plain, widths = np.random.default_rng(2), stats.norm.cdf(1.0), 0, 0, np.zeros(2)
    by_images = 0
    for _ in range(300):
        difficulty = rng.normal(0, math.sqrt(0.9), 200)
        right = []
        for _ in range(10):
            chosen = rng.permutation(200)[:80]
            right.append((chosen, 1 + difficulty[chosen] + rng.normal(0, math.sqrt(0.1), 80) > 0))
        values = [float(of_seed.mean()) for _, of_seed in right]
        found = estimate_resampled_mean(values, Division(120, 80))
        assert found is not None
        assert found.low is not None
        assert found.high is not None
        corrected += found.low <= truth <= found.high
        low, high = stats.t.interval(0.95, 9, np.mean(values), stats.sem(values))
        plain += low <= truth <= high
        few = [
            estimate_resampled_mean(values[:3], Division(120, 80), images=images)
            for images in (None, measure_images(right[:3]))
        ]
        ends = [(one.low, one.high) for one in few if one and one.low is not None and one.high is not None]
        widths += [high - low for low, high in ends]
        by_images += ends[1][0] <= truth <= ends[1][1]
    assert by_images / 300 >= 0.93
    assert widths[1] < 0.7 * widths[0], "with three seeds"
    assert plain / 300 < 0.75
    assert corrected / 300 >= 0.93


def test_a_paired_difference_is_widened() -> None:
    differences = [0.02, 0.03, 0.05, 0.01]
    low, high = stats.t.interval(0.95, 3, np.mean(differences), stats.sem(differences))
    wide = widen_for_overlap(Estimate(float(np.mean(differences)), low, high, count=4), POOL, 400)
    error = np.std(differences, ddof=1) * math.sqrt(1 / 4 + 1 / 3)
    assert (wide.low, wide.high) == pytest.approx(stats.t.interval(0.95, 3, np.mean(differences), error))
    assert wide.p is not None
    assert wide.p > stats.ttest_1samp(differences, 0.0).pvalue
    # equal seeds: what chance explains of so many images
    equal = widen_for_overlap(Estimate(0.02, count=5), POOL, 5)
    assert equal.low is not None
    assert equal.low < 0
    same = Estimate(0.0, count=5)
    assert widen_for_overlap(same, POOL, 5) == same
    one = Estimate(0.02)
    assert widen_for_overlap(one, POOL, 1) == one
