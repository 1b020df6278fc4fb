"""A trial's metrics by epoch, and what they are at a train loss or a number of updates between two epochs.

Epoch 0 is the measurement before the first update; studies recorded by older versions do not have it. Nothing is taken
from outside the measured curve.

Train loss: a gap curves against it, and a small batch passes the compared loss in larger steps than a large one. On a
straight line between two epochs, a gap that depends on train loss alone would be reported as an effect of the batch
size. Each metric is therefore interpolated along the trial's whole curve against log train loss, by piecewise cubics
that stay between the measured values (PCHIP; Fritsch and Butland 1984), and only in a step in which the loss falls to
half or less slowly: where the metric changed within a larger one is not known.
"""

from __future__ import annotations

import functools
import itertools
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
#: The factor by which the train loss may fall between two epochs for a value to be taken between them.
LARGEST_STEP = 2.0
#: Losses (nats) below this are equal on the logarithmic scale.
_SMALLEST_LOSS = 1e-6
#: Whether a trial is compared on a basis, and if not, why.
COMPARED, AT_CHANCE, NOT_MEASURED = "compared", "at chance", "not measured"
BELOW_AT_FIRST, NEVER_REACHED, TOO_COARSE = "lower when first measured", "never reached", "passed in a large step"


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
    """Return the clean train loss and the given metrics at each epoch that has a finite value of all of them."""
    by_epoch = {name: history(run.run_id, name) for name in (Metric.TRAIN_LOSS, *metrics)}
    measured = ({epoch for epoch, value in values.items() if math.isfinite(value)} for values in by_epoch.values())
    epochs = sorted(set.intersection(*measured))
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
    return _may_be_guessed(round(accuracy * images), round(images), classes)


@functools.lru_cache(maxsize=4096)  # trials of a study differ little: 10,000 took 5 s
def _may_be_guessed(correct: int, images: int, classes: int) -> bool:
    """Return whether so many right answers are likely enough by guessing."""
    from scipy.stats import binom

    return bool(binom.sf(correct - 1, images, 1 / classes) > _GUESSING_LEVEL)


def interpolate_at_loss(curves: Curves, loss: float) -> tuple[str, dict[str, float]]:
    """Return whether a trial is compared where its train loss first falls to `loss` (nats), and its metrics there.

    Epochs at which the loss is not lower than at all earlier ones are left out.

    Returns:
        One of COMPARED, BELOW_AT_FIRST, NEVER_REACHED, TOO_COARSE; and each metric, none unless it is COMPARED.
    """
    losses = np.maximum(curves.losses, _SMALLEST_LOSS).tolist()
    falling: list[int] = []
    for epoch, value in enumerate(losses):
        if not falling or value < losses[falling[-1]]:
            falling.append(epoch)
    first = next((place for place, epoch in enumerate(falling) if losses[epoch] <= loss), None)
    if first is None:
        return NEVER_REACHED, {}
    if first == 0:
        return BELOW_AT_FIRST, {}
    if losses[falling[first - 1]] > LARGEST_STEP * losses[falling[first]]:
        return TOO_COARSE, {}
    begin = max(0, first - 2)
    near = falling[begin : first + 2]  # what the cubic between two epochs depends on
    places = [-math.log(losses[epoch]) for epoch in near]
    found = {
        name: _interpolate(places, values[near].tolist(), first - begin, -math.log(loss))
        for name, values in curves.values.items()
        if name != Metric.TRAIN_LOSS
    }
    return COMPARED, found


def _interpolate(places: Sequence[float], values: Sequence[float], end: int, at: float) -> float:
    """Return a curve's value between its points `end` - 1 and `end`, as SciPy's PchipInterpolator (which takes 0.3 ms).

    Args:
        places, values: of at most four points; those next to the two.
        at: a place between the two.
    """
    widths = [after - before for before, after in itertools.pairwise(places)]
    slopes = [
        (after - before) / width for (before, after), width in zip(itertools.pairwise(values), widths, strict=True)
    ]
    width, slope, beyond = widths[end - 1], slopes[end - 1], at - places[end - 1]
    left, right = (_derivative(widths, slopes, point) for point in (end - 1, end))
    bend = (left + right - 2 * slope) / width
    return values[end - 1] + beyond * (left + beyond * ((slope - left) / width - bend + beyond * bend / width))


def _derivative(widths: Sequence[float], slopes: Sequence[float], point: int) -> float:
    """Return the curve's derivative at a point, given the widths of the steps between points and the slopes there.

    Within the curve it is the weighted harmonic mean of both slopes, and 0 where they differ in sign; at its ends that
    of a parabola through three points, limited so that the curve stays between its points (Fritsch and Butland 1984).
    """
    if len(slopes) == 1:
        return slopes[0]
    if 0 < point < len(slopes):
        (near, far), (before, after) = widths[point - 1 : point + 1], slopes[point - 1 : point + 1]
        if before * after <= 0:
            return 0.0
        one, other = 2 * far + near, far + 2 * near
        return (one + other) / (one / before + other / after)
    (near, far), (own, next_) = (each[:2] if point == 0 else each[:-3:-1] for each in (widths, slopes))
    end = ((2 * near + far) * own - near * next_) / (near + far)
    if end * own <= 0:
        return 0.0
    return 3 * own if own * next_ < 0 and abs(end) > 3 * abs(own) else end
