"""Write files as PyTorch does, without PyTorch; and pickles that it would never write."""

from __future__ import annotations

import io
import pickle
import sys
import types
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cnnstudy.architectures import find


class _Stored:
    """A tensor in a pickle: its function, and a storage that the pickle names."""

    def __init__(self, key: str, shape: tuple[int, ...], stride: tuple[int, ...], count: int, offset: int = 0) -> None:
        self.key, self.count = key, count
        self.arguments = (offset, shape, stride, False, OrderedDict())

    def __reduce__(self) -> Any:
        return sys.modules["torch._utils"]._rebuild_tensor_v2, (_Storage(self.key, self.count), *self.arguments)


class _Storage:
    def __init__(self, key: str, count: int) -> None:
        self.key, self.count = key, count


class _Pickler(pickle.Pickler):
    def persistent_id(self, thing: Any) -> Any:
        if isinstance(thing, _Storage):
            return "storage", sys.modules["torch"].FloatStorage, thing.key, "cpu", thing.count
        return None


def _name_like_torch() -> dict[str, types.ModuleType]:
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    torch.FloatStorage = type("FloatStorage", (), {"__module__": "torch"})  # type: ignore[attr-defined]

    def rebuild() -> None: ...

    rebuild.__module__, rebuild.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = rebuild  # type: ignore[attr-defined]
    return {"torch": torch, "torch._utils": utils}


def write_pickle(
    path: Path, content: Any, storages: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED
) -> Path:
    """Write a zip with that pickle and these storages, as PyTorch does."""
    written = io.BytesIO()
    with pytest.MonkeyPatch.context() as patch:
        for name, module in _name_like_torch().items():
            patch.setitem(sys.modules, name, module)
        _Pickler(written, protocol=2).dump(content)
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", written.getvalue())
        archive.writestr("archive/byteorder", "little")
        for key, data in storages.items():
            archive.writestr(f"archive/data/{key}", data)
        archive.writestr("archive/version", "3\n")
    return path


def stored(key: str, shape: tuple[int, ...], stride: tuple[int, ...], count: int, offset: int = 0) -> Any:
    """Return a tensor of any claims for `write_pickle`."""
    return _Stored(key, shape, stride, count, offset)


def write_torch(path: Path, tensors: Mapping[str, np.ndarray]) -> Path:
    """Write a state dict of float32 tensors."""
    content, storages = OrderedDict(), {}
    for number, (name, array) in enumerate(tensors.items()):
        array = np.ascontiguousarray(array, np.float32)
        content[name] = _Stored(str(number), array.shape, tuple(step // 4 for step in array.strides), array.size)
        storages[str(number)] = array.tobytes()
    return write_pickle(path, content, storages)


def as_torchvision(name: str, layers: Mapping[str, list[np.ndarray]], classes: int = 7) -> dict[str, np.ndarray]:
    """Return the arrays of a network's layers by the names, and in the order of axes, of torchvision.

    With a classifier of so many classes, and an auxiliary head if the network has them: of other sizes than ours.
    """
    name_of = find(name).torchvision_name
    assert name_of is not None
    tensors = {}
    for layer, arrays in layers.items():
        parts = ("weight", "bias", "running_mean", "running_var")
        for part, array in zip(parts, arrays, strict=False):
            tensors[f"{name_of(layer)}.{part}"] = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array
        if len(arrays) == 4:
            tensors[f"{name_of(layer)}.num_batches_tracked"] = np.array(3.0)
    heads = ["head_logits", *(["auxiliary1_dense"] if find(name).has_auxiliary_heads else [])]
    for head in map(name_of, heads):
        tensors |= {f"{head}.weight": np.ones((classes, 4)), f"{head}.bias": np.ones(classes)}
    return tensors
