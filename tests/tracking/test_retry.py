"""Which errors go away: those that the libraries really raise."""

from __future__ import annotations

import errno
import re
import shutil
import socket
import sqlite3
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from mlflow.exceptions import MlflowException, RestException
from mlflow.protos.databricks_pb2 import (
    BAD_REQUEST,
    INTERNAL_ERROR,
    INVALID_PARAMETER_VALUE,
    PERMISSION_DENIED,
    REQUEST_LIMIT_EXCEEDED,
    RESOURCE_DOES_NOT_EXIST,
    TEMPORARILY_UNAVAILABLE,
    UNAUTHENTICATED,
)
from sqlalchemy.exc import IntegrityError, InterfaceError, InternalError, OperationalError, PendingRollbackError

from cnnstudy.errors import TrackingError, TrackingUnavailableError
from cnnstudy.tracking import retry
from cnnstudy.tracking.client import Tracker, existing_tracker
from cnnstudy.tracking.retry import RetryPolicy, is_disk_full, is_server, is_transient

NOBODY = "http://127.0.0.1:9"


def wrapped(cause: Exception, code: int) -> MlflowException:
    """As MLflow's session wraps what the database raised."""
    try:
        try:
            raise cause
        except Exception as error:
            raise MlflowException(str(error), code) from error
    except MlflowException as found:
        return found


def database(kind: type[Any], text: str) -> Any:
    return kind("INSERT INTO runs", {}, Exception(text))


def store_error(name: str, status: int | None = None, base: str = "BotoCoreError", text: str = "no") -> Exception:
    """Return an error as botocore, which need not be installed, raises it."""
    parent = type(base, (Exception,), {"__module__": "botocore.exceptions"})
    error: Exception = type(name, (parent,), {"__module__": "botocore.exceptions"})(text)
    if status is not None:
        error.response = {"ResponseMetadata": {"HTTPStatusCode": status}}  # type: ignore[attr-defined]
    return error


def upload_failed(cause: Exception) -> Exception:
    """Return what boto3 makes of an error while it uploads a file."""
    error: Exception = type("S3UploadFailedError", (Exception,), {"__module__": "boto3.exceptions"})("Failed to upload")
    error.__context__ = cause
    return error


def download_failed(text: str) -> MlflowException:
    """Return what MLflow makes of errors while it downloads a folder: their text alone."""
    return MlflowException(f"The following failures occurred while downloading one or more artifacts from s3:\n{text}")


