"""How long MLflow is waited for."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from cnnstudy.errors import TrackingUnavailableError, sentence

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Patience:
    """How long MLflow is waited for, seconds."""

    answer: float = 5.0  # for one record, before the study goes on without
    pauses: tuple[float, ...] = (1, 2, 4, 8, 16, 32, 60)  # between tries; the last one again and again
    end: float = 3600.0  # for all records, where nothing goes on without

    def pause(self, failures: int) -> float:
        """Before the next try, after so many that failed; the first is repeated at once, on a new connection."""
        return 0.0 if failures <= 1 else self.pauses[min(failures - 2, len(self.pauses) - 1)]

    def ask(self, read: Callable[[], Answer], say: Callable[[str], None]) -> Answer:
        """What MLflow answers; asked again, with pauses, while it does not.

        Raises:
            TrackingUnavailableError: it does not within `end`.
        """
        deadline, failures = time.monotonic() + self.end, 0
        while True:
            try:
                return read()
            except TrackingUnavailableError as error:
                failures += 1
                pause = self.pause(failures)
                if time.monotonic() + pause >= deadline:
                    raise
                if failures == 2:
                    say(f"{sentence(error)} Waiting for it; Ctrl-C stops, and the next call goes on.")
                time.sleep(pause)
