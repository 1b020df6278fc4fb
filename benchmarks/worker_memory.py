"""Measure a worker's memory over 200 trials that are as mixed as those of a search.

    python benchmarks/worker_memory.py [--trials 200] [--epochs 2]

One worker trains them all: two networks in turn, every transfer mode, other batch sizes, dropout rates, learning rates
and seeds each time, each trial with its model on disk as in a study. Usually a worker that has grown is replaced; here
it continues, and the benchmark counts how often it would have been replaced. Memory is the resident memory after each
trial. Changes from one kind of trial to another are not growth: the later half is judged by the medians of its first
and its last fifth.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from compared import Measured, parser, tell
from sides import answer_of, run

#: Networks with an image size in pixels that is quick.
NETWORKS = {"alexnet": 64, "googlenet": 32}
BATCH_SIZES = (4, 8, 12, 16, 24)
SHOWN = (1, 10, 50, 100, 200)
#: Growth over the later half that counts as none.
FLAT = 0.1


def train(trials: int, epochs: int, folder: Path) -> dict[str, Any]:
    """Train the trials in one worker; return its memory in bytes after each, and how often it would be replaced."""
    from measuring import digits, specification

    from cnnstudy.config.transfer_modes import TRANSFER_MODES
    from cnnstudy.execution import Done, Epoch, Failed, Job
    from cnnstudy.execution.local import LocalExecutor, _Process
    from cnnstudy.system.processes import resident_memory

    replaced: list[int] = []
    memory: list[int] = []
    has_grown = _Process.has_grown

    def counted(self: _Process) -> bool:
        if has_grown(self):
            replaced.append(len(memory) + 1)
        return False

    _Process.has_grown = counted  # type: ignore[method-assign]
    images = {name: digits(20, size, classes=3) for name, size in NETWORKS.items()}
    dice, modes, workers = random.Random(0), list(TRANSFER_MODES), set()
    executor = LocalExecutor(1, folder)
    started = time.perf_counter()
    for number in range(trials):
        name = list(NETWORKS)[number % len(NETWORKS)]
        spec = specification(
            name,
            images[name],
            epochs,
            # as often each network with each mode
            transfer=modes[number // len(NETWORKS) % len(modes)],
            batch_size=dice.choice(BATCH_SIZES),
            dropout=dice.uniform(0.1, 0.7),
            learning_rate=10 ** dice.uniform(-5, -3),
            augmentation=dice.choice(("none", "flip")),
        )
        spec = dataclasses.replace(spec, number=number, seed=number)
        executor.submit(Job(spec.key, "run_trial", spec.to_json()))
        while not isinstance(event := executor.next_event(600), Done):
            if event is None or isinstance(event, Failed):
                raise SystemExit(f"trial {number} ({spec.levels}): {event.message if event else 'no answer'}")
            if isinstance(event, Epoch) and event.asks:
                executor.answer(event.key, True)
        shutil.rmtree(folder / spec.key)
        (worker,) = executor._idle
        workers.add(worker._process.pid)
        memory.append(resident_memory(worker._process.pid) or 0)
    executor.close()
    if len(workers) > 1:
        raise SystemExit(f"{len(workers)} workers trained the trials, not one")
    return {"memory": memory, "replaced": replaced, "seconds": time.perf_counter() - started}


def growth(memory: list[int]) -> float:
    """Return the relative growth over the later half."""
    later = memory[len(memory) // 2 :]
    fifth = max(1, len(later) // 5)
    return statistics.median(later[-fifth:]) / statistics.median(later[:fifth]) - 1


def main() -> None:
    parsing = parser(__doc__, rounds=1)
    parsing.add_argument("--trials", type=int, default=200)
    parsing.add_argument("--epochs", type=int, default=2)
    parsing.add_argument("--side", action="store_true", help=argparse.SUPPRESS)
    given = parsing.parse_args()
    if given.side:
        print(json.dumps(train(given.trials, given.epochs, Path.cwd())))
        return
    if given.quick:
        given.trials = 6
    with tempfile.TemporaryDirectory() as name:
        way = ["--side", "--trials", str(given.trials), "--epochs", str(given.epochs)]
        place = {"CNNSTUDY_CACHE": os.path.join(name, "cache")}
        found = answer_of(run([sys.executable, __file__, *way], Path(name), **place))
    memory = found["memory"]
    shown = ", ".join(f"{memory[after - 1] / 1e6:.0f} after {after}" for after in SHOWN if after <= len(memory))
    command = f"python benchmarks/worker_memory.py --trials {given.trials} --epochs {given.epochs}"
    trials = f"{given.trials} mixed trials of {' and '.join(NETWORKS)}"
    by = growth(memory)
    rows = (
        Measured(
            f"one worker's memory: growth over the later half of {trials}",
            f"{100 * by:+.1f} %, resident {shown} MB",
            command,
            100 * by,
            100 * FLAT,
            "%",
            tuple((float(number), size / 1e6) for number, size in enumerate(memory, 1)),
        ),
        Measured(
            f"one worker's resident memory at most, {trials}",
            f"{max(memory) / 1e6:.0f} MB; another would have taken its place {len(found['replaced'])} times; "
            f"{found['seconds'] / given.trials:.1f} s a trial",
            command,
        ),
    )
    for row in rows:
        tell(row, given)


if __name__ == "__main__":
    main()
