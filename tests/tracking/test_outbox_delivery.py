"""Envelopes on their way, to something that answers, or not, when it is told to."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from cnnstudy.errors import TrackingError, TrackingUnavailableError
from cnnstudy.tracking import delivery
from cnnstudy.tracking.delivery import Delivery
from cnnstudy.tracking.retry import RetryPolicy
from cnnstudy.tracking.spool import Envelope, Spool, list_waiting


class Store:
    """Takes operations, by their `run`, once it is up."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, bool]] = []
        self.up = threading.Event()
        self.up.set()
        self.answers = threading.Event()  # else it takes a call and gives no answer
        self.answers.set()
        self.refuses = ""
        self.tries = threading.Semaphore(0)  # released by each that failed

    def take(self, envelope: Envelope, again: bool) -> str:
        self.answers.wait(60)
        if envelope.run == self.refuses:
            raise TrackingError(f"{envelope.run} is refused.")
        if not self.up.is_set():
            self.tries.release()
            raise TrackingUnavailableError("it is down.")
        self.taken.append((envelope.run, again))
        return f"id of {envelope.run}"


@pytest.fixture
def store() -> Store:
    return Store()


class Desk:
    def __init__(self, store: Store, retry_policy: RetryPolicy) -> None:
        self.said: list[str] = []
        self.spool = Spool("fake", "sqlite:///a.db")
        self.delivery = Delivery(self.spool, store.take, self.said.append, retry_policy)


@pytest.fixture
def desk(own_places: Path, store: Store) -> Iterator[Desk]:
    made = Desk(store, RetryPolicy(wait_per_record=60, pauses=(0.001,), give_up_after=60))
    yield made
    store.answers.set()
    made.delivery.close()


def put(desk: Desk, *names: str) -> list[str | None]:
    return [desk.delivery.put(Envelope("set_tags", 0, name)) for name in names]


def test_what_is_up_is_written_to_at_once(desk: Desk, store: Store) -> None:
    assert put(desk, "a", "b") == ["id of a", "id of b"]
    assert store.taken == [("a", False), ("b", False)]
    assert not desk.delivery.has_pending
    assert not desk.spool.folder.exists()
    assert desk.said == []


def test_what_is_down_gets_all_of_it_later_in_order(desk: Desk, store: Store) -> None:
    store.up.clear()
    assert put(desk, "a", "b", "c") == [None, None, None]
    assert desk.delivery.has_pending
    assert [one.run for one in desk.spool.load()] == ["a", "b", "c"]
    assert not desk.delivery.settle()
    for _ in range(5):
        assert store.tries.acquire(timeout=60)
    store.up.set()
    desk.delivery.wait()
    assert store.taken == [("a", True), ("b", False), ("c", False)], "a repeated write is marked as one"
    assert desk.said[0] == f"it is down. The study continues; its records are stored in {desk.spool.folder}"
    assert desk.said[-1] == "MLflow is available again: sent 3 records that had been stored"
    assert sum("The study continues" in line for line in desk.said) == 1
    assert put(desk, "d") == ["id of d"]


def test_every_outage_is_said_once(desk: Desk, store: Store) -> None:
    for _ in range(2):
        store.up.clear()
        put(desk, "a", "b")
        store.up.set()
        desk.delivery.wait()
    assert sum("The study continues" in line for line in desk.said) == 2
    assert sum("available again" in line for line in desk.said) == 2


def test_one_failure_is_repeated_at_once(own_places: Path, store: Store) -> None:
    """However long the pauses are."""
    desk = Desk(store, RetryPolicy(wait_per_record=60, pauses=(3600,), give_up_after=60))
    store.up.clear()

    def once(envelope: Envelope, again: bool) -> str:
        try:
            return store.take(envelope, again)
        finally:
            store.up.set()

    desk.delivery._apply = once
    assert put(desk, "a") == ["id of a"]
    assert store.taken == [("a", True)]
    assert desk.said == []


def test_who_waits_for_the_end_is_not_kept_by_a_long_pause(own_places: Path, store: Store) -> None:
    desk = Desk(store, RetryPolicy(wait_per_record=60, pauses=(3600,), give_up_after=60))
    store.up.clear()
    put(desk, "a")
    store.up.set()
    desk.delivery.wait()
    assert store.taken == [("a", True)]
    desk.delivery.close()


