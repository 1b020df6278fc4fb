"""The gap, or accuracy, against the number of training images."""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from cnnstudy.analysis.data_law import DataLaw, data_law, fit_data_law
from cnnstudy.errors import InputError

GAP, ACCURACY = "epochs/gap_accuracy", "epochs/val_accuracy"
FOUR = (0.125, 0.25, 0.5, 1.0)


def study(
    fractions: Sequence[float] = FOUR,
    exponent: float = 1.0,
    scale: float = 0.1,
    floor: float = 0.0,
    seeds: int = 5,
    noise: float = 0.003,
) -> pd.DataFrame:
    """Return trials with two levels of dropout that do not change the gap."""
    rng = np.random.default_rng(3)
    rows = [
        {"seed": seed, "data_fraction": fraction, "dropout": dropout, GAP: scale * fraction**-exponent + floor}
        for seed in range(seeds)
        for fraction in fractions
        for dropout in (0.0, 0.5)
    ]
    frame = pd.DataFrame(rows).assign(architecture="vgg16", verdict="overfit", transfer="scratch", augmentation=None)
    return frame.assign(**{GAP: frame[GAP] + rng.normal(0, noise, len(frame))})


def fit(frame: pd.DataFrame, images: float = 400, target: float | None = 0.05, column: str = GAP) -> DataLaw:
    return fit_data_law(frame, "vgg16, scratch", images, target, column)


def test_a_number_of_images_has_an_interval() -> None:
    law = fit(study())
    assert law.images == (50, 100, 200, 400)
    assert (law.answer, law.seeds, law.reason) == ("lowers", 5, "")
    more = law.more
    assert more.low is not None
    assert more.high is not None
    assert more.count is not None
    # half the gap takes twice the images
    assert more.low < 400 < more.high
    assert more.low <= more.count <= more.high
    assert law.twice is not None
    assert law.twice.low is not None
    assert law.twice.high is not None
    assert law.twice.low - 1e-3 < 0.05 < law.twice.high + 1e-3


def test_measured_gaps_and_the_trend_are_students_over_the_seeds() -> None:
    frame = study(noise=0.02)
    law = fit(frame)
    by_seed = frame.groupby(["seed", "data_fraction"])[GAP].mean().unstack().to_numpy()
    low, high = stats.ttest_1samp(by_seed[:, 0], 0).confidence_interval(0.95)
    first = law.measured[0]
    assert (first.value, first.low, first.high) == pytest.approx((by_seed[:, 0].mean(), low, high))
    slopes = [np.polyfit(np.log2([50, 100, 200, 400]), gaps, 1)[0] for gaps in by_seed]
    assert law.trend is not None
    assert law.trend.value == pytest.approx(np.mean(slopes))
    assert law.trend.high == pytest.approx(stats.ttest_1samp(slopes, 0).confidence_interval(0.95).high)


def test_a_target_below_the_floor_is_never_reached() -> None:
    law = fit(study(floor=0.1))
    assert (law.more.count, law.more.high) == (None, None)
    assert law.more.reason == "never at this rate, should the law hold further on; the floor is above it"
    assert law.more.reason in law.sentence()


def test_a_target_that_is_too_far_has_no_number() -> None:
    far = fit(study(exponent=0.3, scale=0.15, noise=0.001), target=0.04)
    assert (far.more.count, far.more.high) == (None, None)
    assert far.more.reason == "not within 10 times what was measured, should the law hold further on"
    near = fit(study(exponent=0.5, noise=0.05), target=0.05)
    assert (near.more.count, near.more.high) == (None, None)
    assert near.more.low is not None
    least = f"at least {near.more.low} more per class, should the law hold further on; how many"
    assert near.more.reason.startswith(least)


@pytest.mark.parametrize("fractions", [(0.5, 1.0), (0.25, 0.5, 1.0)])
def test_fewer_than_four_amounts_give_no_number(fractions: Sequence[float]) -> None:
    law = fit(study(fractions))
    assert (law.power_law, law.more.count, law.answer) == (None, None, "lowers")
    assert f"{len(fractions)} amounts cannot tell whether the gap has a floor" in law.sentence()


def test_only_combinations_that_are_there_at_each_level_count() -> None:
    frame = study(noise=0.0)
    frame.loc[frame["dropout"] == 0.5, GAP] += 0.1
    # if combinations were not matched, the missing dropout would lower the gap at half the images
    gone = (frame["seed"] == 1) & (frame["data_fraction"] == 0.5) & (frame["dropout"] == 0.5)
    part = fit(frame[~gone])
    steps = np.diff([one.value for one in part.measured])
    assert steps == pytest.approx([-0.4, -0.2, -0.1])


