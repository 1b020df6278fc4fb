"""Compare the cost of recording a trial with what `mlflow.tensorflow.autolog` adds to `fit`.

    python benchmarks/recording_cost.py [--epochs 5] [--rounds 3]

Both sides run in separate processes and train in turn. Ours trains AlexNet (64 px) in a worker; the seconds of the
recorder (start, every epoch, curves, the model's upload) and of packaging the model count. The other calls `fit` with
and without autolog; the difference counts. Both must record every epoch's metrics and a model.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from compared import HERE, Row, parser, tell
from sides import rounds, side

#: Seconds of a trial for which recording should be negligible.
TRIAL = 60.0


def ours(folder: Path, epochs: int, images_per_class: int) -> Callable[[], dict[str, Any]]:
    """Return a function that runs and records a trial, as study/driver.py does."""
    from dataclasses import replace

    from measuring import digits, specification

    from cnnstudy.config.load import load_study
    from cnnstudy.execution import Done, Epoch, Failed, Job
    from cnnstudy.execution.local import LocalExecutor
    from cnnstudy.records import TrialResult
    from cnnstudy.study.recorder import Recorder, remove_trial_files
    from cnnstudy.tracking.client import Tracker

    spec = specification("alexnet", digits(images_per_class, 64), epochs, batch_size=16, dropout=0.5)
    tracker = Tracker("sqlite:///mlflow.db")
    study = tracker.open_study("benchmark", load_study(str(HERE / "frozen.yaml")).config.model_dump(mode="json"))
    recorder, numbers = Recorder(tracker, study), iter(range(1000))
    executor = LocalExecutor(1, folder / "files", (str(HERE / "timed_worker.py"),))
    (folder / "files").mkdir()

    def work() -> dict[str, Any]:
        trial = replace(spec, number=next(numbers))
        began = time.perf_counter()
        recording = recorder.start(trial)
        spent = time.perf_counter() - began
        executor.submit(Job(trial.key, "run_trial", trial.to_json()))
        while True:
            event = executor.next_event(60)
            if isinstance(event, Failed):
                raise SystemExit(f"{event.message}\n{event.traceback}")
            if isinstance(event, Epoch):
                if event.asks:
                    executor.answer(event.key, True)
                began = time.perf_counter()
                recorder.epoch(recording, event.record)
                spent += time.perf_counter() - began
            if isinstance(event, Done):
                break
        result = TrialResult.from_json(event.result)
        model = Path(result.files["model"])
        package = json.loads((model.parent / "package_seconds.json").read_text())
        model_bytes = sum(file.stat().st_size for file in model.rglob("*") if file.is_file())
        began = time.perf_counter()
        recorder.finish(recording, result)
        remove_trial_files(result)
        spent += time.perf_counter() - began
        return {"seconds": spent + package, "package": package, "bytes": model_bytes, "left": _left(tracker.uri)}

    return work


def theirs(epochs: int, images_per_class: int) -> Callable[[], dict[str, Any]]:
    """Return a function that trains the same network with `fit`, without autolog and with it."""
    import keras
    import mlflow
    from measuring import digits, specification

    from cnnstudy.architectures import build_network, find
    from cnnstudy.training import trial, weights

    spec = specification("alexnet", digits(images_per_class, 64), epochs, batch_size=16, dropout=0.5)
    images = trial.load_images(spec)
    mlflow.set_tracking_uri("sqlite:///mlflow.db")
    mlflow.set_experiment("autolog")

    def fit() -> float:
        keras.backend.clear_session()
        network = build_network(find("alexnet"), spec.images.size, len(spec.images.classes), dropout=0.5)
        weights.initialise(network, spec.seed)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        network.logits.compile(keras.optimizers.Adam(5e-4), loss, metrics=["accuracy"])
        validation = (images.validation.pixels[:], images.validation.labels)
        began = time.perf_counter()
        network.logits.fit(
            images.train.pixels[:],
            images.train.labels,
            batch_size=16,
            epochs=epochs,
            validation_data=validation,
            verbose=0,
        )
        return time.perf_counter() - began

    def work() -> dict[str, Any]:
        mlflow.tensorflow.autolog(disable=True)
        without = fit()
        mlflow.tensorflow.autolog(disable=False)
        with_it = fit()
        return {"seconds": with_it - without, "left": _left("sqlite:///mlflow.db")}

    return work


def _left(uri: str) -> dict[str, int]:
    """Return how many epochs' validation accuracies, and how many models, MLflow has of the last run."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(experiments, order_by=["attributes.start_time DESC"])
    run = next(run for run in runs if run.info.status == "FINISHED")
    name = next(name for name in run.data.metrics if name in ("val/accuracy", "val_accuracy"))
    return {"epochs": len(client.get_metric_history(run.info.run_id, name)), "models": len(run.outputs.model_outputs)}


def compare(given: argparse.Namespace) -> Row:
    from limits import bytes_per_second

    command = [sys.executable, __file__, "--epochs", str(given.epochs), "--images-per-class", str(given.images)]
    with tempfile.TemporaryDirectory() as name:
        folders = [Path(name) / which for which in ("ours", "theirs")]
        for folder in folders:
            folder.mkdir()
        with (
            side([*command, "--side", "ours"], folders[0], CNNSTUDY_CACHE=name) as one,
            side([*command, "--side", "theirs"], folders[1], CNNSTUDY_CACHE=name) as other,
        ):
            pairs = [(one.round(), other.round()) for _ in range(1 + given.rounds)][1:]  # the first imports and makes
    wanted = {"epochs": given.epochs, "models": 1}
    for found in pairs[-1]:
        if found["left"] != wanted:
            raise SystemExit(f"MLflow has {found['left']} of the last run, not {wanted}")
    median = statistics.median(x["seconds"] for x, _ in pairs)
    package = statistics.median(x["package"] for x, _ in pairs)
    size = pairs[-1][0]["bytes"]
    return Row(
        f"recording a trial of AlexNet, {given.epochs} epochs, model of {size / 1e6:.0f} MB",
        "what mlflow.tensorflow.autolog adds to fit",
        f"python benchmarks/recording_cost.py --epochs {given.epochs}",
        tuple(x["seconds"] for x, _ in pairs),
        tuple(y["seconds"] for _, y in pairs),
        f"{given.epochs} epochs and a model in MLflow on both sides",
        "10",
        f"{100 * median / TRIAL:.1f} % of a trial of {TRIAL:.0f} s, {package:.2g} s of it the model's package; "
        f"to copy the model in memory takes {1000 * 2 * size / bytes_per_second():.0f} ms",
    )


def main() -> None:
    parsing = parser(__doc__)
    parsing.add_argument("--epochs", type=int, default=5)
    parsing.add_argument("--images-per-class", dest="images", type=int, default=40, help="of ten classes")
    parsing.add_argument("--side", choices=["ours", "theirs"], help=argparse.SUPPRESS)
    given = parsing.parse_args()
    if given.side:
        rounds(
            ours(Path.cwd(), given.epochs, given.images) if given.side == "ours" else theirs(given.epochs, given.images)
        )
        return
    if given.quick:
        given.epochs, given.images, given.rounds = 2, 8, 1
    tell(compare(given), given)


if __name__ == "__main__":
    main()
