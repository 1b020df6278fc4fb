"""The frozen VGG16 with the head of the report's network, as its tutorials write it."""

from __future__ import annotations

import keras


def frozen_vgg16(size: int, classes: int, dropout: float, learning_rate: float) -> keras.Model:
    """Compiled; source weights are random, as in benchmarks/frozen.yaml."""
    backbone = keras.applications.VGG16(include_top=False, weights=None, input_shape=(size, size, 3))
    backbone.trainable = False
    inputs = keras.Input((size, size, 3))
    x = keras.applications.vgg16.preprocess_input(inputs)
    x = backbone(x, training=False)
    x = keras.layers.Flatten()(x)
    for _ in range(2):
        x = keras.layers.Dropout(dropout)(x)
        x = keras.layers.Dense(1024, activation="relu")(x)
    outputs = keras.layers.Dense(classes, activation="softmax")(x)
    model = keras.Model(inputs, outputs)
    model.compile(keras.optimizers.Adam(learning_rate), loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    return model
