"""A study that is given a time stops at it as by Ctrl-C, and goes on with the next call."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_executor import FakeExecutor
from pictures import leave_out_pictures

from cnnstudy.config.load import load_study
from cnnstudy.execution import Event, Executor, Workers
from cnnstudy.execution.time_limit import TimedExecutor, TimeLimit
from cnnstudy.study.run import Outcome, run_study
from cnnstudy.system.display import SilentDisplay
from cnnstudy.tracking.client import Tracker

FILE = """
name: fake
data: {name: digits, classes: [0, 1, 2]}
image_size: 64
architectures: [alexnet]
factors: {dropout: [0.0, 0.5]}
training: {epochs: 2}
strategy: {kind: factorial, seeds: 3}
"""


class Clock:
    """Advances by a second with each event."""

    def __init__(self) -> None:
        self.now = 0.0

    def tick(self, event: Event) -> None:
        self.now += 1


def run(tracker: Tracker, limit: TimeLimit, clock: Clock, seeds: int = 3) -> Outcome:
    Path("fake.yaml").write_text(FILE.replace("seeds: 3", f"seeds: {seeds}"), encoding="utf-8")

    def make(folder: Path) -> Executor:
        return TimedExecutor(FakeExecutor(folder, on_event=clock.tick), limit)

    return run_study(load_study("fake.yaml"), tracker, Workers(make), SilentDisplay())


def test_trials_under_way_stop_and_the_next_call_runs_what_is_missing(
    tracker: Tracker, own_places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_out_pictures(monkeypatch)
    clock = Clock()
    limit = TimeLimit(9.0, lambda: clock.now)  # two events prepare the images, and a trial has three
    outcome = run(tracker, limit, clock)
    assert (outcome.finished, outcome.missing, outcome.interrupted, limit.is_over) == (2, 4, True, True)
    assert clock.now <= 10
    assert limit.reason == "The time is over"
    again = TimeLimit(clock=lambda: clock.now)
    outcome = run(tracker, again, clock)
    assert (outcome.finished, outcome.missing, outcome.interrupted, again.is_over) == (6, 0, False, False)


def test_a_seed_that_would_not_be_whole_is_not_begun_once_there_are_enough(
    tracker: Tracker, own_places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_out_pictures(monkeypatch)
    clock = Clock()
    limit = TimeLimit(23.0, lambda: clock.now)  # a seed has six events: the fourth would end at 26
    outcome = run(tracker, limit, clock, seeds=5)
    assert (outcome.finished, outcome.missing, outcome.interrupted, limit.is_over) == (6, 4, True, True)
    assert clock.now < 23
    assert limit.reason.startswith("Another seed would not be whole in time")


def test_it_is_said_once_so_that_what_ends_can_read_its_events(tmp_path: Path) -> None:
    limit = TimeLimit(5.0, lambda: 6.0)
    executor = TimedExecutor(FakeExecutor(tmp_path), limit)
    with pytest.raises(KeyboardInterrupt):
        executor.next_event(1.0)
    assert executor.next_event(0.0) is None


def test_no_wait_outlasts_the_limit() -> None:
    assert TimeLimit(5.0, lambda: 3.0).shorten(10.0) == 2.0
    assert TimeLimit(5.0, lambda: 3.0).shorten(1.0) == 1.0
    assert TimeLimit().shorten(10.0) == 10.0
