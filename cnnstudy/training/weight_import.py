"""Import weights of other programs: check that they are a network's, and write them as a file of source weights.

The file is an .npz as pretraining writes it, with `about.json` in it: where the weights come from, the SHA-256 of the
file that was imported, the classes that it told apart, the pixels it expects, and a note on its licence.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cnnstudy import architectures
from cnnstudy.architectures import HEAD, Architecture, Network, build_network
from cnnstudy.errors import WeightsError
from cnnstudy.system.files import ChunkedWriter
from cnnstudy.training.weight_files import StoredWeights, read_weights
from cnnstudy.training.weights import backbone_layers, name_by_order

if TYPE_CHECKING:
    import keras

#: The array in the file that holds its description, as UTF-8.
ABOUT = "about.json"
#: What torchvision's files hold besides layers, and the parts of a layer in the order in which Keras has them.
_COUNTER = "num_batches_tracked"
_PARTS = ("weight", "bias", "running_mean", "running_var")


@dataclass(frozen=True)
class Imported:
    """What a file of imported weights says of itself."""

    network: str
    kind: str  # as StoredWeights.kind
    source: str
    sha256: str  # of the file that was imported
    classes: int | None  # that its classifier told apart; None: it has none
    preprocessing: str
    licence: str


def import_weights(architecture: Architecture, path: Path, target: Path, source: str, licence: str) -> Imported:
    """Read a file of weights, check that they are the network's, and write them to `target`.

    Args:
        source: where the file is from; "": its name.
        licence: "": a note that it is not known.

    Raises:
        WeightsError: the file can't be read, or its weights are not this network's.
    """
    stored = read_weights(path)
    network = build_network(architecture, architecture.minimum_size, 2, 0.0)
    found, classes = (_take_torch if stored.tensors else _take_keras)(architecture, path, stored, network)
    _check_numbers(path, found)
    about = Imported(
        network=architecture.name,
        kind=stored.kind,
        source=source or path.name,
        sha256=_hash(path),
        classes=classes,
        preprocessing=architecture.preprocessing,
        licence=licence or "not stated; published weights may have a licence of their own",
    )
    arrays: dict[str, Any] = {f"{name}/{n}": array for name, of in found.items() for n, array in enumerate(of)}
    arrays[ABOUT] = np.frombuffer(json.dumps(asdict(about)).encode(), np.uint8)
    target.parent.mkdir(parents=True, exist_ok=True)
    with ChunkedWriter(target) as file:
        np.savez(file, **arrays)
    return about


def read_about(path: Path) -> Imported | None:
    """Return what a file of imported weights says of itself; None if it is none.

    Raises:
        WeightsError: it can't be read.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if ABOUT not in arrays.files:
                return None
            return Imported(**json.loads(arrays[ABOUT].tobytes()))
    except Exception as error:
        raise WeightsError(f"can't read {path}: {error}") from error


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ---- from PyTorch


def _take_torch(
    architecture: Architecture, path: Path, stored: StoredWeights, network: Network
) -> tuple[dict[str, list[np.ndarray]], int | None]:
    """Return the backbone's arrays by layer, and the number of classes, of torchvision's tensors.

    Those of the classifier and of auxiliary heads are left out: heads start fresh.

    Raises:
        WeightsError: they are not the network's.
    """
    name_of = architecture.torchvision_name
    if name_of is None:
        known = [name for name in architectures.names() if architectures.find(name).torchvision_name is not None]
        raise WeightsError(
            f"{path} holds weights of {stored.kind}, and {architecture.title} is not the same network there, or takes "
            f"other pixels, so that they would be silently wrong. Those with torchvision's are {', '.join(known)}."
        )
    layers = backbone_layers(network.logits)
    heads = {layer.name for layer in network.training.layers if layer.weights} - {layer.name for layer in layers}
    of_heads = tuple(f"{name_of(head)}." for head in heads)
    classifier = stored.tensors.get(f"{name_of(f'{HEAD}_logits')}.weight")
    tensors = {name: array for name, array in stored.tensors.items() if not name.startswith(of_heads)}
    found = convert_torch(architecture, path, tensors, layers, network.training)
    return found, None if classifier is None else len(classifier)


def convert_torch(
    architecture: Architecture,
    path: Path,
    tensors: Mapping[str, np.ndarray],
    layers: Sequence[keras.layers.Layer],
    model: keras.Model,
) -> dict[str, list[np.ndarray]]:
    """Return the arrays of layers of a model, by layer, from torchvision's tensors by name.

    Args:
        path: of the file, for messages.
        layers: those that the tensors belong to, and no other ones.

    Raises:
        WeightsError: tensors are missing, of another shape, or more than these layers'.
    """
    name_of = architecture.torchvision_name
    assert name_of is not None
    tensors = {name: array for name, array in tensors.items() if not name.endswith(_COUNTER)}
    names = {layer.name: name_of(layer.name) for layer in layers}
    wanted = {
        f"{names[layer.name]}.{part}": (layer, tuple(weight.shape))
        for layer in layers
        for part, weight in zip(_PARTS, layer.weights, strict=False)
    }
    _refuse_others(architecture, path, set(wanted), set(tensors))
    found: dict[str, list[np.ndarray]] = {}
    for name, (layer, shape) in wanted.items():
        array = _turn(tensors[name], _map_before(layer, model))
        if array.shape != shape:
            raise WeightsError(
                f"{path}: {name!r} has the shape {tensors[name].shape}, which {architecture.title} does not have."
            )
        found.setdefault(layer.name, []).append(np.ascontiguousarray(array, np.float32))
    return found


