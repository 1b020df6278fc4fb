"""Read files of weights of other programs: their type is told by what is in them, and nothing in them is run.

A PyTorch file is a zip with a pickle, and pickles are programs. This one is not run, but read: of its operations and
the names in it only those are known that dictionaries of tensors need, the arrays come from the zip, and every size is
checked against the bytes that are there. Neither PyTorch nor Keras is needed to read a file.
"""

from __future__ import annotations

import io
import json
import math
import pickletools
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cnnstudy.errors import WeightsError, as_sentence, printable

#: How files begin.
_ZIP, _HDF5, _OLD_PICKLE = b"PK\x03\x04", b"\x89HDF\r\n\x1a\n", b"\x80\x02"
#: The largest pickle, and header of a safetensors file, that is read: the tensors are beside them.
_MAX_HEADER = 64 << 20
#: PyTorch's storages and safetensors' types -> numpy's; of BF16 the missing bits are zero.
_TORCH_TYPES = {
    f"{name}Storage": dtype
    for names, dtypes in (
        ("Float Half Double BFloat16", "<f4 <f2 <f8 bf16"),
        ("Long Int Short Char Byte Bool", "<i8 <i4 <i2 i1 u1 ?"),
    )
    for name, dtype in zip(names.split(), dtypes.split(), strict=True)
}
_SAFETENSORS_TYPES = {"F32": "<f4", "F16": "<f2", "F64": "<f8", "BF16": "bf16", "I64": "<i8", "BOOL": "?"}
_SAFETENSORS_TYPES |= {"I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1"}


#: Operations of a pickle that push their argument, and those that push something new.
_CONSTANTS = {
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES"),
}
_NEW: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
}
#: What a pickle of tensors may name; a type of numbers stands for itself, after _STORAGE.
_DICTIONARY, _STORAGE = "collections.OrderedDict", "storage of "
_TENSOR, _PARAMETER = "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter"


@dataclass(frozen=True)
class StoredWeights:
    """What a file of weights holds.

    Args:
        kind: what wrote it: "PyTorch", "safetensors", "Keras" or "cnnstudy".
        tensors: PyTorch's, by name; of a safetensors file too.
        layers: Keras' arrays by layer; those of a model in a model are among them.
        outer: the same by layers that are in no other, in the order of the network, if the file has them so.
    """

    kind: str
    tensors: dict[str, np.ndarray]
    layers: dict[str, list[np.ndarray]]
    outer: dict[str, list[np.ndarray]] = field(default_factory=dict)


def read_weights(path: Path) -> StoredWeights:
    """Read a file of weights of any type.

    Raises:
        WeightsError: it can't be read, is cut off, or is of no type that is known; nothing in it was run.
    """
    try:
        with path.open("rb") as file:
            start = file.read(2048)
        return _read(path, start)
    except WeightsError:
        raise
    except Exception as error:  # of zip, pickle, HDF5: each has its own errors for a broken file
        reason = error.strerror if isinstance(error, OSError) and error.strerror else printable(str(error))
        what = " It is cut off, damaged, or no file of weights." if path.is_file() else ""
        raise WeightsError(f"can't read {path}: {as_sentence(reason)}{what}") from error


def _read(path: Path, start: bytes) -> StoredWeights:
    if start.startswith(_ZIP):
        with zipfile.ZipFile(path) as archive:
            return _read_zip(path, archive)
    if any(start[place : place + len(_HDF5)] == _HDF5 for place in (0, 512, 1024)):
        return _read_hdf5(path)
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= _MAX_HEADER:
        return StoredWeights("safetensors", _read_safetensors(path), {})
    raise WeightsError(f"{path} is no file of weights: {_describe_start(start)}")


def _describe_start(start: bytes) -> str:
    if start.startswith(_OLD_PICKLE):
        return (
            "it is in the form that PyTorch wrote before version 1.6. PyTorch writes it anew: "
            "`torch.save(torch.load(OLD, weights_only=True), NEW)`."
        )
    if start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return "it is a web page. Download the file itself."
    if start.startswith(b"version https://git-lfs"):
        return "it only says where Git LFS has the file. Run `git lfs pull`."
    return (f"it begins with {start[:8]!r}. " if start else "it is empty. ") + (
        "Known are .pth, .safetensors, .keras, .h5, .weights.h5 and .npz, whatever they are named."
    )


def _read_zip(path: Path, archive: zipfile.ZipFile) -> StoredWeights:
    names = archive.namelist()
    if "model.weights.h5" in names:
        return _read_hdf5(io.BytesIO(archive.read("model.weights.h5")))
    if any(name.endswith(".npy") for name in names):
        with np.load(path, allow_pickle=False) as arrays:
            return StoredWeights("cnnstudy", {}, group_by_layer(arrays))
    pickles = [name for name in names if name.endswith("data.pkl")]
    if any("/code/" in f"/{name}" for name in names):
        raise WeightsError(f"{path} is a TorchScript program; save the model's weights, `model.state_dict()`, instead.")
    if len(pickles) != 1:
        raise WeightsError(f"{path} is a zip without weights: it holds {', '.join(map(printable, names[:4]))}.")
    return StoredWeights("PyTorch", _read_torch(path, archive, pickles[0]), {})


