"""AlexNet at half width, as one column of the original: 48-128-192-192-128 filters, 2048-2048 in the head.

Source: Krizhevsky, Sutskever, Hinton, ImageNet Classification with Deep Convolutional Neural Networks (NIPS 2012),
figure 2: one of its two columns, without local response normalisation. The asymmetric zero padding extends 224
pixels to the 227 that the paper's layer sizes require. 14,591,685 parameters with 5 classes at 224 pixels.
"""

from __future__ import annotations

from cnnstudy.architectures import Architecture, Outputs, dense_head

#: (stage, filters, kernel, stride, padding, max-pool 3/2 after it?)   output at 224 pixels
TABLE = (
    ("conv1", 48, 11, 4, "valid", True),  # 55 -> 27
    ("conv2", 128, 5, 1, "same", True),  # 27 -> 13
    ("conv3", 192, 3, 1, "same", False),  # 13
    ("conv4", 192, 3, 1, "same", False),  # 13
    ("conv5", 128, 3, 1, "same", True),  # 13 -> 6
)
HEAD_UNITS = (2048, 2048)


def build(image_size: int, classes: int, dropout: float, auxiliary_dropout: float) -> Outputs:
    """Build the network; it has no auxiliary heads."""
    from keras import layers

    inputs = layers.Input((image_size, image_size, 3), name="image")
    x = layers.Rescaling(1 / 255, name="preprocess_scale")(inputs)
    x = layers.ZeroPadding2D(((1, 2), (1, 2)), name="pad")(x)  # [b, 227, 227, 3]
    for stage, filters, kernel, stride, padding, pooled in TABLE:
        x = layers.Conv2D(filters, kernel, stride, padding, activation="relu", name=stage)(x)
        if pooled:
            x = layers.MaxPooling2D(3, 2, name=f"{stage}_pool")(x)
    # [b, 6, 6, 128]
    return Outputs(inputs, dense_head(x, HEAD_UNITS, dropout, classes))


ARCHITECTURE = Architecture(
    name="alexnet",
    title="AlexNet (half width)",
    source="Krizhevsky et al. 2012",
    minimum_size=64,
    preprocessing="RGB / 255",
    defaults={"dropout": 0.5, "learning_rate": 5e-4},
    cut_points={"last-block": ("conv3", "conv4", "conv5")},
    build=build,
)
