"""Dense layers whose gradient takes no longer than the layer itself.

The gradient for a layer's inputs is a product with its transposed kernel. For that TensorFlow's kernels for CPUs take
1.4 to 4.8 times as long (batches of 16 to 128, kernels of 1024 x 1024 to 4608 x 2048) as for its transpose, the kernel
times the transposed gradient, of which only the small result has to be turned.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import keras
import tensorflow as tf

from cnnstudy.training import devices


def apply(layer: keras.layers.Dense, inputs: tf.Tensor) -> tf.Tensor:
    """What the layer makes of inputs [n, features]: [n, units], in the layer's precision."""
    if devices.gpu() is not None:  # its library takes as long either way
        return layer(inputs)
    kernel = tf.cast(layer.kernel, layer.compute_dtype)
    outputs = _product(layer.compute_dtype)(tf.cast(inputs, layer.compute_dtype), kernel)
    outputs = tf.ensure_shape(outputs, (inputs.shape[0], layer.units))
    if layer.bias is not None:
        outputs = outputs + tf.cast(layer.bias, layer.compute_dtype)
    return layer.activation(outputs)


@functools.cache
def _product(precision: str) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """[n, features], [features, units] -> [n, units], with the faster gradient.

    TensorFlow keeps for ever what has a gradient of its own, with all of the graph that it was made in. Hence one
    function, in a graph of its own, for all layers of all networks.
    """

    @tf.custom_gradient
    def product(x: tf.Tensor, kernel: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[tf.Tensor, ...]]]:
        def gradients(upstream: tf.Tensor) -> tuple[tf.Tensor, ...]:
            of_x = tf.transpose(tf.matmul(kernel, upstream, transpose_b=True))
            return of_x, tf.matmul(x, upstream, transpose_a=True)

        return tf.matmul(x, kernel), gradients

    matrix = tf.TensorSpec((None, None), precision)
    with tf.init_scope():
        return tf.function(product, autograph=False).get_concrete_function(matrix, matrix)
