"""Compare trials that share the head's phase with the same trials that each train it.

    python benchmarks/shared_prefixes.py [--rounds 1]

`run-study` as a whole process, each time with an empty cache: two-phase trials of a VGG16 that differ in the backbone's
learning rate alone, with strong augmentation (so that the head's phase needs the whole network in every epoch), with
`training.share_epochs` and without. The metrics of every epoch and of the best one are compared exactly; trials are
deterministic for that.
"""

from __future__ import annotations

import argparse
import contextlib
import sqlite3
import sys
import tempfile
from pathlib import Path

from compared import Row, parser, tell
from sides import in_turn, run

FILE = """\
name: shared
data: {{name: digits, classes: {classes}, images_per_class: {images}, validation: 0.2, test: 0.1}}
image_size: 64
architectures: [{architecture}]
factors:
  transfer: two-phase
  augmentation: strong
  learning_rate: 0.0001
  backbone_learning_rate_multiplier: [0.01, 0.1, 1.0]
weights: {{default: {{source: random}}}}
training: {{epochs: {epochs}, head_epochs: {head}, deterministic: true, keep_models: false}}
strategy: {{sampler: grid}}
budget: {{trials: 3}}
"""
TRIALS = 3
#: By trial (its name), metric and epoch.
Metrics = list[tuple[str, str, int, float]]


def metrics_in(database: Path) -> Metrics:
    """Return all metrics of the trials in MLflow except durations."""
    question = (
        "select tags.value, metrics.key, metrics.step, metrics.value from metrics "
        "join tags on tags.run_uuid = metrics.run_uuid and tags.key = 'cnnstudy.trial' "
        "where metrics.key not like 'time/%' order by 1, 2, 3"
    )
    with contextlib.closing(sqlite3.connect(database)) as connection:
        return [tuple(row) for row in connection.execute(question)]


def shared_in(database: Path) -> list[int]:
    """Return how many epochs each trial shared, for those that shared any."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        rows = connection.execute("select value from tags where key = 'cnnstudy.shared_epochs'").fetchall()
    return [int(value) for (value,) in rows]


def compare(given: argparse.Namespace) -> Row:
    architecture, classes, images, epochs, head = "vgg16", [0, 1, 2, 3, 4], 60, 6, 4
    if given.quick:
        architecture, classes, images, epochs, head = "alexnet", [0, 1, 2], 150, 7, 6
    found: dict[bool, Metrics] = {}
    counts: dict[bool, list[int]] = {}
    with tempfile.TemporaryDirectory() as name:

        def study(shares: bool) -> None:
            place = Path(tempfile.mkdtemp(dir=name))
            text = FILE.format(classes=classes, images=images, architecture=architecture, epochs=epochs, head=head)
            (place / "shared.yaml").write_text(text, encoding="utf-8")
            setting = f"training.share_epochs={str(shares).lower()}"
            command = [sys.executable, "-m", "cnnstudy", "run-study", "shared.yaml", "--jobs", "1", "--set", setting]
            run(command, place, CNNSTUDY_CACHE=str(place / "cache"))
            found[shares], counts[shares] = metrics_in(place / "mlflow.db"), shared_in(place / "mlflow.db")

        ours, theirs = in_turn(lambda: study(True), lambda: study(False), given.rounds)
    if (counts[True], counts[False]) != ([head] * (TRIALS - 1), []):
        raise SystemExit(f"the epochs that were shared are {counts}, not {head} of all trials but the first")
    if not found[True] or found[True] != found[False]:
        raise SystemExit("trials that share epochs do not come to the same numbers")
    return Row(
        f"{TRIALS} two-phase trials of {architecture} x {head} + {epochs - head} epochs, 64 px, whole process",
        "the head's phase trained in each",
        "python benchmarks/shared_prefixes.py",
        tuple(ours),
        tuple(theirs),
        f"all {len(found[True]):,} metrics of all epochs",
    )


def main() -> None:
    given = parser(__doc__, rounds=1).parse_args()
    tell(compare(given), given)


if __name__ == "__main__":
    main()
