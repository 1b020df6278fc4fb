"""A trial's metrics by epoch, and what they are at a train loss or a number of updates between two epochs.

Epoch 0 is the measurement before the first update; studies recorded by older versions do not have it. Nothing is taken
from outside the measured curve.

Train loss: with few epochs the loss of a small batch falls past the compared value in one step, and a straight line
between the two ends of that step is not where the network was: a gap that depends on train loss alone would be reported
as an effect of the batch size. The gap is therefore interpolated around the common curve of all trials of the network,
a continuous function of log train loss, linear between knots, fitted to all of their epochs by least squares: its
value, plus the trial's own distance from it, which is interpolated linearly in log train loss. What depends on train
loss alone is then equal in all trials, however coarse their epochs are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cnnstudy.names import Metric
from cnnstudy.tracking.recorded import RecordedRun

#: Looks up a metric's values by epoch, given the run's ID and the metric's name.
History = Callable[[str, str], Mapping[int, float]]
#: A network whose train loss is above this share of that of guessing, ln(classes), has hardly learnt anything there.
CHANCE_LOSS_SHARE = 0.95
#: Level of the test of the train accuracy against guessing.
_GUESSING_LEVEL = 0.01
#: Knots of the common curve: at most so many, and so many measurements for each.
_MOST_KNOTS, _MEASUREMENTS_PER_KNOT = 20, 10
#: Losses (nats) below this are equal on the logarithmic scale.
_SMALLEST_LOSS = 1e-6


@dataclass(frozen=True)
class Curves:
    """Metrics of one trial at each epoch that has all of them."""

    epochs: tuple[int, ...]
    values: Mapping[str, np.ndarray]  # metric -> [epochs]

    @property
    def losses(self) -> np.ndarray:
        """The clean train loss, [epochs], nats."""
        return self.values[Metric.TRAIN_LOSS]


def read_curves(run: RecordedRun, history: History, metrics: Sequence[str]) -> Curves:
    """Return the clean train loss and the given metrics at each epoch that has all of them."""
    by_epoch = {name: history(run.run_id, name) for name in (Metric.TRAIN_LOSS, *metrics)}
    epochs = sorted(set.intersection(*(set(values) for values in by_epoch.values())))
    return Curves(
        tuple(epochs),
        {name: np.array([values[epoch] for epoch in epochs], dtype=float) for name, values in by_epoch.items()},
    )


def interpolate_at_updates(curves: Curves, updates_by_epoch: Mapping[int, float], updates: int) -> dict[str, float]:
    """Return each metric after a number of updates, linearly between epochs; {} outside the measured curve."""
    made = [updates_by_epoch.get(epoch, 0.0 if epoch == 0 else math.nan) for epoch in curves.epochs]
    if not made or not np.isfinite(made).all() or not made[0] <= updates <= made[-1]:
        return {}
    return {name: float(np.interp(updates, made, values)) for name, values in curves.values.items()}


def is_at_chance(loss: float, accuracy: float, classes: int | None, images: float) -> bool:
    """Return whether a network has learnt nothing: by its train loss, or by its train accuracy.

    Either the loss (nats) is above CHANCE_LOSS_SHARE of ln(classes), or the accuracy is not above 1 / classes
    (one-sided binomial test, 1 %). What is not known (NaN, None) decides nothing.

    Args:
        accuracy: share of 0..1, on `images` images.
    """
    if classes is None:
        return False
    if loss > CHANCE_LOSS_SHARE * math.log(classes):
        return True
    if math.isnan(accuracy) or math.isnan(images):
        return False
    from scipy.stats import binom

    return bool(binom.sf(round(accuracy * images) - 1, round(images), 1 / classes) > _GUESSING_LEVEL)


def find_bracket(losses: np.ndarray, loss: float) -> int | None:
    """Return the index of the first measured epoch whose train loss is at most `loss`; None if there is none.

    If it is 0, where the loss fell to `loss` was not measured.
    """
    low = np.flatnonzero(losses <= loss)
    return int(low[0]) if len(low) else None


def interpolate_at_loss(all_curves: Sequence[Curves], metric: str, loss: float) -> list[float]:
    """Return the metric of each trial where its clean train loss first falls to `loss` (nats), as described above.

    NaN where the loss is never reached, or is already lower at the first measured epoch.
    """
    places = [find_bracket(curves.losses, loss) for curves in all_curves]
    common = _fit_common_curve(all_curves, metric)
    target = _log(loss)
    found = []
    for curves, place in zip(all_curves, places, strict=True):
        if not place:
            found.append(math.nan)
            continue
        step = slice(place - 1, place + 1)
        logs, values = _log(curves.losses[step]), curves.values[metric][step]
        before, after = values - common(logs)
        share = (logs[0] - target) / (logs[0] - logs[1])
        found.append(float(common(target) + before + share * (after - before)))
    return found


def _fit_common_curve(all_curves: Sequence[Curves], metric: str) -> Callable[[np.ndarray], np.ndarray]:
    """Return the metric as a function of log train loss, fitted to all epochs of all trials."""
    logs = np.concatenate([_log(curves.losses) for curves in all_curves]) if all_curves else np.empty(0)
    count = int(np.clip(len(logs) // _MEASUREMENTS_PER_KNOT, 2, _MOST_KNOTS))
    knots = np.unique(np.quantile(logs, np.linspace(0, 1, count))) if len(logs) else np.zeros(1)
    values = np.concatenate([curves.values[metric] for curves in all_curves]) if all_curves else np.empty(0)
    hats = np.column_stack([np.interp(logs, knots, hat) for hat in np.eye(len(knots))])  # [measurements, knots]
    heights = np.linalg.lstsq(hats, values, rcond=None)[0]
    return lambda at: np.interp(at, knots, heights)


def _log(losses: np.ndarray | float) -> np.ndarray:
    return np.log(np.maximum(losses, _SMALLEST_LOSS))
