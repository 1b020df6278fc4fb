"""Compare an epoch of VGG16's last block and head on cached features with an epoch of the whole network.

    python benchmarks/frozen_features.py [--images-per-class 120] [--size 64] [--rounds 5]

Both sides are trials of cnnstudy in one process, which take turns epoch by epoch; the features are in the cache when
the clock starts. The losses of each epoch are compared; a difference of more than 0.0001 is an error.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from dataclasses import replace

from compared import Row, parser, tell
from limits import GFLOPS, multiply_adds, operations, operations_per_second, share
from measuring import digits, specification, start_tensorflow

NETWORK, APART = "vgg16", 1e-4
LOSSES = ("train/loss", "val/loss", "running/loss")


def compare(given: argparse.Namespace) -> Row:
    from cnnstudy.training import transfer, trial
    from cnnstudy.training.compiled import CompiledNetworks
    from cnnstudy.training.features import prepare_source
    from cnnstudy.training.trainer import Trainer

    images = digits(given.images_per_class, given.size)
    spec = specification(NETWORK, images, 1 + given.rounds, transfer="last-block", batch_size=16, dropout=0.0)
    trainers = []
    for features in (True, False):
        one = replace(spec, features=features)
        compiled = CompiledNetworks().start(one)
        (phase,) = transfer.plan_phases(one, dict(compiled.network.architecture.cut_points))
        transfer.apply_phase(compiled.network, phase)
        trainers.append(Trainer(compiled, trial.load_images(one), one))
        source = prepare_source(compiled, one, phase, lambda *_: None)
        trainers[-1].start_phase(phase, source.features)
    cut, whole = trainers
    records = [(cut.run_epoch().metrics, whole.run_epoch().metrics) for _ in range(1 + given.rounds)]
    apart = max(abs(ours[name] - theirs[name]) for ours, theirs in records for name in LOSSES)
    if apart > APART:
        raise SystemExit(f"losses are {apart:g} apart; {APART:g} is allowed")
    graph, features = cut.compiled.graph, cut._features
    assert features is not None
    forward = multiply_adds(cut.compiled.network, without=frozenset(graph.upstream(features.cut)))
    evaluated = len(cut.images.validation) + len(cut.images.probe)
    needed = operations(forward, len(cut.images.train), evaluated)
    ours, theirs = ([of["time/seconds"] for of in side[1:]] for side in zip(*records, strict=True))
    return Row(
        f"{NETWORK}, an epoch of last block and head, {len(cut.images.train)} images, {given.size} px, batch 16",
        "the same with the whole network",
        f"python benchmarks/frozen_features.py --images-per-class {given.images_per_class} --size {given.size}",
        tuple(ours),
        tuple(theirs),
        f"losses of {len(records)} epochs within {apart:.0e}",
        "2.5",
        share(needed, statistics.median(ours), operations_per_second(), GFLOPS),
    )


def main() -> None:
    parsing = parser(__doc__, rounds=5)
    parsing.add_argument("--images-per-class", type=int, default=120, help="of ten classes")
    parsing.add_argument("--size", type=int, default=64, help="of images, pixels")
    given = parsing.parse_args()
    if given.quick:
        given.images_per_class, given.size, given.rounds = 8, 32, 2
    with tempfile.TemporaryDirectory() as cache:
        os.environ["CNNSTUDY_CACHE"] = cache
        start_tensorflow()
        tell(compare(given), given)


if __name__ == "__main__":
    main()
