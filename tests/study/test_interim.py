"""The answer so far of a factorial that runs."""

from __future__ import annotations

from typing import Any

import pytest

from cnnstudy.study.interim import FEWEST_BLOCKS, FIRST_SECONDS, SHARE, InterimAnswer


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Asked:
    """Computations that have been begun, and what they find once they are done."""

    def __init__(self) -> None:
        self.begun: list[dict[str, Any]] = []
        self.found: list[str] | None = None
        self.stopped = False

    def begin(self, asked: dict[str, Any]) -> Asked:
        self.begun.append(asked)
        self.found = None
        return self

    def poll(self) -> list[str] | None:
        return self.found

    def stop(self) -> None:
        self.stopped = True


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def asked() -> Asked:
    return Asked()


@pytest.fixture
def interim(asked: Asked, clock: Clock) -> InterimAnswer:
    return InterimAnswer("sqlite:///mlflow.db", "fake", range(7, 12), asked.begin, clock)


def test_an_answer_takes_three_blocks_and_is_told_once(interim: InterimAnswer, asked: Asked, clock: Clock) -> None:
    clock.now = 1e4
    assert [interim.take(blocks) for blocks in range(FEWEST_BLOCKS)] == [""] * FEWEST_BLOCKS
    assert asked.begun == []
    assert interim.take(FEWEST_BLOCKS) == ""
    assert asked.begun == [{"uri": "sqlite:///mlflow.db", "study": "fake", "seeds": [7, 8, 9]}]
    assert interim.take(FEWEST_BLOCKS) == ""  # while it is computed
    asked.found = ["alexnet gap +1.0 points", "vgg16 gap +2.0 points"]
    assert interim.take(FEWEST_BLOCKS) == "So far, 3 of 5 seeds: alexnet gap +1.0 points; vgg16 gap +2.0 points"
    assert interim.take(FEWEST_BLOCKS) == ""
    assert len(asked.begun) == 1, "there is nothing new"


def test_answers_take_a_small_share_of_the_time(interim: InterimAnswer, asked: Asked, clock: Clock) -> None:
    clock.now = FIRST_SECONDS / SHARE - 1
    interim.take(3)
    assert asked.begun == []
    clock.now += 1
    interim.take(3)
    assert len(asked.begun) == 1
    clock.now += 60  # what it took, so that the next one has to wait for 20 minutes
    asked.found = ["a"]
    assert interim.take(4).startswith("So far, 3 of 5")
    clock.now += 60 / SHARE - 1
    interim.take(4)
    assert len(asked.begun) == 1
    clock.now += 1
    interim.take(4)
    assert asked.begun[-1]["seeds"] == [7, 8, 9, 10]


def test_the_whole_study_has_no_answer_so_far(interim: InterimAnswer, asked: Asked, clock: Clock) -> None:
    clock.now = 1e4
    interim.take(5)
    assert asked.begun == []


def test_what_finds_nothing_tells_nothing(interim: InterimAnswer, asked: Asked, clock: Clock) -> None:
    clock.now = 1e4
    interim.take(3)
    asked.found = []
    assert interim.take(3) == ""


def test_what_is_computed_at_the_end_is_ended(interim: InterimAnswer, asked: Asked, clock: Clock) -> None:
    interim.close()
    clock.now = 1e4
    interim.take(3)
    assert not asked.stopped
    interim.close()
    assert asked.stopped


def test_where_no_process_can_be_started_the_study_goes_on(clock: Clock) -> None:
    def refuse(_: dict[str, Any]) -> Asked:
        raise BlockingIOError("no process left")

    interim = InterimAnswer("sqlite:///mlflow.db", "fake", range(5), refuse, clock)
    clock.now = 1e4
    assert interim.take(3) == ""
    interim.close()