GOES_AWAY = {
    "store is down": store_error("EndpointConnectionError", base="ConnectionError"),
    "store breaks off": store_error("ConnectionClosedError", base="HTTPClientError"),
    "store is busy": upload_failed(store_error("ClientError", 503)),
    "store is down, download": download_failed('##### File a #####\nCould not connect to the endpoint URL: "http://x"'),
    "store is busy, download": download_failed("##### File a #####\nAn error occurred (503) when calling"),
    "server of files is down": download_failed("##### File a #####\n503 Server Error: Unavailable for url: http://x"),
    "locked": wrapped(database(OperationalError, "database is locked"), TEMPORARILY_UNAVAILABLE),
    "read-only": wrapped(database(OperationalError, "attempt to write a readonly database"), TEMPORARILY_UNAVAILABLE),
    "cursor of a broken connection": wrapped(database(InterfaceError, "connection already closed"), BAD_REQUEST),
    "a standby": wrapped(database(InternalError, "cannot execute INSERT in a read-only transaction"), BAD_REQUEST),
    "after a failed transaction": wrapped(PendingRollbackError("can't reconnect"), BAD_REQUEST),
    "engine": database(OperationalError, "could not connect to server: Connection refused"),
    "pool": sqlalchemy.exc.TimeoutError("QueuePool limit of size 5 reached"),
    "busy server": MlflowException("slow down", REQUEST_LIMIT_EXCEEDED),
    "server's own trouble": RestException({"error_code": "INTERNAL_ERROR", "message": "boom"}),
    "server's database": RestException({"error_code": "BAD_REQUEST", "message": "(psycopg2.InterfaceError) closed"}),
    "bad gateway": MlflowException("API request to endpoint /x failed with error code 502 != 200", INTERNAL_ERROR),
    "reset": ConnectionResetError("by peer"),
    "timeout": TimeoutError("timed out"),
    "full": OSError(errno.ENOSPC, "No space left on device"),
    "read-only files": OSError(errno.EROFS, "Read-only file system"),
}
STAYS = {
    "no right in the store": upload_failed(store_error("ClientError", 403)),
    "no such bucket": store_error("ClientError", 404),
    "no credentials": store_error("NoCredentialsError"),
    "no right, download": download_failed("##### File a #####\nAn error occurred (403) when calling"),
    "no password": wrapped(
        database(OperationalError, "FATAL:  password authentication failed"), TEMPORARILY_UNAVAILABLE
    ),
    "twice": wrapped(database(IntegrityError, "UNIQUE constraint failed"), BAD_REQUEST),
    "deleted": MlflowException("the experiment must be in the 'active' state", INVALID_PARAMETER_VALUE),
    "gone": MlflowException("no such run", RESOURCE_DOES_NOT_EXIST),
    "who are you": MlflowException("you are not authenticated", UNAUTHENTICATED),
    "not you": RestException({"error_code": "PERMISSION_DENIED", "message": "no"}),
    "not you here": MlflowException("no", PERMISSION_DENIED),
    "unsaid": MlflowException("something is wrong with what was given"),
    "a mistake of ours": wrapped(TypeError("not a number"), INTERNAL_ERROR),
    "no file": FileNotFoundError(errno.ENOENT, "No such file or directory"),
    "no driver": ModuleNotFoundError("No module named 'psycopg2'"),
    "not found": MlflowException("API request to endpoint /x failed with error code 404 != 200", INTERNAL_ERROR),
}


@pytest.mark.parametrize("name", GOES_AWAY)
def test_it_goes_away(name: str) -> None:
    assert is_transient(GOES_AWAY[name])


@pytest.mark.parametrize("name", STAYS)
def test_it_stays(name: str) -> None:
    assert not is_transient(STAYS[name])


def test_a_full_disk_is_found_in_what_was_wrapped(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").touch()

    def full(source: str, target: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", target)

    with pytest.raises(shutil.Error) as caught:
        shutil.copytree(tmp_path / "a", tmp_path / "b", copy_function=full)
    assert is_disk_full(caught.value)
    assert is_disk_full(wrapped(OSError(errno.EDQUOT, "Disk quota exceeded"), INTERNAL_ERROR))
    assert is_disk_full(wrapped(database(OperationalError, "database or disk is full"), TEMPORARILY_UNAVAILABLE))
    assert not is_disk_full(GOES_AWAY["locked"])


# ---- what a tracker makes of it


def test_a_locked_sqlite_database(tmp_path: Path) -> None:
    """Its own words, less the twenty seconds that MLflow waits for them."""
    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path / 'a.db'}", connect_args={"timeout": 0})
    holder = sqlite3.connect(tmp_path / "a.db", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(OperationalError, match="database is locked") as caught, engine.connect() as connection:
        connection.execute(sqlalchemy.text("CREATE TABLE runs (id TEXT)"))
    holder.close()
    engine.dispose()
    assert is_transient(caught.value)


@pytest.fixture
def answering() -> Iterator[Callable[..., str]]:
    """answering(status, text): the address of a server that says nothing else, each time after `before`."""
    servers = []

    def make(status: int, text: str, before: Callable[[], object] = lambda: None) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                before()
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *arguments: object) -> None:
                pass

        servers.append(HTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield make
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "text", "later"),
    [
        (500, '{"error_code": "INTERNAL_ERROR", "message": "boom"}', True),
        (503, "not now", True),
        (502, "<html>bad gateway</html>", True),
        (401, "You are not authenticated.", False),
        (403, "Permission denied", False),
        (404, '{"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no"}', False),
        (400, '{"error_code": "INVALID_PARAMETER_VALUE", "message": "no"}', False),
    ],
)
def test_what_a_server_answers(answering: Callable[..., str], status: int, text: str, later: bool) -> None:
    tracker = Tracker(answering(status, text))
    with pytest.raises(TrackingError) as caught:
        tracker.log_metrics("0" * 32, {"val/accuracy": 1.0}, 1)
    assert isinstance(caught.value, TrackingUnavailableError) == later


