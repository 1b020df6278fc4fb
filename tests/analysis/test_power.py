"""Which difference a factorial can tell before it runs, checked against the effects of simulated studies."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
import pytest

from cnnstudy.analysis.effects import estimate_effects
from cnnstudy.analysis.looks import Looks
from cnnstudy.analysis.observations import GAP
from cnnstudy.analysis.power import (
    TYPICAL_SEEDS,
    count_answers,
    describe_power,
    detectable_differences,
    trial_noise,
    typical_power,
)
from cnnstudy.analysis.question import Question, correct_by_question
from cnnstudy.config.factors import Choices, Levels
from cnnstudy.records import PreparedImages, TrialSpec
from cnnstudy.tracking.recorded import RecordedRun

FACTORS: dict[str, Levels] = {
    "batch_size": Choices((8, 64)),
    "data_fraction": Choices((0.25, 0.5, 1.0)),
    "dropout": Choices((0.0, 0.5)),
}


def planned(factors: Mapping[str, Levels], seeds: int) -> pd.DataFrame:
    cells = list(itertools.product(*(levels.values for levels in factors.values() if isinstance(levels, Choices))))
    return pd.DataFrame([(seed, *cell) for seed in range(seeds) for cell in cells], columns=["seed", *factors])


@pytest.fixture
def images(spec: TrialSpec) -> PreparedImages:
    return dataclasses.replace(spec.images, train=(300, 300), validation=(80, 80))


def test_before_a_study_is_designed_power_is_that_of_one_factor(images: PreparedImages) -> None:
    images = dataclasses.replace(images, test=(50, 50))
    gap, low, high = typical_power(images)
    one = {"dropout": Choices((0.2, 0.5))}
    (found,) = detectable_differences(planned(one, TYPICAL_SEEDS), one, trial_noise(images, Question()))
    assert gap == found.difference
    assert (low, high) == pytest.approx((0.7111, 0.8666), abs=1e-4)  # Wilson's interval of 80 of 100
    fewer = dataclasses.replace(images, validation=(20, 20), test=(10, 10))
    unequal = dataclasses.replace(images, train=(500, 100), validation=(140, 20))
    assert typical_power(fewer)[0] > gap
    assert typical_power(fewer)[2] - typical_power(fewer)[1] > high - low
    assert typical_power(unequal)[0] > gap, "as many images, and balanced accuracies"


@pytest.mark.parametrize(
    ("seeds", "factors"),
    [(3, None), *(pytest.param(*given, marks=pytest.mark.thorough) for given in [(5, None), (3, ("batch_size",))])],
)
def test_four_in_five_studies_find_that_difference(
    seeds: int, factors: tuple[str, ...] | None, images: PreparedImages
) -> None:
    """The correction is that of `effects`: over the question's answers, in two networks."""
    question = Question("gap", factors)
    noise = trial_noise(images, question)
    trials = planned(FACTORS, seeds)
    answers = 2 * count_answers(trials, FACTORS, question)
    assert answers == 2 * (1 if factors else 4)
    found = detectable_differences(trials, FACTORS, noise, (), question, answers)
    assert [one.factor for one in found] == list(factors or FACTORS)
    difference = found[0].difference
    assert difference is not None
    random, told = np.random.default_rng(0), []
    for _ in range(100):
        effects = []
        for network in ("alexnet", "vgg16"):
            change = difference * (trials["batch_size"] == 64) if network == "alexnet" else 0.0
            gap = 0.3 - change + random.normal(0, noise, len(trials))
            frame = trials.assign(**{"architecture": network, "verdict": "overfit", GAP: gap})
            effects += estimate_effects(frame, FACTORS, [GAP])
        (one,) = [
            effect
            for effect in correct_by_question(effects, question)
            if (effect.architecture, effect.factor, effect.second) == ("alexnet", "batch_size", None)
        ]
        told.append(one.answer)
    assert 0.7 <= told.count("lowers") / len(told) <= 0.9
    assert "raises" not in told


def test_fewer_answers_tell_smaller_differences(images: PreparedImages) -> None:
    trials, noise = planned(FACTORS, 5), trial_noise(images, Question())

    def of(question: Question, answers: int | None = None) -> float:
        found = detectable_differences(trials, FACTORS, noise, (), question, answers)
        (difference,) = [one.difference for one in found if one.factor == "batch_size"]
        assert difference is not None
        return difference

    # from 5 seeds on the t-test alone decides about few answers, and the correction about many
    assert of(Question("gap", ("batch_size",))) <= of(Question()) < of(Question(), 40)


