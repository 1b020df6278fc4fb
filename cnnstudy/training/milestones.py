"""What a trial's learning curves say: where overfitting sets in, and the gap at a given fit."""

from __future__ import annotations

from collections.abc import Sequence

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
    lowest = min(records, key=lambda record: record.metrics["val/loss"])
    end = records[-1].metrics
    rise = end["val/loss"] - lowest.metrics["val/loss"]
    found = {"overfitting/val_loss_rise": rise}
    if rise >= RISE * lowest.metrics["val/loss"] and end["train/loss"] < lowest.metrics["train/loss"]:
        found["overfitting/onset_epoch"] = float(lowest.epoch)
    return found | _at_equal_fit(records)


def _at_equal_fit(records: Sequence[EpochRecord]) -> dict[str, float]:
    """Where clean train accuracy first reaches EQUAL_FIT: on the straight line between the epochs around it."""
    for before, after in zip([None, *records], records, strict=False):
        reached = after.metrics["train/accuracy"]
        if reached < EQUAL_FIT:
            continue
        share = 1.0
        if before is not None:
            earlier = before.metrics["train/accuracy"]
            share = (EQUAL_FIT - earlier) / (reached - earlier)
        else:
            before = after  # fitted within the first epoch: that is where it was measured first

        def between(name: str, share: float = share, before: EpochRecord = before, after: EpochRecord = after) -> float:
            return before.metrics[name] + share * (after.metrics[name] - before.metrics[name])

        names = ("gap/accuracy", "gap/loss", "val/accuracy", "val/loss")
        at = {f"equal_fit/{name.replace('/', '_')}": between(name) for name in names}
        return {**at, "equal_fit/epoch": before.epoch + share * (after.epoch - before.epoch)}
    return {}
