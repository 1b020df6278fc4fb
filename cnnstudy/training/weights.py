"""Initialise a network's weights from a seed, load and save source weights, and compute digests of layers.

A source file is one of

    .npz       arrays by `<layer>/<n>`, as pretraining writes them (read without pickle)
    .keras     a model saved by cnnstudy or Keras, whose layers have the network's names (read in safe mode)
    .h5        Keras weights by layer name, as keras.applications publishes them
"""

from __future__ import annotations

import functools
import hashlib
import random
import zipfile
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cnnstudy.architectures import AUXILIARY, HEAD, IMAGENET_DEVIATIONS, IMAGENET_MEANS, Architecture, Network
from cnnstudy.errors import WeightsError
from cnnstudy.system.download import download
from cnnstudy.system.files import ChunkedWriter
from cnnstudy.training.weight_files import group_by_layer

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

#: EfficientNet's Normalization as published: deviations stand where Keras has variances.
_NORMALIZATION = (IMAGENET_MEANS, IMAGENET_DEVIATIONS)
FILE_TYPES = (".npz", ".keras", ".h5")


def initialise(network: Network, seed: int, source: Path | None = None, kept: Collection[str] = ()) -> None:
    """Draw initial weights from the seed and each layer's name; load the backbone's from a file if one is given.

    A layer therefore starts the same whatever else is in the network: dropout or none, auxiliary heads or none. Moving
    statistics, such as BatchNormalization's, are reset as well.

    Args:
        source: a file of backbone weights.
        kept: names of backbone layers that have these very weights already.

    Raises:
        WeightsError: the source has an unknown file type or can't be read, or a layer is missing or of another shape.
    """
    from cnnstudy.training.keras_internals import random_state

    backbone = {layer.name for layer in backbone_layers(network.logits)}
    loaded = backbone if source is not None else set(kept)
    if source is not None and not backbone <= set(kept):
        load_backbone(network, source)
    for layer in network.training.layers:
        if (state := random_state(layer)) is not None:
            state.assign([_derive_seed(f"{seed}/{layer.name}"), 0])
        if layer.name not in loaded:
            _draw_weights(layer, f"{seed}/{layer.name}")


def _derive_seed(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) >> 1


def _draw_weights(layer: keras.layers.Layer, origin: str) -> None:
    """Set all weights of a layer, trainable or not, to fresh values from its own initialisers.

    Args:
        origin: text that all seeds are derived from.
    """
    import tensorflow as tf

    rebuilt: list[keras.Variable] = []
    for number, weight in enumerate(layer.weights):
        initializer = _find_initializer(layer, weight)
        if initializer is None:
            rebuilt = rebuilt or _rebuild(layer, _derive_seed(origin)).weights
            assign(weight, rebuilt[number].value)
        elif type(initializer).__name__ == "Zeros":
            assign(weight, tf.raw_ops.ZerosLike(x=weight.value))  # tf.zeros takes ten times as long
        else:
            config = initializer.get_config()
            if "seed" in config:
                config["seed"] = _derive_seed(f"{origin}/{number}" if number else origin)
            assign(weight, type(initializer).from_config(config)(weight.shape, dtype=weight.dtype))


def _find_initializer(layer: keras.layers.Layer, weight: keras.Variable) -> keras.Initializer | None:
    """Return the initialiser that the layer declares for one of its own weights; None if it declares none."""
    import keras

    if weight.path.split("/")[-2:] != [layer.name, weight.name]:  # it belongs to a nested layer
        return None
    names = (weight.name, weight.name.removesuffix("_kernel"), *(("depthwise",) if weight.name == "kernel" else ()))
    found = (getattr(layer, f"{name}_initializer", None) for name in names)
    return next((one for one in found if isinstance(one, keras.Initializer)), None)


def _rebuild(layer: keras.layers.Layer, seed: int) -> keras.layers.Layer:
    """Return a fresh layer of the same configuration. Keras draws its initialisers' seeds from `random`."""
    before = random.getstate()
    random.seed(seed)
    try:
        fresh = type(layer).from_config(layer.get_config())
        fresh.build_from_config(layer.get_build_config())
    finally:
        random.setstate(before)
    return fresh


def assign(variable: keras.Variable, value: tf.Tensor) -> None:
    """Set the variable to a value, which must have its shape and type.

    Keras' `assign` checks that, which takes a third of the start time of a network of hundreds of variables.
    """
    import tensorflow as tf

    from cnnstudy.training.keras_internals import handle

    tf.raw_ops.AssignVariableOp(resource=handle(variable), value=value)


def backbone_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """Return the layers whose weights are transferred: all with weights but the classifier and auxiliary heads."""
    return [layer for layer in model.layers if layer.weights and not layer.name.startswith((HEAD, AUXILIARY))]


def save_backbone(network: Network, path: Path) -> None:
    """Write the backbone's weights to an .npz file."""
    arrays: dict[str, Any] = {
        f"{layer.name}/{number}": np.asarray(weight)
        for layer in backbone_layers(network.logits)
        for number, weight in enumerate(layer.get_weights())
    }
    with ChunkedWriter(path) as file:
        np.savez(file, **arrays)


