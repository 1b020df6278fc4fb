"""The champions of two studies: each as it was confirmed, or the best trial where it was not, and their difference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cnnstudy.analysis.champion import naive_best
from cnnstudy.analysis.confirmed import from_json
from cnnstudy.analysis.inference import Estimate, by_ends, mean_of, welch
from cnnstudy.names import Metric
from cnnstudy.records import RecordedRun, Rule, best_metrics

CONFIRMED, UNCONFIRMED = "confirmed", "best trial, not confirmed"


@dataclass(frozen=True)
class Champion:
    """A study's best combination; metrics as they are (accuracies and gaps 0..1, losses in nats)."""

    trial: str
    title: str
    metric: str  # the study's: "val/accuracy" or "val/loss"
    standing: str  # CONFIRMED, or why it is only the best trial: luck is part of its value then
    value: Estimate  # of `metric` at the best epoch
    values: tuple[float, ...]  # by fresh seed
    gap: float | None
    test: Estimate | None  # accuracy on the test split, over its models

    @property
    def confirmed(self) -> bool:
        """Whether it was trained again with fresh seeds."""
        return self.standing == CONFIRMED


@dataclass(frozen=True)
class ChampionComparison:
    """Both champions, and B less A; None where there is none, or where nothing is to be compared."""

    a: Champion | None
    b: Champion | None
    value: Estimate | None
    test: Estimate | None
    reason: str = ""  # why `value` can't be compared, or has no interval


def champion_of(record: str | None, trials: Sequence[RecordedRun], rule: Rule) -> Champion | None:
    """The champion that `confirm/confirm.json` tells, else the best finished trial.

    Args:
        record: the text of that file; None where there is none.

    Raises:
        ValueError: it is not what confirming writes.
    """
    if record is None:
        return _best_trial(trials, rule, UNCONFIRMED)
    confirmed = from_json(record)
    own, test = confirmed.champion, confirmed.test
    if own is None:
        return _best_trial(trials, rule, f"best trial; no champion: {confirmed.reason}")
    value = Estimate(own.mean, own.low, own.high, count=len(own.values))
    tested = None
    if test is not None and test.mean is not None:
        tested = Estimate(test.mean, test.low, test.high, count=len(test.values))
    return Champion(own.trial, own.title, rule.metric, CONFIRMED, value, own.values, own.gap, tested)


def _best_trial(trials: Sequence[RecordedRun], rule: Rule, standing: str) -> Champion | None:
    best = naive_best(trials, rule)
    if best is None:
        return None
    metrics, key = best_metrics(best), best.trial
    title = best.name.removeprefix(key).strip()
    gap = metrics.get(Metric.GAP_ACCURACY)
    return Champion(key, title, rule.metric, standing, Estimate(metrics[rule.metric]), (), gap, None)


def compare_champions(a: Champion | None, b: Champion | None) -> ChampionComparison:
    """By how much B's is better or worse: fresh seeds by Welch, the test split by the ends of both intervals."""
    if a is None or b is None:
        return ChampionComparison(a, b, None, None, "a study without a finished trial has no champion")
    test = by_ends(a.test, b.test) if a.test is not None and b.test is not None else None
    if a.metric != b.metric:
        return ChampionComparison(a, b, None, test, f"A is chosen by {a.metric}, B by {b.metric}")
    mean_a, mean_b = mean_of(a.values), mean_of(b.values)
    if mean_a is None or mean_b is None:
        open_ = " and ".join(name for name, of in (("A", a), ("B", b)) if not of.confirmed)
        reason = f"the best trial of {open_} was not confirmed with fresh seeds, and luck is part of its value"
        return ChampionComparison(a, b, Estimate(b.value.value - a.value.value), test, reason)
    difference = welch(mean_a, mean_b)
    return ChampionComparison(a, b, difference, test, "" if difference.low is not None else "one seed has no interval")
