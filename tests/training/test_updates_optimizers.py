"""The optimisers give what Keras' own give, and keep no graph alive."""

from __future__ import annotations

import gc
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf

from cnnstudy.config.schema import Training
from cnnstudy.records import Optimizer
from cnnstudy.training import updates

KERAS = {
    "adam": keras.optimizers.Adam,
    "adamw": keras.optimizers.AdamW,
    "sgd": lambda rate, **given: keras.optimizers.SGD(rate, momentum=0.9, **given),
    "rmsprop": lambda rate, **given: keras.optimizers.RMSprop(rate, momentum=0.9, **given),
}


def trained(optimizer: keras.optimizers.Optimizer, steps: int) -> list[np.ndarray]:
    """Return the weights after some steps on random gradients; the learning rate changes halfway."""
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
def test_they_come_to_what_keras_own_come_to(name: str, decay: float) -> None:
    keywords = {"weight_decay": decay} if decay or name == "adamw" else {}
    ours = trained(updates.build_optimizer(Optimizer(name, decay, 0.9), 0.01), 50)
    theirs = trained(KERAS[name](0.01, **keywords), 50)
    start = trained(KERAS[name](0.01), 0)
    for one, other, before in zip(ours, theirs, start, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-6, rtol=0)
        assert np.abs(one - before).max() > 0.05


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "rmsprop"])
def test_a_study_file_that_names_an_optimizer_gets_keras_defaults(name: str) -> None:
    settings = Training(epochs=1, optimizer=name)
    ours = updates.build_optimizer(Optimizer(name, settings.weight_decay, settings.momentum), 0.01)
    theirs = keras.optimizers.get(name)
    theirs.learning_rate = 0.01
    for one, other in zip(trained(ours, 6), trained(theirs, 6), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-6, rtol=0)


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "rmsprop"])
def test_the_state_lies_in_its_variables(name: str) -> None:
    """Setting its variables to zero resets an optimiser, which updates.Update.start relies on."""
    variable = keras.Variable(np.ones(3, np.float32))
    optimizer = updates.build_optimizer(Optimizer(name, 0.0, 0.9), 0.1)
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


@pytest.mark.parametrize("name", list(KERAS))
def test_what_was_trained_is_given_back(name: str) -> None:
    """Otherwise a process would grow with every network that it drops."""

    def graph_of_an_update() -> weakref.ref:
        variable = keras.Variable(np.ones(3, np.float32))
        optimizer = updates.build_optimizer(Optimizer(name, 0.0, 0.9), 0.1)
        optimizer.build([variable])
        step = tf.function(lambda gradient: optimizer.apply([gradient], [variable]), autograph=False)
        return weakref.ref(step.get_concrete_function(tf.ones(3)).graph)

    graph = graph_of_an_update()
    gc.collect()
    assert graph() is None
