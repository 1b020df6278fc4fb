"""GoogLeNet as torchvision has it and publishes its weights: with BatchNormalization, and 3x3 in the third branch.

Source: Szegedy et al., Going Deeper with Convolutions (CVPR 2015), with the filters of table 1. Against the paper, and
`googlenet`: each convolution has BatchNormalization (epsilon 1e-3) and no bias; a 3x3 convolution stands where the
paper has 5x5; maps are pooled in windows that may reach beyond their last row and column (PyTorch's ceil mode), the
last time in windows of 2x2; auxiliary heads average to 4x4 maps and have one dropout; and pixels are of -1 to 1, as the
weights were made in TensorFlow. 5,599,904 parameters below the head, and 14,560 moving statistics; 6,624,904 that train
with 1000 classes, without auxiliary heads.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from cnnstudy.architectures import AUXILIARY, HEAD, Architecture, Outputs, pooled_head
from cnnstudy.architectures._torchvision import average_to, convolve
from cnnstudy.architectures.googlenet import TABLE

if TYPE_CHECKING:
    import keras

EPSILON = 1e-3
#: Max-pool -> its window; all have stride 2.
WINDOWS = {"pool1": 3, "pool2": 3, "pool3": 3, "pool4": 2}


def _convolve(
    x: keras.KerasTensor, filters: int, kernel: int, name: str, number: str = "", stride: int = 1
) -> keras.KerasTensor:
    """Add a convolution with BatchNormalization and ReLU."""
    from keras import layers

    return layers.ReLU(name=f"{name}_relu{number}")(convolve(x, filters, kernel, stride, name, number, EPSILON))


def _pool(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    """Add a max-pool of stride 2 whose last window may reach one pixel beyond the map."""
    from keras import layers

    # at even sizes `same` adds that pixel, on that side alone; at odd ones windows of 3 fit without
    padding = "valid" if WINDOWS[name] == 3 and x.shape[1] % 2 else "same"
    return layers.MaxPooling2D(WINDOWS[name], 2, padding, name=name)(x)


def _inception(x: keras.KerasTensor, row: tuple[int, ...], name: str) -> keras.KerasTensor:
    """Add an Inception block (paper, figure 2 (b)), with two 3x3 convolutions; `row` is of `googlenet.TABLE`.

    Layers are named after their branch: `inception_3a_2_conv1`.
    """
    from keras import layers

    n1x1, reduce3x3, n3x3, reduce5x5, n5x5, projection = row
    branches = [_convolve(x, n1x1, 1, f"{name}_1")]
    for number, reduced, filters in ((2, reduce3x3, n3x3), (3, reduce5x5, n5x5)):
        narrow = _convolve(x, reduced, 1, f"{name}_{number}", "1")
        branches.append(_convolve(narrow, filters, 3, f"{name}_{number}", "2"))
    pooled = layers.MaxPooling2D(3, 1, "same", name=f"{name}_pool")(x)
    branches.append(_convolve(pooled, projection, 1, f"{name}_4"))
    return layers.Concatenate(name=f"{name}_output")(branches)


def _auxiliary_head(x: keras.KerasTensor, classes: int, dropout: float, name: str) -> keras.KerasTensor:
    """Add an auxiliary head: average to 4x4 maps, 1x1 convolution, one hidden layer."""
    from keras import layers

    x = average_to(x, 4, f"{name}_pool")  # [b, 4, 4, channels]
    x = layers.Flatten(name=f"{name}_flatten")(_convolve(x, 128, 1, name))
    x = layers.Dense(1024, activation="relu", name=f"{name}_dense")(x)
    x = layers.Dropout(dropout, name=f"{name}_dropout")(x)
    return layers.Dense(classes, name=f"{name}_logits")(x)


def build(image_size: int, classes: int, dropout: float, auxiliary_dropout: float) -> Outputs:
    """Build the network with both auxiliary heads."""
    from keras import layers

    inputs = layers.Input((image_size, image_size, 3), name="image")
    x = layers.Rescaling(1 / 127.5, -1, name="preprocess_scale")(inputs)
    x = _pool(_convolve(x, 64, 7, "conv1", stride=2), "pool1")  # [b, 56, 56, 64]
    x = _pool(_convolve(_convolve(x, 64, 1, "conv2"), 192, 3, "conv3"), "pool2")  # [b, 28, 28, 192]
    auxiliary = []
    for name, row in TABLE:
        if isinstance(row, tuple):
            x = _inception(x, row, name)
        elif name in WINDOWS:
            x = _pool(x, name)
        else:
            auxiliary.append(_auxiliary_head(x, classes, auxiliary_dropout, name))
    return Outputs(inputs, pooled_head(x, dropout, classes), tuple(auxiliary))


def torchvision_name(layer: str) -> str:
    """Return the name in torchvision of a layer: `inception3a.branch2.0.bn` of `inception_3a_2_norm1`."""
    if layer == f"{HEAD}_logits":
        return "fc"
    if match := re.fullmatch(rf"{AUXILIARY}(\d)_(\w+)", layer):
        inside = {"conv": "conv.conv", "norm": "conv.bn", "dense": "fc1", "logits": "fc2"}
        return f"aux{match[1]}.{inside[match[2]]}"
    match = re.fullmatch(r"(conv\d|inception_(\d\w)_(\d))_(conv|norm)(\d?)", layer)
    assert match is not None, layer
    stage, block, branch, kind, number = match.groups()
    part = {"conv": "conv", "norm": "bn"}[kind]
    if block is None:
        return f"{stage}.{part}"
    place = str(int(number) - 1) if number else "1" if branch == "4" else ""  # branch4.0 is the pool
    return ".".join(filter(None, (f"inception{block}", f"branch{branch}", place, part)))


ARCHITECTURE = Architecture(
    name="googlenet_torchvision",
    title="GoogLeNet of torchvision",
    source="Szegedy et al. 2015",
    minimum_size=15,
    preprocessing="RGB / 127.5 - 1",
    defaults={"dropout": 0.2, "learning_rate": 1e-3, "auxiliary_weight": 0.3, "auxiliary_dropout": 0.7},
    cut_points={"last-block": ("inception_5",)},
    build=build,
    has_auxiliary_heads=True,
    has_batch_norm=True,
    torchvision_name=torchvision_name,
)
