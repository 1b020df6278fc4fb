"""The optimisers, one line each. To add one: its line here and its name in schema.Training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cnnstudy.records import Optimizer

if TYPE_CHECKING:
    import keras


def build(optimizer: Optimizer, learning_rate: float) -> keras.optimizers.Optimizer:
    """A fresh optimiser; `weight_decay` is decoupled from the gradient (Loshchilov & Hutter 2019) in all of them."""
    from keras import optimizers

    decay = optimizer.weight_decay or None
    table = {
        "adam": lambda: optimizers.Adam(learning_rate, weight_decay=decay),
        "adamw": lambda: optimizers.AdamW(learning_rate, weight_decay=optimizer.weight_decay or 0.004),
        "sgd": lambda: optimizers.SGD(learning_rate, momentum=optimizer.momentum, nesterov=True, weight_decay=decay),
        "rmsprop": lambda: optimizers.RMSprop(learning_rate, momentum=optimizer.momentum, weight_decay=decay),
    }
    return table[optimizer.name]()
