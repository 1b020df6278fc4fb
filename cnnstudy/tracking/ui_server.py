"""Run MLflow's own UI on a study's database, on the loopback interface."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import psutil

from cnnstudy.errors import TrackingError, printable, without_secrets
from cnnstudy.system.output import print_error
from cnnstudy.system.processes import defer_interrupt, terminate_as_interrupt
from cnnstudy.tracking.retry import is_server

#: The server is for viewing only: it executes no jobs and loads no pickled models.
ENVIRONMENT = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
SECONDS_TO_START = 120
DEFAULT_PORT = 5000
#: MLflow's command; it ends with its process group when its standard input does.
_PROGRAM = """
import os, signal, sys, threading

def end_with_input():
    sys.stdin.buffer.read()
    os.killpg(0, signal.SIGKILL) if hasattr(os, "killpg") else os._exit(1)

threading.Thread(target=end_with_input, daemon=True).start()
from mlflow.cli import cli
sys.argv[0] = "mlflow"
cli()
"""


def find_ui(uri: str) -> str:
    """Return the address of the UI for a tracking URI: of its server, or where `serve` serves a database first."""
    return strip_login(uri).rstrip("/") if is_server(uri) else f"http://127.0.0.1:{DEFAULT_PORT}"


def strip_login(uri: str) -> str:
    """Return a server's address without login and query, for display and for a browser, which asks for the login."""
    return re.sub(r"//\S*@", "//", uri).partition("?")[0]


@contextlib.contextmanager
def serve(uri: str, port: int | None) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Run MLflow's server on 127.0.0.1; yield its address and its process once it responds.

    Args:
        uri: of the database; passed in the environment, because it may contain a password.
        port: None for 5000, or any free port if 5000 is in use.

    Raises:
        TrackingError: the port is in use, the server does not start, or another one has taken its port meanwhile.
    """
    chosen = _free_port(port)
    # -P: an mlflow.py in the working folder is not the library
    command = [sys.executable, "-P", "-c", _PROGRAM, "server", "--host", "127.0.0.1", "--port", str(chosen)]
    command += ["--workers", "1"]
    environment = os.environ | ENVIRONMENT | {"MLFLOW_BACKEND_STORE_URI": uri}
    process = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.PIPE,  # which ends with this process, however that ends
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C must reach only this process, which ends the server's whole process group
    )
    with process, terminate_as_interrupt():
        try:
            base = f"http://127.0.0.1:{chosen}"
            _wait_until_ready(base, process)
            _refuse_another(chosen, process)
            yield base, process
        finally:
            with defer_interrupt():
                _end_group(process)


def _free_port(port: int | None) -> int:
    for candidate in [port] if port else [DEFAULT_PORT, 0]:
        with socket.socket() as probe:
            # a port that a server has just left is in TIME_WAIT, but usable
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", candidate))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise _port_in_use(candidate, _find_listeners(candidate))


def _port_in_use(port: int, listeners: list[psutil.Process]) -> TrackingError:
    """Return the error that names the program that listens on the port, if that can be told."""
    by = ""
    for process in listeners[:1]:
        with contextlib.suppress(psutil.Error):
            command = without_secrets(printable(" ".join(process.cmdline()[:5])))
            by = f" by `{command}` of {process.username()} (process {process.pid})"
    return TrackingError(f"port {port} is in use{by}; choose another with --port, or omit --port to use any free port.")


def _find_listeners(port: int) -> list[psutil.Process]:
    """Return the processes that listen on the port, as far as the system tells; those of other users it may not."""
    found = []
    with contextlib.suppress(psutil.Error):
        for one in psutil.net_connections("tcp"):
            if one.status == psutil.CONN_LISTEN and one.laddr and one.laddr.port == port and one.pid:
                found.append(psutil.Process(one.pid))
    return found


def _refuse_another(port: int, process: subprocess.Popen[bytes]) -> None:
    """Raise TrackingError if it is not this server that answers: another may have been faster to take the port."""
    ours = {process.pid}
    with contextlib.suppress(psutil.Error):
        ours |= {child.pid for child in psutil.Process(process.pid).children(recursive=True)}
    listeners = _find_listeners(port)
    if listeners and not ours & {one.pid for one in listeners}:
        raise _port_in_use(port, listeners)


def _wait_until_ready(base: str, process: subprocess.Popen[bytes]) -> None:
    started, told = time.monotonic(), 0
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy knows another 127.0.0.1
    while (waited := int(time.monotonic() - started)) < SECONDS_TO_START:
        if waited >= told + 10:
            told = waited
            print_error(f"starting MLflow's server: {waited} s")
        if process.poll() is not None:
            raise TrackingError(f"MLflow's server exited during startup with exit code {process.returncode}.")
        with contextlib.suppress(urllib.error.URLError, OSError), direct.open(f"{base}/health", timeout=2):
            return
        time.sleep(0.2)
    raise TrackingError(f"MLflow's server did not answer at {base} within {SECONDS_TO_START} s.")


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End the server and its worker processes."""
    if sys.platform == "win32":  # no process groups and no SIGKILL
        process.kill()
    else:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=5)
    process.wait()
