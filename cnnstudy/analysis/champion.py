"""Which combination is best, once luck is taken out: candidates, their fresh seeds, and what can be said of them.

Among hundreds of trials the best validation score is largely luck. The best few combinations are therefore trained
again with seeds (and divisions into train and validation) that no trial had, the same for all of them. Their intervals
are Student's t over these seeds; the end on the side where the choice flatters allows for the best of k having been
chosen by the same numbers (Bonferroni: 1 - 0.025/k), the other end need not.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cnnstudy.records import RecordedRun, Rule, best_metrics
from cnnstudy.space import Level

#: What can become of a candidate.
CHAMPION, TIED, BEHIND, BEYOND, FAILED = "champion", "tied", "behind", "breaks the rule", "failed"
_ERROR = 0.05


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
        levels = [f"{name.replace('_', ' ')} {_shown(self.levels[name])}" for name in ("batch_size", "dropout")]
        return ", ".join([self.architecture, str(self.levels["transfer"]), *levels])


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
    keeps: bool  # the study's limits, on average
    failed: int  # seeds that failed
    standing: str


def candidates(trials: Sequence[RecordedRun], rule: Rule, top: int) -> list[Candidate]:
    """The best combinations, best first: by the mean over their finished trials, those within the limits first.

    Combinations that learnt nothing in any trial are none.
    """
    groups: dict[tuple[str, str], list[RecordedRun]] = {}
    for run in sorted(trials, key=lambda run: (run.tags["cnnstudy.architecture"], _number(run))):
        if run.state == "finished" and best_metrics(run):
            levels = json.dumps(json.loads(run.tags["cnnstudy.levels"]), sort_keys=True)
            groups.setdefault((run.tags["cnnstudy.architecture"], levels), []).append(run)
    rated = []
    for (architecture, _), runs in groups.items():
        learnt = [run for run in runs if run.tags.get("cnnstudy.verdict") != "not-learning"]
        if not learnt:
            continue
        mean = mean_metrics([best_metrics(run) for run in runs])
        levels = json.loads(runs[0].tags["cnnstudy.levels"])
        candidate = Candidate(architecture, _number(runs[0]), levels, mean[rule.metric], mean["gap/accuracy"])
        rated.append((rule.rank(mean), candidate))
    # sorted is stable: between equals the first network and trial
    return [candidate for _, candidate in sorted(rated, key=lambda pair: pair[0], reverse=True)[:top]]


def mean_metrics(measured: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each metric that all have."""
    names = set.intersection(*(set(one) for one in measured))
    return {name: float(np.mean([one[name] for one in measured])) for name in names}


def standings(
    measured: Sequence[tuple[Candidate, Mapping[int, Mapping[str, float] | None]]], rule: Rule, looks: int = 1
) -> list[Standing]:
    """How the candidates stand to each other, best first.

    The champion is the best by mean of those that keep the limits on average and failed with no seed. Tied with it are
    those whose difference to it over the seeds that both have can't be told from 0: Holm's correction over the
    candidates, at a level that is divided by the number of looks at the numbers.

    Args:
        measured: of each candidate the clean metrics at the best epoch, by seed; None for a seed that failed.
    """
    found = [_standing(candidate, of, rule, len(measured)) for candidate, of in measured]
    found.sort(key=lambda one: _order(one, rule), reverse=True)
    best = next((one for one in found if one.standing == TIED), None)
    if best is None:
        return found
    rivals = [one for one in found if one.standing == TIED and one is not best]
    behind = _behind(best, rivals, rule, looks)
    names = {id(best): CHAMPION, **{id(one): BEHIND for one in behind}}
    return [Standing(**{**vars(one), "standing": names.get(id(one), one.standing)}) for one in found]


def _standing(candidate: Candidate, of: Mapping[int, Mapping[str, float] | None], rule: Rule, count: int) -> Standing:
    there = {seed: metrics for seed, metrics in sorted(of.items()) if metrics is not None}
    failed = len(of) - len(there)
    values = [metrics[rule.metric] for metrics in there.values()]
    mean = mean_metrics(list(there.values())) if there else {}
    keeps = bool(there) and rule.keeps(mean)
    low, high = _interval(values, count, rule.maximize)
    return Standing(
        candidate=candidate,
        seeds=tuple(there),
        values=tuple(values),
        gaps=tuple(metrics["gap/accuracy"] for metrics in there.values()),
        mean=mean.get(rule.metric, math.nan),
        low=low,
        high=high,
        gap=mean.get("gap/accuracy", math.nan),
        keeps=keeps,
        failed=failed,
        standing=FAILED if failed or not there else TIED if keeps else BEYOND,
    )


def _order(one: Standing, rule: Rule) -> tuple[bool, bool, float]:
    value = one.mean if rule.maximize else -one.mean
    return one.standing != FAILED, one.keeps, -math.inf if math.isnan(value) else value


def _interval(values: Sequence[float], count: int, maximize: bool) -> tuple[float | None, float | None]:
    """The end on the side where the choice flatters is that of the best of `count`."""
    from scipy import stats

    if len(values) < 2:
        return None, None
    mean, error = float(np.mean(values)), float(np.std(values, ddof=1) / math.sqrt(len(values)))
    wide, usual = (float(stats.t.ppf(1 - _ERROR / 2 / k, len(values) - 1)) * error for k in (count, 1))
    return (mean - wide, mean + usual) if maximize else (mean - usual, mean + wide)


def _behind(best: Standing, rivals: Sequence[Standing], rule: Rule, looks: int) -> list[Standing]:
    """The rivals that are worse than the best beyond chance."""
    tested = sorted(((_p(best, rival, rule), place) for place, rival in enumerate(rivals)))
    behind = []
    for rank, (p, place) in enumerate(tested):
        if p >= _ERROR / looks / (len(tested) - rank):  # Holm
            break
        behind.append(rivals[place])
    return behind


def _p(best: Standing, rival: Standing, rule: Rule) -> float:
    """Of the paired t-test over the seeds that both have; 1 where there are too few."""
    from scipy import stats

    ours, theirs = (dict(zip(one.seeds, one.values, strict=True)) for one in (best, rival))
    shared = [seed for seed in ours if seed in theirs]
    if len(shared) < 2:
        return 1.0
    differences = np.array([ours[seed] - theirs[seed] for seed in shared])
    if np.ptp(differences) < 1e-12:
        return float(abs(differences[0]) < 1e-12)
    return float(stats.ttest_1samp(differences, 0.0).pvalue)


def typical_seed(standing: Standing) -> int:
    """The seed with the median value (the lower one of two): its model is neither the luckiest nor the unluckiest."""
    by_value = sorted(zip(standing.values, standing.seeds, strict=True))
    return by_value[(len(by_value) - 1) // 2][1]


def naive_best(trials: Sequence[RecordedRun], rule: Rule) -> RecordedRun | None:
    """The single trial that validates best: what a search without confirmation would call its result."""
    rated = [run for run in trials if run.state == "finished" and best_metrics(run)]
    return max(rated, key=lambda run: rule.rank(best_metrics(run), run.tags.get("cnnstudy.verdict", "")), default=None)


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


def _number(run: RecordedRun) -> int:
    return int(run.tags["cnnstudy.number"])


def _shown(level: Level) -> str:
    return f"{level:.3g}" if isinstance(level, float) else str(level)
