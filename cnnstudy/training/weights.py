"""Weights of a network: fresh ones from a seed, source weights from a file, and proof that frozen ones stay.

A source file is one of

    .npz       `<layer>/<n>` -> array: what pretraining writes (read without pickle)
    .keras     a model saved by cnnstudy or Keras, whose layers have the network's names (read in safe mode)
    .h5        Keras' weights by layer name, as keras.applications publishes them
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cnnstudy.architectures import AUXILIARY, HEAD, Architecture, Network
from cnnstudy.errors import WeightsError
from cnnstudy.system.download import download
from cnnstudy.system.files import ChunkedWriter

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

FILE_TYPES = (".npz", ".keras", ".h5")


def initialise(network: Network, seed: int, source: Path | None = None, kept: Collection[str] = ()) -> None:
    """Fresh weights, drawn layer by layer from the seed and the layer's name; the backbone's from a file, if given.

    So a layer starts the same whatever else is in the network: dropout on or off, auxiliary heads or none. Statistics
    that layers keep of what they have seen, as BatchNormalization does, start afresh too.

    Args:
        kept: layers of the backbone that have these very weights already.

    Raises:
        WeightsError: another file type, not readable, a layer missing, or of another shape.
    """
    from cnnstudy.training.keras_internals import random_state

    backbone = {layer.name for layer in backbone_layers(network.logits)}
    loaded = backbone if source is not None else set(kept)
    if source is not None and not backbone <= set(kept):
        load_backbone(network, source)
    for layer in network.training.layers:
        if (state := random_state(layer)) is not None:
            state.assign([_seed_of(f"{seed}/{layer.name}"), 0])
        if layer.name not in loaded:
            _draw(layer, f"{seed}/{layer.name}")


def _seed_of(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) >> 1


def _draw(layer: keras.layers.Layer, origin: str) -> None:
    """Set all weights of a layer, trained or not, to fresh values by its own initialisers.

    Args:
        origin: text that all seeds are derived from.
    """
    import tensorflow as tf

    rebuilt: list[keras.Variable] = []
    for number, weight in enumerate(layer.weights):
        initializer = _initializer_of(layer, weight)
        if initializer is None:
            rebuilt = rebuilt or _rebuild(layer, _seed_of(origin)).weights
            assign(weight, rebuilt[number].value)
        elif type(initializer).__name__ == "Zeros":
            assign(weight, tf.raw_ops.ZerosLike(x=weight.value))  # tf.zeros takes ten times as long
        else:
            config = initializer.get_config()
            if "seed" in config:
                config["seed"] = _seed_of(f"{origin}/{number}" if number else origin)
            assign(weight, type(initializer).from_config(config)(weight.shape, dtype=weight.dtype))


def _initializer_of(layer: keras.layers.Layer, weight: keras.Variable) -> keras.Initializer | None:
    """Return the initialiser that the layer names for one of its own weights; None where it names none."""
    import keras

    if weight.path.split("/")[-2:] != [layer.name, weight.name]:  # it belongs to a layer inside the layer
        return None
    names = (weight.name, weight.name.removesuffix("_kernel"), *(("depthwise",) if weight.name == "kernel" else ()))
    found = (getattr(layer, f"{name}_initializer", None) for name in names)
    return next((one for one in found if isinstance(one, keras.Initializer)), None)


def _rebuild(layer: keras.layers.Layer, seed: int) -> keras.layers.Layer:
    """Return a fresh layer of the same configuration. Keras draws the seeds of its initialisers from `random`."""
    before = random.getstate()
    random.seed(seed)
    try:
        fresh = type(layer).from_config(layer.get_config())
        fresh.build_from_config(layer.get_build_config())
    finally:
        random.setstate(before)
    return fresh


def assign(variable: keras.Variable, value: tf.Tensor) -> None:
    """Set the variable to a value of its own shape and type.

    Keras' `assign` checks that, which takes a third of the time that a network of hundreds of variables needs to start.
    """
    import tensorflow as tf

    from cnnstudy.training.keras_internals import handle

    tf.raw_ops.AssignVariableOp(resource=handle(variable), value=value)


def backbone_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """The layers with weights that transfer carries over: all but the classifier and the auxiliary heads."""
    return [layer for layer in model.layers if layer.weights and not layer.name.startswith((HEAD, AUXILIARY))]


def save_backbone(network: Network, path: Path) -> None:
    """Write the backbone's weights as .npz."""
    arrays: dict[str, Any] = {
        f"{layer.name}/{number}": np.asarray(weight)
        for layer in backbone_layers(network.logits)
        for number, weight in enumerate(layer.get_weights())
    }
    with ChunkedWriter(path) as file:
        np.savez(file, **arrays)


