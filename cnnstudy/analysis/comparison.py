"""Two studies side by side: what differed between them, and how their outcomes, effects and champions differ.

A difference is B less A, with a 95 % interval. Where both saw the same images it comes from pairs of trials with the
same levels and seed (pairing), else from the two studies' own intervals (Welch).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from cnnstudy.analysis.causes import NETWORKS, NetworkAnalysis, count_noun
from cnnstudy.analysis.confirmation import best_single_trial, confirmation_from_json
from cnnstudy.analysis.contrasts import Cells, Contrast, outcome_values
from cnnstudy.analysis.effects import PAIRS, Effect
from cnnstudy.analysis.intervals import (
    LEVEL,
    Estimate,
    adjusted_p,
    estimate_mean,
    interval_difference,
    test_over_seeds,
    welch_difference,
)
from cnnstudy.analysis.observations import GAP, VALIDATION
from cnnstudy.config.factors import FACTORS, Choices
from cnnstudy.names import Metric
from cnnstudy.records import Level, Rule
from cnnstudy.tracking.recorded import RecordedRun, RecordedStudy, best_metrics, config_differences

_STUDY, _A, _B = "study", "A", "B"


@dataclass(frozen=True)
class Pairs:
    """What differs by how much, over the seeds that both studies have.

    `shrunk_p` is for a correction for many comparisons (inference.adjusted_p).
    """

    difference: Estimate  # B less A
    shrunk_p: float
    pairs: int  # of an effect: fours


class Paired:
    """The trials of one network in both studies, side by side.

    Args:
        a, b: observations, with the tuned factors at their best.
        tuned: factors that were tuned, so that they do not make a cell another one.
    """

    def __init__(self, a: pd.DataFrame, b: pd.DataFrame, tuned: Sequence[str]) -> None:
        names = [name for name in ("network", *FACTORS) if name in a and name in b and name not in tuned]
        self._factors = {
            name: Choices(tuple(dict.fromkeys([*a[name].dropna(), *b[name].dropna()])))
            for name in names
            if max(a[name].nunique(), b[name].nunique()) > 1
        }
        plain = [
            # a factor may be active in one of the two alone: its column has no type of its own in the other
            frame.astype(dict.fromkeys(self._factors, object)).assign(**{_STUDY: name})
            for frame, name in ((a, _A), (b, _B))
        ]
        columns = [*self._factors, _STUDY, "seed", "verdict"]
        outcomes = [name for name in map(str, a) if "/" in name and name in b]
        self._frame = pd.concat([frame[columns + outcomes] for frame in plain], ignore_index=True)
        cells = [_cells(frame, list(self._factors)) for frame in plain]
        self.same_cells = cells[0] == cells[1]

    def level(self, column: str) -> Pairs | None:
        """By how much an outcome differs; None where no pairs, or too few, tell."""
        return self._matched([Contrast(_STUDY, _A, _B)], column)[0]

    def effects(self, effects: Sequence[Effect], column: str) -> list[Pairs | None]:
        """By how much each of these main effects on an outcome differs."""
        contrasts: list[Contrast | None] = []
        for effect in effects:
            known: tuple[Level, ...] = self._factors[effect.factor].values if effect.factor in self._factors else ()
            # the ends of a range are no trials' levels
            listed = effect.baseline in known and effect.level in known
            contrast = Contrast(effect.factor, effect.baseline, effect.level, _STUDY, _A, _B)
            contrasts.append(contrast if listed else None)
        found = iter(self._matched([contrast for contrast in contrasts if contrast is not None], column))
        return [None if contrast is None else next(found) for contrast in contrasts]

    def _matched(self, contrasts: Sequence[Contrast], column: str) -> list[Pairs | None]:
        if not contrasts:
            return []
        varied = {**self._factors, _STUDY: Choices((_A, _B))}
        cells = Cells(self._frame, varied, outcome_values(self._frame, column)[:, None])
        matched = cells.matched(contrasts)
        of_seeds = matched.values[:, :, 0]
        tests, shrunk = test_over_seeds(of_seeds, matched.spread[:, 0])
        counts = np.isfinite(of_seeds).sum(axis=1)
        # one seed has no interval; of two samples it may be told all the same
        return [
            Pairs(Estimate(value, low, high, p, count), shrunk_p, pairs) if count > 1 else None
            for (value, low, high, p), shrunk_p, count, pairs in zip(
                tests.tolist(), shrunk.tolist(), counts.tolist(), matched.pairs[:, 0].tolist(), strict=True
            )
        ]


def _cells(frame: pd.DataFrame, names: list[str]) -> set[tuple[object, ...]]:
    return set(frame[names].where(frame[names].notna(), None).itertuples(index=False, name=None))


@dataclass(frozen=True)
class Difference:
    """A setting that differs; None where a study has none."""

    key: str
    a: Any
    b: Any


def differing_settings(
    a: RecordedStudy, trials_a: Sequence[RecordedRun], b: RecordedStudy, trials_b: Sequence[RecordedRun]
) -> list[Difference]:
    """The keys of the study files that differ but the name, then what the trials were made from and with."""
    found = [Difference(*of) for of in config_differences(a.config, b.config) if of[0] != "name"]
    recorded = [
        ("data digest", data_digests(trials_a), data_digests(trials_b)),
        (
            "code version",
            _distinct(run.code_version for run in trials_a),
            _distinct(run.code_version for run in trials_b),
        ),
    ]
    of_a, of_b = _packages(trials_a), _packages(trials_b)
    recorded += [(f"packages.{name}", of_a.get(name, []), of_b.get(name, [])) for name in sorted({*of_a, *of_b})]
    return found + [
        Difference(key, ", ".join(one) or None, ", ".join(other) or None)
        for key, one, other in recorded
        if one != other
    ]


def data_digests(trials: Sequence[RecordedRun]) -> list[str]:
    """Return the digests of the images that the trials used, each once."""
    return _distinct(run.data_digest for run in trials)


def _distinct(values: Iterable[str]) -> list[str]:
    return sorted({value for value in values if value})


def _packages(trials: Sequence[RecordedRun]) -> dict[str, list[str]]:
    """Package -> versions among the trials."""
    found: dict[str, set[str]] = {}
    for run in trials:
        for name, version in run.packages.items():
            found.setdefault(name, set()).add(str(version))
    return {name: sorted(versions) for name, versions in found.items()}


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


def find_champion(record: str | None, trials: Sequence[RecordedRun], rule: Rule) -> Champion | None:
    """The champion that `confirm/confirm.json` tells, else the best finished trial.

    Args:
        record: the text of that file; None where there is none.

    Raises:
        ValueError: it is not what confirming writes.
    """
    if record is None:
        return _best_trial(trials, rule, UNCONFIRMED)
    confirmed = confirmation_from_json(record)
    own, test = confirmed.champion, confirmed.test
    if own is None:
        return _best_trial(trials, rule, f"best trial; no champion: {confirmed.reason}")
    value = Estimate(own.mean, own.low, own.high, count=len(own.values))
    tested = None
    if test is not None and test.mean is not None:
        tested = Estimate(test.mean, test.low, test.high, count=len(test.values))
    return Champion(own.trial, own.title, rule.metric, CONFIRMED, value, own.values, own.gap, tested)


def _best_trial(trials: Sequence[RecordedRun], rule: Rule, standing: str) -> Champion | None:
    best = best_single_trial(trials, rule)
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
    test = interval_difference(a.test, b.test) if a.test is not None and b.test is not None else None
    if a.metric != b.metric:
        return ChampionComparison(a, b, None, test, f"A is chosen by {a.metric}, B by {b.metric}")
    mean_a, mean_b = estimate_mean(a.values), estimate_mean(b.values)
    if mean_a is None or mean_b is None:
        open_ = " and ".join(name for name, of in (("A", a), ("B", b)) if not of.confirmed)
        reason = f"the best trial of {open_} was not confirmed with fresh seeds, and luck is part of its value"
        return ChampionComparison(a, b, Estimate(b.value.value - a.value.value), test, reason)
    difference = welch_difference(mean_a, mean_b)
    return ChampionComparison(a, b, difference, test, "" if difference.low is not None else "one seed has no interval")


TRAIN = "epochs/train_accuracy"
#: The outcomes at the end of training that are compared, and those of which the effects are.
OUTCOMES, EFFECT_OUTCOMES = (GAP, TRAIN, VALIDATION), (GAP, VALIDATION)
WELCH, ONE_SEED = "two samples", "one seed has no interval"


@dataclass(frozen=True)
class Side:
    """One of the two studies, and what is known of it."""

    study: RecordedStudy
    trials: Sequence[RecordedRun]  # the run of each trial that counts
    causes: Sequence[NetworkAnalysis]
    champion: Champion | None  # None: no trial has finished

    @property
    def searched(self) -> bool:
        """Whether its trials have a seed each, so that means are over trials."""
        return bool(self.study.config["strategy"]["kind"] == "search")


@dataclass(frozen=True)
class OutcomeComparison:
    """An outcome of one network at the end of training, mean over all of its trials; shares of 0..1."""

    architecture: str
    outcome: str
    a: Estimate | None  # None: no trial has it (of a gap: none learnt)
    b: Estimate | None
    difference: Estimate | None
    method: str
    pairs: int  # matched pairs; 0: two samples
    samples: tuple[str, str]  # what each mean is over: "seeds", or of a search "trials"

    @property
    def answer(self) -> str:
        """How B is to A."""
        if self.difference is None:
            return "cannot tell"
        if (self.difference.low, self.difference.high) == (0.0, 0.0):
            return "equal"
        return {1: "higher", -1: "lower", 0: "cannot tell"}[self.difference.sign]


@dataclass(frozen=True)
class EffectComparison:
    """A main effect that both studies have."""

    a: Effect
    b: Effect
    difference: Estimate
    p_adjusted: float | None  # Holm, over the differences of this network and outcome
    method: str

    @property
    def answer(self) -> str:
        """Whether the effects differ: their interval, and Holm's correction."""
        told = self.difference.sign != 0 and self.p_adjusted is not None and self.p_adjusted < LEVEL
        return "differs" if told else "cannot tell"


