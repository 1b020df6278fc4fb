"""How much sooner the second trial of a network and transfer mode makes its first update than the first one.

    python benchmarks/warm_graphs.py [--network vgg16] [--size 64] [--rounds 3]

Seconds from a trial's start to the end of its first update, in a worker that has TensorFlow: with nothing compiled, and
after a trial of another dropout rate, learning rate and batch size. Both come to the same numbers bit by bit, or it
ends with an error.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from compared import Row, parser, tell
from measuring import digits, specification, start_tensorflow, without_times
from sides import answer_of, run

from cnnstudy import architectures
from cnnstudy.records import EpochRecord, TrialSpec

MODES = ("scratch", "frozen", "last-block", "fine-tune")
OTHER = {"dropout": 0.1, "learning_rate": 1e-3, "batch_size": 8}
GOALS = {"googlenet": "15", "vgg16": "5", "alexnet": "5"}


def timed(spec: TrialSpec, networks: Any) -> tuple[float, float, list[dict[str, float]]]:
    """Seconds to the first update and of the next one, and the epochs."""
    from cnnstudy.training import trial
    from cnnstudy.training.updates import Update

    ends: list[float] = []
    original = Update.__call__

    def update(self: Any, *batch: Any) -> Any:
        made = original(self, *batch)
        ends.append(time.perf_counter())
        return made

    Update.__call__ = update  # type: ignore[method-assign]
    records: list[EpochRecord] = []
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        trial.run_trial(spec, Path(folder) / "trial", lambda record: not records.append(record), networks)
    Update.__call__ = original  # type: ignore[method-assign]
    return ends[0] - started, ends[1] - ends[0], without_times(records)


def measure(name: str, mode: str, size: int, rounds: int) -> dict[str, list[float]]:
    from cnnstudy.training.compiled import CompiledNetworks

    images = digits(20, size)
    spec = specification(name, images, 1, transfer=mode, batch_size=16)
    timed(spec, CompiledNetworks())  # what TensorFlow does once, and the features of frozen layers
    found: dict[str, list[float]] = {"cold": [], "warm": [], "update": []}
    for _ in range(rounds):
        networks = CompiledNetworks()
        timed(specification(name, images, 1, transfer=mode, **OTHER), networks)
        warm, update, after = timed(spec, networks)
        cold, _, alone = timed(spec, CompiledNetworks())
        if after != alone:
            raise SystemExit(f"{name} {mode}: a warm trial gave {after}, a cold one {alone}")
        found["warm"].append(warm)
        found["cold"].append(cold)
        found["update"].append(update)
    return found


def row(name: str, mode: str, given: argparse.Namespace) -> Row:
    """Measured in a process of its own."""
    command = [sys.executable, __file__, "--size", str(given.size), "--rounds", str(given.rounds)]
    with tempfile.TemporaryDirectory() as cache:
        found = answer_of(run([*command, "--way", f"{name}/{mode}"], Path(cache), CNNSTUDY_CACHE=cache))
    update = statistics.median(found["update"])
    return Row(
        f"{name} {mode}, second trial to its first update, {given.size} px",
        "the first trial",
        f"python benchmarks/warm_graphs.py --network {name}",
        tuple(found["warm"]),
        tuple(found["cold"]),
        "bit by bit",
        GOALS.get(name, ""),
        f"the update alone takes {update:.2g} s: {100 * update / statistics.median(found['warm']):.0f} %",
    )


def main() -> None:
    parsing = parser(__doc__)
    parsing.add_argument("--network", choices=architectures.names(), help="[default: all]")
    parsing.add_argument("--size", type=int, default=64, help="of images, pixels")
    parsing.add_argument("--way", help=argparse.SUPPRESS)  # what a process of its own is to time
    given = parsing.parse_args()
    if given.way:
        start_tensorflow()
        with tempfile.TemporaryDirectory() as cache:
            os.environ["CNNSTUDY_CACHE"] = cache
            print(json.dumps(measure(*given.way.split("/"), given.size, given.rounds)))
        return
    if given.quick:
        given.network, given.rounds = given.network or "alexnet", 1
    for name in [given.network] if given.network else architectures.names():
        for mode in MODES[: 1 if given.quick else None]:
            tell(row(name, mode, given), given)


if __name__ == "__main__":
    main()