def group_by_layer(arrays: Any) -> dict[str, list[np.ndarray]]:
    """Return arrays by layer, from those of an .npz, which are named `<layer>/<n>`; others are left out."""
    names = [name.rpartition("/") for name in arrays.files if "/" in name]
    layers: dict[str, list[np.ndarray]] = {}
    for layer, _, number in sorted(names, key=lambda name: (name[0], int(name[2]))):
        layers.setdefault(layer, []).append(arrays[f"{layer}/{number}"])
    return layers


# ---- PyTorch


class _Tensors:
    """Reads a pickle of dictionaries of tensors, operation by operation, and refuses every other.

    Args:
        read_storage: returns the bytes of the storage with that name.
        size: bytes that all tensors may take; several may share a storage.
    """

    def __init__(self, read_storage: Callable[[str], bytes], size: int) -> None:
        self._read_storage = read_storage
        self._left = size
        self._storages: dict[str, np.ndarray] = {}
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def read(self, pickled: bytes) -> Any:
        """Return what the pickle holds.

        Raises:
            WeightsError: it names something else than tensors.
            ValueError, LookupError, TypeError: it is damaged.
        """
        for operation, argument, _ in pickletools.genops(pickled):  # which only tells them apart
            self._do(operation.name, argument)
        return self._stack[-1]

    def _do(self, name: str, argument: Any) -> None:
        stack, memo = self._stack, self._memo
        if name in _CONSTANTS:
            stack.append(argument)
        elif name in _NEW:
            stack.append(_NEW[name]())
        elif name == "MARK":
            self._marks.append(len(stack))
        elif name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if name == "MEMOIZE" else argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            named = argument.split(" ") if name == "GLOBAL" else self._pop(2)
            stack.append(_find_allowed(*named))
        elif name == "BINPERSID":
            stack.append(self._open_storage(*self._pop(1)[0]))
        elif name in ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"):
            stack.append(tuple(self._pop(None if name == "TUPLE" else int(name[-1]))))
        elif name in ("APPEND", "APPENDS", "SETITEM", "SETITEMS"):
            given = self._pop({"APPEND": 1, "SETITEM": 2}.get(name))
            if name.startswith("APPEND"):
                stack[-1] += given
            else:
                stack[-1].update(zip(given[::2], given[1::2], strict=True))
        elif name == "REDUCE":
            function, arguments = self._pop(2)
            stack.append(self._call(function, arguments))
        elif name == "BUILD":  # PyTorch gives dictionaries an attribute, which is of no use here
            self._pop(1)
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise ValueError(f"it holds the operation {name}, which no tensors need")

    def _pop(self, count: int | None) -> list[Any]:
        """Return the last entries of the stack, without them from then on; None: those since the last mark."""
        start = self._marks.pop() if count is None else len(self._stack) - count
        if start < 0:
            raise ValueError("it takes more than there is")
        popped = self._stack[start:]
        del self._stack[start:]
        return popped

    def _open_storage(self, kind: str, dtype: str, key: str, place: str, count: int) -> np.ndarray:
        if kind != "storage" or not dtype.startswith(_STORAGE):
            raise ValueError("it holds a storage of an unknown kind")
        if key not in self._storages:
            self._storages[key] = _as_array(self._read_storage(key), dtype.removeprefix(_STORAGE), count)
        return self._storages[key]

    def _call(self, function: str, arguments: tuple[Any, ...]) -> Any:
        if function == _DICTIONARY:
            return dict(*arguments)
        return self._rebuild_tensor(*arguments) if function == _TENSOR else arguments[0]  # a parameter's tensor

    def _rebuild_tensor(
        self, storage: np.ndarray, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any
    ) -> np.ndarray:
        """Return a tensor from its storage, as PyTorch's function of that name."""
        count = math.prod(size)
        whole = all(isinstance(number, int) and number >= 0 for number in (offset, *size, *stride))
        last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
        if not whole or (count and (last >= storage.size or count > storage.size)):
            raise ValueError(f"a tensor of shape {size} reaches beyond its {storage.size} numbers")
        self._left -= count * storage.itemsize
        if self._left < 0:
            raise ValueError("its tensors take more memory than the file")
        if not count:
            return np.zeros(size, storage.dtype)
        steps = tuple(step * storage.itemsize for step in stride)
        return np.lib.stride_tricks.as_strided(storage[offset:], size, steps).copy()


