"""Fashion-MNIST, 70,000 grey images of 28 x 28 pixels in ten classes of 7,000 each.

All 70,000 are pooled: cnnstudy makes its own split, the official test images are not kept apart.
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
from cnnstudy.data.image_tree import ExistingFolder, require_distinct, require_known, select_classes
from cnnstudy.errors import DataError
from cnnstudy.system.download import download

if TYPE_CHECKING:
    import numpy as np

URL = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/"
#: The folder of keras.datasets.fashion_mnist, so that neither downloads what the other has.
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
    """`path`: a folder with the four files, as .gz or unpacked; without, they are downloaded (30 MB).

    `classes`: the classes to use; the labels follow their order.
    """

    path: ExistingFolder | None = None
    classes: Annotated[
        tuple[str, ...], Field(min_length=2), AfterValidator(require_distinct), AfterValidator(require_known(CLASSES))
    ] = CLASSES


def load(options: Options) -> ImageSource:
    """The images of both parts, as 28 x 28 grey.

    Raises:
        DataError: they can't be downloaded or read, or are no Fashion-MNIST.
    """
    files = {name: _in_folder(options.path, name) if options.path else _downloaded(name) for name in MD5}
    return select_classes(CLASSES, options.classes, (image for part in COUNTS for image in _images(part, files)))


def _in_folder(folder: Path, name: str) -> Path:
    for file in (folder / f"{name}.gz", folder / name):
        if file.is_file():
            return file
    raise DataError(f"{folder} has neither {name}.gz nor {name}; it must have four files: {', '.join(MD5)}.")


def _downloaded(name: str) -> Path:
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
            f"{file} has the label {max(labels)}, and labels are 0 to {len(CLASSES) - 1}; it is damaged or no "
            "Fashion-MNIST, get it again."
        )
    for index, label in enumerate(labels):
        yield f"{part}/{index:05d}", label, pixels[index]


def _read_idx(file: Path, shape: tuple[int, ...]) -> np.ndarray:
    """An IDX file: two zero bytes, 8 for bytes, the number of dimensions, each of them in 4 bytes, then the bytes."""
    import numpy as np

    header = bytes([0, 0, 8, len(shape)]) + np.array(shape, ">u4").tobytes()
    expected = len(header) + int(np.prod(shape))
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
            content = stream.read(expected + 1)  # no more, whatever is in there
    except (OSError, EOFError, zlib.error) as reason:
        raise DataError(f"can't read {file}: {reason}; it may be damaged or cut off, get it again.") from reason
    if content[: len(header)] != header:
        raise DataError(
            f"{file} starts with the bytes {content[: len(header)].hex(' ')} and must start with {header.hex(' ')} "
            f"(IDX, {' x '.join(map(str, shape))} bytes); it is damaged or another file, get it again."
        )
    if len(content) != expected:
        found = f"more than {expected:,}" if len(content) > expected else f"{len(content):,}"
        raise DataError(f"{file} has {found} bytes and must have {expected:,}; it is damaged, get it again.")
    return np.frombuffer(content, np.uint8, offset=len(header)).reshape(shape)
