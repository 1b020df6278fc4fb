"""Compare two studies: settings, outcomes, effects and champions.

A difference is B minus A, with a 95 % interval. If both studies are factorials on the same images it comes from pairs
of trials with the same levels and seed (class PairedTrials), otherwise from the two studies' own intervals (Welch
1947).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from cnnstudy.analysis.causes import NETWORKS, NetworkAnalysis
from cnnstudy.analysis.comparison_champions import Champion, ChampionComparison, compare_champions
from cnnstudy.analysis.contrasts import Cells, Contrast, outcome_values
from cnnstudy.analysis.effects import PAIRS, Effect, few_seeds
from cnnstudy.analysis.intervals import (
    LEVEL,
    MIN_SEEDS,
    Estimate,
    compare_seeds,
    correct_family,
    difference_from_intervals,
    welch_difference,
)
from cnnstudy.analysis.noise import relative_noise
from cnnstudy.analysis.observations import GAP, VALIDATION
from cnnstudy.analysis.resampled import Division, estimate_resampled_mean, read_division, widen_for_overlap
from cnnstudy.analysis.resolution import find_resolution
from cnnstudy.config.factors import FACTORS, Choices
from cnnstudy.records import Level
from cnnstudy.system.display import count_noun
from cnnstudy.tracking.recorded import RecordedRun, RecordedStudy, config_differences

TRAIN = "epochs/train_accuracy"
#: Columns of the observations: outcomes whose means are compared, and outcomes on which effects are compared.
COMPARED_OUTCOMES, EFFECT_OUTCOMES = (GAP, TRAIN, VALIDATION), (GAP, VALIDATION)
#: How a difference was estimated, besides effects.PAIRS.
WELCH, ONE_SEED, AGREE = "two samples", "one seed gives no interval", "seeds that agree give no interval"
#: Numbers that differ by less are equal up to rounding.
_EQUAL = 1e-12


@dataclass(frozen=True)
class Side:
    """One of the two studies, with its analysis."""

    study: RecordedStudy
    trials: Sequence[RecordedRun]  # for each trial, the run that counts
    causes: Sequence[NetworkAnalysis]
    champion: Champion | None  # None: no trial has finished

    @property
    def searched(self) -> bool:
        """Whether it is a search: each trial has a seed of its own, and means are over trials."""
        return bool(self.study.config["strategy"]["kind"] == "search")


@dataclass(frozen=True)
class Comparison:
    """Two studies, A and B, as plain data."""

    a: str
    b: str
    differences: tuple[SettingDifference, ...]
    outcomes: tuple[OutcomeComparison, ...]
    effects: tuple[EffectComparison, ...]
    effects_of_one: tuple[tuple[str, Effect], ...]  # "A" or "B", and an effect that only this study has
    champions: ChampionComparison
    notes: tuple[str, ...]


def compare_studies(a: Side, b: Side) -> Comparison:
    """Compare two studies; what cannot be compared is omitted, with a note that says so."""
    same_images = data_digests(a.trials) == data_digests(b.trials) != []
    outcomes: list[OutcomeComparison] = []
    effects: list[_EffectDifference] = []
    notes = _list_notes(a, b, same_images)
    for name in [one.architecture for one in a.causes]:
        network_a, network_b = _find_network(a, name), _find_network(b, name)
        if network_a is None or network_b is None or network_a.frame.empty or network_b.frame.empty:
            continue
        pairing = PairedTrials(network_a.frame, network_b.frame, [*_tuned_factors(a), *_tuned_factors(b)])
        paired = pairing if same_images and not (a.searched or b.searched) else None
        if name != NETWORKS:
            compared = [_compare_outcome(a, b, network_a, network_b, column, paired) for column in COMPARED_OUTCOMES]
            outcomes += compared
            if not pairing.same_cells:
                notes.append(_different_cells_note(name, compared[0]))
        for column in EFFECT_OUTCOMES:
            effects += _compare_effects(network_a, network_b, column, paired)
    return Comparison(
        a.study.name,
        b.study.name,
        tuple(list_setting_differences(a.study, a.trials, b.study, b.trials)),
        tuple(outcomes),
        tuple(_correct_effects(effects)),
        tuple(_effects_of_one(a, b)),
        compare_champions(a.champion, b.champion),
        tuple(notes),
    )


def _tuned_factors(side: Side) -> list[str]:
    return list(side.study.config["strategy"].get("tune", ()))


def _find_network(side: Side, name: str) -> NetworkAnalysis | None:
    return next((one for one in side.causes if one.architecture == name), None)


# ---- settings


@dataclass(frozen=True)
class SettingDifference:
    """A setting that differs; None on the side that does not have it."""

    key: str
    a: Any
    b: Any


def list_setting_differences(
    a: RecordedStudy, trials_a: Sequence[RecordedRun], b: RecordedStudy, trials_b: Sequence[RecordedRun]
) -> list[SettingDifference]:
    """Return what differs: keys of the study files (not the name and where trials ran), data, code and packages."""
    configured = [
        SettingDifference(key, value_a, value_b)
        for key, value_a, value_b in config_differences(a.config, b.config)
        if key.split(".")[0] not in ("name", "execution")
    ]
    packages_a, packages_b = _packages(trials_a), _packages(trials_b)
    recorded = [
        ("data digest", data_digests(trials_a), data_digests(trials_b)),
        ("code version", _code_versions(trials_a), _code_versions(trials_b)),
        *(
            (f"packages.{name}", packages_a.get(name, []), packages_b.get(name, []))
            for name in sorted({*packages_a, *packages_b})
        ),
    ]
    return configured + [
        SettingDifference(key, ", ".join(values_a) or None, ", ".join(values_b) or None)
        for key, values_a, values_b in recorded
        if values_a != values_b
    ]


def data_digests(trials: Sequence[RecordedRun]) -> list[str]:
    """Return the digests of the images that the trials used, each once."""
    return _distinct(run.data_digest for run in trials)


def _code_versions(trials: Sequence[RecordedRun]) -> list[str]:
    return _distinct(run.code_version for run in trials)


def _distinct(values: Iterable[str]) -> list[str]:
    return sorted({value for value in values if value})


def _packages(trials: Sequence[RecordedRun]) -> dict[str, list[str]]:
    """Return the versions of each package among the trials."""
    packages: dict[str, set[str]] = {}
    for run in trials:
        for name, version in run.packages.items():
            packages.setdefault(name, set()).add(str(version))
    return {name: sorted(versions) for name, versions in packages.items()}


# ---- outcomes


@dataclass(frozen=True)
class OutcomeComparison:
    """An outcome of one network at the end of training, mean over all its trials; shares of 0..1."""

    architecture: str
    outcome: str
    a: Estimate | None  # None: no trial has a value
    b: Estimate | None
    difference: Estimate | None
    method: str
    pairs: int  # matched pairs; 0: two samples
    samples: tuple[str, str]  # what each mean is over: "seeds", or "trials" for a search
    equal: bool = False  # whether matched pairs differ by 0 in each seed

    @property
    def answer(self) -> str:
        """How B compares with A: `higher`, `lower`, `equal` (the same in each seed), or `cannot tell`.

        The last also with fewer than three seeds. `equal` is what these seeds show, others may differ.
        """
        if self.difference is None or self.difference.count < MIN_SEEDS:
            return "cannot tell"
        if self.equal:
            return "equal"
        return {1: "higher", -1: "lower", 0: "cannot tell"}[self.difference.sign]


def _compare_outcome(
    a: Side, b: Side, network_a: NetworkAnalysis, network_b: NetworkAnalysis, column: str, paired: PairedTrials | None
) -> OutcomeComparison:
    mean_a, mean_b = _mean_outcome(a, network_a.frame, column), _mean_outcome(b, network_b.frame, column)
    pairs = paired.outcome_difference(column, _widest_division(a, b)) if paired is not None else None
    difference, method = (None, "") if mean_a is None or mean_b is None else _difference(mean_a, mean_b, pairs)
    if mean_a is not None and mean_b is not None and method == WELCH and column != GAP:
        difference = difference_from_intervals(mean_a, mean_b)  # those of accuracies are not symmetric
    return OutcomeComparison(
        network_a.architecture,
        column.split("/")[1],
        mean_a,
        mean_b,
        difference,
        method,
        0 if pairs is None else pairs.pairs,
        ("trials" if a.searched else "seeds", "trials" if b.searched else "seeds"),
        pairs is not None and pairs.equal,
    )


def _widest_division(a: Side, b: Side) -> Division | None:
    """Return the division of the two studies whose seeds overlap more; None if neither is known."""
    known = [division for division in (read_division(a.trials), read_division(b.trials)) if division is not None]
    return max(known, key=lambda one: one.overlap, default=None)


def _mean_outcome(side: Side, frame: pd.DataFrame, column: str) -> Estimate | None:
    """Return the mean over the seeds' means, or over the trials of a search.

    Where seeds divide one pool, the interval is that of the corrected resampled t; that of an accuracy is within 0..1.
    """
    values = outcome_values(frame, column)
    if not side.searched:
        values = pd.Series(values).groupby(frame["seed"].to_numpy()).mean().to_numpy()
    measured = values[np.isfinite(values)].tolist()
    return estimate_resampled_mean(measured, read_division(side.trials), is_share=column != GAP)


def _difference(a: Estimate, b: Estimate, pairs: Pairs | None) -> tuple[Estimate, str]:
    """Return B minus A, and the method: from pairs if there are any, else from two samples."""
    if pairs is not None:
        return pairs.difference, PAIRS
    difference = welch_difference(a, b)
    return difference, WELCH if difference.low is not None else ONE_SEED if difference.count < 2 else AGREE


# ---- effects


@dataclass(frozen=True)
class EffectComparison:
    """A main effect that both studies have."""

    a: Effect
    b: Effect
    difference: Estimate
    p_adjusted: float | None  # Holm, over the differences on this outcome of all networks
    method: str
    doubt: str = ""  # why there is no answer, whatever the interval

    @property
    def answer(self) -> str:
        """`differs` if the interval excludes 0 and p_adjusted is below 5 %; else, and with a doubt, `cannot tell`."""
        differs = self.difference.sign != 0 and self.p_adjusted is not None and self.p_adjusted < LEVEL
        return "differs" if differs and not self.doubt else "cannot tell"


@dataclass(frozen=True)
class _EffectDifference:
    """A difference with its p-value for the correction, NaN where it is not tested."""

    compared: EffectComparison
    p: float
    shrunk_p: float


def _compare_effects(
    network_a: NetworkAnalysis, network_b: NetworkAnalysis, column: str, paired: PairedTrials | None
) -> list[_EffectDifference]:
    """Compare the main effects on an outcome that both networks have."""
    effects_b = {_effect_key(effect): effect for effect in network_b.main_effects(column)}
    effects = [
        (effect, effects_b[_effect_key(effect)])
        for effect in network_a.main_effects(column)
        if _effect_key(effect) in effects_b
    ]
    matched = (
        paired.effect_differences([effect for effect, _ in effects], column)
        if paired is not None
        else [None] * len(effects)
    )
    found = []
    for (effect_a, effect_b), pairs in zip(effects, matched, strict=True):
        difference, method = _difference(effect_a.to_estimate(), effect_b.to_estimate(), pairs)
        doubt = few_seeds(difference.count) or effect_a.doubt or effect_b.doubt
        p = math.nan if doubt or difference.p is None else difference.p
        compared = EffectComparison(effect_a, effect_b, difference, None, method, doubt)
        found.append(_EffectDifference(compared, p, p if pairs is None else pairs.shrunk_p))
    return found


def _correct_effects(found: Sequence[_EffectDifference]) -> list[EffectComparison]:
    """Return the differences with Holm's correction over all that are tested on the same outcome."""
    corrected = [one.compared for one in found]
    for column in dict.fromkeys(one.a.column for one in corrected):
        places = [place for place, one in enumerate(corrected) if one.a.column == column]
        p, shrunk_p = np.array([(found[place].p, found[place].shrunk_p) for place in places]).T
        adjusted, _ = correct_family(p, shrunk_p, np.zeros(len(p), dtype=bool))
        for place, holm in zip(places, adjusted.tolist(), strict=True):
            corrected[place] = replace(corrected[place], p_adjusted=None if math.isnan(holm) else holm)
    return corrected


