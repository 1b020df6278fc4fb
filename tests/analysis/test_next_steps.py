"""What to do after a study: no step without its condition."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from simulated import Simulated

from cnnstudy.analysis.causes import NetworkAnalysis, analyze_networks
from cnnstudy.analysis.next_steps import MOST_STEPS, NextStep, list_next_steps
from cnnstudy.names import Metric, Parameter, Tag, count_tag
from cnnstudy.tracking.recorded import RecordedRun

SMALL = {"factors": {"batch_size": [8, 64], "data_fraction": [1.0], "transfer": ["scratch"]}}
FLAT: Mapping[str, Mapping[float, float]] = {"dropout": {0.0: 0.2, 0.5: 0.2}}
COMMAND = "python -m cnnstudy run-study simulated.yaml"
NO_GAP = {"last/train_accuracy": 0.98, "last/val_accuracy": 0.97, "last/gap_accuracy": 0.01}


def steps(
    simulated: Simulated,
    metrics: Callable[[RecordedRun], Mapping[str, float]] = lambda run: {},
    verdict: str = "overfit",
    change: Callable[[RecordedRun], RecordedRun] = lambda run: run,
    missing: int = 0,
    conflicts: str = "",
    **parameters: str,
) -> list[NextStep]:
    """The steps after a simulated study, some of whose records are changed."""
    trials = [
        change(
            dataclasses.replace(
                run,
                metrics={**run.metrics, Metric.TOTAL_SECONDS: 10.0, **metrics(run)},
                parameters={**run.parameters, Parameter.VALIDATION_IMAGES: "160", **parameters},
                tags={**run.tags, Tag.VERDICT: verdict},
            )
        )
        for run in simulated.trials
    ]
    found: list[NetworkAnalysis] = analyze_networks(simulated.study, trials, simulated.history, 0.05)
    tags = {Tag.RUN_COMMAND: COMMAND, count_tag("missing"): str(missing), Tag.CONFLICTS: conflicts}
    listed = list_next_steps(found, simulated.study, trials, tags)
    assert len(listed) <= MOST_STEPS
    for step in listed:
        assert step.evidence
        assert step.cost
        assert step.line.startswith("python -m cnnstudy ")
    return listed


def actions(listed: list[NextStep]) -> list[str]:
    return [step.action for step in listed]


def flat(**changes: Any) -> Simulated:
    return Simulated(effects=FLAT, noise=0.05, **SMALL, **changes)


def without_accuracy(run: RecordedRun) -> dict[str, float]:
    """The gap is all that differs."""
    return {"last/val_accuracy": 0.6 + 0.05 * ((run.number * 7 + run.seed * 3) % 5 - 2), "last/train_accuracy": 1.0}


def test_what_raises_accuracy_comes_first() -> None:
    first = steps(Simulated())[0]
    assert first.sentence().startswith("Add photos: 4 times the training images change validation accuracy by +7.5 [")
    assert first.line == f"{COMMAND} --set name=simulated-more-photos"
    effects = {"dropout": {0.0: 0.3, 0.5: 0.1}}
    first = steps(Simulated(effects=effects, **SMALL))[0]
    assert first.sentence().startswith("Use dropout 0.5: dropout 0.5 instead of 0 changes validation accuracy by +9.")
    assert first.line == "python -m cnnstudy confirm simulated"
    effects = {"dropout": {0.0: 0.1, 0.5: 0.3}}
    first = steps(Simulated(effects=effects, **SMALL))[0]
    assert first.sentence().startswith("Use dropout 0: dropout 0.5 instead of 0 changes validation accuracy by -")


def test_more_photos_are_no_advice_where_no_gap_is_left_on_all() -> None:
    """Up to all photos accuracy has risen with their number, but networks have nothing left to learn from more."""

    def without_gap(run: RecordedRun) -> dict[str, float]:
        whole = run.levels["data_fraction"] == 1.0
        return {**NO_GAP, "last/gap_accuracy": 0.0 if run.seed % 2 else 0.01} if whole else {}

    assert actions(steps(Simulated(), without_gap))[0] != "Add photos"
    assert not any(one.action == "Add photos" for one in steps(Simulated(), without_gap))
    assert actions(steps(Simulated()))[0] == "Add photos"


@pytest.mark.parametrize(
    ("conflicts", "evidence"),
    [
        ("", None),
        ("0", None),
        ("1", "1 pair of copies has different labels, of which one is wrong"),
        ("12", "12 pairs of copies have different labels, of which one is wrong"),
    ],
)
def test_labels_that_contradict_each_other_are_corrected(conflicts: str, evidence: str | None) -> None:
    found = [step for step in steps(flat(), conflicts=conflicts) if step.action == "Correct labels"]
    assert [step.evidence for step in found] == ([evidence] if evidence else [])
    assert all(step.line == "python -m cnnstudy data simulated.yaml --html data.html" for step in found)


def test_what_lowers_the_gap_is_no_gain_yet() -> None:
    first = steps(Simulated(effects={"dropout": {0.0: 0.3, 0.5: 0.1}}, **SMALL), without_accuracy)[0]
    assert first.evidence.startswith("dropout 0.5 lowers the gap (dropout 0.5 instead of 0: -")
    assert first.evidence.endswith("whether validation accuracy gains cannot be told")
    assert first.line == f"{COMMAND} --set strategy.seeds=8", "the study goes on with the new seeds"


def test_seeds_are_added_where_something_cannot_be_told() -> None:
    listed = steps(flat())
    (more,) = [step for step in listed if step.action.startswith("Add seeds")]
    assert more.evidence == "2 of 2 effects on the gap cannot be told from chance"
    assert more.cost == "about 2 min 40 s of training", "16 trials of 10 s"
    assert more.line == f"{COMMAND} --set strategy.seeds=8"
    fewer = flat()
    fewer.study.config["strategy"]["seeds"] = 1  # than have run
    (more,) = [step for step in steps(fewer) if step.action.startswith("Add seeds")]
    assert more.line == f"{COMMAND} --set strategy.seeds=8"
    search = steps(flat(strategy={"kind": "search", "sampler": "random"}))
    assert not any("seeds" in action for action in actions(search)), "a search has none to add"
    level = steps(Simulated(effects={}, by_seed=0.0, **SMALL), lambda run: NO_GAP, "fit")
    assert not any("seeds" in action for action in actions(level))


@pytest.mark.parametrize(("images", "said"), [("58", True), ("59", False)])
def test_few_validation_images(images: str, said: bool) -> None:
    listed = steps(flat(data={"name": "folder"}), **{Parameter.VALIDATION_IMAGES: images})
    assert ("Add photos" in actions(listed)) == said
    assert "Add photos" not in actions(steps(flat(data={"name": "digits"}), **{Parameter.VALIDATION_IMAGES: images}))
    if said:
        assert "58 validation images tell little: it takes at least 59" in listed[0].evidence


@pytest.mark.parametrize(("share", "line"), [("0.15", "data.validation=0.4"), ("0.2", ""), ("0.0", "")])
def test_a_larger_validation_part_where_that_is_enough(share: str, line: str) -> None:
    images = {"0.15": "24", "0.2": "20", "0.0": "20"}[share]
    parameters = {Parameter.VALIDATION_IMAGES: images, Parameter.VALIDATION_SHARE: share}
    first = steps(flat(data={"name": "folder"}), **parameters)[0]
    if line:
        assert first.action == "Hold out more images for validation"
        assert first.line == f"{COMMAND} --set name=simulated-validated --set {line}"
    else:
        assert first.action == "Add photos", "0.6 of the images would be held out, or parts are given"


@pytest.mark.parametrize(("best", "said"), [(8, True), (7, False)])
def test_train_longer_where_most_were_best_in_the_last_epoch(best: int, said: bool) -> None:
    def at_the_end(run: RecordedRun) -> dict[str, float]:
        return {Metric.BEST_EPOCH: 8.0 if run.number % 4 else float(best)}

    def half(run: RecordedRun) -> dict[str, float]:
        return {Metric.BEST_EPOCH: 8.0 if run.number % 2 and best == 8 else 3.0}

    listed = steps(flat(), at_the_end if said else half, **{Parameter.EPOCHS: "8"})
    longer = [step for step in listed if step.action == "Train longer"]
    assert bool(longer) == said
    if said:
        assert longer[0].evidence == "16 of 16 trials that learnt were at their best in the last epoch"
        assert longer[0].line == f"{COMMAND} --set name=simulated-longer --set training.epochs=16"


def test_where_nothing_was_learnt_nothing_is_overfit() -> None:
    listed = steps(flat(), lambda run: {Metric.BEST_EPOCH: 2.0}, "not-learning", **{Parameter.EPOCHS: "8"})
    assert listed[0].sentence().startswith("Train longer: 16 of 16 trials did not learn by their best epoch.")
    assert actions(listed) == ["Train longer"], "more seeds of networks at chance would tell nothing"


@pytest.mark.parametrize(("train", "said"), [(0.89, True), (0.91, False)])
def test_train_longer_where_networks_have_not_learnt_their_training_images(train: float, said: bool) -> None:
    def measured(run: RecordedRun) -> dict[str, float]:
        return {Metric.BEST_EPOCH: 3.0, "last/train_accuracy": train, "last/gap_accuracy": 0.01}

    listed = steps(
        Simulated(effects={}, by_seed=0.0, noise=0.2, **SMALL), measured, "underfit", **{Parameter.EPOCHS: "8"}
    )
    longer = [step.evidence for step in listed if step.action == "Train longer"]
    evidence = "16 of 16 trials end with a train accuracy below 90 %: they have not learnt their training images"
    assert longer == ([evidence] if said else [])


@pytest.mark.parametrize("reason", ["diverged", "out-of-memory"])
def test_lower_the_rate_where_trials_diverged(reason: str) -> None:
    def fail(run: RecordedRun) -> RecordedRun:
        levels = {**run.levels, "learning_rate": 0.01}
        tags = {**run.tags, Tag.LEVELS: json.dumps(levels)}
        if run.seed or run.number:
            return dataclasses.replace(run, tags=tags)
        return dataclasses.replace(run, tags=tags, state="failed", reason=reason)

    listed = steps(flat(), change=fail)
    lower = [step for step in listed if step.action.startswith("Lower the learning rate")]
    assert bool(lower) == (reason == "diverged")
    if lower:
        assert lower[0].evidence == "the loss of 1 trial of 16 diverged"
        assert lower[0].line == f"{COMMAND} --set name=simulated-slower --set factors.learning_rate=0.001"


def with_level(factor: str, level: str) -> Callable[[RecordedRun], RecordedRun]:
    def change(run: RecordedRun) -> RecordedRun:
        tags = {**run.tags, Tag.LEVELS: json.dumps({**run.levels, factor: level})}
        return dataclasses.replace(run, tags=tags)

    return change


@pytest.mark.parametrize(("level", "said"), [("none", True), ("flip", False)])
def test_augment_where_networks_overfit_without(level: str, said: bool) -> None:
    listed = steps(flat(), change=with_level("augmentation", level))
    assert ("Try augmentation" in actions(listed)) == said
    fits = steps(
        Simulated(effects={}, by_seed=0.0, **SMALL), lambda run: NO_GAP, "fit", with_level("augmentation", level)
    )
    assert "Try augmentation" not in actions(fits)


@pytest.mark.parametrize(("weights", "said"), [({"default": {"source": "imagenet"}}, True), ({}, False)])
def test_freeze_where_weights_are_at_hand(weights: dict[str, Any], said: bool) -> None:
    listed = steps(flat(weights=weights))
    frozen = [step for step in listed if step.action == "Try frozen source weights"]
    assert bool(frozen) == said
    if said:
        assert frozen[0].line == f"{COMMAND} --set name=simulated-frozen --set 'factors.transfer=[scratch, frozen]'"
    varied = steps(Simulated(weights=weights))
    assert "Try frozen source weights" not in actions(varied), "the study has frozen trials"


@pytest.mark.parametrize(("level", "said"), [("none", True), ("balanced", False)])
def test_balance_unequal_classes(level: str, said: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cnnstudy.analysis.causes.has_unequal_classes", lambda trials: True)
    listed = steps(flat(), change=with_level("class_weights", level))
    assert ("Try class weights" in actions(listed)) == said
    monkeypatch.setattr("cnnstudy.analysis.causes.has_unequal_classes", lambda trials: False)
    assert "Try class weights" not in actions(steps(flat(), change=with_level("class_weights", level)))


def test_where_nothing_overfits_there_is_nothing_to_gain() -> None:
    listed = steps(Simulated(effects={}, by_seed=0.0, **SMALL), lambda run: NO_GAP, "fit")
    assert listed[0].sentence().startswith("Stop here: there is nothing to gain against overfitting.")
    assert listed[0].line == "python -m cnnstudy confirm simulated"
    assert "Stop here" not in actions(steps(flat()))


def test_a_study_that_was_cut_short_is_finished_first() -> None:
    first, *others = steps(flat(), missing=4)
    assert first.evidence == "4 of 20 trials were not run"
    assert (first.cost, first.line) == ("about 40 s of training", COMMAND)
    (more,) = [step for step in others if step.action.startswith("Add seeds")]
    assert more.cost == "about 4 min 00 s of training", "24 trials of 10 s"
    assert steps(flat())[0].line != COMMAND


def test_failed_trials_are_mended_first() -> None:
    def fail(run: RecordedRun) -> RecordedRun:
        tags = {**run.tags, Tag.MESSAGE: "it took longer than 1 s."}
        return dataclasses.replace(run, tags=tags, state="failed", reason="timeout") if run.number == 1 else run

    first = steps(flat(), change=fail)[0]
    assert first.evidence == "4 of 16 trials failed, the first: it took longer than 1 s"
    assert first.line == f"{COMMAND} --retry-failed"
    failed = [dataclasses.replace(run, state="failed", reason="error") for run in flat().trials]
    (step,) = list_next_steps([], flat().study, failed)
    assert step.evidence == "16 of 16 trials failed, the first: error"
    assert step.cost == "the time of 16 trials"


def test_an_interrupted_trial_is_missing_and_has_not_failed() -> None:
    def interrupt(run: RecordedRun) -> RecordedRun:
        return dataclasses.replace(run, state="failed", reason="interrupted") if run.number == run.seed == 1 else run

    listed = steps(flat(), change=interrupt, missing=1)
    assert listed[0].evidence == "1 of 16 trials were not run"
    assert not any("failed" in step.evidence for step in listed)


def test_keys_that_were_set_before_are_replaced() -> None:
    listed = list_next_steps(
        analyze_networks(flat().study, flat().trials, flat().history, 0.05),
        flat().study,
        flat().trials,
        {Tag.RUN_COMMAND: f"{COMMAND} --set strategy.seeds=4 --set 'name=\"a b\"'"},
    )
    (more,) = [step for step in listed if step.action.startswith("Add seeds")]
    assert more.line == f"{COMMAND} --set 'name=\"a b\"' --set strategy.seeds=8"


def test_without_a_finished_trial_it_has_to_run() -> None:
    for found in ([], analyze_networks(Simulated().study, [], lambda *_: {}, 0.05)):
        (step,) = list_next_steps(found, Simulated().study, [])
        assert step.sentence() == "Let it run to its end: none was run. It costs the time of its trials."
        assert step.line == "python -m cnnstudy run-study simulated"
