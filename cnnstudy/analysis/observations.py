"""Trials as observations: one row each, with its factors, its seed, and what was measured on an equal basis.

A gap can only be compared where something else is equal. The bases, the part before the slash of an outcome:

    epochs       the last weights, after the same passes over the images
    updates      the weights after as many updates as the trial with the fewest makes
    train_loss   the weights when the clean train loss first comes down to what nine in ten trials reach

The others hardly learn: they would push that loss up to where no trial has learnt anything yet, and are left out of it.
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

CHOOSES = "epochs/val_loss"


def choose_tuned_levels(frame: pd.DataFrame, tune: Sequence[str]) -> pd.DataFrame:
    """The trials at the level that the other seeds choose for their cell, one a cell and seed.

    Args:
        frame: finished trials of one network (observations.Observations).
        tune: the factors that are tuned together; those that do not vary are passed over.
    """
    tune = [factor for factor in tune if factor in frame and frame[factor].nunique() > 1]
    if not tune or frame["seed"].nunique() < 2:
        return frame
    others = [factor for factor in FACTORS if factor in frame and factor not in tune]
    kept = []
    for _, cell in frame.groupby(others, dropna=False, sort=False) if others else [((), frame)]:
        losses = cell.pivot_table(index="seed", columns=tune, values=CHOOSES, aggfunc="mean", dropna=False)
        for seed in losses.index:
            of_others = losses.drop(index=seed)
            # a level that failed in some seed is no choice that can be relied on
            means = of_others.mean(skipna=False).to_numpy()
            if not np.isfinite(means).any():
                continue
            best = losses.columns[int(np.nanargmin(means))]
            chosen = best if isinstance(best, tuple) else (best,)
            there = (cell["seed"] == seed) & (cell[tune] == list(chosen)).all(axis=1)
            kept.append(cell[there])
    return pd.concat(kept) if kept else frame.iloc[:0]


def describe_choices(frame: pd.DataFrame, factor: str) -> str:
    """Which levels of a tuned factor were chosen, and where batch size varies at which batch size."""
    one, by = FACTORS[factor], FACTORS["batch_size"]
    several = by.name in frame and frame[by.name].nunique() > 1
    groups: list[tuple[Any, pd.DataFrame]] = list(frame.groupby(by.name, sort=True)) if several else [("", frame)]
    texts = []
    for level, trials in groups:
        counts = trials[factor].value_counts(normalize=True)
        shares = ", ".join(
            f"{one.write(chosen)} in {100 * share:.0f} %" for chosen, share in zip(counts.index, counts, strict=True)
        )
        texts.append(f"{shares} at {by.describe(level)}" if several else shares)
    return f"{one.label} has its best level in each cell, as the other seeds choose it: {'; '.join(texts)}."


BASES = ("epochs", "updates", "train_loss")
OUTCOMES = ("gap_accuracy", "val_accuracy", "val_loss", "gap_loss")
#: The outcomes that are spoken of most: columns of an observation.
GAP, VALIDATION, LEGACY_GAP = "epochs/gap_accuracy", "epochs/val_accuracy", "epochs/legacy_gap_accuracy"
#: So large a share of the trials that learn comes down to the train loss at which they are compared.
REACH = 0.9
#: A metric's values by epoch, of one run.
History = Callable[[str, str], Mapping[int, float]]

_CURVES = {
    "gap_accuracy": Metric.GAP_ACCURACY,
    "val_accuracy": Metric.VAL_ACCURACY,
    "val_loss": Metric.VAL_LOSS,
    "gap_loss": Metric.GAP_LOSS,
}
_NAMES = {"epochs": last_name, "updates": equal_updates_name}


@dataclass(frozen=True)
class Observations:
    """The finished trials of one network: `frame` has a column for each factor, `architecture`, `seed`, `verdict`, and
    `<basis>/<outcome>` for each outcome (NaN where a trial has none).

    `train_loss` (nats) is where the basis of that name compares; None where no trial learnt.
    """

    architecture: str
    frame: pd.DataFrame
    train_loss: float | None
    left_out: Mapping[str, int]  # trials that are no observation, by their state


def observe(runs: Sequence[RecordedRun], history: History, until_train_loss: float | None = None) -> list[Observations]:
    """The observations of each network, from a study's trials.

    Args:
        history: looks up a metric of a run by epoch.
        until_train_loss: the train loss (nats) that trials train down to, where the study file says so.
    """
    found = []
    for architecture in dict.fromkeys(run.architecture for run in runs):
        of_network = [run for run in runs if run.architecture == architecture]
        finished = [run for run in of_network if run.state == "finished"]
        states = [run.state for run in of_network if run.state != "finished"]
        curves = {run.run_id: _curves(run, history) for run in finished}
        lowest = [
            min(losses)
            for run in finished
            if run.verdict != "not-learning" and (losses := curves[run.run_id][Metric.TRAIN_LOSS])
        ]
        reached = until_train_loss or _reached_by_most(lowest)
        frame = pd.DataFrame([_observation(run, curves[run.run_id], reached) for run in finished])
        left_out = {state: states.count(state) for state in dict.fromkeys(states)}
        found.append(Observations(architecture, frame, reached, left_out))
    return found


def _reached_by_most(lowest: Sequence[float]) -> float | None:
    """The train loss that REACH of the trials come down to."""
    return sorted(lowest)[math.ceil(REACH * len(lowest)) - 1] if lowest else None


def _curves(run: RecordedRun, history: History) -> dict[str, list[float]]:
    """The clean train loss and the outcomes, epoch by epoch."""
    named = {name: history(run.run_id, name) for name in (Metric.TRAIN_LOSS, *_CURVES.values())}
    epochs = sorted(set.intersection(*(set(values) for values in named.values())))
    return {name: [values[epoch] for epoch in epochs] for name, values in named.items()}


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
    for basis, name_of in _NAMES.items():
        row |= {f"{basis}/{outcome}": run.metrics.get(name_of(name), math.nan) for outcome, name in _CURVES.items()}
    at = math.inf if train_loss is None else train_loss
    row |= {f"train_loss/{outcome}": _where_loss_is(at, curves, name) for outcome, name in _CURVES.items()}
    row["epochs/train_accuracy"] = run.metrics.get(last_name(Metric.TRAIN_ACCURACY), math.nan)
    row["legacy_images"] = run.metrics.get(Metric.LEGACY_VALIDATION_IMAGES, math.nan)
    row[LEGACY_GAP] = run.metrics.get(Metric.LEGACY_GAP_ACCURACY, math.nan)
    return row


def _where_loss_is(train_loss: float, curves: Mapping[str, list[float]], name: str) -> float:
    """The metric where the clean train loss first comes down to `train_loss`, on the straight line between the epochs
    around it; the first epoch's where the loss is lower there already."""
    losses, values = curves[Metric.TRAIN_LOSS], curves[name]
    for i, loss in enumerate(losses):
        if loss > train_loss:
            continue
        if i == 0 or math.isinf(train_loss):
            return values[0] if math.isfinite(train_loss) else math.nan
        share = (losses[i - 1] - train_loss) / (losses[i - 1] - loss)
        return values[i - 1] + share * (values[i] - values[i - 1])
    return math.nan
