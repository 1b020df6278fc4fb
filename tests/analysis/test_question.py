"""What a study is asked, and the family of its answers."""

from __future__ import annotations

from simulated import Simulated

from cnnstudy.analysis.causes import NETWORKS, analyze_networks
from cnnstudy.analysis.effects import correct_together
from cnnstudy.analysis.effects_text import effect_sentences
from cnnstudy.analysis.observations import GAP, VALIDATION
from cnnstudy.analysis.question import Question, recorded_question


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
