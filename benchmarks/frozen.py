"""Compare trials of a frozen VGG16 as whole processes: `run-study benchmarks/frozen.yaml` against a usual script.

    python benchmarks/frozen.py [--trials 6|24] [--peer optuna|kerastuner] [--onednn on|off] [--rounds 1]

Both sides get the same images, split, source weights, epochs, grid and cores; ours starts with an empty cache. Without
options: all rows. The peers need `pip install -c constraints.txt -e '.[bench]'`.

The limit is the least that such a process can take: starting TensorFlow, and computing the convolutions of each image
once at the speed of a matrix product.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sqlite3
import statistics
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from compared import HERE, Row, parser, tell
from limits import multiply_adds, operations_per_second, seconds_to_start
from sides import ONEDNN, add_onednn, in_environment, in_turn, run

if TYPE_CHECKING:
    from cnnstudy.architectures import Network
    from cnnstudy.config.schema import StudyConfig

EPOCHS, CLASSES = 5, 5
PEERS = {"optuna": "optuna_autolog.py", "kerastuner": "keras_tuner_grid.py"}
NAMES = {"optuna": "Optuna + mlflow.tensorflow.autolog", "kerastuner": "KerasTuner GridSearch"}
#: The largest difference between the sides' mean best validation accuracies. The heads' initial weights differ.
TOLERANCE = 0.05


#: (trials, peer, its oneDNN) of each row.
ROWS = (
    (6, "optuna", "on"),
    (6, "optuna", "off"),
    (6, "kerastuner", "on"),
    (6, "kerastuner", "off"),
    (24, "optuna", "on"),
    (24, "optuna", "off"),
)
GOALS = {(6, "optuna"): "15", (6, "kerastuner"): "15", (24, "optuna"): "40"}


def main() -> None:
    parsing = parser(__doc__, rounds=1)
    parsing.add_argument("--trials", type=int, choices=[6, 24], help="[default: both]")
    parsing.add_argument("--peer", choices=list(PEERS), help="[default: both]")
    add_onednn(parsing)
    parsing.add_argument("--way", help=argparse.SUPPRESS)
    given = parsing.parse_args()
    if given.way:
        _write_inputs(Path(given.way))
        return
    rows = [
        row
        for row in ROWS
        if all(wanted in (None, of) for wanted, of in zip((given.trials, given.peer, given.onednn), row, strict=True))
    ]
    for row in rows[:1] if given.quick else rows:
        tell(_compare(*row, given), given)


def _compare(trials: int, peer: str, onednn: str, given: argparse.Namespace) -> Row:
    epochs, classes = (1, 2) if given.quick else (EPOCHS, CLASSES)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        variables = {"CNNSTUDY_CACHE": str(folder / "cache-of-the-peers")}
        settings = [f"training.epochs={epochs}", f"data.classes={list(range(classes))}"]
        run([sys.executable, __file__, "--way", name], folder, **variables, BENCHMARK_CLASSES=str(classes))
        ours, theirs = in_turn(
            lambda: _run_ours(folder, trials, settings),
            lambda: _run_theirs(folder, peer, trials, epochs, onednn),
            given.rounds,
        )
        scores = json.loads((folder / "theirs" / "result.json").read_text())
        equal = _check(_our_scores(folder), scores, trials, 1.0 if given.quick else TOLERANCE)
        start = seconds_to_start(folder)
        least = json.loads((folder / "least.json").read_text())
    command = f"python benchmarks/frozen.py --trials {trials} --peer {peer} --onednn {onednn}"
    work = f"frozen VGG16, {trials} trials x {epochs} epochs, 64 px, whole process"
    floor = start + least
    share = 100 * floor / statistics.median(ours)
    limit = f"{share:.0f} %: floor {floor:.1f} s, of it TensorFlow's start {start:.1f} s"
    return Row(
        work,
        in_environment(NAMES[peer], onednn),
        command,
        tuple(ours),
        tuple(theirs),
        equal,
        GOALS.get((trials, peer), ""),
        limit,
    )


def _write_inputs(folder: Path) -> None:
    """Write the peers' inputs; return the least seconds that the convolutions can take."""
    import os

    from cnnstudy import architectures
    from cnnstudy.config.load import load_study
    from cnnstudy.execution.local import WORKER_ENVIRONMENT

    os.environ.update(WORKER_ENVIRONMENT)
    classes = int(os.environ["BENCHMARK_CLASSES"])
    config = load_study(str(HERE / "frozen.yaml"), [f"data.classes={list(range(classes))}"]).config
    size = config.image_size_of("vgg16")
    images = write_images(config, size, folder / "images.npz")
    network = architectures.build_network(architectures.find("vgg16"), size, classes, dropout=0.0)
    write_weights(network, config.seed, folder / "weights.npz")
    least = 2 * multiply_adds(network) * images / operations_per_second()
    (folder / "least.json").write_text(json.dumps(least), encoding="utf-8")


