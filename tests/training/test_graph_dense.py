from __future__ import annotations

import gc
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf

from cnnstudy.training import graph as dense


def layer_of(units: int, precision: str = "float32", **options: object) -> keras.layers.Dense:
    policy = keras.dtype_policies.DTypePolicy(precision)
    layer = keras.layers.Dense(units, dtype=policy, bias_initializer="random_normal", **options)
    layer.build((None, 12))
    return layer


def outputs_and_gradients(apply: object, layer: keras.layers.Dense, inputs: np.ndarray) -> list[np.ndarray]:
    @tf.function(input_signature=[tf.TensorSpec((None, 12), tf.float32)], autograph=False)
    def of(x: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(x)
            outputs = apply(layer, x)  # type: ignore[operator]
            total = tf.reduce_sum(tf.cast(outputs, tf.float32) ** 2)
        assert outputs.shape == (None, layer.units)
        assert outputs.dtype == layer.compute_dtype
        return [outputs, *tape.gradient(total, [x, *(weight.value for weight in layer.trainable_variables)])]

    return [tensor.numpy() for tensor in of(inputs)]


@pytest.mark.parametrize("options", [{}, {"activation": "relu"}, {"use_bias": False}], ids=str)
@pytest.mark.parametrize("images", [1, 16, 33])
@pytest.mark.parametrize(
    ("precision", "tolerance"), [("float32", 1e-5), ("mixed_bfloat16", 3e-2), ("mixed_float16", 3e-3)]
)
def test_outputs_and_gradients_are_the_layers(
    precision: str, tolerance: float, images: int, options: dict[str, object]
) -> None:
    layer = layer_of(7, precision, **options)
    inputs = np.random.default_rng(images).normal(size=(images, 12)).astype(np.float32)
    ours = outputs_and_gradients(dense.apply_dense, layer, inputs)
    theirs = outputs_and_gradients(lambda layer, x: layer(x), layer, inputs)
    assert len(ours) == 2 + len(layer.trainable_variables)
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype == other.dtype
        scale = float(np.abs(other.astype(np.float32)).max())
        np.testing.assert_allclose(one.astype(np.float32), other.astype(np.float32), atol=tolerance * max(1.0, scale))


def test_what_applied_it_can_go() -> None:
    """If each layer had its own custom gradient, TensorFlow would never free its graph."""
    layer = layer_of(3)

    @tf.function(input_signature=[tf.TensorSpec((None, 12), tf.float32)], autograph=False)
    def of(x: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(x)
            outputs = dense.apply_dense(layer, x)
        return tape.gradient(outputs, x)

    of(np.zeros((2, 12), np.float32))
    graph = weakref.ref(of.get_concrete_function().graph)
    del of
    gc.collect()
    assert graph() is None


def test_on_a_gpu_the_layer_does_it_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = layer_of(3)
    inputs = tf.ones((2, 12))
    expected = dense.apply_dense(layer, inputs)
    monkeypatch.setattr(dense.devices, "gpu_name", lambda: "GPU:0")
    monkeypatch.setattr(dense, "_matrix_product", None)
    np.testing.assert_allclose(dense.apply_dense(layer, inputs), expected, rtol=1e-5)
