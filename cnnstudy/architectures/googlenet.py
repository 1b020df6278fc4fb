"""GoogLeNet (Inception v1) with both auxiliary heads.

Source: Szegedy et al., Going Deeper with Convolutions (CVPR 2015), table 1 and section 5. It has the 5x5 branches
and no batch normalisation, as in the paper; the paper's local response normalisation is left out. The auxiliary heads
sit after 4a and 4d, count 0.3 each by default (auxiliary_weight) in the training loss, and are dropped at inference.
With 5 classes at 224 pixels: 5,978,677 parameters, and 10,318,655 with both auxiliary heads.

The paper's average pool 7/1 over the last 7x7 map is a global average pool here: equal at 224 pixels, and possible
below 193 pixels. The auxiliary heads' pool 5/3 shrinks to the map if that is smaller than 5x5.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cnnstudy.architectures import AUXILIARY, HEAD, Architecture, Outputs

if TYPE_CHECKING:
    import keras

#: Paper, table 1. A row of numbers is an Inception block: 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool projection.
TABLE: tuple[tuple[str, tuple[int, ...] | str], ...] = (
    ("inception_3a", (64, 96, 128, 16, 32, 32)),  # [b, 28, 28, 256]
    ("inception_3b", (128, 128, 192, 32, 96, 64)),  # [b, 28, 28, 480]
    ("pool3", "max-pool"),
    ("inception_4a", (192, 96, 208, 16, 48, 64)),  # [b, 14, 14, 512]
    (f"{AUXILIARY}1", "auxiliary head"),
    ("inception_4b", (160, 112, 224, 24, 64, 64)),  # [b, 14, 14, 512]
    ("inception_4c", (128, 128, 256, 24, 64, 64)),  # [b, 14, 14, 512]
    ("inception_4d", (112, 144, 288, 32, 64, 64)),  # [b, 14, 14, 528]
    (f"{AUXILIARY}2", "auxiliary head"),
    ("inception_4e", (256, 160, 320, 32, 128, 128)),  # [b, 14, 14, 832]
    ("pool4", "max-pool"),
    ("inception_5a", (256, 160, 320, 32, 128, 128)),  # [b, 7, 7, 832]
    ("inception_5b", (384, 192, 384, 48, 128, 128)),  # [b, 7, 7, 1024]
)


def _convolution(x: keras.KerasTensor, filters: int, kernel: int, name: str, stride: int = 1) -> keras.KerasTensor:
    from keras import layers

    return layers.Conv2D(filters, kernel, stride, "same", activation="relu", name=name)(x)


def _inception(x: keras.KerasTensor, row: tuple[int, ...], name: str) -> keras.KerasTensor:
    """Add an Inception block (paper, figure 2 (b))."""
    from keras import layers

    n1x1, reduce3x3, n3x3, reduce5x5, n5x5, projection = row
    branches = (
        _convolution(x, n1x1, 1, f"{name}_1x1"),
        _convolution(_convolution(x, reduce3x3, 1, f"{name}_3x3_reduce"), n3x3, 3, f"{name}_3x3"),
        _convolution(_convolution(x, reduce5x5, 1, f"{name}_5x5_reduce"), n5x5, 5, f"{name}_5x5"),
        _convolution(layers.MaxPooling2D(3, 1, "same", name=f"{name}_pool")(x), projection, 1, f"{name}_projection"),
    )
    return layers.Concatenate(name=f"{name}_output")(list(branches))


def _auxiliary_head(x: keras.KerasTensor, classes: int, dropout: float, name: str) -> keras.KerasTensor:
    """Add an auxiliary head (paper, section 5): average pool 5/3, 1x1 convolution, one hidden layer."""
    from keras import layers

    x = layers.AveragePooling2D(min(5, x.shape[1]), 3, name=f"{name}_pool")(x)  # [b, 4, 4, channels]
    x = _convolution(x, 128, 1, f"{name}_conv")
    x = layers.Flatten(name=f"{name}_flatten")(x)
    x = layers.Dropout(dropout, name=f"{name}_dropout1")(x)
    x = layers.Dense(1024, activation="relu", name=f"{name}_dense")(x)
    x = layers.Dropout(dropout, name=f"{name}_dropout2")(x)
    return layers.Dense(classes, name=f"{name}_logits")(x)


def build(image_size: int, classes: int, dropout: float, auxiliary_dropout: float) -> Outputs:
    """Build the network with both auxiliary heads."""
    from keras import layers

    inputs = layers.Input((image_size, image_size, 3), name="image")
    x = layers.Rescaling(1 / 255, name="preprocess_scale")(inputs)
    x = _convolution(x, 64, 7, "conv1", stride=2)  # [b, 112, 112, 64]
    x = layers.MaxPooling2D(3, 2, "same", name="pool1")(x)
    x = _convolution(_convolution(x, 64, 1, "conv2_reduce"), 192, 3, "conv2")  # [b, 56, 56, 192]
    x = layers.MaxPooling2D(3, 2, "same", name="pool2")(x)
    auxiliary = []
    for name, row in TABLE:
        if isinstance(row, tuple):
            x = _inception(x, row, name)
        elif row == "max-pool":
            x = layers.MaxPooling2D(3, 2, "same", name=name)(x)
        else:
            auxiliary.append(_auxiliary_head(x, classes, auxiliary_dropout, name))
    x = layers.GlobalAveragePooling2D(name=f"{HEAD}_pool")(x)  # [b, 1024]
    x = layers.Dropout(dropout, name=f"{HEAD}_dropout")(x)
    return Outputs(inputs, layers.Dense(classes, name=f"{HEAD}_logits")(x), tuple(auxiliary))


ARCHITECTURE = Architecture(
    name="googlenet",
    title="GoogLeNet (Inception v1)",
    source="Szegedy et al. 2015",
    minimum_size=32,
    preprocessing="RGB / 255",
    defaults={"dropout": 0.4, "learning_rate": 3e-4, "auxiliary_weight": 0.3, "auxiliary_dropout": 0.7},
    cut_points={"last-block": ("inception_5",)},
    build=build,
    has_auxiliary_heads=True,
)
