from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading

import pytest

from cnnstudy.system import processes
from cnnstudy.system.processes import defer_interrupt, stop_if_asked, terminate_as_interrupt


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_is_an_interrupt_and_what_was_before_comes_back(number: signal.Signals) -> None:
    at_first = signal.signal(number, signal.default_int_handler)  # SIGHUP is ignored if the tests run under nohup
    try:
        with pytest.raises(KeyboardInterrupt), terminate_as_interrupt():
            os.kill(os.getpid(), number)
        assert signal.getsignal(number) is signal.default_int_handler
        stop_if_asked()
    finally:
        signal.signal(number, at_first)


def test_under_nohup_a_closed_terminal_is_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with terminate_as_interrupt():
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_within_some_blocks_an_interrupt_waits() -> None:
    done = []

    def work() -> None:
        with terminate_as_interrupt():
            with defer_interrupt():
                with defer_interrupt():
                    os.kill(os.getpid(), signal.SIGTERM)
                    done.append("the inner")
                done.append("the outer")
            done.append("what comes after")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == ["the inner", "the outer"]


def test_cleaning_up_after_an_interrupt_is_not_interrupted_by_it_again() -> None:
    done = []
    with terminate_as_interrupt():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except KeyboardInterrupt:
            with defer_interrupt():
                done.append("cleaned up")
    assert done == ["cleaned up"]


def test_an_interrupt_that_was_lost_is_heard_in_the_next_turn() -> None:
    with terminate_as_interrupt():
        with contextlib.suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            stop_if_asked()
    stop_if_asked()


def test_two_signals_at_once_are_one() -> None:
    with terminate_as_interrupt(leave_at_once=True):
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                os.kill(os.getpid(), number)
            except KeyboardInterrupt:
                assert number == signal.SIGINT


LEAVE = """
import os, signal
from cnnstudy.system import processes
processes.SAME_INTERRUPT_SECONDS = 0.0
with processes.terminate_as_interrupt(leave_at_once=True):
    try:
        os.kill(os.getpid(), signal.SIGINT)
    finally:
        print("cleaning up", flush=True)
        with processes.defer_interrupt():
            os.kill(os.getpid(), signal.SIGINT)
        print("never comes here", flush=True)
"""


def test_who_asks_twice_is_obeyed_at_once() -> None:
    done = subprocess.run([sys.executable, "-c", LEAVE], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (130, "cleaning up\n")
    assert "repairs what was left unfinished" in done.stderr


def test_where_it_does_not_leave_at_once_each_is_an_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "SAME_INTERRUPT_SECONDS", 0.0)
    heard = 0
    with terminate_as_interrupt():
        for _ in range(2):
            try:
                os.kill(os.getpid(), signal.SIGTERM)
            except KeyboardInterrupt:
                heard += 1
    assert heard == 2


def test_in_another_thread_signals_are_somebody_elses() -> None:
    seen = []

    def run() -> None:
        with terminate_as_interrupt():
            seen.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [before]
