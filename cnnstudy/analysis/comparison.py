"""Two studies side by side: what differed between them, and how their outcomes, effects and champions differ.

A difference is B less A, with a 95 % interval. Where both saw the same images it comes from pairs of trials with the
same levels and seed (pairing), else from the two studies' own intervals (Welch).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cnnstudy.analysis.causes import NETWORKS, Causes, counted
from cnnstudy.analysis.comparison_champions import Champion, ChampionComparison, compare_champions
from cnnstudy.analysis.comparison_settings import Difference, data_digests, differing_settings
from cnnstudy.analysis.contrasts import measured
from cnnstudy.analysis.effects import PAIRS, Effect
from cnnstudy.analysis.inference import LEVEL, Estimate, adjusted_p, mean_of, welch
from cnnstudy.analysis.observations import GAP, VALIDATION
from cnnstudy.analysis.pairing import Paired, Pairs
from cnnstudy.records import RecordedRun, RecordedStudy

TRAIN = "epochs/train_accuracy"
#: The outcomes at the end of training that are compared, and those of which the effects are.
OUTCOMES, EFFECT_OUTCOMES = (GAP, TRAIN, VALIDATION), (GAP, VALIDATION)
WELCH, ONE_SEED = "two samples", "one seed has no interval"


@dataclass(frozen=True)
class Side:
    """One of the two studies, and what is known of it."""

    study: RecordedStudy
    trials: Sequence[RecordedRun]  # the run of each trial that counts
    causes: Sequence[Causes]
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


def _network(side: Side, name: str) -> Causes | None:
    return next((one for one in side.causes if one.architecture == name), None)


def _outcome(a: Side, b: Side, of_a: Causes, of_b: Causes, column: str, paired: Paired | None) -> OutcomeComparison:
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
    values = measured(frame, column)
    if not side.searched:
        values = pd.Series(values).groupby(frame["seed"].to_numpy()).mean().to_numpy()
    return mean_of(values[np.isfinite(values)])


def _difference(a: Estimate, b: Estimate, pairs: Pairs | None) -> tuple[Estimate, str]:
    """B less A, and by which method."""
    if pairs is not None:
        return pairs.difference, PAIRS
    difference = welch(a, b)
    return difference, WELCH if difference.low is not None else ONE_SEED


def _effects(of_a: Causes, of_b: Causes, column: str, paired: Paired | None) -> list[EffectComparison]:
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


def _main(causes: Causes, column: str) -> list[Effect]:
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


def _left_out(name: str, of: Causes) -> list[str]:
    silent = int((of.frame["verdict"] == "not-learning").sum()) if len(of.frame) else 0
    missing = [f"{counted(count, 'trial')} {state}" for state, count in of.observations.left_out.items()]
    notes = [f"{of.architecture} in {name}: {', '.join(missing)}, left out."] if missing else []
    if silent:
        notes.append(
            f"{of.architecture} in {name}: {silent} of {counted(len(of.frame), 'trial')} learnt nothing; they count "
            "for accuracy, not for the gap."
        )
    return notes


def _other_combinations(name: str, found: OutcomeComparison) -> str:
    if found.pairs:
        return (
            f"{name}: not all combinations were tried in both; differences are over the {found.pairs} pairs that were."
        )
    return f"{name}: A and B tried other combinations of levels: their means differ by that too."
