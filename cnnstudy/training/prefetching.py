"""The next batch on its way to the GPU while the last one is trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import tensorflow as tf

from cnnstudy.training.micro_batches import is_out_of_memory

Item = TypeVar("Item")
Batch = tuple[np.ndarray, ...]


def one_ahead(
    items: Iterable[Item], batch_of: Callable[[Item], Batch], device: str | None
) -> Iterator[tuple[Item, tuple[Any, ...]]]:
    """Each item with its batch, in order; the next batch is made and sent to the device in a thread meanwhile.

    Args:
        device: TensorFlow's name of it; None: batches are made when they are asked for, and stay arrays.
    """
    if device is None:
        yield from ((item, batch_of(item)) for item in items)
        return
    with ThreadPoolExecutor(1, thread_name_prefix="prefetching") as thread:
        waiting = None
        for item in items:
            following = item, thread.submit(lambda item=item: _sent(batch_of(item), device))  # type: ignore[misc]
            if waiting is not None:
                yield waiting[0], waiting[1].result()
            waiting = following
        if waiting is not None:
            yield waiting[0], waiting[1].result()


def _sent(batch: Batch, device: str) -> tuple[Any, ...]:
    try:
        with tf.device(device):
            return tuple(tf.identity(tf.constant(array)) for array in batch)
    except tf.errors.OpError as error:
        if not is_out_of_memory(error):
            raise
        return batch  # the update finds out which part of it fits
