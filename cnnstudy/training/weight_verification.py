"""Compare our networks with torchvision's, layer by layer, after their weights went through `weights import`.

torchvision's network gets He weights, random biases, scales and offsets, and the statistics of a forward pass: with its
own initial weights outputs hardly depend on the image, so that equal ones would show nothing. Its state dict is saved,
read and converted as any other file, and both networks see the same images.

Both compute in float64. In float32, roundings grow with depth, and hide what is wrong by as little.
"""

from __future__ import annotations

import itertools
import math
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cnnstudy import architectures
from cnnstudy.architectures import HEAD, IMAGENET_DEVIATIONS, IMAGENET_MEANS, Architecture, Network, build_network
from cnnstudy.errors import WeightsError
from cnnstudy.training.weight_files import read_weights
from cnnstudy.training.weight_import import convert_torch

if TYPE_CHECKING:
    import keras

#: The largest difference that equal networks may have, and the least by which the outputs of two images must differ;
#: each is the L2 norm of a difference as a share of the L2 norm.
BOUND, LEAST_SPREAD = 2e-5, 0.05
SIZES = (224, 96)
CLASSES, SEED = 10, 0
#: Images that are compared, and those that a forward pass takes statistics of.
COMPARED, FOR_STATISTICS = 2, 8
PACKAGES = ("torch", "torchvision")


@dataclass(frozen=True)
class Comparison:
    """How much a network and torchvision's differ at one size of images.

    Args:
        layers: how many were compared: all with weights, those of the heads among them.
        worst: the layer with the largest difference, and `difference`, that difference; infinite if shapes differ.
        outputs: the difference of the logits, with those of auxiliary heads.
        spread: the least by which the logits of two images differ.
    """

    network: str
    size: int  # pixels
    layers: int
    worst: str
    difference: float
    outputs: float
    spread: float

    @property
    def holds(self) -> bool:
        """Whether the networks are equal, on images that tell networks apart."""
        return max(self.difference, self.outputs) <= BOUND and self.spread >= LEAST_SPREAD


def list_networks() -> list[str]:
    """Return the names of the networks that take torchvision's weights."""
    return [name for name in architectures.names() if architectures.find(name).torchvision_name is not None]


def require_packages() -> None:
    """Raise WeightsError, with how to install them, if PyTorch or torchvision is not there."""
    missing = [package for package in PACKAGES if find_spec(package) is None]
    if missing:
        raise WeightsError(
            f"weights verify needs the packages {' and '.join(PACKAGES)}; not installed: {', '.join(missing)}. "
            "Install them from cnnstudy's folder: python -m pip install -c constraints.txt -e '.[torch]'"
        )


def compare_with_torchvision(architecture: Architecture, size: int, dtype: str = "float64") -> Comparison:
    """Build the network and torchvision's, give both the same weights, and compare their layers and outputs.

    Args:
        size: of the images, in pixels.
        dtype: what both compute in; weights are of float32.

    Raises:
        WeightsError: PyTorch or torchvision is not installed; or a weight does not fit.
    """
    require_packages()
    images = _draw_images(size)
    original = _build_original(architecture.name, size)
    _draw_weights(original, images)
    with _keras_in(dtype):
        network = build_network(architecture, size, CLASSES, 0.0, 0.0)
        layers = [layer for layer in network.training.layers if layer.weights]
        _take_weights(original, network, layers)
        ours = _run_ours(network, layers, images[:COMPARED].astype(dtype))
    assert architecture.torchvision_name is not None
    names = {layer.name: architecture.torchvision_name(layer.name) for layer in layers}
    theirs = _run_original(original, set(names.values()), images[:COMPARED].astype(dtype))
    differences = {
        layer.name: _difference(ours[layer.name], _activated(layer, theirs[names[layer.name]])) for layer in layers
    }
    worst = max(differences, key=lambda name: differences[name])
    logits = theirs[names[f"{HEAD}_logits"]]
    return Comparison(
        network=architecture.name,
        size=size,
        layers=len(layers),
        worst=worst,
        difference=differences[worst],
        outputs=max(differences[name] for name in network.training.output_names),
        spread=min(_difference(one, other) for one, other in itertools.permutations(logits, 2)),
    )


def _difference(one: np.ndarray, other: np.ndarray) -> float:
    """Return the L2 norm of the difference as a share of that of `other`; infinity if the shapes differ, or for NaN."""
    share = float(np.linalg.norm(one - other) / np.linalg.norm(other)) if one.shape == other.shape else math.inf
    return math.inf if math.isnan(share) else share


def _draw_images(size: int) -> np.ndarray:
    """Return images [n, size, size, 3] of 0..255: patches of eight colours each, and some noise."""
    rng = np.random.default_rng(SEED)
    colours = rng.integers(0, 256, (FOR_STATISTICS, 8, 3))
    patches = rng.integers(0, 8, (FOR_STATISTICS, 12, 12))
    places = np.arange(size) * 12 // size
    images = np.stack([of[patch[places][:, places]] for of, patch in zip(colours, patches, strict=True)])
    return (images + rng.integers(-20, 21, images.shape)).clip(0, 255)


