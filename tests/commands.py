"""Commands in processes of their own, as a user calls them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Answer:
    code: int
    output: str
    errors: str
    seconds: float

    @property
    def text(self) -> str:
        return self.output + self.errors


def start(*arguments: str, folder: Path, **variables: str) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    return subprocess.Popen(
        [sys.executable, "-m", "cnnstudy", *arguments],
        cwd=folder,
        env={**environment, "COLUMNS": "200", **variables},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def answer_of(process: subprocess.Popen[str], started: float, limit: float) -> Answer:
    try:
        output, errors = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        process.kill()
        output, errors = process.communicate()
        raise AssertionError(f"no answer after {limit:.0f} s: {errors[-500:]}") from None
    return Answer(process.returncode, output, errors, time.monotonic() - started)


def call(*arguments: str, folder: Path, limit: float = 180, **variables: str) -> Answer:
    return answer_of(start(*arguments, folder=folder, **variables), time.monotonic(), limit)
