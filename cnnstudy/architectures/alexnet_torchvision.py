"""AlexNet as torchvision has it and publishes its weights: 64-192-384-256-256 filters, 4096-4096 in the head.

Source: Krizhevsky, One weird trick for parallelizing convolutional neural networks (arXiv 1404.5997, 2014), in one
column and without local response normalisation, as torchvision. The head takes 6x6 maps, as they are at 224 pixels,
whatever the size of the images: those of other sizes are averaged or repeated. 2,469,696 parameters below the head;
61,100,840 in all with 1000 classes.
"""

from __future__ import annotations

from cnnstudy.architectures import HEAD, Architecture, Outputs, dense_head
from cnnstudy.architectures._torchvision import NORMALISED, average_to, normalise

#: (stage, filters, kernel, stride, padding, max-pool 3/2 after it?, number in torchvision)   output at 224 pixels
TABLE = (
    ("conv1", 64, 11, 4, "valid", True, 0),  # 55 -> 27
    ("conv2", 192, 5, 1, "same", True, 3),  # 27 -> 13
    ("conv3", 384, 3, 1, "same", False, 6),  # 13
    ("conv4", 256, 3, 1, "same", False, 8),  # 13
    ("conv5", 256, 3, 1, "same", True, 10),  # 13 -> 6
)
HEAD_UNITS = (4096, 4096)
#: Layer -> its name in torchvision.
NAMES = {stage: f"features.{number}" for stage, *_, number in TABLE} | {
    f"{HEAD}_dense1": "classifier.1",
    f"{HEAD}_dense2": "classifier.4",
    f"{HEAD}_logits": "classifier.6",
}


def build(image_size: int, classes: int, dropout: float, auxiliary_dropout: float) -> Outputs:
    """Build the network; it has no auxiliary heads."""
    from keras import layers

    inputs = layers.Input((image_size, image_size, 3), name="image")
    x = layers.ZeroPadding2D(2, name="pad")(normalise(inputs))  # [b, 228, 228, 3]
    for stage, filters, kernel, stride, padding, pooled, _ in TABLE:
        x = layers.Conv2D(filters, kernel, stride, padding, activation="relu", name=stage)(x)
        if pooled:
            x = layers.MaxPooling2D(3, 2, name=f"{stage}_pool")(x)
    x = average_to(x, 6, f"{HEAD}_pool")  # [b, 6, 6, 256]
    return Outputs(inputs, dense_head(x, HEAD_UNITS, dropout, classes))


ARCHITECTURE = Architecture(
    name="alexnet_torchvision",
    title="AlexNet of torchvision",
    source="Krizhevsky 2014",
    minimum_size=63,
    preprocessing=NORMALISED,
    defaults={"dropout": 0.5, "learning_rate": 1e-4},
    cut_points={"last-block": ("conv3", "conv4", "conv5")},
    build=build,
    torchvision_name=NAMES.__getitem__,
)
