"""What confirming came to, in words and as a table: the champion first, then what it was chosen from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cnnstudy.analysis.confirmation import BEHIND, BEYOND, FAILED, TIED, UNLEARNT, Confirmation, Standing
from cnnstudy.records import Rule

STANDING_HEADINGS = ("candidate", "in the study", "with fresh seeds", "95 % interval", "gap", "seeds", "standing")


def standing_rows(standings: Sequence[Standing], rule: Rule) -> list[list[str]]:
    """Cells under STANDING_HEADINGS, best first."""
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


def confirmed_sentences(confirmed: Confirmation) -> list[str]:
    """What confirming came to, the champion first."""
    champion, rule, test = confirmed.champion, confirmed.rule, confirmed.test
    lines = list(champion_sentences(confirmed.standings, champion, rule))
    if champion is None:
        return lines
    if test is not None and test.mean is not None:
        many = f", opening {test.openings} of this study's test split" if test.openings > 1 else ""
        interval = format_interval(test.low, test.high, Rule())
        lines.append(
            f"Test split: accuracy {100 * test.mean:.1f} % {interval} on {test.images} images that "
            f"no trial has seen, mean of the {len(test.values)} models (opened {test.opened}{many})."
        )
    if confirmed.refusal:
        lines.append(f"Not tested: {confirmed.refusal}")
    best, told = confirmed.best_validation, (confirmed.tested, confirmed.optimism)
    return [*lines, optimism_sentence(best, champion.mean, *told, rule)]


def champion_sentences(standings: Sequence[Standing], champion: Standing | None, rule: Rule) -> Iterator[str]:
    """Who is the champion, and how sure that is."""
    limits, metric = describe_limits(rule), describe_metric(rule)
    if champion is None:
        yield f"No champion: {no_champion_reason(standings, rule)}."
        return
    yield (
        f"Champion: {champion.trial} ({champion.title}), {metric} {format_value(champion.mean, rule)} "
        f"{format_interval(champion.low, champion.high, rule)} over {len(champion.seeds)} fresh seeds, gap "
        f"{100 * champion.gap:+.1f} points{f' ({limits})' if limits else ''}."
    )
    tied = [f"{one.trial} ({format_value(one.mean, rule)})" for one in standings if one.standing == TIED]
    if tied:
        yield f"Not to be told from it: {', '.join(tied)}. Any of these may be as good; choose among them by cost."
    behind = [f"{one.trial} ({format_value(one.mean, rule)})" for one in standings if one.standing == BEHIND]
    if behind:
        yield f"Worse than it beyond chance: {', '.join(behind)}."
    beyond = [one.trial for one in standings if one.standing == BEYOND]
    if beyond:
        yield f"Beyond the limits ({limits}) on average over the fresh seeds: {', '.join(beyond)}."
    silent = [one.trial for one in standings if one.standing == UNLEARNT]
    if silent:
        yield f"Learnt nothing with any fresh seed, and no champion for that: {', '.join(silent)}."
    failed = [one.trial for one in standings if one.standing == FAILED]
    if failed:
        yield f"Failed with a seed or more, and no champion for that: {', '.join(failed)}."


def optimism_sentence(
    best: tuple[str, float], confirmed: float, test: float | None, optimism: float | None, rule: Rule
) -> str:
    """By how much the best validation score of the study was luck."""
    sign = 1 if rule.maximize else -1
    told = f"{_better(sign * (best[1] - confirmed), rule)} than the champion with fresh seeds"
    if test is not None and optimism is not None:
        told += f", {_better(optimism, rule)} than its test ({format_value(test, rule)})"
    return (
        f"The best {describe_metric(rule)} of any one trial was {format_value(best[1], rule)} ({best[0]}): {told}."
        f"{' So much it flatters to choose by it.' if optimism is not None and optimism > 0 else ''}"
    )


def format_value(number: float, rule: Rule) -> str:
    """`86.1 %`, or nats."""
    return f"{100 * number:.1f} %" if rule.maximize else f"{number:.3f} nats"


def format_interval(low: float | None, high: float | None, rule: Rule) -> str:
    """`[83.0, 88.2]`, or nothing where there is none."""
    if low is None or high is None:
        return ""
    return f"[{100 * low:.1f}, {100 * high:.1f}]" if rule.maximize else f"[{low:.3f}, {high:.3f}]"


def describe_metric(rule: Rule) -> str:
    """What candidates are compared by."""
    return "validation accuracy" if rule.maximize else "validation loss"


def describe_limits(rule: Rule) -> str:
    """`gap at most 10 points, validation accuracy at least 60 %`; "" where there are none."""
    limits = [f"gap at most {100 * rule.maximum_gap:g} points"] if rule.maximum_gap is not None else []
    if rule.minimum_accuracy is not None:
        limits.append(f"validation accuracy at least {100 * rule.minimum_accuracy:g} %")
    return ", ".join(limits)


def _better(number: float, rule: Rule) -> str:
    """`5.0 points better`."""
    size = f"{100 * abs(number):.1f} points" if rule.maximize else f"{abs(number):.3f} nats"
    return f"{size} {'better' if number >= 0 else 'worse'}"


def champion_reason(standings: Sequence[Standing], rule: Rule) -> str:
    """Of the first one, which is the champion."""
    best, tied = standings[0], [one.trial for one in standings if one.standing == TIED]
    ties = f"; not to be told from {', '.join(tied)}" if tied else ""
    return (
        f"{best.trial} ({best.title}): the best of {len(standings)} by mean {rule.metric} over {len(best.seeds)} fresh "
        f"seeds, {best.mean:.4f}, gap {100 * best.gap:+.1f} points{ties}; this model is that of the median seed"
    )


def no_champion_reason(standings: Sequence[Standing], rule: Rule) -> str:
    """What keeps the candidates from being champion, and how many of them each."""
    beyond, silent, failed = (
        [one for one in standings if one.standing == standing] for standing in (BEYOND, UNLEARNT, FAILED)
    )
    reasons = []
    if beyond:
        reasons.append(
            f"{len(beyond)} {'is' if len(beyond) == 1 else 'are'} beyond the limits ({describe_limits(rule)}) on "
            f"average over fresh seeds, the best of them {beyond[0].trial} with a gap of {100 * beyond[0].gap:+.1f} "
            "points"
        )
    if silent:
        reasons.append(f"{len(silent)} learnt nothing with any fresh seed")
    if failed:
        reasons.append(f"{len(failed)} failed with a seed or more")
    return f"of {len(standings)} candidate{'s' * (len(standings) > 1)} {'; '.join(reasons)}"
