"""The effects as sentences, the answer first and then what it is based on, and as table cells."""

from __future__ import annotations

import math
from collections.abc import Iterator

from cnnstudy.analysis.causes import NETWORKS, NetworkAnalysis, count_noun
from cnnstudy.analysis.effects import Effect
from cnnstudy.analysis.intervals import Estimate
from cnnstudy.analysis.observations import GAP, LEGACY_GAP, VALIDATION
from cnnstudy.config.factors import FACTORS, find_factor
from cnnstudy.training.verdict import SMALLEST_GAP

#: Columns of the table of effects; gaps and accuracies in points, losses in nats.
_COLUMNS = (GAP, "updates/gap_accuracy", "train_loss/gap_accuracy", VALIDATION, "epochs/val_loss")
EFFECT_HEADINGS = ("change", "gap", "gap, equal updates", "gap, equal loss", "val accuracy", "val loss", "the gap")
_TARGETS = {GAP: "the gap", VALIDATION: "validation accuracy"}
_BASES = {
    "epochs": "after the same number of epochs",
    "updates": "after the same number of updates",
    "train_loss": "at the same train loss",
}


def effect_sentences(causes: NetworkAnalysis) -> list[str]:
    """Return the answer for one network, most important first."""
    frame = causes.observations.frame
    if frame.empty:
        return [f"{causes.architecture}: no trial has finished yet."]
    if causes.architecture == NETWORKS:
        return [*_known_effects(causes), *_unknown_effects(causes)]
    return [
        _headline(causes),
        *_known_effects(causes),
        *_unknown_effects(causes),
        *_batch_size_parts(causes),
        *(law.sentence() for law in causes.laws),
        *(curve.sentence(_TARGETS[curve.outcome]) for curve in causes.ranges),
        *(text for target, shares in causes.importances.items() if (text := shares.sentence(_TARGETS[target]))),
    ]


def format_effect(effect: Effect) -> str:
    """Return `-6.1 [-8.3, -4.0]`, in points or, for losses, in nats; without the brackets if there is no interval."""
    return format_estimate(effect.to_estimate(), is_loss=effect.outcome.endswith("loss"))


def format_estimate(estimate: Estimate, is_loss: bool = False, signed: bool = True) -> str:
    """Return the value and its interval, if it has one: a share (0..1) in points or percent, a loss in nats."""
    scale, digits = (1.0, 3) if is_loss else (100.0, 1)
    numbers = [estimate.value, estimate.low, estimate.high]
    texts = [f"{scale * number:{'+' if signed else ''}.{digits}f}" for number in numbers if number is not None]
    return f"{texts[0]} [{texts[1]}, {texts[2]}]" if len(texts) == 3 else texts[0]


def describe_change(effect: Effect) -> str:
    """Return what is compared, as `batch size 64 instead of 8`; for an interaction with the second factor's change."""
    text = find_factor(effect.factor).compare(effect.level, effect.baseline)
    if effect.second is None or effect.second_baseline is None or effect.second_level is None:
        return text
    return f"{text}, with {find_factor(effect.second).compare(effect.second_level, effect.second_baseline)}"


def effect_rows(causes: NetworkAnalysis, interactions: bool) -> tuple[list[list[str]], int]:
    """Return cells under EFFECT_HEADINGS, the largest effect on the gap first, and the number of rows omitted.

    Interactions whose answer is "cannot tell" in every column are omitted.
    """
    rows, hidden = [], 0
    compared = [effect for effect in causes.effects if (effect.second is not None) == interactions]
    grouped: dict[tuple[object, ...], dict[str, Effect]] = {}
    for effect in compared:
        key = (effect.factor, effect.level, effect.second, effect.second_level)
        grouped.setdefault(key, {})[effect.column] = effect
    for effects in sorted(grouped.values(), key=lambda row: -abs(row[GAP].estimate) if GAP in row else 0.0):
        shown_effects = [effects.get(column) for column in _COLUMNS]
        if interactions and all(effect is None or effect.answer == "cannot tell" for effect in shown_effects):
            hidden += 1
            continue
        answer = effects[GAP].answer if GAP in effects else "cannot tell"
        first = next(iter(effects.values()))
        rows.append(
            [describe_change(first), *(format_effect(effect) if effect else "" for effect in shown_effects), answer]
        )
    return rows, hidden


