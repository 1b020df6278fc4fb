#!/usr/bin/env python3
"""Run a team's tracking server: MLflow with logins, its records in PostgreSQL, its files in an S3 store with keys.

    apt-get install postgresql && python -m pip install -r deploy/requirements.txt
    python deploy/tracking_server.py FOLDER

All data is in FOLDER, and so are the passwords and keys (secrets.env, readable by its owner alone): the first start
makes them, unless the environment has them. SIGTERM or Ctrl-C stops everything; so does the end of any part. Run by
root, PostgreSQL belongs to the user postgres, as it refuses root.

Files go straight from each user to the store, which spares the server a request for each; `--proxied` sends them
through the server, so that users need no keys of the store. `--store s3://BUCKET/PATH` takes a store that is there,
whose address and keys are those of boto3 (MLFLOW_S3_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY).
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
#: Variables that hold secrets, and how many random bytes each gets.
SECRETS = {
    "POSTGRES_PASSWORD": 24,
    "MLFLOW_AUTH_ADMIN_PASSWORD": 18,
    "MLFLOW_FLASK_SERVER_SECRET_KEY": 32,
    "AWS_ACCESS_KEY_ID": 12,
    "AWS_SECRET_ACCESS_KEY": 30,
}
BUCKET = "mlflow"
#: Seconds in which each part must answer after its start, and in which it must end.
START, END = 180.0, 20.0
#: What MLflow gets besides its options; workers that answer late on a busy machine are not ended after uvicorn's 5 s.
SETTINGS = {
    "MLFLOW_AUTH_CONFIG_PATH": str(HERE / "auth.ini"),
    "MLFLOW_BACKEND_STORE_URI": "postgresql+psycopg2:///mlflow",
    "MLFLOW_UVICORN_OPTS": "--timeout-worker-healthcheck 60",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


class ServerError(Exception):
    """Why the server can't start or go on."""


class Part:
    """A process of the server, with its log."""

    def __init__(self, name: str, command: list[str], log: Path, end: signal.Signals, **given: Any) -> None:
        self.name, self.log, self._end = name, log, end
        with log.open("ab") as file:  # its own process group: Ctrl-C reaches only this script
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True, **given
            )

    def check(self) -> None:
        """Raise ServerError if the process has ended."""
        if self.process.poll() is not None:
            last = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-5:]
            raise ServerError(
                f"{self.name} ended with {self.process.returncode}; {self.log} ends:\n  " + "\n  ".join(last)
            )

    def wait_until(self, answers: Callable[[], bool]) -> None:
        """Wait until the process answers; raise ServerError if it does not."""
        deadline = time.monotonic() + START
        while not answers():
            self.check()
            if time.monotonic() > deadline:
                raise ServerError(f"{self.name} did not answer within {START:.0f} s; see {self.log}")
            time.sleep(0.2)

    def end(self) -> None:
        """End the process and its children."""
        with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
            self.process.send_signal(self._end)
            self.process.wait(END)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def read_secrets(path: Path) -> dict[str, str]:
    """Return the secrets: those in the environment, else those of the file, which is made where it is missing."""
    kept = {}
    if path.exists():
        kept = dict(line.split("=", 1) for line in path.read_text(encoding="utf-8").splitlines() if "=" in line)
    found = {name: os.environ.get(name) or kept.get(name) or secrets.token_hex(size) for name, size in SECRETS.items()}
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        text = "".join(f"{name}={value}\n" for name, value in found.items())
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
    return found


