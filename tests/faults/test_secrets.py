"""A password in the tracking URI or the environment leaks nowhere.

A canary is searched for in every byte that commands write, and in the command lines of processes while they run.
"""

from __future__ import annotations

import base64
import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy
from commanding import Commands, forking_commands
from faulty_store import BRIEF, Desk

from cnnstudy.errors import TrackingError
from cnnstudy.tracking import ui_server
from cnnstudy.tracking.client import Tracker
from cnnstudy.tracking.spool import list_waiting

HERE = Path(__file__).parent
CANARY = "kanarienvogel7391"
LOGIN = f"keeper:{CANARY}"
NEEDLES = (CANARY.encode(), base64.b64encode(LOGIN.encode()))
#: Seconds to wait for an expected event.
PATIENCE = 120.0
FILE = """
name: canary
data: {name: digits, classes: [0, 1, 2]}
image_size: 64
architectures: [alexnet]
factors: {transfer: [scratch, frozen], batch_size: [8, 16]}
weights: {default: {source: pretrain, epochs: 1, data: {name: digits, classes: [3, 4]}}}
training: {epochs: 1}
strategy: {sampler: grid}
budget: {trials: 2}
confirm: {top: 1, seeds: 2, most_seeds: 2}
"""


def is_in(content: bytes) -> bool:
    return any(needle in content for needle in NEEDLES)


def files_with_it(folder: Path) -> list[str]:
    """Return the files that contain the canary in their content or path."""
    found = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert found, "there are no files to search"
    return [str(path) for path in found if is_in(os.fsencode(path)) or is_in(path.read_bytes())]


class Watch(threading.Thread):
    """Watches the command lines of all processes, and the environment of workers, within a `with` block."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.hits: set[str] = set()
        self.workers: set[str] = set()
        self.servers: set[str] = set()
        self._over = threading.Event()

    def __enter__(self) -> Watch:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()

    def run(self) -> None:
        while not self._over.wait(0.02):
            for process in Path("/proc").glob("[0-9]*"):
                with contextlib.suppress(OSError):
                    command = (process / "cmdline").read_bytes()
                    self.hits |= {f"{process.name}: {command!r}"} if is_in(command) else set()
                    self.servers |= {process.name} if b"uvicorn" in command else set()
                    if b"fast_worker.py" in command:
                        environment = (process / "environ").read_bytes()
                        self.workers.add(process.name)
                        self.hits |= {f"{process.name}: its environment"} if is_in(environment) else set()


@pytest.fixture(scope="module")
def forks() -> Iterator[subprocess.Popen[str]]:
    with forking_commands() as process:
        yield process


@pytest.fixture
def commands(tmp_path: Path, forks: subprocess.Popen[str]) -> Commands:
    folder = tmp_path / "written"
    folder.mkdir()
    (folder / "canary.yaml").write_text(FILE, encoding="utf-8")
    environment = {
        "MLFLOW_TRACKING_USERNAME": "keeper",
        "MLFLOW_TRACKING_PASSWORD": CANARY,
        "MLFLOW_TRACKING_TOKEN": CANARY,
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    }
    return Commands(folder, forks, environment)


def run_all(commands: Commands, uri: str) -> Watch:
    """Run a study and all commands that read it."""
    with Watch() as watch:
        assert commands.run(uri, "run-study", "canary.yaml")[0] == 0, commands.said
        for arguments in (
            ["leaderboard", "canary", "--csv", "board.csv", "--markdown", "board.md"],
            ["report", "canary", "--no-open"],
            ["effects"],
            ["compare", "canary", "canary", "--html", "both.html"],
            ["leaderboard", "no-such-study"],
            ["predict", "canary/alexnet-000", "."],
            ["doctor"],
        ):
            code, said = commands.run(uri, *arguments)
            assert code in (0, 2, 3, 4), f"{arguments} ended with {code}: {said}"
            # the fast worker can't predict: this is the traceback of a worker that crashes
            assert ("Traceback" in said) == (arguments[0] == "predict"), said
        code, said = commands.run(uri, "ui", "--no-open", until="/#/experiments/")
        assert "http://127.0.0.1:" in said
    assert watch.workers, "no worker was seen"
    return watch


def test_a_password_of_a_database(
    commands: Commands, postgres: tuple[str, Callable[[str], None]], tmp_path: Path
) -> None:
    uri = postgres[0].replace("geheim", CANARY)
    watch = run_all(commands, uri)
    assert watch.servers, "no server was seen"
    assert watch.hits == set()
    assert files_with_it(commands.folder) == []
    engine = sqlalchemy.create_engine(uri)
    with engine.connect() as connection:
        tables = sqlalchemy.inspect(engine).get_table_names()
        rows = {table: connection.execute(sqlalchemy.text(f'SELECT * FROM "{table}"')).fetchall() for table in tables}
    engine.dispose()
    assert rows["tags"]
    assert [table for table, content in rows.items() if is_in(str(content).encode())] == []


def test_a_password_of_a_server(commands: Commands, empty_database: Path, tmp_path: Path) -> None:
    """The server's files are searched too."""
    store = tmp_path / "store"
    store.mkdir()
    (store / "mlflow.db").write_bytes(empty_database.read_bytes())
    with contextlib.chdir(store), ui_server.serve(f"sqlite:///{store / 'mlflow.db'}", None) as (base, _):
        watch = run_all(commands, base.replace("//", f"//{LOGIN}@"))
        assert f"{base}/#/experiments/" in commands.said
    assert watch.hits == set()
    assert files_with_it(commands.folder) == []
    assert len(list(store.rglob("*"))) > 10
    assert files_with_it(store) == []


