"""Commands that run in forks of one process (command.py), each in a folder of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

HERE = Path(__file__).parent
#: Seconds to wait for an expected event.
PATIENCE = 120.0


@contextlib.contextmanager
def forking_commands() -> Iterator[subprocess.Popen[str]]:
    """Yield the process whose forks the commands are."""
    path = os.pathsep.join([str(HERE.parent.parent), str(HERE.parent)])
    program = [sys.executable, str(HERE / "command.py")]
    environment = {**os.environ, "PYTHONPATH": path, "MLFLOW_DISABLE_TELEMETRY": "true"}
    pipe = subprocess.PIPE
    with subprocess.Popen(program, stdin=pipe, stdout=pipe, text=True, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process  # it ends with its input


class Commands:
    """Runs commands that write only to one folder."""

    def __init__(self, folder: Path, process: subprocess.Popen[str], environment: Mapping[str, str]) -> None:
        self.folder, self._process = folder, process
        for name in ("home", "temporary", "cache"):
            (folder / name).mkdir(exist_ok=True)
        self.environment = {
            "HOME": str(folder / "home"),
            "TMPDIR": str(folder / "temporary"),
            "CNNSTUDY_CACHE": str(folder / "cache"),
            **environment,
        }

    def run(self, uri: str, *arguments: str, until: str | None = None, **more: int) -> tuple[int, str]:
        """Return exit code and output; press Ctrl-C when the output contains `until`. `more`: keys of the request."""
        request = {
            "arguments": arguments,
            "folder": str(self.folder),
            "environment": {**self.environment, "MLFLOW_TRACKING_URI": uri},
            **more,
        }
        before = len(self.said)
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        pid, deadline = int(self._line()), time.monotonic() + PATIENCE
        if until is not None:
            while until not in self.said[before:] and time.monotonic() < deadline and Path(f"/proc/{pid}").exists():
                time.sleep(0.1)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGINT)
        return int(self._line()), self.said[before:]

    @property
    def said(self) -> str:
        path = self.folder / "said.txt"
        return path.read_text(encoding="utf-8") if path.is_file() else ""

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()