def _effect_key(effect: Effect) -> tuple[object, ...]:
    return effect.factor, effect.baseline, effect.level


def _effects_of_one(a: Side, b: Side) -> list[tuple[str, Effect]]:
    """Return the main effects on the gap that the other study does not have, each with "A" or "B"."""
    effects_a, effects_b = (
        {(one.architecture, *_effect_key(effect)): effect for one in side.causes for effect in one.main_effects(GAP)}
        for side in (a, b)
    )
    return [
        (name, effect)
        for name, own, other in (("A", effects_a, effects_b), ("B", effects_b, effects_a))
        for key, effect in own.items()
        if key not in other
    ]


# ---- matched pairs of trials, one from each study

_STUDY, _A, _B = "study", "A", "B"


@dataclass(frozen=True)
class Pairs:
    """A difference between the studies, from matched pairs within the seeds that both have.

    `shrunk_p` is its p-value with a shrunk variance, for the correction for multiple comparisons
    (intervals.correct_family).
    """

    difference: Estimate  # B minus A
    shrunk_p: float
    pairs: int  # for an effect: matched fours
    equal: bool  # whether it is 0 in each seed


class PairedTrials:
    """The trials of one network in both studies, matched by levels and seed.

    Args:
        a: observations of study A, with the tuned factors at their best level.
        b: the same of study B.
        tuned: factors that were tuned, which are ignored when trials are matched.
    """

    def __init__(self, a: pd.DataFrame, b: pd.DataFrame, tuned: Sequence[str]) -> None:
        names = [name for name in ("network", *FACTORS) if name in a and name in b and name not in tuned]
        self._factors = {
            name: Choices(tuple(dict.fromkeys([*a[name].dropna(), *b[name].dropna()])))
            for name in names
            if max(a[name].nunique(), b[name].nunique()) > 1
        }
        frames = [
            # the columns of a factor that is active in one study only have different types
            frame.astype(dict.fromkeys(self._factors, object)).assign(**{_STUDY: name})
            for frame, name in ((a, _A), (b, _B))
        ]
        columns = [*self._factors, _STUDY, "seed", "verdict"]
        outcomes = [name for name in map(str, a) if "/" in name and name in b]
        self._frame = pd.concat([frame[columns + outcomes] for frame in frames], ignore_index=True)
        cells = [_distinct_cells(frame, list(self._factors)) for frame in frames]
        self.same_cells = cells[0] == cells[1]

    def outcome_difference(self, column: str, division: Division | None = None) -> Pairs | None:
        """Return the difference of an outcome; None if there are no matched pairs, or too few.

        Args:
            division: how the seeds of both studies divide the images, for the corrected resampled t; None: not known.
        """
        pairs = self._match([Contrast(_STUDY, _A, _B)], column)[0]
        if pairs is None or division is None:
            return pairs
        return replace(pairs, difference=widen_for_overlap(pairs.difference, division, pairs.pairs))

    def effect_differences(self, effects: Sequence[Effect], column: str) -> list[Pairs | None]:
        """Return the difference of each of these main effects on an outcome; None where pairs cannot estimate it."""
        contrasts: list[Contrast | None] = []
        for effect in effects:
            known: tuple[Level, ...] = self._factors[effect.factor].values if effect.factor in self._factors else ()
            # the effect of a range compares its two ends, which need not be levels of any trial
            is_listed = effect.baseline in known and effect.level in known
            contrast = Contrast(effect.factor, effect.baseline, effect.level, _STUDY, _A, _B)
            contrasts.append(contrast if is_listed else None)
        pairs = iter(self._match([contrast for contrast in contrasts if contrast is not None], column))
        return [None if contrast is None else next(pairs) for contrast in contrasts]

    def _match(self, contrasts: Sequence[Contrast], column: str) -> list[Pairs | None]:
        if not contrasts:
            return []
        varied = {**self._factors, _STUDY: Choices((_A, _B))}
        outcome = outcome_values(self._frame, column)
        matched = Cells(self._frame, varied, outcome[:, None]).match_pairs(contrasts)
        of_seeds = matched.values[:, :, 0]
        noise = relative_noise(self._frame, varied, contrasts, outcome)
        found = compare_seeds(of_seeds, matched.spread[:, 0], find_resolution(column, outcome), noise)
        counts = np.isfinite(of_seeds).sum(axis=1)
        equal = np.nanmax(np.abs(of_seeds), axis=1, initial=0.0) < _EQUAL
        # pairs within one seed give no interval; two samples still may
        return [
            Pairs(_to_estimate(tests, count), p_shrunk, pairs, same) if count > 1 else None
            for tests, p_shrunk, count, pairs, same in zip(
                found.tests.tolist(),
                found.shrunk_p.tolist(),
                counts.tolist(),
                matched.pairs[:, 0].tolist(),
                equal.tolist(),
                strict=True,
            )
        ]


