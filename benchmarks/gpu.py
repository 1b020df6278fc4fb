"""Measure on a GPU whether networks compute the same as on the CPU, and how fast they train.

    python benchmarks/gpu.py FOLDER [--minutes 8] [--device cpu] [--side 224] [--batches 16 64 256]

(benchmarks/gpu.sh looks for a GPU first) runs studies of digits in FOLDER, one after the other, as long as the time
lasts; those that have run are not run again. FOLDER/gpu.md gets the tables:

    equality     every network and transfer mode, one epoch in float32 without TF32, on the GPU and on the CPU: by how
                 much clean train losses differ, in nats, before the first update and after the epoch
    two workers  seconds of 8 small trials, one after the other and two at a time on the one card
    time         networks at 224 pixels, in float32, mixed_bfloat16 and mixed_float16, with and without XLA: seconds to
                 the end of the first epoch of two, and milliseconds of an update in the second, by batch size

With `--device cpu` both sides are the CPU, which only shows that this file works.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from sides import environment

from cnnstudy.errors import UnknownNameError
from cnnstudy.names import Metric
from cnnstudy.tracking.client import Tracker
from cnnstudy.tracking.recorded import RecordedRun

CPU = {"CUDA_VISIBLE_DEVICES": "-1"}
DATA = "data: {{name: digits, classes: [0, 1, 2, 3, 4], images_per_class: {images}}}\n"
EQUAL = (
    DATA.format(images=20)
    + """\
image_size: {alexnet: 64, alexnet_torchvision: 64, googlenet: 64, googlenet_torchvision: 64, resnet18: 64, resnet50: 64,
  vgg16: 64, vgg16_torchvision: 64}
architectures: [alexnet, alexnet_torchvision, googlenet, googlenet_torchvision, resnet18, resnet50, vgg16,
  vgg16_torchvision]
factors: {transfer: [scratch, frozen, fine-tune], dropout: 0, batch_size: 16}
weights: {default: {source: random}}
training: {epochs: 1, precision: float32, xla: false, keep_models: false}
strategy: {kind: factorial, seeds: 1}
"""
)
WORKERS = (
    DATA.format(images=100)
    + """\
image_size: 64
architectures: [alexnet]
factors: {transfer: scratch, dropout: [0, 0.5], batch_size: [8, 16]}
training: {epochs: 10, keep_models: false}
strategy: {kind: factorial, seeds: 2}
"""
)
TIMES = (
    DATA
    + """\
