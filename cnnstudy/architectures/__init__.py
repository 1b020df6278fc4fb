"""The networks, one file each, found by name.

To add one, add a file here with a function `build` and an `ARCHITECTURE`, which describes the network and names the
stages that each transfer mode trains. The contract tests in tests/architectures run on it automatically. A module must
be light to import: Keras is imported inside its `build`.

Comes in: image size, number of classes and dropout rates. Goes out: a Network, three views of the same Keras layers.

Two modules describe networks that have no file here: `_keras_applications`, any of keras.applications, and
`_own_network`, a file of the user's. Two hold what several share: `_residual`, the ResNets' blocks, and `_torchvision`,
pixels and convolutions as torchvision's weights expect them.

A layer's name begins with its stage (`block5_conv1`); the classifier's with `head`, an auxiliary one's with
`auxiliary`. Everything else that has weights is the backbone. A trial finds the Dropout layers whose rates it sets
by the same names (`dropout_factor`).

May import: errors, names, records, system, data.
"""

from __future__ import annotations

import importlib
import math
import pkgutil
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from cnnstudy.errors import ConfigError, UnknownNameError, did_you_mean
from cnnstudy.records import Level, LinearInput, plain_name

if TYPE_CHECKING:
    import keras

HEAD, AUXILIARY = "head", "auxiliary"
#: Mean and standard deviation of ImageNet's red, green and blue, in 0..1, that most published weights expect.
IMAGENET_MEANS, IMAGENET_DEVIATIONS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
#: Names of networks that no file of the package defines begin with one of these.
PREFIXES = ("keras:", "file:")
#: Outputs of a layer for each image that a linear head takes at most: 14 x 14 x 512 of VGG16, and some more.
MOST_FLAT = 1 << 17


@dataclass(frozen=True)
class ImageNetWeights:
    """ImageNet weights for Keras' downloader: file name in ~/.keras/models, URL, and MD5 or SHA-256 if one is known."""

    file_name: str
    url: str
    file_hash: str


@dataclass(frozen=True)
class Outputs:
    """A network's symbolic tensors, all computed from `inputs` [batch, size, size, 3] of 0..255."""

    inputs: keras.KerasTensor
    logits: keras.KerasTensor  # [batch, classes], before softmax
    auxiliary: tuple[keras.KerasTensor, ...] = ()  # each [batch, classes], before softmax; dropped at inference
    #: Of a network whose stages only its layers tell.
    cut_points: Mapping[str, tuple[str, ...]] | None = None


@dataclass(frozen=True)
class Architecture:
    """One network: its properties, known without importing Keras, and the function that builds it."""

    name: str
    title: str
    source: str
    minimum_size: int  # pixels
    preprocessing: str
    #: The network's own levels of factors: dropout, learning_rate, and those of its auxiliary heads.
    defaults: Mapping[str, Level]
    #: Transfer mode -> stages of the backbone that train besides the head. Modes not listed train all or none.
    cut_points: Mapping[str, tuple[str, ...]]
    #: build(image_size, classes, dropout, auxiliary_dropout)
    build: Callable[[int, int, float, float], Outputs] = field(repr=False)
    has_auxiliary_heads: bool = False
    has_batch_norm: bool = False  # in the backbone
    imagenet: ImageNetWeights | None = None
    #: torchvision's name of a layer, also of the heads', if its weights fit: the network and its pixels are the same.
    torchvision_name: Callable[[str], str] | None = field(default=None, repr=False)
    #: name_layers(model, image_size): the layers of a model that it was copied from by the names of its own.
    name_layers: Callable[[keras.Model, int], dict[str, keras.layers.Layer]] | None = field(default=None, repr=False)

    def check_size(self, image_size: int) -> None:
        """Check the image size, in pixels.

        Raises:
            ConfigError: the network has no output at that size.
        """
        if image_size < self.minimum_size:
            raise ConfigError(
                f"{self.title} needs images of at least {self.minimum_size} x {self.minimum_size} pixels, "
                f"not {image_size}; with smaller images, a layer's output would be empty."
            )


def dropout_factor(layer: str) -> str | None:
    """Return the factor that sets a Dropout layer's rate; None in the backbone, where rates are fixed."""
    if layer.startswith(HEAD):
        return "dropout"
    return "auxiliary_dropout" if layer.startswith(AUXILIARY) else None


def stage_of(layer: str) -> str:
    """Return the stage that a layer's name begins with: up to the first number, or the first word if there is none.

    `block4` of `block4_conv2`, `block_13` of `block_13_expand`, `convnext_tiny_stage_3` of what begins so, `stem` of
    `stem_conv2d1`.
    """
    words = re.match(r"[A-Za-z]+_?\d+|[^_\d]+(?:_[^_\d]+)*_\d+|[^_]+", layer)
    return words[0] if words else layer


def dense_head(x: keras.KerasTensor, units: tuple[int, ...], dropout: float, classes: int) -> keras.KerasTensor:
    """Return logits [batch, classes]: flatten, then dropout and a dense layer for each of `units`."""
    from keras import layers

    x = layers.Flatten(name=f"{HEAD}_flatten")(x)
    for number, size in enumerate(units, 1):
        x = layers.Dropout(dropout, name=f"{HEAD}_dropout{number}")(x)
        x = layers.Dense(size, activation="relu", name=f"{HEAD}_dense{number}")(x)
    return layers.Dense(classes, name=f"{HEAD}_logits")(x)


