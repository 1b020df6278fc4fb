"""The optimisers, one line each. To add one: its line here and its name in schema.Training."""

from __future__ import annotations

import keras
import tensorflow as tf
from keras import optimizers

from cnnstudy.records import Optimizer
from cnnstudy.training import keras_internals
from cnnstudy.training.keras_internals import OneDevice


class _OneKernel(OneDevice):
    """Adam's update in one pass over the memory, which is what large heads wait for; Keras takes several.

    The formula is Keras' own (Kingma & Ba 2014, the form before section 2.1), its sums are rounded otherwise.
    """

    def update_step(self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: tf.Tensor) -> None:
        assert isinstance(self, optimizers.Adam)
        momentum, velocity = keras_internals.moments(self, variable)
        step = tf.cast(self.iterations.value + 1, variable.dtype)
        beta_1, beta_2 = (tf.constant(beta, variable.dtype) for beta in (self.beta_1, self.beta_2))
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=keras_internals.handle(momentum),
            v=keras_internals.handle(velocity),
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


class SGD(OneDevice, optimizers.SGD):
    """Keras' SGD."""


class RMSprop(OneDevice, optimizers.RMSprop):
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
