"""Batches that do not fit into memory: the same update, and the same logits, from parts that do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

import numpy as np
import tensorflow as tf

Result = TypeVar("Result")
Use = Literal["training", "evaluation"]


def is_out_of_memory(error: Exception) -> bool:
    """A GPU without room says something else where an array is copied to it."""
    return isinstance(error, tf.errors.ResourceExhaustedError) or (
        isinstance(error, tf.errors.InternalError) and "Dst tensor is not initialized" in str(error)
    )


class MicroBatches:
    """How many images a trial works on at once: a whole batch, until the memory did not suffice for one.

    A part that does not fit is halved, down to one image, and what fitted is kept for the rest of the trial. Before the
    first time, what earlier trials left in memory is given up.
    """

    def __init__(self) -> None:
        self.start(None)

    def start(self, training: int | None, tell: Callable[[str], None] = lambda text: None) -> None:
        """A new trial.

        Args:
            training: images at once in an update, to start with; None: whole batches.
            tell: told whenever there are fewer at once from then on.
        """
        self.tell = tell
        self.make_room: Callable[[], bool] = lambda: False  # gives up what it can; whether that was anything
        self._has_made_room = False
        self.at_once: dict[Use, int | None] = {"training": training, "evaluation": None}

    def limit(self, use: Use, images: int) -> None:
        """No more than so many at once from now on."""
        self.at_once[use] = min(images, self.at_once[use] or images)

    def run(self, use: Use, images: int, do: Callable[[Sequence[slice]], Result]) -> Result:
        """What `do` makes of so many images, given the parts to take them in; called again with smaller parts.

        Args:
            do: changes nothing where it raises an error that `is_out_of_memory`.

        Raises:
            OpError: one image at once does not fit either.
        """
        while True:
            size = min(images, self.at_once[use] or images)
            try:
                return do([slice(start, min(start + size, images)) for start in range(0, images, size)])
            except tf.errors.OpError as error:
                if not is_out_of_memory(error) or (size == 1 and self._has_made_room):
                    raise
            # behind the handler, where the error no longer holds on to what it had allocated
            if not self._has_made_room:
                self._has_made_room = True
                if self.make_room() or size == 1:
                    continue
            self.at_once[use] = (size + 1) // 2
            self.tell(f"out of memory; {use} goes on with {self.at_once[use]} images at once instead of {size}")

    def evaluate(self, inputs: np.ndarray, outputs_of: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """The outputs [n, ...] of inputs [n, ...]."""
        return self.run("evaluation", len(inputs), lambda parts: _joined([outputs_of(inputs[part]) for part in parts]))


def _joined(outputs: list[np.ndarray]) -> np.ndarray:
    return outputs[0] if len(outputs) == 1 else np.concatenate(outputs)
