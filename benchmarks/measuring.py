"""Shared by the benchmarks of training: trials on digits, in processes that start TensorFlow as a worker does."""

from __future__ import annotations

import os
from typing import Any

from cnnstudy import architectures
from cnnstudy.config.factors import complete_levels
from cnnstudy.data.datasets import find as find_data
from cnnstudy.data.images import prepare_images
from cnnstudy.execution.local import WORKER_ENVIRONMENT
from cnnstudy.records import EpochRecord, Optimizer, PreparedImages, Rule, Split, TrialSpec
from cnnstudy.system.processes import count_cores

SPLIT = Split(0.2, 0.15, 0)


def digits(images_per_class: int | None, size: int, classes: int = 10) -> PreparedImages:
    """Return the first digits, enlarged to `size` pixels."""
    options = find_data("digits").Options(
        name="digits",
        classes=tuple(range(classes)),
        images_per_class=images_per_class,
        validation=SPLIT.validation,
        test=SPLIT.test,
    )
    return prepare_images(options, [size], SPLIT.seed, lambda *_: None)[0]


def specification(architecture: str, images: PreparedImages, epochs: int, **levels: Any) -> TrialSpec:
    """Return the specification of a trial with fresh weights, whatever its transfer mode: that costs the same."""
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
        rule=Rule(),
        optimizer=Optimizer("adam"),
        weights_source="random",
        weights_file=None,
    )


def without_times(records: list[EpochRecord]) -> list[dict[str, float]]:
    """Return the epochs' metrics without the durations."""
    return [{name: of for name, of in one.metrics.items() if not name.startswith("time/")} for one in records]


def start_tensorflow() -> None:
    """Start TensorFlow as a worker does, in a process that has not imported it yet."""
    os.environ.update(WORKER_ENVIRONMENT)
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(count_cores())
    tf.config.threading.set_inter_op_parallelism_threads(min(2, count_cores()))
