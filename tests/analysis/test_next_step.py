"""What to do after a study: no step without its condition."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import pytest
from simulated import Simulated

from cnnstudy.analysis.causes import NetworkAnalysis, analyze_networks
from cnnstudy.analysis.next_step import describe_next_step
from cnnstudy.tracking.recorded import RecordedRun

SMALL = {"factors": {"batch_size": [8, 64], "data_fraction": [1.0], "transfer": ["scratch"]}}
FLAT: Mapping[str, Mapping[float, float]] = {"dropout": {0.0: 0.2, 0.5: 0.2}}


def analyze(
    simulated: Simulated,
    metrics: Callable[[RecordedRun], Mapping[str, float]] = lambda run: {},
    verdict: str = "overfit",
) -> list[NetworkAnalysis]:
    trials = [
        dataclasses.replace(
            run, metrics={**run.metrics, **metrics(run)}, tags={**run.tags, "cnnstudy.verdict": verdict}
        )
        for run in simulated.trials
    ]
    return analyze_networks(simulated.study, trials, simulated.history, 0.05)


def without_accuracy(run: RecordedRun) -> dict[str, float]:
    """The gap is all that differs."""
    return {"last/val_accuracy": 0.6 + 0.05 * ((run.number * 7 + run.seed * 3) % 5 - 2), "last/train_accuracy": 1.0}


def test_what_raises_accuracy_comes_first() -> None:
    said = describe_next_step(analyze(Simulated()), "s", 4)
    assert said.startswith("Add photos: 4 times the training images change validation accuracy by +7.5 [")
    effects = {"dropout": {0.0: 0.3, 0.5: 0.1}}
    said = describe_next_step(analyze(Simulated(effects=effects, **SMALL)), "s", 4)
    assert said.startswith("Use dropout 0.5: dropout 0.5 instead of 0 changes validation accuracy by +9.")
    effects = {"dropout": {0.0: 0.1, 0.5: 0.3}}
    said = describe_next_step(analyze(Simulated(effects=effects, **SMALL)), "s", 4)
    assert said.startswith("Use dropout 0: dropout 0.5 instead of 0 changes validation accuracy by -")


def test_what_lowers_the_gap_is_no_gain_yet() -> None:
    found = analyze(Simulated(effects={"dropout": {0.0: 0.3, 0.5: 0.1}}, **SMALL), without_accuracy)
    said = describe_next_step(found, "s", 4)
    assert said.startswith("Dropout 0.5 lowers the gap (dropout 0.5 instead of 0: -")
    assert "whether validation accuracy gains cannot be told; add seeds (`strategy.seeds: 8` instead of 4" in said


def test_where_nothing_is_known_more_seeds_or_photos_tell_more() -> None:
    found = analyze(Simulated(effects=FLAT, noise=0.05, **SMALL))
    assert describe_next_step(found, "s", 4, 100).startswith("To tell more, add seeds (`strategy.seeds: 8`")
    assert describe_next_step(found, "s", 4, 58).startswith("Add photos: 58 validation images tell little.")
    assert describe_next_step(found, "s", 4, 59).startswith("To tell more, ")


def test_where_nothing_was_learnt_nothing_is_overfit() -> None:
    found = analyze(Simulated(effects=FLAT, noise=0.05, **SMALL), verdict="not-learning")
    assert describe_next_step(found, "s", 4).startswith("Train longer")


def test_where_nothing_overfits_there_is_nothing_to_gain() -> None:
    level = {"last/train_accuracy": 0.98, "last/val_accuracy": 0.97, "last/gap_accuracy": 0.01}
    found = analyze(Simulated(effects={}, by_seed=0.0, **SMALL), lambda run: level, "fit")
    said = describe_next_step(found, "study", 4, 100)
    assert said.startswith("There is nothing to gain against overfitting here; `python -m cnnstudy confirm study`")


@pytest.mark.parametrize("found", [[], None])
def test_without_a_trial_there_is_none(found: list[NetworkAnalysis] | None) -> None:
    found = analyze_networks(Simulated().study, [], lambda *_: {}, 0.05) if found is None else found
    assert describe_next_step(found, "s", 4) == "No trial has finished: give it more time."
