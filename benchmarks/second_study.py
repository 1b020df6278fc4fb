"""Compare a second study on the same images and frozen network with the first: the features are in the cache.

    python benchmarks/second_study.py [--images-per-class 120] [--size 64] [--rounds 3]

Rows: the features stage of VGG16 alone (a fresh process each time, TensorFlow started and the network built), and
`run-study benchmarks/frozen.yaml` as a whole process. Features are compared bit by bit, scores of the studies exactly.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from compared import HERE, Row, parser, tell
from frozen import scores_in
from sides import answer_of, in_turn, run


def stage(images_per_class: int, size: int) -> dict[str, Any]:
    """Return the seconds of the stage, and a digest of its result."""
    from limits import multiply_adds, operations_per_second
    from measuring import digits, specification, start_tensorflow

    start_tensorflow()
    from cnnstudy.training import transfer
    from cnnstudy.training.compiled import CompiledNetworks
    from cnnstudy.training.features import prepare_source

    spec = specification("vgg16", digits(images_per_class, size), 1, transfer="frozen")
    compiled = CompiledNetworks().start(spec)
    (phase,) = transfer.plan_phases(spec, {})
    transfer.apply_phase(compiled.network, phase)
    started = time.perf_counter()
    features = prepare_source(compiled, spec, phase, lambda *_: None).features
    assert features is not None
    digest = hashlib.sha256(features.views[0].tobytes()).hexdigest()
    seconds = time.perf_counter() - started
    least = 2 * multiply_adds(compiled.network) * len(features.places) / operations_per_second()
    return {"seconds": seconds, "digest": digest, "images": len(features.places), "least": least}


def stages(given: argparse.Namespace) -> Row:
    command = [sys.executable, __file__, "--images-per-class", str(given.images), "--size", str(given.size)]
    found: list[tuple[dict[str, Any], dict[str, Any]]] = []
    for _ in range(given.rounds):
        with tempfile.TemporaryDirectory() as name:
            first, second = (
                answer_of(run([*command, "--way", "stage"], Path(name), CNNSTUDY_CACHE=name)) for _ in range(2)
            )
        if first["digest"] != second["digest"]:
            raise SystemExit("the features from the cache are not those that were computed")
        found.append((first, second))
    cold = statistics.median(first["seconds"] for first, _ in found)
    return Row(
        f"features stage of frozen VGG16, {found[0][0]['images']} images, {given.size} px, warm cache",
        "empty cache",
        f"python benchmarks/second_study.py --images-per-class {given.images} --size {given.size}",
        tuple(second["seconds"] for _, second in found),
        tuple(first["seconds"] for first, _ in found),
        "features bit by bit",
        "10",
        f"computing them reaches {100 * found[-1][0]['least'] / cold:.0f} % of a matrix product's speed; read, hashed",
    )


def whole(given: argparse.Namespace) -> Row:
    settings = ["--set", "training.epochs=1", "--set", "data.classes=[0, 1]"] if given.quick else []
    with tempfile.TemporaryDirectory() as name:
        scores: list[list[float]] = []

        def study(warm: bool) -> None:
            place = Path(tempfile.mkdtemp(dir=name))
            cache = str(Path(name) / "cache") if warm else str(place / "cache")
            command = [sys.executable, "-m", "cnnstudy", "run-study", str(HERE / "frozen.yaml"), *settings]
            run(command, place, CNNSTUDY_CACHE=cache)
            scores.append(sorted(scores_in(place / "mlflow.db")))

        study(warm=True)  # fills the cache
        second, first = in_turn(lambda: study(warm=True), lambda: study(warm=False), given.rounds)
    if any(one != scores[0] for one in scores):
        raise SystemExit(f"studies come to other scores: {scores}")
    command = "python benchmarks/second_study.py"
    work = f"second study of frozen VGG16, {len(scores[0])} trials, whole process, warm cache"
    return Row(work, "the first, empty cache", command, tuple(second), tuple(first), "scores of all trials equal")


def main() -> None:
    parsing = parser(__doc__)
    parsing.add_argument("--images-per-class", dest="images", type=int, default=120, help="of ten classes")
    parsing.add_argument("--size", type=int, default=64, help="of images, pixels")
    parsing.add_argument("--way", choices=["stage"], help=argparse.SUPPRESS)
    given = parsing.parse_args()
    if given.way:
        print(json.dumps(stage(given.images, given.size)))
        return
    if given.quick:
        given.images, given.size, given.rounds = 8, 32, 1
    tell(stages(given), given)
    tell(whole(given), given)


if __name__ == "__main__":
    main()
