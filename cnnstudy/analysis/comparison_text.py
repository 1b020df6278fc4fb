"""The comparison of two studies as sentences, the answer first, and as table cells."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from cnnstudy.analysis.causes import NETWORKS
from cnnstudy.analysis.comparison import AGREE, ONE_SEED, Comparison, EffectComparison, OutcomeComparison
from cnnstudy.analysis.comparison_champions import Champion
from cnnstudy.analysis.confirmation_text import describe_metric
from cnnstudy.analysis.effects_text import describe_change, format_estimate
from cnnstudy.analysis.intervals import Estimate
from cnnstudy.names import Metric
from cnnstudy.records import Rule
from cnnstudy.system.display import count_noun

DIFFERENCE_HEADINGS = ("setting", "A", "B")
OUTCOME_HEADINGS = ("network", "at the end of training", "A", "B", "B - A", "B is", "method")
COMPARED_EFFECT_HEADINGS = ("network", "change", "outcome", "A", "B", "B - A", "the effects", "method")
CHAMPION_HEADINGS = ("study", "champion", "validation", "test", "gap", "standing")
#: The headings of columns of numbers, in all tables except that of settings.
NUMBERS = ("A", "B", "B - A", "validation", "test", "gap")
#: Whose champion is better, by the sign of B - A.
_BETTER_CHAMPION = {
    1: "B's champion is better",
    -1: "A's champion is better",
    0: "Cannot tell which champion is better",
}
_WORDS = {"gap_accuracy": "gap", "train_accuracy": "train accuracy", "val_accuracy": "validation accuracy"}


def comparison_sentences(comparison: Comparison) -> list[str]:
    """Return the answer, most important first: outcomes, effects on the gap, champions."""
    gaps = [effect for effect in comparison.effects if effect.a.outcome == "gap_accuracy"]
    return [
        f"A is {comparison.a}, B is {comparison.b}; differences are B minus A, with 95 % intervals.",
        *([] if comparison.differences else ["No recorded setting differs: B repeats A."]),
        *(_outcome_sentence(one) for one in comparison.outcomes if one.outcome != "train_accuracy"),
        *(
            _effect_sentence(one)
            for one in sorted(gaps, key=_sort_key)
            if "cannot tell" not in (one.a.answer, one.b.answer)
        ),
        *(_effect_sentence(one) for one in sorted(gaps, key=_sort_key) if _is_known_in_one(one)),
        *_unknown_effects_sentence(gaps),
        *_unmatched_effects_sentences(comparison),
        *_champion_sentences(comparison),
    ]


def _sort_key(effect: EffectComparison) -> tuple[bool, float]:
    """Sort effects that differ first, then by size."""
    return effect.answer == "cannot tell", -max(abs(effect.a.estimate), abs(effect.b.estimate))


def _outcome_sentence(one: OutcomeComparison) -> str:
    what = f"{one.architecture}: {'the ' if one.outcome == 'gap_accuracy' else ''}{_WORDS[one.outcome]}"
    if one.difference is None or one.a is None or one.b is None:
        missing = " and ".join(name for name, mean in (("A", one.a), ("B", one.b)) if mean is None)
        return f"{what} can't be compared: none is recorded of any trial of {missing}."
    means = f"{_format_mean(one.a)} in A, {_format_mean(one.b)} in B"
    if one.answer == "equal":
        return f"{what} is the same in both ({means})."
    difference = f"{format_points(one.difference)} points"
    if one.difference.low is None:
        single = " and ".join(name for name, mean in (("A", one.a), ("B", one.b)) if mean.count < 2)
        why = f"{single} {'have' if ' and ' in single else 'has'} only one seed, hence no interval" if single else AGREE
        return f"{what}: cannot tell whether it differs, because {why}: {difference} ({means})."
    if one.answer == "cannot tell":
        return f"{what}: cannot tell whether it differs: {difference} ({means}; {_describe_method(one)})."
    return f"{what} is {one.answer} in B: {difference} ({means}; {_describe_method(one)})."


def _describe_method(one: OutcomeComparison) -> str:
    if one.pairs and one.difference is not None:
        return f"{one.pairs} {one.method} over {one.difference.count} seeds"
    means = zip((one.a, one.b), one.samples, strict=True)
    counts = " and ".join(count_noun(mean.count, noun.removesuffix("s")) for mean, noun in means if mean is not None)
    if one.method in (ONE_SEED, AGREE):
        return f"{one.method} ({counts})"
    return f"{one.method} of {counts}" if one.method else ""


def _format_mean(estimate: Estimate) -> str:
    return f"{100 * estimate.value:.1f}"


def _is_known_in_one(one: EffectComparison) -> bool:
    return (one.a.answer == "cannot tell") != (one.b.answer == "cannot tell")


def _effect_sentence(one: EffectComparison) -> str:
    """Return the sentence on an effect on the gap that is known in A, B or both."""
    text = _effect_clause(one)
    return text[:1].upper() + text[1:] if one.a.architecture == NETWORKS else f"{one.a.architecture}: {text}"


def _effect_clause(one: EffectComparison) -> str:
    what = describe_change(one.a)
    plural = what.endswith("images")
    verbs = [effect.answer[:-1] if plural else effect.answer for effect in (one.a, one.b)]
    sizes = f"{format_points(one.a.to_estimate())} points in A, {format_points(one.b.to_estimate())} points in B"
    difference = f"{format_points(one.difference)} points"
    if one.a.answer == one.b.answer:
        sign = 1 if one.a.estimate > 0 else -1
        more = "more" if sign * one.difference.value > 0 else "less"
        rest = (
            f"in B by {_format_size(one.difference)} points {more}"
            if one.answer == "differs"
            else f"cannot tell whether by the same amount ({difference})"
        )
        return f"in both studies {what} {verbs[0]} the gap ({sizes}); {rest}."
    if "cannot tell" not in (one.a.answer, one.b.answer):
        certainty = "" if one.answer == "differs" else "cannot tell whether the difference is more than chance: "
        return f"{what} {verbs[0]} the gap in A and {verbs[1]} it in B ({sizes}); {certainty}{difference}."
    known, unknown = ("A", "B") if one.b.answer == "cannot tell" else ("B", "A")
    verb = verbs[0] if known == "A" else verbs[1]
    certainty = "the two differ" if one.answer == "differs" else "cannot tell whether the two differ"
    return f"{what} {verb} the gap in {known}; cannot tell in {unknown} ({sizes}); {certainty}: {difference}."


def _unknown_effects_sentence(effects: Sequence[EffectComparison]) -> Iterator[str]:
    unknown = [
        f"{describe_change(one.a)} ({one.a.architecture}; B - A {format_points(one.difference)}"
        f"{', which differs' if one.answer == 'differs' else ''})"
        for one in effects
        if (one.a.answer, one.b.answer) == ("cannot tell", "cannot tell")
    ]
    if unknown:
        yield f"Cannot tell in either study how these changes affect the gap: {'; '.join(unknown)}."


def _unmatched_effects_sentences(comparison: Comparison) -> Iterator[str]:
    # a network that only one study has is mentioned in a note
    networks = {one.architecture for one in comparison.outcomes}
    for name in ("A", "B"):
        effects = [
            f"{describe_change(effect)} ({effect.architecture}, {format_points(effect.to_estimate())})"
            for study, effect in comparison.effects_of_one
            if study == name and effect.architecture in networks
        ]
        if effects:
            yield f"Effects on the gap that only {name} has: {'; '.join(effects)}."


def _champion_sentences(comparison: Comparison) -> Iterator[str]:
    champions = comparison.champions
    for name, champion in (("A", champions.a), ("B", champions.b)):
        if champion is not None:
            scores = _describe_scores(champion)
            yield f"Champion of {name}: {champion.trial} ({champion.title}), {scores}; {champion.standing}."
    if champions.value is not None and champions.a is not None:
        unit, metric = _unit(champions.a.metric), describe_metric(Rule(champions.a.metric))
        difference = _format_metric(champions.value, champions.a.metric, signed=True)
        if champions.reason:
            yield f"Cannot tell which champion is better: {difference} {unit} of {metric}, but {champions.reason}."
        else:
            better = champions.value.sign * (-1 if champions.a.metric == Metric.VAL_LOSS else 1)
            yield f"{_BETTER_CHAMPION[better]} with fresh seeds: {difference} {unit} of {metric}."
    elif champions.reason and (champions.a is not None or champions.b is not None):
        yield f"The champions' validation scores can't be compared: {champions.reason}."
    if champions.test is not None:
        yield f"{_BETTER_CHAMPION[champions.test.sign]} on the test split: {format_points(champions.test)} points."


def _describe_scores(champion: Champion) -> str:
    unit = "nats" if champion.metric == Metric.VAL_LOSS else "%"
    parts = [f"{describe_metric(Rule(champion.metric))} {_format_metric(champion.value, champion.metric)} {unit}"]
    if champion.gap is not None:
        parts.append(f"gap {100 * champion.gap:+.1f} points")
    if champion.test is not None:
        parts.append(f"test accuracy {_format_metric(champion.test, Metric.VAL_ACCURACY)} %")
    return ", ".join(parts)


def _unit(metric: str) -> str:
    return "nats" if metric == Metric.VAL_LOSS else "points"


def _format_metric(estimate: Estimate, metric: str, signed: bool = False) -> str:
    return format_estimate(estimate, is_loss=metric == Metric.VAL_LOSS, signed=signed)


def format_points(estimate: Estimate) -> str:
    """Return `-6.1 [-8.3, -4.0]`, in points; without the brackets if there is no interval."""
    return format_estimate(estimate)


def _format_size(estimate: Estimate) -> str:
    """Return the absolute value of a difference whose interval excludes 0, as `3.1 [0.4, 5.8]`, in points."""
    low, high = estimate.low, estimate.high
    if estimate.value < 0 and low is not None and high is not None:
        estimate = Estimate(-estimate.value, -high, -low)
    return format_estimate(estimate, signed=False)


def difference_rows(comparison: Comparison) -> list[list[str]]:
    """Return cells under DIFFERENCE_HEADINGS."""
    return [[one.key, _format_setting(one.a), _format_setting(one.b)] for one in comparison.differences]


def _format_setting(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def outcome_rows(comparison: Comparison) -> list[list[str]]:
    """Return cells under OUTCOME_HEADINGS: accuracies in percent, gaps and differences in points."""
    return [
        [
            one.architecture,
            _WORDS[one.outcome],
            *(
                "" if mean is None else format_estimate(mean, signed=one.outcome == "gap_accuracy")
                for mean in (one.a, one.b)
            ),
            "" if one.difference is None else format_points(one.difference),
            one.answer,
            _describe_method(one),
        ]
        for one in comparison.outcomes
    ]


def effect_comparison_rows(comparison: Comparison) -> list[list[str]]:
    """Return cells under COMPARED_EFFECT_HEADINGS, in points."""
    return [
        [
            one.a.architecture,
            describe_change(one.a),
            _WORDS[one.a.outcome],
            *(format_points(effect.to_estimate()) for effect in (one.a, one.b)),
            format_points(one.difference),
            {"differs": "differ", "cannot tell": "cannot tell"}[one.answer],
            "; ".join(filter(None, [one.method, one.doubt])),
        ]
        for one in comparison.effects
    ]


def champion_rows(comparison: Comparison) -> list[list[str]]:
    """Return cells under CHAMPION_HEADINGS: A, B, and B minus A."""
    champions, rows = comparison.champions, []
    for name, one in (("A", champions.a), ("B", champions.b)):
        if one is not None:
            test = "" if one.test is None else _format_metric(one.test, Metric.VAL_ACCURACY)
            gap = "" if one.gap is None else f"{100 * one.gap:+.1f}"
            value = _format_metric(one.value, one.metric)
            rows.append([name, f"{one.trial} ({one.title})", value, test, gap, one.standing])
    if champions.a is not None and champions.b is not None:
        value = "" if champions.value is None else _format_metric(champions.value, champions.a.metric, signed=True)
        test = "" if champions.test is None else format_points(champions.test)
        rows.append(["B - A", "", value, test, "", champions.reason])
    return rows
