"""Name what causes the overfitting, as far as a study varied it: one sentence for all networks, or that it cannot tell.

A cause is a level at which a network that overfits has a larger gap than at another one, where the other is known to
raise validation accuracy, and never where it is known to lower it. Where neither is known, it must not be the price:
train accuracy is not known to fall, so that less is learnt, and of what the gap falls by, validation accuracy falls by
less than half, at the end of its interval. Of a smaller network only the latter is asked: to learn less by heart is
what it is for.
"""

from __future__ import annotations

from collections.abc import Sequence

from cnnstudy.analysis.causes import NETWORKS, NetworkAnalysis, finished_networks
from cnnstudy.analysis.effects import Effect
from cnnstudy.analysis.effects_text import (
    ACCURACIES,
    CANNOT_TELL,
    answer_sentences,
    describe_change,
    format_effect,
    judge_overfitting,
)
from cnnstudy.analysis.observations import BALANCED_GAP, GAP
from cnnstudy.config.factors import find_factor

#: Of what the gap falls by, the share of which validation accuracy may fall.
MOST_COST = 0.5


def list_causes(found: Sequence[NetworkAnalysis]) -> list[tuple[NetworkAnalysis, Effect]]:
    """Return the effects on the gap that name a cause, the largest first, each with the analysis that it is of.

    Of a factor with several levels, it is the largest.
    """
    overfitting = {one.architecture for one in finished_networks(found) if judge_overfitting(one) == "overfits"}
    causes = [
        (one, effect)
        for one in found
        for effect in one.main_effects(BALANCED_GAP if one.question.unequal else GAP)
        if _worse_network(one, effect) in overfitting and _is_cause(one, effect)
    ]
    largest: dict[tuple[str, str], tuple[NetworkAnalysis, Effect]] = {}
    for one, effect in sorted(causes, key=lambda cause: -abs(cause[1].estimate)):
        largest.setdefault((one.architecture, effect.factor), (one, effect))
    return list(largest.values())


def cause_sentence(found: Sequence[NetworkAnalysis]) -> str:
    """Return what causes the overfitting, or that it cannot be told; "" if no network is shown to overfit."""
    networks = [one for one in finished_networks(found) if judge_overfitting(one) == "overfits"]
    if not networks:
        return ""
    causes = [_describe(one, effect, several=len(finished_networks(found)) > 1) for one, effect in list_causes(found)]
    if not causes:
        return "Cannot tell why: of what the study varied, nothing is known to lower the gap without learning less."
    return f"Of what the study varied, the cause is {', and '.join(causes)}."


def study_answers(found: Sequence[NetworkAnalysis]) -> list[str]:
    """Return what a study found: whether each network overfits, what changes that, and what the cause is."""
    cause = cause_sentence(found)
    return [*(sentence for one in found for sentence in answer_sentences(one)), *([cause] if cause else [])]


def _worse_network(one: NetworkAnalysis, effect: Effect) -> str:
    """Return the network with the larger gap: that of the analysis, or of those that it compares."""
    if effect.factor != "network":
        return one.architecture
    return str(effect.level if effect.answer == "raises" else effect.baseline)


def _is_cause(one: NetworkAnalysis, effect: Effect) -> bool:
    """Return whether the level with the smaller gap is known, and costs little accuracy."""
    if effect.answer == CANNOT_TELL or (effect.factor == "data_fraction" and effect.answer == "raises"):
        return False  # nobody has too many images
    train, validation = (one.find_effect(effect.factor, effect.level, name) for name in ACCURACIES[effect.column])
    if validation is None or validation.low is None or validation.high is None:
        return False
    if validation.answer != CANNOT_TELL:
        return validation.answer != effect.answer
    if train is not None and train.answer == effect.answer and effect.factor != "network":
        return False
    most = -validation.low if effect.answer == "lowers" else validation.high  # that it may cost
    return most < MOST_COST * abs(effect.estimate)


def _describe(one: NetworkAnalysis, effect: Effect, several: bool) -> str:
    """Return a cause with its evidence: `too few images (4 times the training images: gap -9.9 [...] points, ...)`."""
    worse = effect.level if effect.answer == "raises" else effect.baseline
    named = {"data_fraction": "too few images", "network": f"the network, {worse}"}
    name = named.get(effect.factor) or find_factor(effect.factor).describe(worse)
    of = f" of {one.architecture}" if several and one.architecture != NETWORKS else ""
    validation = one.find_effect(effect.factor, effect.level, ACCURACIES[effect.column][1])
    accuracy = "" if validation is None else f", validation accuracy {format_effect(validation)}"
    return f"{name} ({describe_change(effect)}: gap{of} {format_effect(effect)} points{accuracy})"
