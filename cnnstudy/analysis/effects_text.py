"""The effects as sentences, the answer first and then what it is based on, and as table cells."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal

import pandas as pd

from cnnstudy.analysis.causes import COMPARED_GAP, MEASURING, MORE_UPDATES, NETWORKS, NetworkAnalysis
from cnnstudy.analysis.effects import Effect, few_seeds
from cnnstudy.analysis.intervals import LEVEL, Estimate
from cnnstudy.analysis.observations import (
    BALANCED_GAP,
    BALANCED_TRAIN,
    BALANCED_VALIDATION,
    GAP,
    LEARNT,
    LEGACY_GAP,
    TRAIN,
    VALIDATION,
    Observations,
    mean_gap,
    on_most_images,
)
from cnnstudy.analysis.participation import Compared, count_compared
from cnnstudy.config.factors import FACTORS, find_factor
from cnnstudy.system.display import count_noun
from cnnstudy.training.verdict import SMALLEST_GAP, UNDERFIT_BELOW

CANNOT_TELL = "cannot tell"

#: Columns of the table of effects, by heading; gaps and accuracies in points, losses in nats.
_COLUMNS = {
    "gap": GAP,
    "gap, equal updates": "updates/gap_accuracy",
    "gap, equal loss": "train_loss/gap_accuracy",
    "val accuracy": VALIDATION,
    "val loss": "epochs/val_loss",
}
#: The same of balanced accuracies, which come first where the verdicts are of these.
_BALANCED_COLUMNS = {"balanced gap": BALANCED_GAP, "balanced val accuracy": BALANCED_VALIDATION}
#: The batch size's effect at equal epochs, what of it comes with more updates, and what is there at equal updates.
_UPDATE_PARTS = (COMPARED_GAP, MORE_UPDATES, "updates/gap_accuracy")

#: The train and validation accuracies of which a gap is the difference.
ACCURACIES = {GAP: (TRAIN, VALIDATION), BALANCED_GAP: (BALANCED_TRAIN, BALANCED_VALIDATION)}
#: Plain and balanced accuracy are told apart if they differ by this much.
_NOTICEABLE = 0.01
_TARGETS = {GAP: "the gap", VALIDATION: "validation accuracy"}


def effect_sentences(causes: NetworkAnalysis) -> list[str]:
    """Return the answer for one network, most important first, then what ranges, images and shares of variance say."""
    return [*answer_sentences(causes), *range_sentences(causes), *law_sentences(causes), *share_sentences(causes)]


def answer_sentences(causes: NetworkAnalysis) -> list[str]:
    """Return whether one network overfits, and what changes that, most important first."""
    frame = causes.observations.frame
    if frame.empty:
        return [f"{causes.architecture}: no trial has finished yet."]
    if causes.architecture == NETWORKS:
        return [*_known_effects(causes), *_unknown_effects(causes)]
    return [
        _headline(causes),
        *_known_effects(causes),
        *_unknown_effects(causes),
        *_no_effects(causes),
        *_effects_on_learning(causes),
        *_batch_size_parts(causes),
    ]


def interim_sentence(causes: NetworkAnalysis) -> str:
    """Return the gap of one network and the effects that its study asks about, in short; "" if nothing has finished."""
    question, frame = causes.question, causes.observations.frame
    asked = [
        effect
        for effect in causes.main_effects(question.column)
        if question.factors is None or effect.factor in question.factors
    ]
    words = [f"{describe_change(one)} {format_effect(one)} ({leaning(one) or one.answer})" for one in asked]
    if causes.architecture != NETWORKS and not frame.empty:
        mean = overall_gap(causes)
        words[:0] = [] if mean is None else [f"gap {format_estimate(mean)} points ({judge_overfitting(causes)})"]
    effects = f"{question.words} by " if asked and not question.words.startswith("the gap") else ""
    return f"{causes.architecture} {effects}{', '.join(words)}" if words else ""


def range_sentences(causes: NetworkAnalysis) -> list[str]:
    """Return where in each range an outcome is best."""
    return [curve.sentence(_TARGETS[curve.outcome]) for curve in causes.ranges]


def law_sentences(causes: NetworkAnalysis) -> list[str]:
    """Return how outcomes depend on the number of training images."""
    return [law.sentence() for law in causes.laws]


def share_sentences(causes: NetworkAnalysis) -> list[str]:
    """Return which share of each outcome's variance each factor explains."""
    sentences = (shares.sentence(_TARGETS[target]) for target, shares in causes.importances.items())
    return [sentence for sentence in sentences if sentence]


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


