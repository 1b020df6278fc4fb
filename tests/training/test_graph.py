"""A graph computes what Keras does, also for what no network of the package has."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from cnnstudy.architectures import Network, find
from cnnstudy.training.graph import Graph

Step = Callable[[keras.KerasTensor], keras.KerasTensor]
STEPS: dict[str, Step] = {
    "a constant": lambda x: 1.0 - x / 127.5,
    "the sum of two tensors": lambda x: x + layers.Conv2D(3, 1, name="block2_conv")(x),
    "the square": lambda x: x * x,
    "a slice": lambda x: x[..., ::-1],
    "a list": lambda x: layers.Concatenate(name="block2_join")([x, keras.ops.relu(x)]),
    "statistics": lambda x: layers.BatchNormalization(name="block2_norm")(x),
    "dropout": lambda x: layers.Dropout(0.5, seed=1, name="block2_drop")(x),
    "dropout of whole images": lambda x: layers.Dropout(0.5, (None, 1, 1, 1), seed=1, name="block2_drop")(x),
    "dropout of channels": lambda x: layers.Dropout(0.5, (None, 1, 1, None), seed=1, name="block2_drop")(x),
}


def network_with(step: Step) -> Network:
    keras.utils.set_random_seed(0)
    inputs = layers.Input((8, 8, 3), name="image")
    x = step(layers.Conv2D(3, 3, name="block1_conv")(inputs))
    model = keras.Model(inputs, layers.Dense(5, name="head_logits")(layers.GlobalAveragePooling2D(name="head_pool")(x)))
    return Network(find("alexnet"), model, model, model)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("training", [False, True])
def test_an_operation_computes_what_it_does_in_keras(step: str, training: bool) -> None:
    images = np.random.default_rng(0).uniform(0, 255, (4, 8, 8, 3)).astype(np.float32)
    graph = Graph(network_with(STEPS[step]))
    (ours,) = graph.run(graph.outputs, {graph.input: tf.constant(images)}, training)
    theirs = network_with(STEPS[step]).logits(images, training=training)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-4)
