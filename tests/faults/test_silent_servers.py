"""Commands that answer once, and a server that refuses, is busy, or says that it is well and answers no more."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import boto3
import pytest
from commanding import Commands, forking_commands

from cnnstudy.errors import TrackingUnavailableError
from cnnstudy.tracking import entities, registry, retry
from cnnstudy.tracking.client import Tracker
from cnnstudy.tracking.registry import Registry, StoredModel

COMMANDS = {
    "leaderboard": ("leaderboard",),
    "effects": ("effects",),
    "report": ("report",),
    "compare": ("compare", "one", "other"),
    "watch": ("watch",),
    "ui": ("ui", "--no-open"),
    "predict": ("predict", "models:/one@champion", "photo.png"),
    "export": ("export", "one/alexnet-000", "out"),
    "reproduce": ("reproduce", "one/alexnet-000"),
    "features": ("features", "export", "one/alexnet-000", "--to", "features.npz"),
}


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    with forking_commands() as process:
        # each request once, for a second: MLflow's client takes the rest of the time as it is told
        patience = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "1"}
        made = Commands(tmp_path_factory.mktemp("silent"), process, patience)
        (made.folder / "photo.png").touch()
        yield made


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, str]]:
    """The addresses of a server that refuses, one that is busy, and one that is well and does not answer."""
    over = threading.Event()

    class Busy(BaseHTTPRequestHandler):
        waits = False

        def do_GET(self) -> None:
            if self.waits and not self.path.endswith("/health"):
                over.wait(600)
            self.send_response(200 if self.path.endswith("/health") else 503)
            self.end_headers()

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, *arguments: object) -> None:
            pass

    class Silent(Busy):
        waits = True

    made = {
        "busy": ThreadingHTTPServer(("127.0.0.1", 0), Busy),
        "silent": ThreadingHTTPServer(("127.0.0.1", 0), Silent),
    }
    for server in made.values():
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
    yield {
        "refusing": "http://127.0.0.1:9",
        **{name: f"http://127.0.0.1:{server.server_port}" for name, server in made.items()},
    }
    over.set()
    for server in made.values():
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("server", ["refusing", "busy", "silent"])
@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_gives_up_and_names_the_place(
    name: str, server: str, commands: Commands, servers: dict[str, str]
) -> None:
    code, said = commands.run(servers[server], *COMMANDS[name])
    assert code == 3, said
    assert "Traceback" not in said
    last = said.splitlines()[-1]
    assert last.startswith(f"error: MLflow at {servers[server]} failed: "), said


def test_a_store_that_does_not_list_its_files_is_not_asked_for_them(
    tracker: Tracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file may take minutes to come, and each is tried several times."""

    class Down:
        def list_artifacts(self) -> list[str]:
            heard.wait(60)
            raise ConnectionError("nobody is there")

    heard, told = threading.Event(), []

    def hear(text: str) -> None:
        told.append(text)
        heard.set()

    place = "s3://user:secret@bucket/model"
    monkeypatch.setattr(retry, "_TELLING", retry.RetryPolicy(say_after=0.001))
    monkeypatch.setattr(retry, "print_error", hear)
    monkeypatch.setattr(registry, "get_artifact_repository", lambda location, uri: Down())
    monkeypatch.setattr(registry, "download_artifacts", lambda **given: pytest.fail("it was asked"))
    tracker.tells = True
    model = StoredModel("models:/one@champion", place, None, "one/alexnet-000")
    with pytest.raises(TrackingUnavailableError) as caught:
        Registry(tracker).fetch_folder(model, tmp_path)
    where = "s3://***@bucket/model"
    assert str(caught.value) == f"can't get the files of models:/one@champion from {where}: nobody is there"
    assert told[0].startswith(f"waiting for the files at {where}, for ")


def test_files_in_s3_that_never_come(
    tracker: Tracker, servers: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "DEFAULT_REGION"):
        monkeypatch.setenv(f"AWS_{name}", "any")
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", servers["silent"])
    monkeypatch.setattr(entities, "_S3_READ_TIMEOUT", 1)
    monkeypatch.setattr(entities, "_S3_ATTEMPTS", 1)
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    model = StoredModel("models:/one@champion", "s3://bucket/model", None, "one/alexnet-000")
    with pytest.raises(TrackingUnavailableError, match="Read timeout on endpoint"):
        Registry(tracker).fetch_folder(model, tmp_path)
