"""A network as a user may write it, with the names that it has: as written in a study file, and once it is found."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import keras

WRITTEN = f"file:{Path(__file__).absolute()}:build"
NAME = f"file:own_network.py:build@{hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:10]}"


def build(image_size: int) -> keras.Model:
    """Build three stages: one without names, a model within the model, and one with names."""
    import keras
    from keras import layers

    images = layers.Input((image_size, image_size, 3))
    x = layers.Rescaling(1 / 127.5, -1)(images)
    x = layers.Conv2D(8, 3, 2, "same", use_bias=False)(x)
    x = layers.BatchNormalization(momentum=0.8)(x)
    x = layers.ReLU()(x)
    inner = [layers.DepthwiseConv2D(3, 2, "same"), layers.BatchNormalization(momentum=0.8), layers.ReLU()]
    x = keras.Sequential(inner, name="middle")(x, training=False)
    before = x * 0.5
    x = layers.Conv2D(8, 3, padding="same", activation="relu", name="block3_conv1")(before)
    x = layers.Conv2D(8, 3, padding="same", name="block3_conv2")(x)
    return keras.Model(images, layers.ReLU()(layers.Add()([before, x])))
