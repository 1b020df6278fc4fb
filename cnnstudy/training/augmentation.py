"""What space.AUGMENTATIONS do to a training batch: Keras' random layers, seeded, on images of 0..255."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import keras


def layers(name: str, seed: int) -> list[keras.layers.Layer]:
    """The layers that change a training batch [batch, size, size, 3]; never part of the saved model."""
    from keras import layers

    if name == "none":
        return []
    flip = layers.RandomFlip("horizontal", seed=seed)
    if name == "flip":
        return [flip]
    return [
        flip,
        layers.RandomRotation(15 / 360, fill_mode="reflect", seed=seed + 1),
        layers.RandomZoom(0.15, fill_mode="reflect", seed=seed + 2),
        layers.RandomContrast(0.2, value_range=(0, 255), seed=seed + 3),
    ]
