"""The outcome of a confirmation as sentences, the champion first, and as table cells."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from cnnstudy.analysis.confirmation import BEHIND, FAILED, OUTSIDE_LIMITS, TIED, UNLEARNT, Confirmation, Standing
from cnnstudy.analysis.intervals import MIN_SEEDS
from cnnstudy.analysis.resampled import estimate_resampled_mean, read_division
from cnnstudy.names import Metric, Parameter
from cnnstudy.records import Rule
from cnnstudy.tracking.recorded import RecordedRun, best_metrics

#: What accuracies at the best epoch are.
CROSS_FITTED = (
    "Accuracies and gaps are means over two epochs, the best one on each half of the validation images, measured on "
    "the other half; weights are those of the epoch that is best on all."
)
FLATTERED = (
    "Accuracies are those of the best epoch, not cross-fitted: measured on the images by which it was chosen, and so "
    "too high (gaps too small)."
)
STANDING_HEADINGS = ("candidate", "in the study", "with fresh seeds", "95 % interval", "gap", "seeds", "standing")


def standing_rows(standings: Sequence[Standing], rule: Rule) -> list[list[str]]:
    """Return cells under STANDING_HEADINGS, best first."""
    return [
        [
            f"{one.trial}: {one.title.partition(', ')[2]}",
            format_value(one.searched, rule),
            format_value(one.mean, rule) if one.seeds else "",
            format_interval(one.low, one.high, rule),
            f"{100 * one.gap:+.1f}" if one.seeds else "",
            f"{len(one.seeds)}" + (f", {one.failed} failed" if one.failed else ""),
            one.standing,
        ]
        for one in standings
    ]


def confirmation_sentences(confirmed: Confirmation) -> list[str]:
    """Return sentences on the champion, the other candidates, the test split, and the optimism of selection."""
    champion, rule, test = confirmed.champion, confirmed.rule, confirmed.test
    lines = list(champion_sentences(confirmed.standings, champion, rule))
    if champion is None:
        return lines
    lines.append(CROSS_FITTED if confirmed.cross_fitted else FLATTERED)
    if confirmed.shared_weights:
        lines.append(
            f"Transfer starts from the same source weights ({_describe_shared(confirmed.shared_weights)}) with every "
            "seed: the intervals are about models from these weights, and do not hold what others would change."
        )
    if test is not None and test.mean is not None:
        repeated = f", evaluation {test.openings} of this study's test split" if test.openings > 1 else ""
        interval = format_interval(test.low, test.high, Rule())
        lines.append(
            f"Test split: accuracy {100 * test.mean:.1f} % {interval} on {test.images} images that "
            f"no trial has seen, mean of the {len(test.values)} models (evaluated {test.opened}{repeated})."
        )
    if confirmed.refusal:
        lines.append(f"Not tested: {confirmed.refusal}")
    best = confirmed.best_validation
    return [*lines, optimism_sentence(best, champion.mean, confirmed.tested, confirmed.optimism, rule)]


def model_note(confirmed: Confirmation, run: RecordedRun) -> str:
    """Return the description of the champion's registered model, in Markdown: its score, data, input and limits.

    Args:
        run: that the model is of.
    """
    size, data = (run.parameters.get(name, "?") for name in (Parameter.IMAGE_SIZE, Parameter.DATA))
    classes, images = (run.parameters.get(name, "?") for name in (Parameter.CLASSES, Parameter.TRAIN_IMAGES))
    lines = [*confirmation_sentences(confirmed), *_gap_sentences(confirmed, run)]
    sections = {
        "Why this model": f"{confirmed.reason[:1].upper()}{confirmed.reason[1:]}.",
        "Confirmed": "\n".join(f"- {line}" for line in lines),
        "Its own numbers": _describe_own_numbers(run),
        "Data": f"{data}: {classes} classes, {images} training images.",
        "Input": (
            f"Photos as files (base64), or RGB arrays of {size} x {size} pixels, 0 to 255; `input.json` beside the "
            "model says how photos are prepared. Output: the probability of each class, in the order of `classes.json`."
        ),
        "Limits": (
            "The scores are those of its configuration over fresh seeds; this model is the one with the median score. "
            "They hold for images like those it was trained on, and say nothing about others."
        ),
    }
    return "\n\n".join(f"**{name}**\n\n{text}" for name, text in sections.items())


def _gap_sentences(confirmed: Confirmation, run: RecordedRun) -> list[str]:
    """Return the champion's mean gap over the fresh seeds with its interval; [] if it has none."""
    gaps = () if confirmed.champion is None else confirmed.champion.gaps
    mean = estimate_resampled_mean([gap for gap in gaps if math.isfinite(gap)], read_division([run]), is_share=False)
    if mean is None:
        return []
    interval = "" if mean.low is None or mean.high is None else f" [{100 * mean.low:+.1f}, {100 * mean.high:+.1f}]"
    return [f"Gap, train minus validation accuracy: {100 * mean.value:+.1f} points{interval} over {mean.count} seeds."]


