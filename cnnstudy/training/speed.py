"""How fast a trial would train here, from a few updates and one batch of evaluation."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from functools import partial

import keras
import numpy as np

from cnnstudy.records import Speed, TrialSpec
from cnnstudy.training import transfer
from cnnstudy.training.images import Images
from cnnstudy.training.loop import Trainer, evaluation_batch_size
from cnnstudy.training.trial import build, load_images

#: What is timed is called so often, but not again after so many seconds.
CALLS, SECONDS = 5, 1.0


def measure_speed(spec: TrialSpec, batch_sizes: Sequence[int]) -> Speed:
    """Build what the trial would train, and time it at each batch size (as far as there are images for it).

    The weights are trained a little and thrown away.

    Raises:
        DataError, WeightsError: what the trial needs is gone.
    """
    keras.utils.clear_session(free_memory=False)
    gc.collect()
    started = time.perf_counter()
    network = build(spec)
    trainer = Trainer(network, load_images(spec), spec)
    setup = time.perf_counter() - started
    places = np.arange(len(trainer.images.train))
    seconds_per_update = []
    for phase in transfer.phases(spec, dict(network.architecture.cut_points)):
        started = time.perf_counter()
        transfer.apply(network, phase)
        trainer.start_phase(phase)
        trainer.update(places[: batch_sizes[0]])
        setup += time.perf_counter() - started
        by_size = []
        for size in batch_sizes:
            update = partial(trainer.update, places[:size])
            update()  # the first of a size takes longer
            by_size.append(_seconds_of(update))
        seconds_per_update.append(tuple(by_size))
    batch = _first(trainer.images.validation, evaluation_batch_size(spec.images.size))
    started = time.perf_counter()
    trainer.logits(batch)
    setup += time.perf_counter() - started
    return Speed(
        parameters=network.inference.count_params(),
        setup_seconds=setup,
        batch_sizes=tuple(batch_sizes),
        seconds_per_update=tuple(seconds_per_update),
        seconds_per_evaluated_image=_seconds_of(partial(trainer.logits, batch)) / len(batch),
    )


def _first(images: Images, count: int) -> Images:
    return Images(**{name: array[:count] for name, array in vars(images).items()})


def _seconds_of(call: Callable[[], object]) -> float:
    """Of one call."""
    started, calls = time.perf_counter(), 0
    while calls == 0 or (calls < CALLS and time.perf_counter() - started < SECONDS):
        call()
        calls += 1
    return (time.perf_counter() - started) / calls