def _to_estimate(tests: Sequence[float], count: int) -> Estimate:
    """Return the estimate of a row of SeedTests.tests."""
    value, low, high, p = tests
    return Estimate(value, count=count) if math.isnan(low) else Estimate(value, low, high, p, count)


def _distinct_cells(frame: pd.DataFrame, names: list[str]) -> set[tuple[object, ...]]:
    return set(frame[names].where(frame[names].notna(), None).itertuples(index=False, name=None))


# ---- notes


def _list_notes(a: Side, b: Side, same_images: bool) -> list[str]:
    """Return what limits the comparison, and what can't be compared."""
    notes = []
    if a.trials and b.trials and not same_images:
        notes.append(
            "the two studies used different images (data digest): differences may be due to the images, and trials are "
            "not paired across the studies."
        )
    if a.trials and b.trials:
        notes.append(
            "intervals of differences of effects hold for other seeds on these images, not for other images"
            + (
                "."
                if _widest_division(a, b)
                else "; nor do those of means, as how seeds divide the images is not recorded."
            )
        )
    networks_a, networks_b = (
        {one.architecture for one in side.causes if len(one.frame)} - {NETWORKS} for side in (a, b)
    )
    for name, own, other in (("A", networks_a, networks_b), ("B", networks_b, networks_a)):
        if only := sorted(own - other):
            notes.append(f"{', '.join(only)}: only {name} has finished trials, so there is nothing to compare.")
        if not own:
            notes.append(f"no trial of {name} has finished.")
    for name, side in (("A", a), ("B", b)):
        if side.searched:
            is_adaptive = side.study.config["strategy"].get("sampler") == "tpe"
            adaptive = ", and it tried promising ones more often" if is_adaptive else ""
            notes.append(f"{name} is a search: its means are over the combinations it tried, not over seeds{adaptive}.")
        for one in side.causes:
            if one.architecture != NETWORKS:
                notes += _excluded_trials_notes(name, one)
    return notes


def _excluded_trials_notes(name: str, network: NetworkAnalysis) -> list[str]:
    frame, where = network.frame, f"{network.architecture} in {name}"
    unlearnt = int((frame["verdict"] == "not-learning").sum()) if len(frame) else 0
    missing = [f"{count_noun(count, 'trial')} {state}" for state, count in network.observations.left_out.items()]
    notes = [f"{where}: {', '.join(missing)}, excluded."] if missing else []
    if unlearnt:
        notes.append(
            f"{where}: {unlearnt} of {count_noun(len(frame), 'trial')} did not learn; they count as measured, "
            "in accuracy and gap."
        )
    return notes


def _different_cells_note(name: str, gap: OutcomeComparison) -> str:
    if gap.pairs:
        return f"{name}: not every combination was tried in both; differences are over the {gap.pairs} pairs present."
    return f"{name}: A and B tried different combinations of levels, which adds to the difference of their means."