def test_a_factor_that_is_not_always_active_matches_too() -> None:
    frame = study()
    frame["backbone_learning_rate_multiplier"] = np.where(frame["dropout"] == 0.0, math.nan, 0.1)
    assert fit(frame) == fit(study())


def test_the_smallest_amounts_are_left_out_if_many_did_not_learn_there() -> None:
    """Otherwise the gap would rise with more images, from 0 of networks at chance."""
    frame = study()
    dead = (frame["data_fraction"] == 0.125) & (frame["seed"] <= 1)
    frame.loc[dead, ["verdict", GAP]] = ["not-learning", 0.0]
    law = fit(frame)
    assert (law.images, law.answer, law.more.count) == ((100, 200, 400), "lowers", None)
    assert "(left out: 4 of 10 trials with 50 did not learn)" in law.sentence()
    accuracy = fit(frame.assign(**{ACCURACY: 1 - frame[GAP]}), target=0.95, column=ACCURACY)
    assert accuracy.images == (100, 200, 400)
    assert accuracy.more.reason.startswith("3 amounts cannot tell whether the accuracy has a ceiling")
    one = frame.copy()
    one.loc[dead & (frame["seed"] + frame["dropout"] > 0), "verdict"] = "overfit"
    assert fit(one).images == (50, 100, 200, 400), "one of ten may be luck"


def test_a_level_that_hardly_anyone_has_does_not_cost_the_others() -> None:
    frame = study()
    law = fit(frame[(frame["data_fraction"] > 0.2) | ((frame["seed"] == 0) & (frame["dropout"] == 0.0))])
    assert (law.images, law.seeds) == ((100, 200, 400), 5)


# ---- accuracy


def test_accuracy_has_a_law_of_its_error() -> None:
    frame = study(noise=0.002)
    law = fit(frame.assign(**{ACCURACY: 1 - frame[GAP]}), target=0.95, column=ACCURACY)
    assert law.is_accuracy
    assert law.more.low is not None
    assert law.more.high is not None
    assert law.more.low < 400 < law.more.high
    assert "validation accuracy by training images per class: 19.9 % [" in law.sentence()
    assert "more images per class" in law.sentence()
    assert "lead to 95 %" in law.sentence()
    no_target = fit(frame.assign(**{ACCURACY: 1 - frame[GAP]}), target=None, column=ACCURACY)
    assert "lead to" not in no_target.sentence()
    assert "projects 95." in no_target.sentence() or "projects 94." in no_target.sentence()
    ceiling = fit(frame.assign(**{ACCURACY: 0.9 - frame[GAP]}), target=0.95, column=ACCURACY)
    assert ceiling.more.reason == "never at this rate, should the law hold further on; the ceiling is below it"


# ---- what cannot be told


def test_one_level_or_none_in_common() -> None:
    for frame in (study((1.0,)), study().iloc[:0]):
        law = fit(frame)
        assert (law.measured, law.answer, law.more.count) == ((), "cannot tell", None)
        assert "at two amounts at least" in law.sentence()
    frame = study((0.5, 1.0))
    apart = frame[(frame["dropout"] == 0.0) == (frame["data_fraction"] == 1.0)]
    assert fit(apart).measured == ()


def test_fewer_than_three_seeds() -> None:
    law = fit(study(seeds=2))
    assert (law.answer, law.power_law, law.measured[0].low) == ("cannot tell", None, None)
    assert "fewer than 3 seeds" in law.more.reason
    assert "fewer than 3 seeds give no interval" in law.sentence()


def test_a_gap_that_may_not_fall() -> None:
    law = fit(study(exponent=0.01, noise=0.05, seeds=3))
    assert law.answer == "cannot tell"
    assert law.more.reason == "cannot tell whether the gap falls with more images"
    assert "cannot tell whether that is a trend (" in law.sentence()
    rising = fit(study(exponent=-1.0))
    assert rising.answer == "raises"
    assert rising.more.reason == "the gap rises with more images, within what was measured"


def test_seeds_that_agree_are_not_said_to_be_few() -> None:
    gaps = {50: 0.2791234, 100: 0.1841234, 200: 0.1211234, 400: 0.0801234}
    frame = pd.DataFrame([(seed, count, gap) for seed in range(4) for count, gap in gaps.items()])
    sentence = data_law(frame.set_axis(["seed", "images", "gap"], axis=1)).sentence()
    assert "seeds that agree give no interval" in sentence
    assert "fewer than" not in sentence


