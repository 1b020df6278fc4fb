"""Why a study's networks overfit: all that its trials tell of it, network by network."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from cnnstudy.analysis.data_law import DataLaw, fit_data_law
from cnnstudy.analysis.effects import Effect, estimate_effects
from cnnstudy.analysis.importance import importances
from cnnstudy.analysis.observations import (
    BASES,
    GAP,
    LEGACY_GAP,
    OUTCOMES,
    VALIDATION,
    History,
    Observations,
    choose_tuned_levels,
    describe_choices,
    observe,
)
from cnnstudy.config.factors import FACTORS, Choices, Levels, parse_levels
from cnnstudy.config.schema import startup_count
from cnnstudy.tracking.recorded import RecordedRun, RecordedStudy

#: What stands in place of a network's name where several are compared with each other.
NETWORKS = "the networks"
#: The targets whose variance is shared out among the factors.
TARGETS = (GAP, VALIDATION)
#: What the legacy protocol's gap is made of, part by part: how it is measured, the number of updates, what is left.
PARTS = {
    "parts/measuring_gap": (LEGACY_GAP, GAP),
    "parts/updates_gap": (GAP, "updates/gap_accuracy"),
}


@dataclass(frozen=True)
class NetworkAnalysis:
    """What is known of one network."""

    architecture: str
    observations: Observations
    frame: pd.DataFrame  # what the effects are estimated on: the observations, with the tuned factors at their best
    effects: Sequence[Effect]
    laws: Sequence[DataLaw]
    importances: Mapping[str, Mapping[str, float]]  # target -> factor -> share of its variance, 0..1
    warnings: Sequence[str]

    def effect(self, factor: str, level: object, column: str) -> Effect | None:
        """The main effect of a level on the outcome in `column`, `<basis>/<outcome>`."""
        basis, outcome = column.split("/")
        wanted = (factor, level, None, basis, outcome)
        for effect in self.effects:
            if (effect.factor, effect.level, effect.second, effect.basis, effect.outcome) == wanted:
                return effect
        return None


def analyze_networks(
    study: RecordedStudy,
    trials: Sequence[RecordedRun],
    history: History,
    target_gap: float,
) -> list[NetworkAnalysis]:
    """What the trials tell of each network, and of the networks among each other where there are several.

    Args:
        target_gap: the gap (0..1) that the data law aims at.
    """
    until = study.config["training"].get("until_train_loss")
    found = []
    for observations in observe(trials, history, until):
        name, frame = observations.architecture, _with_parts(observations.frame)
        factors = recorded_factors(study.config, name)
        if frame.empty:
            found.append(NetworkAnalysis(name, observations, frame, (), (), {}, _warnings(study.config, observations)))
            continue
        tune = study.config["strategy"].get("tune", ())
        frame = choose_tuned_levels(frame, tune)
        factors = {factor: levels for factor, levels in factors.items() if factor not in tune}
        unbiased = frame[_unbiased(study.config, frame)]
        found.append(
            NetworkAnalysis(
                name,
                observations,
                frame,
                estimate_effects(frame, factors, _columns()),
                _laws(frame, factors, _images_per_class(trials), target_gap),
                {target: importances(unbiased, factors, target) for target in TARGETS} if len(unbiased) else {},
                [
                    *_warnings(study.config, observations),
                    *(describe_choices(frame, factor) for factor in tune if len(frame)),
                ],
            )
        )
    return [*found, _between(found, study.config)] if len([one for one in found if len(one.frame)]) > 1 else found


def _between(found: Sequence[NetworkAnalysis], config: Mapping[str, Any]) -> NetworkAnalysis:
    """The networks compared with each other, in cells that they share."""
    frame = pd.concat([one.frame for one in found if len(one.frame)])
    frame = frame.assign(network=frame["architecture"], architecture=NETWORKS)
    factors: dict[str, Levels] = {"network": Choices(tuple(one.architecture for one in found))}
    for one in found:
        for factor, levels in recorded_factors(config, one.architecture).items():
            if isinstance(levels, Choices) and isinstance(shared := factors.get(factor, levels), Choices):
                factors[factor] = Choices(tuple(dict.fromkeys([*shared.values, *levels.values])))
    observations = Observations(NETWORKS, frame, None, {})
    effects = [e for e in estimate_effects(frame, factors, _columns()) if "network" in (e.factor, e.second)]
    return NetworkAnalysis(NETWORKS, observations, frame, effects, (), {}, ())


def _columns() -> list[str]:
    return [f"{basis}/{outcome}" for basis in BASES for outcome in OUTCOMES] + [LEGACY_GAP, *PARTS]


def effects_frame(found: Sequence[NetworkAnalysis]) -> pd.DataFrame:
    """Every effect as a row, for CSV; accuracies and gaps as shares of 0..1, losses in nats."""
    rows = [{**dataclasses.asdict(effect), "answer": effect.answer} for one in found for effect in one.effects]
    return pd.DataFrame(rows)


def recorded_factors(config: Mapping[str, Any], architecture: str) -> dict[str, Levels]:
    """The levels that a recorded study file gives for a network."""
    found = {}
    for factor, given in config["factors"].items():
        by_network = isinstance(given, Mapping) and "low" not in given
        levels = given.get(architecture) if by_network else given
        if levels is not None:
            found[factor] = parse_levels(factor, levels)
    return found


def _with_parts(frame: pd.DataFrame) -> pd.DataFrame:
    parts = {name: frame[whole] - frame[rest] for name, (whole, rest) in PARTS.items()} if len(frame) else {}
    return frame.assign(**parts)


def _laws(
    frame: pd.DataFrame, factors: Mapping[str, Levels], images_per_class: float | None, target_gap: float
) -> list[DataLaw]:
    """One for each transfer mode: what source weights know already changes what more images add."""
    levels = factors.get("data_fraction")
    if images_per_class is None or not isinstance(levels, Choices) or len(levels.values) < 2:
        return []
    return [
        law
        for transfer, trials in frame.groupby("transfer", sort=False)
        if (law := fit_data_law(trials, str(transfer), images_per_class, target_gap)) is not None
    ]


def _images_per_class(trials: Sequence[RecordedRun]) -> float | None:
    """Training images a class at data_fraction 1, all classes together; None where no run tells."""
    for run in trials:
        if run.train_images is not None and run.classes is not None:
            return run.train_images / run.classes
    return None


def _unbiased(config: Mapping[str, Any], frame: pd.DataFrame) -> pd.Series:
    """Which trials were not chosen by the outcomes of others."""
    strategy = config["strategy"]
    if strategy["kind"] != "search" or strategy["sampler"] != "tpe":
        return pd.Series(True, index=frame.index)
    share = -(-config["budget"]["trials"] // len(config["architectures"]))
    return frame["number"] < startup_count(strategy["startup_trials"], share)


def _warnings(config: Mapping[str, Any], observations: Observations) -> list[str]:
    strategy, frame = config["strategy"], observations.frame
    warnings = []
    if strategy["kind"] == "search":
        warnings.append(
            "these trials come from a search with one seed for each combination: an interval says what other "
            "combinations would do to it, not what other seeds would. A study with `strategy: {kind: factorial}` does."
        )
        if strategy["sampler"] == "tpe":
            warnings.append(
                "the search was adaptive (tpe): it tried what looked good more often, which bends effects. Importances "
                "are from its random start-up trials only."
            )
    pruned, failed = observations.left_out.get("pruned", 0), observations.left_out.get("failed", 0)
    if pruned:
        warnings.append(
            f"{count_noun(pruned, 'trial')} pruned, the worst ones: what is left looks better than the factors are."
        )
    if failed:
        warnings.append(f"{count_noun(failed, 'trial')} failed, missing in their pairs.")
    if not frame.empty:
        silent = frame[frame["verdict"] == "not-learning"]
        if len(silent):
            warnings.append(
                f"{len(silent)} of {count_noun(len(frame), 'trial')} learnt nothing; they say nothing about the gap "
                f"and are left out of it{_where(silent, frame)}."
            )
        seeds = frame["seed"].nunique()
        if strategy["kind"] == "factorial" and seeds == 1:
            warnings.append("one seed has no interval: raise strategy.seeds and run the study again, it goes on.")
    return warnings


def count_noun(number: int, what: str) -> str:
    """`1 trial`, `2 trials`."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def _where(silent: pd.DataFrame, frame: pd.DataFrame) -> str:
    """The factor level that most of them share, if they do."""
    for factor in FACTORS:
        if factor not in frame or frame[factor].nunique() < 2:
            continue
        counts = silent[factor].value_counts()
        if len(counts) and counts.iloc[0] >= 0.8 * len(silent):
            whose = "all" if counts.iloc[0] == len(silent) else f"{counts.iloc[0]} of them"
            return f" ({whose} with {FACTORS[factor].describe(counts.index[0])})"
    return ""
