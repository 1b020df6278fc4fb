"""VGG16 with the pixels that torchvision's weights expect, and the head Flatten-Dropout-1024-Dropout-1024 of `vgg16`.

Source: Simonyan, Zisserman, Very Deep Convolutional Networks for Large-Scale Image Recognition (ICLR 2015), table 1,
column D. The convolutions are those of `vgg16`, and so are the shapes of their weights; as weights for other pixels
would be silently wrong, layers have the names of the paper's authors (`conv5_3`), not those of Keras (`block5_conv3`).
14,714,688 parameters in the convolutions.
"""

from __future__ import annotations

from collections.abc import Iterator

from cnnstudy.architectures import HEAD, Architecture, Outputs, dense_head
from cnnstudy.architectures._torchvision import NORMALISED, normalise

#: (stage, filters, 3x3 convolutions before its max-pool)   output at 224 pixels
TABLE = (
    ("conv1", 64, 2),  # 224 -> 112
    ("conv2", 128, 2),  # 112 -> 56
    ("conv3", 256, 3),  # 56 -> 28
    ("conv4", 512, 3),  # 28 -> 14
    ("conv5", 512, 3),  # 14 -> 7
)
HEAD_UNITS = (1024, 1024)


def _list_names() -> Iterator[tuple[str, str]]:
    """Yield each layer and its name in torchvision, where activations and pools are numbered, too."""
    place = 0
    for stage, _, convolutions in TABLE:
        for number in range(1, convolutions + 1):
            yield f"{stage}_{number}", f"features.{place}"
            place += 2
        place += 1
    yield from ((f"{HEAD}_{layer}", f"classifier.{n}") for layer, n in (("dense1", 0), ("dense2", 3), ("logits", 6)))


NAMES = dict(_list_names())


def build(image_size: int, classes: int, dropout: float, auxiliary_dropout: float) -> Outputs:
    """Build the network; it has no auxiliary heads."""
    from keras import layers

    inputs = layers.Input((image_size, image_size, 3), name="image")
    x = normalise(inputs)
    for stage, filters, convolutions in TABLE:
        for number in range(1, convolutions + 1):
            x = layers.Conv2D(filters, 3, padding="same", activation="relu", name=f"{stage}_{number}")(x)
        x = layers.MaxPooling2D(2, name=f"{stage}_pool")(x)
    # [b, 7, 7, 512]
    return Outputs(inputs, dense_head(x, HEAD_UNITS, dropout, classes))


ARCHITECTURE = Architecture(
    name="vgg16_torchvision",
    title="VGG16 of torchvision",
    source="Simonyan & Zisserman 2015",
    minimum_size=32,
    preprocessing=NORMALISED,
    defaults={"dropout": 0.5, "learning_rate": 1e-4},
    cut_points={"last-block": ("conv5",)},
    build=build,
    torchvision_name=NAMES.__getitem__,
)
