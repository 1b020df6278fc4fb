"""Updates in half precision: layers compute in 16 bits, while weights, their gradients, logits and losses have 32.

Networks are built in float32, and so are they measured and saved: what half precision leaves behind are other weights,
and nothing else. Only while an update is traced do the layers between the images and the logits have another policy.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator

import keras
import tensorflow as tf

#: The loss scale of a fresh phase, and the updates in a row with finite gradients after which it doubles: as in Keras.
FIRST_SCALE, STEPS_TO_GROW = 2.0**15, 2000


@contextlib.contextmanager
def computing_in(precision: str, layers: Iterable[keras.layers.Layer]) -> Iterator[None]:
    """The layers have that policy, one of Keras', for so long; "float32" is what they are built with."""
    before = [(layer, layer.dtype_policy) for layer in layers] if precision != "float32" else []
    try:
        for layer, _ in before:
            layer.dtype_policy = keras.dtype_policies.DTypePolicy(precision)
        yield
    finally:
        for layer, policy in before:
            layer.dtype_policy = policy


class LossScale:
    """What the loss is multiplied by, so that float16 does not lose small gradients; they are divided by it again.

    An update whose gradients are not all finite is skipped, and the scale halved.
    """

    def __init__(self) -> None:
        self.value = tf.Variable(FIRST_SCALE, trainable=False)
        self.skipped = tf.Variable(0, trainable=False, dtype=tf.int64)  # updates since the start
        self._finite_in_a_row = tf.Variable(0, trainable=False, dtype=tf.int64)

    @property
    def state(self) -> tuple[tf.Variable, ...]:
        """All that its next update depends on, and what it has counted."""
        return self.value, self.skipped, self._finite_in_a_row

    def start(self) -> None:
        """As a fresh one."""
        self.value.assign(FIRST_SCALE)
        self.skipped.assign(0)
        self._finite_in_a_row.assign(0)

    def change(self, gradients: list[tf.Tensor], change: Callable[[], None]) -> None:
        """Call `change` where the gradients, divided already, are finite; then set the scale for the next update."""
        finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(gradient)) for gradient in gradients])

        def go_on() -> tf.Tensor:
            change()
            row = self._finite_in_a_row.assign_add(1)
            grows = row == STEPS_TO_GROW
            self._finite_in_a_row.assign(tf.where(grows, tf.zeros_like(row), row))
            return self.value.assign(tf.where(grows, 2 * self.value, self.value))

        def skip() -> tf.Tensor:
            self.skipped.assign_add(1)
            self._finite_in_a_row.assign(0)
            return self.value.assign(tf.maximum(self.value / 2, 1.0))

        tf.cond(finite, go_on, skip)
