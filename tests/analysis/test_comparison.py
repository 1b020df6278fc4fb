"""Comparison of two studies: known differences are found, and what can't be compared is said."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
from simulated import EFFECTS, Simulated

from cnnstudy.analysis.causes import NetworkAnalysis, analyze_networks
from cnnstudy.analysis.comparison import (
    GAP,
    ONE_SEED,
    VALIDATION,
    WELCH,
    Comparison,
    EffectComparison,
    OutcomeComparison,
    Side,
    compare_studies,
)
from cnnstudy.analysis.comparison_text import comparison_sentences, effect_comparison_rows, outcome_rows
from cnnstudy.analysis.effects import PAIRS, estimate_effects
from cnnstudy.analysis.intervals import Estimate, holm_correction
from cnnstudy.analysis.observations import observe
from cnnstudy.config.factors import recorded_factors
from cnnstudy.tracking.recorded import RecordedRun

#: Few cells: 3 effects, and nothing else varies.
SMALL: dict[str, list[Any]] = {"data_fraction": [0.25, 1.0], "dropout": [0.0]}
#: Four times the images lower the gap by 20 points instead of 15.
STEEPER = {**EFFECTS, "data_fraction": {0.25: 0.25, 0.5: 0.1, 1.0: 0.05}}


def side(simulated: Simulated, name: str = "a", trials: list[RecordedRun] | None = None) -> Side:
    config = {"name": name, "objective": {"metric": "val/accuracy"}, **simulated.study.config}
    study = dataclasses.replace(simulated.study, name=name, config=config)
    trials = simulated.trials if trials is None else trials
    return Side(study, trials, analyze_networks(study, trials, simulated.history, 0.05), None)


def light_side(simulated: Simulated) -> Side:
    """Return a side with effects only, which is fast enough for many simulations."""
    found = []
    for observations in observe(simulated.trials, simulated.history):
        factors = recorded_factors(simulated.study.config, observations.architecture)
        effects = estimate_effects(observations.frame, factors, [GAP, VALIDATION])
        found.append(NetworkAnalysis(observations.architecture, observations, observations.frame, effects, (), {}, ()))
    return Side(simulated.study, simulated.trials, found, None)


def outcome(comparison: Comparison, name: str = "gap_accuracy", architecture: str = "alexnet") -> OutcomeComparison:
    (found,) = [one for one in comparison.outcomes if (one.architecture, one.outcome) == (architecture, name)]
    return found


def effect(comparison: Comparison, factor: str, level: object, architecture: str = "alexnet") -> EffectComparison:
    wanted = (architecture, factor, level, "gap_accuracy")
    (found,) = [
        one for one in comparison.effects if (one.a.architecture, one.a.factor, one.a.level, one.a.outcome) == wanted
    ]
    return found


def said(comparison: Comparison, words: str) -> str:
    (line,) = [line for line in comparison_sentences(comparison) if words in line]
    return line


# ---- intervals


@pytest.mark.thorough
@pytest.mark.parametrize("method", [PAIRS, WELCH])
def test_intervals_of_differences_hold_the_truth_as_often_as_they_say(method: str) -> None:
    # the means of the cells of A and B differ by half of 5 points, the effect of the images by 5, the others by 0
    truth = {("level", ""): 0.025, ("data_fraction", 1.0): -0.05, ("transfer", "frozen"): 0.0, ("batch_size", 64): 0.0}
    covered: dict[object, list[bool]] = {key: [] for key in truth}
    told: dict[object, list[bool]] = {key: [] for key in truth}
    for number in range(200):
        of_b = {"effects": STEEPER, "random": 2 * number + 1, "digest": "d" * 24 if method == PAIRS else "other"}
        a, b = (Simulated(noise=0.02, by_seed=0.02, factors=SMALL, **of) for of in ({"random": 2 * number}, of_b))
        comparison = compare_studies(light_side(a), light_side(b))
        of_level = outcome(comparison)
        assert of_level.method == method
        for key, true in truth.items():
            if key[0] == "level":
                difference, answer = of_level.difference, of_level.answer
            else:
                one = effect(comparison, *key)
                difference, answer = one.difference, one.answer
            assert difference is not None
            assert difference.low is not None
            assert difference.high is not None
            covered[key].append(difference.low <= true <= difference.high)
            told[key].append(answer != "cannot tell")
    for key in truth:
        # 2.6 standard errors of a share of 200; Welch's freedom is estimated, which makes it a bit wider
        assert 0.91 <= np.mean(covered[key]) <= (0.99 if method == PAIRS else 1.0), key
    assert np.mean(told["transfer", "frozen"]) <= 0.05 + 2.6 * 0.0154
    assert np.mean(told["batch_size", 64]) <= 0.05 + 2.6 * 0.0154
    assert np.mean(told["data_fraction", 1.0]) >= 0.8


@pytest.mark.thorough
@pytest.mark.parametrize("digest", ["d" * 24, "other"])
def test_a_study_under_other_noise_is_told_from_itself_as_rarely_as_promised(digest: str) -> None:
    told: list[bool] = []
    for number in range(200):
        a = Simulated(noise=0.02, by_seed=0.02, factors=SMALL, random=2 * number)
        b = Simulated(noise=0.02, by_seed=0.02, factors=SMALL, random=2 * number + 1, digest=digest)
        told.append(outcome(compare_studies(light_side(a), light_side(b))).answer != "cannot tell")
    assert np.mean(told) <= 0.05 + 2.6 * 0.0154


def test_pairs_are_exact_where_noise_is_shared() -> None:
    """Noise that a seed adds to both studies cancels, whatever its size."""
    a, b = side(Simulated(noise=1e-5)), side(Simulated(noise=1e-5, effects=STEEPER, random=1), "b")
    comparison = compare_studies(a, b)
    found = outcome(comparison)
    assert found.method == PAIRS
    assert found.pairs == len(a.trials)
    assert found.difference is not None
    assert found.a is not None
    assert found.a.low is not None
    assert found.a.value - found.a.low > 0.03  # by itself a study knows little
    assert found.difference.low == pytest.approx(0.05 / 3, abs=1e-4)
    assert found.difference.high == pytest.approx(0.05 / 3, abs=1e-4)
    assert (found.answer, outcome(comparison, "val_accuracy").answer) == ("higher", "lower")
    images = effect(comparison, "data_fraction", 1.0)
    assert images.difference.value == pytest.approx(-0.05, abs=1e-4)
    assert images.answer == "differs"
    assert images.difference.value == pytest.approx(images.b.estimate - images.a.estimate)


def test_the_same_numbers_are_the_same() -> None:
    comparison = compare_studies(side(Simulated()), side(Simulated(), "b"))
    assert {one.answer for one in comparison.outcomes} == {"equal"}
    assert {one.answer for one in comparison.effects} == {"cannot tell"}
    assert comparison.differences == ()
    assert said(comparison, "No recorded setting differs")
    assert "alexnet: the gap is the same in both (16.7 in A, 16.7 in B)." in comparison_sentences(comparison)


def test_seeds_that_agree_tell_nothing_where_their_resolution_is_unknown() -> None:
    a, b = Simulated(noise=0.0, by_seed=0.2), Simulated(noise=0.0, by_seed=0.2, effects=STEEPER)
    comparison = compare_studies(side(a), side(b, "b"))
    found = outcome(comparison)
    assert (found.method, found.answer) == (PAIRS, "cannot tell")
    assert found.difference == Estimate(pytest.approx(0.05 / 3), count=4)
    assert {one.answer for one in comparison.effects} == {"cannot tell"}
    assert "because seeds that agree give no interval: +1.7 points" in said(comparison, "the gap: cannot tell")


def test_the_means_of_overlapping_divisions_are_widened_and_effects_say_what_they_do_not_hold_for() -> None:
    def divided(simulated: Simulated, validation: int) -> list[RecordedRun]:
        return [
            dataclasses.replace(
                run, parameters={**run.parameters, "validation_images": str(validation), "block": str(run.seed)}
            )
            for run in simulated.trials
        ]

    a, b = Simulated(factors=SMALL, noise=0.05), Simulated(factors=SMALL, noise=0.05, random=1)
    plain = compare_studies(side(a), side(b, "b"))
    wide = compare_studies(side(a, "a", divided(a, 50)), side(b, "b", divided(b, 100)))
    widths = []
    for comparison in (plain, wide):
        difference = outcome(comparison).difference
        assert difference is not None
        assert difference.low is not None
        assert difference.high is not None
        widths.append(difference.high - difference.low)
    # 4 seeds, and the larger of 50 / 200 and 100 / 200
    assert widths[1] == pytest.approx(widths[0] * (1 + 4 * 0.5) ** 0.5)
    assert effect(wide, "data_fraction", 1.0).difference == effect(plain, "data_fraction", 1.0).difference
    (note,) = [note for note in wide.notes if "hold for other seeds on these images" in note]
    assert note.endswith("not for other images.")
    assert any("how seeds divide the images is not recorded" in note for note in plain.notes)


def test_two_seeds_and_mixed_effects_do_not_differ() -> None:
    two = compare_studies(side(Simulated(seeds=2)), side(Simulated(seeds=2, effects=STEEPER, random=1), "b"))
    assert {one.answer for one in (*two.outcomes, *two.effects)} == {"cannot tell"}
    assert {one.p_adjusted for one in two.effects} == {None}
    assert "2 seeds may agree by chance" in effect_comparison_rows(two)[0][-1]
    a, b = side(Simulated()), side(Simulated(effects=STEEPER, random=1), "b")
    assert effect(compare_studies(a, b), "data_fraction", 1.0).answer == "differs"
    mixed = [dataclasses.replace(one, doubt="mixed with dropout x transfer") for one in a.causes[0].effects]
    doubted = compare_studies(dataclasses.replace(a, causes=[dataclasses.replace(a.causes[0], effects=mixed)]), b)
    assert effect(doubted, "data_fraction", 1.0).answer == "cannot tell"
    assert effect(doubted, "data_fraction", 1.0).doubt == "mixed with dropout x transfer"


def test_effects_on_an_outcome_are_one_family_over_all_networks() -> None:
    both = ("alexnet", "vgg16")
    a, b = Simulated(architectures=both), Simulated(architectures=both, random=1, digest="other")
    gaps = [one for one in compare_studies(light_side(a), light_side(b)).effects if one.a.outcome == "gap_accuracy"]
    assert {one.a.architecture for one in gaps} == set(both)
    p = np.array([one.difference.p for one in gaps], dtype=float)
    assert [one.p_adjusted for one in gaps] == pytest.approx(holm_correction(p))


# ---- what is matched


def test_other_images_are_not_matched() -> None:
    comparison = compare_studies(side(Simulated()), side(Simulated(digest="other"), "b"))
    assert {one.method for one in (*comparison.outcomes, *comparison.effects)} == {WELCH}
    assert any("used different images" in note for note in comparison.notes)
    assert ("data digest", "d" * 24, "other") in [(one.key, one.a, one.b) for one in comparison.differences]


def test_a_level_that_neither_varies_is_what_differs() -> None:
    """The learning rate is not a factor of either, so trials with the same other levels are pairs."""
    a = Simulated(factors={**SMALL, "learning_rate": [0.001]})
    b = Simulated(factors={**SMALL, "learning_rate": [0.01]})
    comparison = compare_studies(side(a), side(b, "b"))
    assert outcome(comparison).method == PAIRS
    difference = outcome(comparison).difference
    assert difference is not None
    assert difference.value == pytest.approx(0.3)  # what the simulation gives to that learning rate
    assert [(one.key, one.a, one.b) for one in comparison.differences] == [("factors.learning_rate", [0.001], [0.01])]


def test_only_shared_combinations_and_seeds_are_matched() -> None:
    a, b = Simulated(seeds=4, noise=0.0), Simulated(seeds=3, noise=0.0, factors={"batch_size": [8, 32]})
    comparison = compare_studies(side(a), side(b, "b"))
    found = outcome(comparison)
    assert (found.method, found.pairs) == (PAIRS, 3 * 12)  # batch size 8, with the first 3 seeds
    assert found.difference is not None
    assert found.difference.value == pytest.approx(0.0)
    assert any("over the 36 pairs" in note for note in comparison.notes)
    only = {(name, one.factor, one.level) for name, one in comparison.effects_of_one}
    assert only == {("A", "batch_size", 64), ("B", "batch_size", 32)}
    assert "batch size 32 instead of 8" in said(comparison, "only B has")


def test_a_tuned_factor_makes_no_other_combination() -> None:
    strategy = {"tune": ["learning_rate"]}
    a = Simulated(strategy=strategy, factors={**SMALL, "learning_rate": [0.001, 0.002]})
    b = Simulated(strategy=strategy, factors={**SMALL, "learning_rate": [0.0005, 0.002]}, random=1)
    comparison = compare_studies(side(a), side(b, "b"))
    assert (outcome(comparison).method, outcome(comparison).pairs) == (PAIRS, 4 * 8)


def test_a_search_is_compared_over_its_trials() -> None:
    searched = Simulated(
        random=1, strategy={"kind": "search", "sampler": "tpe", "startup_trials": None}, budget={"trials": 96}
    )
    for number, run in enumerate(searched.trials):
        searched.trials[number] = dataclasses.replace(run, tags={**run.tags, "cnnstudy.seed": str(1000 + number)})
    comparison = compare_studies(side(Simulated()), side(searched, "b"))
    found = outcome(comparison)
    assert found.method == WELCH
    assert found.samples == ("seeds", "trials")
    assert found.b is not None
    assert found.b.count == 96
    assert "two samples of 4 seeds and 96 trials" in outcome_rows(comparison)[0][-1]
    assert any("B is a search" in note and "more often" in note for note in comparison.notes)


# ---- what can't be compared


def test_one_seed_has_no_interval() -> None:
    comparison = compare_studies(side(Simulated()), side(Simulated(seeds=1, digest="other"), "b"))
    found = outcome(comparison)
    assert (found.method, found.answer) == (ONE_SEED, "cannot tell")
    assert found.difference is not None
    assert found.difference.low is None
    assert "because B has only one seed, hence no interval" in said(comparison, "the gap: cannot tell")
    assert {one.answer for one in comparison.effects} == {"cannot tell"}
    assert {one.p_adjusted for one in comparison.effects} == {None}


def test_one_shared_seed_is_not_enough_for_pairs() -> None:
    found = outcome(compare_studies(side(Simulated(seeds=1)), side(Simulated(seeds=1, random=1), "b")))
    assert (found.method, found.pairs) == (ONE_SEED, 0)


def test_networks_of_one_study_are_said() -> None:
    comparison = compare_studies(
        side(Simulated(architectures=("alexnet", "vgg16"))), side(Simulated(architectures=("alexnet",)), "b")
    )
    assert {one.architecture for one in comparison.outcomes} == {"alexnet"}
    assert any(note.startswith("vgg16: only A has finished trials") for note in comparison.notes)
    nothing = compare_studies(side(Simulated(architectures=("vgg16",))), side(Simulated(), "b"))
    assert (nothing.outcomes, nothing.effects) == ((), ())


def test_networks_are_compared_in_both() -> None:
    both = ("alexnet", "vgg16")
    comparison = compare_studies(
        side(Simulated(architectures=both)), side(Simulated(architectures=both, random=1), "b")
    )
    found = effect(comparison, "network", "vgg16", "the networks")
    assert found.method == PAIRS
    assert said(comparison, "In both studies vgg16 instead of alexnet raises the gap")


def test_what_learnt_nothing_counts() -> None:
    silent = Simulated(noise=0.0)
    for number, run in enumerate(silent.trials):
        silent.trials[number] = dataclasses.replace(
            run,
            metrics={**run.metrics, "last/gap_accuracy": 0.0, "last/val_accuracy": 0.2},
            tags={**run.tags, "cnnstudy.verdict": "not-learning"},
        )
    comparison = compare_studies(side(Simulated(noise=0.0)), side(silent, "b"))
    assert outcome(comparison).answer == "lower"
    assert outcome(comparison, "val_accuracy").answer == "lower"
    assert any("96 of 96 trials did not learn" in note for note in comparison.notes)


def test_a_study_without_a_finished_trial() -> None:
    running = [dataclasses.replace(run, state="running", metrics={}) for run in Simulated().trials[:2]]
    comparison = compare_studies(side(Simulated()), side(Simulated(), "b", running))
    assert comparison.outcomes == ()
    assert "no trial of B has finished." in comparison.notes
    empty = compare_studies(side(Simulated(), "a", []), side(Simulated(), "b", []))
    assert (empty.outcomes, empty.effects) == ((), ())
    assert "no trial of A has finished." in empty.notes


def test_what_failed_is_left_out_and_said() -> None:
    simulated = Simulated()
    trials = [dataclasses.replace(simulated.trials[0], state="failed", reason="oom"), *simulated.trials[1:]]
    comparison = compare_studies(side(simulated, "a", trials), side(Simulated(random=1), "b"))
    assert outcome(comparison).pairs == 95
    assert "alexnet in A: 1 trial failed, excluded." in comparison.notes


# ---- words


def test_more_images_lower_the_gap_by_more() -> None:
    line = said(
        compare_studies(side(Simulated()), side(Simulated(effects=STEEPER, random=1), "b")), "4 times the training"
    )
    assert line.startswith("alexnet: in both studies 4 times the training images lower the gap (-15.0 [")
    assert "points in A, -20.0 [" in line or "points in A, -19.9 [" in line
    assert "; in B by " in line
    assert line.endswith("points more.")


def test_less_and_the_other_way_and_not_at_all() -> None:
    flatter = {"data_fraction": {0.25: 0.12, 0.5: 0.1, 1.0: 0.05}, "transfer": {"scratch": 0.0, "frozen": 0.04}}
    comparison = compare_studies(side(Simulated()), side(Simulated(effects=flatter, random=1), "b"))
    assert said(comparison, "4 times the training").endswith("points less.")
    assert "lowers the gap in A and raises it in B" in said(comparison, "frozen instead of scratch")
    none = compare_studies(
        side(Simulated()), side(Simulated(effects={"data_fraction": {0.25: 0, 0.5: 0, 1: 0}}, random=1), "b")
    )
    line = said(none, "frozen instead of scratch lowers")
    assert "lowers the gap in A; cannot tell in B" in line
    assert "the two differ: +" in line
    assert "batch size 64 instead of 8" in said(none, "Cannot tell in either study")


def test_what_one_can_tell_and_the_other_cannot_need_not_differ() -> None:
    """An effect that is known in A and not in B is not by itself a difference between them."""
    a, b = Simulated(noise=0.0), Simulated(noise=0.2, random=1, digest="other")
    line = said(compare_studies(side(a), side(b, "b")), "frozen instead of scratch")
    assert "cannot tell in B" in line
    assert "cannot tell whether the two differ" in line


def test_tables_have_a_cell_under_each_heading() -> None:
    from cnnstudy.analysis import comparison_text as words

    a, b = Simulated(), Simulated(seeds=2, effects=STEEPER, training={"epochs": 3})
    comparison = compare_studies(side(a), side(b, "b"))
    tables = [
        (words.DIFFERENCE_HEADINGS, words.difference_rows(comparison)),
        (words.OUTCOME_HEADINGS, outcome_rows(comparison)),
        (words.COMPARED_EFFECT_HEADINGS, effect_comparison_rows(comparison)),
    ]
    for headings, rows in tables:
        assert rows
        assert {len(row) for row in rows} == {len(headings)}
    assert ["training.epochs", "", "3"] in tables[0][1]


def test_code_and_packages_that_differ() -> None:
    def made_with(simulated: Simulated, version: str, keras: str) -> list[RecordedRun]:
        tags = {"cnnstudy.code_version": version, "cnnstudy.packages": json.dumps({"keras": keras, "python": "3.11"})}
        return [dataclasses.replace(run, tags={**run.tags, **tags}) for run in simulated.trials]

    simulated = Simulated()
    a, b = made_with(simulated, "0.1.0", "3.14"), made_with(simulated, "0.2.0", "3.15")
    a[0] = dataclasses.replace(a[0], tags={**a[0].tags, "cnnstudy.code_version": "0.1.0+dirty"})
    found = compare_studies(side(simulated, "a", a), side(simulated, "b", b)).differences
    assert [(one.key, one.a, one.b) for one in found] == [
        ("code version", "0.1.0, 0.1.0+dirty", "0.2.0"),
        ("packages.keras", "3.14", "3.15"),
    ]