@dataclass(frozen=True)
class Comparison:
    """Two studies, A and B, as plain data."""

    a: str
    b: str
    differences: tuple[Difference, ...]
    outcomes: tuple[OutcomeComparison, ...]
    effects: tuple[EffectComparison, ...]
    effects_of_one: tuple[tuple[str, Effect], ...]  # "A" or "B", and what only that study tells
    champions: ChampionComparison
    notes: tuple[str, ...]


def compare(a: Side, b: Side) -> Comparison:
    """What two studies tell side by side; what can't be compared is left out, and said in the notes."""
    same_images = data_digests(a.trials) == data_digests(b.trials) != []
    outcomes: list[OutcomeComparison] = []
    effects: list[EffectComparison] = []
    notes = _notes(a, b, same_images)
    for name in [one.architecture for one in a.causes]:
        of_a, of_b = _network(a, name), _network(b, name)
        if of_a is None or of_b is None or of_a.frame.empty or of_b.frame.empty:
            continue
        pairing = Paired(of_a.frame, of_b.frame, [*_tuned(a), *_tuned(b)])
        paired = pairing if same_images and not (a.searched or b.searched) else None
        found = [_outcome(a, b, of_a, of_b, column, paired) for column in OUTCOMES] if name != NETWORKS else []
        outcomes += found
        effects += [effect for column in EFFECT_OUTCOMES for effect in _effects(of_a, of_b, column, paired)]
        if found and not pairing.same_cells:
            notes.append(_other_combinations(name, found[0]))
    return Comparison(
        a.study.name,
        b.study.name,
        tuple(differing_settings(a.study, a.trials, b.study, b.trials)),
        tuple(outcomes),
        tuple(effects),
        tuple(_of_one(a, b)),
        compare_champions(a.champion, b.champion),
        tuple(notes),
    )


