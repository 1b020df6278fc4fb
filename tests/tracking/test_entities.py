"""How MLflow's client is told to behave."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading

import boto3
import pytest
from mlflow.store.artifact import s3_artifact_repo
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from cnnstudy.errors import TrackingError
from cnnstudy.tracking.entities import fit_tag, with_file_timeout, without_client_retries
from cnnstudy.tracking.recorded import LONGEST_TAG

RETRIES, TIMEOUT = "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"


def test_what_is_sent_once_is_sent_once_by_all_threads_and_what_held_before_holds_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(RETRIES, "5")
    inside, leave = threading.Event(), threading.Event()

    def send() -> None:
        with without_client_retries():
            inside.set()
            leave.wait(60)

    other = threading.Thread(target=send)
    with without_client_retries():
        other.start()
        assert inside.wait(60)
        assert os.environ[RETRIES] == "0"
    assert os.environ[RETRIES] == "0", "the other one is not done"
    leave.set()
    other.join()
    assert os.environ[RETRIES] == "5"


def test_an_error_leaves_it_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RETRIES, "5")
    with pytest.raises(ZeroDivisionError), without_client_retries():
        raise ZeroDivisionError
    assert os.environ[RETRIES] == "5"


def test_a_server_that_says_nothing_is_not_waited_for_long_but_files_may_take_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(TIMEOUT, "15")
    monkeypatch.setattr("cnnstudy.tracking.entities.TIMEOUT_IS_DEFAULT", True)
    with with_file_timeout():
        assert os.environ[TIMEOUT] == "120"
    assert os.environ[TIMEOUT] == "15"


@pytest.mark.parametrize(("given", "plain", "files"), [(None, "15", "120"), ("7", "7", "7")])
def test_the_users_own_timeout_holds(given: str | None, plain: str, files: str) -> None:
    code = (
        "import os; from cnnstudy.tracking.entities import with_file_timeout; name = 'MLFLOW_HTTP_REQUEST_TIMEOUT'\n"
        "print(os.environ[name])\nwith with_file_timeout(): print(os.environ[name])"
    )
    environment = {name: value for name, value in os.environ.items() if name != TIMEOUT}
    environment |= {TIMEOUT: given} if given else {}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split() == [plain, files]


def test_a_long_text_is_cut_and_json_is_not() -> None:
    assert fit_tag("message", "x" * 6000) == "x" * LONGEST_TAG
    assert fit_tag("message", "[Errno 28] " + "x" * 6000).startswith("[Errno 28] x")
    fits = json.dumps(["x" * (LONGEST_TAG - 4)])
    assert fit_tag("list", fits) == fits
    with pytest.raises(TrackingError, match="the tag list is JSON of 5001 characters; MLflow allows 5000"):
        fit_tag("list", json.dumps(["x" * (LONGEST_TAG - 3)]))


@pytest.mark.parametrize(("given", "tries"), [(None, 2), ("4", 4)])
def test_s3_fails_about_as_soon_as_a_server(given: str | None, tries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its libraries would take three minutes (MLflow has no setting for that)."""
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "DEFAULT_REGION"):
        monkeypatch.setenv(f"AWS_{name}", "any")
    monkeypatch.delenv("AWS_MAX_ATTEMPTS", raising=False)
    if given is not None:
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", given)
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    s3_artifact_repo._cached_get_s3_client.cache_clear()
    for _ in range(2):  # a session that is there stays
        config = get_artifact_repository("s3://bucket/files")._get_s3_client().meta.config
        assert (config.connect_timeout, config.read_timeout) == (10, 15)
        assert config.retries["total_max_attempts"] == tries
