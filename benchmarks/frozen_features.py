"""How much faster trials are that train on the features of frozen layers, computed once.

    python benchmarks/frozen_features.py [--images-per-class 120] [--size 64] [--rounds 3]

prints, for VGG16: a study of 6 trials on a frozen network (batch 16, 32, 64 x dropout 0.2, 0.5; 5 epochs), from the
start of its process to its end, against Keras' `fit` on the same images; and an epoch of the last block and the head,
against the same epoch with the whole network. The losses of each epoch are compared with those of the whole network,
and it ends with an error where they are more than 0.0001 apart.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from measuring import digits, in_a_process, parser, ratio, shown, specification, start_tensorflow, without_times

from cnnstudy.records import EpochRecord, PreparedImages, TrialSpec

NETWORK, EPOCHS, BATCHES, DROPOUTS = "vgg16", 5, (16, 32, 64), (0.2, 0.5)
LOSSES, APART = ("train/loss", "val/loss", "running/loss"), 1e-4


def study(images: PreparedImages) -> list[TrialSpec]:
    return [
        specification(NETWORK, images, EPOCHS, transfer="frozen", batch_size=size, dropout=dropout)
        for size, dropout in itertools.product(BATCHES, DROPOUTS)
    ]


def fit(spec: TrialSpec) -> None:
    """The trial as a tutorial has it."""
    import keras

    from cnnstudy.architectures import build_network, find
    from cnnstudy.training import transfer, trial, weights

    keras.utils.clear_session()
    images = trial.load_images(spec)
    network = build_network(find(NETWORK), spec.images.size, len(spec.images.classes), float(spec.levels["dropout"]))
    weights.initialise(network, spec.seed)
    transfer.apply(network, transfer.phases(spec, {})[0])
    network.logits.compile(
        keras.optimizers.Adam(float(spec.levels["learning_rate"])),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    network.logits.fit(
        images.train.pixels,
        images.train.labels,
        batch_size=int(spec.levels["batch_size"]),
        epochs=spec.epochs,
        validation_data=(images.validation.pixels, images.validation.labels),
        verbose=0,
    )
    with tempfile.TemporaryDirectory() as folder:
        network.inference.save(Path(folder) / "model.keras")


def run(spec: TrialSpec, networks: Any = None) -> list[EpochRecord]:
    from cnnstudy.training import trial

    records: list[EpochRecord] = []
    with tempfile.TemporaryDirectory() as folder:
        trial.run_trial(spec, Path(folder) / "trial", lambda record: not records.append(record), networks)
    return records


def run_study(images: PreparedImages) -> None:
    from cnnstudy.training.compiled import CompiledNetworks

    networks = CompiledNetworks()
    for spec in study(images):
        run(spec, networks)


def compare(spec: TrialSpec) -> dict[str, Any]:
    """Epochs on features and with the whole network: seconds of all but the first, and how far losses are apart."""
    cut, whole = (run(dataclasses.replace(spec, features=features)) for features in (True, False))
    pairs = zip(without_times(cut), without_times(whole), strict=True)
    return {
        "cut": [record.metrics["time/seconds"] for record in cut[1:]],
        "whole": [record.metrics["time/seconds"] for record in whole[1:]],
        "apart": max(abs(ours[name] - theirs[name]) for ours, theirs in pairs for name in LOSSES),
    }


def main() -> None:
    parsing = parser(__doc__)
    parsing.add_argument("--images-per-class", type=int, default=120, help="of ten classes")
    parsing.add_argument("--size", type=int, default=64, help="of images, pixels")
    given = parsing.parse_args()
    images = digits(given.images_per_class, given.size)
    if given.way:
        start_tensorflow(given.threads)
        ways = {
            "fit": lambda: [fit(spec) for spec in study(images)] and None,
            "features": lambda: run_study(images),
            "frozen": lambda: compare(specification(NETWORK, images, 2, transfer="frozen")),
            "last-block": lambda: compare(specification(NETWORK, images, 1 + given.rounds, transfer="last-block")),
        }
        print(json.dumps(ways[given.way]()))
        return
    print(
        f"{NETWORK}, {given.size} pixels, {sum(images.train)} images to train on, {sum(images.validation)} to validate"
    )
    seconds: dict[str, list[float]] = {"fit": [], "features": []}
    for _ in range(given.rounds):
        for way, times in seconds.items():
            with tempfile.TemporaryDirectory() as cache:  # the features of a round are its own
                os.environ["CNNSTUDY_CACHE"] = cache
                started = time.perf_counter()
                in_a_process(way)
                times.append(time.perf_counter() - started)
    with tempfile.TemporaryDirectory() as cache:
        os.environ["CNNSTUDY_CACHE"] = cache
        frozen, last = in_a_process("frozen"), in_a_process("last-block")
    print(f"6 frozen trials: fit {shown(seconds['fit'])}, features {shown(seconds['features'])}: ", end="")
    print(ratio(seconds["fit"], seconds["features"]))
    print(f"an epoch of the last block: whole network {shown(last['whole'])}, features {shown(last['cut'])}: ", end="")
    print(ratio(last["whole"], last["cut"]))
    print(f"losses apart by at most: frozen {frozen['apart']:.1e}, last block {last['apart']:.1e}")
    if max(frozen["apart"], last["apart"]) > APART:
        raise SystemExit(f"losses may be apart by {APART:g} at most")


if __name__ == "__main__":
    main()