def _describe_own_numbers(run: RecordedRun) -> str:
    """Return what this one model scores, and by which names MLflow has that and the last epoch's score."""
    best = best_metrics(run)
    names = (Metric.VAL_ACCURACY, Metric.TRAIN_ACCURACY, Metric.GAP_ACCURACY)
    validation, train, gap = (100 * best.get(name, math.nan) for name in names)
    last = run.metrics.get(Metric.VAL_ACCURACY)
    ending = "" if last is None else f" `val/accuracy` is that of the last epoch, {100 * last:.1f} %."
    return (
        f"The model is that of epoch {run.best_epoch} of run {run.run_id}: validation accuracy {validation:.1f} %, "
        f"train {train:.1f} %, gap {gap:+.1f} points. MLflow has these, as shares of 1, as `best_val_accuracy`, "
        f"`best_train_accuracy` and `best_gap_accuracy`.{ending}"
    )


def _describe_shared(sources: Iterable[str]) -> str:
    """Return where source weights that all seeds share are from."""
    return ", ".join({"pretrain": "pretrained once", "file": "of a file"}.get(one, one) for one in sources)


def champion_sentences(standings: Sequence[Standing], champion: Standing | None, rule: Rule) -> Iterator[str]:
    """Yield sentences on who is the champion and how certain that is."""
    limits, metric = describe_limits(rule), describe_metric(rule)
    gap = "gap" if rule.metric == Metric.VAL_ACCURACY else "gap in accuracy"
    if champion is None:
        yield f"No champion: {no_champion_reason(standings, rule)}."
        return
    yield (
        f"Champion: {champion.trial} ({champion.title}), {metric} {format_value(champion.mean, rule)} "
        f"{format_interval(champion.low, champion.high, rule)} over {len(champion.seeds)} fresh seeds, {gap} "
        f"{100 * champion.gap:+.1f} points{f' ({limits})' if limits else ''}."
    )
    tied = [f"{one.trial} ({format_value(one.mean, rule)})" for one in standings if one.standing == TIED]
    if tied and len(champion.seeds) < MIN_SEEDS:
        yield f"Cannot tell whether it is better than {', '.join(tied)}: that takes at least {MIN_SEEDS} fresh seeds."
    elif tied:
        yield f"Statistically tied with it: {', '.join(tied)}. Any of these may be as good; choose among them by cost."
    behind = [f"{one.trial} ({format_value(one.mean, rule)})" for one in standings if one.standing == BEHIND]
    if behind:
        yield f"Significantly worse: {', '.join(behind)}."
    beyond = [one.trial for one in standings if one.standing == OUTSIDE_LIMITS]
    if beyond:
        yield f"Outside the limits ({limits}) on average over the fresh seeds: {', '.join(beyond)}."
    unlearnt = [one.trial for one in standings if one.standing == UNLEARNT]
    if unlearnt:
        yield f"Did not learn with any fresh seed, so cannot be champion: {', '.join(unlearnt)}."
    failed = [one.trial for one in standings if one.standing == FAILED]
    if failed:
        yield f"Failed with at least one seed, so cannot be champion: {', '.join(failed)}."