def test_pauses_grow_to_a_limit() -> None:
    patience = RetryPolicy()
    assert [patience.pause(failures) for failures in range(1, 11)] == [0, 1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_an_error_is_for_whoever_waits_for_it(desk: Desk, store: Store) -> None:
    store.refuses = "b"
    assert put(desk, "a") == ["id of a"]
    with pytest.raises(TrackingError, match=r"^b is refused\.$"):
        put(desk, "b")
    assert put(desk, "c") == ["id of c"]
    assert not list_waiting()


def test_an_error_of_what_waited_ends_it_and_nothing_is_lost(desk: Desk, store: Store) -> None:
    store.up.clear()
    store.refuses = "b"
    put(desk, "a", "b", "c")
    store.up.set()
    for _ in range(2):
        with pytest.raises(
            TrackingError, match=r"b is refused\. 2 records are stored in .*; run the same command to send them"
        ):
            desk.delivery.wait()
    with pytest.raises(TrackingError, match="b is refused"):
        put(desk, "d")
    desk.delivery.leave(Envelope("end_run", 0, "e"))
    assert not desk.delivery.settle()
    desk.delivery.close()
    assert [one.run for one in desk.spool.load()] == ["b", "c", "e"]

    later = Desk(store, RetryPolicy())
    with pytest.raises(TrackingError, match=r"b is refused\. 3 records are stored"):
        later.delivery.send_stored()
    store.refuses = ""
    later.delivery.send_stored()
    assert store.taken == [("a", True), ("b", True), ("c", True), ("e", True)]


def test_a_slow_one_is_waited_for_no_longer_than_said(own_places: Path, store: Store) -> None:
    desk = Desk(store, RetryPolicy(wait_per_record=0.01, give_up_after=60))
    store.answers.clear()
    assert put(desk, "a", "b") == [None, None]
    assert desk.said == [
        f"MLflow did not answer within 0.01 s. The study continues; its records are stored in {desk.spool.folder}"
    ]
    store.answers.set()
    desk.delivery.wait()
    assert store.taken == [("a", False), ("b", False)]
    desk.delivery.close()


def test_a_process_that_slept_meanwhile_waits_again(
    own_places: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow had no time to answer either."""
    policy = RetryPolicy(wait_per_record=0.001, give_up_after=60)
    desk = Desk(store, policy)
    store.answers.clear()

    def wake() -> float:
        object.__setattr__(policy, "wait_per_record", 60)  # no limit on how long the answer may take now
        store.answers.set()
        return 4600.0

    clock = iter([lambda: 1000.0, wake])
    monkeypatch.setattr(delivery, "time", SimpleNamespace(monotonic=lambda: next(clock)()))
    assert put(desk, "a") == ["id of a"]
    assert desk.said == []
    desk.delivery.close()


def test_the_end_is_waited_for_no_longer_than_said(own_places: Path, store: Store) -> None:
    desk = Desk(store, RetryPolicy(wait_per_record=60, pauses=(0.001,), give_up_after=0))
    store.up.clear()
    put(desk, "a")
    with pytest.raises(TrackingUnavailableError, match=r"it is down\. 1 record is stored in .*; run the same command"):
        desk.delivery.wait()
    with pytest.raises(TrackingUnavailableError, match="it is down"):
        desk.delivery.read(lambda: "answer")
    desk.delivery.close()
    assert [one.run for one in desk.spool.load()] == ["a"]


def test_what_is_asked_is_asked_after_all_has_arrived_and_again(desk: Desk, store: Store) -> None:
    store.up.clear()
    put(desk, "a")
    asked: list[list[tuple[str, bool]]] = []

    def read() -> str:
        asked.append(list(store.taken))
        if len(asked) < 4:
            raise TrackingUnavailableError("it is down again.")
        return "answer"

    store.up.set()
    assert desk.delivery.read(read) == "answer"
    assert asked == [[("a", True)]] * 4
    assert [line for line in desk.said if "down again" in line] == [
        "it is down again. Waiting for MLflow; press Ctrl-C to stop, and run again to continue."
    ]


def test_a_question_with_a_wrong_answer_is_not_repeated(desk: Desk) -> None:
    asked: list[int] = []

    def read() -> None:
        asked.append(1)
        raise TrackingError("no such study")

    with pytest.raises(TrackingError, match="no such study"):
        desk.delivery.read(read)
    assert asked == [1]


def test_files_are_read_to_their_end_though_their_owner_is_gone(own_places: Path, store: Store, tmp_path: Path) -> None:
    """A slow upload goes on while the record with the same files is put on disk."""
    seen: list[str] = []
    reading = threading.Event()

    def upload(envelope: Envelope, again: bool) -> str:
        assert envelope.files is not None
        names = sorted(envelope.files.iterdir())
        reading.set()
        store.answers.wait(60)
        seen.extend(path.read_text() for path in names)
        return ""

    desk = Desk(store, RetryPolicy(wait_per_record=0.01, give_up_after=60))
    desk.delivery._apply = upload
    store.answers.clear()
    files = tmp_path / "files"
    files.mkdir()
    (files / "a").write_text("a")
    (files / "b").write_text("b")
    desk.delivery.put(Envelope("log_files", 0, "run", files=files))
    assert reading.wait(60)
    (kept,) = desk.spool.load()
    assert kept.files is not None
    assert sorted(path.name for path in kept.files.iterdir()) == ["a", "b"]
    store.answers.set()
    desk.delivery.wait()
    desk.delivery.close()
    assert seen == ["a", "b"]
    assert not files.exists()
    assert not list_waiting()
