"""Measure what the driver itself uses while a study runs: memory over 200 trials, and processor time per epoch.

    python benchmarks/driver_cost.py [--trials 200] [--epochs 5]

The driver, the record and the plots are real; the worker's trials take no time (tests/faults/fast_worker.py).
Everything is measured within the driver's process: resident memory after each trial, and processor seconds of all its
threads between an epoch's arrival and the end of its handling.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from compared import HERE, Measured, parser, tell
from sides import answer_of, run

WORKER = HERE.parent / "tests" / "faults" / "fast_worker.py"
FILE = """\
name: driver
data: {{name: digits, classes: [0, 1, 2]}}
image_size: 64
architectures: [alexnet]
factors: {{dropout: {{low: 0.1, high: 0.7}}}}
training: {{epochs: {epochs}}}
strategy: {{sampler: {sampler}}}
budget: {{trials: {trials}}}
"""
#: The goals: bytes of memory, growth in bytes over the later half that counts as none, processor seconds per epoch.
MEMORY, FLAT, EPOCH = 300e6, 10e6, 0.005


def drive(trials: int, epochs: int, sampler: str) -> dict[str, Any]:
    """Run the study here; return memory (bytes) and seconds so far by trial, and processor seconds by epoch."""
    from cnnstudy.system.imports import COLLECTION_THRESHOLD, NOT_FOR_MLFLOW, fast_import

    gc.set_threshold(COLLECTION_THRESHOLD, *gc.get_threshold()[1:])  # as the command does
    with fast_import(without=NOT_FOR_MLFLOW):
        from cnnstudy.study import driver
        from cnnstudy.study import run as study
        from cnnstudy.tracking import client
    from cnnstudy.config.load import load_study
    from cnnstudy.execution import Workers
    from cnnstudy.execution.local import LocalExecutor
    from cnnstudy.system.display import PlainDisplay
    from cnnstudy.system.processes import resident_memory

    spent: list[float] = []
    memory: list[int] = []
    seconds: list[float] = []
    on_epoch, on_done = driver.Driver._on_epoch, driver.Driver._on_done

    def timed_epoch(self: driver.Driver, event: Any) -> None:
        began = time.process_time()
        on_epoch(self, event)
        spent.append(time.process_time() - began)

    def measured_done(self: driver.Driver, event: Any) -> None:
        on_done(self, event)
        memory.append(resident_memory(os.getpid()) or 0)
        seconds.append(time.perf_counter() - started)

    driver.Driver._on_epoch = timed_epoch  # type: ignore[method-assign]
    driver.Driver._on_done = measured_done  # type: ignore[method-assign]
    Path("driver.yaml").write_text(FILE.format(trials=trials, epochs=epochs, sampler=sampler), encoding="utf-8")
    started = time.perf_counter()
    outcome = study.run_study(
        load_study("driver.yaml", []),
        client.Tracker("sqlite:///mlflow.db"),
        Workers(lambda folder: LocalExecutor(1, folder, (str(WORKER),))),
        PlainDisplay(lambda text: None),
    )
    if outcome.finished != trials:
        raise SystemExit(f"{outcome.finished} trials finished, not {trials}")
    database = Path("mlflow.db").stat().st_size
    artifacts = sum(file.stat().st_size for file in Path("mlruns").rglob("*") if file.is_file())
    found = {"memory": memory, "seconds": seconds, "spent": spent, "database": database, "artifacts": artifacts}
    return {**found, "processor": time.process_time()}


def driven(trials: int, epochs: int, sampler: str = "random") -> dict[str, Any]:
    """Call `drive` in a separate process and folder."""
    with tempfile.TemporaryDirectory() as name:
        way = ["--way", sampler, "--trials", str(trials), "--epochs", str(epochs)]
        return dict(answer_of(run([sys.executable, __file__, *way], Path(name), CNNSTUDY_CACHE=name)))


def main() -> None:
    parsing = parser(__doc__, rounds=1)
    parsing.add_argument("--trials", type=int, default=200)
    parsing.add_argument("--epochs", type=int, default=5)
    parsing.add_argument("--way", help=argparse.SUPPRESS)
    given = parsing.parse_args()
    if given.way:
        print(json.dumps(drive(given.trials, given.epochs, given.way)))
        return
    if given.quick:
        given.trials, given.epochs = 6, 2
    found = driven(given.trials, given.epochs)
    memory, spent = found["memory"], found["spent"]
    command = f"python benchmarks/driver_cost.py --trials {given.trials} --epochs {given.epochs}"
    study = f"{given.trials} trials x {given.epochs} epochs"
    middle = len(memory) // 2
    growth = memory[-1] - memory[middle]
    rows = (
        Measured(
            f"driver's resident memory at most, {study}",
            f"{max(memory) / 1e6:.0f} MB; {memory[0] / 1e6:.0f} after one trial, {memory[-1] / 1e6:.0f} at the end",
            command,
            max(memory) / 1e6,
            MEMORY / 1e6,
            "MB",
            tuple((float(number), size / 1e6) for number, size in enumerate(memory, 1)),
        ),
        Measured(
            f"driver's memory: growth over the later half of {study}",
            f"{growth / 1e6:.1f} MB, {growth / 1e3 / max(1, len(memory) - 1 - middle):.0f} kB a trial",
            command,
            growth / 1e6,
            FLAT / 1e6,
            "MB",
        ),
        Measured(
            f"driver's processor time for an epoch, {study}",
            f"{1000 * statistics.median(spent):.1f} ms (nine in ten below {1000 * _ninth(spent):.1f})",
            command,
            1000 * statistics.median(spent),
            1000 * EPOCH,
            "ms",
        ),
        Measured(
            f"driver's processor time for a trial, all in all, {study}",
            f"{1000 * found['processor'] / given.trials:.0f} ms, its start, pictures and record included",
            command,
        ),
    )
    for row in rows:
        tell(row, given)


def _ninth(seconds: list[float]) -> float:
    return sorted(seconds)[int(0.9 * (len(seconds) - 1))]


if __name__ == "__main__":
    main()
