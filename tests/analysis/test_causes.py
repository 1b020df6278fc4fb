"""From a study's runs to the analysis of each network, in numbers and sentences."""

from __future__ import annotations

import dataclasses
import json

import pytest
from simulated import Simulated

from cnnstudy.analysis.causes import NETWORKS, NetworkAnalysis, analyze_networks, effects_frame
from cnnstudy.analysis.effects_text import effect_headings, effect_rows, effect_sentences
from cnnstudy.tracking.recorded import RecordedRun


def of(simulated: Simulated, trials: list[RecordedRun] | None = None) -> list[NetworkAnalysis]:
    return analyze_networks(simulated.study, simulated.trials if trials is None else trials, simulated.history, 0.05)


@pytest.fixture(scope="module")
def found() -> NetworkAnalysis:
    (only,) = of(Simulated())
    return only


def test_planted_effects_come_back(found: NetworkAnalysis) -> None:
    data = found.find_effect("data_fraction", 1.0, "epochs/gap_accuracy")
    assert data is not None
    assert data.estimate == pytest.approx(-0.15, abs=0.01)
    assert (data.answer, data.baseline, data.seeds) == ("lowers", 0.25, 4)
    frozen = found.find_effect("transfer", "frozen", "epochs/gap_accuracy")
    assert frozen is not None
    assert frozen.estimate == pytest.approx(-0.04, abs=0.01)
    dropout = found.find_effect("dropout", 0.5, "epochs/gap_accuracy")
    assert dropout is not None
    assert dropout.answer == "cannot tell"


def test_the_usual_batch_size_effect_is_taken_apart(found: NetworkAnalysis) -> None:
    parts = [
        found.find_effect("batch_size", 64, name)
        for name in (
            "epochs/legacy_gap_accuracy",
            "epochs/measuring_gap",
            "parts/more_updates_gap",
            "updates/gap_accuracy",
        )
    ]
    estimates = [part.estimate for part in parts if part is not None]
    # measuring adds 6 points; the small batch's larger number of updates costs 2 points, which the large one is spared
    assert estimates == pytest.approx([0.06, 0.06, -0.02, 0.02], abs=0.01)
    assert estimates[0] == pytest.approx(sum(estimates[1:]))
    (said,) = [line for line in effect_sentences(found) if "usual protocol" in line]
    assert "batch size 64 instead of 8 changes the gap by +6." in said
    assert "(it uses 240 validation images at batch size 8 and 192 validation images at batch size 64)" in said


def test_the_answer_comes_first_and_in_words(found: NetworkAnalysis) -> None:
    lines = effect_sentences(found)
    assert lines[0].startswith("alexnet overfits: after the last epoch the gap is +")
    assert "on average over all 32 finished trials on all training images" in lines[0]
    assert "the weights of the best epoch: 32 overfit." in lines[0]
    assert lines[1].startswith("4 times the training images lower the gap: -1")
    assert "at the same train loss (0.50 nats)" in lines[1]
    assert any(line.startswith("Frozen instead of scratch lowers the gap: -") for line in lines)
    (unknown,) = [line for line in lines if line.startswith("Cannot tell")]
    assert "dropout 0.5 instead of 0" in unknown
    assert any("images per class" in line and line.startswith("scratch: ") for line in lines)
    shares = "Share of the variance of the gap between trials that each factor explains: data fraction"
    assert any(line.startswith(shares) for line in lines)


def test_the_table_has_an_answer_for_each_level(found: NetworkAnalysis) -> None:
    rows, hidden = effect_rows(found, interactions=False)
    assert {len(row) for row in rows} == {len(effect_headings(found))}
    assert rows[0][0] == "4 times the training images"
    assert (len(rows), hidden) == (5, 0)
    told, hidden = effect_rows(found, interactions=True)
    assert len(told) + hidden == 1 * 2 + 1 + 1 + 2 * 1 + 2 * 1 + 1


def test_trials_that_learnt_nothing_are_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    simulated = Simulated()
    trials = [
        dataclasses.replace(run, tags={**run.tags, "cnnstudy.verdict": "not-learning"})
        if '"batch_size": 64' in run.tags["cnnstudy.levels"] and run.tags["cnnstudy.seed"] == "1"
        else run
        for run in simulated.trials
    ]
    (found,) = of(simulated, trials)
    assert any("12 of 96 trials did not learn" in warning for warning in found.warnings)
    assert any("(all with batch size 64)" in warning for warning in found.warnings)
    effect = found.find_effect("batch_size", 64, "epochs/gap_accuracy")
    assert effect is not None
    assert (effect.seeds, effect.trials) == (4, 96), "they count with the gap that they have"


def test_missing_trials_are_told_of() -> None:
    simulated = Simulated()
    states = ["failed", "pruned", "pruned"]
    trials = [dataclasses.replace(run, state=state) for run, state in zip(simulated.trials, states, strict=False)]
    (found,) = of(simulated, [*trials, *simulated.trials[3:]])
    assert any("2 trials pruned" in warning for warning in found.warnings)
    assert any("1 trial failed" in warning for warning in found.warnings)


