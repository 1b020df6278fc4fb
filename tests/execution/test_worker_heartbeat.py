from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import pytest

from cnnstudy.execution import worker
from cnnstudy.execution.worker import Heartbeat


def test_a_thread_that_waits_does_not_get_on() -> None:
    go, done, end = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        go.wait()
        sum(range(100_000))
        done.set()
        end.wait()

    thread = threading.Thread(target=work)
    thread.start()
    assert thread.ident is not None
    watched = Heartbeat(thread.ident, lambda: None)
    while watched.has_run():  # until it waits
        time.sleep(0.01)
    assert not watched.has_run()
    go.set()
    done.wait()
    assert watched.has_run()
    while watched.has_run():
        time.sleep(0.01)
    assert not watched.has_run()
    end.set()
    thread.join()


def test_where_a_thread_has_no_clock_of_its_own_the_process_has(monkeypatch: pytest.MonkeyPatch) -> None:
    used = iter([(5.0, 1.0), (6.0, 2.0), (7.0, 2.0)])  # of the process, of the thread that looks

    def both() -> tuple[float, float]:
        return next(used)

    now = [0.0, 0.0]

    def process_time() -> float:
        now[:] = both()
        return now[0]

    monkeypatch.setattr(worker, "time", SimpleNamespace(process_time=process_time, thread_time=lambda: now[1]))
    watched = Heartbeat(1, lambda: None)
    assert not watched.has_run()
    assert watched.has_run()