def test_a_gap_that_is_small_already() -> None:
    assert fit(study(scale=0.03)).more.reason == "400 images per class already do"
    assert fit(study(scale=0.06, noise=0.04)).more.reason.startswith("perhaps 400 images per class already do")


def test_a_small_gap_of_trials_that_did_not_learn_is_no_success() -> None:
    frame = study(scale=0.03)
    most = frame["data_fraction"] == 1.0
    frame.loc[most & (frame["seed"] == 0) & (frame["dropout"] == 0.5), "verdict"] = "not-learning"
    assert fit(frame).more.reason == "400 images per class already do", "one of ten"
    accuracy = fit(frame.assign(**{ACCURACY: 1 - frame[GAP]}), target=0.9, column=ACCURACY)
    assert accuracy.more.reason == "cannot tell, because 1 of 10 trials with 400 did not learn"
    frame.loc[most & (frame["seed"] == 0), "verdict"] = "not-learning"
    told = "2 of 10 trials with 400 did not learn"
    for law in (fit(frame), fit(frame.assign(**{ACCURACY: 1 - frame[GAP]}), target=0.9, column=ACCURACY)):
        assert (law.answer, law.trend, law.power_law, len(law.measured)) == ("cannot tell", None, None, 4)
        assert law.more.reason == f"cannot tell, because {told}"
        assert re.search(
            rf"; cannot tell the trend, or how many images lead to \S+ \S+, because {told}\.", law.sentence()
        )
    frame["verdict"] = "not-learning"
    assert "because 10 of 10 trials with 50, 10 of 10 trials with 100, " in fit(frame).sentence()


def test_only_trials_that_count_are_asked_whether_they_learnt() -> None:
    frame = study(scale=0.03)
    most = frame[frame["data_fraction"] == 1.0].assign(verdict="not-learning")
    apart = most.assign(dropout=0.9)  # a combination that only the largest amount has
    empty = most.assign(**{GAP: math.nan})
    for more in (apart, empty, pd.concat([apart, empty])):
        assert fit(pd.concat([frame, more])).more.reason == "400 images per class already do"
    frame.loc[(frame["data_fraction"] == 1.0) & (frame["dropout"] == 0.5), "verdict"] = "not-learning"
    learnt = frame[(frame["data_fraction"] == 1.0) & (frame["dropout"] == 0.0)]
    for more in (learnt, learnt.assign(dropout=0.9)):  # repeats are averaged
        assert "5 of 10 trials with 400 did not learn" in fit(pd.concat([frame, more, more])).more.reason


def test_a_curve_that_is_no_power_law() -> None:
    frame = study()
    frame[GAP] += np.where(frame["data_fraction"] == 0.25, 0.3, 0.0)
    assert fit(frame).reason == "the gap does not follow a power law with more images"


# ---- in words


def test_the_sentence() -> None:
    assert fit(study((0.5, 1.0), noise=1e-4)).sentence() == (
        "vgg16, scratch: the gap by training images per class: 20.0 points [20.0, 20.0] at 200, 10.0 points "
        "[10.0, 10.0] at 400; -10.0 points [-10.0, -10.0] with each doubling. How many images lead to 5 points: "
        "2 amounts cannot tell whether the gap has a floor; that takes 4 or more. At equal epochs, more images are "
        "also more updates of the weights."
    )
    law = fit(study())
    assert f"About {law.more.count} more images per class ({law.more.low} to {law.more.high}) lead to 5" in (
        law.sentence()
    )


def test_the_trend_at_equal_updates_is_told_where_it_was_measured() -> None:
    frame = study()
    law = fit(frame.assign(**{"updates/gap_accuracy": frame[GAP] / 2}))
    assert law.trend is not None
    assert law.trend_at_equal_updates is not None
    assert law.trend_at_equal_updates.value == pytest.approx(law.trend.value / 2)
    assert "at the same number of updates, -1" in law.sentence()
    assert fit(frame.assign(**{"updates/gap_accuracy": math.nan})).trend_at_equal_updates is None


# ---- any table


def test_a_plain_table() -> None:
    frame = pd.DataFrame(
        {
            "run": np.repeat(np.arange(3), 4),
            "n": [100, 200, 400, 800] * 3,
            "test_accuracy": [0.6, 0.8, 0.9, 0.95] * 3 + np.random.default_rng(0).normal(0, 0.005, 12),
        }
    )
    law = data_law(frame, "test_accuracy", "n", "run", target=0.97)
    assert (law.is_accuracy, law.images, law.seeds) == (True, (100, 200, 400, 800), 3)
    with pytest.raises(InputError, match="no column 'gap' for the outcome; the columns are 'run', 'n', "):
        data_law(frame, images="n", seed="run")
    for target in (0.0, 1.0):
        with pytest.raises(InputError, match="never reached"):
            data_law(frame, "test_accuracy", "n", "run", target=target)


