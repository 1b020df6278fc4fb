"""How much sooner the second trial of a network and transfer mode makes its first update than the first one.

    python benchmarks/warm_graphs.py [--size 64] [--rounds 3]

prints for each network and mode the time from a trial's start to the end of its first update, in a worker that has
TensorFlow: with nothing compiled, and after a trial of another dropout rate, learning rate and batch size. Both come to
the same numbers bit by bit, or it ends with an error.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from measuring import digits, in_a_process, parser, ratio, shown, specification, start_tensorflow, without_times

from cnnstudy import architectures
from cnnstudy.records import EpochRecord, TrialSpec

MODES = ("scratch", "frozen", "last-block", "fine-tune")
OTHER = {"dropout": 0.1, "learning_rate": 1e-3, "batch_size": 8}


def timed(spec: TrialSpec, networks: Any) -> tuple[float, list[dict[str, float]]]:
    """Seconds to the first update, and the epochs."""
    from cnnstudy.training import trial
    from cnnstudy.training.updates import Update

    first: list[float] = []
    original = Update.__call__

    def update(self: Any, *batch: Any) -> Any:
        made = original(self, *batch)
        first.append(time.perf_counter())
        return made

    Update.__call__ = update  # type: ignore[method-assign]
    records: list[EpochRecord] = []
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        trial.run_trial(spec, Path(folder) / "trial", lambda record: not records.append(record), networks)
    Update.__call__ = original  # type: ignore[method-assign]
    return first[0] - started, without_times(records)


def measure(name: str, mode: str, size: int, rounds: int) -> dict[str, list[float]]:
    from cnnstudy.training.compiled import CompiledNetworks

    images = digits(20, size)
    spec = specification(name, images, 1, transfer=mode, batch_size=16)
    timed(spec, CompiledNetworks())  # what TensorFlow does once, and the features of frozen layers
    found: dict[str, list[float]] = {"cold": [], "warm": []}
    for _ in range(rounds):
        networks = CompiledNetworks()
        timed(specification(name, images, 1, transfer=mode, **OTHER), networks)
        warm, after = timed(spec, networks)
        cold, alone = timed(spec, CompiledNetworks())
        if after != alone:
            raise SystemExit(f"{name} {mode}: a warm trial gave {after}, a cold one {alone}")
        found["warm"].append(warm)
        found["cold"].append(cold)
    return found


def main() -> None:
    parsing = parser(__doc__)
    parsing.add_argument("--size", type=int, default=64, help="of images, pixels")
    given = parsing.parse_args()
    if given.way:
        start_tensorflow(given.threads)
        with tempfile.TemporaryDirectory() as cache:
            os.environ["CNNSTUDY_CACHE"] = cache
            print(json.dumps(measure(*given.way.split("/"), given.size, given.rounds)))
        return
    print("| network | mode | nothing compiled | compiled | sooner | the same numbers |\n|:--|:--|--:|--:|--:|:--|")
    for name in architectures.names():
        for mode in MODES:
            of = in_a_process(f"{name}/{mode}")
            print(
                f"| {name} | {mode} | {shown(of['cold'])} | {shown(of['warm'])} | {ratio(of['cold'], of['warm'])} "
                "| bit by bit |",
                flush=True,
            )


if __name__ == "__main__":
    main()
