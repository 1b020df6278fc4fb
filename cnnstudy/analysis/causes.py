"""Analyse why a study's networks overfit, network by network: effects, data law and importances."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from cnnstudy.analysis.curves import History
from cnnstudy.analysis.data_law import DataLaw, fit_data_law
from cnnstudy.analysis.effects import Effect, estimate_effects
from cnnstudy.analysis.importance import VarianceShares, variance_shares
from cnnstudy.analysis.looks import Looks
from cnnstudy.analysis.observations import (
    BALANCED_GAP,
    BALANCED_TRAIN,
    BALANCED_VALIDATION,
    BASES,
    GAP,
    LEARNT,
    LEGACY_GAP,
    OUTCOMES,
    TRAIN,
    VALIDATION,
    Observations,
    choose_tuned_levels,
    describe_tuned_levels,
    observe,
)
from cnnstudy.analysis.participation import has_enough_trials
from cnnstudy.analysis.question import Question, correct_by_question, recorded_question
from cnnstudy.analysis.ranges import RangeCurve, describe_ranges
from cnnstudy.analysis.stopping import judge_looks, recorded_looks
from cnnstudy.config.factors import FACTORS, Choices, Levels, recorded_factors
from cnnstudy.config.strategies import count_startup_trials
from cnnstudy.names import Metric, last_name
from cnnstudy.records import INTERRUPTED
from cnnstudy.system.display import count_noun
from cnnstudy.tracking.recorded import RecordedRun, RecordedStudy
from cnnstudy.training.verdict import are_unequal

#: Columns of the parts of a gap, and the gap at equal epochs of the trials that have a value at equal updates.
MEASURING, MORE_UPDATES, COMPARED_GAP = "epochs/measuring_gap", "parts/more_updates_gap", "parts/compared_gap"
#: The `architecture` of the analysis that compares networks with each other.
NETWORKS = "the networks"
#: The outcomes whose variance is divided among the factors.
TARGETS = (GAP, VALIDATION)
#: Parts of a gap: name -> (minuend, subtrahend). What the legacy protocol's way of measuring adds; what training beyond
#: the number of updates at which trials are compared adds.
GAP_PARTS = {MEASURING: (LEGACY_GAP, GAP), MORE_UPDATES: (GAP, "updates/gap_accuracy")}


@dataclass(frozen=True)
class NetworkAnalysis:
    """The analysis of one network."""

    architecture: str
    observations: Observations
    frame: pd.DataFrame  # the observations that effects are estimated from: tuned factors at their best level
    effects: Sequence[Effect]
    laws: Sequence[DataLaw]
    importances: Mapping[str, VarianceShares]  # by target
    warnings: Sequence[str]
    factors: Mapping[str, Levels] = dataclasses.field(default_factory=dict)  # those that the study asks about
    ranges: Sequence[RangeCurve] = ()  # of the targets
    question: Question = dataclasses.field(default_factory=Question)

    def find_effect(self, factor: str, level: object, column: str) -> Effect | None:
        """Return the main effect of a level on the outcome in `column` (`<basis>/<outcome>`), or None."""
        matching = (one for one in self.main_effects(column) if (one.factor, one.level) == (factor, level))
        return next(matching, None)

    def main_effects(self, column: str) -> list[Effect]:
        """Return the main effects on the outcome in `column`, `<basis>/<outcome>`."""
        return [effect for effect in self.effects if effect.second is None and effect.column == column]


def finished_networks(analyses: Sequence[NetworkAnalysis]) -> list[NetworkAnalysis]:
    """Return the analyses of single networks that have finished trials."""
    return [one for one in analyses if one.architecture != NETWORKS and len(one.observations.frame)]


def analyze_networks(
    study: RecordedStudy,
    trials: Sequence[RecordedRun],
    history: History,
    target_gap: float,
) -> list[NetworkAnalysis]:
    """Return the analysis of each network and, if several have trials, that of the networks compared with each other.

    Args:
        trials: the run of each trial that counts.
        history: looks up a metric of a run by epoch.
        target_gap: the gap (0..1) that the data law projects to.
    """
    until = study.config["training"].get("until_train_loss")
    per_class = _images_per_class(trials)
    looks = recorded_looks(study.config, trials)
    analyses = [
        _analyze_network(observations, study.config, per_class, target_gap, looks)
        for observations in observe(trials, history, until)
    ]
    if sum(not one.frame.empty for one in analyses) > 1:
        analyses.append(_compare_networks(analyses, study.config, looks))
    question = recorded_question(study.config, has_unequal_classes(trials))
    corrected = correct_by_question([effect for one in analyses for effect in one.effects], question)
    if looks is not None:
        question = dataclasses.replace(
            question, progress=judge_looks(corrected, question, study.config, looks).sentence
        )
    effects = iter(corrected)
    return [
        dataclasses.replace(one, question=question, effects=list(itertools.islice(effects, len(one.effects))))
        for one in analyses
    ]


def has_unequal_classes(trials: Sequence[RecordedRun]) -> bool:
    """Return whether a verdict takes balanced accuracies, and trials have recorded the gap in these."""
    if not any(last_name(Metric.GAP_BALANCED_ACCURACY) in run.metrics for run in trials):
        return False
    counts = next((run.verdict_counts for run in trials if run.verdict_counts), None)
    return counts is not None and are_unequal(counts["train_images"], counts["validation_images"])


def may_interact(config: Mapping[str, Any]) -> bool:
    """Return whether factors may interact, as far as the recorded study file says."""
    return not config["strategy"].get("assume_no_interactions", False)


def _analyze_network(
    observations: Observations,
    config: Mapping[str, Any],
    images_per_class: float | None,
    target_gap: float,
    looks: Looks | None,
) -> NetworkAnalysis:
    name, frame = observations.architecture, _with_parts(observations.frame)
    warnings = _warnings(config, observations)
    if frame.empty:
        return NetworkAnalysis(name, observations, frame, (), (), {}, warnings)
    tune = config["strategy"].get("tune", ())
    frame = choose_tuned_levels(frame, tune)
    factors = {factor: levels for factor, levels in recorded_factors(config, name).items() if factor not in tune}
    unbiased = frame[_is_unbiased(config, frame)]
    return NetworkAnalysis(
        name,
        observations,
        frame,
        [
            one
            for one in estimate_effects(frame, factors, _columns(frame), may_interact(config), looks=looks)
            if has_enough_trials(frame, factors, one)
        ],
        _fit_laws(frame, factors, images_per_class, target_gap),
        {target: variance_shares(unbiased, factors, target) for target in TARGETS} if len(unbiased) else {},
        [*warnings, *(describe_tuned_levels(frame, factor) for factor in tune if len(frame))],
        factors,
        [curve for target in TARGETS for curve in describe_ranges(frame, factors, target)],
    )


def pool_networks(
    frames: Mapping[str, pd.DataFrame], config: Mapping[str, Any]
) -> tuple[pd.DataFrame, dict[str, Levels]]:
    """Return the trials of all networks with the factor `network`, and the levels of all factors.

    A learning rate that does not vary in any network, but differs between them, belongs to the network.

    Args:
        frames: the observations of each network.
        config: the recorded study file.
    """
    frame = pd.concat([one for one in frames.values() if len(one)])
    frame = frame.assign(network=frame["architecture"], architecture=NETWORKS)
    factors: dict[str, Levels] = {"network": Choices(tuple(frames))}
    for name in frames:
        for factor, levels in recorded_factors(config, name).items():
            if isinstance(levels, Choices) and isinstance(shared := factors.get(factor, levels), Choices):
                factors[factor] = Choices(tuple(dict.fromkeys([*shared.values, *levels.values])))
    if len(own_learning_rates(frame)) == len(frames):
        factors.pop("learning_rate", None)
    return frame, factors


def own_learning_rates(pooled: pd.DataFrame) -> dict[str, float]:
    """Return the learning rate of each network, if it does not vary in any of them but differs between some."""
    if "learning_rate" not in pooled:
        return {}
    groups = pooled.groupby("network", sort=False)["learning_rate"]
    rates = {str(network): trials.dropna().unique() for network, trials in groups}
    if any(len(one) != 1 for one in rates.values()) or pooled["learning_rate"].nunique() < 2:
        return {}
    return {network: float(one[0]) for network, one in rates.items()}


def _compare_networks(
    analyses: Sequence[NetworkAnalysis], config: Mapping[str, Any], looks: Looks | None
) -> NetworkAnalysis:
    """Estimate the effects that involve the network, in the cells that the networks share."""
    frame, factors = pool_networks({one.architecture: one.frame for one in analyses}, config)
    observations = Observations(NETWORKS, frame, None, {})
    effects = [
        effect
        for effect in estimate_effects(
            frame, factors, _shared_columns(analyses, frame), may_interact(config), looks=looks
        )
        if "network" in (effect.factor, effect.second) and has_enough_trials(frame, factors, effect)
    ]
    rates = own_learning_rates(frame)
    each = ", ".join(f"{name} {FACTORS['learning_rate'].write(rate)}" for name, rate in rates.items())
    warnings = [f"each network has a learning rate of its own ({each}), with which it is compared."] if rates else []
    return NetworkAnalysis(NETWORKS, observations, frame, effects, (), {}, warnings, factors)


def _columns(frame: pd.DataFrame) -> list[str]:
    learnt = [LEARNT] if frame[LEARNT].nunique() > 1 else []
    balanced = [one for one in (BALANCED_VALIDATION, BALANCED_TRAIN, BALANCED_GAP) if frame[one].notna().any()]
    outcomes = [f"{basis}/{outcome}" for basis in BASES for outcome in OUTCOMES]
    return [*outcomes, TRAIN, *balanced, *learnt, LEGACY_GAP, *GAP_PARTS, COMPARED_GAP]


def _shared_columns(analyses: Sequence[NetworkAnalysis], frame: pd.DataFrame) -> list[str]:
    """Return the outcomes that are comparable between networks: each has its own number of updates and train loss."""
    compared = [one.observations for one in analyses if len(one.frame)]
    differing = [
        basis
        for basis, values in (
            ("updates", {one.updates for one in compared}),
            ("train_loss", {one.train_loss for one in compared}),
        )
        if len(values) > 1
    ]
    differing += ["parts"] if "updates" in differing else []
    return [column for column in _columns(frame) if column.partition("/")[0] not in differing]


def effects_frame(found: Sequence[NetworkAnalysis]) -> pd.DataFrame:
    """Return every effect as a row, for CSV; accuracies and gaps as shares of 0..1, losses in nats."""
    rows = [{**dataclasses.asdict(effect), "answer": effect.answer} for one in found for effect in one.effects]
    return pd.DataFrame(rows)


def _with_parts(frame: pd.DataFrame) -> pd.DataFrame:
    if frame.empty:
        return frame
    parts = {name: frame[whole] - frame[rest] for name, (whole, rest) in GAP_PARTS.items()}
    return frame.assign(**parts, **{COMPARED_GAP: frame[GAP].where(frame["updates/gap_accuracy"].notna())})


def _fit_laws(
    frame: pd.DataFrame, factors: Mapping[str, Levels], images_per_class: float | None, target_gap: float
) -> list[DataLaw]:
    """Fit the laws of gap and accuracy for each transfer mode: pretrained weights change how much images help."""
    levels = factors.get("data_fraction")
    if images_per_class is None or not isinstance(levels, Choices) or len(levels.values) < 2:
        return []
    return [
        fit_data_law(trials, str(transfer), images_per_class, target, column)
        for transfer, trials in frame.groupby("transfer", sort=False)
        for column, target in ((GAP, target_gap), (VALIDATION, None))
    ]


def _images_per_class(trials: Sequence[RecordedRun]) -> float | None:
    """Return the mean number of training images per class at data_fraction 1; None if no run has recorded it."""
    for run in trials:
        if run.train_images is not None and run.classes is not None:
            return run.train_images / run.classes
    return None


def _is_unbiased(config: Mapping[str, Any], frame: pd.DataFrame) -> pd.Series:
    """Return for each trial whether its levels were chosen without regard to the outcomes of other trials."""
    strategy = config["strategy"]
    if strategy["kind"] != "search" or strategy["sampler"] != "tpe":
        return pd.Series(True, index=frame.index)
    share = -(-config["budget"]["trials"] // len(config["architectures"]))
    return frame["number"] < count_startup_trials(strategy["startup_trials"], share)


def _warnings(config: Mapping[str, Any], observations: Observations) -> list[str]:
    strategy, frame = config["strategy"], observations.frame
    warnings = []
    if strategy["kind"] == "search":
        warnings.append(
            "these trials come from a search, in which combinations and seeds vary together: intervals describe how "
            "results vary over other combinations, not over other seeds. For the latter use a study with "
            "`strategy: {kind: factorial}`."
        )
        if strategy["sampler"] == "tpe":
            warnings.append(
                "the search was adaptive (tpe): it tried promising combinations more often, which biases effect "
                "estimates. Importances are computed from its random start-up trials only."
            )
    pruned, failed, interrupted = (observations.left_out.get(state, 0) for state in ("pruned", "failed", INTERRUPTED))
    if pruned:
        warnings.append(
            f"{count_noun(pruned, 'trial')} pruned, the worst ones: the remaining trials make the factors look better "
            "than they are."
        )
    if failed:
        warnings.append(f"{count_noun(failed, 'trial')} failed; their matched pairs are incomplete.")
    if interrupted:
        warnings.append(f"{count_noun(interrupted, 'trial')} interrupted; `run-study` runs them again.")
    if not frame.empty:
        if frame["transfer"].nunique() > 1:
            warnings.extend(_warn_of_shared_weights(config, observations.architecture))
        unlearnt = frame[frame["verdict"] == "not-learning"]
        if len(unlearnt):
            gap = unlearnt[GAP].mean()
            warnings.append(
                f"{len(unlearnt)} of {count_noun(len(frame), 'trial')} did not learn by their best epoch"
                f"{_common_level(unlearnt, frame)}; they count in the gap, which is that of the last epoch: "
                f"{100 * gap:.1f} points on average"
                f"{', and a small gap of these is no success' if gap < frame[GAP].mean() else ''}."
            )
        seeds = frame["seed"].nunique()
        if strategy["kind"] == "factorial" and seeds == 1:
            warnings.append("one seed gives no interval: raise strategy.seeds and run the study again; it resumes.")
    return warnings


def _warn_of_shared_weights(config: Mapping[str, Any], architecture: str) -> Iterator[str]:
    """Yield what follows if all seeds start from the same source weights."""
    weights = config.get("weights") or {}
    given = weights.get(architecture) or weights.get("default") or {}
    source = given.get("source")
    if source == "pretrain" and given.get("draws") != "each-seed":  # before there was a choice, it was one
        yield (
            "all seeds start from one draw of pretrained source weights: what is said of transfer is said of these "
            "weights, and another draw may differ by more than the intervals."
        )
    elif source in ("imagenet", "file"):
        yield f"what is said of transfer is said of these source weights ({source}); the intervals hold no others."


def _common_level(unlearnt: pd.DataFrame, frame: pd.DataFrame) -> str:
    """Return, in brackets, the first level that at least 80 % of the trials that did not learn share; "" if none."""
    for factor in FACTORS:
        if factor not in frame or frame[factor].nunique() < 2:
            continue
        counts = unlearnt[factor].value_counts()
        if len(counts) and counts.iloc[0] >= 0.8 * len(unlearnt):
            whose = "all" if counts.iloc[0] == len(unlearnt) else f"{counts.iloc[0]} of them"
            return f" ({whose} with {FACTORS[factor].describe(counts.index[0])})"
    return ""