def pooled_head(x: keras.KerasTensor, dropout: float, classes: int) -> keras.KerasTensor:
    """Return logits [batch, classes]: global average pool, then dropout and a dense layer."""
    from keras import layers

    x = layers.GlobalAveragePooling2D(name=f"{HEAD}_pool")(x)
    x = layers.Dropout(dropout, name=f"{HEAD}_dropout")(x)
    return layers.Dense(classes, name=f"{HEAD}_logits")(x)


@dataclass(frozen=True)
class Network:
    """Three views of the same layers."""

    architecture: Architecture
    training: keras.Model  # images -> [logits, auxiliary logits...]
    logits: keras.Model  # images -> logits
    inference: keras.Model  # images of 0..255 -> probabilities: what is saved
    #: Its layers with weights in their order, also those that a linear head leaves out.
    layer_names: tuple[str, ...] = ()


def linear_head(whole: keras.Model, takes: LinearInput, classes: int, title: str) -> keras.KerasTensor:
    """Return the logits of another head on a network's layers: a global average pool (of maps), and a dense layer.

    Args:
        whole: images -> logits, with the network's own head.
        takes: flat outputs are flattened instead of pooled.
        title: the network's, for messages.

    Raises:
        ConfigError: the network has no such layer or stage, or its flat outputs are too many.
    """
    from keras import layers

    backbone = [one for one in whole.operations if not one.name.startswith(HEAD)]
    x = _find_operation(backbone, takes.layer, title).output if takes.layer else backbone[-1].output
    if len(x.shape) == 4 and not takes.flat:
        x = layers.GlobalAveragePooling2D(name=f"{HEAD}_pool")(x)
    elif len(x.shape) > 2:
        count = math.prod(x.shape[1:])
        if count > MOST_FLAT:
            raise ConfigError(
                f"the flat outputs of {takes.layer or x.name} in {title} are {count:,} numbers for each image, "
                f"and a probe takes at most {MOST_FLAT:,}; leave `features: flat` out, name a later layer, or use "
                "smaller images."
            )
        x = layers.Flatten(name=f"{HEAD}_flatten")(x)
    return layers.Dense(classes, name=f"{HEAD}_logits")(x)


def _find_operation(operations: Sequence[keras.Operation], name: str, title: str) -> keras.Operation:
    """Return the layer of that name, or the last one of the stage."""
    exact = [one for one in operations if one.name == name]
    found = exact or [one for one in operations if re.match(rf"{re.escape(name)}(?!\d)", one.name)]
    if not found:
        stages = list(dict.fromkeys(stage_of(one.name) for one in operations if getattr(one, "weights", ())))
        raise ConfigError(
            f"{title} has no layer or stage {name!r}{did_you_mean(name, stages)} Its stages are {', '.join(stages)}; "
            "`python -m cnnstudy describe` lists its layers."
        )
    return found[-1]


def build_network(
    architecture: Architecture,
    image_size: int,
    classes: int,
    dropout: float,
    auxiliary_dropout: float = 0.7,
    linear: LinearInput | None = None,
) -> Network:
    """Return the network with fresh weights.

    Args:
        linear: with the head of `linear_head` instead of its own; layers that it does not need are left out.

    Raises:
        ConfigError: the images are too small for the network, or as `linear_head`.
    """
    import keras

    architecture.check_size(image_size)
    name = plain_name(architecture.name)
    outputs = architecture.build(image_size, classes, dropout, auxiliary_dropout)
    whole = logits = keras.Model(outputs.inputs, outputs.logits, name=f"{name}_logits")
    if linear is not None:
        outputs = replace(outputs, logits=linear_head(whole, linear, classes, architecture.title), auxiliary=())
        logits = keras.Model(outputs.inputs, outputs.logits, name=f"{name}_logits")
    if outputs.cut_points is not None:
        normalised = any(isinstance(layer, keras.layers.BatchNormalization) for layer in whole.layers)
        architecture = replace(architecture, cut_points=outputs.cut_points, has_batch_norm=normalised)
    probabilities = keras.layers.Activation("softmax", dtype="float32", name="predictions")(outputs.logits)
    return Network(
        architecture=architecture,
        training=keras.Model(outputs.inputs, [outputs.logits, *outputs.auxiliary], name=f"{name}_training"),
        logits=logits,
        inference=keras.Model(outputs.inputs, probabilities, name=name),
        layer_names=tuple(layer.name for layer in whole.layers if layer.weights),
    )


def names() -> list[str]:
    """Return the names of all networks, without importing them."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def all_names() -> list[str]:
    """Return `names`, and those of keras.applications, without importing Keras."""
    return [*names(), *importlib.import_module(f"{__name__}._keras_applications").list_names()]


def is_name(name: str) -> bool:
    """Check whether `find` would look for a network of that name, rather than for something else in a study file."""
    return name in names() or name.startswith(PREFIXES)


def find(name: str) -> Architecture:
    """Return the network of that name: one of `names`, `keras:` and one of keras.applications, or `file:` and a path.

    Raises:
        UnknownNameError: no network has that name, or the file can't be used.
        ConfigError: a .keras file holds what is not Keras' own.
    """
    if name.startswith("file:"):
        return importlib.import_module(f"{__name__}._own_network").find_own_network(name)
    if name.startswith("keras:"):
        return importlib.import_module(f"{__name__}._keras_applications").find_application(name)
    if name not in names():
        raise UnknownNameError(
            f"unknown architecture {name!r}{did_you_mean(name, names())} The architectures are {', '.join(names())}, "
            "those of keras.applications, such as keras:MobileNetV2, and your own, as file:my_network.py:build."
        )
    return importlib.import_module(f"{__name__}.{name}").ARCHITECTURE
