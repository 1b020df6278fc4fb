"""The optimisers, one line each. To add one: its line here and its name in schema.Training."""

from __future__ import annotations

import keras
import tensorflow as tf
from keras import optimizers

from cnnstudy.records import Optimizer


class _OneDevice:
    """No gradients of other devices are waited for.

    Keras adds them up by an operation with a gradient of its own. TensorFlow keeps that for ever, and with it the graph
    and the weights of every network that was dropped.
    """

    def _backend_update_step(
        self, gradients: list[tf.Tensor], variables: list[keras.Variable], learning_rate: tf.Tensor
    ) -> None:
        assert isinstance(self, optimizers.Optimizer)
        for gradient, variable in zip(gradients, variables, strict=True):
            self.update_step(gradient, variable.value, learning_rate)


class _OneKernel(_OneDevice):
    """Adam's update in one pass over the memory, which is what large heads wait for; Keras takes several.

    The formula is Keras' own (Kingma & Ba 2014, the form before section 2.1), its sums are rounded otherwise.
    """

    def update_step(self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: tf.Tensor) -> None:
        assert isinstance(self, optimizers.Adam)
        index = self._get_variable_index(variable)
        step = tf.cast(self.iterations.value + 1, variable.dtype)
        beta_1, beta_2 = (tf.constant(beta, variable.dtype) for beta in (self.beta_1, self.beta_2))
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            beta1_power=beta_1**step,
            beta2_power=beta_2**step,
            lr=tf.cast(learning_rate, variable.dtype),
            beta1=beta_1,
            beta2=beta_2,
            epsilon=self.epsilon,
            grad=tf.cast(gradient, variable.dtype),
        )


class Adam(_OneKernel, optimizers.Adam):
    """Keras' Adam."""


class AdamW(_OneKernel, optimizers.AdamW):
    """Keras' AdamW."""


class SGD(_OneDevice, optimizers.SGD):
    """Keras' SGD."""


class RMSprop(_OneDevice, optimizers.RMSprop):
    """Keras' RMSprop."""


def build(optimizer: Optimizer, learning_rate: float) -> keras.optimizers.Optimizer:
    """A fresh optimiser; `weight_decay` is decoupled from the gradient (Loshchilov & Hutter 2019) in all of them."""
    decay = optimizer.weight_decay or None
    table = {
        "adam": lambda: Adam(learning_rate, weight_decay=decay),
        "adamw": lambda: AdamW(learning_rate, weight_decay=optimizer.weight_decay),
        "sgd": lambda: SGD(learning_rate, momentum=optimizer.momentum, nesterov=True, weight_decay=decay),
        "rmsprop": lambda: RMSprop(learning_rate, momentum=optimizer.momentum, weight_decay=decay),
    }
    return table[optimizer.name]()
