"""Confirmation: the best candidates, their standings after fresh seeds, and the record confirm/confirm.json."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from cnnstudy.analysis.intervals import LEVEL, holm_correction
from cnnstudy.analysis.resampled import Division, ImageVariance, estimate_resampled_mean, paired_p
from cnnstudy.config.factors import describe_levels, title_factors
from cnnstudy.names import Metric
from cnnstudy.records import Level, Rule, plain_name
from cnnstudy.tracking.recorded import RecordedRun, are_cross_fitted, best_metrics, score_metrics

#: The record's path among the artifacts of the study's run.
RECORD_PATH = "confirm/confirm.json"
#: Standings of a candidate.
CHAMPION, TIED, BEHIND, OUTSIDE_LIMITS, FAILED = "champion", "tied", "behind", "breaks the rule", "failed"
UNLEARNT = "learnt nothing"
#: Verdicts of seeds that did not learn.
_UNLEARNT_VERDICTS = ("not-learning", "diverged")


@dataclass(frozen=True)
class Candidate:
    """A combination of a network and levels that the study has tried."""

    architecture: str
    number: int  # of its first trial
    levels: Mapping[str, Level]
    searched: float  # the study's metric at the best epoch (cross-fitted, if recorded), mean over its trials
    searched_gap: float  # of accuracy

    @property
    def trial(self) -> str:
        """The name of its first trial, e.g. `vgg16-007`."""
        return f"{plain_name(self.architecture)}-{self.number:03d}"

    @property
    def title(self) -> str:
        """Network and levels, e.g. `vgg16, frozen, batch size 16, dropout 0.5`."""
        return ", ".join(filter(None, [self.architecture, describe_levels(self.levels, title_factors(self.levels))]))


@dataclass(frozen=True)
class Standing:
    """A candidate's results with fresh seeds and its standing; accuracies and gaps are 0..1, losses nats."""

    candidate: Candidate
    seeds: tuple[int, ...]
    values: tuple[float, ...]  # the study's metric of each of `seeds`
    gaps: tuple[float, ...]
    mean: float  # of `values`; NaN if all seeds failed
    low: float | None  # 95 % interval of the mean; None: fewer than two seeds, or equal ones of unknown images
    high: float | None
    gap: float  # mean of `gaps`
    keeps: bool  # whether its mean meets the study's limits, and it learnt
    failed: int  # number of seeds that failed
    standing: str

    @property
    def trial(self) -> str:
        """The name of the candidate's first trial."""
        return self.candidate.trial

    @property
    def title(self) -> str:
        """The candidate's network and levels."""
        return self.candidate.title

    @property
    def searched(self) -> float:
        """The candidate's value in the study."""
        return self.candidate.searched


def rank_candidates(trials: Sequence[RecordedRun], rule: Rule, top: int) -> list[Candidate]:
    """Return the `top` best combinations, ranked by the mean metrics of their finished trials, best first.

    The rule ranks those within the study's limits first. Combinations that learnt in no trial are not candidates.
    Accuracies and gaps are the cross-fitted ones, if all trials have them.
    """
    cross_fitted = are_cross_fitted(run for run in trials if run.state == "finished")
    groups: dict[tuple[str, str], list[RecordedRun]] = {}
    for run in sorted(trials, key=lambda run: (run.architecture, run.number)):
        if run.state == "finished" and best_metrics(run):
            groups.setdefault((run.architecture, json.dumps(run.levels, sort_keys=True)), []).append(run)
    ranked = []
    for (architecture, _), runs in groups.items():
        if all(run.verdict == "not-learning" for run in runs):
            continue
        mean = mean_metrics([score_metrics(run, cross_fitted) for run in runs])
        first = runs[0]
        candidate = Candidate(architecture, first.number, first.levels, mean[rule.metric], mean[Metric.GAP_ACCURACY])
        ranked.append((rule.rank(mean), candidate))
    # sorted is stable: of equal candidates the first network and trial comes first
    return [candidate for _, candidate in sorted(ranked, key=lambda pair: pair[0], reverse=True)[:top]]