def test_an_adaptive_search_is_told_of() -> None:
    strategy = {"kind": "search", "sampler": "tpe", "startup_trials": 6}
    simulated = Simulated(seeds=1, strategy=strategy, budget={"trials": 24})
    (found,) = of(simulated)
    assert any("adaptive (tpe)" in warning for warning in found.warnings)
    (random,) = of(Simulated(seeds=1, strategy=strategy | {"sampler": "random"}, budget={"trials": 24}))
    assert not any("adaptive" in warning for warning in random.warnings)
    # only the six random trials count for importances
    of_search, of_random = (one.importances["epochs/gap_accuracy"] for one in (found, random))
    assert (of_search.trials, of_random.trials) == (6, 24)
    assert "6 whose levels were chosen without regard to results; 60 are needed" in of_search.sentence("the gap")


def test_one_seed_can_not_tell() -> None:
    (found,) = of(Simulated(seeds=1))
    assert {effect.answer for effect in found.effects} == {"cannot tell"}
    assert any("raise strategy.seeds" in warning for warning in found.warnings)


def test_networks_are_compared_with_each_other() -> None:
    alexnet, vgg16, between = of(Simulated(architectures=("alexnet", "vgg16")))
    assert (alexnet.architecture, vgg16.architecture, between.architecture) == ("alexnet", "vgg16", NETWORKS)
    effect = between.find_effect("network", "vgg16", "epochs/gap_accuracy")
    assert effect is not None
    assert effect.estimate == pytest.approx(0.03, abs=0.01)
    assert effect_sentences(between)[0].startswith("Vgg16 instead of alexnet raises the gap: +")


def test_no_trial_yet() -> None:
    simulated = Simulated()
    assert of(simulated, []) == []
    (found,) = of(simulated, [dataclasses.replace(simulated.trials[0], state="failed")])
    assert effect_sentences(found) == ["alexnet: no trial has finished yet."]


def test_a_network_that_learns_nothing_has_nothing_to_explain() -> None:
    simulated = Simulated(seeds=2)
    silent = [
        dataclasses.replace(run, tags={**run.tags, "cnnstudy.verdict": "not-learning"}) for run in simulated.trials
    ]
    (found,) = of(simulated, silent)
    assert effect_sentences(found)[0] == (
        "alexnet did not learn in any of 16 trials on all training images, 2 seeds: no overfitting to explain."
    )


def test_a_tuned_factor_is_no_question() -> None:
    simulated = Simulated(seeds=3, factors={"learning_rate": [0.001, 0.01]}, strategy={"tune": ["learning_rate"]})
    (found,) = of(simulated)
    assert "learning_rate" not in {effect.factor for effect in found.effects}
    assert len(found.frame) == len(simulated.trials) / 2
    assert any("0.001 in 100 % at batch size 8" in warning for warning in found.warnings)


def test_every_effect_is_a_row(found: NetworkAnalysis) -> None:
    frame = effects_frame([found])
    assert len(frame) == len(found.effects)
    assert {
        "factor",
        "baseline",
        "level",
        "basis",
        "outcome",
        "estimate",
        "low",
        "high",
        "p_adjusted",
        "answer",
    } <= set(frame.columns)


@pytest.mark.parametrize(
    ("weights", "warning"),
    [
        ({"source": "pretrain"}, "one draw of pretrained source weights"),
        ({"source": "pretrain", "draws": "one"}, "one draw of pretrained source weights"),
        ({"source": "pretrain", "draws": "each-seed"}, ""),
        ({"source": "imagenet"}, "said of these source weights (imagenet)"),
        ({"source": "random"}, ""),
        ({}, ""),
    ],
)
def test_transfer_is_said_to_be_that_of_the_source_weights_that_all_seeds_share(
    weights: dict[str, str], warning: str
) -> None:
    simulated = Simulated(weights={"default": weights} if weights else {})
    (found,) = analyze_networks(simulated.study, simulated.trials, simulated.history, 0.05)
    told = [one for one in found.warnings if "source weights" in one]
    assert [warning in one for one in told] == ([True] if warning else [])


@pytest.mark.parametrize("varies", [False, True])
def test_networks_are_compared_each_with_its_own_learning_rate(varies: bool) -> None:
    simulated = Simulated(architectures=("alexnet", "vgg16"), by_seed=0.0)
    rates: dict[str, list[float]] = {"alexnet": [0.001], "vgg16": [0.002, 0.004][: 1 + varies]}

    def with_rate(run: RecordedRun) -> RecordedRun:
        own = rates[run.tags["cnnstudy.architecture"]]
        levels = {**json.loads(run.tags["cnnstudy.levels"]), "learning_rate": own[run.number % len(own)]}
        return dataclasses.replace(run, tags={**run.tags, "cnnstudy.levels": json.dumps(levels)})

    simulated.study.config["factors"]["learning_rate"] = rates
    found = of(simulated, [with_rate(run) for run in simulated.trials])
    (compared,) = [one for one in found if one.architecture == NETWORKS]
    effect = compared.find_effect("network", "vgg16", "epochs/gap_accuracy")
    if varies:
        assert effect is None, "in no cell do the networks share a rate"
        assert compared.warnings == []
        return
    assert effect is not None
    assert effect.answer == "raises"
    assert effect.estimate == pytest.approx(0.03, abs=0.003)
    assert compared.warnings == [
        "each network has a learning rate of its own (alexnet 0.001, vgg16 0.002), with which it is compared."
    ]
