"""Kill studies at random times, again and again, and resume them to their end."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from checking import Record, processes_of, troubles_at_rest, troubles_at_the_end

HERE = Path(__file__).parent
KINDS = ("driver", "worker", "both", "terminate", "ctrl-c", "ctrl-c twice")
#: About as many lines as a study prints that is not killed.
MOST_LINES = 30
#: Seconds to wait for processes to end.
PATIENCE = 120.0


class Drivers:
    """Starts drivers of studies, one at a time."""

    def __init__(self) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parent.parent), str(HERE.parent)])}
        environment.pop("MLFLOW_TRACKING_URI", None)
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "drive.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            start_new_session=True,
        )
        assert self._line() == "ready"

    def start(self, folder: Path, jobs: int, **more: int) -> int:
        """Start a driver of the study in the folder; return its process id. `more`: further keys of the request."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"folder": str(folder), "jobs": jobs, **more}) + "\n")
        self._process.stdin.flush()
        return int(self._line())

    def exit_code(self) -> int:
        """Wait for the driver to end; return its exit code."""
        return int(self._line())

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(PATIENCE)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


@dataclass
class Tally:
    """The results so far."""

    kills: Counter[str] = field(default_factory=Counter)  # by kind, those that hit a process
    studies: int = 0
    troubles: list[str] = field(default_factory=list)
    repeated: int = 0  # trials that were started again


def new_study(folder: Path, database: Path) -> Path:
    """Create a folder with an empty database for a study."""
    (folder / "temporary").mkdir(parents=True)
    shutil.copy(database, folder / "mlflow.db")
    return folder


def kill_and_continue(
    drivers: Drivers, folder: Path, database: Path, kinds: list[str], dice: random.Random, tally: Tally
) -> None:
    """Run a study once for each kind of kill, killing it each time, then run it to its end."""
    new_study(folder, database)
    finished: dict[str, str] = {}
    jobs = dice.choice([1, 2])
    first = 0
    for kind in kinds:
        at_rest = not troubles_at_rest(folder)  # otherwise it may be stopped before it has repaired that
        pid = drivers.start(folder, jobs)
        first = first or pid  # later drivers print less
        _wait_for_lines(folder, dice.randrange(MOST_LINES if pid == first else MOST_LINES // 4), pid)
        time.sleep(dice.uniform(0, 0.1))
        hit = _strike(kind, pid, folder)
        code = drivers.exit_code()
        tally.kills[kind] += hit
        # 3: without images or source weights the study stops with an error
        if kind == "worker" and code not in (0, 3, 4):
            tally.troubles.append(f"{folder}: a killed worker ended the driver with exit code {code}")
        _wait_for_workers(folder, tally)
        if kind in ("terminate", "ctrl-c") and hit and at_rest:
            tally.troubles += [f"{folder}: after {kind}: {trouble}" for trouble in troubles_at_rest(folder)]
            if code not in (0, 130, -signal.SIGTERM):  # -SIGTERM: before it handled signals
                tally.troubles.append(f"{folder}: {kind} ended the driver with exit code {code}")
        now = Record(folder).finished()
        lost = {run: trial for run, trial in finished.items() if now.get(run) != trial}
        tally.troubles += [f"{folder}: {kind}: finished and lost: {lost}"] * bool(lost)
        finished = now
    _run_to_the_end(drivers, folder, jobs, finished, tally)


def count_operations(drivers: Drivers, folder: Path, database: Path) -> int:
    """Return the number of durable operations of the driver of a study that is not killed."""
    new_study(folder, database)
    drivers.start(folder, jobs=1, kill_at=0)
    assert drivers.exit_code() == 0, (folder / "log.txt").read_text()
    return int((folder / "operations.txt").read_text())


def kill_at_operation(drivers: Drivers, folder: Path, database: Path, number: int, tally: Tally) -> None:
    """Run a study whose driver is killed before its durable operation of that number, then run it to its end."""
    new_study(folder, database)
    drivers.start(folder, jobs=1, kill_at=number)
    tally.kills["operation"] += drivers.exit_code() == -signal.SIGKILL
    _wait_for_workers(folder, tally)
    _run_to_the_end(drivers, folder, 1, Record(folder).finished(), tally)


def _run_to_the_end(drivers: Drivers, folder: Path, jobs: int, finished: dict[str, str], tally: Tally) -> None:
    drivers.start(folder, jobs)
    code = drivers.exit_code()
    if code not in (0, 4):
        tally.troubles.append(f"{folder}: the last call ended with exit code {code}")
    _wait_for_workers(folder, tally)
    try:
        tally.troubles += [f"{folder}: {trouble}" for trouble in troubles_at_the_end(folder)]
    except (OSError, ValueError, KeyError) as error:
        tally.troubles.append(f"{folder}: {type(error).__name__}: {error}")
    record = Record(folder)
    lost = {run: trial for run, trial in finished.items() if record.finished().get(run) != trial}
    tally.troubles += [f"{folder}: finished and lost at the end: {lost}"] * bool(lost)
    tally.repeated += sum(tags.get("reason") == "interrupted" for tags in record.tags.values() if "trial" in tags)
    tally.studies += 1


def _wait_for_lines(folder: Path, count: int, pid: int) -> None:
    """Wait until the driver has printed so many lines, or has ended."""
    log = folder / "log.txt"
    before = _lines_of(log)
    while _lines_of(log) - before < count and _is_alive(pid):
        time.sleep(0.005)


def _lines_of(log: Path) -> int:
    return len(log.read_bytes().splitlines()) if log.exists() else 0


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _strike(kind: str, pid: int, folder: Path) -> bool:
    """Kill; return whether there was a process to kill."""
    workers = processes_of(folder)
    while kind == "worker" and not workers and _is_alive(pid):
        time.sleep(0.005)
        workers = processes_of(folder)
    if kind == "worker":
        hit = [worker for worker in workers[:1] if _send(worker, signal.SIGKILL)]
        return bool(hit)
    if kind in ("driver", "both"):
        hit_driver = _send(pid, signal.SIGKILL)
        if kind == "both":
            for worker in workers:
                _send(worker, signal.SIGKILL)
        return hit_driver
    hit_driver = _send(pid, signal.SIGTERM if kind == "terminate" else signal.SIGINT)
    if kind == "ctrl-c twice":
        time.sleep(0.01)
        _send(pid, signal.SIGINT)
    return hit_driver


def _send(pid: int, number: signal.Signals) -> bool:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def _wait_for_workers(folder: Path, tally: Tally) -> None:
    """Wait for the workers to end, as they should soon after their driver."""
    deadline = time.monotonic() + PATIENCE
    while processes_of(folder):
        if time.monotonic() > deadline:
            tally.troubles.append(f"{folder}: a worker outlives its driver")
            return
        time.sleep(0.02)


@contextlib.contextmanager
def drivers() -> Iterator[Drivers]:
    """Yield Drivers that are ready to start one."""
    with contextlib.closing(Drivers()) as made:
        yield made