def _tuned(side: Side) -> list[str]:
    return list(side.study.config["strategy"].get("tune", ()))


def _network(side: Side, name: str) -> NetworkAnalysis | None:
    return next((one for one in side.causes if one.architecture == name), None)


def _outcome(
    a: Side, b: Side, of_a: NetworkAnalysis, of_b: NetworkAnalysis, column: str, paired: Paired | None
) -> OutcomeComparison:
    mean_a, mean_b = _mean(a, of_a.frame, column), _mean(b, of_b.frame, column)
    pairs = paired.level(column) if paired is not None else None
    difference, method = (None, "") if mean_a is None or mean_b is None else _difference(mean_a, mean_b, pairs)
    return OutcomeComparison(
        of_a.architecture,
        column.split("/")[1],
        mean_a,
        mean_b,
        difference,
        method,
        0 if pairs is None else pairs.pairs,
        ("trials" if a.searched else "seeds", "trials" if b.searched else "seeds"),
    )


def _mean(side: Side, frame: pd.DataFrame, column: str) -> Estimate | None:
    """Over the seeds' means; of a search over its trials."""
    values = outcome_values(frame, column)
    if not side.searched:
        values = pd.Series(values).groupby(frame["seed"].to_numpy()).mean().to_numpy()
    return estimate_mean(values[np.isfinite(values)])


