"""Which learning curves are shown: trials that differ only by seed form one panel."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cnnstudy.config.factors import FACTORS, describe_levels
from cnnstudy.names import Metric, last_name
from cnnstudy.tracking.recorded import RecordedRun

#: Combinations of levels that each get a panel; of more, a few representative ones are shown.
_MOST_SHOWN = 6


@dataclass(frozen=True)
class Curve:
    """Clean accuracies (0..1) of one trial by epoch."""

    epochs: tuple[int, ...]
    train: tuple[float, ...]
    validation: tuple[float, ...]


@dataclass(frozen=True)
class Band:
    """An accuracy (0..1) by epoch: the mean, the lowest and the highest seed."""

    mean: np.ndarray  # [epochs]
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True)
class CurvePanel:
    """One panel of learning curves: bands over the seeds, or each trial's own lines if seeds do not repeat."""

    title: str
    seeds: int
    trials: tuple[str, ...]
    epochs: np.ndarray  # epochs that all of its trials have
    train: Band
    validation: Band
    lines: tuple[Curve, ...] = ()


def curve_panels(runs: Sequence[RecordedRun], curves: Mapping[str, Curve]) -> list[CurvePanel]:
    """Return the panels of one network: one per transfer mode, then representative combinations of levels.

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
        for mode, mode_runs in sorted(modes.items(), key=lambda item: _mode_order(item[0])):
            count = len({json.dumps(run.levels, sort_keys=True) for run in mode_runs})
            noun = "combination" if repeated else "trial"
            title = f"{mode}: mean of {count} {noun}s" if count > 1 else f"{mode}: one {noun}"
            panels.append(_panel(title, mode_runs, curves, repeated))
    if repeated:
        varied = varied_factors(runs)
        for role, cell in _representative_cells(list(cells.values())):
            words = describe_levels(cell[0].levels, varied)
            panels.append(_panel(f"{role}: {words}" if role and words else role or words, cell, curves, True))
    return panels


def varied_factors(runs: Sequence[RecordedRun]) -> list[str]:
    """Return the factors that have more than one level among the trials."""
    levels = [run.levels for run in runs]
    return [factor for factor in FACTORS if len({one[factor] for one in levels if factor in one}) > 1]


def _mode_order(mode: str) -> int:
    modes = FACTORS["transfer"].choices
    return modes.index(mode) if mode in modes else len(modes)


def _representative_cells(cells: list[list[RecordedRun]]) -> list[tuple[str, list[RecordedRun]]]:
    """Return all cells if few; else those with the largest, median and smallest gap and the best validation."""
    if len(cells) <= _MOST_SHOWN:
        return [("", cell) for cell in cells]
    learnt = [cell for cell in cells if 2 * sum(run.verdict == "not-learning" for run in cell) <= len(cell)]
    rated = sorted(learnt, key=lambda cell: -_mean_metric(cell, last_name(Metric.GAP_ACCURACY)))
    if not rated:
        return []
    best = max(rated, key=lambda cell: _mean_metric(cell, last_name(Metric.VAL_ACCURACY)))
    roles = [
        ("largest gap", rated[0]),
        ("median gap", rated[len(rated) // 2]),
        ("smallest gap", rated[-1]),
        ("best validation", best),
    ]
    named: dict[int, tuple[list[str], list[RecordedRun]]] = {}
    for role, cell in roles:
        named.setdefault(id(cell), ([], cell))[0].append(role)
    return [(" and ".join(names), cell) for names, cell in named.values()]


def _mean_metric(cell: Sequence[RecordedRun], metric: str) -> float:
    return float(np.mean([run.metrics.get(metric, 0.0) for run in cell]))


def _panel(title: str, runs: Sequence[RecordedRun], curves: Mapping[str, Curve], repeated: bool) -> CurvePanel:
    trials = tuple(run.trial for run in runs)
    epochs = sorted(set.intersection(*(set(curves[trial].epochs) for trial in trials)))
    values = np.array(
        [[_accuracies(curves[trial], epoch) for epoch in epochs] for trial in trials]
    )  # [trials, epochs, 2]
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


def _accuracies(curve: Curve, epoch: int) -> tuple[float, float]:
    """Return train and validation accuracy at an epoch."""
    index = curve.epochs.index(epoch)
    return curve.train[index], curve.validation[index]