def _find_allowed(module: str, name: str) -> str:
    """Return what stands for one of the few things that a pickle of tensors names.

    Raises:
        WeightsError: it names another.
    """
    if module == "torch" and name in _TORCH_TYPES:
        return _STORAGE + _TORCH_TYPES[name]
    if f"{module}.{name}" not in (_DICTIONARY, _TENSOR, _PARAMETER):
        raise WeightsError(
            f"it holds {printable(f'{module}.{name}')}, which is more than tensors and could run anything; in a place "
            "where you trust the file, save the weights alone: `torch.save(model.state_dict(), NEW)`"
        )
    return f"{module}.{name}"


def _as_array(data: bytes, dtype: str, count: int) -> np.ndarray:
    """Return `count` numbers.

    Raises:
        ValueError: the bytes are not so many.
    """
    size = 2 if dtype == "bf16" else np.dtype(dtype).itemsize
    if count < 0 or len(data) < count * size:
        raise ValueError(f"{count} numbers are announced, and there are {len(data)} bytes")
    if dtype == "bf16":
        return (np.frombuffer(data, "<u2", count).astype("<u4") << 16).view("<f4")
    return np.frombuffer(data, dtype, count)


def _read_torch(path: Path, archive: zipfile.ZipFile, name: str) -> dict[str, np.ndarray]:
    folder = name.removesuffix("data.pkl")
    if f"{folder}byteorder" in archive.namelist() and archive.read(f"{folder}byteorder") != b"little":
        raise WeightsError(f"{path} was written on a big-endian machine, which is not supported.")
    if archive.getinfo(name).file_size > _MAX_HEADER:
        raise WeightsError(f"{path}: its pickle of {archive.getinfo(name).file_size} bytes is too large for weights.")

    def read_storage(key: str) -> bytes:
        member = archive.getinfo(f"{folder}data/{key}")
        if member.compress_type != zipfile.ZIP_STORED:  # PyTorch compresses nothing, and bombs do
            raise ValueError(f"{member.filename} is compressed")
        return archive.read(member)

    try:
        content = _Tensors(read_storage, 4 * path.stat().st_size).read(archive.read(name))
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}.") from None
    for key in ("state_dict", "model", "model_state_dict"):  # of a checkpoint of training
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict):
        raise WeightsError(f"{path} holds no weights by name, but {type(content).__name__}.")
    tensors = {str(key): value for key, value in content.items() if isinstance(value, np.ndarray)}
    return {key.removeprefix("module."): value for key, value in tensors.items()}  # of DataParallel


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        data = file.read()
    tensors = {}
    for name, entry in header.items():
        if name != "__metadata__":
            (begin, end), shape, dtype = entry["data_offsets"], entry["shape"], entry["dtype"]
            if not 0 <= begin <= end <= len(data) or dtype not in _SAFETENSORS_TYPES:
                raise ValueError(f"{name!r} is of an unknown type, or beyond the end of the file")
            tensors[name] = _as_array(data[begin:end], _SAFETENSORS_TYPES[dtype], math.prod(shape)).reshape(shape)
    return tensors


# ---- Keras


def _read_hdf5(file: Path | io.BytesIO) -> StoredWeights:
    """Read Keras' HDF5 file: of Keras 2 (`.h5`), or of Keras 3 (`.weights.h5`)."""
    import h5py

    with h5py.File(file) as opened:
        group = opened.get("model_weights", opened)
        if "layer_names" in group.attrs:
            return StoredWeights("Keras", {}, *_read_keras_2(group))
        layers = dict(_walk_keras_3(opened))
    if not layers:
        raise WeightsError(f"{file if isinstance(file, Path) else 'the file'} names no layers: save the whole model.")
    return StoredWeights("Keras", {}, layers)


def _read_keras_2(group: Any) -> tuple[dict[str, list[np.ndarray]], dict[str, list[np.ndarray]]]:
    """Return `layers` and `outer`; the name of a weight tells its own layer."""
    layers: dict[str, list[np.ndarray]] = {}
    outer: dict[str, list[np.ndarray]] = {}
    for layer in map(_decode, group.attrs["layer_names"]):
        for name in map(_decode, group[layer].attrs["weight_names"]):
            array, parts = np.asarray(group[layer][name]), name.split("/")
            layers.setdefault(parts[-2] if len(parts) > 1 else layer, []).append(array)
            outer.setdefault(layer, []).append(array)
    return layers, outer


def _walk_keras_3(group: Any) -> Iterator[tuple[str, list[np.ndarray]]]:
    """Yield the layers of a group and of those in it; their own names are attributes since Keras 3.9."""
    variables = group.get("vars")
    if variables is not None and len(variables) and "name" in variables.attrs:
        yield _decode(variables.attrs["name"]), [np.asarray(variables[key]) for key in sorted(variables, key=int)]
    for key in group:
        if key not in ("vars", "optimizer") and hasattr(group[key], "keys"):
            yield from _walk_keras_3(group[key])


def _decode(name: bytes | str) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)
