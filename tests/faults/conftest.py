"""A PostgreSQL server, if one is installed."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


@pytest.fixture
def postgres() -> Iterator[tuple[str, Callable[[str], None]]]:
    """Yield a PostgreSQL server's URI, and a function that runs a command of its pg_ctl."""
    pytest.importorskip("psycopg2")
    found = [Path(tool).parent for tool in [shutil.which("pg_ctl")] if tool] + [
        *Path("/usr/lib/postgresql").glob("*/bin")
    ]
    if not found:
        pytest.skip("no PostgreSQL server is installed")
    user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []  # it does not run as root
    with tempfile.TemporaryDirectory(prefix="postgres-", ignore_cleanup_errors=True) as name:
        folder, data = Path(name), Path(name) / "data"
        if user:
            folder.chmod(0o755)
            shutil.chown(folder, "postgres")
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]

        def run(tool: str, *arguments: object) -> None:
            command = [*user, found[0] / tool, "-D", data, *arguments]
            subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL, cwd=folder)

        def control(command: str) -> None:
            options = {
                "start": ["-o", f"-p {port} -k {folder} -c fsync=off", "-l", folder / "log"],
                "stop": ["-m", "fast"],
            }
            run("pg_ctl", "-w", *options[command], command)

        run("initdb", "-U", "cnnstudy", "-A", "trust", "--no-sync")
        control("start")
        try:
            yield f"postgresql+psycopg2://cnnstudy:geheim@127.0.0.1:{port}/postgres", control
        finally:
            with contextlib.suppress(subprocess.CalledProcessError):
                control("stop")
