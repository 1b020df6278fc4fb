"""Which combination is best, once luck is taken out: candidates, their fresh seeds, and what can be said of them.

Among hundreds of trials the best validation score is largely luck. The best few combinations are therefore trained
again with seeds (and divisions into train and validation) that no trial had, the same for all of them. Their intervals
are Student's t over these seeds; the end on the side where the choice flatters allows for the best of k having been
chosen by the same numbers (Bonferroni: 1 - 0.025/k), the other end need not.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cnnstudy.analysis.inference import LEVEL, holm, mean_of
from cnnstudy.names import Metric
from cnnstudy.records import RecordedRun, Rule, best_metrics
from cnnstudy.space import Level, describe_levels, names_in_title

#: What can become of a candidate.
CHAMPION, TIED, BEHIND, BEYOND, FAILED = "champion", "tied", "behind", "breaks the rule", "failed"
UNLEARNT = "learnt nothing"
#: Verdicts of a seed that has nothing to show.
_NOTHING = ("not-learning", "diverged")


@dataclass(frozen=True)
class Candidate:
    """A combination of a network and levels that the study has tried."""

    architecture: str
    number: int  # of the first trial that had it
    levels: Mapping[str, Level]
    searched: float  # the study's metric at the best epoch, mean over its trials
    searched_gap: float  # of accuracy

    @property
    def trial(self) -> str:
        """The trial that stands for it, e.g. `vgg16-007`."""
        return f"{self.architecture}-{self.number:03d}"

    @property
    def title(self) -> str:
        """`vgg16, frozen, batch size 16, dropout 0.5`."""
        return ", ".join(filter(None, [self.architecture, describe_levels(self.levels, names_in_title(self.levels))]))


@dataclass(frozen=True)
class Standing:
    """A candidate after its fresh seeds; metrics as they are (accuracies 0..1, losses in nats)."""

    candidate: Candidate
    seeds: tuple[int, ...]
    values: tuple[float, ...]  # of the study's metric, by `seeds`
    gaps: tuple[float, ...]
    mean: float
    low: float | None  # None: fewer than two seeds
    high: float | None
    gap: float
    keeps: bool  # the study's limits, on average; what learnt nothing keeps none
    failed: int  # seeds that failed
    standing: str

    @property
    def trial(self) -> str:
        """The candidate's."""
        return self.candidate.trial

    @property
    def title(self) -> str:
        """The candidate's."""
        return self.candidate.title

    @property
    def searched(self) -> float:
        """What the study had measured."""
        return self.candidate.searched


def candidates(trials: Sequence[RecordedRun], rule: Rule, top: int) -> list[Candidate]:
    """The best combinations, best first: by the mean over their finished trials, those within the limits first.

    Combinations that learnt nothing in any trial are none.
    """
    groups: dict[tuple[str, str], list[RecordedRun]] = {}
    for run in sorted(trials, key=lambda run: (run.architecture, run.number)):
        if run.state == "finished" and best_metrics(run):
            groups.setdefault((run.architecture, json.dumps(run.levels, sort_keys=True)), []).append(run)
    rated = []
    for (architecture, _), runs in groups.items():
        learnt = [run for run in runs if run.verdict != "not-learning"]
        if not learnt:
            continue
        mean = mean_metrics([best_metrics(run) for run in runs])
        first = runs[0]
        candidate = Candidate(architecture, first.number, first.levels, mean[rule.metric], mean[Metric.GAP_ACCURACY])
        rated.append((rule.rank(mean), candidate))
    # sorted is stable: between equals the first network and trial
    return [candidate for _, candidate in sorted(rated, key=lambda pair: pair[0], reverse=True)[:top]]


