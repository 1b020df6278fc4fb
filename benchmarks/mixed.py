"""Compare a study of three networks and three transfer modes with a usual script, as whole processes.

    python benchmarks/mixed.py [--onednn on|off] [--rounds 1]

`run-study benchmarks/mixed.yaml` (AlexNet, GoogLeNet, VGG16; scratch, frozen, fine-tune; 18 trials of 5 epochs) against
Optuna with MLflow's autolog over the same networks (peers/networks.py), with the same images, split, source weights,
epochs and cores; ours starts with an empty cache. The best validation accuracies must agree on average.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path

from compared import HERE, Row, parser, tell
from frozen import scores_in, write_images, write_weights
from limits import multiply_adds, operations, operations_per_second, seconds_to_start
from sides import ONEDNN, add_onednn, in_environment, in_turn, run

#: The largest difference between the sides' mean best validation accuracies. The heads' initial weights differ.
TOLERANCE = 0.1


def settings(quick: bool) -> list[str]:
    """Return the study's settings besides those of its file."""
    smaller = ["data.classes=[0, 1]", "data.images_per_class=20", "training.epochs=1"]
    return [*smaller, "factors.dropout=0.2", "budget.trials=9"] if quick else []


def write_inputs(folder: Path, quick: bool) -> None:
    """Write the peer's inputs; return the seconds that the arithmetic takes at the speed of a matrix product."""
    from cnnstudy import architectures
    from cnnstudy.config.load import load_study
    from cnnstudy.execution.local import WORKER_ENVIRONMENT

    os.environ.update(WORKER_ENVIRONMENT)
    config = load_study(str(HERE / "mixed.yaml"), settings(quick)).config
    images = write_images(config, config.image_size_of("vgg16"), folder / "images.npz")
    needed = 0.0
    for name in config.architectures:
        found = architectures.find(name)
        network = architectures.build_network(found, config.image_size_of(name), len(config.data.classes), dropout=0.0)
        write_weights(network, config.seed, folder / f"{name}.npz")
        # two of the three modes train all layers in each epoch, the third needs one pass for all of them
        trained = config.trials_of(name) * 2 / 3 * config.training.epochs
        needed += trained * operations(multiply_adds(network), images, 0) + 2 * multiply_adds(network) * images
    (folder / "least.json").write_text(json.dumps(needed / operations_per_second()), encoding="utf-8")


def compare(onednn: str, given: argparse.Namespace) -> Row:
    trials, epochs = (9, 1) if given.quick else (18, 5)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        way = [sys.executable, __file__, "--way", name, *(["--quick"] if given.quick else [])]
        run(way, folder, CNNSTUDY_CACHE=str(folder / "cache-of-the-peer"))

        def ours() -> None:
            place = Path(tempfile.mkdtemp(dir=folder, prefix="ours-"))
            more = [word for setting in settings(given.quick) for word in ("--set", setting)]
            command = [sys.executable, "-m", "cnnstudy", "run-study", str(HERE / "mixed.yaml"), *more]
            run(command, place, CNNSTUDY_CACHE=str(place / "cache"))
            scores.append(scores_in(place / "mlflow.db"))

        def theirs() -> None:
            place = Path(tempfile.mkdtemp(dir=folder, prefix="theirs-"))
            script, result = str(HERE / "peers" / "mixed_autolog.py"), place / "result.json"
            run([sys.executable, script, name, str(trials), str(epochs), str(result)], place, **ONEDNN[onednn])
            scores.append(list(json.loads(result.read_text()).values()))

        scores: list[list[float]] = []
        seconds, other = in_turn(ours, theirs, given.rounds)
        start, least = seconds_to_start(folder), json.loads((folder / "least.json").read_text())
    one, two = scores[-2:]
    if (len(one), len(two)) != (trials, trials):
        raise SystemExit(f"{len(one)} and {len(two)} trials, not {trials}")
    means = statistics.mean(one), statistics.mean(two)
    if abs(means[0] - means[1]) > (1.0 if given.quick else TOLERANCE):
        raise SystemExit(f"the sides do not come to the same: mean validation accuracy {means[0]:.3f}, {means[1]:.3f}")
    share = 100 * (start + least) / statistics.median(seconds)
    return Row(
        f"three networks, scratch, frozen and fine-tune, {trials} trials x {epochs} epochs, 64 px, whole process",
        in_environment("Optuna + mlflow.tensorflow.autolog", onednn),
        f"python benchmarks/mixed.py --onednn {onednn}",
        tuple(seconds),
        tuple(other),
        f"mean accuracy {means[0]:.3f} / {means[1]:.3f}",
        "3",
        f"{share:.0f} %: floor {start + least:.1f} s, of it TensorFlow's start {start:.1f} s",
    )


def main() -> None:
    parsing = parser(__doc__, rounds=1)
    add_onednn(parsing)
    parsing.add_argument("--way", type=Path, help=argparse.SUPPRESS)
    given = parsing.parse_args()
    if given.way:
        write_inputs(given.way, given.quick)
        return
    for onednn in [given.onednn] if given.onednn else list(ONEDNN)[: 1 if given.quick else None]:
        tell(compare(onednn, given), given)


if __name__ == "__main__":
    main()
