"""Trials of a frozen VGG16, whole processes: `run-study benchmarks/frozen.yaml` against what one would write today.

    python benchmarks/frozen.py [--trials 6|24] [--peer optuna|kerastuner] [--rounds 1]

Both sides get the same images, split, epochs, grid and cores; ours starts with an empty cache. The peers take
`pip install -c constraints.txt -e '.[bench]'`.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
from compared import HERE, Row, in_turn, run, tell

EPOCHS = 5
PEERS = {"optuna": "optuna_autolog.py", "kerastuner": "keras_tuner_grid.py"}
NAMES = {"optuna": "Optuna + mlflow.tensorflow.autolog", "kerastuner": "KerasTuner GridSearch"}
#: Best validation accuracies, mean of the trials: how far the sides may be apart. The heads' initial weights differ.
TOLERANCE = 0.05


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, choices=[6, 24], default=6)
    parser.add_argument("--peer", choices=list(PEERS), default="optuna")
    parser.add_argument("--rounds", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = folder / "images.npz"
        _write_images(images)
        _write_weights(folder / "weights.npz")
        ours, theirs = in_turn(
            lambda: _run_ours(folder, arguments.trials),
            lambda: _run_theirs(folder, arguments.peer, arguments.trials, images),
            arguments.rounds,
        )
        equal = _check(
            _our_scores(folder), json.loads((folder / "theirs" / "result.json").read_text()), arguments.trials
        )
    command = f"python benchmarks/frozen.py --trials {arguments.trials} --peer {arguments.peer}"
    goal = {6: "15", 24: "40"}[arguments.trials] if arguments.peer == "optuna" or arguments.trials == 6 else ""
    work = f"frozen VGG16, {arguments.trials} trials x {EPOCHS} epochs, 64 px, whole process"
    tell(Row(work, NAMES[arguments.peer], command, tuple(ours), tuple(theirs), equal, goal))


def _write_images(path: Path) -> None:
    """The study's own train and validation images, for the peers."""
    from cnnstudy.config import load_study
    from cnnstudy.records import Split
    from cnnstudy.training.images import load_for_training, prepare

    config = load_study(str(HERE / "frozen.yaml")).config
    split = Split(config.data.validation, config.data.test, config.seed)
    (prepared,) = prepare(config.data, [config.size_of("vgg16")], config.seed, lambda *_: None)
    loaded = load_for_training(prepared, split, 1.0)
    parts = {"train": loaded.train, "val": loaded.validation}
    arrays = {f"{part}_{kind}": getattr(of, kind) for part, of in parts.items() for kind in ("pixels", "labels")}
    np.savez(path, allow_pickle=False, **arrays)


def _write_weights(path: Path) -> None:
    """The source weights of the study's trials, by layer: the peers start from the same."""
    from cnnstudy import architectures
    from cnnstudy.config import load_study
    from cnnstudy.training import weights

    config = load_study(str(HERE / "frozen.yaml")).config
    network = architectures.build_network(architectures.find("vgg16"), config.size_of("vgg16"), 5, dropout=0.0)
    weights.initialise(network, config.seed)
    layers = [layer for layer in weights.backbone_layers(network.logits) if layer.get_weights()]
    arrays = {f"{layer.name}/{i}": array for layer in layers for i, array in enumerate(layer.get_weights())}
    np.savez(path, allow_pickle=False, **arrays)


def _run_ours(folder: Path, trials: int) -> None:
    place = Path(tempfile.mkdtemp(dir=folder, prefix="ours-"))
    more = ["--set", "factors.dropout=[0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.45, 0.5]", "--trials", "24"]
    command = [sys.executable, "-m", "cnnstudy", "run-study", str(HERE / "frozen.yaml"), *(more if trials > 6 else [])]
    run(command, place, CNNSTUDY_CACHE=str(place / "cache"))


def _run_theirs(folder: Path, peer: str, trials: int, images: Path) -> None:
    place = folder / "theirs"
    place.mkdir(exist_ok=True)
    script, result = str(HERE / "peers" / PEERS[peer]), str(place / "result.json")
    run([sys.executable, script, str(images), str(trials), str(EPOCHS), result], place)


def _our_scores(folder: Path) -> list[float]:
    place = max(folder.glob("ours-*"), key=lambda path: path.stat().st_mtime)
    with sqlite3.connect(place / "mlflow.db") as database:
        rows = database.execute("select run_uuid, value from latest_metrics where key = 'best/val_accuracy'").fetchall()
    return [value for _, value in rows]


def _check(ours: list[float], theirs: list[float], trials: int) -> str:
    if (len(ours), len(theirs)) != (trials, trials):
        raise SystemExit(f"{len(ours)} and {len(theirs)} trials, not {trials}")
    means = statistics.mean(ours), statistics.mean(theirs)
    if abs(means[0] - means[1]) > TOLERANCE:
        raise SystemExit(
            f"the sides do not come to the same: mean validation accuracy {means[0]:.3f} and {means[1]:.3f}"
        )
    return f"mean accuracy {means[0]:.3f} / {means[1]:.3f}"


if __name__ == "__main__":
    main()
