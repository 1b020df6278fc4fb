"""A cause is named only where it is known to raise the gap of a network that overfits, and mending it costs little."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import pytest
from simulated import Simulated

from cnnstudy.analysis.causes import NetworkAnalysis, analyze_networks
from cnnstudy.analysis.named_causes import cause_sentence, list_causes
from cnnstudy.tracking.recorded import RecordedRun

Metrics = Callable[[RecordedRun], Mapping[str, float]]


def analyze(simulated: Simulated, metrics: Metrics = lambda run: {}) -> list[NetworkAnalysis]:
    trials = [dataclasses.replace(run, metrics={**run.metrics, **metrics(run)}) for run in simulated.trials]
    return analyze_networks(simulated.study, trials, simulated.history, 0.05)


def named(found: list[NetworkAnalysis]) -> list[tuple[str, str]]:
    return [(one.architecture, effect.factor) for one, effect in list_causes(found)]


def less_is_learnt(run: RecordedRun) -> dict[str, float]:
    """With all images, or frozen, the gap is smaller because train accuracy falls, and validation accuracy with it."""
    gap = run.metrics["last/gap_accuracy"]
    return {"last/val_accuracy": 0.4 + gap, "last/train_accuracy": 0.4 + 2 * gap}


def test_too_few_images_and_trained_layers_are_causes() -> None:
    found = analyze(Simulated())
    assert named(found) == [("alexnet", "data_fraction"), ("alexnet", "transfer")]
    said = cause_sentence(found)
    assert said.startswith("Of what the study varied, the cause is too few images (4 times the training images: gap -1")
    assert ", and scratch (frozen instead of scratch: gap -3.9" in said


def test_what_lowers_the_gap_by_learning_less_is_no_cause() -> None:
    found = analyze(Simulated(), less_is_learnt)
    assert named(found) == []
    assert cause_sentence(found).startswith("Cannot tell why: ")


def test_at_equal_accuracy_a_smaller_gap_by_learning_less_is_no_cause() -> None:
    def learnt_by_heart(run: RecordedRun) -> dict[str, float]:
        accuracy = 0.5 + 0.005 * ((7 * run.number + 3 * run.seed) % 5)
        return {"last/val_accuracy": accuracy, "last/train_accuracy": accuracy + run.metrics["last/gap_accuracy"]}

    assert named(analyze(Simulated(), learnt_by_heart)) == []


def test_a_network_that_is_not_shown_to_overfit_has_no_cause() -> None:
    assert cause_sentence(analyze(Simulated(seeds=2))) == ""
    found = analyze(Simulated(), lambda run: {"last/gap_accuracy": run.metrics["last/gap_accuracy"] - 0.1})
    assert (named(found), cause_sentence(found)) == ([], "")


def test_more_images_are_never_a_cause() -> None:
    found = analyze(Simulated(effects={"data_fraction": {0.25: 0.05, 0.5: 0.1, 1.0: 0.2}}))
    assert "data_fraction" not in [factor for _, factor in named(found)]
    assert cause_sentence(found).startswith("Cannot tell why: ")


@pytest.mark.parametrize(("cost", "is_named"), [(0.0, True), (0.01, True), (0.12, False)])
def test_the_larger_network_is_a_cause_unless_the_smaller_costs_accuracy(cost: float, is_named: bool) -> None:
    """vgg16's gap is 13 points larger; the smaller network's validation accuracy is so much lower."""

    def metrics(run: RecordedRun) -> dict[str, float]:
        larger = run.tags["cnnstudy.architecture"] == "vgg16"
        gap = run.metrics["last/gap_accuracy"] + (0.15 if larger else 0.05)
        accuracy = 0.5 + (cost if larger else 0.0) + 0.005 * ((7 * run.number + 3 * run.seed) % 5)
        return {"last/gap_accuracy": gap, "last/val_accuracy": accuracy, "last/train_accuracy": accuracy + gap}

    found = analyze(Simulated(architectures=("alexnet", "vgg16"), by_seed=0.0, effects={}, seeds=5), metrics)
    assert named(found) == ([("the networks", "network")] if is_named else [])
    said = "Of what the study varied, the cause is the network, vgg16 (vgg16 instead of alexnet: gap +12.9"
    assert cause_sentence(found).startswith(said if is_named else "Cannot tell why: ")
