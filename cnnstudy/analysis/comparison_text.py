"""Two studies side by side, in words and as cells of tables: the answer first."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from cnnstudy.analysis.causes import NETWORKS
from cnnstudy.analysis.comparison import Champion, Comparison, EffectComparison, OutcomeComparison
from cnnstudy.analysis.effects import Effect
from cnnstudy.analysis.effects_text import describe_change
from cnnstudy.analysis.intervals import Estimate
from cnnstudy.names import Metric

DIFFERENCE_HEADINGS = ("setting", "A", "B")
OUTCOME_HEADINGS = ("network", "at the end of training", "A", "B", "B - A", "B is", "by")
EFFECT_HEADINGS = ("network", "change", "on", "A", "B", "B - A", "the effects", "by")
CHAMPION_HEADINGS = ("study", "champion", "validation", "test", "gap", "standing")
#: The headings over numbers; of settings none is.
NUMBERS = ("A", "B", "B - A", "validation", "test", "gap")
_WORDS = {"gap_accuracy": "gap", "train_accuracy": "train accuracy", "val_accuracy": "validation accuracy"}


def comparison_sentences(comparison: Comparison) -> list[str]:
    """The answer, most important first: outcomes, effects on the gap, champions."""
    gaps = [effect for effect in comparison.effects if effect.a.outcome == "gap_accuracy"]
    return [
        f"A is {comparison.a}, B is {comparison.b}; a difference is B less A, with its 95 % interval.",
        *([] if comparison.differences else ["Nothing that is recorded differs: B repeats A."]),
        *(_outcome(one) for one in comparison.outcomes if one.outcome != "train_accuracy"),
        *(_effect(one) for one in sorted(gaps, key=_importance) if "cannot tell" not in (one.a.answer, one.b.answer)),
        *(_effect(one) for one in sorted(gaps, key=_importance) if _told_in_one(one)),
        *_told_in_neither(gaps),
        *_of_one(comparison),
        *_champions(comparison),
    ]


def _importance(effect: EffectComparison) -> tuple[bool, float]:
    """What differs for sure first, then what does most."""
    return effect.answer == "cannot tell", -max(abs(effect.a.estimate), abs(effect.b.estimate))


def _outcome(one: OutcomeComparison) -> str:
    what = f"{one.architecture}: {'the ' * (one.outcome == 'gap_accuracy')}{_WORDS[one.outcome]}"
    if one.difference is None or one.a is None or one.b is None:
        missing = " and ".join(name for name, of in (("A", one.a), ("B", one.b)) if of is None)
        why = " (a gap counts only where something was learnt)" * (one.outcome == "gap_accuracy")
        return f"{what} can't be compared: no trial of {missing} has one{why}."
    means = f"{_mean(one.a)} in A, {_mean(one.b)} in B"
    if one.answer == "equal":
        return f"{what} is the same in both ({means})."
    told = f"{format_signed(one.difference)} points"
    if one.difference.low is None:
        alone = " and ".join(name for name, of in (("A", one.a), ("B", one.b)) if of.count < 2)
        return f"{what}: cannot tell whether it differs, for {alone} has one seed and no interval: {told} ({means})."
    if one.answer == "cannot tell":
        return f"{what}: cannot tell whether it differs: {told} ({means}; {_method(one)})."
    return f"{what} is {one.answer} in B: {told} ({means}; {_method(one)})."


def _method(one: OutcomeComparison) -> str:
    if one.pairs and one.difference is not None:
        return f"{one.pairs} {one.method} over {one.difference.count} seeds"
    counts = [f"{of.count} {sample}" for of, sample in zip((one.a, one.b), one.samples, strict=True) if of is not None]
    return f"{one.method} of {' and '.join(counts)}" if counts else one.method


def _mean(estimate: Estimate) -> str:
    return f"{100 * estimate.value:.1f}"


def _told_in_one(one: EffectComparison) -> bool:
    return (one.a.answer == "cannot tell") != (one.b.answer == "cannot tell")


def _effect(one: EffectComparison) -> str:
    """One effect on the gap that A, B or both can tell."""
    text = _told(one)
    return text[:1].upper() + text[1:] if one.a.architecture == NETWORKS else f"{one.a.architecture}: {text}"


def _told(one: EffectComparison) -> str:
    what = describe_change(one.a)
    plural = what.endswith("images")
    verbs = [effect.answer[:-1] if plural else effect.answer for effect in (one.a, one.b)]
    told = [f"{format_signed(_estimate(effect))} points in {name}" for effect, name in ((one.a, "A"), (one.b, "B"))]
    difference = f"{format_signed(one.difference)} points"
    if one.a.answer == one.b.answer:
        sign = 1 if one.a.estimate > 0 else -1
        more = "more" if sign * one.difference.value > 0 else "less"
        rest = (
            f"in B by {_size(one.difference)} points {more}"
            if one.answer == "differs"
            else f"cannot tell whether by as much ({difference})"
        )
        return f"in both studies {what} {verbs[0]} the gap ({', '.join(told)}); {rest}."
    if "cannot tell" not in (one.a.answer, one.b.answer):
        sure = "" if one.answer == "differs" else "cannot tell whether that is more than chance: "
        return f"{what} {verbs[0]} the gap in A and {verbs[1]} it in B ({', '.join(told)}); {sure}{difference}."
    known, unknown = ("A", "B") if one.b.answer == "cannot tell" else ("B", "A")
    verb = verbs[0] if known == "A" else verbs[1]
    sure = "the two differ" if one.answer == "differs" else "cannot tell whether the two differ"
    return (
        f"{what} {verb} the gap in {known}; in {unknown} that can't be told ({', '.join(told)}); {sure}: {difference}."
    )


def _told_in_neither(effects: Sequence[EffectComparison]) -> Iterator[str]:
    unknown = [
        f"{describe_change(one.a)} ({one.a.architecture}; B - A {format_signed(one.difference)}"
        f"{', which differs' if one.answer == 'differs' else ''})"
        for one in effects
        if (one.a.answer, one.b.answer) == ("cannot tell", "cannot tell")
    ]
    if unknown:
        yield f"In neither study can it be told what this does to the gap: {'; '.join(unknown)}."


def _of_one(comparison: Comparison) -> Iterator[str]:
    networks = {one.architecture for one in comparison.outcomes}  # of one alone there is a note
    for name in ("A", "B"):
        effects = [
            f"{describe_change(effect)} ({effect.architecture}, {format_signed(_estimate(effect))})"
            for of, effect in comparison.effects_of_one
            if of == name and effect.architecture in networks
        ]
        if effects:
            yield f"Effects on the gap that only {name} has: {'; '.join(effects)}."


def _champions(comparison: Comparison) -> Iterator[str]:
    found = comparison.champions
    for name, champion in (("A", found.a), ("B", found.b)):
        if champion is not None:
            yield f"Champion of {name}: {champion.trial} ({champion.title}), {_worth(champion)}; {champion.standing}."
    if found.value is not None and found.a is not None:
        points = _unit(found.a.metric)
        told = _measured(found.value, found.a.metric, plus=True)
        if found.reason:
            yield f"Cannot tell which champion is better: {told} {points} of validation, but {found.reason}."
        else:
            better = found.value.sign * (-1 if found.a.metric == Metric.VAL_LOSS else 1)
            answer = {
                1: "B's champion is better",
                -1: "A's champion is better",
                0: "Cannot tell which champion is better",
            }
            yield f"{answer[better]} with fresh seeds: {told} {points} of validation."
    elif found.reason and (found.a is not None or found.b is not None):
        yield f"The champions' validation can't be compared: {found.reason}."
    if found.test is not None:
        answer = {1: "B's champion is better on the test split", -1: "A's champion is better on the test split"}
        told = answer.get(found.test.sign, "On the test split it can't be told which champion is better")
        yield f"{told}: {format_signed(found.test)} points."


def _worth(champion: Champion) -> str:
    parts = [f"validation {_measured(champion.value, champion.metric)} {_unit(champion.metric, share=True)}"]
    if champion.gap is not None:
        parts.append(f"gap {100 * champion.gap:+.1f} points")
    if champion.test is not None:
        parts.append(f"test {_measured(champion.test, Metric.VAL_ACCURACY)} %")
    return ", ".join(parts)


def _unit(metric: str, share: bool = False) -> str:
    return "nats" if metric == Metric.VAL_LOSS else "%" if share else "points"


def _measured(estimate: Estimate, metric: str, plus: bool = False) -> str:
    if metric == Metric.VAL_LOSS:
        return _bracketed(estimate, 1.0, 3, plus)
    return _bracketed(estimate, 100.0, 1, plus)


def format_signed(estimate: Estimate) -> str:
    """`-6.1 [-8.3, -4.0]` in points; without the brackets where there is no interval."""
    return _bracketed(estimate, 100.0, 1, True)


def _size(estimate: Estimate) -> str:
    """`3.1 [0.4, 5.8]` in points, of a difference that is known to be above 0, or below."""
    low, high = estimate.low, estimate.high
    if estimate.value < 0 and low is not None and high is not None:
        estimate = Estimate(-estimate.value, -high, -low)
    return _bracketed(estimate, 100.0, 1, False)


def _bracketed(estimate: Estimate, scale: float, digits: int, plus: bool) -> str:
    sign = "+" if plus else ""
    numbers = [estimate.value, estimate.low, estimate.high]
    texts = [f"{scale * number:{sign}.{digits}f}" for number in numbers if number is not None]
    return f"{texts[0]} [{texts[1]}, {texts[2]}]" if len(texts) == 3 else texts[0]


def _estimate(effect: Effect) -> Estimate:
    return Estimate(effect.estimate, effect.low, effect.high)


def difference_rows(comparison: Comparison) -> list[list[str]]:
    """Cells under DIFFERENCE_HEADINGS."""
    return [[one.key, _setting(one.a), _setting(one.b)] for one in comparison.differences]


def _setting(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def outcome_rows(comparison: Comparison) -> list[list[str]]:
    """Cells under OUTCOME_HEADINGS: percent, gaps and differences in points."""
    return [
        [
            one.architecture,
            _WORDS[one.outcome],
            *("" if of is None else _bracketed(of, 100.0, 1, one.outcome == "gap_accuracy") for of in (one.a, one.b)),
            "" if one.difference is None else format_signed(one.difference),
            one.answer,
            _method(one),
        ]
        for one in comparison.outcomes
    ]


def effect_comparison_rows(comparison: Comparison) -> list[list[str]]:
    """Cells under EFFECT_HEADINGS, in points."""
    return [
        [
            one.a.architecture,
            describe_change(one.a),
            _WORDS[one.a.outcome],
            *(format_signed(_estimate(effect)) for effect in (one.a, one.b)),
            format_signed(one.difference),
            {"differs": "differ", "cannot tell": "cannot tell"}[one.answer],
            one.method,
        ]
        for one in comparison.effects
    ]


def champion_rows(comparison: Comparison) -> list[list[str]]:
    """Cells under CHAMPION_HEADINGS: A, B, and B less A."""
    found, rows = comparison.champions, []
    for name, one in (("A", found.a), ("B", found.b)):
        if one is not None:
            tested = "" if one.test is None else _measured(one.test, Metric.VAL_ACCURACY)
            gap = "" if one.gap is None else f"{100 * one.gap:+.1f}"
            value = _measured(one.value, one.metric)
            rows.append([name, f"{one.trial} ({one.title})", value, tested, gap, one.standing])
    if found.a is not None and found.b is not None:
        value = "" if found.value is None else _measured(found.value, found.a.metric, plus=True)
        rows.append(["B - A", "", value, "" if found.test is None else format_signed(found.test), "", found.reason])
    return rows
