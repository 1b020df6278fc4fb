"""Trials that differ only by seed, and which of their learning curves are shown."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cnnstudy.config.factors import FACTORS, describe_levels
from cnnstudy.names import Metric, last_name
from cnnstudy.tracking.recorded import RecordedRun

#: Combinations of levels of which curves are shown; of more a few stand for all.
_MOST_SHOWN = 6


@dataclass(frozen=True)
class Curve:
    """Clean accuracies (0..1) of one trial by epoch."""

    epochs: tuple[int, ...]
    train: tuple[float, ...]
    validation: tuple[float, ...]


@dataclass(frozen=True)
class Band:
    """An accuracy (0..1) by epoch: the mean, and the lowest and the highest seed."""

    mean: np.ndarray  # [epochs]
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True)
class CurvePanel:
    """One panel of learning curves: bands over the seeds, or where seeds do not repeat each trial's own lines."""

    title: str
    seeds: int
    trials: tuple[str, ...]
    epochs: np.ndarray  # those that all of its trials have
    train: Band
    validation: Band
    lines: tuple[Curve, ...] = ()


def curve_panels(runs: Sequence[RecordedRun], curves: Mapping[str, Curve]) -> list[CurvePanel]:
    """The panels of one network: each transfer mode, then combinations of levels that stand for the others.

    Args:
        runs: its finished trials.
        curves: by trial.
    """
    runs = [run for run in runs if run.trial in curves and curves[run.trial].epochs]
    cells: dict[str, list[RecordedRun]] = {}
    for run in runs:
        cells.setdefault(json.dumps(run.levels, sort_keys=True), []).append(run)
    repeated = max((len({run.seed for run in cell}) for cell in cells.values()), default=0) > 1
    modes: dict[str, list[RecordedRun]] = {}
    for run in runs:
        modes.setdefault(str(run.levels.get("transfer", "")), []).append(run)
    panels = []
    if not repeated or len(cells) > len(modes):
        for mode, of_mode in sorted(modes.items(), key=lambda item: _place(item[0])):
            count = len({json.dumps(run.levels, sort_keys=True) for run in of_mode})
            what = "combination" if repeated else "trial"
            title = f"{mode}: mean of {count} {what}s" if count > 1 else f"{mode}: one {what}"
            panels.append(_panel(title, of_mode, curves, repeated))
    if repeated:
        varied = varied_factors(runs)
        for role, cell in _chosen(list(cells.values())):
            words = describe_levels(cell[0].levels, varied)
            panels.append(_panel(f"{role}: {words}" if role and words else role or words, cell, curves, True))
    return panels


def varied_factors(runs: Sequence[RecordedRun]) -> list[str]:
    """The factors that have more than one level among the trials."""
    levels = [run.levels for run in runs]
    return [factor for factor in FACTORS if len({of_run[factor] for of_run in levels if factor in of_run}) > 1]


def _place(mode: str) -> int:
    modes = FACTORS["transfer"].choices
    return modes.index(mode) if mode in modes else len(modes)


def _chosen(cells: list[list[RecordedRun]]) -> list[tuple[str, list[RecordedRun]]]:
    """All of a few; else those with the largest, a middle and the smallest gap, and the best validation."""
    if len(cells) <= _MOST_SHOWN:
        return [("", cell) for cell in cells]
    learnt = [cell for cell in cells if 2 * sum(_is_silent(run) for run in cell) <= len(cell)]
    rated = sorted(learnt, key=lambda cell: -_mean(cell, last_name(Metric.GAP_ACCURACY)))
    if not rated:
        return []
    best = max(rated, key=lambda cell: _mean(cell, last_name(Metric.VAL_ACCURACY)))
    roles = [
        ("largest gap", rated[0]),
        ("middle gap", rated[len(rated) // 2]),
        ("smallest gap", rated[-1]),
        ("best validation", best),
    ]
    named: dict[int, tuple[list[str], list[RecordedRun]]] = {}
    for role, cell in roles:
        named.setdefault(id(cell), ([], cell))[0].append(role)
    return [(" and ".join(names), cell) for names, cell in named.values()]


def _is_silent(run: RecordedRun) -> bool:
    return run.verdict == "not-learning"


def _mean(cell: Sequence[RecordedRun], metric: str) -> float:
    return float(np.mean([run.metrics.get(metric, 0.0) for run in cell]))


def _panel(title: str, runs: Sequence[RecordedRun], curves: Mapping[str, Curve], repeated: bool) -> CurvePanel:
    trials = tuple(run.trial for run in runs)
    epochs = sorted(set.intersection(*(set(curves[trial].epochs) for trial in trials)))
    values = np.array([[_at(curves[trial], epoch) for epoch in epochs] for trial in trials])  # [trials, epochs, 2]
    values = values.reshape(len(trials), len(epochs), 2)
    seeds = np.array([run.seed for run in runs])
    by_seed = [values[seeds == seed].mean(axis=0) for seed in dict.fromkeys(seeds)]
    groups = np.array(by_seed) if repeated else values
    train, validation = (
        Band(groups[..., part].mean(axis=0), groups[..., part].min(axis=0), groups[..., part].max(axis=0))
        for part in (0, 1)
    )
    lines = () if repeated else tuple(curves[trial] for trial in trials)
    return CurvePanel(title, len(set(seeds)), trials, np.array(epochs), train, validation, lines)


def _at(curve: Curve, epoch: int) -> tuple[float, float]:
    place = curve.epochs.index(epoch)
    return curve.train[place], curve.validation[place]
