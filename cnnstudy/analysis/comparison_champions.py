"""Two studies' champions, and the difference between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cnnstudy.analysis.confirmation import best_scored_trial, confirmation_from_json
from cnnstudy.analysis.intervals import MIN_SEEDS, Estimate, difference_from_intervals
from cnnstudy.names import Metric
from cnnstudy.records import Rule
from cnnstudy.tracking.recorded import RecordedRun

#: Standings of a champion.
CONFIRMED, UNCONFIRMED = "confirmed", "best trial, not confirmed"
#: Why champions can't be told apart.
_FEW_SEEDS = f"that takes an interval from at least {MIN_SEEDS} fresh seeds"


@dataclass(frozen=True)
class Champion:
    """A study's best combination; accuracies and gaps are 0..1, losses nats."""

    trial: str
    title: str
    metric: str  # the study's: "val/accuracy" or "val/loss"
    standing: str  # CONFIRMED, or why it is only the best trial, whose value is partly luck
    value: Estimate  # of `metric`, as the leaderboard shows it
    values: tuple[float, ...]  # by fresh seed
    gap: float | None
    test: Estimate | None  # accuracy on the test split, over its models

    @property
    def confirmed(self) -> bool:
        """Whether it was retrained with fresh seeds."""
        return self.standing == CONFIRMED


@dataclass(frozen=True)
class ChampionComparison:
    """Both champions, and B minus A; None where a champion is missing or nothing can be compared."""

    a: Champion | None
    b: Champion | None
    value: Estimate | None
    test: Estimate | None
    reason: str = ""  # why `value` can't be compared, or has no interval


def find_champion(record: str | None, trials: Sequence[RecordedRun], rule: Rule) -> Champion | None:
    """Return the champion recorded in `confirm/confirm.json`, else the best finished trial, else None.

    Args:
        record: the text of that file; None if there is none.

    Raises:
        ValueError: the text is not a confirmation record.
    """
    if record is None:
        return _best_trial(trials, rule, UNCONFIRMED)
    confirmed = confirmation_from_json(record)
    standing, test = confirmed.champion, confirmed.test
    if standing is None:
        return _best_trial(trials, rule, f"best trial; no champion: {confirmed.reason}")
    value = Estimate(standing.mean, standing.low, standing.high, count=len(standing.values))
    test_accuracy = None
    if test is not None and test.mean is not None:
        test_accuracy = Estimate(test.mean, test.low, test.high, count=len(test.values))
    return Champion(
        standing.trial, standing.title, rule.metric, CONFIRMED, value, standing.values, standing.gap, test_accuracy
    )


def _best_trial(trials: Sequence[RecordedRun], rule: Rule, standing: str) -> Champion | None:
    found = best_scored_trial(trials, rule)
    if found is None:
        return None
    best, metrics = found
    title = best.name.removeprefix(best.trial).strip()
    is_balanced = rule.metric == Metric.VAL_BALANCED_ACCURACY
    gap = metrics.get(Metric.GAP_BALANCED_ACCURACY if is_balanced else Metric.GAP_ACCURACY)
    return Champion(best.trial, title, rule.metric, standing, Estimate(metrics[rule.metric]), (), gap, None)


def compare_champions(a: Champion | None, b: Champion | None) -> ChampionComparison:
    """Compare two champions, on validation over the fresh seeds and on the test split, from both studies' intervals.

    The method is that of Zou and Donner (2008), see intervals.difference_from_intervals; the intervals of validation
    are those recorded, which allow for the selection of the champion.
    """
    if a is None or b is None:
        return ChampionComparison(a, b, None, None, "a study without a finished trial has no champion")
    test = difference_from_intervals(a.test, b.test) if a.test is not None and b.test is not None else None
    if a.metric != b.metric:
        return ChampionComparison(a, b, None, test, f"A is selected by {a.metric}, B by {b.metric}")
    if not (a.confirmed and b.confirmed):
        unconfirmed = " and ".join(name for name, one in (("A", a), ("B", b)) if not one.confirmed)
        reason = f"the best trial of {unconfirmed} was not confirmed with fresh seeds, so its value is partly luck"
        return ChampionComparison(a, b, Estimate(b.value.value - a.value.value), test, reason)
    difference = difference_from_intervals(a.value, b.value)
    if min(len(a.values), len(b.values)) < MIN_SEEDS or difference.low is None:
        difference = Estimate(difference.value, count=difference.count)
        return ChampionComparison(a, b, difference, test, _FEW_SEEDS)
    return ChampionComparison(a, b, difference, test)
