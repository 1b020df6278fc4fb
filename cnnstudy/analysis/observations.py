"""Trials as observations: a row each, with its factors, seed, and outcomes measured on three bases.

A gap can only be compared where something else is equal. The basis is the part before the slash of an outcome:

    epochs       the last weights, after the same number of passes over the images
    updates      the weights after as many updates as every trial of the network makes
    train_loss   the weights when the clean train loss first falls to what 90 % of the trials that learn reach

The remaining 10 % hardly learn: including them would raise that loss to a level at which no trial has learnt anything
yet. They have no value on that basis. Nor has a trial after a number of updates at which it has learnt nothing: there
is no gap to compare. The column `<basis>/state` says for each trial whether it is compared, and if not, why.

The study asks nothing about the factors that it tunes: each cell is represented by its best level of them
(choose_tuned_levels).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from cnnstudy.analysis.curves import (
    AT_CHANCE,
    CHANCE_LOSS_SHARE,
    COMPARED,
    NOT_MEASURED,
    Curves,
    History,
    interpolate_at_loss,
    interpolate_at_updates,
    is_at_chance,
    read_curves,
)
from cnnstudy.analysis.intervals import Estimate, compare_seeds
from cnnstudy.analysis.resolution import find_images, find_resolution
from cnnstudy.config.factors import FACTORS, Choices, Levels
from cnnstudy.names import Metric, best_name, equal_updates_name, last_name
from cnnstudy.tracking.recorded import RecordedRun, mark_interrupted

BASES = ("epochs", "updates", "train_loss")
OUTCOMES = ("gap_accuracy", "val_accuracy", "val_loss", "gap_loss")
#: The columns of the outcomes that are reported most.
GAP, VALIDATION, LEGACY_GAP = "epochs/gap_accuracy", "epochs/val_accuracy", "epochs/legacy_gap_accuracy"
TRAIN, BALANCED_VALIDATION = "epochs/train_accuracy", "epochs/val_balanced_accuracy"
BALANCED_GAP, BALANCED_TRAIN = "epochs/gap_balanced_accuracy", "epochs/train_balanced_accuracy"
#: 1 for a trial that learnt, 0 for one that did not, NaN where that cannot be told.
LEARNT = "epochs/learnt"
#: The number of validation images of a trial, NaN where it is not recorded.
VALIDATION_IMAGES = "validation_images"
#: The outcome by which tuned levels are chosen.
TUNING_LOSS = "epochs/val_loss"
#: Of the trials that learn, the share that reaches the train loss at which trials are compared.
REACHED_BY_SHARE = 0.9

_METRICS = {
    "gap_accuracy": Metric.GAP_ACCURACY,
    "val_accuracy": Metric.VAL_ACCURACY,
    "val_loss": Metric.VAL_LOSS,
    "gap_loss": Metric.GAP_LOSS,
}
#: The train accuracy at which guessing is 1 / classes however unequal these are; older studies lack it.
_BALANCED = equal_updates_name(Metric.TRAIN_BALANCED_ACCURACY)


@dataclass(frozen=True)
class Observations:
    """The finished trials of one network.

    `frame` has a column for each factor, `architecture`, `number`, `seed`, `verdict`, `<basis>/<outcome>` for each
    outcome (NaN where a trial has none), and `<basis>/state` for the bases `updates` and `train_loss`. `train_loss`
    (nats) and `updates` are where the bases of these names compare; None if no trial learnt, or if it is not recorded.
    """

    architecture: str
    frame: pd.DataFrame
    train_loss: float | None
    left_out: Mapping[str, int]  # state -> number of trials that did not finish
    updates: int | None = None


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
        unfinished = [run.state for run in mark_interrupted(network_runs) if run.state != "finished"]
        curves = [read_curves(run, history, tuple(_METRICS.values())) for run in finished]
        lowest = [
            float(one.losses.min())
            for run, one in zip(finished, curves, strict=True)
            if run.verdict != "not-learning" and len(one.losses)
        ]
        train_loss = until_train_loss or _loss_reached_by_most(lowest)
        updates = min((run.updates for run in finished if run.updates is not None), default=None)
        rows = zip(
            map(observe_end, finished),
            _at_updates(finished, curves, history, updates),
            _at_train_loss(finished, curves, train_loss),
            strict=True,
        )
        frame = pd.DataFrame([first | second | third for first, second, third in rows])
        left_out = {state: unfinished.count(state) for state in dict.fromkeys(unfinished)}
        observations.append(Observations(architecture, frame, train_loss, left_out, updates))
    return observations


def _loss_reached_by_most(lowest: Sequence[float]) -> float | None:
    """Return the train loss that REACHED_BY_SHARE of the trials reach, given the lowest loss of each."""
    return sorted(lowest)[math.ceil(REACHED_BY_SHARE * len(lowest)) - 1] if lowest else None


def observe_end(run: RecordedRun) -> dict[str, object]:
    """Return a trial's factors and its outcomes after the last epoch, the columns of the basis `epochs`."""
    levels = run.levels
    return {
        "trial": run.trial,
        "architecture": run.architecture,
        "number": run.number,
        "seed": run.seed,
        "verdict": run.verdict,
        **{factor: levels.get(factor) for factor in FACTORS},
        **{f"epochs/{outcome}": run.metrics.get(last_name(metric), math.nan) for outcome, metric in _METRICS.items()},
        TRAIN: run.metrics.get(last_name(Metric.TRAIN_ACCURACY), math.nan),
        BALANCED_VALIDATION: run.metrics.get(last_name(Metric.VAL_BALANCED_ACCURACY), math.nan),
        BALANCED_TRAIN: run.metrics.get(last_name(Metric.TRAIN_BALANCED_ACCURACY), math.nan),
        BALANCED_GAP: run.metrics.get(last_name(Metric.GAP_BALANCED_ACCURACY), math.nan),
        LEARNT: _has_learnt(run),
        VALIDATION_IMAGES: run.metrics.get(Metric.IMAGES_VALIDATION, math.nan),
        "legacy_images": run.metrics.get(Metric.LEGACY_VALIDATION_IMAGES, math.nan),
        LEGACY_GAP: run.metrics.get(Metric.LEGACY_GAP_ACCURACY, math.nan),
    }


