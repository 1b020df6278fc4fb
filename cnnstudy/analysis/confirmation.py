"""What confirming came to, and its record: the artifact confirm/confirm.json of the study's run."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from cnnstudy.analysis.intervals import LEVEL, estimate_mean, holm_correction
from cnnstudy.config.factors import describe_levels, names_in_title
from cnnstudy.names import Metric
from cnnstudy.records import Level, Rule
from cnnstudy.tracking.recorded import RecordedRun, best_metrics

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


def rank_candidates(trials: Sequence[RecordedRun], rule: Rule, top: int) -> list[Candidate]:
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


def compare_candidates(
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
    p = holm_correction(np.array([_p(best, rival) for rival in rivals]))
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

    found = estimate_mean(values)
    if found is None or found.low is None or found.high is None:
        return None, None
    usual, wide = (float(stats.t.ppf(1 - LEVEL / 2 / k, len(values) - 1)) for k in (1, count))
    if maximize:
        return found.value - wide / usual * (found.value - found.low), found.high
    return found.low, found.value + wide / usual * (found.high - found.value)


def _p(best: Standing, rival: Standing) -> float:
    """Of the paired t-test over the seeds that both have; 1 where there are too few."""
    ours, theirs = (dict(zip(one.seeds, one.values, strict=True)) for one in (best, rival))
    found = estimate_mean([value - theirs[seed] for seed, value in ours.items() if seed in theirs])
    return 1.0 if found is None or found.p is None else found.p


def median_seed(standing: Standing) -> int:
    """The seed with the median value (the lower one of two): its model is neither the luckiest nor the unluckiest."""
    by_value = sorted(zip(standing.values, standing.seeds, strict=True))
    return by_value[(len(by_value) - 1) // 2][1]


def best_single_trial(trials: Sequence[RecordedRun], rule: Rule) -> RecordedRun | None:
    """The single trial that validates best: what a search without confirmation would call its result."""
    rated = [run for run in trials if run.state == "finished" and best_metrics(run)]
    return max(rated, key=lambda run: rule.rank(best_metrics(run), run.verdict), default=None)


def standing_to_json(standing: Standing) -> dict[str, Any]:
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


def standing_from_json(plain: Mapping[str, Any]) -> Standing:
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


#: Where the record is among the artifacts.
RECORD = "confirm/confirm.json"


@dataclass(frozen=True)
class ChampionTest:
    """What the champion's models say of the test split; accuracies 0..1, losses in nats."""

    opened: str  # ISO 8601, of the first opening for these models
    champion: str  # the trial that stands for it
    runs: tuple[str, ...]  # of its models, by seed
    openings: int  # of the study's test split, in all
    images: int = 0
    digest: str = ""
    values: tuple[float, ...] = ()  # accuracy of each seed's model
    losses: tuple[float, ...] = ()
    mean: float | None = None  # None: not measured yet
    low: float | None = None  # Wilson's 95 % interval for so many images
    high: float | None = None
    confusion: tuple[tuple[int, ...], ...] = ()  # of all models together: rows true class, columns predicted

    @property
    def loss(self) -> float:
        """Mean of the models, nats."""
        return sum(self.losses) / len(self.losses)

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Self:
        """What `vars` gave; the confusion matrix may be left out, and what is beyond that is passed over.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        return cls(
            opened=str(plain["opened"]),
            champion=str(plain["champion"]),
            runs=tuple(map(str, plain["runs"])),
            openings=int(plain["openings"]),
            images=int(plain["images"]),
            digest=str(plain["digest"]),
            values=tuple(map(float, plain["values"])),
            losses=tuple(map(float, plain["losses"])),
            mean=None if plain["mean"] is None else float(plain["mean"]),
            low=None if plain["low"] is None else float(plain["low"]),
            high=None if plain["high"] is None else float(plain["high"]),
            confusion=tuple(tuple(map(int, row)) for row in plain.get("confusion", ())),
        )


@dataclass(frozen=True)
class Confirmation:
    """What confirming came to."""

    rule: Rule
    standings: tuple[Standing, ...]  # best first
    best_validation: tuple[str, float]  # the trial that validates best, and its value
    champion: Standing | None
    model: str = ""
    version: str = ""
    reason: str = ""  # why this one is the champion, or why there is none
    test: ChampionTest | None = None
    refusal: str = ""  # why the test split was not opened

    @property
    def tested(self) -> float | None:
        """The champion's accuracy on the test split, or its loss, whichever the study is chosen by; None: not known."""
        if self.test is None or self.test.mean is None:
            return None
        return self.test.mean if self.rule.maximize else self.test.loss

    @property
    def optimism(self) -> float | None:
        """By how much the best validation score of the study is better than the champion's test."""
        if self.tested is None:
            return None
        return (self.best_validation[1] - self.tested) * (1 if self.rule.maximize else -1)


def confirmation_to_json(confirmed: Confirmation) -> dict[str, Any]:
    """As plain data, for the record."""
    trial, value = confirmed.best_validation
    return {
        "rule": confirmed.rule.to_json(),
        "best_validation": {"trial": trial, "value": value},
        "candidates": [standing_to_json(one) for one in confirmed.standings],
        "champion": confirmed.champion.trial if confirmed.champion else None,
        "model": confirmed.model,
        "version": confirmed.version,
        "reason": confirmed.reason,
        "test": dict(vars(confirmed.test)) if confirmed.test else None,
        "refusal": confirmed.refusal,
        "optimism": confirmed.optimism,
    }


def confirmation_from_json(text: str) -> Confirmation:
    """The record as it was written.

    Raises:
        ValueError: it is not what confirming writes; says what is wrong.
    """
    try:
        plain = json.loads(text)
        standings = tuple(map(standing_from_json, plain["candidates"]))
        chosen = next((one for one in standings if one.trial == plain["champion"]), None)
        found = Confirmation(
            rule=Rule.from_json(plain["rule"]),
            standings=standings,
            best_validation=(str(plain["best_validation"]["trial"]), float(plain["best_validation"]["value"])),
            champion=chosen,
            model=str(plain["model"]),
            version=str(plain["version"]),
            reason=str(plain["reason"]),
            test=None if plain["test"] is None else ChampionTest.from_json(plain["test"]),
            refusal=str(plain["refusal"]),
        )
    except json.JSONDecodeError as error:
        raise ValueError(f"it is no JSON: {error}") from error
    except KeyError as error:
        raise ValueError(f"the key {error} is missing") from error
    except (TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"a value has another type: {error}") from error
    if found.champion is None and plain["champion"] is not None:
        raise ValueError(f"its champion {plain['champion']!r} is none of its candidates")
    return found