def mean_metrics(measured: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of each metric that all of them have."""
    names = set.intersection(*(set(one) for one in measured))
    return {name: float(np.mean([one[name] for one in measured])) for name in names}


def compare_candidates(
    measured: Sequence[tuple[Candidate, Mapping[int, Mapping[str, float] | None]]],
    rule: Rule,
    looks: int = 1,
    verdicts: Mapping[str, Collection[str]] | None = None,
    division: Division | None = None,
    images: Mapping[str, ImageVariance] | None = None,
) -> list[Standing]:
    """Return the candidates' standings, best first.

    The champion has the best mean of those whose mean is within the limits, that learnt with at least one seed, and
    that failed with none. The others of these are compared with it by the corrected resampled t-test (Nadeau and Bengio
    2003) of the differences over the seeds that both have, at least three, with Holm's correction over the candidates
    and a level divided by the number of looks. Those that differ are behind, the rest are tied with it.

    Args:
        measured: each candidate with its clean metrics at the best epoch by seed; None for a seed that failed.
        rule: how the study ranks.
        looks: how often the comparison is made while seeds are being added.
        verdicts: the verdicts of each candidate's seeds, by the candidate's trial; without any, it counts as learnt.
        division: how each seed divides the images; None: not known.
        images: what images explain of the variance of candidates' mean accuracies, by the candidate's trial.
    """
    verdicts_by_trial, level = verdicts or {}, LEVEL / max(1, len(measured))
    standings = []
    for candidate, by_seed in measured:
        values = [metrics[rule.metric] for _, metrics in sorted(by_seed.items()) if metrics is not None]
        interval = _selection_interval(values, level, rule.maximize, division, (images or {}).get(candidate.trial))
        standings.append(_assess(candidate, by_seed, rule, verdicts_by_trial.get(candidate.trial, ()), interval))
    standings.sort(key=lambda one: _sort_key(one, rule), reverse=True)
    best = next((one for one in standings if one.standing == TIED), None)
    if best is None:
        return standings
    rivals = [one for one in standings if one.standing == TIED and one is not best]
    adjusted = holm_correction(np.array([_paired_p(best, rival, rule, division) for rival in rivals]))
    changed = {id(rival): BEHIND for rival, p in zip(rivals, adjusted, strict=True) if p < LEVEL / looks}
    changed[id(best)] = CHAMPION
    return [replace(one, standing=changed.get(id(one), one.standing)) for one in standings]


def _assess(
    candidate: Candidate,
    by_seed: Mapping[int, Mapping[str, float] | None],
    rule: Rule,
    verdicts: Collection[str],
    interval: tuple[float | None, float | None],
) -> Standing:
    """Return a candidate's standing before comparisons: FAILED, UNLEARNT, OUTSIDE_LIMITS or else TIED."""
    finished = {seed: metrics for seed, metrics in sorted(by_seed.items()) if metrics is not None}
    failed = len(by_seed) - len(finished)
    values = [metrics[rule.metric] for metrics in finished.values()]
    mean = mean_metrics(list(finished.values())) if finished else {}
    learnt = not verdicts or any(verdict not in _UNLEARNT_VERDICTS for verdict in verdicts)
    keeps = bool(finished) and learnt and rule.keeps(mean)
    return Standing(
        candidate=candidate,
        seeds=tuple(finished),
        values=tuple(values),
        gaps=tuple(metrics[Metric.GAP_ACCURACY] for metrics in finished.values()),
        mean=mean.get(rule.metric, math.nan),
        low=interval[0],
        high=interval[1],
        gap=mean.get(Metric.GAP_ACCURACY, math.nan),
        keeps=keeps,
        failed=failed,
        standing=FAILED if failed or not finished else UNLEARNT if not learnt else TIED if keeps else OUTSIDE_LIMITS,
    )


def _sort_key(one: Standing, rule: Rule) -> tuple[bool, bool, bool, float]:
    value = one.mean if rule.maximize else -one.mean
    return one.standing != FAILED, one.keeps, one.standing != UNLEARNT, -math.inf if math.isnan(value) else value


def _selection_interval(
    values: Sequence[float], level: float, maximize: bool, division: Division | None, images: ImageVariance | None
) -> tuple[float | None, float | None]:
    """Return the 95 % interval of the mean, widened for the selection of the best.

    The best of k candidates is selected by the same values, so the end that guards against too good a value uses the
    t-quantile 1 - 0.025 / k (Bonferroni); the other end uses the usual 0.975.

    Args:
        level: 0.05 / k.
    """
    below, above = (level, LEVEL) if maximize else (LEVEL, level)
    # a metric to maximize is a share of 0..1, the loss is not
    mean = estimate_resampled_mean(values, division, maximize, below, above, images)
    return (None, None) if mean is None else (mean.low, mean.high)


def _paired_p(best: Standing, rival: Standing, rule: Rule, division: Division | None) -> float:
    """Return p of the test of the differences over the seeds that both have; 1 if there are fewer than three."""
    best_values, rival_values = (dict(zip(one.seeds, one.values, strict=True)) for one in (best, rival))
    shared = [seed for seed in best_values if seed in rival_values]
    return paired_p([best_values[seed] - rival_values[seed] for seed in shared], division, rule.maximize)


def median_seed(standing: Standing) -> int:
    """Return the seed with the median value (the lower of two), whose model is neither lucky nor unlucky."""
    by_value = sorted(zip(standing.values, standing.seeds, strict=True))
    return by_value[(len(by_value) - 1) // 2][1]


def best_single_trial(trials: Sequence[RecordedRun], rule: Rule) -> RecordedRun | None:
    """Return the finished trial that ranks first by the rule, which is a search's result without confirmation."""
    finished = [run for run in trials if run.state == "finished" and best_metrics(run)]
    return max(finished, key=lambda run: rule.rank(best_metrics(run), run.verdict), default=None)


def best_scored_trial(trials: Sequence[RecordedRun], rule: Rule) -> tuple[RecordedRun, dict[str, float]] | None:
    """Return the finished trial that the leaderboard has first, and the metrics it shows; None if there is none."""
    finished = [run for run in trials if run.state == "finished" and best_metrics(run)]
    cross_fitted = are_cross_fitted(finished)
    scored = [(run, score_metrics(run, cross_fitted)) for run in finished]
    return max(scored, key=lambda one: rule.rank(one[1], one[0].verdict), default=None)


def standing_to_json(standing: Standing) -> dict[str, Any]:
    """Return a standing as plain data, for the record."""
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


def standing_from_json(plain: Mapping[str, Any], maximize: bool) -> Standing:
    """Return the standing that `standing_to_json` wrote; unknown keys are ignored.

    The interval of a metric to maximize, a share, is cut at 0 and 1, beyond which earlier versions wrote ends.

    Raises:
        KeyError: a key is missing.
        TypeError: a value has another type.
        ValueError: a value has another type.
    """
    levels, number = dict(plain["levels"]), int(str(plain["trial"]).rpartition("-")[2])
    searched, searched_gap = float(plain["searched"]), float(plain["searched_gap"])
    return Standing(
        candidate=Candidate(str(plain["architecture"]), number, levels, searched, searched_gap),
        seeds=tuple(map(int, plain["seeds"])),
        values=tuple(map(float, plain["values"])),
        gaps=tuple(map(float, plain["gaps"])),
        mean=math.nan if plain["mean"] is None else float(plain["mean"]),
        low=None if plain["low"] is None else max(float(plain["low"]), 0.0 if maximize else -math.inf),
        high=None if plain["high"] is None else min(float(plain["high"]), 1.0 if maximize else math.inf),
        gap=math.nan if plain["gap"] is None else float(plain["gap"]),
        keeps=bool(plain["keeps"]),
        failed=int(plain["failed"]),
        standing=str(plain["standing"]),
    )


@dataclass(frozen=True)
class ChampionTest:
    """The evaluation of the champion's models on the test split; accuracies 0..1, losses nats."""

    opened: str  # ISO 8601 time of the first evaluation of these models
    champion: str  # the candidate's first trial
    runs: tuple[str, ...]  # run IDs of its models, by seed
    openings: int  # evaluations on the study's test split, in all
    images: int = 0
    digest: str = ""  # of the images
    values: tuple[float, ...] = ()  # accuracy of each seed's model
    losses: tuple[float, ...] = ()
    mean: float | None = None  # mean accuracy; None: not measured yet
    low: float | None = None  # Wilson's 95 % interval (1927) for this number of images
    high: float | None = None
    confusion: tuple[tuple[int, ...], ...] = ()  # of all models together: rows true class, columns predicted

    @property
    def loss(self) -> float:
        """The mean loss of the models, nats."""
        return sum(self.losses) / len(self.losses)

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Self:
        """Return the test that `vars` wrote; the confusion matrix may be missing, and unknown keys are ignored.

        Raises:
            KeyError: a key is missing.
            TypeError: a value has another type.
            ValueError: a value has another type.
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
    """The outcome of a confirmation."""

    rule: Rule
    standings: tuple[Standing, ...]  # best first
    best_validation: tuple[str, float]  # the single trial with the best validation score, and that score
    champion: Standing | None
    model: str = ""  # name of the registered model
    version: str = ""  # of the registered model
    reason: str = ""  # why this candidate is the champion, or why there is none
    test: ChampionTest | None = None
    refusal: str = ""  # why the test split was not evaluated
    #: Whether accuracies of fresh seeds are free of the luck of choosing the epoch (training/cross_fit.py).
    cross_fitted: bool = False
    #: Sources of the weights that candidates start from with every seed; () if there are none, or one for each seed.
    shared_weights: tuple[str, ...] = ()

    @property
    def tested(self) -> float | None:
        """The champion's score on the test split, in the study's metric; None: unknown, as macro-F1 always is."""
        if self.test is None or self.test.mean is None:
            return None
        if self.rule.metric == Metric.VAL_BALANCED_ACCURACY:
            recalls = [row[label] / sum(row) for label, row in enumerate(self.test.confusion) if sum(row)]
            return sum(recalls) / len(recalls) if recalls else None
        return {Metric.VAL_ACCURACY: self.test.mean, Metric.VAL_LOSS: self.test.loss}.get(self.rule.metric)

    @property
    def optimism(self) -> float | None:
        """By how much the study's best validation score is better than the champion's test score; None: unknown."""
        if self.tested is None:
            return None
        return (self.best_validation[1] - self.tested) * (1 if self.rule.maximize else -1)


def confirmation_to_json(confirmed: Confirmation) -> dict[str, Any]:
    """Return a confirmation as plain data, for the record."""
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
        "cross_fitted": confirmed.cross_fitted,
        "shared_weights": list(confirmed.shared_weights),
    }


def describe_other_champion(study: str, record: str | None, version: str, trial: str) -> str:
    """Say that a study's alias `champion` is not where its confirmation has put it; "" if it is, or nobody can say.

    Args:
        record: the text of the confirmation's record; None: there is none, and the alias alone counts.
        version: of the registered model, to which the alias leads; "" if there is no such alias.
        trial: `STUDY/TRIAL` of that version, or "" if it is not of a trial.
    """
    if record is None:
        return ""
    try:
        confirmed = confirmation_from_json(record)
    except ValueError:
        return ""
    if confirmed.version == version or not (version or confirmed.champion):
        return ""
    if confirmed.champion is None:
        named = "the study's confirmation named no champion"
    else:
        named = f"the study's confirmation named version {confirmed.version}, of {study}/{confirmed.champion.trial}"
    leads = f"leads to version {version}, {f'of {trial}' if trial else 'of no trial'}" if version else "is gone"
    return f"the alias `champion` of {study} {leads}, but {named}"


def confirmation_from_json(text: str) -> Confirmation:
    """Read a record.

    Raises:
        ValueError: the text is not a confirmation record; the message says what is wrong.
    """
    try:
        plain = json.loads(text)
        candidates = plain["candidates"]
        rule = Rule.from_json(plain["rule"])
        standings = tuple(standing_from_json(one, rule.maximize) for one in candidates)
        confirmation = Confirmation(
            rule=rule,
            standings=standings,
            best_validation=(str(plain["best_validation"]["trial"]), float(plain["best_validation"]["value"])),
            champion=next((one for one in standings if one.trial == plain["champion"]), None),
            model=str(plain["model"]),
            version=str(plain["version"]),
            reason=str(plain["reason"]),
            test=None if plain["test"] is None else ChampionTest.from_json(plain["test"]),
            refusal=str(plain["refusal"]),
            cross_fitted=bool(plain.get("cross_fitted", False)),
            shared_weights=tuple(map(str, plain.get("shared_weights", ()))),
        )
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON: {error}") from error
    except KeyError as error:
        raise ValueError(f"the key {error} is missing") from error
    except (TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"a value has the wrong type: {error}") from error
    if confirmation.champion is None and plain["champion"] is not None:
        raise ValueError(f"its champion {plain['champion']!r} is not among its candidates")
    return confirmation
