"""What the machine can do, by short probes in the same run as a benchmark, and what a network takes of it."""

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
    """Floating point operations, by TensorFlow's product of two matrices [size, size] float32; the best of a second."""
    import tensorflow as tf

    a = tf.random.normal((size, size))
    best, until = 0.0, time.perf_counter() + seconds
    while best == 0 or time.perf_counter() < until:
        started = time.perf_counter()
        tf.matmul(a, a).numpy()
        best = max(best, 2 * size**3 / (time.perf_counter() - started))
    return best


def bytes_per_second(size: int = 1 << 28, seconds: float = 1.0) -> float:
    """Of memory, read and written, by copying an array of `size` bytes; the best of a second."""
    source, target = np.ones(size, np.uint8), np.zeros(size, np.uint8)
    best, until = 0.0, time.perf_counter() + seconds
    while best == 0 or time.perf_counter() < until:
        started = time.perf_counter()
        np.copyto(target, source)
        best = max(best, 2 * size / (time.perf_counter() - started))
    return best


def seconds_to_start(folder: Path) -> float:
    """Of a process that imports TensorFlow and Keras and does nothing."""
    started = time.perf_counter()
    run([sys.executable, "-c", "import keras, tensorflow"], folder)
    return time.perf_counter() - started


def multiply_adds(network: Network, without: frozenset[str] = frozenset()) -> int:
    """Of one image through the inference network, but for the operations named."""
    from cnnstudy.architectures import AUXILIARY
    from cnnstudy.results.network_summary import layer_rows

    rows = [row for row in layer_rows(network) if row.part != AUXILIARY]
    return sum(row.multiply_adds for row in rows if row.name not in without)


def operations(forward: int, trained_images: int, evaluated_images: int) -> float:
    """Of an epoch: an update takes a multiply-add three times (forward, and the gradients of outputs and weights)."""
    return 2.0 * forward * (3 * trained_images + evaluated_images)


def share(needed: float, seconds: float, possible: float, what: str) -> str:
    """`41 % of the 102 GFLOP/s that a matrix product reaches`."""
    return f"{100 * needed / seconds / possible:.0f} % of the {possible / 1e9:.0f} {what}"


GFLOPS = "GFLOP/s of a matrix product"
BANDWIDTH = "GB/s of a copy in memory"
