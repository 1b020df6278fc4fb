"""Measure how the time of leaderboard, effects and report grows with the number of recorded trials.

    python benchmarks/recorded_studies.py [--trials 100 1000 4000 10000]

Writes a simulated factorial study (tests/simulated.py: 24 cells, as many seeds as needed, 8 epochs) into an SQLite
database, with rows copied from a run that MLflow itself made, and measures time and memory of each command as a whole
process.
"""

from __future__ import annotations

import json
import math
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from compared import HERE, Measured, parser, tell
from fits import exponent
from sides import environment

EPOCHS = 8
FILE = """\
name: simulated
data: {name: digits, classes: [0, 1, 2, 3, 4]}
image_size: 64
architectures: [alexnet]
factors:
  batch_size: [8, 64]
  data_fraction: [0.25, 0.5, 1.0]
  dropout: [0.0, 0.5]
  transfer: [scratch, frozen]
weights: {default: {source: random}}
training: {epochs: 8}
strategy: {kind: factorial, design: full, seeds: SEEDS}
"""
COMMANDS = {
    "leaderboard": ["leaderboard", "simulated", "--csv", "leaderboard.csv"],
    "effects": ["effects", "simulated"],
    "report": ["report", "simulated", "--no-gallery"],
}
#: Cells of the simulated study's factors.
CELLS = 24


def write_study(folder: Path, trials: int) -> int:
    """Write a study with at least this many trials to mlflow.db in the folder; return how many it has."""
    sys.path.insert(0, str(HERE.parent / "tests"))
    from simulated import Simulated

    from cnnstudy.config.load import load_study
    from cnnstudy.tracking.client import Tracker

    seeds = max(2, math.ceil(trials / CELLS))
    (folder / "simulated.yaml").write_text(FILE.replace("SEEDS", str(seeds)), encoding="utf-8")
    config = load_study(str(folder / "simulated.yaml"), []).config.model_dump(mode="json")
    tracker = Tracker(f"sqlite:///{folder / 'mlflow.db'}")
    study = tracker.open_study("simulated", config)
    tracker.end_run(study.run_id, "finished", {})
    made = Simulated(seeds=seeds, by_seed=0.02, noise=0.02)
    with closing(sqlite3.connect(folder / "mlflow.db")) as database, database:
        database.row_factory = sqlite3.Row
        template = dict(database.execute("select * from runs where run_uuid = ?", [study.run_id]).fetchone())
        tables: dict[str, list[dict[str, Any]]] = {}
        for number, trial in enumerate(made.trials):
            for table, row in _rows(template, f"{number:032x}", number, trial, made.curves[trial.run_id]):
                tables.setdefault(table, []).append(row)
        for table, rows in tables.items():
            names = list(rows[0])
            marks = ", ".join("?" * len(names))
            database.executemany(
                f"insert into {table} ({', '.join(names)}) values ({marks})", [list(row.values()) for row in rows]
            )
    return len(made.trials)


def _rows(
    template: dict[str, Any], run_id: str, number: int, trial: Any, curves: dict[str, dict[int, float]]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Return the rows that MLflow has of a trial, by table."""
    at = template["start_time"] + 1000 * number
    place = {"artifact_uri": template["artifact_uri"].replace(template["run_uuid"], run_id)}
    times = {"start_time": at, "end_time": at + 900}
    yield "runs", {**template, **place, **times, "run_uuid": run_id, "name": trial.name}
    more = {"cnnstudy.kind": "trial", "cnnstudy.state": "finished", "cnnstudy.weights": "none"}
    for key, value in {**trial.tags, **more, "mlflow.runName": trial.name}.items():
        yield "tags", {"key": key, "value": value, "run_uuid": run_id}
    parameters = {**trial.parameters, **json.loads(trial.tags["cnnstudy.levels"]), "epochs": EPOCHS, "image_size": 64}
    for key, value in parameters.items():
        yield "params", {"key": key, "value": str(value), "run_uuid": run_id}
    common = {"timestamp": at, "run_uuid": run_id, "is_nan": False}
    best = {name.replace("last/", "best/"): value for name, value in trial.metrics.items() if "last/" in name}
    best |= {"best/train_loss": 1.0, "best/epoch": float(EPOCHS), "time/total_seconds": 0.9}
    last = {name: (EPOCHS, value) for name, value in {**trial.metrics, **best}.items()}
    for name, curve in curves.items():
        for epoch in range(1, EPOCHS + 1):
            value = curve[1] + (curve[2] - curve[1]) * (epoch - 1) / (EPOCHS - 1)
            yield "metrics", {"key": name, "value": value, "step": epoch, **common}
            last[name] = (epoch, value)
    for name, (step, value) in last.items():
        if name not in curves:
            yield "metrics", {"key": name, "value": value, "step": step, **common}
        yield "latest_metrics", {"key": name, "value": value, "step": step, **common}


def timed(command: list[str], folder: Path) -> tuple[float, float]:
    """Return the seconds that `python -m cnnstudy` takes, and its peak memory in MB."""
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "cnnstudy", *command],
            cwd=folder,
            env=environment(CNNSTUDY_CACHE=str(folder)),
            stdout=log,
            stderr=log,
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            log.seek(0)
            raise SystemExit(f"{' '.join(command)} ended with {process.returncode}:\n{log.read()[-3000:]}")
    return time.perf_counter() - started, usage.ru_maxrss / 1e3


def main() -> None:
    parsing = parser(__doc__, rounds=1)
    parsing.add_argument("--trials", type=int, nargs="+", default=[100, 1000, 4000, 10_000])
    given = parsing.parse_args()
    if given.quick:
        given.trials = [48, 96]
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
    memory: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
    for wanted in given.trials:
        with tempfile.TemporaryDirectory() as name:
            trials = write_study(Path(name), wanted)
            for command, words in COMMANDS.items():
                taken, most = timed(words, Path(name))
                seconds[command].append((trials, taken))
                memory[command].append((trials, most))
                print(f"{trials} trials, {command}: {taken:.1f} s, {most:.0f} MB", flush=True)
    for command, points in seconds.items():
        tell(
            Measured(
                f"{command} of a study with {points[0][0]:,.0f} to {points[-1][0]:,.0f} trials",
                f"{points[0][1]:.1f} to {points[-1][1]:.1f} s and {memory[command][-1][1]:.0f} MB; "
                f"s: growing at the end with power {exponent(points):.2f}",
                f"python benchmarks/recorded_studies.py --trials {' '.join(map(str, given.trials))}",
                points=tuple(points),
            ),
            given,
        )


if __name__ == "__main__":
    main()
