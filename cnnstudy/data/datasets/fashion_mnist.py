"""Fashion-MNIST: 70,000 grey images of 28 x 28 pixels in ten classes of 7,000 each.

All 70,000 images are pooled: cnnstudy makes its own split and does not keep the official test images separate.
Source: H. Xiao, K. Rasul, R. Vollgraf, Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning
Algorithms, arXiv:1708.07747 (2017).
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, Field

from cnnstudy.data.datasets import DataOptions, ImageSource
from cnnstudy.data.image_tree import ExistingFolder, require_distinct_classes, require_known_classes, select_classes
from cnnstudy.errors import DataError
from cnnstudy.system.download import download

if TYPE_CHECKING:
    import numpy as np

URL = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/"
#: The folder that keras.datasets.fashion_mnist uses too, so that the files are downloaded once.
SUBFOLDER = "datasets/fashion-mnist"
MD5 = {
    "train-images-idx3-ubyte": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte": "25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images-idx3-ubyte": "bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels-idx1-ubyte": "bb300cfdad3c16e7a12a480ee83cd310",
}
COUNTS = {"t10k": 10_000, "train": 60_000}
CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


class Options(DataOptions):
    """The options of Fashion-MNIST.

    `path`: a folder with the four files, as .gz or unpacked; without it, they are downloaded (30 MB).
    `classes`: the classes to use; labels are numbered in this order.
    """

    path: ExistingFolder | None = None
    classes: Annotated[
        tuple[str, ...],
        Field(min_length=2),
        AfterValidator(require_distinct_classes),
        AfterValidator(require_known_classes(CLASSES)),
    ] = CLASSES


def load(options: Options) -> ImageSource:
    """Load the images of both parts, as [28, 28] uint8 grey.

    Raises:
        DataError: the files can't be downloaded or read, or are not Fashion-MNIST.
    """
    files = {name: _find_in_folder(options.path, name) if options.path else _download(name) for name in MD5}
    return select_classes(CLASSES, options.classes, (image for part in COUNTS for image in _images(part, files)))


def _find_in_folder(folder: Path, name: str) -> Path:
    for file in (folder / f"{name}.gz", folder / name):
        if file.is_file():
            return file
    raise DataError(f"{folder} has neither {name}.gz nor {name}; it must hold four files: {', '.join(MD5)}.")


def _download(name: str) -> Path:
    return download(
        f"{URL}{name}.gz",
        f"{name}.gz",
        MD5[name],
        DataError,
        otherwise="give the folder with the four files as `data: {name: fashion_mnist, path: FOLDER}`.",
        subfolder=SUBFOLDER,
    )


def _images(part: str, files: dict[str, Path]) -> Iterator[tuple[str, int, np.ndarray]]:
    pixels = _read_idx(files[f"{part}-images-idx3-ubyte"], (COUNTS[part], 28, 28))
    file = files[f"{part}-labels-idx1-ubyte"]
    labels = _read_idx(file, (COUNTS[part],)).tolist()
    if max(labels) >= len(CLASSES):
        raise DataError(
            f"{file} has the label {max(labels)}, but labels are 0 to {len(CLASSES) - 1}; it is damaged or not "
            "Fashion-MNIST; download it again."
        )
    for index, label in enumerate(labels):
        yield f"{part}/{index:05d}", label, pixels[index]


def _read_idx(file: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Read an IDX file: two zero bytes, 8 (for uint8), the number of dimensions, each size in 4 bytes, then the data.

    Raises:
        DataError: the file can't be read, or does not hold bytes of that shape.
    """
    import numpy as np

    header = bytes([0, 0, 8, len(shape)]) + np.array(shape, ">u4").tobytes()
    expected = len(header) + int(np.prod(shape))
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
            content = stream.read(expected + 1)  # no more, however much it expands to
    except (OSError, EOFError, zlib.error) as reason:
        raise DataError(f"can't read {file}: {reason}; it may be damaged or cut off; download it again.") from reason
    if content[: len(header)] != header:
        raise DataError(
            f"{file} starts with the bytes {content[: len(header)].hex(' ')} and must start with {header.hex(' ')} "
            f"(IDX, {' x '.join(map(str, shape))} bytes); it is damaged or another file; download it again."
        )
    if len(content) != expected:
        found = f"more than {expected:,}" if len(content) > expected else f"{len(content):,}"
        raise DataError(f"{file} has {found} bytes and must have {expected:,}; it is damaged; download it again.")
    return np.frombuffer(content, np.uint8, offset=len(header)).reshape(shape)
