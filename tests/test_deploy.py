"""What deploy/ runs works, and what it describes is well-formed.

The tracking server runs where PostgreSQL, nanio and Flask-WTF are installed; .ci/run installs them where it can.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
from faulty_store import Desk
from ruamel.yaml import YAML

from cnnstudy.errors import TrackingError
from cnnstudy.tracking import outbox
from cnnstudy.tracking.client import Tracker

DEPLOY = Path(__file__).parent.parent / "deploy"
SCRIPT = DEPLOY / "tracking_server.py"
NAMES = ("MLFLOW_AUTH_ADMIN_PASSWORD", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


class Server:
    """A tracking server that was started with the script."""

    def __init__(self, folder: Path, port: int, store_port: int) -> None:
        self.folder, self.address, self.store = folder, f"http://127.0.0.1:{port}", f"http://127.0.0.1:{store_port}"
        lines = (folder / "secrets.env").read_text(encoding="utf-8").splitlines()
        self.secrets = dict(line.split("=", 1) for line in lines)

    def ask(self, path: str, body: dict[str, str]) -> None:
        """Send a request of the administrator's."""
        answer = requests.post(
            f"{self.address}/api/{path}",
            json=body,
            auth=("admin", self.secrets["MLFLOW_AUTH_ADMIN_PASSWORD"]),
            timeout=120,
        )
        assert answer.status_code == 200, answer.text


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    pytest.importorskip("nanio")
    pytest.importorskip("flask_wtf")
    pytest.importorskip("psycopg2")
    if not [*Path("/usr/lib/postgresql").glob("*/bin/initdb")] and not shutil.which("initdb"):
        pytest.skip("no PostgreSQL server is installed")
    with contextlib.ExitStack() as probes:
        ports = [probes.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1] for _ in range(2)]
    with tempfile.TemporaryDirectory(prefix="tracking-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o755)  # PostgreSQL's user must reach its folder
        command = [sys.executable, str(SCRIPT), name, "--port", str(ports[0]), "--store-port", str(ports[1])]
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "AWS_"))}
        with subprocess.Popen(
            [*command, "--workers", "1"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        ) as process:
            try:
                assert process.stdout is not None
                said = []
                for line in process.stdout:
                    said.append(line)
                    if line.startswith("Ctrl-C stops it"):
                        break
                assert said[-1].startswith("Ctrl-C"), "".join(said)
                made = Server(Path(name), *ports)
                assert not [value for value in made.secrets.values() if value in "".join(said)]
                for user in ("anna", "ben"):
                    made.ask("2.0/mlflow/users/create", {"username": user, "password": f"{user} has a password"})
                yield made
            finally:
                process.send_signal(signal.SIGTERM)
                process.wait(60)


@pytest.fixture
def log_in(server: Server, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Tracker]:
    """log_in(user, password): set the environment of a user, and return the tracker."""
    for name in NAMES[1:]:
        monkeypatch.setenv(name, server.secrets[name])
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", server.store)

    def act(user: str, password: str = "") -> Tracker:
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", user)
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password or f"{user} has a password")
        return Tracker(server.address)

    return act


