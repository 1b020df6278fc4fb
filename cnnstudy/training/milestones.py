"""What a trial's learning curves say: where overfitting sets in, and the gap at a given fit."""

from __future__ import annotations

from collections.abc import Sequence

from cnnstudy.names import Metric, equal_fit_name
from cnnstudy.records import EpochRecord

#: Validation loss this share above its lowest value is overfitting (Prechelt 1998, "Early stopping - but when?": GL 5).
RISE = 0.05
#: The clean train accuracy at which trials are compared that fit alike.
EQUAL_FIT = 0.9


def milestones(records: Sequence[EpochRecord]) -> dict[str, float]:
    """Where overfitting sets in, and the gap where the network fits 90 % of the probe; by MLflow's names.

    `overfitting/onset_epoch` is the epoch of the lowest validation loss. It is there only if the loss ends at least 5 %
    above that while the train loss fell on; `overfitting/val_loss_rise` (nats) is there always.
    """
    lowest = min(records, key=lambda record: record.metrics[Metric.VAL_LOSS])
    end = records[-1].metrics
    rise = end[Metric.VAL_LOSS] - lowest.metrics[Metric.VAL_LOSS]
    found = {Metric.VAL_LOSS_RISE: rise}
    if rise >= RISE * lowest.metrics[Metric.VAL_LOSS] and end[Metric.TRAIN_LOSS] < lowest.metrics[Metric.TRAIN_LOSS]:
        found[Metric.ONSET_EPOCH] = float(lowest.epoch)
    return found | _at_equal_fit(records)


def _at_equal_fit(records: Sequence[EpochRecord]) -> dict[str, float]:
    """Where clean train accuracy first reaches EQUAL_FIT: on the straight line between the epochs around it."""
    for before, after in zip([None, *records], records, strict=False):
        reached = after.metrics[Metric.TRAIN_ACCURACY]
        if reached < EQUAL_FIT:
            continue
        share = 1.0
        if before is not None:
            earlier = before.metrics[Metric.TRAIN_ACCURACY]
            share = (EQUAL_FIT - earlier) / (reached - earlier)
        else:
            before = after  # fitted within the first epoch: that is where it was measured first

        def between(name: str, share: float = share, before: EpochRecord = before, after: EpochRecord = after) -> float:
            return before.metrics[name] + share * (after.metrics[name] - before.metrics[name])

        names = (Metric.GAP_ACCURACY, Metric.GAP_LOSS, Metric.VAL_ACCURACY, Metric.VAL_LOSS)
        at = {equal_fit_name(name): between(name) for name in names}
        return {**at, Metric.EQUAL_FIT_EPOCH: before.epoch + share * (after.epoch - before.epoch)}
    return {}
