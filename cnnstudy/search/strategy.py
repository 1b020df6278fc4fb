"""What the driver and a strategy tell each other: the next trial, how it goes, and the trials there were before."""

from __future__ import annotations

import collections
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from cnnstudy.records import Level


@dataclass(frozen=True)
class PastTrial:
    """A recorded trial. `done` is false for one that was interrupted: it runs again, with the same levels."""

    architecture: str
    number: int
    levels: Mapping[str, Level]
    state: str
    done: bool
    value: float | None = None
    reported: Mapping[int, float] = field(default_factory=dict)  # epoch -> score
    beyond: Mapping[str, float] = field(default_factory=dict)  # limit -> how far beyond it


@dataclass(frozen=True)
class Proposal:
    """The next trial: its complete levels, its seed, and where it belongs to one the block that has this seed."""

    architecture: str
    number: int
    levels: dict[str, Level]
    seed: int
    block: int | None = None  # each divides train and validation anew
    purpose: str = "trial"  # or "confirm"


class Strategy(Protocol):
    """Proposes the trials that the record does not have yet; made new from the record in each call."""

    #: Whether `report` may ever say so.
    prunes: bool

    def next(self) -> Proposal | None:
        """The next trial; None when all are done or under way."""

    def report(self, proposal: Proposal, epoch: int, score: float) -> bool:
        """Tell how far the trial is (Rule.score after an epoch); whether to prune it."""

    def tell(self, proposal: Proposal, state: str, value: float | None, beyond: Mapping[str, float]) -> None:
        """How the trial ended: one of records.STATES, its objective where it has one, and Rule.beyond."""

    @property
    def remaining(self) -> int:
        """Trials that were not proposed yet."""


class FixedList:
    """A strategy whose trials stand fast, in an order: nothing depends on how they go."""

    prunes = False

    def __init__(self, proposals: Iterable[Proposal]) -> None:
        #: The trials that were not proposed yet, in the order in which they run.
        self.upcoming = collections.deque(proposals)

    def next(self) -> Proposal | None:
        """The next trial; None when the last one is done or under way."""
        return self.upcoming.popleft() if self.upcoming else None

    def report(self, proposal: Proposal, epoch: int, score: float) -> bool:
        """Never prunes: trials that train for different times can't be compared."""
        return False

    def tell(self, proposal: Proposal, state: str, value: float | None, beyond: Mapping[str, float]) -> None:
        """Nothing depends on how a trial ended."""

    @property
    def remaining(self) -> int:
        """Trials that were not proposed yet."""
        return len(self.upcoming)


def random_seed(study_seed: int, name: str, number: int) -> int:
    """A seed of 32 bits for the random choices of one trial of a network."""
    return int.from_bytes(hashlib.sha256(f"{study_seed}/{name}/{number}".encode()).digest()[:4])
