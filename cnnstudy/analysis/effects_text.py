"""What a study's trials tell, in words that a student understands: the answer first, then what it rests on."""

from __future__ import annotations

import math
from collections.abc import Iterator

from cnnstudy.analysis.causes import NETWORKS, NetworkAnalysis, count_noun
from cnnstudy.analysis.effects import Effect
from cnnstudy.analysis.observations import GAP, LEGACY_GAP, VALIDATION
from cnnstudy.config.factors import FACTORS, find_factor
from cnnstudy.training.verdict import SMALLEST_GAP

#: What the table of effects shows; gaps and accuracies in points, losses in nats.
_COLUMNS = (GAP, "updates/gap_accuracy", "train_loss/gap_accuracy", VALIDATION, "epochs/val_loss")
EFFECT_HEADINGS = ("change", "gap", "gap, equal updates", "gap, equal loss", "val accuracy", "val loss", "the gap")
_BASES = {
    "epochs": "after the same epochs",
    "updates": "after the same number of updates",
    "train_loss": "at the same train loss",
}


def effect_sentences(causes: NetworkAnalysis) -> list[str]:
    """The answer for one network, most important first."""
    frame = causes.observations.frame
    if frame.empty:
        return [f"{causes.architecture}: no trial has finished yet."]
    if causes.architecture == NETWORKS:
        return [*_what_moves_it(causes), *_what_does_not(causes)]
    return [
        _headline(causes),
        *_what_moves_it(causes),
        *_what_does_not(causes),
        *_batch_size(causes),
        *(law.sentence() for law in causes.laws),
        *_shares(causes),
    ]


def format_effect(effect: Effect) -> str:
    """`-6.1 [-8.3, -4.0]` in points or, for losses, in nats; without the brackets where there is no interval."""
    scale, digits = (1.0, 3) if effect.outcome.endswith("loss") else (100.0, 1)
    numbers = [effect.estimate, effect.low, effect.high]
    texts = [f"{scale * number:+.{digits}f}" for number in numbers if number is not None]
    return f"{texts[0]} [{texts[1]}, {texts[2]}]" if len(texts) == 3 else texts[0]


def describe_change(effect: Effect) -> str:
    """What is compared: `batch size 64 instead of 8`, and for an interaction where."""
    text = find_factor(effect.factor).compare(effect.level, effect.baseline)
    if effect.second is None or effect.second_baseline is None or effect.second_level is None:
        return text
    return f"{text}, with {find_factor(effect.second).compare(effect.second_level, effect.second_baseline)}"


def effect_rows(causes: NetworkAnalysis, interactions: bool) -> tuple[list[list[str]], int]:
    """Cells under EFFECT_HEADINGS, the largest effect on the gap first; of interactions only those with an answer
    somewhere, and how many have none."""
    rows, hidden = [], 0
    compared = [effect for effect in causes.effects if (effect.second is not None) == interactions]
    grouped: dict[tuple[object, ...], dict[str, Effect]] = {}
    for effect in compared:
        key = (effect.factor, effect.level, effect.second, effect.second_level)
        grouped.setdefault(key, {})[f"{effect.basis}/{effect.outcome}"] = effect
    for effects in sorted(grouped.values(), key=lambda of: -abs(of[GAP].estimate) if GAP in of else 0.0):
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
        return f"{causes.architecture} learns nothing in any of {counts}: there is no overfitting to explain."
    gap, train, validation = (learnt[column].mean() for column in (GAP, "epochs/train_accuracy", VALIDATION))
    return (
        f"{causes.architecture} {'overfits' if gap >= SMALLEST_GAP else 'hardly overfits'}: at the end of training the "
        f"gap is {100 * gap:+.1f} points on average (train {100 * train:.1f} %, validation {100 * validation:.1f} %; "
        f"{counts}). With their best weights {(learnt['verdict'] == 'overfit').sum()} of the {len(learnt)} that learnt "
        "have the verdict overfit."
    )