# ---- simulated studies


@pytest.fixture
def data_laws(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    return importlib.import_module("data_laws")


def test_statements_are_as_often_true_as_they_say(data_laws: ModuleType) -> None:
    known = data_laws.rates(data_laws.Scenario(0.0, 1.0, noise=0.015), 25, np.random.default_rng(1))
    assert known.told > 0.5
    assert known.covered > 0.88
    never = data_laws.rates(data_laws.Scenario(0.06, 1.0, noise=0.015), 25, np.random.default_rng(2))
    assert never.false <= 0.05
    assert never.told <= 0.05
    assert never.floor > 0.88


def test_seeds_that_agree_are_no_certainty() -> None:
    rows = [(seed, images) for seed in range(3) for images in (10, 20, 40, 80)]
    frame = pd.DataFrame(rows, columns=["seed", "images"])
    flat = data_law(frame.assign(gap=0.1))
    assert flat.trend is not None
    assert not flat.trend.sign, "nothing falls"
    accuracy = [1.0, 0.96, 1.0, 1.0, 1.0, 1.0, 0.96, 1.0, 1.0, 1.0, 1.0, 1.0]  # of 25 images
    near = data_law(frame.assign(accuracy=accuracy), outcome="accuracy")
    assert all(one.low is not None and one.high is not None for one in near.measured)
    assert all(one.high - one.low > 0.04 for one in near.measured if one.low is not None and one.high is not None)


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("images", [0, 10], "'images' must hold whole numbers of images above 0"),
        ("images", [10, 20.5], "must hold whole numbers of images"),
        ("images", [10, math.nan], "must hold whole numbers of images"),
        ("images", ["10", "20"], "the number of images 'images' must be numbers; '10' is str"),
        ("images", [10, math.inf], "'images' is infinite, or beyond"),
        ("gap", [0.1, math.inf], "the outcome 'gap' is infinite, or beyond"),
        ("gap", ["a", "b"], "the outcome 'gap' must be numbers; 'a' is str"),
        ("gap", [10.0, 20.0], "must be a share of -1 to 1, not 10; divide percent and points by 100"),
        ("seed", [0, None], "the seed 'seed' is missing in 1 trials"),
        ("seed", [[0], [1]], "the seed 'seed' must hold numbers or names"),
        ("kind", [["a"], ["b"]], "the factor 'kind' must hold numbers or names"),
    ],
)
def test_values_that_do_not_fit(column: str, values: Any, message: str) -> None:
    frame = pd.DataFrame({"seed": [0, 0], "images": [10, 20], "gap": [0.1, 0.2], "kind": ["a", "b"]})
    with pytest.raises(InputError, match=message):
        data_law(frame.assign(**{column: values}), factors=["kind"])


def test_arguments_that_do_not_fit() -> None:
    frame = pd.DataFrame({"seed": [0, 0], "images": [10, 20], "gap": [0.1, 0.2]})
    for arguments, message in (
        ({"outcome": "images"}, "each column has one role"),
        ({"outcome": None}, "no column None for the outcome"),
        ({"target": "5"}, "a target of '5' is never reached"),
        ({"target": math.nan}, "a target of nan is never reached"),
        ({"factors": "kind"}, "no column 'kind' for the factor"),
    ):
        with pytest.raises(InputError, match=message):
            data_law(frame, **arguments)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="must be a pandas DataFrame"):
        data_law([1])  # type: ignore[arg-type]


def test_too_little_is_no_error_and_no_law() -> None:
    frame = pd.DataFrame({"seed": [0, 0], "images": [10, 20], "gap": [0.1, 0.2]})
    for trials in (frame.iloc[:0], frame.iloc[:1], frame.assign(gap=math.nan)):
        assert data_law(trials).trend is None
        assert data_law(trials).answer == "cannot tell"


def test_text_of_seeds_and_repeated_rows_and_categories_change_nothing() -> None:
    frame = pd.DataFrame([(seed, images) for seed in range(3) for images in (10, 20, 40, 80)])
    frame.columns = pd.Index(["seed", "images"])
    frame["gap"] = 0.5 * frame["images"] ** -0.5 + np.random.default_rng(0).normal(0, 0.005, len(frame))
    law = data_law(frame)
    assert data_law(frame.astype({"seed": str, "images": "category", "gap": "Float64"})) == law
    twice = data_law(pd.concat([frame, frame]))
    assert [one.value for one in twice.measured] == pytest.approx([one.value for one in law.measured])
