"""Measure how much sooner a network's second trial in a transfer mode makes its first update than its first trial.

    python benchmarks/warm_graphs.py [--network vgg16] [--size 64] [--rounds 3]

Seconds from a trial's start to the end of its first update, in a worker that has TensorFlow: with nothing compiled, and
after a trial with another dropout rate, learning rate and batch size. Unless both give bit-identical numbers, it ends
with an error.

A second row shows the usual way: the same network built anew, compiled and given to Keras' `fit`, in the same process
and environment, with its images already in memory. It starts from the same weights (loaded while the clock is stopped),
and the first batch of both must have the same loss, so dropout and auxiliary heads are off there.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
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
BATCH, LEARNING_RATE = 16, 1e-4
#: These make the first batch's loss comparable: Keras' dropout draws from other streams.
PLAIN = {"dropout": 0.0, "auxiliary_weight": 0.0, "batch_size": BATCH, "learning_rate": LEARNING_RATE}
#: How far apart the first batch's losses may be, relative: features of frozen layers are computed in larger batches.
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Timed:
    """A trial: seconds to the end of its first update and of the next ones, the first one's loss, and the epochs."""

    first: float
    next: float
    loss: float
    epochs: list[dict[str, float]]


def timed(spec: TrialSpec, networks: Any) -> Timed:
    """Time one of our trials."""
    from cnnstudy.training import trial
    from cnnstudy.training.updates import Update

    ends: list[float] = []
    losses: list[float] = []
    updates: list[int] = []  # of each call
    original = Update.__call__

    def update(self: Any, *batch: Any) -> Any:
        made = original(self, *batch)
        ends.append(time.perf_counter())
        losses.append(float(made[0][0]))
        updates.append(len(made))
        return made

    Update.__call__ = update  # type: ignore[method-assign]
    records: list[EpochRecord] = []
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        trial.run_trial(
            spec, Path(folder) / "trial", lambda record: not (record.epoch and records.append(record)), networks
        )
    Update.__call__ = original  # type: ignore[method-assign]
    return Timed(ends[0] - started, (ends[1] - ends[0]) / updates[1], losses[0], without_times(records))


def fitted(spec: TrialSpec) -> tuple[float, float]:
    """Return the seconds to the end of the first update of Keras' `fit`, and that batch's loss."""
    import keras

    from cnnstudy.data.batches import Batches
    from cnnstudy.training import transfer, trial, weights

    images = trial.load_images(spec)
    order = next(iter(Batches(len(images.train), BATCH, spec.seed).iterate_epoch(1)))
    pixels, labels = images.train.pixels[order], images.train.labels[order]
    started = time.perf_counter()
    network = architectures.build_network(
        architectures.find(spec.architecture), spec.images.size, len(spec.images.classes), dropout=0.0
    )
    (phase,) = transfer.plan_phases(spec, dict(network.architecture.cut_points))
    transfer.apply_phase(network, phase)
    model = network.logits
    built = time.perf_counter() - started
    weights.initialise(network, spec.seed)
    started = time.perf_counter() - built
    model.compile(
        keras.optimizers.Adam(LEARNING_RATE),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    history = model.fit(pixels, labels, batch_size=BATCH, epochs=1, shuffle=False, verbose=0).history
    return time.perf_counter() - started, history["loss"][0]


def measure(name: str, mode: str, size: int, rounds: int) -> dict[str, list[float]]:
    from cnnstudy.training.compiled import CompiledNetworks

    images = digits(20, size)
    spec = specification(name, images, 1, transfer=mode, batch_size=BATCH)
    plain = specification(name, images, 1, transfer=mode, **PLAIN)
    timed(spec, CompiledNetworks())  # what TensorFlow does once, and the features of frozen layers
    fitted(plain)
    found: dict[str, list[float]] = {"cold": [], "warm": [], "update": [], "plain": [], "fit": []}
    for _ in range(rounds):
        networks = CompiledNetworks()
        timed(specification(name, images, 1, transfer=mode, **OTHER), networks)
        warm, cold = timed(spec, networks), timed(spec, CompiledNetworks())
        if warm.epochs != cold.epochs:
            raise SystemExit(f"{name} {mode}: a warm trial gave {warm.epochs}, a cold one {cold.epochs}")
        timed(specification(name, images, 1, transfer=mode, **{**PLAIN, **OTHER}), networks)
        ours, (seconds, loss) = timed(plain, networks), fitted(plain)
        if abs(ours.loss - loss) > TOLERANCE * loss:
            raise SystemExit(f"{name} {mode}: the first batch's loss is {ours.loss}, with fit {loss}")
        of_round = {"cold": cold.first, "warm": warm.first, "update": warm.next, "plain": ours.first, "fit": seconds}
        for what, taken in of_round.items():
            found[what].append(taken)
    return found


def rows(name: str, mode: str, given: argparse.Namespace) -> list[Row]:
    """Return the rows, measured in a separate process."""
    command = [sys.executable, __file__, "--size", str(given.size), "--rounds", str(given.rounds)]
    with tempfile.TemporaryDirectory() as cache:
        found = answer_of(run([*command, "--way", f"{name}/{mode}"], Path(cache), CNNSTUDY_CACHE=cache))
    update, warm, cold = (statistics.median(found[what]) for what in ("update", "warm", "cold"))
    work = f"{name} {mode}, second trial to its first update, {given.size} px"
    told = f"python benchmarks/warm_graphs.py --network {name}"
    limit = f"the update alone takes {update:.2g} s: {100 * update / warm:.0f} %"
    if update < warm:
        limit += f"; up to it {(cold - update) / (warm - update):.1f} times sooner"
    return [
        Row(
            work, "the first trial", told, tuple(found["warm"]), tuple(found["cold"]), "bit by bit", GOALS[name], limit
        ),
        Row(
            work,
            "the second with Keras fit",
            told,
            tuple(found["plain"]),
            tuple(found["fit"]),
            f"loss of the first batch within {100 * TOLERANCE:g} %",
        ),
    ]


def main() -> None:
    parsing = parser(__doc__)
    parsing.add_argument("--network", choices=architectures.names(), help="[default: all]")
    parsing.add_argument("--size", type=int, default=64, help="of images, pixels")
    parsing.add_argument("--way", help=argparse.SUPPRESS)  # which way the separate process times
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
            for row in rows(name, mode, given):
                tell(row, given)


if __name__ == "__main__":
    main()