def write_images(config: StudyConfig, size: int, path: Path) -> int:
    """Write the study's train and validation images for the peers; return their number."""
    from cnnstudy.data.images import load_for_training, prepare_images
    from cnnstudy.records import Split

    split = Split(config.data.validation, config.data.test, config.seed)
    (prepared,) = prepare_images(config.data, [size], config.seed, lambda *_: None)
    loaded = load_for_training(prepared, split, 1.0)
    parts = {"train": loaded.train, "val": loaded.validation}
    arrays = {f"{part}_{kind}": getattr(of, kind) for part, of in parts.items() for kind in ("pixels", "labels")}
    np.savez(path, allow_pickle=False, **arrays)
    return len(loaded.train) + len(loaded.validation)


def write_weights(network: Network, seed: int, path: Path) -> None:
    """Write the source weights of the study's trials by layer: the peers start from the same ones."""
    from cnnstudy.training import weights

    weights.initialise(network, seed)
    weights.save_backbone(network, path)


def _run_ours(folder: Path, trials: int, settings: list[str]) -> None:
    place = Path(tempfile.mkdtemp(dir=folder, prefix="ours-"))
    if trials > 6:
        settings = [*settings, "factors.dropout=[0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.45, 0.5]", f"budget.trials={trials}"]
    given = [word for setting in settings for word in ("--set", setting)]
    command = [sys.executable, "-m", "cnnstudy", "run-study", str(HERE / "frozen.yaml"), *given]
    run(command, place, CNNSTUDY_CACHE=str(place / "cache"))


def _run_theirs(folder: Path, peer: str, trials: int, epochs: int, onednn: str) -> None:
    place = folder / "theirs"
    place.mkdir(exist_ok=True)
    script, result = str(HERE / "peers" / PEERS[peer]), str(place / "result.json")
    run([sys.executable, script, str(folder / "images.npz"), str(trials), str(epochs), result], place, **ONEDNN[onednn])


def _our_scores(folder: Path) -> list[float]:
    return scores_in(max(folder.glob("ours-*"), key=lambda path: path.stat().st_mtime) / "mlflow.db")


def scores_in(database: Path) -> list[float]:
    """Return the best validation accuracy of each trial in that folder's MLflow database."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        rows = connection.execute("select value from latest_metrics where key = 'best/val_accuracy'").fetchall()
    return [value for (value,) in rows]


def _check(ours: list[float], theirs: list[float], trials: int, tolerance: float) -> str:
    if (len(ours), len(theirs)) != (trials, trials):
        raise SystemExit(f"{len(ours)} and {len(theirs)} trials, not {trials}")
    means = statistics.mean(ours), statistics.mean(theirs)
    if abs(means[0] - means[1]) > tolerance:
        raise SystemExit(
            f"the sides do not come to the same: mean validation accuracy {means[0]:.3f} and {means[1]:.3f}"
        )
    return f"mean accuracy {means[0]:.3f} / {means[1]:.3f}"


if __name__ == "__main__":
    main()
