"""The residual networks' common parts: stem and blocks; their tables are in files of their own.

Source: He et al., Deep Residual Learning for Image Recognition (CVPR 2016), table 1 and figure 5. As in torchvision,
and so as its published weights have it: version 1.5, in which a bottleneck's 3x3 convolution has the stride; padding on
all sides, as PyTorch pads, where Keras' `same` would pad one side at stride 2; BatchNormalization with epsilon 1e-5.

Layers are named `conv4_block2_conv1`, after the paper's stages conv1 to conv5.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from cnnstudy.architectures import HEAD, Architecture, Outputs, pooled_head
from cnnstudy.architectures._torchvision import NORMALISED, convolve, normalise

if TYPE_CHECKING:
    import keras

#: A block of so many filters: adds the layers of its branch, of that stride and name, to a tensor.
Branch = Callable[["keras.KerasTensor", int, int, str], "keras.KerasTensor"]


def basic_branch(x: keras.KerasTensor, filters: int, stride: int, name: str) -> keras.KerasTensor:
    """Add the two 3x3 convolutions of a block of ResNet 18 (figure 5, left)."""
    from keras import layers

    x = layers.ReLU(name=f"{name}_relu1")(convolve(x, filters, 3, stride, name, "1"))
    return convolve(x, filters, 3, 1, name, "2")


def bottleneck_branch(x: keras.KerasTensor, filters: int, stride: int, name: str) -> keras.KerasTensor:
    """Add the 1x1, 3x3 and 1x1 convolutions of a block of ResNet 50 (figure 5, right); the last has 4 x `filters`."""
    from keras import layers

    x = layers.ReLU(name=f"{name}_relu1")(convolve(x, filters, 1, 1, name, "1"))
    x = layers.ReLU(name=f"{name}_relu2")(convolve(x, filters, 3, stride, name, "2"))
    return convolve(x, 4 * filters, 1, 1, name, "3")


#: The kinds of blocks: the branch, and how many filters its last convolution has of its first one's.
BASIC: tuple[Branch, int] = (basic_branch, 1)
BOTTLENECK: tuple[Branch, int] = (bottleneck_branch, 4)


def _block(x: keras.KerasTensor, kind: tuple[Branch, int], filters: int, stride: int, name: str) -> keras.KerasTensor:
    """Add a branch and its shortcut, which has a 1x1 convolution where the shape changes."""
    from keras import layers

    branch, wider = kind
    added = branch(x, filters, stride, name)
    if added.shape != x.shape:
        x = convolve(x, wider * filters, 1, stride, f"{name}_skip")
    return layers.ReLU(name=f"{name}_relu")(layers.Add(name=f"{name}_add")([added, x]))


def _build(
    table: Sequence[tuple[str, int, int, int]],
    kind: tuple[Branch, int],
    image_size: int,
    classes: int,
    dropout: float,
    auxiliary_dropout: float,
) -> Outputs:
    """Build the network; it has no auxiliary heads."""
    from keras import layers

    inputs = layers.Input((image_size, image_size, 3), name="image")
    x = layers.ReLU(name="conv1_relu")(convolve(normalise(inputs), 64, 7, 2, "conv1"))  # [b, 112, 112, 64]
    x = layers.ZeroPadding2D(1, name="conv2_pool_pad")(x)  # zeros are as good as PyTorch's -inf after ReLU
    x = layers.MaxPooling2D(3, 2, name="conv2_pool")(x)  # [b, 56, 56, 64]
    for stage, filters, blocks, stride in table:
        for number in range(1, blocks + 1):
            x = _block(x, kind, filters, stride if number == 1 else 1, f"{stage}_block{number}")
    return Outputs(inputs, pooled_head(x, dropout, classes))


def torchvision_name(layer: str) -> str:
    """Return the name in torchvision of one of our layers: `layer3.1.conv1` of `conv4_block2_conv1`."""
    if layer == f"{HEAD}_logits":
        return "fc"
    if match := re.fullmatch(r"conv1_(conv|norm)", layer):
        return {"conv": "conv1", "norm": "bn1"}[match[1]]
    match = re.fullmatch(r"conv(\d)_block(\d+)_(skip_)?(conv|norm)(\d?)", layer)
    assert match is not None, layer
    stage, number, skip, kind, place = match.groups()
    of_skip, of_branch = {"conv": ("downsample.0", "conv"), "norm": ("downsample.1", "bn")}[kind]
    return f"layer{int(stage) - 1}.{int(number) - 1}.{of_skip if skip else of_branch + place}"


def residual_network(
    name: str, title: str, table: Sequence[tuple[str, int, int, int]], kind: tuple[Branch, int]
) -> Architecture:
    """Return the network of a table: (stage, filters, blocks, stride of the first block)."""
    return Architecture(
        name=name,
        title=title,
        source="He et al. 2016",
        minimum_size=32,
        preprocessing=NORMALISED,
        defaults={"dropout": 0.0, "learning_rate": 1e-3},
        cut_points={"last-block": ("conv5",)},
        build=functools.partial(_build, table, kind),
        has_batch_norm=True,
        torchvision_name=torchvision_name,
    )
