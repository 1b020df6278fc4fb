"""The optimisers: Adam in one kernel comes to what Keras' own comes to."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from cnnstudy.records import Optimizer
from cnnstudy.training import optimizers

KERAS = {"adam": keras.optimizers.Adam, "adamw": keras.optimizers.AdamW}


def trained(optimizer: keras.optimizers.Optimizer, steps: int) -> list[np.ndarray]:
    """Weights after some steps on random gradients, with the learning rate changed on the way."""
    random = np.random.default_rng(0)
    variables = [keras.Variable(random.normal(size=shape).astype("float32")) for shape in ((40, 30), (30,))]
    optimizer.build(variables)

    @tf.function
    def step(*gradients: tf.Tensor) -> None:
        optimizer.apply(list(gradients), variables)

    for number in range(steps):
        if number == steps // 2:
            optimizer.learning_rate = 0.003
        step(*(tf.constant(random.normal(size=of.shape).astype("float32")) for of in variables))
    return [np.asarray(of.value) for of in variables]


@pytest.mark.parametrize("decay", [0.0, 0.01])
@pytest.mark.parametrize("name", list(KERAS))
def test_adam_comes_to_what_keras_comes_to(name: str, decay: float) -> None:
    keywords = {"weight_decay": decay} if decay else {}
    ours = trained(optimizers.build(Optimizer(name, decay), 0.01), 50)
    theirs = trained(KERAS[name](0.01, **keywords), 50)
    start = trained(KERAS[name](0.01), 0)
    for one, other, before in zip(ours, theirs, start, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-6, rtol=0)
        assert np.abs(one - before).max() > 0.05


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "rmsprop"])
def test_the_state_lies_in_its_variables(name: str) -> None:
    """What sets them to zero makes the optimiser a fresh one (updates.Update.start)."""
    variable = keras.Variable(np.ones(3, np.float32))
    optimizer = optimizers.build(Optimizer(name, 0.0, 0.9), 0.1)
    optimizer.build([variable])
    after = []
    for _ in range(2):
        variable.assign([1.0, 1.0, 1.0])
        for of in optimizer.variables:
            of.assign(tf.zeros(of.shape, of.dtype))
        optimizer.learning_rate = 0.1
        for gradient in (0.5, -0.25, 1.0):
            optimizer.apply([tf.fill((3,), gradient)], [variable])
        after.append(np.asarray(variable.value))
    np.testing.assert_array_equal(*after)
    assert not np.allclose(after[0], 1.0)
