"""Run the two sides of a benchmark as processes: anew for each round, or two that stay and do a round when asked.

The program of a side that stays calls `rounds(work)`: for each line on standard input it does a round and answers with
JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

#: TensorFlow's default depends on the processor: oneDNN is on with AVX-512, and off on others (most laptops). So a peer
#: runs with the default here, and with the other one.
ONEDNN: Mapping[str, Mapping[str, str]] = {
    "on": {"TF_ENABLE_ONEDNN_OPTS": "1"},
    "off": {"TF_ENABLE_ONEDNN_OPTS": "0"},
}
_PROCESSORS = {"on": "with", "off": "without"}


def add_onednn(parsing: argparse.ArgumentParser) -> None:
    """Add the option that chooses among ONEDNN."""
    parsing.add_argument(
        "--onednn", choices=list(ONEDNN), help="of the peer; off: TensorFlow's default without AVX-512  [default: both]"
    )


def in_environment(name: str, onednn: str) -> str:
    """Return the peer's name in a table."""
    return f"{name}, oneDNN {onednn} (the default {_PROCESSORS[onednn]} AVX-512)"


def in_turn(ours: Callable[[], object], theirs: Callable[[], object], rounds: int) -> tuple[list[float], list[float]]:
    """Return the seconds of both sides, which run in turn."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for side, run in zip(seconds, (ours, theirs), strict=True):
            started = time.perf_counter()
            run()
            side.append(time.perf_counter() - started)
    return seconds


def environment(**variables: str) -> dict[str, str]:
    """Return this process' environment without TensorFlow's and MLflow's settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TF_", "MLFLOW_"))}
    kept["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path(__file__).parent.parent), kept.get("PYTHONPATH")]))
    return {**kept, "TF_CPP_MIN_LOG_LEVEL": "3", "MLFLOW_DISABLE_TELEMETRY": "true", **variables}


def run(command: Sequence[str], folder: Path, **variables: str) -> str:
    """Run a process and return its output; exit with its output and errors if it fails."""
    done = subprocess.run(command, cwd=folder, env=environment(**variables), capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(
            f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        )
    return done.stdout


def answer_of(output: str) -> Any:
    """Return the JSON in the last line that a program printed."""
    return json.loads(output.splitlines()[-1])


class Side:
    """A process that does a round when it is asked."""

    def __init__(self, command: Sequence[str], folder: Path, variables: Mapping[str, str]) -> None:
        self._log = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 - lives with self
        self._process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment(**variables),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )

    def round(self) -> dict[str, Any]:
        """Have the process do a round; return its answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith("{"):
                return dict(json.loads(line))
        self._process.wait()
        self._log.seek(0)
        raise SystemExit(f"{self._process.args} ended with {self._process.returncode}:\n{self._log.read()[-4000:]}")

    def end(self) -> None:
        """End the process by closing its input."""
        self._process.communicate()
        self._log.close()


@contextlib.contextmanager
def side(command: Sequence[str], folder: Path, **variables: str) -> Iterator[Side]:
    """Yield a side that ends with the block."""
    made = Side(command, folder, variables)
    try:
        yield made
    finally:
        made.end()


def rounds(work: Callable[[], Mapping[str, Any]]) -> None:
    """Do a round for each line on standard input, and print its result as JSON."""
    for _ in sys.stdin:
        print(json.dumps(work()), flush=True)