def _main(causes: NetworkAnalysis, column: str = GAP) -> list[Effect]:
    basis, outcome = column.split("/")
    found = [e for e in causes.effects if e.second is None and (e.basis, e.outcome) == (basis, outcome)]
    return sorted(found, key=lambda effect: -abs(effect.estimate))


def _what_moves_it(causes: NetworkAnalysis) -> Iterator[str]:
    """The largest first, each with what becomes of it on the other bases, and its price in accuracy."""
    for effect in _main(causes):
        if effect.answer == "cannot tell":
            continue
        others = [
            f"{format_effect(other)} {words}{_at_loss(causes, basis)}"
            for basis, words in _BASES.items()
            if basis != "epochs"
            and (other := causes.effect(effect.factor, effect.level, f"{basis}/gap_accuracy")) is not None
        ]
        accuracy = causes.effect(effect.factor, effect.level, VALIDATION)
        price = ""
        if accuracy is not None:
            told = "may or may not change:" if accuracy.answer == "cannot tell" else "changes by"
            price = f" Validation accuracy {told} {format_effect(accuracy)} points."
        verb = effect.answer[:-1] if describe_change(effect).endswith("images") else effect.answer
        yield (
            f"{_capital(describe_change(effect))} {verb} the gap: {format_effect(effect)} points {_BASES['epochs']}"
            f"{''.join(f', {text}' for text in others)}.{price}"
        )


def _at_loss(causes: NetworkAnalysis, basis: str) -> str:
    loss = causes.observations.train_loss
    return "" if basis != "train_loss" or loss is None else f" ({loss:.2f} nats)"


def _what_does_not(causes: NetworkAnalysis) -> Iterator[str]:
    unknown = [
        f"{describe_change(effect)} ({format_effect(effect)})"
        for effect in _main(causes)
        if effect.answer == "cannot tell"
    ]
    if unknown:
        yield f"Cannot tell from these trials what this does to the gap: {'; '.join(unknown)}."


def _batch_size(causes: NetworkAnalysis) -> Iterator[str]:
    """The usual protocol's batch-size effect, taken apart."""
    for usual in _main(causes, LEGACY_GAP):
        clean = causes.effect("batch_size", usual.level, GAP)
        measuring = causes.effect("batch_size", usual.level, "parts/measuring_gap")
        updates = causes.effect("batch_size", usual.level, "parts/updates_gap")
        left = causes.effect("batch_size", usual.level, "updates/gap_accuracy")
        if usual.factor != "batch_size" or None in (clean, measuring, updates, left):
            continue
        assert measuring is not None
        assert updates is not None
        assert left is not None
        yield (
            f"The usual protocol (running train accuracy, validation cut to whole batches) would say that "
            f"{describe_change(usual)} changes the gap by {format_effect(usual)} points{_left_out(causes, usual)}. Of "
            f"these {format_effect(measuring)} are how it measures, {format_effect(updates)} go with the number of "
            f"updates, and {format_effect(left)} are left at equal updates."
        )


def _left_out(causes: NetworkAnalysis, usual: Effect) -> str:
    """The validation images that the usual protocol looks at, where they are not the same with both batch sizes."""
    frame, sizes = causes.frame, (usual.baseline, usual.level)
    counts = [frame.loc[frame["batch_size"] == size, "legacy_images"].max() for size in sizes]
    if counts[0] == counts[1] or any(math.isnan(count) for count in counts):
        return ""
    seen = [
        f"{count:.0f} validation images at {FACTORS['batch_size'].describe(size)}"
        for count, size in zip(counts, sizes, strict=True)
    ]
    return f" (it looks at {' and '.join(seen)})"


def _shares(causes: NetworkAnalysis) -> Iterator[str]:
    for target, shares in causes.importances.items():
        named = sorted(((share, name) for name, share in shares.items() if name != "unexplained"), reverse=True)
        if named:
            outcome = "the gap" if target == GAP else "validation accuracy"
            parts = ", ".join(f"{FACTORS[name].label} {100 * share:.0f} %" for share, name in named)
            yield f"Share of what makes {outcome} differ between trials: {parts}."


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