def test_the_noise_is_that_of_the_outcome_asked_about(images: PreparedImages) -> None:
    unequal = dataclasses.replace(images, train=(570, 30), validation=(152, 8))
    for question, prepared, variance in (
        (Question(), images, 0.16 * 2 / 160),
        (Question("accuracy"), images, 0.16 / 160),
        (Question("accuracy"), unequal, 0.16 / 160),
        (Question("balanced-accuracy"), unequal, 0.16 * (1 / 152 + 1 / 8) / 4),
        (Question("gap", None, unequal=True), unequal, 2 * 0.16 * (1 / 152 + 1 / 8) / 4),
    ):
        assert trial_noise(prepared, question) == pytest.approx((variance + 0.05**2) ** 0.5)
        sentence = describe_power(planned(FACTORS, 5), FACTORS, prepared, [], question)
        assert f"find a difference in {question.words} of batch size" in sentence


def test_more_seeds_and_more_trials_at_a_level_tell_smaller_differences(images: PreparedImages) -> None:
    noise = trial_noise(images, Question())

    def of(factors: Mapping[str, Levels], seeds: int) -> dict[str, float]:
        found = detectable_differences(planned(factors, seeds), factors, noise)
        return {one.factor: one.difference for one in found if one.difference is not None}

    three, five = of(FACTORS, 3), of(FACTORS, 5)
    assert set(three) == set(five) == set(FACTORS)
    assert all(five[name] < three[name] for name in FACTORS)
    assert five["batch_size"] < five["data_fraction"], "a third of the trials are at each of its levels"
    assert of({"batch_size": Choices((8, 64))}, 5)["batch_size"] > five["batch_size"]


def test_the_sentence_names_seeds_images_and_points(images: PreparedImages) -> None:
    noise = trial_noise(images, Question())
    trials = planned(FACTORS, 5)
    points = {one.factor: one.difference for one in detectable_differences(trials, FACTORS, noise)}
    assert points["dropout"] is not None
    sentence = describe_power(trials, FACTORS, images, [])
    assert sentence.startswith("power: with 5 seeds and 160 validation images, 80 % of studies find a difference")
    assert f"dropout {100 * points['dropout']:.0f}" in sentence
    assert sentence.endswith("(noise assumed until trials measure it)")


@pytest.mark.parametrize(("seeds", "few"), [(1, "1 seed;"), (2, "2 seeds;")])
def test_few_seeds_tell_nothing_from_chance(images: PreparedImages, seeds: int, few: str) -> None:
    assert describe_power(planned(FACTORS, seeds), FACTORS, images, []) == (
        f"power: none with {few} at least 3 can tell a difference from chance"
    )


def test_without_a_varied_factor_there_is_no_difference_to_tell(images: PreparedImages) -> None:
    assert describe_power(planned({"batch_size": Choices((8,))}, 5), {}, images, []) == ""


def test_trials_that_have_run_measure_the_noise(images: PreparedImages, make_run: Callable[..., RecordedRun]) -> None:
    trials, random = planned(FACTORS, 3), np.random.default_rng(0)
    runs = []
    for number, row in enumerate(trials.to_dict("records")):
        levels = {name: row[name] for name in FACTORS}
        run = make_run(number, levels=levels, tags={"cnnstudy.seed": str(row["seed"])})
        metrics = {**run.metrics, "last/gap_accuracy": float(random.normal(0.2, 0.2))}
        runs.append(dataclasses.replace(run, metrics=metrics))
    calm = [dataclasses.replace(run, metrics={**run.metrics, "last/gap_accuracy": 0.2}) for run in runs]
    assumed = describe_power(trials, FACTORS, images, [])
    noisy = describe_power(trials, FACTORS, images, runs)
    assert noisy.endswith("(noise measured so far)")
    assert float(noisy.split("batch size ")[1].split(",")[0]) > float(assumed.split("batch size ")[1].split(",")[0])
    assert describe_power(trials, FACTORS, images, calm[:4]) == assumed, "one seed measures no noise"


def test_a_design_promises_nothing_about_factors_that_it_cannot_separate(images: PreparedImages) -> None:
    trials = planned(FACTORS, 5)
    confounded = trials[(trials["batch_size"] == 8) == (trials["dropout"] == 0.0)]
    why = "batch size, dropout, which the design cannot separate from each other or from interactions"
    assert f"; none of {why}" in describe_power(confounded, FACTORS, images, [])


def test_a_fraction_promises_nothing_about_effects_mixed_with_interactions(images: PreparedImages) -> None:
    """A half of 2^3 estimates each main effect together with the interaction of the other two."""
    factors: dict[str, Levels] = {
        "batch_size": Choices((8, 64)),
        "dropout": Choices((0.0, 0.5)),
        "class_weights": Choices(("none", "balanced")),
    }
    trials = planned(factors, 5)
    high = sum((trials[name] == levels.values[1]).astype(int) for name, levels in factors.items())
    half, last_look = trials[high % 2 == 1], Looks(5, 5)
    for looks in (None, last_look):
        assert describe_power(half, factors, images, [], looks=looks) == (
            "power: none about batch size, dropout, class weights, which the design cannot separate from each other or "
            "from interactions"
        )
        told = describe_power(half, factors, images, [], looks=looks, interactions=False)
        assert "80 % of studies find a difference in the gap of batch size" in told
        assert "none" not in told