def optimism_sentence(
    best: tuple[str, float], confirmed: float, test: float | None, optimism: float | None, rule: Rule
) -> str:
    """Return by how much the study's best validation score is better than the champion's scores.

    Args:
        best: the single trial with the best validation score, and that score.
        confirmed: the champion's mean with fresh seeds.
        test: the champion's score on the test split; None: unknown.
        optimism: by how much `best` is better than `test`; None: unknown.
        rule: how the study ranks.
    """
    sign = 1 if rule.maximize else -1
    better = f"{_better(sign * (best[1] - confirmed), rule)} than the champion with fresh seeds"
    if test is not None and optimism is not None:
        score = describe_metric(rule).replace("validation ", "")
        better += f", {_better(optimism, rule)} than its {score} on the test split ({format_value(test, rule)})"
    effect = f"{'overstates' if rule.maximize else 'understates'} {describe_metric(rule).replace('validation ', '')}"
    conclusion = (
        f" Selecting by validation score {effect} by this much." if optimism is not None and optimism > 0 else ""
    )
    return (
        f"The best {describe_metric(rule)} of any single trial was {format_value(best[1], rule)} ({best[0]}): {better}."
        f"{conclusion}"
    )


def format_value(number: float, rule: Rule) -> str:
    """Return the study's metric as `86.1 %` or `0.512 nats`."""
    return f"{100 * number:.1f} %" if rule.maximize else f"{number:.3f} nats"


def format_interval(low: float | None, high: float | None, rule: Rule) -> str:
    """Return an interval as `[83.0, 88.2]`, in percent or nats; "" if there is none."""
    if low is None or high is None:
        return ""
    return f"[{100 * low:.1f}, {100 * high:.1f}]" if rule.maximize else f"[{low:.3f}, {high:.3f}]"


def describe_metric(rule: Rule) -> str:
    """Return the name of the metric that candidates are compared by."""
    words = {Metric.VAL_BALANCED_ACCURACY: "balanced validation accuracy", Metric.VAL_MACRO_F1: "validation macro-F1"}
    return words.get(rule.metric, "validation accuracy" if rule.maximize else "validation loss")


def describe_limits(rule: Rule) -> str:
    """Return the limits as `gap at most 10 points, validation accuracy at least 60 %`; "" if there are none."""
    limits = [f"gap at most {100 * rule.maximum_gap:g} points"] if rule.maximum_gap is not None else []
    if rule.minimum_accuracy is not None:
        limits.append(f"validation accuracy at least {100 * rule.minimum_accuracy:g} %")
    return ", ".join(limits)


def _better(number: float, rule: Rule) -> str:
    """Return `5.0 points better` or, for a negative number, `worse`."""
    size = f"{100 * abs(number):.1f} points" if rule.maximize else f"{abs(number):.3f} nats"
    return f"{size} {'better' if number >= 0 else 'worse'}"


def champion_reason(standings: Sequence[Standing], rule: Rule) -> str:
    """Return why the first of these is the champion."""
    best, tied = standings[0], [one.trial for one in standings if one.standing == TIED]
    ties = f"; statistically tied with {', '.join(tied)}" if tied else ""
    return (
        f"{best.trial} ({best.title}): the best of {len(standings)} by mean {describe_metric(rule)} over "
        f"{len(best.seeds)} fresh seeds, {format_value(best.mean, rule)}, gap {100 * best.gap:+.1f} points{ties}; this "
        "is the model of the median seed"
    )


def no_champion_reason(standings: Sequence[Standing], rule: Rule) -> str:
    """Return why none of the candidates is champion, and how many each reason applies to."""
    beyond, unlearnt, failed = (
        [one for one in standings if one.standing == standing] for standing in (OUTSIDE_LIMITS, UNLEARNT, FAILED)
    )
    reasons = []
    if beyond:
        reasons.append(
            f"{len(beyond)} {'is' if len(beyond) == 1 else 'are'} outside the limits ({describe_limits(rule)}) on "
            f"average over fresh seeds, the best of them {beyond[0].trial} with a gap of {100 * beyond[0].gap:+.1f} "
            "points"
        )
    if unlearnt:
        reasons.append(f"{len(unlearnt)} did not learn with any fresh seed")
    if failed:
        reasons.append(f"{len(failed)} failed with at least one seed")
    return f"of {len(standings)} candidate{'s' * (len(standings) > 1)}, {'; '.join(reasons)}"
