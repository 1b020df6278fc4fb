"""The answer so far of a factorial that runs: `python -m cnnstudy.study.interim`, a process of its own.

Comes in, on its standard input: a tracking URI, a study and the seeds of its complete blocks, as one JSON object. Goes
out: sentences, as a JSON list. The driver itself makes no tables: the libraries for them would take it seconds and
hundreds of megabytes.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

#: Effects are told from so many seeds on (analysis/intervals.py, which is not light).
FEWEST_BLOCKS = 3
#: An answer may take this share of the time of the trials before it; and the seconds that the first one is taken for.
SHARE, FIRST_SECONDS = 0.05, 10.0
#: What every answer of a study that is not complete begins with.
SO_FAR = "So far, "


class Calculation(Protocol):
    """An answer that is being computed."""

    def poll(self) -> list[str] | None:
        """Return the sentences once they are there, [] if there are none; None while they are computed."""

    def stop(self) -> None:
        """End the computation."""


class _Process:
    """A Calculation in a process with low priority."""

    def __init__(self, asked: dict[str, Any]) -> None:
        from cnnstudy.system.processes import package_environment

        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", __spec__.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # an answer that fails is left out; `effects` says why
            env=package_environment(),
            start_new_session=True,  # Ctrl-C ends the driver, which ends it
        )
        assert self._process.stdin is not None
        with contextlib.suppress(OSError), self._process.stdin as stdin:
            stdin.write(json.dumps(asked).encode())  # not in its arguments: the URI may hold a password

    def poll(self) -> list[str] | None:
        if self._process.poll() is None:
            return None
        assert self._process.stdout is not None
        with self._process.stdout as stdout:  # a few sentences, which fit into the pipe
            try:
                return list(json.loads(stdout.read()))
            except ValueError:
                return []

    def stop(self) -> None:
        with self._process:
            self._process.kill()


class InterimAnswer:
    """The answer of the blocks of a factorial that are complete, computed while the next ones run.

    Args:
        uri: of MLflow.
        study: its name.
        seeds: of its blocks, in order.
        begin: begins to compute an answer.
        clock: seconds.
    """

    def __init__(
        self,
        uri: str,
        study: str,
        seeds: Sequence[int],
        begin: Callable[[dict[str, Any]], Calculation] = _Process,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._asked: dict[str, Any] = {"uri": uri, "study": study}
        self._seeds, self._begin, self._clock = seeds, begin, clock
        self._running: Calculation | None = None
        self._blocks = 0  # of the last answer, or of the one that is computed
        self._begun, self._cost, self._idle_since = 0.0, FIRST_SECONDS, clock()

    def take(self, complete: int) -> str:
        """Return an answer that has been computed since the last call, or "", and begin one if there is a new block.

        Args:
            complete: the number of complete blocks.
        """
        answer = ""
        if self._running is not None and (sentences := self._running.poll()) is not None:
            now = self._clock()
            self._running, self._cost, self._idle_since = None, now - self._begun, now
            if sentences:
                answer = f"{SO_FAR}{self._blocks} of {len(self._seeds)} seeds: {'; '.join(sentences)}"
        is_new = FEWEST_BLOCKS <= complete < len(self._seeds) and complete > self._blocks
        waited = self._clock() - self._idle_since
        if self._running is None and is_new and waited * SHARE >= self._cost:
            self._blocks, self._begun = complete, self._clock()
            with contextlib.suppress(OSError):  # no process left, say: the study matters more
                self._running = self._begin({**self._asked, "seeds": list(self._seeds[:complete])})
        return answer

    def close(self) -> None:
        """End what is being computed."""
        if self._running is not None:
            self._running.stop()
            self._running = None


def compute_answer(uri: str, study: str, seeds: Sequence[int]) -> list[str]:
    """Return what the trials of these seeds say of each network: its gap, and what the study asks about."""
    from cnnstudy.analysis.causes import analyze_networks
    from cnnstudy.analysis.data_law import DEFAULT_TARGET_GAP
    from cnnstudy.analysis.effects_text import interim_sentence
    from cnnstudy.tracking.client import Tracker
    from cnnstudy.tracking.recorded import counted_trials

    tracker = Tracker(uri)
    recorded = tracker.study(study)
    runs = [run for run in counted_trials(tracker.runs(recorded.experiment_id)) if run.seed in seeds]
    found = analyze_networks(recorded, runs, tracker.metric_history, DEFAULT_TARGET_GAP)
    return [sentence for sentence in map(interim_sentence, found) if sentence]


def main() -> None:
    """Answer what is asked on standard input."""
    asked = json.load(sys.stdin)
    with contextlib.suppress(AttributeError, OSError):  # Windows has no priorities of this kind
        os.nice(10)
    print(json.dumps(compute_answer(**asked)))


if __name__ == "__main__":
    main()
