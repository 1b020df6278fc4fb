"""Compare a search that prunes with the same search without pruning.

    python benchmarks/pruning.py [--pruner hyperband|median] [--rounds 1]

`run-study` as a whole process, each time with an empty cache: AlexNets from scratch with the same random proposals,
some with learning rates at which they do not learn. Every epoch that both trained must have exactly the same metrics
(for that, trials are deterministic), and the best validation accuracies may differ by at most TOLERANCE.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from compared import Row, parser, tell
from shared_prefixes import metrics_in
from sides import in_turn, run

PRUNERS = ("hyperband", "median")
FILE = """\
name: pruning
data: {{name: digits, classes: {classes}, validation: 0.2, test: 0.1}}
image_size: 64
architectures: [alexnet]
factors:
  transfer: scratch
  batch_size: [16, 64]
  dropout: {{low: 0.0, high: 0.7}}
  learning_rate: {{low: 0.00001, high: 0.01, log: true}}
training: {{epochs: {epochs}, deterministic: true, keep_models: false}}
strategy: {{sampler: random}}
budget: {{trials: {trials}}}
"""
#: How much of the best validation accuracy may be lost.
TOLERANCE = 0.02
#: (trial, epoch) -> its metrics.
Epochs = dict[tuple[str, int], dict[str, float]]


def epochs_in(database: Path) -> Epochs:
    """Return the metrics in MLflow of each epoch of each trial."""
    found: Epochs = {}
    for trial, name, epoch, value in metrics_in(database):
        if epoch and name.startswith(("train/", "val/", "running/")):
            found.setdefault((trial, epoch), {})[name] = value
    return found


def compare(pruner: str, given: argparse.Namespace) -> Row:
    classes, epochs, trials = ([0, 1], 4, 6) if given.quick else (list(range(10)), 16, 20)
    found: dict[str, Epochs] = {}
    with tempfile.TemporaryDirectory() as name:

        def study(with_pruner: str) -> None:
            place = Path(tempfile.mkdtemp(dir=name))
            text = FILE.format(classes=classes, epochs=epochs, trials=trials)
            (place / "pruning.yaml").write_text(text, encoding="utf-8")
            setting = f"strategy.pruner={with_pruner}"
            command = [sys.executable, "-m", "cnnstudy", "run-study", "pruning.yaml", "--jobs", "1", "--set", setting]
            run(command, place, CNNSTUDY_CACHE=str(place / "cache"))
            found[with_pruner] = epochs_in(place / "mlflow.db")

        ours, theirs = in_turn(lambda: study(pruner), lambda: study("none"), given.rounds)
    pruned, complete = found[pruner], found["none"]
    if len(complete) != trials * epochs or not pruned.keys() < complete.keys():
        raise SystemExit(f"{len(pruned)} of {len(complete)} epochs were trained, not some of {trials * epochs}")
    if any(complete[key] != metrics for key, metrics in pruned.items()):
        raise SystemExit("a trial of the search that prunes does not come to the same numbers as without pruning")
    best, best_of_all = (max(one["val/accuracy"] for one in of.values()) for of in (pruned, complete))
    if best < best_of_all - TOLERANCE:
        raise SystemExit(f"the best validation accuracy with pruning is {best:.3f}, without {best_of_all:.3f}")
    return Row(
        f"{trials} trials of AlexNet from scratch x {epochs} epochs, 64 px, {pruner} pruning, whole process",
        "no pruning",
        f"python benchmarks/pruning.py --pruner {pruner}",
        tuple(ours),
        tuple(theirs),
        f"all metrics of the {len(pruned)} epochs of {len(complete)} that both trained; best validation accuracy "
        f"{best:.3f} / {best_of_all:.3f}",
    )


def main() -> None:
    parsing = parser(__doc__, rounds=1)
    parsing.add_argument("--pruner", choices=PRUNERS, help="[default: both]")
    given = parsing.parse_args()
    for pruner in [given.pruner] if given.pruner else PRUNERS[: 1 if given.quick else None]:
        tell(compare(pruner, given), given)


if __name__ == "__main__":
    main()
