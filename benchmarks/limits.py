"""Measure the machine's limits by short probes in the same run as a benchmark, and count what a network needs."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from sides import run

if TYPE_CHECKING:
    from cnnstudy.architectures import Network


def operations_per_second(size: int = 2048, seconds: float = 1.0) -> float:
    """Return the operations per second of TensorFlow's product of two float32 matrices [size, size], at best."""
    import tensorflow as tf

    a = tf.random.normal((size, size))
    best, until = 0.0, time.perf_counter() + seconds
    while best == 0 or time.perf_counter() < until:
        started = time.perf_counter()
        tf.matmul(a, a).numpy()
        best = max(best, 2 * size**3 / (time.perf_counter() - started))
    return best


def bytes_per_second(size: int = 1 << 28, seconds: float = 1.0) -> float:
    """Return the bytes per second read and written when an array of `size` bytes is copied, at best."""
    source, target = np.ones(size, np.uint8), np.zeros(size, np.uint8)
    best, until = 0.0, time.perf_counter() + seconds
    while best == 0 or time.perf_counter() < until:
        started = time.perf_counter()
        np.copyto(target, source)
        best = max(best, 2 * size / (time.perf_counter() - started))
    return best


def seconds_to_start(folder: Path) -> float:
    """Return the seconds of a process that imports TensorFlow and Keras and does nothing else."""
    started = time.perf_counter()
    run([sys.executable, "-c", "import keras, tensorflow"], folder)
    return time.perf_counter() - started


def multiply_adds(network: Network, without: frozenset[str] = frozenset()) -> int:
    """Return the multiply-adds of one image in the inference network, except for the operations named."""
    from cnnstudy.architectures import AUXILIARY
    from cnnstudy.results.network_summary import layer_rows

    rows = [row for row in layer_rows(network) if row.part != AUXILIARY]
    return sum(row.multiply_adds for row in rows if row.name not in without)


def operations(forward: int, trained_images: int, evaluated_images: int) -> float:
    """Return the operations of an epoch: an update takes each multiply-add three times (forward, and the gradients of
    outputs and weights)."""
    return 2.0 * forward * (3 * trained_images + evaluated_images)


def share(needed: float, seconds: float, possible: float, what: str) -> str:
    """`41 % of the 102 GFLOP/s that a matrix product reaches`."""
    return f"{100 * needed / seconds / possible:.0f} % of the {possible / 1e9:.0f} {what}"


GFLOPS = "GFLOP/s of a matrix product"
BANDWIDTH = "GB/s of a copy in memory"
