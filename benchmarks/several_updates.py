"""Compare an epoch with a quarter of a second of updates per call with an epoch of one update per call.

    python benchmarks/several_updates.py [--network googlenet] [--images-per-class 120] [--rounds 5]

Frozen networks at 64 pixels, whose heads train on features that are in the cache: an update takes one or a few
milliseconds there, so the cost of a call matters. Both sides are whole trials in one process; all metrics of all epochs
must be equal bit by bit.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from compared import Row, parser, tell
from measuring import digits, specification, start_tensorflow, without_times
from sides import answer_of, run

SIZE, BATCH = 64, 16


def measure(network: str, images_per_class: int, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of the updates of each epoch except the first, by side."""
    from cnnstudy.records import EpochRecord
    from cnnstudy.training import trainer, trial
    from cnnstudy.training.compiled import CompiledNetworks

    spec = specification(
        network, digits(images_per_class, SIZE), 1 + rounds, transfer="frozen", batch_size=BATCH, auxiliary_weight=0.0
    )
    networks, seconds, metrics = CompiledNetworks(), dict[str, list[float]](), dict[str, Any]()
    at_once = trainer.MAX_UPDATES_PER_CALL
    for side, most in (("warm", at_once), ("ours", at_once), ("theirs", 1)):
        trainer.MAX_UPDATES_PER_CALL = most
        records: list[EpochRecord] = []
        with tempfile.TemporaryDirectory() as folder:
            trial.run_trial(
                spec,
                Path(folder) / "trial",
                lambda record, of=records: not (record.epoch and of.append(record)),
                networks,
            )
        seconds[side] = [record.metrics["time/training_seconds"] for record in records[1:]]
        metrics[side] = without_times(records)
    if metrics["ours"] != metrics["theirs"]:
        raise SystemExit(f"{network}: with several updates a call {metrics['ours']}, with one {metrics['theirs']}")
    return seconds


def main() -> None:
    parsing = parser(__doc__, rounds=5)
    parsing.add_argument("--network", choices=["alexnet", "googlenet", "vgg16"], help="[default: all]")
    parsing.add_argument("--images-per-class", type=int, default=120, help="of ten classes")
    parsing.add_argument("--way", help=argparse.SUPPRESS)
    given = parsing.parse_args()
    if given.way:
        start_tensorflow()
        with tempfile.TemporaryDirectory() as cache:
            os.environ["CNNSTUDY_CACHE"] = cache
            print(json.dumps(measure(given.way, given.images_per_class, given.rounds)))
        return
    if given.quick:
        given.network, given.images_per_class, given.rounds = "alexnet", 20, 1
    for network in [given.network] if given.network else ["alexnet", "googlenet", "vgg16"]:
        images, rounds = str(given.images_per_class), str(given.rounds)
        command = [sys.executable, __file__, "--way", network, "--images-per-class", images, "--rounds", rounds]
        with tempfile.TemporaryDirectory() as folder:
            found = answer_of(run(command, Path(folder)))
        updates = -(-int(6.5 * given.images_per_class) // BATCH)
        row = Row(
            f"{network} frozen, updates of an epoch of {6.5 * given.images_per_class:.0f} images, {SIZE} px, "
            f"batch {BATCH}",
            "one update a call",
            f"python benchmarks/several_updates.py --network {network}",
            tuple(found["ours"]),
            tuple(found["theirs"]),
            "all metrics bit by bit",
            limit=f"{1e3 * statistics.median(found['ours']) / updates:.2g} ms an update",
        )
        tell(row, given)


if __name__ == "__main__":
    main()
