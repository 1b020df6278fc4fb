"""Real failures of real stores during a study: every record still arrives once, with its time.

A study is run undisturbed, then again with a failure from its first epoch until all that is left to do is wait.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from faulty_store import Desk, is_clean, whole_record

from cnnstudy.execution import Epoch, Event
from cnnstudy.tracking import outbox, ui_server
from cnnstudy.tracking.client import Tracker
from cnnstudy.tracking.retry import RetryPolicy

#: Stores slow records on disk soon, and retries quickly.
QUICK = RetryPolicy(wait_per_record=0.2, pauses=(0.05,), give_up_after=120)


@pytest.fixture
def desk(own_places: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    return Desk(own_places, monkeypatch)


def disturb(desk: Desk, folder: Path, begin: Callable[[], None], end: Callable[[], None]) -> None:
    """Run the study undisturbed and disturbed, and compare the records."""
    desk.run(retry_policy=QUICK)
    whole = desk.record()
    desk.put_aside("undisturbed")
    desk.begin()
    began: list[Event] = []

    def told(event: Event) -> None:
        if isinstance(event, Epoch) and not began:
            began.append(event)
            begin()

    desk.at_the_end(end)
    assert desk.run(retry_policy=QUICK, on_event=told).finished == 2
    assert began
    assert desk.told("waiting for MLflow"), "the study came to its end without a store"
    assert desk.record() == whole
    assert is_clean(folder)
    desk.on_say = lambda text: None
    desk.run()
    assert desk.trained == []


# ---- SQLite


def test_a_locked_database(desk: Desk, own_places: Path, empty_database: Path) -> None:
    """Another process has locked it, as a backup does."""
    path = shutil.copy(empty_database, own_places / "mlflow.db")
    desk.use(Tracker(f"sqlite:///{path}"))
    code = (
        "import sqlite3, sys\n"
        "sys.stdin.readline()\n"
        "connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=60)\n"
        "connection.execute('BEGIN EXCLUSIVE')\n"
        "print('locked', flush=True)\n"
        "sys.stdin.readline()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    with holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        ask, answer = holder.stdin, holder.stdout

        def lock() -> None:
            ask.write("lock\n")
            assert answer.readline() == "locked\n"

        disturb(desk, own_places, lock, ask.close)


@pytest.fixture
def read_only() -> Iterator[Callable[[Path, bool], None]]:
    """read_only(folder, wanted): make the files in the folder read-only or writable, also for root if possible."""
    folders = []

    def set_to(folder: Path, wanted: bool) -> None:
        if os.geteuid() == 0:
            subprocess.run(["chattr", "-R", "+i" if wanted else "-i", folder], check=True, capture_output=True)
        else:
            folder.chmod(0o555 if wanted else 0o755)
        folders.append(folder)

    yield set_to
    for folder in filter(Path.is_dir, folders):
        set_to(folder, False)


def test_a_read_only_database(
    desk: Desk, own_places: Path, empty_database: Path, read_only: Callable[[Path, bool], None]
) -> None:
    # not in pytest's folder, which pytest could not remove if this test were aborted
    with tempfile.TemporaryDirectory(prefix="read-only-", ignore_cleanup_errors=True) as name:
        folder = Path(name) / "database"
        folder.mkdir()
        try:
            read_only(folder, True)
            read_only(folder, False)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("this file system can't make files read-only for root")
        shutil.copy(empty_database, folder / "mlflow.db")
        desk.use(Tracker(f"sqlite:///{folder / 'mlflow.db'}"))
        disturb(desk, own_places, lambda: read_only(folder, True), lambda: read_only(folder, False))


# ---- a server


class Way(threading.Thread):
    """A proxy to a server that can lose a reply."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.port = port
        self.lose = b""  # lose the reply to the next request with this in its first line
        self.lost = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.start()

    def run(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._pass_on, args=(client,), daemon=True).start()

    def _pass_on(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)) as server:
            losing = threading.Event()
            back = threading.Thread(target=self._copy, args=(server, client, losing), daemon=True)
            back.start()
            while data := client.recv(1 << 16):
                if self.lose and self.lose in data.split(b"\r\n")[0]:
                    self.lose = b""
                    losing.set()
                server.sendall(data)
            server.shutdown(socket.SHUT_WR)
            back.join()

    def _copy(self, server: socket.socket, client: socket.socket, losing: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(1 << 16):
                if losing.is_set():
                    self.lost += 1
                    client.shutdown(socket.SHUT_RDWR)
                    return
                client.sendall(data)
            client.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.listener.close()


def test_a_trial_takes_few_requests(
    desk: Desk, own_places: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twelve, however many epochs follow each other fast, and one for each file, which MLflow uploads one by one."""
    monkeypatch.setattr(outbox, "METRICS_EVERY", math.inf)
    sent: list[str] = []
    send = requests.Session.send

    def counted(session: requests.Session, request: requests.PreparedRequest, **given: Any) -> requests.Response:
        sent.append(f"{request.method} {str(request.url).partition('/mlflow')[2].partition('?')[0]}")
        return send(session, request, **given)

    monkeypatch.setattr(requests.Session, "send", counted)
    path = shutil.copy(empty_database, own_places / "mlflow.db")
    with ui_server.serve(f"sqlite:///{path}", None) as (base, _):
        desk.use(Tracker(base))
        desk.run("budget.trials=1", "training.epochs=5")
    first, last = (len(sent) - 1 - sent[::-1].index(f"POST /runs/{what}") for what in ("log-inputs", "outputs"))
    trial = sent[first - 3 : last + 3]  # the study's own run has inputs, too
    uploads = [request for request in trial if request.startswith("PUT")]
    assert len(trial) - len(uploads) == 12, trial
    assert len(uploads) == len(set(uploads))


def test_a_server_that_is_stopped_and_started_again(
    desk: Desk, own_places: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also, a reply is lost after each kind of request that creates something."""
    path = shutil.copy(empty_database, own_places / "mlflow.db")
    with contextlib.ExitStack() as whole:
        running = whole.enter_context(contextlib.ExitStack())
        base, _ = running.enter_context(ui_server.serve(f"sqlite:///{path}", None))
        port = int(base.rpartition(":")[2])

        def start() -> None:
            running.enter_context(ui_server.serve(f"sqlite:///{path}", port))

        way = Way(port)
        whole.callback(way.close)
        desk.use(Tracker(way.address))
        disturb(desk, own_places, running.close, start)

        desk.put_aside("restarted")
        desk.begin()
        makes = [b"/runs/create", b"/logged-models ", b"/outputs"]

        def lose(event: Event) -> None:
            if isinstance(event, Epoch) or event.key == "images-digits":
                way.lose = makes.pop(0) if makes and not way.lose else way.lose

        desk.run(on_event=lose, retry_policy=RetryPolicy(wait_per_record=60, pauses=(0.05,), give_up_after=60))
        assert (way.lost, makes) == (3, [])
        undisturbed = desk.tracker._client.get_experiment_by_name("undisturbed").experiment_id
        assert desk.record() == whole_record(desk.tracker, undisturbed)


# ---- PostgreSQL


def test_postgresql_stopped_and_started_again(
    desk: Desk, own_places: Path, postgres: tuple[str, Callable[[str], None]]
) -> None:
    uri, control = postgres
    desk.use(Tracker(uri))
    disturb(desk, own_places, lambda: control("stop"), lambda: control("start"))
    assert "geheim" not in "".join(desk.said)


def test_postgresql_restarted_between_two_writes(
    desk: Desk, own_places: Path, postgres: tuple[str, Callable[[str], None]]
) -> None:
    """All its connections break; retries hide that."""
    uri, control = postgres
    desk.use(Tracker(uri))
    restarts: list[Event] = []

    def restart(event: Event) -> None:
        if isinstance(event, Epoch):
            restarts.append(event)
            control("stop")
            control("start")

    patient = RetryPolicy(wait_per_record=60, give_up_after=60)
    assert desk.run(retry_policy=patient, on_event=restart).finished == 2
    assert len(restarts) == 2
    assert desk.told("MLflow") == []