def _headline(causes: NetworkAnalysis) -> str:
    frame = causes.observations.frame
    learnt = frame[frame["verdict"] != "not-learning"]
    counts = f"{count_noun(len(frame), 'trial')}, {count_noun(frame['seed'].nunique(), 'seed')}"
    if learnt.empty:
        return f"{causes.architecture} did not learn in any of {counts}: there is no overfitting to explain."
    gap, train, validation = (learnt[column].mean() for column in (GAP, "epochs/train_accuracy", VALIDATION))
    return (
        f"{causes.architecture} {'overfits' if gap >= SMALLEST_GAP else 'hardly overfits'}: at the end of training the "
        f"gap is {100 * gap:+.1f} points on average (train {100 * train:.1f} %, validation {100 * validation:.1f} %; "
        f"{counts}). With their best weights, {(learnt['verdict'] == 'overfit').sum()} of the {len(learnt)} trials "
        "that learnt have the verdict overfit."
    )


def _largest_first(causes: NetworkAnalysis, column: str) -> list[Effect]:
    return sorted(causes.main_effects(column), key=lambda effect: -abs(effect.estimate))


def _known_effects(causes: NetworkAnalysis) -> Iterator[str]:
    """Describe each known effect on the gap, also on the other bases and on validation accuracy, the largest first."""
    for effect in _largest_first(causes, GAP):
        if effect.answer == "cannot tell":
            continue
        others = [
            f"{format_effect(other)} {words}{_loss_reached(causes, basis)}"
            for basis, words in _BASES.items()
            if basis != "epochs"
            and (other := causes.find_effect(effect.factor, effect.level, f"{basis}/gap_accuracy")) is not None
        ]
        accuracy = causes.find_effect(effect.factor, effect.level, VALIDATION)
        accuracy_sentence = ""
        if accuracy is not None:
            change = "may or may not change:" if accuracy.answer == "cannot tell" else "changes by"
            accuracy_sentence = f" Validation accuracy {change} {format_effect(accuracy)} points."
        verb = effect.answer[:-1] if describe_change(effect).endswith("images") else effect.answer
        yield (
            f"{_capital(describe_change(effect))} {verb} the gap: {format_effect(effect)} points {_BASES['epochs']}"
            f"{''.join(f', {text}' for text in others)}.{accuracy_sentence}"
        )


def _loss_reached(causes: NetworkAnalysis, basis: str) -> str:
    loss = causes.observations.train_loss
    return "" if basis != "train_loss" or loss is None else f" ({loss:.2f} nats)"


def _unknown_effects(causes: NetworkAnalysis) -> Iterator[str]:
    unknown = [
        f"{describe_change(effect)} ({format_effect(effect)})"
        for effect in _largest_first(causes, GAP)
        if effect.answer == "cannot tell"
    ]
    if unknown:
        yield f"Cannot tell from these trials how these changes affect the gap: {'; '.join(unknown)}."


def _batch_size_parts(causes: NetworkAnalysis) -> Iterator[str]:
    """Split the batch size's effect on the legacy protocol's gap into its parts (causes.LEGACY_GAP_PARTS)."""
    for usual in _largest_first(causes, LEGACY_GAP):
        clean = causes.find_effect("batch_size", usual.level, GAP)
        measuring = causes.find_effect("batch_size", usual.level, "parts/measuring_gap")
        updates = causes.find_effect("batch_size", usual.level, "parts/updates_gap")
        left = causes.find_effect("batch_size", usual.level, "updates/gap_accuracy")
        if usual.factor != "batch_size" or None in (clean, measuring, updates, left):
            continue
        assert measuring is not None
        assert updates is not None
        assert left is not None
        yield (
            f"The usual protocol (running train accuracy, validation truncated to whole batches) would report that "
            f"{describe_change(usual)} changes the gap by {format_effect(usual)} points{_images_used(causes, usual)}. "
            f"Of these, {format_effect(measuring)} are due to how it measures, {format_effect(updates)} to the number "
            f"of updates, and {format_effect(left)} remain at equal updates."
        )


def _images_used(causes: NetworkAnalysis, usual: Effect) -> str:
    """Return how many validation images the usual protocol uses, in brackets, if both batch sizes differ in it."""
    frame, sizes = causes.frame, (usual.baseline, usual.level)
    counts = [frame.loc[frame["batch_size"] == size, "legacy_images"].max() for size in sizes]
    if counts[0] == counts[1] or any(math.isnan(count) for count in counts):
        return ""
    used = [
        f"{count:.0f} validation images at {FACTORS['batch_size'].describe(size)}"
        for count, size in zip(counts, sizes, strict=True)
    ]
    return f" (it uses {' and '.join(used)})"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