def load_backbone(network: Network, path: Path) -> None:
    """Lay the backbone's weights from a file into the network.

    Raises:
        WeightsError: another file type, not readable, a layer missing, or of another shape.
    """
    arrays = _read(path)
    for layer in backbone_layers(network.logits):
        if layer.name not in arrays:
            raise WeightsError(
                f"{path} has no layer {layer.name!r} of {network.architecture.title}; it has "
                f"{', '.join(sorted(arrays)[:8]) or 'none'}{', ...' if len(arrays) > 8 else ''}."
            )
        given = [array.shape for array in arrays[layer.name]]
        wanted = [tuple(weight.shape) for weight in layer.weights]
        if given != wanted:
            raise WeightsError(f"{path}: layer {layer.name!r} has weights of shape {given}, not {wanted}.")
        layer.set_weights(arrays[layer.name])


def _read(path: Path) -> dict[str, list[np.ndarray]]:
    """Layer name -> its arrays, from any of the file types."""
    readers = {".npz": _read_npz, ".keras": _read_keras, ".h5": _read_h5}
    if path.suffix not in readers or path.name.endswith(".weights.h5"):
        raise WeightsError(
            f"{path}: source weights come as {', '.join(FILE_TYPES)} with layers by name"
            + ("; a .weights.h5 names no layers, save the whole model as .keras." if path.suffix == ".h5" else ".")
        )
    try:
        return readers[path.suffix](path)
    except WeightsError:
        raise
    except Exception as error:  # three libraries, each with errors of its own for a broken file
        raise WeightsError(f"can't read source weights from {path}: {error}") from error


def _read_npz(path: Path) -> dict[str, list[np.ndarray]]:
    arrays: dict[str, list[np.ndarray]] = {}
    with np.load(path, allow_pickle=False) as file:
        for key in sorted(file.files, key=lambda key: (key.rpartition("/")[0], int(key.rpartition("/")[2]))):
            arrays.setdefault(key.rpartition("/")[0], []).append(file[key])
    return arrays


def _read_keras(path: Path) -> dict[str, list[np.ndarray]]:
    import keras

    model = keras.saving.load_model(path, compile=False, safe_mode=True)
    return {layer.name: layer.get_weights() for layer in model.layers if layer.weights}


def _read_h5(path: Path) -> dict[str, list[np.ndarray]]:
    import h5py

    with h5py.File(path) as file:
        group = file.get("model_weights", file)
        if "layer_names" not in group.attrs:
            raise WeightsError(f"{path} names no layers; save the whole model as .keras.")
        names = [_text(name) for name in group.attrs["layer_names"]]
        return {
            name: [np.asarray(group[name][_text(weight)]) for weight in group[name].attrs["weight_names"]]
            for name in names
        }


def _text(name: bytes | str) -> str:
    return name.decode() if isinstance(name, bytes) else name


def imagenet_file(architecture: Architecture) -> Path:
    """Keras' file of ImageNet weights, downloaded where it is not in Keras' cache yet.

    Raises:
        WeightsError: there are none for this network, or no network to get them; says what to put where.
    """
    weights = architecture.imagenet
    if weights is None:
        raise WeightsError(f"there are no imagenet weights for {architecture.name}; use pretrain or file.")
    return download(
        weights.url,
        weights.file_name,
        weights.file_hash,
        WeightsError,
        otherwise=f"give its path as `weights: {{{architecture.name}: {{source: imagenet, file: PATH}}}}`.",
        subfolder="models",
    )


def layer_digests(layers: Iterable[keras.layers.Layer]) -> dict[str, str]:
    """Of each layer by its name: over every byte of its weights."""
    found = {}
    for layer in layers:
        total = hashlib.sha256()
        for weight in layer.get_weights():
            total.update(f"{layer.name}{weight.shape}{weight.dtype}".encode())
            total.update(np.ascontiguousarray(weight).data)
        found[layer.name] = total.hexdigest()
    return found


def combined_digest(of_layers: Mapping[str, str]) -> str:
    """One for all of them, in their order."""
    return hashlib.sha256("".join(of_layers.values()).encode()).hexdigest()
