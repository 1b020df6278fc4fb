"""A small network for tests, with what the three of the package do not have: BatchNormalization, LayerNormalization,
a depthwise convolution, and convolutions without bias.
"""

from __future__ import annotations

from cnnstudy.architectures import HEAD, Architecture, Outputs


def build(image_size: int, classes: int, dropout: float, auxiliary_dropout: float) -> Outputs:
    from keras import layers

    inputs = layers.Input((image_size, image_size, 3), name="image")
    x = layers.Rescaling(1 / 127.5, -1, name="preprocess_scale")(inputs)
    x = layers.Conv2D(8, 3, 2, "same", use_bias=False, name="block1_conv")(x)
    x = layers.BatchNormalization(momentum=0.8, name="block1_norm")(x)
    x = layers.ReLU(name="block1_relu")(x)
    x = layers.DepthwiseConv2D(3, 2, "same", use_bias=False, name="block2_depthwise")(x)
    x = layers.BatchNormalization(momentum=0.8, name="block2_norm1")(x)
    x = layers.ReLU(name="block2_relu1")(x)
    x = layers.Conv2D(16, 1, use_bias=False, name="block2_pointwise")(x)
    x = layers.LayerNormalization(name="block2_norm2")(x)
    x = layers.ReLU(name="block2_relu2")(x)
    x = layers.GlobalAveragePooling2D(name=f"{HEAD}_pool")(x)
    x = layers.Dropout(dropout, name=f"{HEAD}_dropout")(x)
    x = layers.Dense(12, activation="relu", use_bias=False, name=f"{HEAD}_dense")(x)
    return Outputs(inputs, layers.Dense(classes, name=f"{HEAD}_logits")(x))


ARCHITECTURE = Architecture(
    name="normalised",
    title="Normalised",
    source="none",
    minimum_size=16,
    preprocessing="RGB / 127.5 - 1",
    defaults={"dropout": 0.2, "learning_rate": 0.01},
    cut_points={"last-block": ("block2",)},
    build=build,
    has_batch_norm=True,
)