# ---- torchvision's


def _import_torchvision() -> Any:
    """Import torchvision, also where it was built for another PyTorch than the one that is there."""
    import torch

    try:
        import torchvision
    except RuntimeError as error:  # its compiled operations are not loaded; no network here uses them
        if "torchvision::nms does not exist" not in str(error):
            raise
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        for operation in ("nms", "qnms"):
            library.define(f"{operation}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision

        torchvision._library_of_cnnstudy = library  # which ends with its last reference
    return torchvision


def _build_original(name: str, size: int) -> Any:
    """Return torchvision's network, with our head where ours differs on purpose."""
    from torch import nn

    models = _import_torchvision().models
    if name == "googlenet_torchvision":
        # published weights come with this transform, which torchvision leaves out without them
        return models.googlenet(weights=None, num_classes=CLASSES, transform_input=True, init_weights=False)
    original = getattr(models, name.removesuffix("_torchvision"))(weights=None, num_classes=CLASSES)
    if name == "vgg16_torchvision":
        original.avgpool = nn.Identity()
        for place, (given, units) in {0: (512 * (size // 32) ** 2, 1024), 3: (1024, 1024), 6: (1024, CLASSES)}.items():
            original.classifier[place] = nn.Linear(given, units)
    return original


def _as_torchvision_takes(images: np.ndarray) -> Any:
    """Return a tensor [n, 3, height, width] of images of 0..255, as torchvision's transforms prepare them."""
    import torch

    prepared = (images / 255 - IMAGENET_MEANS) / IMAGENET_DEVIATIONS
    dtype = images.dtype if images.dtype.kind == "f" else np.float32
    return torch.from_numpy(np.ascontiguousarray(prepared.transpose(0, 3, 1, 2), dtype))


def _draw_weights(original: Any, images: np.ndarray) -> None:
    """Draw He weights, all else around what is usual, and take the statistics of the images in a forward pass."""
    import torch
    from torch import nn

    torch.manual_seed(SEED)
    for module in original.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.normal_(module.bias, std=0.1)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            module.momentum = 1.0  # statistics of this pass alone
    original.train()
    with torch.no_grad():
        original(_as_torchvision_takes(images))
    original.eval()


def _run_original(original: Any, names: set[str], images: np.ndarray) -> dict[str, np.ndarray]:
    """Return the outputs of modules by their names, with channels last as ours."""
    import torch

    found: dict[str, np.ndarray] = {}

    def keep(name: str, output: Any) -> None:
        array = output.numpy().copy()  # a ReLU that follows may work in place
        found[name] = array.transpose(0, 2, 3, 1) if array.ndim == 4 else array

    original = original.to(getattr(torch, str(images.dtype)))
    for name, module in original.named_modules():
        if name in names:
            module.register_forward_hook(lambda _, __, output, name=name: keep(name, output))
    original.training = True  # of GoogLeNet itself, not of its layers: else auxiliary heads do not run
    with torch.no_grad():
        original(_as_torchvision_takes(images))
    return found


# ---- ours


@contextmanager
def _keras_in(dtype: str) -> Iterator[None]:
    """Make Keras compute in that type during the block."""
    import keras

    before = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx(dtype)
    keras.config.set_dtype_policy(dtype)
    try:
        yield
    finally:
        keras.config.set_floatx(before[0])
        keras.config.set_dtype_policy(before[1])


def _take_weights(original: Any, network: Network, layers: Sequence[keras.layers.Layer]) -> None:
    """Save torchvision's weights, read the file as `weights import` does, and give them to all layers, heads too."""
    import torch

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{network.architecture.name}.pth"
        torch.save(original.state_dict(), path)
        tensors: Mapping[str, np.ndarray] = read_weights(path).tensors
        arrays = convert_torch(network.architecture, path, tensors, layers, network.training)
    for layer in layers:
        layer.set_weights(arrays[layer.name])


def _run_ours(network: Network, layers: Sequence[keras.layers.Layer], images: np.ndarray) -> dict[str, np.ndarray]:
    """Return the outputs of layers by their names, at inference."""
    import keras

    outputs = {layer.name: layer.output for layer in layers}
    found = keras.Model(network.training.input, outputs)(images, training=False)
    return {name: np.asarray(array) for name, array in found.items()}


def _activated(layer: keras.layers.Layer, array: np.ndarray) -> np.ndarray:
    """Return a module's output after the activation that is part of our layer; in PyTorch it is one of its own."""
    return np.maximum(array, 0) if getattr(getattr(layer, "activation", None), "__name__", "") == "relu" else array
