"""What the benchmarks of training share: trials on digits, and medians with their spread."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from typing import Any

from cnnstudy import architectures
from cnnstudy.datasets import find as find_data
from cnnstudy.records import EpochRecord, Optimizer, PreparedImages, Split, TrialSpec
from cnnstudy.space import complete_levels
from cnnstudy.training.images import prepare

SPLIT = Split(0.2, 0.15, 0)


def parser(description: str | None) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--rounds", type=int, default=3, help="how often each way is timed")
    made.add_argument("--threads", type=int, default=os.cpu_count())
    made.add_argument("--way", help=argparse.SUPPRESS)  # what a process of its own is to time
    return made


def digits(images_per_class: int | None, size: int) -> PreparedImages:
    """All ten digits, enlarged to `size` pixels."""
    options = find_data("digits").Options(
        name="digits", images_per_class=images_per_class, validation=SPLIT.validation, test=SPLIT.test
    )
    return prepare(options, [size], SPLIT.seed, lambda *_: None)[0]


def specification(architecture: str, images: PreparedImages, epochs: int, **levels: Any) -> TrialSpec:
    """A trial with fresh weights, also where the transfer mode takes them from elsewhere: that costs the same."""
    found = architectures.find(architecture)
    complete = complete_levels(found.has_auxiliary_heads, found.defaults, lambda factor: levels.get(factor.name))
    return TrialSpec(
        study="benchmark",
        purpose="trial",
        architecture=architecture,
        number=0,
        seed=0,
        levels=complete,
        images=images,
        split=SPLIT,
        epochs=epochs,
        head_epochs=1,
        patience=None,
        monitor="val/accuracy",
        optimizer=Optimizer("adam"),
        weights_source="random",
        weights_file=None,
    )


def without_times(records: list[EpochRecord]) -> list[dict[str, float]]:
    """The epochs' metrics but for how long they took."""
    return [{name: of for name, of in one.metrics.items() if not name.startswith("time/")} for one in records]


def start_tensorflow(threads: int) -> None:
    """As a worker does."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(min(2, threads))


def in_a_process(way: str) -> Any:
    """What this program gives as its last line, called again with `--way`."""
    environment = {"TF_CPP_MIN_LOG_LEVEL": "3", **os.environ}
    command = [sys.executable, *sys.argv, "--way", way]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def shown(seconds: list[float]) -> str:
    """`12.3 s (11.9 to 13.0)`."""
    return f"{statistics.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})"


def ratio(slow: list[float], fast: list[float]) -> str:
    """Of the medians, with the least and the most that the rounds allow."""
    least, most = min(slow) / max(fast), max(slow) / min(fast)
    return f"{statistics.median(slow) / statistics.median(fast):.1f}x ({least:.1f}x to {most:.1f}x)"