def _turn(array: np.ndarray, flattened: tuple[int, ...] | None) -> np.ndarray:
    """Return a tensor of PyTorch with its axes in the order of Keras'.

    Args:
        flattened: [height, width, channels] of the map that a dense layer takes; PyTorch has channels first.
    """
    if array.ndim == 4:  # [out, in, height, width] -> [height, width, in, out]
        return array.transpose(2, 3, 1, 0)
    if array.ndim != 2:
        return array
    if flattened is None or array.shape[1] != math.prod(flattened):
        return array.T
    height, width, channels = flattened
    return array.reshape(-1, channels, height, width).transpose(2, 3, 1, 0).reshape(array.shape[1], -1)


def _map_before(layer: keras.layers.Layer, model: keras.Model) -> tuple[int, ...] | None:
    """Return the shape of the map whose flattened numbers a dense layer takes; None for other layers."""
    makers = {id(one.output): one for one in model.operations}
    before = makers.get(id(layer.input))
    while before is not None and type(before).__name__ == "Dropout":
        before = makers.get(id(before.input))
    return tuple(before.input.shape[1:]) if before is not None and type(before).__name__ == "Flatten" else None


def _refuse_others(architecture: Architecture, path: Path, wanted: set[str], there: set[str]) -> None:
    """Raise WeightsError if tensors are missing, or there are others."""
    missing, more = sorted(wanted - there), sorted(there - wanted)
    if missing or more:
        lacks = f"it lacks {len(missing)} of {len(wanted)} tensors, such as {missing[0]!r}" if missing else ""
        has = f"it has {len(more)} others, such as {more[0]!r}" if more else ""
        raise WeightsError(
            f"{path} does not hold weights of {architecture.title}: {' and '.join(filter(None, (lacks, has)))}."
        )


# ---- from Keras


def _take_keras(
    architecture: Architecture, path: Path, stored: StoredWeights, network: Network
) -> tuple[dict[str, list[np.ndarray]], int | None]:
    """Return the arrays by layer, and the number of classes, of Keras' layers.

    Raises:
        WeightsError: they are not the network's.
    """
    layers = backbone_layers(network.logits)
    arrays = stored.outer | stored.layers
    missing = [layer.name for layer in layers if _find(arrays, layer) is None]
    if len(missing) == len(layers) and stored.outer and architecture.name.startswith("keras:"):
        arrays = name_by_order(path, stored.outer, [layer.name for layer in layers])
    elif missing or (missing := _list_others(stored, layers)):
        what = "lacks" if missing[0] not in arrays else "also has"
        there = f"{', '.join([*stored.layers][:6])}, ..." if stored.layers else "none"
        raise WeightsError(
            f"{path} does not hold weights of {architecture.title} alone: it {what} {len(missing)} layers, such as "
            f"{', '.join(missing[:3])}. It has {there}"
        )
    found: dict[str, list[np.ndarray]] = {}
    for layer in layers:
        of_layer = _find(arrays, layer) or []
        shapes, expected = [array.shape for array in of_layer], [tuple(weight.shape) for weight in layer.weights]
        if shapes != expected:
            raise WeightsError(
                f"{path}: layer {layer.name!r} has weights of shape {shapes}, and {architecture.title} {expected}."
            )
        found[layer.name] = [np.ascontiguousarray(array, np.float32) for array in of_layer]
    heads = [of for name, of in stored.layers.items() if name not in found and of[0].ndim == 2]
    return found, heads[-1][0].shape[-1] if heads else None


def _list_others(stored: StoredWeights, layers: list[keras.layers.Layer]) -> list[str]:
    """Return the convolutions of a file that are none of the network's."""
    own = {one.name for layer in layers for one in (layer, *getattr(layer, "layers", ()))}
    return [name for name, of in stored.layers.items() if name not in own and any(array.ndim == 4 for array in of)]


def _find(arrays: Mapping[str, list[np.ndarray]], layer: keras.layers.Layer) -> list[np.ndarray] | None:
    """Return the arrays of a layer, or of the layers in it."""
    if layer.name in arrays:
        return arrays[layer.name]
    inner = [one for one in getattr(layer, "layers", ()) if one.weights]
    if inner and all(one.name in arrays for one in inner):
        return [array for one in inner for array in arrays[one.name]]
    return None


def _check_numbers(path: Path, found: Mapping[str, list[np.ndarray]]) -> None:
    """Raise WeightsError for numbers that no training leaves."""
    for name, arrays in found.items():
        if not all(np.isfinite(array).all() for array in arrays):
            raise WeightsError(f"{path}: layer {name!r} holds numbers that are not finite; the file is damaged.")
