"""Augment training batches as named in factors.AUGMENTATIONS: Keras' random layers, on pixel values of 0..255."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cnnstudy.records import TrialSpec

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

#: For augmentations with few possible outcomes: all views of an image that they choose from.
VIEWS = {"none": ("as it is",), "flip": ("as it is", "flipped")}


def augmentation_of(spec: TrialSpec) -> str:
    """Return the trial's augmentation; none where it makes no updates."""
    return str(spec.levels.get("augmentation", "none"))


def augmentation_layers(name: str) -> list[keras.layers.Layer]:
    """Return the layers that augment a training batch [batch, size, size, 3]; never part of the saved model."""
    from keras import layers

    if name == "none":
        return []
    flip = layers.RandomFlip("horizontal", seed=0)
    if name == "flip":
        return [flip]
    return [
        flip,
        layers.RandomRotation(15 / 360, fill_mode="reflect", seed=0),
        layers.RandomZoom(0.15, fill_mode="reflect", seed=0),
        # a single number would only ever raise the contrast
        layers.RandomContrast((0.2, 0.2), value_range=(0, 255), seed=0),
    ]


def reset_augmentation(augmenting: list[keras.layers.Layer], seed: int) -> None:
    """Reset the layers' random streams to the start of the seed."""
    from cnnstudy.training.keras_internals import random_state

    for number, layer in enumerate(augmenting):
        state = random_state(layer)
        assert state is not None  # all of them draw numbers
        state.assign([seed + number, 0])


def flipped_view(augmenting: list[keras.layers.Layer], views: tf.Tensor) -> tf.Tensor:
    """Pick from each image's two views [batch, 2, ...] the one that `flip` would give; its stream advances equally."""
    import tensorflow as tf

    from cnnstudy.training.keras_internals import draw_flips

    (flip,) = augmenting
    flips = draw_flips(flip, tf.shape(views)[0])
    return tf.where(tf.reshape(flips, (-1, *[1] * (len(views.shape) - 2))), views[:, 1], views[:, 0])
