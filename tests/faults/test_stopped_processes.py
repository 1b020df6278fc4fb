"""A worker or a driver that is stopped and continued, as by Ctrl-Z, a debugger or a laptop that sleeps."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from pictures import leave_out_pictures

from cnnstudy.config.load import load_study
from cnnstudy.execution import Workers, jobs, local
from cnnstudy.execution.local import LocalExecutor
from cnnstudy.study.run import Outcome, run_study
from cnnstudy.system.display import PlainDisplay
from cnnstudy.tracking.client import Tracker

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes in /proc")

FAST = str(Path(__file__).parent / "fast_worker.py")
FILE = """
name: stopped
data: {name: digits, classes: [0, 1, 2]}
image_size: 64
architectures: [alexnet]
factors: {batch_size: [8, 16]}
training: {epochs: 2}
strategy: {sampler: grid}
budget: {trials: 2}
"""


def is_stopped(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    return False


class Desk:
    """A study with one worker, which waits for an answer after each epoch; `on_answer` comes before the first."""

    def __init__(self, tracker: Tracker) -> None:
        self.tracker = tracker
        self.now, self.stopped = 1000.0, 0  # seconds; the process that stands still, 0 for none
        self.wakes_at = float("inf")
        self.said: list[str] = []

    def clock(self) -> float:
        """Time passes only while a worker stands still: ten seconds for each look."""
        if self.stopped and is_stopped(self.stopped):
            self.now += 10
            if self.now >= self.wakes_at:
                os.kill(self.stopped, signal.SIGCONT)
                self.stopped = 0
        return self.now

    def stop_worker(self, executor: LocalExecutor) -> None:
        ((_, process),) = executor._busy.items()
        self.stopped = process._process.pid
        os.kill(self.stopped, signal.SIGSTOP)
        while not is_stopped(self.stopped):
            pass

    def run(self, on_answer: Callable[[LocalExecutor], None]) -> Outcome:
        pending = [on_answer]

        def make(folder: Path) -> LocalExecutor:
            executor = LocalExecutor(1, folder, (FAST,))
            answer = executor.answer

            def answer_later(key: str, go_on: bool) -> None:
                if pending and key.startswith("alexnet"):
                    pending.pop()(executor)
                answer(key, go_on)

            executor.answer = answer_later  # type: ignore[method-assign]
            return executor

        return run_study(
            load_study("stopped.yaml"), self.tracker, Workers(make), PlainDisplay(self.said.append, reminds=False)
        )

    def trials(self) -> list[tuple[str, str, str]]:
        runs = self.tracker.runs(self.tracker.study("stopped").experiment_id)
        return sorted((run.trial, run.state, run.reason) for run in runs if run.kind == "trial")


FINISHED = [("alexnet-000", "finished", ""), ("alexnet-001", "finished", "")]


@pytest.fixture
def desk(own_places: Path, tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> Desk:
    leave_out_pictures(monkeypatch)
    desk = Desk(tracker)
    monkeypatch.setattr(jobs, "monotonic", desk.clock)
    monkeypatch.setattr(jobs, "_CHECK_INTERVAL", 0.001)
    monkeypatch.setattr(local, "STACK_TRACE_SECONDS", 0.01)
    (own_places / "stopped.yaml").write_text(FILE)
    return desk


def test_a_worker_that_stands_still_for_too_long_is_ended_and_its_trial_runs_again(desk: Desk) -> None:
    outcome = desk.run(desk.stop_worker)
    assert (outcome.finished, outcome.failed, outcome.missing) == (2, 0, 0)
    assert desk.trials() == [("alexnet-000", "failed", "timeout"), *FINISHED]
    (said,) = [line for line in desk.said if "timeout" in line]
    assert said == (
        "alexnet-000  failed (timeout), and runs once more: the worker process gave no sign of life for 10 minutes"
    )
    assert not Path(f"/proc/{desk.stopped}").exists(), "it does not come back"


def test_a_worker_that_stands_still_for_minutes_goes_on(desk: Desk) -> None:
    desk.wakes_at = desk.now + jobs.SILENCE_LIMIT - 60
    outcome = desk.run(desk.stop_worker)
    assert desk.now >= desk.wakes_at
    assert (outcome.finished, outcome.failed) == (2, 0)
    assert desk.trials() == FINISHED
    assert not [line for line in desk.said if "timeout" in line]


def test_a_driver_that_stood_still_for_a_day_goes_on_with_its_worker(desk: Desk) -> None:
    """What it sees of that is a clock that has jumped."""

    def sleep(executor: LocalExecutor) -> None:
        desk.now += 86_400

    outcome = desk.run(sleep)
    assert (outcome.finished, outcome.failed) == (2, 0)
    assert desk.trials() == FINISHED
    assert not [line for line in desk.said if "timeout" in line]
