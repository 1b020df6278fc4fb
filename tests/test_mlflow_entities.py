"""How MLflow's client is told to behave."""

from __future__ import annotations

import os
import threading

import pytest

from cnnstudy.mlflow_entities import sent_once

RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"


def test_what_is_sent_once_is_sent_once_by_all_threads_and_what_held_before_holds_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(RETRIES, "5")
    inside, leave = threading.Event(), threading.Event()

    def send() -> None:
        with sent_once():
            inside.set()
            leave.wait(60)

    other = threading.Thread(target=send)
    with sent_once():
        other.start()
        assert inside.wait(60)
        assert os.environ[RETRIES] == "0"
    assert os.environ[RETRIES] == "0", "the other one is not done"
    leave.set()
    other.join()
    assert os.environ[RETRIES] == "5"


def test_an_error_leaves_it_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RETRIES, "5")
    with pytest.raises(ZeroDivisionError), sent_once():
        raise ZeroDivisionError
    assert os.environ[RETRIES] == "5"