image_size: {side}
architectures: [{network}]
factors: {{transfer: scratch, batch_size: {batches}}}
training: {{epochs: 2, precision: {precision}, xla: {xla}, keep_models: false}}
strategy: {{kind: factorial, seeds: 1}}
"""
)
_COUNTED = (Metric.TRAINING_SECONDS, Metric.UPDATES)
NETWORKS, PRECISIONS = ("vgg16", "alexnet", "resnet50"), ("float32", "mixed_bfloat16", "mixed_float16")


class Studies:
    """Studies in a folder, which run until the time is up.

    Args:
        device: `gpu`, or `cpu` to try this file.
    """

    def __init__(self, folder: Path, minutes: float, device: str) -> None:
        self.folder, self.until, self.device = folder.absolute(), time.monotonic() + 60 * minutes, device
        self.folder.mkdir(parents=True, exist_ok=True)

    def run(self, name: str, text: str, words: Sequence[str] = (), **variables: str) -> list[RecordedRun] | None:
        """Return the finished trials of a study, which is run unless it was; None if the time was up or it failed."""
        ended = self.folder / f"{name}.seconds"
        if not ended.exists():
            (self.folder / f"{name}.yaml").write_text(f"name: {name}\n{text}", encoding="utf-8")
            command = [sys.executable, "-m", "cnnstudy", "run-study", f"{name}.yaml", "--quiet", *words]
            given = environment(**{**(CPU if self.device == "cpu" else {}), **variables})
            started, left = time.monotonic(), self.until - time.monotonic()
            if left <= 0:
                return None
            with (self.folder / f"{name}.log").open("w", encoding="utf-8") as log:
                process = subprocess.Popen(command, cwd=self.folder, env=given, stdout=log, stderr=subprocess.STDOUT)
                try:
                    code = process.wait(left)
                except subprocess.TimeoutExpired:
                    process.terminate()
                    process.wait()
                    print(f"{name}: the time is up", flush=True)
                    return None
            if code:
                print(f"{name}: ended with {code}; see {log.name}", flush=True)
                return None
            ended.write_text(str(time.monotonic() - started), encoding="utf-8")
        print(f"{name}: {self.seconds(name):.0f} s", flush=True)
        try:
            runs = self.tracker.runs(self.tracker.study(name).experiment_id)
        except UnknownNameError:
            return None
        return [run for run in runs if run.kind == "trial" and run.done and not run.retried]

    @property
    def tracker(self) -> Tracker:
        return Tracker(f"sqlite:///{self.folder}/mlflow.db")

    def seconds(self, name: str) -> float:
        """How long the command of a study took."""
        return float((self.folder / f"{name}.seconds").read_text(encoding="utf-8"))


def equality(studies: Studies) -> Iterator[str]:
    """Yield a table of how far the GPU's losses are from the CPU's."""
    exact = {"NVIDIA_TF32_OVERRIDE": "0"}
    sides = [studies.run("equal-cpu", EQUAL, **CPU), studies.run("equal-gpu", EQUAL, **exact)]
    if None in sides:
        return
    there, here = (
        {(run.architecture, run.parameters["transfer"]): _train_losses(studies.tracker, run) for run in side or ()}
        for side in sides
    )
    yield "| network | transfer | before the first update | after an epoch |\n|---|---|--:|--:|"
    for network, mode in sorted(there.keys() & here.keys()):
        first, last = (abs(one - other) for one, other in zip(there[network, mode], here[network, mode], strict=True))
        yield f"| {network} | {mode} | {first:.1e} | {last:.1e} |"


def _train_losses(tracker: Tracker, run: RecordedRun) -> tuple[float, float]:
    """Return the clean train loss before the first update and after the first epoch, in nats."""
    val, gap = (tracker.metric_history(run.run_id, name) for name in (Metric.VAL_LOSS, Metric.GAP_LOSS))
    return val[0] - gap[0], val[1] - gap[1]


def two_workers(studies: Studies) -> Iterator[str]:
    """Yield a table of the seconds of a study with one worker and with two on the same card."""
    names = {1: "one-worker", 2: "two-workers"}
    if any(studies.run(name, WORKERS, ["--jobs", str(jobs)]) is None for jobs, name in names.items()):
        return
    yield "| workers | seconds of 8 trials |\n|--:|--:|"
    yield from (f"| {jobs} | {studies.seconds(name):.1f} |" for jobs, name in names.items())


def times(studies: Studies, side: int, batches: Sequence[int]) -> Iterator[str]:
    """Yield a table of the time to the end of the first epoch and of an update in the second."""
    yield "| network | precision | XLA | batch size | first epoch, s | an update, ms | images a second |"
    yield "|---|---|---|--:|--:|--:|--:|"
    for precision in PRECISIONS:
        for network in NETWORKS:
            for xla in ("true", "false"):
                settings = {"images": 170, "side": side, "network": network, "batches": list(batches)}
                text = TIMES.format(precision=precision, xla=xla, **settings)
                for run in studies.run(f"time-{network}-{precision}-xla-{xla}", text) or ():
                    first, update = _epoch_times(studies.tracker, run)
                    batch = int(run.parameters["batch_size"])
                    numbers = f"{first:.1f} | {1000 * update:.1f} | {batch / update:.0f}"
                    yield f"| {network} | {precision} | {'yes' if xla == 'true' else 'no'} | {batch} | {numbers} |"


def _epoch_times(tracker: Tracker, run: RecordedRun) -> tuple[float, float]:
    """Return the seconds of the first epoch, and of an update in the second."""
    seconds, updates = (tracker.metric_history(run.run_id, name) for name in _COUNTED)
    return seconds[1], seconds[2] / (updates[2] - updates[1])


def main() -> None:
    """Run the studies, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--device", choices=["gpu", "cpu"], default="gpu")
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--batches", type=int, nargs="+", default=[16, 64, 256])
    given = parser.parse_args()
    studies = Studies(given.folder, given.minutes, given.device)
    parts: Mapping[str, Iterator[str]] = {
        "Differences from the CPU, nats": equality(studies),
        "Workers on one card": two_workers(studies),
        f"Time at {given.side} pixels": times(studies, given.side, given.batches),
    }
    text = "\n\n".join(f"## {title}\n\n{chr(10).join(lines) or 'no time was left'}" for title, lines in parts.items())
    (studies.folder / "gpu.md").write_text(text + "\n", encoding="utf-8")
    print(f"\n{text}")


if __name__ == "__main__":
    main()
