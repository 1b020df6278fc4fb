"""The three networks as tutorials write them with Keras. Layers have the papers' names, so that source weights (.npz,
`<layer>/<n>`) can be loaded into them; GoogLeNet has its auxiliary heads, with losses of weight 0.3.
"""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
from keras import layers


def alexnet(size: int, classes: int, dropout: float) -> keras.Model:
    """One column of the paper's figure 2."""
    inputs = keras.Input((size, size, 3))
    x = layers.Rescaling(1 / 255)(inputs)
    x = layers.ZeroPadding2D(((1, 2), (1, 2)))(x)
    x = layers.Conv2D(48, 11, strides=4, activation="relu", name="conv1")(x)
    x = layers.MaxPooling2D(3, 2)(x)
    x = layers.Conv2D(128, 5, padding="same", activation="relu", name="conv2")(x)
    x = layers.MaxPooling2D(3, 2)(x)
    x = layers.Conv2D(192, 3, padding="same", activation="relu", name="conv3")(x)
    x = layers.Conv2D(192, 3, padding="same", activation="relu", name="conv4")(x)
    x = layers.Conv2D(128, 3, padding="same", activation="relu", name="conv5")(x)
    x = layers.MaxPooling2D(3, 2)(x)
    x = layers.Flatten()(x)
    for _ in range(2):
        x = layers.Dropout(dropout)(x)
        x = layers.Dense(2048, activation="relu")(x)
    return keras.Model(inputs, layers.Dense(classes, activation="softmax", name="main")(x))


def vgg16(size: int, classes: int, dropout: float) -> keras.Model:
    """Keras' own convolutions with a head."""
    inputs = keras.Input((size, size, 3))
    x = keras.applications.vgg16.preprocess_input(inputs)
    x = keras.applications.VGG16(include_top=False, weights=None, input_tensor=x).output
    x = layers.Flatten()(x)
    for _ in range(2):
        x = layers.Dropout(dropout)(x)
        x = layers.Dense(1024, activation="relu")(x)
    return keras.Model(inputs, layers.Dense(classes, activation="softmax", name="main")(x))


def googlenet(size: int, classes: int, dropout: float) -> keras.Model:
    """Inception v1 with three outputs."""

    def convolution(x: keras.KerasTensor, filters: int, kernel: int, name: str, strides: int = 1) -> keras.KerasTensor:
        return layers.Conv2D(filters, kernel, strides, padding="same", activation="relu", name=name)(x)

    def inception(x: keras.KerasTensor, name: str, *filters: int) -> keras.KerasTensor:
        one = convolution(x, filters[0], 1, f"{name}_1x1")
        three = convolution(convolution(x, filters[1], 1, f"{name}_3x3_reduce"), filters[2], 3, f"{name}_3x3")
        five = convolution(convolution(x, filters[3], 1, f"{name}_5x5_reduce"), filters[4], 5, f"{name}_5x5")
        pool = layers.MaxPooling2D(3, 1, padding="same")(x)
        return layers.Concatenate()([one, three, five, convolution(pool, filters[5], 1, f"{name}_projection")])

    def auxiliary(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
        x = layers.AveragePooling2D(min(5, x.shape[1]), 3)(x)
        x = layers.Conv2D(128, 1, activation="relu", padding="same")(x)
        x = layers.Dropout(0.7)(layers.Flatten()(x))
        x = layers.Dropout(0.7)(layers.Dense(1024, activation="relu")(x))
        return layers.Dense(classes, activation="softmax", name=name)(x)

    inputs = keras.Input((size, size, 3))
    x = convolution(layers.Rescaling(1 / 255)(inputs), 64, 7, "conv1", strides=2)
    x = layers.MaxPooling2D(3, 2, padding="same")(x)
    x = convolution(convolution(x, 64, 1, "conv2_reduce"), 192, 3, "conv2")
    x = layers.MaxPooling2D(3, 2, padding="same")(x)
    x = inception(x, "inception_3a", 64, 96, 128, 16, 32, 32)
    x = inception(x, "inception_3b", 128, 128, 192, 32, 96, 64)
    x = layers.MaxPooling2D(3, 2, padding="same")(x)
    x = inception(x, "inception_4a", 192, 96, 208, 16, 48, 64)
    first = auxiliary(x, "auxiliary1")
    x = inception(x, "inception_4b", 160, 112, 224, 24, 64, 64)
    x = inception(x, "inception_4c", 128, 128, 256, 24, 64, 64)
    x = inception(x, "inception_4d", 112, 144, 288, 32, 64, 64)
    second = auxiliary(x, "auxiliary2")
    x = inception(x, "inception_4e", 256, 160, 320, 32, 128, 128)
    x = layers.MaxPooling2D(3, 2, padding="same")(x)
    x = inception(x, "inception_5a", 256, 160, 320, 32, 128, 128)
    x = inception(x, "inception_5b", 384, 192, 384, 48, 128, 128)
    x = layers.Dropout(dropout)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, [layers.Dense(classes, activation="softmax", name="main")(x), first, second])


BUILDERS = {"alexnet": alexnet, "googlenet": googlenet, "vgg16": vgg16}


def build(name: str, transfer: str, source: Path, size: int, classes: int, dropout: float) -> keras.Model:
    """Return the compiled network, with source weights and frozen layers as the transfer mode requires."""
    model = BUILDERS[name](size, classes, dropout)
    if transfer != "scratch":
        with np.load(source) as arrays:
            backbone = {key.partition("/")[0] for key in arrays.files}
            assert backbone <= {layer.name for layer in model.layers}, name
            for layer in model.layers:
                if layer.name in backbone:
                    layer.set_weights([arrays[f"{layer.name}/{i}"] for i in range(len(layer.weights))])
                    layer.trainable = transfer != "frozen"
    outputs = [output.split("/")[0] for output in model.output_names]
    weights = [1.0, 0.3, 0.3][: len(outputs)]
    model.compile(
        keras.optimizers.Adam(1e-4),
        loss=["sparse_categorical_crossentropy"] * len(outputs),
        loss_weights=weights,
        metrics=[["accuracy"]] * len(outputs),
    )
    return model