def test_a_server_that_is_not_there(answering: Callable[..., str]) -> None:
    tracker = Tracker(NOBODY)
    with pytest.raises(TrackingUnavailableError, match=r"127\.0\.0\.1:9"):
        tracker.set_tags("0" * 32, {"a": "b"})


@pytest.mark.parametrize(("uri", "expected"), [("sqlite:///mlflow.db", False), ("https://team/mlflow", True)])
def test_only_a_server_has_a_ui_of_its_own(uri: str, expected: bool) -> None:
    assert is_server(uri) is expected


# ---- what an error means to the user


@pytest.fixture
def no_login(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_USERNAME", "HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)


def said(uri: str) -> str:
    with pytest.raises(TrackingError) as caught:
        Tracker(uri).log_metrics("0" * 32, {"val/accuracy": 1.0}, 1)
    return str(caught.value)


@pytest.mark.usefixtures("no_login")
@pytest.mark.parametrize("text", ["You are not authenticated.", '{"error_code": "UNAUTHENTICATED", "message": "no"}'])
def test_a_missing_login(answering: Callable[..., str], monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    uri = answering(401, text)
    wants = "wants a login; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
    assert said(uri) == f"the tracking server at {uri} {wants}"
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "bob")
    assert said(uri).endswith("refuses MLFLOW_TRACKING_USERNAME (bob) or its password; correct them")
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME")
    answer = said(uri.replace("//", "//bob:hidden@"))
    assert answer.endswith("refuses the login in its address or its password; correct them")
    assert "hidden" not in answer


@pytest.mark.usefixtures("no_login")
@pytest.mark.parametrize("text", ["Permission denied", '{"error_code": "PERMISSION_DENIED", "message": "no"}'])
def test_a_missing_right(answering: Callable[..., str], monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "bob")
    answer = said(answering(403, text))
    assert "does not allow MLFLOW_TRACKING_USERNAME (bob) to do this" in answer
    assert "the permission EDIT is missing. Ask the experiment's owner or an administrator" in answer
    assert "--set name=" in answer


