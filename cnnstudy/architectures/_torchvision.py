"""What networks with torchvision's weights have in common: pixels, pools, and convolutions as PyTorch pads them.

Keras' `same` would pad one side more at stride 2, and BatchNormalization has the epsilon and momentum that it is given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cnnstudy.architectures import IMAGENET_DEVIATIONS, IMAGENET_MEANS

if TYPE_CHECKING:
    import keras

#: What `normalise` does, in words.
NORMALISED = "(RGB / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)"


def normalise(inputs: keras.KerasTensor) -> keras.KerasTensor:
    """Return pixels of 0..255 with the mean 0 and the deviation 1 that they have in ImageNet."""
    from keras import layers

    return layers.Rescaling(
        [1 / (255 * deviation) for deviation in IMAGENET_DEVIATIONS],
        [-mean / deviation for mean, deviation in zip(IMAGENET_MEANS, IMAGENET_DEVIATIONS, strict=True)],
        name="preprocess_normalise",
    )(inputs)


def convolve(
    x: keras.KerasTensor,
    filters: int,
    kernel: int,
    stride: int,
    name: str,
    number: str = "",
    epsilon: float = 1e-5,
) -> keras.KerasTensor:
    """Add a convolution without bias, padded by half its kernel, and BatchNormalization."""
    from keras import layers

    padding = "same"
    if stride > 1 and kernel > 1:
        x, padding = layers.ZeroPadding2D(kernel // 2, name=f"{name}_pad{number}")(x), "valid"
    x = layers.Conv2D(
        filters, kernel, stride, padding, use_bias=False, kernel_initializer="he_normal", name=f"{name}_conv{number}"
    )(x)
    return layers.BatchNormalization(momentum=0.9, epsilon=epsilon, name=f"{name}_norm{number}")(x)


def average_to(x: keras.KerasTensor, side: int, name: str) -> keras.KerasTensor:
    """Return maps [b, side, side, channels] as PyTorch's adaptive pool: averaged, or repeated where there are fewer."""
    from keras import layers

    if x.shape[1] == 1:  # of which Keras' adaptive pool would take windows of 2
        return layers.UpSampling2D(side, name=name)(x)
    return layers.AdaptiveAveragePooling2D(side, name=name)(x)