def effect_headings(causes: NetworkAnalysis) -> list[str]:
    """Return the headings of the table of effects: the change, the outcomes, and what it does to the first of these."""
    return ["change", *_shown_columns(causes), "the gap"]


def _shown_columns(causes: NetworkAnalysis) -> dict[str, str]:
    return _BALANCED_COLUMNS | _COLUMNS if causes.question.unequal else _COLUMNS


def effect_rows(causes: NetworkAnalysis, interactions: bool) -> tuple[list[list[str]], int]:
    """Return cells under effect_headings, the largest effect on the gap first, and the number of rows omitted.

    Interactions whose answer is "cannot tell" in every column are omitted.
    """
    rows, hidden, columns = [], 0, list(_shown_columns(causes).values())
    gap = columns[0]
    compared = [effect for effect in causes.effects if (effect.second is not None) == interactions]
    grouped: dict[tuple[object, ...], dict[str, Effect]] = {}
    for effect in compared:
        key = (effect.factor, effect.level, effect.second, effect.second_level)
        grouped.setdefault(key, {})[effect.column] = effect
    for effects in sorted(grouped.values(), key=lambda row: -abs(row[gap].estimate) if gap in row else 0.0):
        shown_effects = [effects.get(column) for column in columns]
        if interactions and all(effect is None or effect.answer == CANNOT_TELL for effect in shown_effects):
            hidden += 1
            continue
        answer = leaning(effects[gap]) or effects[gap].answer if gap in effects else CANNOT_TELL
        first = next(iter(effects.values()))
        cells = [format_effect(effect) if effect else CANNOT_TELL for effect in shown_effects]
        rows.append([describe_change(first), *cells, answer])
    return rows, hidden


def overall_gap(causes: NetworkAnalysis) -> Estimate | None:
    """Return the mean gap (0..1) of the trials on the most images that have one; None if none has."""
    column = BALANCED_GAP if causes.question.unequal else GAP
    frame, _ = on_most_images(causes.observations.frame, causes.factors)
    return mean_gap(frame, column, ACCURACIES[column][1])


def judge_overfitting(causes: NetworkAnalysis) -> Literal["overfits", "hardly overfits", "not learnt", "cannot tell"]:
    """Return what the headline says of one network that has finished trials: of those on the most images."""
    frame, _ = on_most_images(causes.observations.frame, causes.factors)
    if (frame[LEARNT] == 0).all():
        return "not learnt"
    gap, train = overall_gap(causes), ACCURACIES[BALANCED_GAP if causes.question.unequal else GAP][0]
    if gap is None or few_seeds(gap.count) or gap.low is None or gap.high is None:
        return "cannot tell"
    if gap.low >= SMALLEST_GAP:
        return "overfits"
    # a small gap of networks that have learnt little says nothing
    is_small = gap.high < SMALLEST_GAP and not _unlearnt_training_sets(frame[train].dropna())
    return "hardly overfits" if is_small else "cannot tell"


