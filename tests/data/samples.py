"""Small files in the format of each data set."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cnnstudy.data.datasets import cifar10, fashion_mnist, flowers


def picture(seed: int, file_format: str = "JPEG", size: tuple[int, int] = (40, 30)) -> bytes:
    """An image file of one colour with some noise."""
    numbers = np.random.default_rng(seed)
    pixels = numbers.integers(0, 200, 3) + numbers.integers(0, 50, (size[1], size[0], 3))
    stream = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(stream, file_format)
    return stream.getvalue()


def tree(*names: str) -> dict[str, bytes]:
    """Content for each name: an image where it ends like one, else text."""
    return {
        name: picture(number, "PNG") if name.lower().endswith(("png", "jpg")) else b"text"
        for number, name in enumerate(names)
    }


def write_folder(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def write_tar(path: Path, files: dict[str, bytes], extra: Iterable[tarfile.TarInfo] = ()) -> Path:
    with tarfile.open(path, "w" if path.suffix == ".tar" else "w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for info in extra:
            archive.addfile(info)
    return path


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def flower_files() -> dict[str, bytes]:
    names = [f"flower_photos/{name}/{number}_{name}.jpg" for name in flowers.CLASSES for number in range(7)]
    return {name: picture(number) for number, name in enumerate(names)} | {"flower_photos/LICENSE.txt": b"CC-BY"}


def cifar_files(monkeypatch: pytest.MonkeyPatch, per_batch: int = 20) -> dict[str, bytes]:
    """Six batches of a few images; the labels run 0 to 9 and again."""
    monkeypatch.setattr(cifar10, "IMAGES_PER_BATCH", per_batch)
    numbers = np.random.default_rng(0)
    files = {f"{cifar10.FOLDER}/batches.meta.txt": b"airplane\n"}
    for name in cifar10.BATCHES:
        records = numbers.integers(0, 256, (per_batch, cifar10.RECORD_BYTES), dtype=np.uint8)
        records[:, 0] = np.arange(per_batch) % 10
        files[f"{cifar10.FOLDER}/{name}.bin"] = records.tobytes()
    return files


def fashion_files(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """The four files, unpacked, of a few images."""
    monkeypatch.setattr(fashion_mnist, "COUNTS", {"t10k": 20, "train": 50})
    files = {}
    for part, count in fashion_mnist.COUNTS.items():
        pixels = np.random.default_rng(count).integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        files[f"{part}-images-idx3-ubyte"] = np.array([2051, count, 28, 28], ">u4").tobytes() + pixels.tobytes()
        files[f"{part}-labels-idx1-ubyte"] = np.array([2049, count], ">u4").tobytes() + labels.tobytes()
    return files


def _digits(root: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    return {"images_per_class": 10}


def _folder(root: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    names = [f"{name}/{name}s{number % 2}/{number}.png" for name in ("pear", "apple", "quince") for number in range(8)]
    return {"path": write_folder(root / "fruit", tree(*names))}


def _table(root: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    names = [f"{number % 3}/{number}" for number in range(24)]
    write_folder(root / "table", {name: picture(number) for number, name in enumerate(names)})
    lines = [f"{name},kind {name[0]}\n" for name in names]
    (root / "table" / "labels.csv").write_text("file,species\n" + "".join(lines))
    return {"path": root / "table" / "labels.csv", "image": "file", "label": "species"}


def _flowers(root: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    return {"path": write_tar(root / "flower_photos.tgz", flower_files())}


def _cifar10(root: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    return {"path": write_tar(root / "cifar-10-binary.tar.gz", cifar_files(monkeypatch))}


def _fashion_mnist(root: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    packed = {f"{name}.gz": gzip.compress(content) for name, content in fashion_files(monkeypatch).items()}
    return {"path": write_folder(root / "fashion", packed)}


#: By data set: writes files of its format under a folder, and gives the options that read them.
MAKERS: dict[str, Callable[[Path, pytest.MonkeyPatch], dict[str, Any]]] = {
    "digits": _digits,
    "folder": _folder,
    "table": _table,
    "flowers": _flowers,
    "cifar10": _cifar10,
    "fashion_mnist": _fashion_mnist,
}
