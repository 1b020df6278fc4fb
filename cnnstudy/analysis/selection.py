"""What confirming came to, in words and as a table: the champion first, then what it was chosen from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cnnstudy.analysis.champion import BEHIND, BEYOND, FAILED, TIED, Standing
from cnnstudy.records import Rule

STANDING_HEADINGS = ("candidate", "in the study", "with fresh seeds", "95 % interval", "gap", "seeds", "standing")


def rows(standings: Sequence[Standing], rule: Rule) -> list[list[str]]:
    """Cells under STANDING_HEADINGS, best first."""
    return [
        [
            f"{one.candidate.trial}: {one.candidate.title.partition(', ')[2]}",
            value(one.candidate.searched, rule),
            value(one.mean, rule) if one.seeds else "",
            interval(one.low, one.high, rule),
            f"{100 * one.gap:+.1f}" if one.seeds else "",
            f"{len(one.seeds)}" + (f", {one.failed} failed" if one.failed else ""),
            one.standing,
        ]
        for one in standings
    ]


def champion_sentences(standings: Sequence[Standing], champion: Standing | None, rule: Rule) -> Iterator[str]:
    """Who is the champion, and how sure that is."""
    limits = limits_in_words(rule)
    if champion is None:
        yield f"No champion: {_why_none(standings, limits)}."
        return
    candidate, metric = champion.candidate, metric_in_words(rule)
    yield (
        f"Champion: {candidate.trial} ({candidate.title}), {metric} {value(champion.mean, rule)} "
        f"{interval(champion.low, champion.high, rule)} over {len(champion.seeds)} fresh seeds, gap "
        f"{100 * champion.gap:+.1f} points{f' ({limits})' if limits else ''}."
    )
    tied = [f"{one.candidate.trial} ({value(one.mean, rule)})" for one in standings if one.standing == TIED]
    if tied:
        yield f"Not to be told from it: {', '.join(tied)}. Any of these may be as good; choose among them by cost."
    behind = [f"{one.candidate.trial} ({value(one.mean, rule)})" for one in standings if one.standing == BEHIND]
    if behind:
        yield f"Worse than it beyond chance: {', '.join(behind)}."
    beyond = [one.candidate.trial for one in standings if one.standing == BEYOND]
    if beyond:
        yield f"Beyond the limits ({limits}) on average over the fresh seeds: {', '.join(beyond)}."
    failed = [one.candidate.trial for one in standings if one.standing == FAILED]
    if failed:
        yield f"Failed with a seed or more, and no champion for that: {', '.join(failed)}."


def optimism_sentence(
    best: tuple[str, float], confirmed: float, test: float | None, optimism: float | None, rule: Rule
) -> str:
    """By how much the best validation score of the study was luck."""
    sign = 1 if rule.maximize else -1
    told = f"{_better(sign * (best[1] - confirmed), rule)} than the champion with fresh seeds"
    if test is not None and optimism is not None:
        told += f", {_better(optimism, rule)} than its test ({value(test, rule)})"
    return (
        f"The best {metric_in_words(rule)} of any one trial was {value(best[1], rule)} ({best[0]}): {told}."
        f"{' So much it flatters to choose by it.' if optimism is not None and optimism > 0 else ''}"
    )


def value(number: float, rule: Rule) -> str:
    """`86.1 %`, or nats."""
    return f"{100 * number:.1f} %" if rule.maximize else f"{number:.3f} nats"


def interval(low: float | None, high: float | None, rule: Rule) -> str:
    """`[83.0, 88.2]`, or nothing where there is none."""
    if low is None or high is None:
        return ""
    return f"[{100 * low:.1f}, {100 * high:.1f}]" if rule.maximize else f"[{low:.3f}, {high:.3f}]"


def metric_in_words(rule: Rule) -> str:
    """What candidates are compared by."""
    return "validation accuracy" if rule.maximize else "validation loss"


def limits_in_words(rule: Rule) -> str:
    """`gap at most 10 points, validation accuracy at least 60 %`; "" where there are none."""
    limits = [f"gap at most {100 * rule.maximum_gap:g} points"] if rule.maximum_gap is not None else []
    if rule.minimum_accuracy is not None:
        limits.append(f"validation accuracy at least {100 * rule.minimum_accuracy:g} %")
    return ", ".join(limits)


def _better(number: float, rule: Rule) -> str:
    """`5.0 points better`."""
    size = f"{100 * abs(number):.1f} points" if rule.maximize else f"{abs(number):.3f} nats"
    return f"{size} {'better' if number >= 0 else 'worse'}"


def _why_none(standings: Sequence[Standing], limits: str) -> str:
    failed = sum(one.standing == FAILED for one in standings)
    nearest = next((one for one in standings if one.standing == BEYOND), None)
    if nearest is None:
        return f"all {failed} candidates failed with a seed or more"
    return (
        f"none of the {len(standings)} candidates keeps the limits ({limits}) on average over fresh seeds; the "
        f"nearest is {nearest.candidate.trial} with a gap of {100 * nearest.gap:+.1f} points"
    )