@pytest.mark.parametrize(
    "uri",
    [
        f"http://{LOGIN}@127.0.0.1:9",
        f"http://127.0.0.1:9/base?sig={CANARY}",
        f"postgresql+psycopg2://{LOGIN}@127.0.0.1:9/postgres",
        f"postgresql+psycopg2://127.0.0.1:9/postgres?user=keeper&password={CANARY}",
        f"postgresql://keeper:'{CANARY}@127.0.0.1:no-port/postgres",
        f"mysql://{LOGIN}@127.0.0.1:9/mlflow",
        f"mssql+pyodbc:///?odbc_connect=SERVER%3D127.0.0.1%3BPWD%3D{CANARY}",
        f"nothing://{LOGIN}@127.0.0.1/mlflow",
    ],
    ids=lambda uri: uri.replace(CANARY, "X"),
)
def test_an_address_that_does_not_answer(commands: Commands, uri: str) -> None:
    with Watch() as watch:
        for arguments in (["run-study", "canary.yaml"], ["leaderboard"], ["doctor"], ["report"]):
            code, said = commands.run(uri, *arguments)
            assert code in (3, 4), said
            assert "Traceback" not in said
    assert watch.hits == set()
    assert files_with_it(commands.folder) == []


@pytest.mark.parametrize(
    "change",
    [
        f"data: {{name: folder, path: 'https://images.test/photos.zip?X-Amz-Signature={CANARY}'}}",
        f"data: {{name: folder, path: 'https://{LOGIN}@images.test/photos.zip'}}",
        f"weights: {{default: {{source: file, file: 'https://{LOGIN}@images.test/vgg.h5?key={CANARY}'}}}}",
    ],
    ids=["signature", "login", "weights"],
)
def test_an_address_in_a_study_file(commands: Commands, change: str) -> None:
    """No key takes a URL; the error must not show its secret."""
    key = change.partition(":")[0]
    lines = [change if line.startswith(f"{key}:") else line for line in FILE.splitlines()]
    file = commands.folder.parent / "own.yaml"
    file.write_text("\n".join(lines), encoding="utf-8")
    code, said = commands.run("sqlite:///mlflow.db", "run-study", str(file))
    assert code == 2, said
    assert "images.test" in said or "***" in said
    assert files_with_it(commands.folder) == []