def find_tools() -> Path:
    """Return the folder of PostgreSQL's programs, the newest version's if there are several."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    found = installed[-1] if installed else shutil.which("initdb")
    if not found:
        raise ServerError("no PostgreSQL server is installed (Debian: apt-get install postgresql)")
    return Path(found).parent


@contextlib.contextmanager
def run_database(folder: Path, password: str) -> Iterator[tuple[Part, dict[str, str]]]:
    """Run PostgreSQL, made by the first start; yield it and the variables that lead to it: it listens on no port."""
    tools, data = find_tools(), folder / "postgres"
    owner: dict[str, Any] = {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}
    with tempfile.TemporaryDirectory(prefix="cnnstudy-postgres-", dir="/tmp") as name:  # a socket's path must be short
        sockets = Path(name)
        data.mkdir(exist_ok=True, mode=0o700)
        for place in (sockets, data) if owner else ():
            shutil.chown(place, "postgres", "postgres")
        if not (data / "PG_VERSION").exists():
            given = sockets / "password"
            given.touch(0o600)
            given.write_text(password, encoding="utf-8")
            if owner:
                shutil.chown(given, "postgres")
            options = ["-U", "mlflow", "-A", "scram-sha-256", f"--pwfile={given}", "-E", "UTF8", "--locale=C.UTF-8"]
            made = subprocess.run(
                [tools / "initdb", "-D", data, *options], cwd="/", capture_output=True, text=True, **owner
            )
            given.unlink()
            if made.returncode:
                raise ServerError(f"PostgreSQL can't make {data}: {made.stderr.strip()}")
        environment = {"PGHOST": name, "PGUSER": "mlflow", "PGPASSWORD": password}
        command = [str(tools / "postgres"), "-D", str(data), "-k", name, "-c", "listen_addresses="]
        part = Part("PostgreSQL", command, folder / "postgres.log", signal.SIGINT, cwd="/", **owner)
        try:
            ready = [str(tools / "pg_isready"), "-q", "-h", name]
            part.wait_until(lambda: subprocess.run(ready).returncode == 0)
            make = [str(tools / "psql"), "-qAt", "-d", "postgres", "-c"]
            asked = subprocess.run(
                [*make, "select 1 from pg_database where datname = 'mlflow'"],
                env={**os.environ, **environment},
                capture_output=True,
                text=True,
            )
            if asked.returncode:
                raise ServerError(
                    f"PostgreSQL refuses the password in {folder / 'secrets.env'}: {asked.stderr.strip()}"
                )
            if not asked.stdout.strip():
                subprocess.run([*make, "create database mlflow"], env={**os.environ, **environment}, check=True)
            yield part, environment
        finally:
            part.end()


@contextlib.contextmanager
def run_store(folder: Path, host: str, port: int, kept: Mapping[str, str]) -> Iterator[tuple[Part, dict[str, str]]]:
    """Run an S3 store; yield it and the variables that lead to it."""
    data = folder / "files"
    (data / BUCKET).mkdir(parents=True, exist_ok=True)  # its buckets are folders
    keys = {"NANIO_ACCESS_KEY": kept["AWS_ACCESS_KEY_ID"], "NANIO_SECRET_KEY": kept["AWS_SECRET_ACCESS_KEY"]}
    refuse_used(port, "--store-port")
    command = [sys.executable, "-m", "nanio", "serve", "--data-dir", str(data), "--host", host, "--port", str(port)]
    part = Part("the S3 store", [*command, "--no-access-log"], folder / "store.log", signal.SIGTERM, env=clean(keys))
    try:
        part.wait_until(lambda: not is_free(port))
        yield part, {"MLFLOW_S3_ENDPOINT_URL": f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"}
    finally:
        part.end()


@contextlib.contextmanager
def run_mlflow(folder: Path, given: argparse.Namespace, environment: Mapping[str, str]) -> Iterator[Part]:
    """Run MLflow's server with these variables."""
    root = given.store or f"s3://{BUCKET}"
    files = ["--no-serve-artifacts", "--default-artifact-root", root]
    if given.proxied:
        files = ["--serve-artifacts", "--artifacts-destination", root]
    refuse_used(given.port, "--port")
    command = [sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth", "--host", given.host]
    command += ["--port", str(given.port), "--workers", str(given.workers), *files]
    if given.allowed_hosts:
        command += ["--allowed-hosts", given.allowed_hosts]
    part = Part("MLflow", command, folder / "mlflow.log", signal.SIGTERM, env=clean(environment), cwd=folder)
    try:
        part.wait_until(lambda: is_healthy(given.port))
        yield part
    finally:
        part.end()


def clean(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without what a user of the server has set for himself, and with these variables."""
    own = ("MLFLOW_", "PG", "NANIO_", "AWS_")
    return {**{name: value for name, value in os.environ.items() if not name.startswith(own)}, **variables}


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def refuse_used(port: int, option: str) -> None:
    if not is_free(port):
        raise ServerError(f"port {port} is in use; choose another with {option}")


def is_healthy(port: int) -> bool:
    """Check whether MLflow answers; a proxy of the environment knows another 127.0.0.1."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with contextlib.suppress(OSError), direct.open(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
        return bool(answer.status == 200)
    return False


def check(folder: Path, given: argparse.Namespace) -> None:
    """Refuse what can't work before anything is written.

    Raises:
        ServerError: the folder holds other files, an option has no such value, or a package is missing.
    """
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "secrets.env").is_file():
        raise ServerError(f"{folder} holds other files, and no server's; give a new folder, or an empty one")
    for option, port in (("--port", given.port), ("--store-port", given.store_port)):
        if not 1 <= port <= 65535:
            raise ServerError(f"{option} {port} is no port; give one from 1 to 65535")
    if given.workers < 1:
        raise ServerError(f"--workers {given.workers}: give 1 or more")
    if given.store and not given.store.startswith("s3://"):
        raise ServerError(f"--store {given.store} is no S3 store; give s3://BUCKET/PATH")
    if not given.store:
        refuse_used(given.store_port, "--store-port")
    refuse_used(given.port, "--port")
    needed = {"flask_wtf": "Flask-WTF", "psycopg2": "psycopg2-binary", **({} if given.store else {"nanio": "nanio"})}
    missing = [package for module, package in needed.items() if importlib.util.find_spec(module) is None]
    if missing:
        requirements = Path(__file__).parent / "requirements.txt"
        raise ServerError(f"{', '.join(missing)} not installed: python -m pip install -r {requirements}")


def run(folder: Path, given: argparse.Namespace, wait: Callable[[list[Part]], None]) -> None:
    """Run all parts, say how to use them, and wait."""
    kept = read_secrets(folder / "secrets.env")
    with contextlib.ExitStack() as running:
        database, variables = running.enter_context(run_database(folder, kept["POSTGRES_PASSWORD"]))
        parts = [database]
        if given.store:
            place = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
            place |= {name: os.environ[name] for name in ["MLFLOW_S3_ENDPOINT_URL"] if name in os.environ}
        else:
            store, place = running.enter_context(run_store(folder, given.host, given.store_port, kept))
            place |= {name: kept[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
            parts.append(store)
        names = ("MLFLOW_AUTH_ADMIN_PASSWORD", "MLFLOW_FLASK_SERVER_SECRET_KEY")
        environment = {**SETTINGS, **variables, **place, **{name: kept[name] for name in names}}
        parts.append(running.enter_context(run_mlflow(folder, given, environment)))
        print(f"the tracking server answers at http://{given.host}:{given.port}; users need:")
        print(f"  MLFLOW_TRACKING_URI=http://{given.host}:{given.port} MLFLOW_TRACKING_USERNAME=admin")
        print(f"  MLFLOW_TRACKING_PASSWORD: MLFLOW_AUTH_ADMIN_PASSWORD in {folder / 'secrets.env'}")
        if not given.proxied:
            endpoint = place.get("MLFLOW_S3_ENDPOINT_URL")
            print(*(["  MLFLOW_S3_ENDPOINT_URL=" + endpoint] if endpoint else []), end="\n" if endpoint else "")
            print("  AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY: there, too; and `pip install boto3`", flush=True)
        print("Ctrl-C stops it", flush=True)
        wait(parts)


def watch(parts: list[Part]) -> None:
    """Return never; raise ServerError when a part has ended."""
    while True:
        for part in parts:
            part.check()
        time.sleep(1)


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def main() -> int:
    parsing = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parsing.add_argument("folder", type=Path, help="for all data; made where it is missing")
    parsing.add_argument("--host", default="127.0.0.1", help="the address to listen on; 0.0.0.0: all")
    parsing.add_argument("--port", type=int, default=5000)
    parsing.add_argument("--store-port", type=int, default=9000)
    parsing.add_argument("--store", help="an S3 store that is there: s3://BUCKET/PATH")
    parsing.add_argument("--proxied", action="store_true", help="files go through the server")
    parsing.add_argument("--workers", type=int, default=2, help="processes of MLflow")
    parsing.add_argument("--allowed-hosts", help="names under which users reach the server, separated by commas")
    parsing.add_argument("--only-secrets", action="store_true", help="make FOLDER/secrets.env for compose.yaml")
    given = parsing.parse_args()
    folder = given.folder.resolve()
    signal.signal(signal.SIGTERM, interrupt)
    signal.signal(signal.SIGHUP, interrupt)
    try:
        if not given.only_secrets:
            check(folder, given)
        try:
            folder.mkdir(exist_ok=True)
        except OSError as reason:
            raise ServerError(
                f"{folder} can't be made: {reason.strerror}; give a folder in one that is there"
            ) from None
        if given.only_secrets:
            read_secrets(folder / "secrets.env")
            return 0
        run(folder, given, watch)
    except ServerError as reason:
        print(f"error: {reason}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
