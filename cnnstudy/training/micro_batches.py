"""Split batches that do not fit into memory into parts that do, for the same update and the same logits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

import numpy as np
import tensorflow as tf

Result = TypeVar("Result")
Use = Literal["training", "evaluation"]


def is_out_of_memory(error: Exception) -> bool:
    """Check whether the error means that memory ran out, even while an array was copied to a GPU."""
    return isinstance(error, tf.errors.ResourceExhaustedError) or (
        isinstance(error, tf.errors.InternalError) and "Dst tensor is not initialized" in str(error)
    )


class MicroBatches:
    """The number of images that a trial processes at once: a whole batch, until one does not fit into memory.

    A part that does not fit is halved, down to one image, and the limit holds for the rest of the trial. The first time
    that memory runs out, what earlier trials left in memory is freed first.
    """

    def __init__(self) -> None:
        self.start(None)

    def start(self, training: int | None, tell: Callable[[str], None] = lambda text: None) -> None:
        """Start a new trial.

        Args:
            training: the initial limit of images at once in updates; None: whole batches.
            tell: called with a message whenever a limit is lowered.
        """
        self.tell = tell
        self.make_room: Callable[[], bool] = lambda: False  # frees what it can; returns whether it freed anything
        self._has_made_room = False
        self.at_once: dict[Use, int | None] = {"training": training, "evaluation": None}

    def limit(self, use: Use, images: int) -> None:
        """Limit the images processed at once; a limit that is already lower stays."""
        self.at_once[use] = min(images, self.at_once[use] or images)

    def run(self, use: Use, images: int, do: Callable[[Sequence[slice]], Result]) -> Result:
        """Call `do` with the parts to process the images in, and again with smaller parts while memory runs out.

        Args:
            do: must change nothing if it raises an error that `is_out_of_memory`.

        Returns:
            What `do` returns.

        Raises:
            OpError: not even one image fits into memory.
        """
        while True:
            size = min(images, self.at_once[use] or images)
            try:
                return do([slice(start, min(start + size, images)) for start in range(0, images, size)])
            except tf.errors.OpError as error:
                if not is_out_of_memory(error) or (size == 1 and self._has_made_room):
                    raise
            # outside of the handler, where the error no longer references what was allocated
            if not self._has_made_room:
                self._has_made_room = True
                if self.make_room() or size == 1:
                    continue
            self.at_once[use] = (size + 1) // 2
            self.tell(f"out of memory; {use} continues with {self.at_once[use]} images at once instead of {size}")

    def evaluate(self, inputs: np.ndarray, outputs_of: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """Return the outputs [n, ...] of inputs [n, ...], split if need be."""
        return self.run(
            "evaluation", len(inputs), lambda parts: _concatenate([outputs_of(inputs[part]) for part in parts])
        )


def _concatenate(outputs: list[np.ndarray]) -> np.ndarray:
    return outputs[0] if len(outputs) == 1 else np.concatenate(outputs)