def _has_learnt(run: RecordedRun) -> float:
    """Return 1 if a trial learnt, 0 if it did not, NaN if that can't be told from its verdict and train accuracy."""
    if run.verdict in ("not-learning", ""):
        return 0.0 if run.verdict else math.nan
    accuracy = run.metrics.get(best_name(Metric.TRAIN_ACCURACY), math.nan)
    # the verdict cannot-tell is also that of trials that learnt, whose gap can't be told
    return math.nan if run.verdict == "cannot-tell" and _knows_nothing(run, math.nan, accuracy) else 1.0


def _at_updates(
    runs: Sequence[RecordedRun], curves: Sequence[Curves], history: History, updates: int | None
) -> list[dict[str, object]]:
    """Return each trial's outcomes after `updates` updates, the fewest that any of them makes.

    A worker measures after the fewest updates that the study file allows. If these are the fewest that were made, its
    measurements are used, else they are interpolated between epochs.
    """
    recorded = updates is None or _is_measured_after(updates, runs)
    rows = []
    for run, own in zip(runs, curves, strict=True):
        names = (Metric.TRAIN_LOSS, Metric.TRAIN_ACCURACY, *_METRICS.values())
        if recorded:
            found = {name: run.metrics[full] for name in names if (full := equal_updates_name(name)) in run.metrics}
        else:
            assert updates is not None
            found = interpolate_at_updates(own, history(run.run_id, Metric.UPDATES), updates)
        accuracy = found.get(Metric.VAL_ACCURACY, math.nan) + found.get(Metric.GAP_ACCURACY, math.nan)
        accuracy = run.metrics.get(_BALANCED, accuracy) if recorded else accuracy
        state = COMPARED if Metric.GAP_ACCURACY in found else NOT_MEASURED
        if found and _knows_nothing(run, found.get(Metric.TRAIN_LOSS, math.nan), accuracy):
            state = AT_CHANCE
        rows.append(_outcomes("updates", state, found if state == COMPARED else {}))
    return rows


