"""MLflow's own UI, on loopback, on the study's database."""

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

from cnnstudy.errors import TrackingError
from cnnstudy.system.processes import terminate_as_interrupt

#: No job execution, and no model that needs pickle: this server is for looking.
ENVIRONMENT = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
SECONDS_TO_START = 120


def is_server(uri: str) -> bool:
    """Whether the tracking URI is a server that has a UI already."""
    return uri.startswith(("http://", "https://"))


def without_login(uri: str) -> str:
    """A server's address as it may be shown, and handed to a browser, which asks for user and password itself."""
    return re.sub(r"//\S*@", "//", uri).partition("?")[0]


@contextlib.contextmanager
def serve(uri: str, port: int | None) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Run MLflow's server on 127.0.0.1; gives its address, and the process, when it answers.

    Args:
        uri: the database; handed over in the environment, for it may hold a password.
        port: None takes 5000, or any free one where that is taken.

    Raises:
        TrackingError: the port is taken, or the server does not start.
    """
    chosen = _free_port(port)
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(chosen), "--workers", "1"]
    environment = os.environ | ENVIRONMENT | {"MLFLOW_BACKEND_STORE_URI": uri}
    process = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is ours to handle: the server's own children go with its group
    )
    try:
        base = f"http://127.0.0.1:{chosen}"
        with terminate_as_interrupt():
            _wait_until_it_answers(base, process)
            yield base, process
    finally:
        _end_group(process)


def _free_port(port: int | None) -> int:
    for candidate in [port] if port else [5000, 0]:
        with socket.socket() as probe:
            # a server that just ended leaves the port waiting, which is no obstacle to the next one
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", candidate))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise TrackingError(f"port {port} is taken; give another with --port, or leave it out for a free one.")


def _wait_until_it_answers(base: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise TrackingError(f"MLflow's server ended at once with exit code {process.returncode}.")
        with contextlib.suppress(urllib.error.URLError, OSError), urllib.request.urlopen(f"{base}/health", timeout=2):
            return
        time.sleep(0.2)
    raise TrackingError(f"MLflow's server did not answer at {base} within {SECONDS_TO_START} s.")


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """The server and its worker processes."""
    if sys.platform == "win32":  # it has no groups, nor the signal that ends one
        process.kill()
    else:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=5)
    process.wait()