@pytest.mark.usefixtures("no_login")
def test_no_connection_and_a_proxy_that_swallows_this_machine(
    answering: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = rf"MLflow at {NOBODY} failed: no connection: \[Errno \d+\] Connection refused"
    assert re.fullmatch(refused, said(NOBODY))
    monkeypatch.setenv("HTTP_PROXY", answering(503, "<html>no such host</html>"))
    assert "set NO_PROXY=127.0.0.1 to leave it out" in said(NOBODY)
    assert "that HTTP_PROXY names" in said(NOBODY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert re.fullmatch(refused, said(NOBODY))


def test_a_wait_is_told_again_and_again() -> None:
    """Also while MLflow has not answered at all."""
    expected = [
        "MLflow has not answered yet. Waiting for MLflow, for ",
        "the database is locked. Waiting for MLflow, for ",
    ]
    told = [threading.Event(), threading.Event()]
    tries, before = iter(told), set(threading.enumerate())

    def say(text: str) -> None:
        for event, words in zip(told, expected, strict=True):
            if text.startswith(words):
                event.set()

    def read() -> str:
        event = next(tries)
        assert event.wait(60)
        if event is told[0]:
            raise TrackingUnavailableError("the database is locked")
        return "read"

    assert RetryPolicy(pauses=(0.01,), give_up_after=60, say_after=0.01).call(read, say) == "read"
    assert "cnnstudy-waiting" not in {thread.name for thread in set(threading.enumerate()) - before}


def test_an_interrupt_while_the_telling_starts_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would tell of a wait that is over for as long as the process lives."""
    started: list[threading.Thread] = []
    start = threading.Thread.start

    def start_and_interrupt(thread: threading.Thread) -> None:
        started.append(thread)
        start(thread)
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", start_and_interrupt)
    with pytest.raises(KeyboardInterrupt), RetryPolicy(say_after=3600).saying(lambda: "", lambda text: None):
        pytest.fail("the wait began")
    (thread,) = started
    assert not thread.is_alive()


def test_an_interrupt_before_the_telling_starts_is_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(thread: threading.Thread) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", interrupt)
    with pytest.raises(KeyboardInterrupt), RetryPolicy().saying(lambda: "", lambda text: None):
        pytest.fail("the wait began")


# ---- a server's first sign of life


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a server that accepts connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://user:secret@127.0.0.1:{listening.getsockname()[1]}/"


def test_a_server_that_never_answers_is_told_of_and_given_up(
    silent: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(retry, "TIMEOUT_IS_DEFAULT", True)  # not so in a process that another one has started
    monkeypatch.setattr(retry, "_PATIENCE", (0.1, 0.2, 0.7))
    with pytest.raises(TrackingUnavailableError, match=r"the tracking server at .* does not answer\. Restart it, or"):
        Tracker(silent)
    lines = capsys.readouterr().err.splitlines()
    assert [line.rpartition(" answered for ")[2] for line in lines] == ["0.1 s", "0.3 s", "1 s"]
    assert not any("secret" in line for line in lines)


def test_a_command_that_reads_says_which_answer_it_waits_for(
    answering: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a server says that it is well, and answers no more; only such a command, for a study tells of its own."""
    told: list[str] = []
    heard, refusal = threading.Event(), '{"error_code": "PERMISSION_DENIED", "message": "no"}'

    def hear(text: str) -> None:
        told.append(text)
        heard.set()

    monkeypatch.setattr(retry, "print_error", hear)
    monkeypatch.setattr(retry, "_TELLING", RetryPolicy(say_after=0.001))
    uri = answering(403, refusal, lambda: heard.wait(60))
    with pytest.raises(TrackingError, match="does not allow"):
        Tracker(uri.replace("//", "//bob:secret@"), tells=True).studies()
    assert heard.is_set()
    assert {re.sub(r"\d+ s", "1 s", text) for text in told} == {
        f"waiting for MLflow at {uri.replace('//', '//***@')}, for 1 s so far"
    }
    told.clear()
    with pytest.raises(TrackingError, match="does not allow"):
        Tracker(answering(403, refusal)).studies()
    assert told == []


def test_a_locked_database_is_said_to_be_waited_for(
    tracker: Tracker, own_places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder = sqlite3.connect(own_places / "mlflow.db", isolation_level=None, check_same_thread=False)
    holder.execute("BEGIN EXCLUSIVE")
    told: list[str] = []

    def release(text: str) -> None:
        if not told:
            holder.execute("ROLLBACK")
        told.append(text)

    monkeypatch.setattr(retry, "print_error", release)
    monkeypatch.setattr(retry, "_TELLING", RetryPolicy(say_after=0.001))
    assert existing_tracker("sqlite:///mlflow.db").studies() == []
    assert told[0].startswith("waiting for MLflow at sqlite:///mlflow.db, for ")
    holder.close()


@pytest.mark.parametrize("timeout_is_default", [True, False])
def test_any_other_trouble_is_left_to_mlflow(
    silent: str, timeout_is_default: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(retry, "TIMEOUT_IS_DEFAULT", timeout_is_default)
    for uri in ("sqlite:///mlflow.db", "http://127.0.0.1:1", "http://[broken", "http://127.0.0.1:99999", "databricks"):
        retry.await_answer(uri)
    if not timeout_is_default:
        retry.await_answer(silent)
    assert capsys.readouterr().err == ""


def test_a_damaged_database_is_told_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(bytes(range(256)) * 20)
    with pytest.raises(TrackingError, match=r"file is not a database\. The file is damaged: put a copy of it back, or"):
        Tracker(f"sqlite:///{tmp_path / 'mlflow.db'}").studies()