def _headline(causes: NetworkAnalysis) -> str:
    """Return what the gap is on average over the finished trials on the most images, and what these trials are."""
    name, (frame, images) = causes.architecture, on_most_images(causes.observations.frame, causes.factors)
    judged = judge_overfitting(causes)
    if judged == "not learnt":
        seeds = count_noun(frame["seed"].nunique(), "seed")
        trials = f"{count_noun(len(frame), 'trial')}{images}"
        return f"{name} did not learn in any of {trials}, {seeds}: no overfitting to explain."
    column = BALANCED_GAP if causes.question.unequal else GAP
    train, validation = ACCURACIES[column]
    measured, balanced = frame[frame[column].notna()], "balanced " if causes.question.unequal else ""
    gap = mean_gap(measured, column, validation)
    if gap is None:
        return f"{name}: no gap after the last epoch is recorded of {count_noun(len(frame), 'finished trial')}{images}."
    few, unlearnt = few_seeds(gap.count), _unlearnt_training_sets(measured[train])
    kind = "" if causes.question.unequal else _kind_of_accuracy(measured)
    answer = f"Cannot tell whether {name} overfits by {100 * SMALLEST_GAP:g} points or more{few and f' ({few})'}"
    if judged != "cannot tell":
        answer = f"{name} {judged}"
    elif not few and unlearnt and gap.high is not None and gap.high < SMALLEST_GAP:
        answer = f"Cannot tell whether {name} overfits once it has learnt its training images"
    sample = "no interval" if gap.low is None else f"interval over {gap.count} seeds"
    whose = "all" if len(measured) == len(frame) else f"those {len(measured)} that have one of"
    return (
        f"{answer}: after the last epoch the gap is {format_estimate(gap)} points on average over {whose} "
        f"{count_noun(len(frame), 'finished trial')}{images} ({balanced}train {_percent(measured[train])}, validation "
        f"{_percent(measured[validation])}; {sample}), whatever their verdicts, which judge the weights "
        f"of the best epoch: {_verdict_counts(frame)}.{kind}{unlearnt}"
    )


def _percent(shares: pd.Series) -> str:
    return f"{100 * shares.mean():.1f} %"


def _verdict_counts(frame: pd.DataFrame) -> str:
    counts = frame["verdict"].replace("", "none").value_counts()
    return ", ".join(f"{count} {verdict}" for verdict, count in counts.items())


def _kind_of_accuracy(frame: pd.DataFrame) -> str:
    """Say that accuracies are not balanced, where that makes a difference of a point or more."""
    both = frame[[VALIDATION, BALANCED_VALIDATION]].dropna()
    plain, balanced = both.mean()
    if both.empty or abs(plain - balanced) < _NOTICEABLE:
        return ""
    return (
        " Accuracies and gaps count every image alike, so large classes count most (balanced, validation is "
        f"{100 * balanced:.1f} %)."
    )


def _unlearnt_training_sets(accuracies: pd.Series) -> str:
    """Say how many trials, by their train accuracies, have not learnt their training images, if that is most."""
    low = int((accuracies < UNDERFIT_BELOW).sum())
    if 2 * low <= len(accuracies):
        return ""
    which = "All" if low == len(accuracies) else f"{low} of the"
    return (
        f" {which} {len(accuracies)} end with a train accuracy below {100 * UNDERFIT_BELOW:.0f} %: they have not "
        "learnt their training images, and longer training may end with another gap."
    )


def _largest_first(causes: NetworkAnalysis, column: str) -> list[Effect]:
    return sorted(causes.main_effects(column), key=lambda effect: -abs(effect.estimate))


def leaning(effect: Effect) -> str:
    """Return `leans towards raising` or `... lowering` if the interval excludes 0 but the answer is "cannot tell".

    Its own 95 % interval, which takes no account of the study's other effects, excludes 0; the corrected test does not.
    """
    doubt: str | None = getattr(effect, "doubt", None)
    if effect.answer != CANNOT_TELL or doubt:
        return ""
    sign = effect.to_estimate().sign
    return {1: "leans towards raising", -1: "leans towards lowering"}.get(sign, "")


def _known_effects(causes: NetworkAnalysis) -> Iterator[str]:
    """Describe each known effect on what is asked, also on the other bases and on accuracy, the largest first."""
    for effect in _asked_first(causes):
        if effect.answer == CANNOT_TELL:
            continue
        verb = effect.answer[:-1] if describe_change(effect).endswith("images") else effect.answer
        yield (
            f"{_explored(causes, effect)}{_capital(describe_change(effect))} {verb} {causes.question.words}: "
            f"{format_effect(effect)} points after the same number of epochs{_change_of_learning(causes, effect)}."
            f"{_repeats(effect)}{_other_bases(causes, effect)}{_change_of_accuracy(causes, effect)}"
        )


def _asked_first(causes: NetworkAnalysis) -> list[Effect]:
    """Return the main effects on the question's outcome: its answers first, then exploratory ones."""
    effects = _largest_first(causes, causes.question.column)
    return sorted(effects, key=lambda effect: not causes.question.asks(effect))


