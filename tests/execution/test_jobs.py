from __future__ import annotations

from pathlib import Path

import pytest
from fake_executor import FakeExecutor

from cnnstudy.config.load import load_study
from cnnstudy.execution import Epoch, Event, Progress, Waiting
from cnnstudy.execution.jobs import LONGEST_GAP, SILENCE_LIMIT, SLOWDOWN_LIMIT, Watchdog, first_job, wait_for_event
from cnnstudy.records import EpochRecord


class Clock:
    """Seconds, as many as a test wants; the watchdog looks every ten."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def wait(self, watchdog: Watchdog, seconds: float) -> list[str]:
        """The keys that are overdue within so many seconds."""
        end, late = self.now + seconds, []
        while self.now < end:
            self.now = min(end, self.now + 10)
            late += [key for key, _ in watchdog.find_hung()]
        return late


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def watchdog(clock: Clock) -> Watchdog:
    return Watchdog(clock=clock)


def test_silence(watchdog: Watchdog, clock: Clock) -> None:
    watchdog.begin("silent", "alexnet", 10)
    watchdog.begin("other")
    for _ in range(3):
        assert clock.wait(watchdog, SILENCE_LIMIT) == []
        watchdog.record_sign_of_life("silent")
        watchdog.record_sign_of_life("other")
    watchdog.end("other")
    assert set(clock.wait(watchdog, SILENCE_LIMIT + 10)) == {"silent"}
    ((_, why),) = watchdog.find_hung()
    assert why == "the worker process gave no sign of life for 10 minutes"
    watchdog.end("silent")
    watchdog.end("never begun")
    watchdog.record_sign_of_life("never begun")
    assert watchdog.find_hung() == []


def spin(watchdog: Watchdog, clock: Clock, key: str, seconds: float) -> list[str]:
    """It gives signs of life, and ends no epoch."""
    late = []
    for _ in range(round(seconds / 100)):
        watchdog.record_sign_of_life(key)
        late += clock.wait(watchdog, 100)
    return late


def test_an_epoch_that_never_ends(watchdog: Watchdog, clock: Clock) -> None:
    watchdog.begin("a", "vgg16", 100)
    assert spin(watchdog, clock, "a", 50_000) == [], "nothing is known of the first epoch"
    watchdog.end_epoch("a")
    watchdog.end("a")
    watchdog.begin("b", "alexnet", 100)
    assert spin(watchdog, clock, "b", 200) == []
    watchdog.end_epoch("b")
    assert spin(watchdog, clock, "b", 100) == []
    watchdog.end_epoch("b")
    # ten times the longest, which was 200 s for 100 images
    assert spin(watchdog, clock, "b", SLOWDOWN_LIMIT * 200) == []
    assert set(spin(watchdog, clock, "b", 100)) == {"b"}
    ((_, why),) = watchdog.find_hung()
    assert "within 33 minutes, 10 times the longest of alexnet so far" in why
    assert "training.timeout" in why


def test_the_measurement_before_the_first_update_ends_no_epoch(tmp_path: Path, clock: Clock) -> None:
    limit, events = 2000.0, [Epoch("a", EpochRecord(number, {}), asks=False) for number in (0, 1)]
    executor = FakeExecutor(tmp_path)
    executor.next_event = lambda timeout: events.pop(0)  # type: ignore[method-assign]
    watchdog = Watchdog(limit, clock)
    watchdog.begin("a", "alexnet", 10)
    assert spin(watchdog, clock, "a", limit) == []
    wait_for_event(executor, watchdog)
    assert set(spin(watchdog, clock, "a", 100)) == {"a"}
    wait_for_event(executor, watchdog)
    assert spin(watchdog, clock, "a", limit) == []


def test_an_epoch_of_more_images_may_take_longer(watchdog: Watchdog, clock: Clock) -> None:
    watchdog.begin("few", "alexnet", 10)
    spin(watchdog, clock, "few", 100)
    watchdog.end_epoch("few")
    watchdog.end("few")
    watchdog.begin("many", "alexnet", 1000)
    assert spin(watchdog, clock, "many", SLOWDOWN_LIMIT * 100 * 100) == []
    assert set(spin(watchdog, clock, "many", 100)) == {"many"}


def test_short_epochs_have_ten_minutes_at_least(watchdog: Watchdog, clock: Clock) -> None:
    watchdog.begin("a", "alexnet", 10)
    clock.wait(watchdog, 1)
    watchdog.end_epoch("a")
    assert spin(watchdog, clock, "a", SILENCE_LIMIT) == []
    assert set(spin(watchdog, clock, "a", 100)) == {"a"}


def test_what_the_file_says_holds_instead(clock: Clock) -> None:
    watchdog = Watchdog(2000.0, clock)
    watchdog.begin("images")
    assert spin(watchdog, clock, "images", 5000) == [], "it has no epochs"
    watchdog.end("images")
    watchdog.begin("trial", "alexnet", 10)
    assert spin(watchdog, clock, "trial", 2000) == []
    assert clock.wait(watchdog, 10) == ["trial"]
    ((_, why),) = watchdog.find_hung()
    assert why == "no epoch ended within 2000 s, the limit set by training.timeout"
    watchdog.end_epoch("trial")
    assert spin(watchdog, clock, "trial", 2000) == []


def test_a_worker_that_hangs_is_found_whatever_the_file_says_of_epochs(clock: Clock) -> None:
    watchdog = Watchdog(10 * SILENCE_LIMIT, clock)
    watchdog.begin("trial", "alexnet", 10)
    assert clock.wait(watchdog, SILENCE_LIMIT) == []
    assert clock.wait(watchdog, 10) == ["trial"]
    ((_, why),) = watchdog.find_hung()
    assert why == "the worker process gave no sign of life for 10 minutes"


def test_a_driver_that_was_away_blames_nobody(watchdog: Watchdog, clock: Clock) -> None:
    watchdog.begin("a", "alexnet", 10)
    clock.wait(watchdog, 10)
    watchdog.end_epoch("a")
    clock.now += 100_000
    assert watchdog.find_hung() == []
    assert clock.wait(watchdog, SILENCE_LIMIT - LONGEST_GAP) == []
    assert set(clock.wait(watchdog, 20)) == {"a"}


def test_a_job_that_waits_for_a_machine_does_not_hang(tmp_path: Path, clock: Clock) -> None:
    limit, executor = 50.0, FakeExecutor(tmp_path)
    watchdog = Watchdog(limit, clock)
    watchdog.begin("a", "alexnet", 10)
    executor.next_event = lambda timeout: Waiting("a", "a node")  # type: ignore[method-assign]
    for _ in range(20):
        clock.now += limit
        assert wait_for_event(executor, watchdog) == Progress("a", "waiting for a node", 0, 0)
    assert watchdog.find_hung() == []
    assert set(spin(watchdog, clock, "a", limit + 10)) == {"a"}


def test_a_machine_that_joins_ends_the_wait(tmp_path: Path, watchdog: Watchdog) -> None:
    timeouts: list[float] = []

    def nothing(timeout: float) -> Event | None:
        timeouts.append(timeout)
        return None

    executor = FakeExecutor(tmp_path)
    executor.next_event = nothing  # type: ignore[method-assign]
    assert wait_for_event(executor, watchdog, lambda: len(timeouts) > 4) is None
    assert any(timeouts), "it does not spin"


@pytest.mark.parametrize(
    ("changed", "kind"),
    [
        ("transfer: scratch", "prepare_images"),
        ("transfer: frozen", "prepare_images"),
        ("transfer: [scratch, {from: conv4}]", "check_network"),
        ("transfer: {probe: svm, layer: conv4}", "check_network"),
    ],
)
def test_the_job_to_start_ahead(changed: str, kind: str, own_places: Path) -> None:
    study = "name: probe\ndata: {name: digits, classes: [0, 1]}\nimage_size: 64\narchitectures: [alexnet]\ntraining: {epochs: 1}\n"
    pretrained = "weights: {alexnet: {source: pretrain, epochs: 1, data: {name: digits, classes: [5, 6]}}}\n"
    text = f"{study}{'' if 'frozen' not in changed and 'conv' not in changed else pretrained}"
    (own_places / "probe.yaml").write_text(f"{text}budget: {{trials: 2}}\nfactors: {{{changed}}}\n")
    assert first_job(load_study("probe.yaml").config).kind == kind
