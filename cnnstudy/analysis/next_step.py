"""What to do after a study: one step, of which the condition holds in its results."""

from __future__ import annotations

from collections.abc import Sequence

from cnnstudy.analysis.causes import NETWORKS, NetworkAnalysis
from cnnstudy.analysis.effects import Effect
from cnnstudy.analysis.effects_text import CANNOT_TELL, describe_change, format_effect, judge_overfitting
from cnnstudy.analysis.observations import BALANCED_VALIDATION, VALIDATION
from cnnstudy.config.factors import find_factor
from cnnstudy.training.verdict import LEAST_IMAGES_FOR_FIT


def describe_next_step(
    analyses: Sequence[NetworkAnalysis], name: str, seeds: int, validation_images: int | None = None
) -> str:
    """Return what to do next, as a sentence.

    What raises validation accuracy comes first, then what lowers the gap, then what would tell more.

    Args:
        analyses: of the networks.
        name: of the study.
        seeds: of its file.
        validation_images: of a trial; None: unknown.
    """
    networks = [one for one in analyses if one.architecture != NETWORKS and len(one.observations.frame)]
    if not networks:
        return "No trial has finished: give it more time."
    more_seeds = (
        f"add seeds (`strategy.seeds: {2 * seeds}` instead of {seeds} in the study file), which narrows the intervals; "
        "the same command then runs only the new ones"
    )
    if text := _raise_accuracy(networks) or _lower_gap(networks, more_seeds):
        return text
    judged = {judge_overfitting(one) for one in networks}
    if judged == {"not learnt"}:
        return (
            "Train longer (`training.epochs` in the study file, with a new name), or add photos: nothing was learnt "
            "that could overfit."
        )
    if validation_images is not None and validation_images < LEAST_IMAGES_FOR_FIT:
        return (
            f"Add photos: {validation_images} validation images tell little. It takes at least {LEAST_IMAGES_FOR_FIT} "
            "to show that a network does not overfit, and a few training images are always learnt by heart."
        )
    if judged == {"hardly overfits"}:
        return (
            "There is nothing to gain against overfitting here; `python -m cnnstudy confirm "
            f"{name}` names the best configuration and tests it once."
        )
    return f"To tell more, {more_seeds}. More photos help as well."


def _raise_accuracy(networks: Sequence[NetworkAnalysis]) -> str:
    """Return the change that raises validation accuracy most, as a step; "" if none is known to."""
    known: list[tuple[NetworkAnalysis, Effect]] = [
        (one, effect)
        for one in networks
        for effect in one.main_effects(BALANCED_VALIDATION if one.question.unequal else VALIDATION)
        if effect.answer != CANNOT_TELL and not (effect.factor == "data_fraction" and effect.answer == "lowers")
    ]
    if not known:
        return ""
    one, effect = max(known, key=lambda pair: abs(pair[1].estimate))
    of = f" of {one.architecture}" if len(networks) > 1 else ""
    changes = f"{describe_change(effect)} changes validation accuracy{of} by {format_effect(effect)} points"
    if effect.factor == "data_fraction":
        return f"Add photos: {changes.replace(' changes ', ' change ', 1)}."
    better = effect.level if effect.answer == "raises" else effect.baseline
    return f"Use {find_factor(effect.factor).describe(better)}: {changes}."


def _lower_gap(networks: Sequence[NetworkAnalysis], more_seeds: str) -> str:
    """Return the change that lowers the gap most, as a step; "" if none is known to, or nothing overfits."""
    known = [
        effect
        for one in networks
        if judge_overfitting(one) == "overfits"
        for effect in one.main_effects(one.question.column)
        if effect.answer != CANNOT_TELL
    ]
    if not known:
        return ""
    effect = max(known, key=lambda effect: abs(effect.estimate))
    better = effect.level if effect.answer == "lowers" else effect.baseline
    step = f"{find_factor(effect.factor).describe(better).capitalize()} lowers"
    if effect.factor == "data_fraction":
        step = "Training on more photos lowers"
    return (
        f"{step} the gap ({describe_change(effect)}: {format_effect(effect)} points), but whether validation accuracy "
        f"gains cannot be told; {more_seeds}."
    )
