"""Trials as observations: a row each, with its factors, seed, and outcomes measured on three bases.

A gap can only be compared where something else is equal. The basis is the part before the slash of an outcome:

    epochs       the last weights, after the same number of passes over the images
    updates      the weights after the number of updates that the trial with the fewest makes
    train_loss   the weights when the clean train loss first falls to what 90 % of the trials that learn reach

The remaining 10 % hardly learn: including them would raise that loss to a level at which no trial has learnt anything
yet. They have no value on that basis.

The study asks nothing about the factors that it tunes: each cell is represented by its best level of them
(choose_tuned_levels).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from cnnstudy.config.factors import FACTORS
from cnnstudy.names import Metric, equal_updates_name, last_name
from cnnstudy.tracking.recorded import RecordedRun

BASES = ("epochs", "updates", "train_loss")
OUTCOMES = ("gap_accuracy", "val_accuracy", "val_loss", "gap_loss")
#: The columns of the outcomes that are reported most.
GAP, VALIDATION, LEGACY_GAP = "epochs/gap_accuracy", "epochs/val_accuracy", "epochs/legacy_gap_accuracy"
#: The outcome by which tuned levels are chosen.
TUNING_LOSS = "epochs/val_loss"
#: Of the trials that learn, the share that reaches the train loss at which trials are compared.
REACHED_BY_SHARE = 0.9
#: Looks up a metric's values by epoch, given the run's ID and the metric's name.
History = Callable[[str, str], Mapping[int, float]]

_METRICS = {
    "gap_accuracy": Metric.GAP_ACCURACY,
    "val_accuracy": Metric.VAL_ACCURACY,
    "val_loss": Metric.VAL_LOSS,
    "gap_loss": Metric.GAP_LOSS,
}
#: How a metric at the end of a basis is named, for the bases whose value is recorded.
_RECORDED_NAMES = {"epochs": last_name, "updates": equal_updates_name}


@dataclass(frozen=True)
class Observations:
    """The finished trials of one network.

    `frame` has a column for each factor, `architecture`, `number`, `seed`, `verdict`, and `<basis>/<outcome>` for each
    outcome (NaN where a trial has none). `train_loss` (nats) is the loss at which the basis of that name compares; None
    if no trial learnt.
    """

    architecture: str
    frame: pd.DataFrame
    train_loss: float | None
    left_out: Mapping[str, int]  # state -> number of trials that did not finish


def observe(runs: Sequence[RecordedRun], history: History, until_train_loss: float | None = None) -> list[Observations]:
    """Return the observations of each network, from a study's trials.

    Args:
        runs: the run of each trial that counts.
        history: looks up a metric of a run by epoch.
        until_train_loss: the train loss (nats) at which trials stop, if the study file sets it.
    """
    observations = []
    for architecture in dict.fromkeys(run.architecture for run in runs):
        network_runs = [run for run in runs if run.architecture == architecture]
        finished = [run for run in network_runs if run.state == "finished"]
        unfinished = [run.state for run in network_runs if run.state != "finished"]
        curves = {run.run_id: _curves(run, history) for run in finished}
        lowest = [
            min(losses)
            for run in finished
            if run.verdict != "not-learning" and (losses := curves[run.run_id][Metric.TRAIN_LOSS])
        ]
        train_loss = until_train_loss or _loss_reached_by_most(lowest)
        frame = pd.DataFrame([_observation(run, curves[run.run_id], train_loss) for run in finished])
        left_out = {state: unfinished.count(state) for state in dict.fromkeys(unfinished)}
        observations.append(Observations(architecture, frame, train_loss, left_out))
    return observations


def _loss_reached_by_most(lowest: Sequence[float]) -> float | None:
    """Return the train loss that REACHED_BY_SHARE of the trials reach, given the lowest loss of each."""
    return sorted(lowest)[math.ceil(REACHED_BY_SHARE * len(lowest)) - 1] if lowest else None


def _curves(run: RecordedRun, history: History) -> dict[str, list[float]]:
    """Return the clean train loss and the outcomes at each epoch, from 1, that has all of them."""
    by_epoch = {name: history(run.run_id, name) for name in (Metric.TRAIN_LOSS, *_METRICS.values())}
    epochs = sorted(set.intersection(*(set(values) for values in by_epoch.values())) - {0})
    return {name: [values[epoch] for epoch in epochs] for name, values in by_epoch.items()}


def _observation(run: RecordedRun, curves: Mapping[str, list[float]], train_loss: float | None) -> dict[str, object]:
    levels = run.levels
    row: dict[str, object] = {
        "trial": run.trial,
        "architecture": run.architecture,
        "number": run.number,
        "seed": run.seed,
        "verdict": run.verdict,
        **{factor: levels.get(factor) for factor in FACTORS},
    }
    for basis, recorded_name in _RECORDED_NAMES.items():
        row |= {
            f"{basis}/{outcome}": run.metrics.get(recorded_name(metric), math.nan)
            for outcome, metric in _METRICS.items()
        }
    row |= {
        f"train_loss/{outcome}": math.nan if train_loss is None else _interpolate_at_loss(train_loss, curves, metric)
        for outcome, metric in _METRICS.items()
    }
    row["epochs/train_accuracy"] = run.metrics.get(last_name(Metric.TRAIN_ACCURACY), math.nan)
    row["legacy_images"] = run.metrics.get(Metric.LEGACY_VALIDATION_IMAGES, math.nan)
    row[LEGACY_GAP] = run.metrics.get(Metric.LEGACY_GAP_ACCURACY, math.nan)
    return row


def _interpolate_at_loss(train_loss: float, curves: Mapping[str, list[float]], metric: str) -> float:
    """Return the metric where the clean train loss first falls to `train_loss`, interpolated linearly between epochs.

    It is the first epoch's value if the loss is already lower there, and NaN if the loss is never reached.
    """
    losses, values = curves[Metric.TRAIN_LOSS], curves[metric]
    for i, loss in enumerate(losses):
        if loss > train_loss:
            continue
        if i == 0:
            return values[0]
        share = (losses[i - 1] - train_loss) / (losses[i - 1] - loss)
        return values[i - 1] + share * (values[i] - values[i - 1])
    return math.nan


def choose_tuned_levels(frame: pd.DataFrame, tune: Sequence[str]) -> pd.DataFrame:
    """Return the trials at the tuned factors' best level, one for each cell and seed.

    For each seed, the best level is the one with the lowest mean validation loss at the last epoch over the *other*
    seeds of the cell, so that no seed chooses by its own losses.

    Args:
        frame: finished trials of one network (Observations.frame).
        tune: the factors that are tuned together; those that do not vary are ignored.
    """
    tune = [factor for factor in tune if factor in frame and frame[factor].nunique() > 1]
    if not tune or frame["seed"].nunique() < 2:
        return frame
    others = [factor for factor in FACTORS if factor in frame and factor not in tune]
    chosen_trials = []
    for _, cell in frame.groupby(others, dropna=False, sort=False) if others else [((), frame)]:
        losses = cell.pivot_table(index="seed", columns=tune, values=TUNING_LOSS, aggfunc="mean", dropna=False)
        for seed in losses.index:
            # a level that is missing in any of the other seeds is not chosen
            means = losses.drop(index=seed).mean(skipna=False).to_numpy()
            if not np.isfinite(means).any():
                continue
            best = losses.columns[int(np.nanargmin(means))]
            levels = list(best) if isinstance(best, tuple) else [best]
            chosen_trials.append(cell[(cell["seed"] == seed) & (cell[tune] == levels).all(axis=1)])
    return pd.concat(chosen_trials) if chosen_trials else frame.iloc[:0]


def describe_tuned_levels(frame: pd.DataFrame, factor: str) -> str:
    """Return a sentence on how often each level of a tuned factor was chosen, by batch size if that varies."""
    tuned, batch_size = FACTORS[factor], FACTORS["batch_size"]
    is_by_batch_size = batch_size.name in frame and frame[batch_size.name].nunique() > 1
    groups: list[tuple[Any, pd.DataFrame]] = (
        list(frame.groupby(batch_size.name, sort=True)) if is_by_batch_size else [("", frame)]
    )
    texts = []
    for size, trials in groups:
        counts = trials[factor].value_counts(normalize=True)
        shares = ", ".join(
            f"{tuned.write(level)} in {100 * share:.0f} %" for level, share in zip(counts.index, counts, strict=True)
        )
        texts.append(f"{shares} at {batch_size.describe(size)}" if is_by_batch_size else shares)
    return f"{tuned.label} is at its best level in each cell, chosen by the other seeds: {'; '.join(texts)}."