def _explored(causes: NetworkAnalysis, effect: Effect) -> str:
    return "" if causes.question.asks(effect) else "Exploratory, not asked: "


def _change_of_learning(causes: NetworkAnalysis, effect: Effect) -> str:
    """Say that train accuracy changes in the same direction as the gap, if it does."""
    if effect.column not in ACCURACIES:
        return ""
    train = causes.find_effect(effect.factor, effect.level, ACCURACIES[effect.column][0])
    if train is None or train.answer != effect.answer:
        return ""
    link, verb, how = ("but", "falls", "less") if train.answer == "lowers" else ("and", "rises", "more")
    interval = format_effect(train).partition(" ")[2]
    return (
        f", {link} train accuracy {verb} by {100 * abs(train.estimate):.1f} points {interval} as well: it learns {how}"
    )


def _repeats(effect: Effect) -> str:
    repeats: float | None = getattr(effect, "repeats", None)
    return "" if repeats is None else f" A repeat of this study would say so in about {100 * repeats:.0f} %."


def _other_bases(causes: NetworkAnalysis, effect: Effect) -> str:
    """Return the effect at equal updates and at equal train loss, with how many trials these compare."""
    texts = []
    for basis, words in basis_words(causes.observations).items():
        column = f"{basis}/{effect.outcome}"
        if column not in causes.frame:
            continue
        counts = count_compared(causes.frame, causes.factors, effect, column)
        other = causes.find_effect(effect.factor, effect.level, column)
        told = f"{format_effect(other)}" if other is not None else "cannot tell"
        few = "" if all(one.compared == one.trials for one in counts) else f" ({_describe_counts(counts, basis)})"
        texts.append(f"{words}: {told}{few}")
    return f" {_capital('; '.join(texts))}." if texts else ""


def basis_words(observations: Observations) -> dict[str, str]:
    """Return the bases besides equal epochs on which a network's trials are compared, with where that is."""
    words = {}
    if observations.updates is not None:
        words["updates"] = f"after {count_noun(observations.updates, 'update')} each"
    if observations.train_loss is not None:
        words["train_loss"] = f"at the same train loss ({observations.train_loss:.2f} nats)"
    return words


def _describe_counts(counts: Sequence[Compared], basis: str) -> str:
    """Return how many trials of each level are compared: `trials compared: 60 of 90 with batch size 8, ...`."""
    why = (
        "the others are at chance or not measured there"
        if basis == "updates"
        else "the others do not pass it, or in too large a step"
    )
    each = [f"{one.compared} of {one.trials}{f' with {one.description}' if one.description else ''}" for one in counts]
    return f"trials compared: {', '.join(each)}; {why}"


def _change_of_accuracy(causes: NetworkAnalysis, effect: Effect) -> str:
    if effect.column not in ACCURACIES:
        return ""
    accuracy = causes.find_effect(effect.factor, effect.level, ACCURACIES[effect.column][1])
    if accuracy is None:
        return ""
    change = "may or may not change:" if accuracy.answer == CANNOT_TELL else "changes by"
    name = "Validation accuracy" if effect.column == GAP else "Balanced validation accuracy"
    return f" {name} {change} {format_effect(accuracy)} points."


def _unknown_effects(causes: NetworkAnalysis) -> Iterator[str]:
    """Name the changes whose effect on what is asked cannot be told, those first that lean to one side."""
    groups: dict[str, list[str]] = {"leans towards raising": [], "leans towards lowering": [], "": []}
    outcome = causes.question.words
    for effect in _asked_first(causes):
        if effect.answer == CANNOT_TELL:
            groups[leaning(effect)].append(f"{describe_change(effect)} ({format_effect(effect)})")
    for towards, changes in groups.items():
        if changes and towards:
            yield (
                f"{_capital(towards)} {outcome}, which is no answer yet, because the study compares several changes: "
                f"{'; '.join(changes)}."
            )
        elif changes:
            yield f"Cannot tell from these trials how these changes affect {outcome}: {'; '.join(changes)}."


