"""What a study is asked, and the family of its answers."""

from __future__ import annotations

import dataclasses

from simulated import Simulated

from cnnstudy.analysis.causes import NETWORKS, NetworkAnalysis, analyze_networks, effects_frame
from cnnstudy.analysis.effects import correct_together
from cnnstudy.analysis.effects_text import effect_headings, effect_rows, effect_sentences
from cnnstudy.analysis.observations import BALANCED_GAP, GAP, VALIDATION
from cnnstudy.analysis.question import Question, recorded_question
from cnnstudy.names import Tag
from cnnstudy.tracking.recorded import split_into_tags
from cnnstudy.training.verdict import Counts


def test_studies_of_earlier_versions_ask_about_the_gap_and_all_factors() -> None:
    assert recorded_question({}) == Question("gap", None)
    assert recorded_question({"question": {"outcome": "accuracy", "factors": ["dropout"]}}) == Question(
        "accuracy", ("dropout",)
    )


def test_answers_are_a_family_of_their_own_over_all_networks() -> None:
    simulated = Simulated(architectures=("alexnet", "vgg16"), question={"outcome": "gap", "factors": ["dropout"]})
    found = analyze_networks(simulated.study, simulated.trials, simulated.history, 0.05)
    effects = [effect for one in found for effect in one.effects]
    asked = [effect for effect in effects if found[0].question.asks(effect)]
    assert {(effect.factor, effect.column, effect.second) for effect in asked} == {("dropout", GAP, None)}
    assert {effect.architecture for effect in asked} == {"alexnet", "vgg16"}
    assert [one.p_adjusted for one in correct_together(asked)] == [one.p_adjusted for one in asked]
    others = [effect for effect in effects if effect.column == GAP and effect not in asked]
    assert [one.p_adjusted for one in correct_together(others)] == [one.p_adjusted for one in others]
    whole = {id(one): more for one, more in zip(asked + others, correct_together(asked + others), strict=True)}
    corrections = [(one.p_adjusted, whole[id(one)].p_adjusted) for one in asked]
    assert all(own is not None and all_ is not None and own <= all_ for own, all_ in corrections)


def test_by_default_networks_are_asked_about_too() -> None:
    simulated = Simulated(architectures=("alexnet", "vgg16"))
    found = analyze_networks(simulated.study, simulated.trials, simulated.history, 0.05)
    (between,) = [one for one in found if one.architecture == NETWORKS]
    assert [effect.factor for effect in between.effects if between.question.asks(effect)] == ["network"]


def test_what_is_not_asked_is_said_to_be_exploratory() -> None:
    simulated = Simulated(question={"outcome": "gap", "factors": ["transfer"]})
    (one,) = analyze_networks(simulated.study, simulated.trials, simulated.history, 0.05)
    lines = effect_sentences(one)
    (asked,) = [line for line in lines if line.startswith("Frozen instead of scratch lowers the gap")]
    explored = [line for line in lines if line.startswith("Exploratory, not asked: 4 times the training images lower")]
    assert len(explored) == 1
    assert lines.index(asked) < lines.index(explored[0]), "answers come first, whatever their size"
    assert one.question.sentence().startswith("The question: what changes the gap at equal epochs, of transfer?")


def test_another_outcome_has_the_sentences() -> None:
    simulated = Simulated(question={"outcome": "accuracy", "factors": None})
    (one,) = analyze_networks(simulated.study, simulated.trials, simulated.history, 0.05)
    assert one.question.column == VALIDATION
    told = [line for line in effect_sentences(one) if "after the same number of epochs" in line]
    assert told
    assert all(" validation accuracy: " in line for line in told)


def unbalanced(images: tuple[int, int], seeds: int = 4) -> NetworkAnalysis:
    """Return the analysis of trials on so many images of two classes: balanced, all gaps are 10 points larger."""
    simulated = Simulated(seeds=seeds)
    counts = Counts([1, 1], images, [1, 1], images)._asdict()
    trials = []
    for run in simulated.trials:
        gap, validation = run.metrics["last/gap_accuracy"] + 0.1, run.metrics["last/val_accuracy"] - 0.1
        balanced = {
            "last/gap_balanced_accuracy": gap,
            "last/val_balanced_accuracy": validation,
            "last/train_balanced_accuracy": gap + validation,
        }
        tags = {**run.tags, **split_into_tags(Tag.VERDICT_COUNTS, counts)}
        trials.append(dataclasses.replace(run, metrics={**run.metrics, **balanced}, tags=tags))
    (found,) = analyze_networks(simulated.study, trials, simulated.history, 0.05)
    return found


def test_of_unequal_classes_the_gap_is_that_of_balanced_accuracies_as_in_the_verdict() -> None:
    found = unbalanced((160, 100))
    assert found.question.column == BALANCED_GAP
    assert "The gap is that of balanced accuracies, as in the verdicts" in found.question.sentence()
    assert {one.column for one in found.effects if found.question.asks(one)} == {BALANCED_GAP}
    headline, *others = effect_sentences(found)
    largest = found.frame["data_fraction"] == found.frame["data_fraction"].max()
    mean = 100 * found.frame.loc[largest, BALANCED_GAP].mean()
    assert headline.startswith(f"alexnet overfits: after the last epoch the gap is +{mean:.1f} [")
    assert "(balanced train " in headline
    told = [line for line in others if "raises the gap" in line or "lowers the gap" in line or "lower the gap" in line]
    assert told
    assert all(" the gap in balanced accuracy: " in line for line in told)
    assert any("Balanced validation accuracy changes by" in line for line in told)
    headings = effect_headings(found)
    assert headings[:3] == ["change", "balanced gap", "balanced val accuracy"]
    rows, _ = effect_rows(found, interactions=False)
    assert {len(row) for row in rows} == {len(headings)}
    assert {"gap_balanced_accuracy", "val_balanced_accuracy"} <= set(effects_frame([found])["outcome"])


def test_of_equal_classes_it_is_that_of_plain_accuracies() -> None:
    found = unbalanced((150, 100))
    assert found.question.column == GAP
    assert "balanced" not in found.question.sentence()
    assert "(train " in effect_sentences(found)[0]
    assert effect_headings(found)[1] == "gap"
    assert "gap_balanced_accuracy" in set(effects_frame([found])["outcome"]), "the CSV has all"


def test_unequal_classes_without_balanced_gaps_recorded() -> None:
    assert recorded_question({}, unequal=True) == Question("gap", None, unequal=True)
    simulated = Simulated()
    tags = split_into_tags(Tag.VERDICT_COUNTS, Counts([1, 1], (200, 100), [1, 1], (200, 100))._asdict())
    trials = [dataclasses.replace(run, tags={**run.tags, **tags}) for run in simulated.trials]
    (found,) = analyze_networks(simulated.study, trials, simulated.history, 0.05)
    assert found.question == Question()