def test_several_people_and_one_study(
    server: Server, log_in: Callable[..., Tracker], own_places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One begins it; another reads it, may not continue it, and does once she lets him."""
    desk = Desk(own_places, monkeypatch)
    desk.use(log_in("anna"))
    assert desk.run("budget.trials=1").finished == 1
    study = desk.tracker.study("fake")
    assert desk.tracker.artifact_location(study.experiment_id).startswith("s3://mlflow/")
    assert [*(server.folder / "files" / "mlflow").rglob("MLmodel")], "the model went to the store"

    desk.use(log_in("ben"))
    (run,) = desk.runs()
    assert desk.tracker.read_text(run.run_id, "trial.json"), "he reads her files"
    with pytest.raises(TrackingError, match=r"does not allow MLFLOW_TRACKING_USERNAME \(ben\).* EDIT is missing"):
        desk.run("budget.trials=2")
    assert len(desk.runs()) == 1

    right = {"username": "ben", "resource_type": "experiment", "resource_id": study.experiment_id, "permission": "EDIT"}
    server.ask("3.0/mlflow/users/permissions/grant", right)
    assert desk.run("budget.trials=2").finished == 2
    assert desk.trained == ["alexnet-001"], "only what was missing"
    desk.use(log_in("anna"))
    assert [one.state for one in desk.runs()] == ["finished", "finished"]

    with pytest.raises(TrackingError, match=r"refuses MLFLOW_TRACKING_USERNAME \(anna\) or its password"):
        log_in("anna", "a wrong password").studies()
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME")
    monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD")
    with pytest.raises(TrackingError, match="wants a login; set MLFLOW_TRACKING_USERNAME"):
        Tracker(server.address).studies()


def test_a_trial_takes_twelve_requests_to_the_server(
    log_in: Callable[..., Tracker], own_places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files go to the store: by no way through the server."""
    sent: list[str] = []
    send = requests.Session.send

    def counted(session: requests.Session, request: requests.PreparedRequest, **given: object) -> requests.Response:
        sent.append(f"{request.method} {str(request.url).partition('/mlflow')[2].partition('?')[0]}")
        return send(session, request, **given)  # type: ignore[arg-type]

    monkeypatch.setattr(requests.Session, "send", counted)
    monkeypatch.setattr(outbox, "METRICS_EVERY", float("inf"))
    desk = Desk(own_places, monkeypatch)
    desk.use(log_in("anna"))
    desk.file.write_text(desk.file.read_text(encoding="utf-8").replace("name: fake", "name: counted"), encoding="utf-8")
    desk.run("budget.trials=1", "training.epochs=8")
    first, last = (len(sent) - 1 - sent[::-1].index(f"POST /runs/{what}") for what in ("log-inputs", "outputs"))
    trial = sent[first - 3 : last + 3]  # the study's own run has inputs, too
    assert len(trial) == 12, trial


def test_no_secret_is_seen_by_others(server: Server) -> None:
    """Neither on a command line nor in a log; and only the owner reads the file with all of them."""
    assert (server.folder / "secrets.env").stat().st_mode & 0o077 == 0
    logs = "".join(path.read_text(encoding="utf-8", errors="replace") for path in server.folder.glob("*.log"))
    lines = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    seen = [name for name, value in server.secrets.items() if value in logs or value in lines]
    assert seen == []


def test_the_store_wants_its_keys(server: Server) -> None:
    assert requests.get(f"{server.store}/mlflow", timeout=60).status_code == 403


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    if not shutil.which("initdb") and not [*Path("/usr/lib/postgresql").glob("*/bin/initdb")]:
        pytest.skip("no PostgreSQL server is installed")
    with socket.create_server(("127.0.0.1", 0)) as taken, tempfile.TemporaryDirectory(dir="/tmp") as name:
        Path(name).chmod(0o755)
        port = taken.getsockname()[1]
        command = [sys.executable, str(SCRIPT), name, "--store-port", str(port)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"error: port {port} is in use; choose another with --store-port" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["file", "--only-secrets"], "error: {}/file can't be made: File exists; give a folder in one that is there"),
        (
            ["none/deep", "--only-secrets"],
            "error: {}/none/deep can't be made: No such file or directory; give a folder in one",
        ),
        (["."], "error: {} holds other files, and no server's; give a new folder, or an empty one"),
        (["new", "--port", "70000"], "error: --port 70000 is no port; give one from 1 to 65535"),
        (["new", "--workers", "0"], "error: --workers 0: give 1 or more"),
        (["new", "--store", "http://b/p"], "error: --store http://b/p is no S3 store; give s3://BUCKET/PATH"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(
    tmp_path: Path, arguments: list[str], told: str
) -> None:
    (tmp_path / "file").touch()
    command = [sys.executable, str(SCRIPT), *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(told.format(tmp_path.resolve()))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# ---- what is only described


def test_shell_scripts_are_clean() -> None:
    if not shutil.which("shellcheck"):
        pytest.skip("no shellcheck is installed")
    done = subprocess.run(["shellcheck", *map(str, DEPLOY.glob("*.sh"))], capture_output=True, text=True, check=False)
    assert done.stdout == ""


def test_manifests_are_of_the_schema() -> None:
    """The compose file of its specification; the driver's Job of Kubernetes' schema."""
    pytest.importorskip("check_jsonschema")
    pytest.importorskip("kubernetes_validate")
    schema = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    subprocess.run([*schema, str(DEPLOY / "compose.yaml")], check=True, capture_output=True)
    manifest = DEPLOY / "kuberay.yaml"
    lint = [sys.executable, "-m", "kubernetes_validate", "--strict", str(manifest)]
    subprocess.run(lint, check=True, capture_output=True)


def test_containers_get_the_settings_of_the_script() -> None:
    sys.path.insert(0, str(DEPLOY))
    try:
        import tracking_server
    finally:
        sys.path.remove(str(DEPLOY))
    services = YAML(typ="safe").load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))["services"]
    given = services["mlflow"]["environment"]
    alike = {name: value for name, value in tracking_server.SETTINGS.items() if name != "MLFLOW_AUTH_CONFIG_PATH"}
    assert {name: given[name] for name in alike} == alike
    assert not [name for name in tracking_server.SECRETS if not str(given.get(name, "${")).startswith("${")]
    assert all("healthcheck" in service for service in services.values())


def test_only_the_driver_on_kubernetes_gets_secrets() -> None:
    cluster, driver = YAML(typ="safe").load_all((DEPLOY / "kuberay.yaml").read_text(encoding="utf-8"))
    assert "secret" not in str(cluster["spec"]).lower()
    (container,) = driver["spec"]["template"]["spec"]["containers"]
    assert container["envFrom"] == [{"secretRef": {"name": "cnnstudy-tracking"}}]
    assert "--take-over" in container["args"]
    assert driver["spec"]["parallelism"] == 1