def _is_measured_after(updates: int, runs: Sequence[RecordedRun]) -> bool:
    """Return whether `equal_updates/...` was measured after `updates` updates, when a trial that makes these ended."""
    fewest = next(run for run in runs if run.updates == updates)
    names = (Metric.VAL_LOSS, Metric.GAP_LOSS, Metric.GAP_ACCURACY)
    pairs = [(fewest.metrics.get(equal_updates_name(name)), fewest.metrics.get(last_name(name))) for name in names]
    return all(one is not None and one == other for one, other in pairs)


def _knows_nothing(run: RecordedRun, loss: float, accuracy: float) -> bool:
    """Return whether a trial with this train loss (nats) and train accuracy (0..1) is at chance."""
    images = [run.metrics.get(name, math.nan) for name in (Metric.IMAGES_VALIDATION, Metric.IMAGES_TRAIN)]
    return is_at_chance(loss, accuracy, run.classes, float(np.min(images)))  # the probe is as large as the smaller part


def _at_train_loss(
    runs: Sequence[RecordedRun], curves: Sequence[Curves], train_loss: float | None
) -> list[dict[str, object]]:
    """Return each trial's outcomes where its train loss first falls to `train_loss`."""
    if train_loss is None:
        return [_outcomes("train_loss", NOT_MEASURED, {}) for _ in runs]
    rows = []
    for run, own in zip(runs, curves, strict=True):
        state, found = interpolate_at_loss(own, train_loss)
        if run.classes is not None and train_loss > CHANCE_LOSS_SHARE * math.log(run.classes):
            state, found = AT_CHANCE, {}
        rows.append(_outcomes("train_loss", state, found))
    return rows


def _outcomes(basis: str, state: str, found: Mapping[str, float]) -> dict[str, object]:
    values = {f"{basis}/{outcome}": found.get(metric, math.nan) for outcome, metric in _METRICS.items()}
    return {f"{basis}/state": state, **values}


def on_most_images(frame: pd.DataFrame, factors: Mapping[str, Levels]) -> tuple[pd.DataFrame, str]:
    """Return the trials on the largest share of the training images, and words for it; all if no list varies it.

    The others ask what fewer images would do: whether networks overfit on these images, they do not tell.

    Args:
        frame: trials with the column `data_fraction`.
        factors: the levels that the study file gives; of a range all trials are returned.
    """
    if not isinstance(factors.get("data_fraction"), Choices) or frame["data_fraction"].nunique() < 2:
        return frame, ""
    most = float(frame["data_fraction"].max())
    return frame[
        frame["data_fraction"] == most
    ], f" on {'all' if most == 1 else f'{100 * most:g} % of the'} training images"


def mean_gap(frame: pd.DataFrame, gap: str = GAP, validation: str = VALIDATION) -> Estimate | None:
    """Return the mean gap (0..1) after the last epoch over all trials that have one; None if none has.

    Its 95 % interval is Student's t over the seeds' means, by the code that tests effects: where all seeds agree, their
    variance is that of measuring a trial on as many images as validation has. One seed has no interval. None lies
    outside of -1 to 1, as no gap does.

    Args:
        gap, validation: the columns of the gap and of validation accuracy, balanced or not.
    """
    gaps = frame.dropna(subset=[gap])
    if gaps.empty:
        return None
    mean, of_seeds = float(gaps[gap].mean()), gaps.groupby("seed")[gap].mean().to_numpy(dtype=float)
    images = find_images(gaps[validation].to_numpy(dtype=float))
    recorded = gaps[VALIDATION_IMAGES].unique() if VALIDATION_IMAGES in gaps else np.array([math.nan])
    # where all are right, accuracies do not show how many there are
    if images is not None and len(recorded) == 1 and recorded[0] % images == 0:
        images = int(recorded[0])
    resolution = find_resolution(gap, gaps[gap].to_numpy(dtype=float), images)
    # the trials of a seed share its validation images, so that their mean is measured no better than one of them
    tested = compare_seeds(of_seeds[None, :], np.ones(1), resolution).tests[0]
    value, low, high, _ = tested.tolist()
    shift = mean - value  # seeds may have unequal numbers of trials
    if math.isnan(low):
        return Estimate(mean, count=len(of_seeds))
    return Estimate(mean, max(low + shift, -1.0), min(high + shift, 1.0), count=len(of_seeds))


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
