"""Images of three colours and a network that tells them apart, both made by hand: what it gets wrong is known.

Each image is grey noise with a bright square in a corner. The class is the folder's; the square's colour says what the
network will say, and where it looks.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from cnnstudy.data.datasets import find
from cnnstudy.data.images import prepare_images
from cnnstudy.data.splits import split_indices
from cnnstudy.records import PreparedImages, Split
from cnnstudy.training.test_split import list_test_indices

if TYPE_CHECKING:
    import keras

CLASSES = ("blue", "green", "red")
CHANNELS = {"red": 0, "green": 1, "blue": 2}
SIZE, EACH = 16, 16
SPLIT = Split(validation=0.25, test=0.25, seed=0)
KEYS = [f"{name}/{number:02d}.png" for name in CLASSES for number in range(EACH)]
LABELS = [CLASSES.index(key.split("/")[0]) for key in KEYS]


def keys_in(part: str, name: str, block: int | None = None) -> list[str]:
    """The keys of a class in train, validation or test."""
    if part == "test":
        return [KEYS[i] for i in list_test_indices(KEYS, LABELS, SPLIT) if LABELS[i] == CLASSES.index(name)]
    return [KEYS[i] for i in split_indices(KEYS, LABELS, SPLIT, block)[part][CLASSES.index(name)]]


def picture(seed: int, colour: str, brightness: int) -> np.ndarray:
    """[size, size, 3] uint8: the square, half as high and wide, is at the lower right."""
    pixels = np.random.default_rng(seed).integers(0, 40, (SIZE, SIZE, 3))
    pixels[SIZE // 2 :, SIZE // 2 :, CHANNELS[colour]] += brightness
    return pixels.astype(np.uint8)


def prepared(folder: Path, wrong: Mapping[str, tuple[str, int]], copies: Mapping[str, str]) -> PreparedImages:
    """The images, decoded into the cache.

    Args:
        wrong: by key, the colour and brightness (of 40 to 215) of its square; the others have that of their class, 100.
        copies: by key, the key of the image whose copy it is.
    """
    pixels = {}
    for seed, key in enumerate(KEYS):
        pixels[key] = picture(seed, *wrong.get(key, (key.split("/")[0], 100)))
    for key in KEYS:
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[copies.get(key, key)]).save(folder / key)
    options = find("folder").Options(
        name="folder", path=folder, validation=SPLIT.validation, test=SPLIT.test, copies="ignore"
    )
    (images,) = prepare_images(options, [SIZE], SPLIT.seed, lambda *_: None)
    assert images.classes == CLASSES
    return images


def classifier() -> keras.Model:
    """Says the colour that there is most of. What its last layer takes is the image at a quarter of its height."""
    import keras
    from keras import layers

    inputs = layers.Input((SIZE, SIZE, 3))
    x = layers.Rescaling(1 / 255)(inputs)
    convolution = layers.Conv2D(3, 3, padding="same", activation="relu", name="convolution")
    x = layers.MaxPooling2D(4)(convolution(x))
    x = layers.Dropout(0.5)(layers.Flatten(name="flatten")(x))
    logits = layers.Dense(3, name="logits")
    model = keras.Model(inputs, layers.Activation("softmax")(logits(x)))
    order = [CHANNELS[name] for name in CLASSES]
    kernel = np.zeros((3, 3, 3, 3))
    kernel[1, 1] = np.eye(3)
    convolution.set_weights([kernel, np.zeros(3)])
    logits.set_weights([np.tile(np.eye(3)[:, order], (16, 1)), np.zeros(3)])
    return model