def test_records_that_wait_on_disk(
    own_places: Path, monkeypatch: pytest.MonkeyPatch, empty_database: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The server stops during a study."""
    desk, store = Desk(own_places, monkeypatch), tmp_path_factory.mktemp("store")
    (store / "mlflow.db").write_bytes(empty_database.read_bytes())
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", CANARY)
    with contextlib.ExitStack() as running:
        base, _ = running.enter_context(ui_server.serve(f"sqlite:///{store / 'mlflow.db'}", None))
        desk.use(Tracker(base.replace("//", f"//{LOGIN}@")))
        with pytest.raises(TrackingError) as caught:
            desk.run(retry_policy=BRIEF, on_event=lambda event: running.close() if desk.trained else None)
    assert list_waiting()
    assert not is_in(f"{caught.value} {list_waiting()} {desk.said}".encode())
    assert not is_in("".join(traceback.format_exception_only(caught.value)).encode())
    assert files_with_it(own_places) == []


# ---- real processes

BROKEN = """
import sys
sys.argv = ["cnnstudy", "leaderboard"]
from cnnstudy import cli; from cnnstudy.tracking import client as tracking

def broken(self, uri, tells=False):
    password = uri.partition(":")[2].partition(":")[2].partition("@")[0]
    raise LookupError(f"nobody expected this of {uri}, {uri!r} and {password}")

tracking.Tracker.__init__ = broken
cli.main()
"""


def test_a_traceback() -> None:
    """An unexpected error, of a library that puts the URI into its message."""
    environment = {**os.environ, "MLFLOW_TRACKING_URI": f"postgresql://{LOGIN}@db.test/mlflow"}
    done = subprocess.run(
        [sys.executable, "-c", BROKEN], env=environment, cwd=HERE.parent.parent, capture_output=True, check=False
    )
    assert b"LookupError: nobody expected this of postgresql://***@db.test/mlflow" in done.stderr
    assert not is_in(done.stdout + done.stderr)


def test_a_password_on_the_command_line_leaves_the_list_of_processes() -> None:
    """The command line is read while the command waits for a server that never replies."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE)
        uri = f"http://{LOGIN}@127.0.0.1:{listener.getsockname()[1]}"
        process = subprocess.Popen(
            [sys.executable, "-m", "cnnstudy", "leaderboard", f"--tracking-uri={uri}", "--top", "3"],
            cwd=HERE.parent.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert process.stdout is not None
        with process:
            try:
                client, _ = listener.accept()
                with client:
                    asked = client.recv(1 << 16)
                    command = Path(f"/proc/{process.pid}/cmdline").read_bytes()
            finally:
                process.kill()
            said = process.stdout.read()
    assert base64.b64encode(LOGIN.encode()) in asked, "the server was not told the password"
    assert command.split(b"\0")[1:-1] == [b"-m", b"cnnstudy", b"leaderboard", b"--top", b"3"]
    assert b"MLFLOW_TRACKING_URI" in said
    assert not is_in(said)


# ---- the search itself


def test_the_search_finds_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "clean").write_text("nothing")
    assert files_with_it(tmp_path) == []
    (tmp_path / "a" / "b" / "log").write_bytes(b"\x00Authorization: Basic " + base64.b64encode(LOGIN.encode()))
    (tmp_path / "a" / CANARY).touch()
    assert len(files_with_it(tmp_path)) == 2
    sleeper = [sys.executable, "-c", "import time; print(flush=True); time.sleep(60)", f"--uri=http://{LOGIN}@host"]
    with Watch() as watch, subprocess.Popen(sleeper, stdout=subprocess.PIPE) as process:
        deadline = time.monotonic() + PATIENCE
        while not watch.hits and time.monotonic() < deadline:
            time.sleep(0.01)
        process.kill()
    assert watch.hits
