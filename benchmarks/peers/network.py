"""The frozen VGG16 of benchmarks/frozen.yaml, as tutorials write it."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np


def frozen_vgg16(source: Path, size: int, classes: int, dropout: float, learning_rate: float) -> keras.Model:
    """Return the compiled network, with the source weights of benchmarks/frozen.yaml's trials from `source` (.npz)."""
    backbone = keras.applications.VGG16(include_top=False, weights=None, input_shape=(size, size, 3))
    with np.load(source) as arrays:
        for layer in backbone.layers:
            if layer.weights:
                layer.set_weights([arrays[f"{layer.name}/{i}"] for i in range(len(layer.weights))])
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
