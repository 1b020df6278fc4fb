"""What the driver and a strategy exchange: past trials, proposals for the next one, and its progress."""

from __future__ import annotations

import collections
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from cnnstudy.records import Level


@dataclass(frozen=True)
class PastTrial:
    """A recorded trial. If it was interrupted, `done` is false, and it runs again with the same levels."""

    architecture: str
    number: int
    levels: Mapping[str, Level]
    state: str
    done: bool
    value: float | None = None
    reported: Mapping[int, float] = field(default_factory=dict)  # epoch -> score
    beyond: Mapping[str, float] = field(default_factory=dict)  # limit -> amount by which it is exceeded


@dataclass(frozen=True)
class Proposal:
    """The next trial: its complete levels, its seed and, in a factorial, its block."""

    architecture: str
    number: int
    levels: dict[str, Level]
    seed: int
    block: int | None = None  # trials of a block share a seed and a train/validation split
    purpose: str = "trial"  # or "confirm"


class Strategy(Protocol):
    """Proposes the trials that are not recorded yet; rebuilt from the record in each run of a study."""

    #: Whether `report` may ever return true.
    prunes: bool

    @property
    def upcoming(self) -> Iterable[Proposal]:
        """Return the trials that are known before `next` proposes them, in order."""

    def next(self) -> Proposal | None:
        """Return the next trial; None if all are done or running."""

    def report(self, proposal: Proposal, epoch: int, score: float) -> bool:
        """Report Rule.score after an epoch of the trial; return whether to prune it."""

    def tell(self, proposal: Proposal, state: str, value: float | None, beyond: Mapping[str, float]) -> None:
        """Report the end of the trial.

        Args:
            state: one of records.STATES.
            value: of the objective; None if the trial has none.
            beyond: of Rule.beyond: limit -> amount by which it is exceeded.
        """

    @property
    def remaining(self) -> int:
        """Return the number of trials not proposed yet."""


class FixedStrategy:
    """A strategy with a fixed list of trials, independent of their results."""

    prunes = False

    def __init__(self, proposals: Iterable[Proposal], blocks: int | None = None) -> None:
        #: The trials not proposed yet, in order.
        self.upcoming = collections.deque(proposals)
        #: How many blocks may be proposed, where that depends on results; None: all.
        self.blocks = blocks

    @property
    def may_propose(self) -> bool:
        """Whether there is a trial that may run now."""
        return bool(self.upcoming) and (self.blocks is None or (self.upcoming[0].block or 0) < self.blocks)

    def next(self) -> Proposal | None:
        """Return the next trial; None if all that may run now are done or running."""
        return self.upcoming.popleft() if self.may_propose else None

    def report(self, proposal: Proposal, epoch: int, score: float) -> bool:
        """Return false: trials are not pruned, so that they train equally long and can be compared."""
        return False

    def tell(self, proposal: Proposal, state: str, value: float | None, beyond: Mapping[str, float]) -> None:
        """Ignore the result."""

    @property
    def remaining(self) -> int:
        """Return the number of trials not proposed yet."""
        return len(self.upcoming)


def derive_seed(study_seed: int, name: str, number: int) -> int:
    """Return a 32-bit seed for the random choices of one trial of a network."""
    return int.from_bytes(hashlib.sha256(f"{study_seed}/{name}/{number}".encode()).digest()[:4])