def load_backbone(network: Network, path: Path) -> None:
    """Set the backbone's weights from a file.

    Raises:
        WeightsError: the file has an unknown type or can't be read, or a layer is missing or of another shape.
    """
    layers = backbone_layers(network.logits)
    arrays = _read(path, network)
    if network.architecture.name.startswith("keras:") and not any(layer.name in arrays for layer in layers):
        names = [name for name in network.layer_names if not name.startswith((HEAD, AUXILIARY))]
        arrays = name_by_order(path, arrays, names)
    for layer in layers:
        if layer.name not in arrays:
            raise WeightsError(
                f"{path} has no layer {layer.name!r} of {network.architecture.title}; it has "
                f"{', '.join(sorted(arrays)[:8]) or 'none'}{', ...' if len(arrays) > 8 else ''}."
            )
        shapes = [array.shape for array in arrays[layer.name]]
        expected = [tuple(weight.shape) for weight in layer.weights]
        if shapes != expected:
            raise WeightsError(f"{path}: layer {layer.name!r} has weights of shape {shapes}, not {expected}.")
        layer.set_weights(arrays[layer.name])


def name_by_order(
    path: Path, arrays: Mapping[str, list[np.ndarray]], names: Sequence[str]
) -> dict[str, list[np.ndarray]]:
    """Return the arrays of a file that Keras published by our names: it loads them in their order, not by name.

    Args:
        names: of the layers with weights below the head, in their order.

    Raises:
        WeightsError: the file has another number of layers, or scales images in another way than published weights.
    """
    found = []
    for name, of_layer in arrays.items():
        if not name.startswith("normalization"):
            found.append(of_layer)
        elif not all(np.allclose(one, known, rtol=1e-3) for one, known in zip(of_layer, _NORMALIZATION, strict=False)):
            raise WeightsError(
                f"{path}: its layer {name!r} scales images in another way than the published weights do."
            )
    if len(found) != len(names):
        raise WeightsError(
            f"{path} has {len(found)} layers with weights, and the network below its head {len(names)}; give the file "
            "of the same network without its top."
        )
    return dict(zip(names, found, strict=True))


def _read(path: Path, network: Network) -> dict[str, list[np.ndarray]]:
    """Read arrays for a network by layer name from a file of any of FILE_TYPES."""
    readers: dict[str, Callable[[Path], dict[str, list[np.ndarray]]]] = {
        ".npz": _read_npz,
        ".keras": functools.partial(_read_keras, network),
        ".h5": _read_h5,
    }
    if path.suffix not in readers or path.name.endswith(".weights.h5"):
        raise WeightsError(
            f"{path}: source weights must be a file of type {', '.join(FILE_TYPES)} with layers by name"
            + ("; a .weights.h5 names no layers: save the whole model as .keras." if path.suffix == ".h5" else ".")
        )
    import h5py  # slow

    if path.is_file() and not (h5py.is_hdf5(path) if path.suffix == ".h5" else zipfile.is_zipfile(path)):
        raise WeightsError(
            f"can't read source weights from {path}: it is cut off, or no {path.suffix} file; copy it again."
        )
    try:
        return readers[path.suffix](path)
    except WeightsError:
        raise
    except Exception as error:  # three libraries, each with its own errors for a broken file
        raise WeightsError(f"can't read source weights from {path}: {error}") from error


def _read_npz(path: Path) -> dict[str, list[np.ndarray]]:
    with np.load(path, allow_pickle=False) as file:
        return group_by_layer(file)


def _read_keras(network: Network, path: Path) -> dict[str, list[np.ndarray]]:
    import keras

    model = keras.saving.load_model(path, compile=False, safe_mode=True)
    layers = {layer.name: layer for layer in model.layers}
    if network.architecture.name_layers and not any(name.startswith(HEAD) for name in layers):  # none that we saved
        layers = network.architecture.name_layers(model, network.logits.input_shape[1])
    return {name: layer.get_weights() for name, layer in layers.items() if getattr(layer, "weights", ())}


def _read_h5(path: Path) -> dict[str, list[np.ndarray]]:
    import h5py

    with h5py.File(path) as file:
        group = file.get("model_weights", file)
        if "layer_names" not in group.attrs:
            raise WeightsError(f"{path} names no layers: save the whole model as .keras.")
        names = [_decode(name) for name in group.attrs["layer_names"]]
        read = {
            name: [np.asarray(group[name][_decode(weight)]) for weight in group[name].attrs["weight_names"]]
            for name in names
        }
        return {name: arrays for name, arrays in read.items() if arrays}


def _decode(name: bytes | str) -> str:
    return name.decode() if isinstance(name, bytes) else name


def imagenet_file(architecture: Architecture) -> Path:
    """Return Keras' file of ImageNet weights, downloading it if it is not in Keras' cache yet.

    Raises:
        WeightsError: there are none for this architecture, or the download failed; says which file to put where.
    """
    weights = architecture.imagenet
    if weights is None:
        raise WeightsError(f"there are no imagenet weights for {architecture.name}; use pretrain or file.")
    return download(
        weights.url,
        weights.file_name,
        weights.file_hash,
        WeightsError,
        otherwise=(
            f"give its path as `weights: {{{architecture.name}: {{source: imagenet, file: PATH}}}}`. "
            "Weights can also be trained on other images: `source: pretrain`."
        ),
        subfolder="models",
    )


def layer_digests(layers: Iterable[keras.layers.Layer]) -> dict[str, str]:
    """Return a digest of all weights of each layer, by the layer's name."""
    digests = {}
    for layer in layers:
        total = hashlib.sha256()
        for weight in layer.get_weights():
            total.update(f"{layer.name}{weight.shape}{weight.dtype}".encode())
            total.update(np.ascontiguousarray(weight).data)
        digests[layer.name] = total.hexdigest()
    return digests


def combined_digest(of_layers: Mapping[str, str]) -> str:
    """Return one digest of all layers, in their order."""
    return hashlib.sha256("".join(of_layers.values()).encode()).hexdigest()