def _no_effects(causes: NetworkAnalysis) -> Iterator[str]:
    """Say why there are no effects, if factors vary among the trials."""
    frame = causes.observations.frame
    varied = [FACTORS[name].label for name in causes.factors if name in frame and frame[name].nunique() > 1]
    if varied and not causes.effects:
        affect = "affects" if len(varied) == 1 else "affect"
        yield (
            f"Cannot tell how {', '.join(varied)} {affect} {causes.question.words}: "
            f"{count_noun(len(frame), 'finished trial')} can't separate them. More trials, or a factorial, would."
        )


def _effects_on_learning(causes: NetworkAnalysis) -> Iterator[str]:
    """Say which changes decide whether a network learns at all.

    Besides the test over the seeds, Fisher's exact test (two-sided, 5 %) must find it, because shares of few trials can
    be equal in all seeds by chance.
    """
    from scipy.stats import fisher_exact

    for effect in _largest_first(causes, LEARNT):
        if effect.answer == CANNOT_TELL:
            continue
        counts = []
        for level in (effect.level, effect.baseline):
            trials = causes.frame.loc[causes.frame[effect.factor] == level, LEARNT].dropna()
            counts.append((int(trials.sum()), len(trials), find_factor(effect.factor).describe(level)))
        table = [[learnt, trials - learnt] for learnt, trials, _ in counts]
        if fisher_exact(table).pvalue >= LEVEL:
            continue
        shares = " and ".join(f"{learnt} of {trials} with {words}" for learnt, trials, words in counts)
        verb = effect.answer[:-1] if describe_change(effect).endswith("images") else effect.answer
        yield (
            f"{_capital(describe_change(effect))} {verb} the share of trials that learn: {format_effect(effect)} "
            f"points ({shares})."
        )


def _batch_size_parts(causes: NetworkAnalysis) -> Iterator[str]:
    """Say what the legacy protocol would report of the batch size, and which part of its effect goes with updates."""
    for effect in _largest_first(causes, GAP):
        if effect.factor != "batch_size":
            continue
        usual = causes.find_effect("batch_size", effect.level, LEGACY_GAP)
        measuring = causes.find_effect("batch_size", effect.level, MEASURING)
        if usual is not None and measuring is not None:
            yield (
                f"The usual protocol (running train accuracy, validation truncated to whole batches) would report that "
                f"{describe_change(effect)} changes the gap by {format_effect(usual)} points"
                f"{_images_used(causes, usual)}; how it measures adds {format_effect(measuring)} to the effect on the "
                "clean gap."
            )
        yield from _updates_part(causes, effect)


def _updates_part(causes: NetworkAnalysis, effect: Effect) -> Iterator[str]:
    """Split the batch size's effect at equal epochs into what goes with more updates, and what is there before them."""
    updates = causes.observations.updates
    if updates is None:
        return
    parts = [causes.find_effect("batch_size", effect.level, column) for column in _UPDATE_PARTS]
    change = describe_change(effect)
    design = (
        f"A study of batch_size with `training.updates` measures what {change} does when both make as many updates."
    )
    counts = count_compared(causes.frame, causes.factors, effect, _UPDATE_PARTS[0])
    compared = _describe_counts(counts, "updates")
    if None in parts:
        yield (
            f"Cannot tell how much of the effect of {change} goes with the number of updates: every trial makes "
            f"{count_noun(updates, 'update')}, after which too few have learnt anything ({compared}). {design}"
        )
        return
    total, more, left = (format_effect(part) for part in parts if part is not None)
    images = [f"{updates * int(size)} images at {FACTORS['batch_size'].describe(size)}" for size in _ends(effect)]
    if (causes.frame[MORE_UPDATES].dropna() == 0).all():
        yield (
            f"All trials make the same {count_noun(updates, 'update')}, so none of the effect of {change} goes with "
            f"their number; what differs besides is how many images they have seen: {' and '.join(images)}."
        )
        return
    yield (
        f"Of the effect of {change} at equal epochs, {total} points in these trials ({compared}), {left} are there "
        f"after {count_noun(updates, 'update')} each, when they have seen {' and '.join(images)}; {more} come with "
        f"the updates that follow, of which the smaller batch makes more. That is one order of two. {design}"
    )


def _ends(effect: Effect) -> tuple[int, int]:
    return int(effect.baseline), int(effect.level)


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
