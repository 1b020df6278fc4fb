"""Compare an epoch of a network of which every layer trains with Keras' `fit` on the same arrays.

    python benchmarks/epoch.py [--network vgg16 --size 32] [--images-per-class 60] [--rounds 5]

Both sides run in separate processes and take turns to train an epoch: ours with the settings of a worker, `fit` with
TensorFlow's defaults (or with those of another kind of processor). Same network (the logits model, compiled by Keras),
initial weights, order of batches and optimiser, dropout 0; both measure validation and the probe, which is as large,
after the epoch. The losses of the first epoch are compared.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compared import Row, parser, tell
from sides import ONEDNN, add_onednn, in_environment, rounds, side

if TYPE_CHECKING:
    from cnnstudy.records import TrialSpec

#: (network, pixels) -> how many times as fast it should be.
GOALS = {
    ("alexnet", 64): "1.7",
    ("googlenet", 80): "1.5",
    ("vgg16", 32): "2.5",
    ("alexnet", 224): "1.4",
    ("googlenet", 224): "1.4",
    ("vgg16", 224): "1.4",
}
#: Images of each of ten classes at 224 pixels, at most: an epoch takes seconds an image there.
LARGE, IMAGES_WHEN_LARGE = 128, 10
BATCH, LEARNING_RATE = 16, 1e-4
#: The largest relative difference between the losses of the first epoch, in training and measured after it, with the
#: peer's oneDNN on or off: sums are rounded in another order, and by other kernels if it is off, and every update
#: amplifies that. VGG16's losses at 32 px differed by 1.7 % with the same kernels; with others by 0.5 and 5.8 %.
TOLERANCE = {"on": (0.02, 0.02), "off": (0.02, 0.1)}


def specification_of(given: argparse.Namespace) -> TrialSpec:
    from measuring import digits, specification

    images = digits(given.images_per_class, given.size)
    # auxiliary heads are not in the model that `fit` gets
    levels = {"batch_size": BATCH, "learning_rate": LEARNING_RATE, "dropout": 0.0, "auxiliary_weight": 0.0}
    return specification(given.network, images, 1000, **levels)


def ours(spec: TrialSpec) -> Callable[[], dict[str, Any]]:
    from limits import multiply_adds, operations, operations_per_second
    from measuring import start_tensorflow

    start_tensorflow()
    from cnnstudy.training import transfer, trial
    from cnnstudy.training.compiled import CompiledNetworks
    from cnnstudy.training.trainer import Trainer

    compiled = CompiledNetworks().start(spec)
    images = trial.load_images(spec)
    trainer = Trainer(compiled, images, spec)
    trainer.start_phase(transfer.plan_phases(spec, {})[0])
    probe, validation = len(images.probe), len(images.validation)
    needed = operations(multiply_adds(compiled.network), len(images.train), validation + probe)

    def work() -> dict[str, Any]:
        metrics = trainer.run_epoch().metrics
        seconds = {"seconds": metrics["time/seconds"], "training": metrics["time/training_seconds"]}
        measured = (validation * metrics["val/loss"] + probe * metrics["train/loss"]) / (validation + probe)
        losses = {"losses": [metrics["running/loss"], measured]}
        return {**seconds, **losses, "needed": needed, "possible": operations_per_second()}

    return work


def theirs(spec: TrialSpec) -> Callable[[], dict[str, Any]]:
    import keras
    import numpy as np

    from cnnstudy.architectures import build_network, find
    from cnnstudy.data.batches import Batches
    from cnnstudy.training import trial, weights

    network = build_network(find(spec.architecture), spec.images.size, len(spec.images.classes), dropout=0.0)
    weights.initialise(network, spec.seed)
    model = network.logits
    model.compile(
        keras.optimizers.Adam(LEARNING_RATE),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    images, epochs = trial.load_images(spec), iter(range(1, 1000))
    batches = Batches(len(images.train), BATCH, spec.seed)
    parts = images.validation, images.probe
    measured = tuple(np.concatenate([getattr(part, kind)[:] for part in parts]) for kind in ("pixels", "labels"))

    def work() -> dict[str, Any]:
        order = np.concatenate(list(batches.iterate_epoch(next(epochs))))
        pixels, labels = images.train.pixels[order], images.train.labels[order]
        started = time.perf_counter()
        # already in the order of our batches
        history = model.fit(
            pixels, labels, batch_size=BATCH, epochs=1, shuffle=False, validation_data=measured, verbose=0
        ).history
        seconds = time.perf_counter() - started
        return {"seconds": seconds, "losses": [history["loss"][0], history["val_loss"][0]]}

    return work


def compare(network: str, size: int, onednn: str, given: argparse.Namespace) -> Row:
    from limits import GFLOPS, share

    images = given.images_per_class
    if size > LARGE:
        images = min(images, IMAGES_WHEN_LARGE)
    command = [sys.executable, __file__, "--network", network, "--size", str(size), "--images-per-class", str(images)]
    pairs = []
    with (
        tempfile.TemporaryDirectory() as name,
        side([*command, "--side", "ours"], Path(name), CNNSTUDY_CACHE=name) as one,
        side([*command, "--side", "theirs"], Path(name), CNNSTUDY_CACHE=name, **ONEDNN[onednn]) as other,
    ):
        for _ in range(1 + given.rounds):
            pairs.append((one.round(), other.round()))
    first = zip(pairs[0][0]["losses"], pairs[0][1]["losses"], strict=True)
    apart = [abs(ours - theirs) / max(abs(theirs), 0.1) for ours, theirs in first]
    if any(of > most for of, most in zip(apart, TOLERANCE[onednn], strict=True)):
        raise SystemExit(f"{network}, {size} px: losses {apart} apart, relative: {[p['losses'] for p in pairs[0]]}")
    timed = pairs[1:]  # the first epoch compiles
    median = sorted(x["seconds"] for x, _ in timed)[len(timed) // 2]
    print(f"updates alone: {sorted(x['training'] for x, _ in timed)[len(timed) // 2]:.3g} s of {median:.3g} s")
    return Row(
        f"{network}, an epoch of {6.5 * images:.0f} images with updates, {size} px, batch {BATCH}",
        in_environment("Keras fit on arrays", onednn),
        f"python benchmarks/epoch.py --network {network} --size {size} --onednn {onednn}",
        tuple(x["seconds"] for x, _ in timed),
        tuple(y["seconds"] for _, y in timed),
        f"losses of the first epoch within {100 * apart[0]:.2g} %, measured after it {100 * apart[1]:.2g} %",
        GOALS.get((network, size), ""),
        share(timed[0][0]["needed"], median, max(x["possible"] for x, _ in timed), GFLOPS),
    )


def main() -> None:
    parsing = parser(__doc__, rounds=5)
    parsing.add_argument("--network", choices=sorted({network for network, _ in GOALS}), help="[default: all]")
    parsing.add_argument("--size", type=int, help="pixels  [default: those that have a goal]")
    parsing.add_argument("--images-per-class", type=int, default=60, help="of ten classes")
    add_onednn(parsing)
    parsing.add_argument("--side", choices=["ours", "theirs"], help=argparse.SUPPRESS)
    given = parsing.parse_args()
    if given.side:
        spec = specification_of(given)
        rounds(ours(spec) if given.side == "ours" else theirs(spec))
        return
    pairs = [(n, s) for n, s in GOALS if given.network in (None, n) and given.size in (None, s)]
    if given.quick:
        pairs, given.images_per_class, given.rounds, given.onednn = [("alexnet", 64)], 10, 2, "off"
    for network, size in pairs or [(given.network or "alexnet", given.size)]:
        for onednn in [given.onednn] if given.onednn else ONEDNN:
            tell(compare(network, size, onednn, given), given)


if __name__ == "__main__":
    main()
