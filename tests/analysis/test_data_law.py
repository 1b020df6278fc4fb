"""The gap against the number of training images."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from cnnstudy.analysis.data_law import DataLaw, fit_data_law

GAP = "epochs/gap_accuracy"


def study(
    exponents: Sequence[float], fractions: Sequence[float] = (0.25, 0.5, 1.0), scale: float = 0.1
) -> pd.DataFrame:
    """Return trials of one seed for each exponent, with two levels of dropout that do not change the gap."""
    rows = [
        {"seed": seed, "data_fraction": fraction, "dropout": dropout, GAP: scale * fraction**-exponent}
        for seed, exponent in enumerate(exponents)
        for fraction in fractions
        for dropout in (0.0, 0.5)
    ]
    return pd.DataFrame(rows).assign(architecture="vgg16", verdict="overfit", transfer="scratch", augmentation=None)


def fit(frame: pd.DataFrame, images: float = 400, target: float = 0.05) -> DataLaw:
    return fit_data_law(frame, "vgg16, scratch", images, target)


def test_a_law_without_noise_is_found() -> None:
    law = fit(study([0.5] * 3))
    assert law.images == (100, 200, 400)
    assert law.gaps == pytest.approx((0.2, 0.1 * math.sqrt(2), 0.1))
    assert [law.exponent, law.low, law.high] == pytest.approx([0.5] * 3, abs=1e-5)
    assert law.of_seeds[0] == pytest.approx((0.1, 0.5), abs=1e-5)
    more = law.estimate_images_for()
    # half the gap takes 4 times the images: 1200 more
    assert (more.target, more.count, more.low, more.high, more.reason) == (0.05, 1200, 1200, 1200, "")
    assert law.estimate_images_for(0.08).count == 225  # (0.1 / 0.08)^2 = 1.5625


def test_intervals_are_students_over_the_seeds() -> None:
    exponents = [0.5, 0.6, 0.55, 0.7]
    law = fit(study(exponents))
    low, high = stats.ttest_1samp(exponents, 0).confidence_interval(0.95)
    assert [law.exponent, law.low, law.high] == pytest.approx([0.5875, low, high], abs=1e-4)
    more = law.estimate_images_for()
    logs = [math.log(2) / exponent for exponent in exponents]
    ends = [np.mean(logs), *stats.ttest_1samp(logs, 0).confidence_interval(0.95)]
    assert [more.count, more.low, more.high] == pytest.approx([400 * math.expm1(end) for end in ends], abs=1)


def test_only_combinations_that_are_there_at_each_level_count() -> None:
    frame = study([0.5] * 3)
    frame.loc[frame["dropout"] == 0.5, GAP] += 0.1
    whole = fit(frame)
    # if combinations were not matched, the missing dropout would lower the gap at half the images
    gone = (frame["seed"] == 1) & (frame["data_fraction"] == 0.5) & (frame["dropout"] == 0.5)
    part = fit(frame[~gone])
    assert part.of_seeds[0] == whole.of_seeds[0]
    assert part.of_seeds[1] == pytest.approx((0.1, 0.5), abs=1e-5)


def test_a_factor_that_is_not_always_active_matches_too() -> None:
    frame = study([0.5] * 3)
    frame["backbone_learning_rate_multiplier"] = np.where(frame["dropout"] == 0.0, math.nan, 0.1)
    assert fit(frame).exponent == pytest.approx(0.5, abs=1e-5)


def test_trials_that_learnt_nothing_count() -> None:
    frame = study([0.5] * 3, (0.1, 0.25, 0.5, 1.0))
    frame.loc[frame["data_fraction"] == 0.1, "verdict"] = "not-learning"
    law = fit(frame)
    assert law.images == (40, 100, 200, 400)
    assert law.exponent == pytest.approx(0.5, abs=1e-5)


def test_a_level_that_hardly_anyone_has_does_not_cost_the_others() -> None:
    frame = study([0.5] * 3, (0.1, 0.25, 0.5, 1.0))
    law = fit(frame[(frame["data_fraction"] > 0.1) | ((frame["seed"] == 0) & (frame["dropout"] == 0.0))])
    assert (law.images, len(law.of_seeds)) == ((100, 200, 400), 3)


def test_gaps_below_0_are_fitted_too() -> None:
    frame = study([0.5] * 3)
    noise = np.where(frame["data_fraction"] == 1.0, -0.11, 0.0) * (frame["seed"] == 2)
    law = fit(frame.assign(**{GAP: frame[GAP] + noise}))
    assert law.exponent is not None
    assert law.of_seeds[2][1] > 0.5


# ---- no law, or no projection


def reason(law: DataLaw, gap: float = 0.05) -> str:
    more = law.estimate_images_for(gap)
    assert (more.count, more.low, more.high) == (None, None, None)
    return more.reason


def test_one_level_or_none_in_common() -> None:
    for frame in (study([0.5] * 3, (1.0,)), study([0.5] * 3).iloc[:0]):
        law = fit(frame)
        assert law.exponent is None
        assert "at two levels" in reason(law)
        assert "cannot tell how the gap depends" in law.sentence()
    frame = study([0.5] * 3, (0.5, 1.0))
    apart = frame[(frame["dropout"] == 0.0) == (frame["data_fraction"] == 1.0)]
    assert fit(apart).exponent is None


def test_one_seed() -> None:
    law = fit(study([0.5]))
    assert (law.exponent, law.low, law.high) == (pytest.approx(0.5, abs=1e-5), None, None)
    assert "one seed" in reason(law)
    assert "one seed: no interval" in law.sentence()


def test_a_gap_that_may_not_fall() -> None:
    law = fit(study([0.5, 0.1, -0.1]))
    assert law.low is not None
    assert law.low < 0
    assert "cannot tell whether the gap falls" in reason(law)
    # five seeds can have an interval above 0 with one seed below
    assert "in one of the seeds" in reason(fit(study([0.5, 0.45, 0.5, 0.55, -0.01])))


def test_a_seed_without_a_gap() -> None:
    frame = study([0.5] * 4, (0.5, 1.0))
    frame.loc[frame["seed"] == 3, GAP] *= -0.1
    assert "too close to 0" in reason(fit(frame))


def test_a_gap_that_is_small_already() -> None:
    assert "already" in reason(fit(study([0.5] * 3, scale=0.04)))


def test_no_answer_beyond_10_times_what_was_measured() -> None:
    law = fit(study([0.2] * 3))  # half the gap takes 32 times the images
    assert "more than 10 times" in reason(law)
    assert law.estimate_images_for(0.07).count is not None
    wide = fit(study([0.3, 0.4, 0.5])).estimate_images_for()
    assert wide.count is not None
    assert wide.high is None
    assert "more than 3600" in fit(study([0.3, 0.4, 0.5])).sentence()


def test_no_gap_at_all() -> None:
    frame = study([0.5] * 3)
    law = fit(frame.assign(**{GAP: -0.01}))
    assert law.reason == "there is no gap"
    assert "already" in reason(law)
    # no power law falls from a gap to none within the measured amounts
    frame[GAP] = np.where(frame["data_fraction"] == 0.25, 0.2, 0.0)
    assert "too close to 0" in fit(frame).reason


def test_a_gap_of_0_is_never_reached() -> None:
    with pytest.raises(ValueError, match="never reached"):
        fit(study([0.5] * 3)).estimate_images_for(0.0)


# ---- in words


def test_the_sentence() -> None:
    assert fit(study([0.5, 0.6, 0.55])).sentence() == (
        "vgg16, scratch: from 100 to 400 images per class the gap goes from 21.5 to 10.0 points; doubling the images "
        "multiplies the gap by 0.68 (95 % interval 0.63 to 0.74). About 1020 more images per class (666 to 1493) would "
        "reduce it to 5 points."
    )
    few = fit(study([0.5, 0.6, 0.55], (0.5, 1.0)), target=0.02).sentence()
    assert "two amounts can't show whether that continues" in few
    assert "How many images reduce it to 2 points: that takes more than 10 times" in few