def _difference(a: Estimate, b: Estimate, pairs: Pairs | None) -> tuple[Estimate, str]:
    """B less A, and by which method."""
    if pairs is not None:
        return pairs.difference, PAIRS
    difference = welch_difference(a, b)
    return difference, WELCH if difference.low is not None else ONE_SEED


def _effects(
    of_a: NetworkAnalysis, of_b: NetworkAnalysis, column: str, paired: Paired | None
) -> list[EffectComparison]:
    """The main effects on an outcome that both have, Holm over their differences."""
    others = {_key(effect): effect for effect in _main(of_b, column)}
    both = [(effect, others[_key(effect)]) for effect in _main(of_a, column) if _key(effect) in others]
    if not both:
        return []
    matched = paired.effects([effect for effect, _ in both], column) if paired is not None else [None] * len(both)
    found = [
        _difference(_estimate(one), _estimate(other), pairs) for (one, other), pairs in zip(both, matched, strict=True)
    ]
    p = np.array([math.nan if difference.p is None else difference.p for difference, _ in found])
    shrunk = np.array([own if pairs is None else pairs.shrunk_p for own, pairs in zip(p, matched, strict=True)])
    adjusted = adjusted_p(p, shrunk, np.zeros(len(p), dtype=bool))
    return [
        EffectComparison(one, other, difference, None if math.isnan(holm) else float(holm), method)
        for (one, other), (difference, method), holm in zip(both, found, adjusted, strict=True)
    ]


def _main(causes: NetworkAnalysis, column: str) -> list[Effect]:
    effects = [effect for effect in causes.effects if effect.second is None]
    return [effect for effect in effects if f"{effect.basis}/{effect.outcome}" == column]


def _key(effect: Effect) -> tuple[object, ...]:
    return effect.factor, effect.baseline, effect.level


def _estimate(effect: Effect) -> Estimate:
    return Estimate(effect.estimate, effect.low, effect.high, effect.p, effect.seeds)


def _of_one(a: Side, b: Side) -> list[tuple[str, Effect]]:
    """Main effects on the gap that the other study does not have."""
    of_a, of_b = (
        {(one.architecture, *_key(effect)): effect for one in side.causes for effect in _main(one, GAP)}
        for side in (a, b)
    )
    return [
        (name, effect)
        for name, own, other in (("A", of_a, of_b), ("B", of_b, of_a))
        for key, effect in own.items()
        if key not in other
    ]


def _notes(a: Side, b: Side, same_images: bool) -> list[str]:
    """What to keep in mind, and what can't be compared."""
    notes = []
    if a.trials and b.trials and not same_images:
        notes.append(
            "the two did not see the same images (data digest): differences may come from the images, and their trials "
            "are not matched with each other."
        )
    of_a, of_b = ({one.architecture for one in side.causes if len(one.frame)} - {NETWORKS} for side in (a, b))
    for name, own, other in (("A", of_a, of_b), ("B", of_b, of_a)):
        if only := sorted(own - other):
            notes.append(f"{', '.join(only)}: trials have finished in {name} alone; there is nothing to compare.")
        if not own:
            notes.append(f"no trial of {name} has finished.")
    for name, side in (("A", a), ("B", b)):
        if side.searched:
            adaptive = ", and it tried what looked good more often" * (
                side.study.config["strategy"].get("sampler") == "tpe"
            )
            notes.append(
                f"{name} is a search: its means are over the combinations that it tried, not over seeds{adaptive}."
            )
        for one in side.causes:
            if one.architecture != NETWORKS:
                notes += _left_out(name, one)
    return notes


def _left_out(name: str, of: NetworkAnalysis) -> list[str]:
    silent = int((of.frame["verdict"] == "not-learning").sum()) if len(of.frame) else 0
    missing = [f"{count_noun(count, 'trial')} {state}" for state, count in of.observations.left_out.items()]
    notes = [f"{of.architecture} in {name}: {', '.join(missing)}, left out."] if missing else []
    if silent:
        notes.append(
            f"{of.architecture} in {name}: {silent} of {count_noun(len(of.frame), 'trial')} learnt nothing; they count "
            "for accuracy, not for the gap."
        )
    return notes


def _other_combinations(name: str, found: OutcomeComparison) -> str:
    if found.pairs:
        return (
            f"{name}: not all combinations were tried in both; differences are over the {found.pairs} pairs that were."
        )
    return f"{name}: A and B tried other combinations of levels: their means differ by that too."