def mean_metrics(measured: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each metric that all have."""
    names = set.intersection(*(set(one) for one in measured))
    return {name: float(np.mean([one[name] for one in measured])) for name in names}


def standings(
    measured: Sequence[tuple[Candidate, Mapping[int, Mapping[str, float] | None]]],
    rule: Rule,
    looks: int = 1,
    verdicts: Mapping[str, Collection[str]] | None = None,
) -> list[Standing]:
    """How the candidates stand to each other, best first.

    The champion is the best by mean of those that keep the limits on average, learnt something with a seed at least and
    failed with none. Tied with it are those whose difference to it over the seeds that both have can't be told from 0:
    Holm's correction over the candidates, at a level that is divided by the number of looks at the numbers.

    Args:
        measured: of each candidate the clean metrics at the best epoch, by seed; None for a seed that failed.
        verdicts: by the candidate's trial the verdicts of its seeds; without any it counts as having learnt.
    """
    of_trial = verdicts or {}
    found = [_standing(one, of, rule, len(measured), of_trial.get(one.trial, ())) for one, of in measured]
    found.sort(key=lambda one: _order(one, rule), reverse=True)
    best = next((one for one in found if one.standing == TIED), None)
    if best is None:
        return found
    rivals = [one for one in found if one.standing == TIED and one is not best]
    p = holm(np.array([_p(best, rival) for rival in rivals]))
    names = {id(rival): BEHIND for rival, of_rival in zip(rivals, p, strict=True) if of_rival < LEVEL / looks}
    names[id(best)] = CHAMPION
    return [replace(one, standing=names.get(id(one), one.standing)) for one in found]


def _standing(
    candidate: Candidate,
    of: Mapping[int, Mapping[str, float] | None],
    rule: Rule,
    count: int,
    verdicts: Collection[str],
) -> Standing:
    there = {seed: metrics for seed, metrics in sorted(of.items()) if metrics is not None}
    failed = len(of) - len(there)
    values = [metrics[rule.metric] for metrics in there.values()]
    mean = mean_metrics(list(there.values())) if there else {}
    learnt = not verdicts or any(verdict not in _NOTHING for verdict in verdicts)
    keeps = bool(there) and learnt and rule.keeps(mean)
    low, high = _interval(values, count, rule.maximize)
    return Standing(
        candidate=candidate,
        seeds=tuple(there),
        values=tuple(values),
        gaps=tuple(metrics[Metric.GAP_ACCURACY] for metrics in there.values()),
        mean=mean.get(rule.metric, math.nan),
        low=low,
        high=high,
        gap=mean.get(Metric.GAP_ACCURACY, math.nan),
        keeps=keeps,
        failed=failed,
        standing=FAILED if failed or not there else UNLEARNT if not learnt else TIED if keeps else BEYOND,
    )


def _order(one: Standing, rule: Rule) -> tuple[bool, bool, bool, float]:
    value = one.mean if rule.maximize else -one.mean
    return one.standing != FAILED, one.keeps, one.standing != UNLEARNT, -math.inf if math.isnan(value) else value


def _interval(values: Sequence[float], count: int, maximize: bool) -> tuple[float | None, float | None]:
    """The end on the side where the choice flatters is that of the best of `count`."""
    from scipy import stats

    found = mean_of(values)
    if found is None or found.low is None or found.high is None:
        return None, None
    usual, wide = (float(stats.t.ppf(1 - LEVEL / 2 / k, len(values) - 1)) for k in (1, count))
    if maximize:
        return found.value - wide / usual * (found.value - found.low), found.high
    return found.low, found.value + wide / usual * (found.high - found.value)


def _p(best: Standing, rival: Standing) -> float:
    """Of the paired t-test over the seeds that both have; 1 where there are too few."""
    ours, theirs = (dict(zip(one.seeds, one.values, strict=True)) for one in (best, rival))
    found = mean_of([value - theirs[seed] for seed, value in ours.items() if seed in theirs])
    return 1.0 if found is None or found.p is None else found.p


def typical_seed(standing: Standing) -> int:
    """The seed with the median value (the lower one of two): its model is neither the luckiest nor the unluckiest."""
    by_value = sorted(zip(standing.values, standing.seeds, strict=True))
    return by_value[(len(by_value) - 1) // 2][1]


def naive_best(trials: Sequence[RecordedRun], rule: Rule) -> RecordedRun | None:
    """The single trial that validates best: what a search without confirmation would call its result."""
    rated = [run for run in trials if run.state == "finished" and best_metrics(run)]
    return max(rated, key=lambda run: rule.rank(best_metrics(run), run.verdict), default=None)


def to_json(standing: Standing) -> dict[str, Any]:
    """As plain data, for the record."""
    candidate, own = standing.candidate, dict(vars(standing))
    del own["candidate"]
    return {
        "trial": candidate.trial,
        "title": candidate.title,
        "architecture": candidate.architecture,
        "levels": dict(candidate.levels),
        "searched": candidate.searched,
        "searched_gap": candidate.searched_gap,
        **{name: None if isinstance(value, float) and math.isnan(value) else value for name, value in own.items()},
    }


def from_json(plain: Mapping[str, Any]) -> Standing:
    """What `to_json` gave; what is beyond that is passed over.

    Raises:
        KeyError, TypeError, ValueError: it is something else.
    """
    levels, number = dict(plain["levels"]), int(str(plain["trial"]).rpartition("-")[2])
    searched, searched_gap = float(plain["searched"]), float(plain["searched_gap"])
    return Standing(
        candidate=Candidate(str(plain["architecture"]), number, levels, searched, searched_gap),
        seeds=tuple(map(int, plain["seeds"])),
        values=tuple(map(float, plain["values"])),
        gaps=tuple(map(float, plain["gaps"])),
        mean=math.nan if plain["mean"] is None else float(plain["mean"]),
        low=None if plain["low"] is None else float(plain["low"]),
        high=None if plain["high"] is None else float(plain["high"]),
        gap=math.nan if plain["gap"] is None else float(plain["gap"]),
        keeps=bool(plain["keeps"]),
        failed=int(plain["failed"]),
        standing=str(plain["standing"]),
    )


def _number(run: RecordedRun) -> int:
    return run.number
