"""CIFAR-10: 60,000 colour images of 32 x 32 pixels in ten classes of 6,000 each; the binary version.

All 60,000 images are pooled: cnnstudy makes its own split and does not keep the official test batch separate.
Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, technical report (2009).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, Field

from cnnstudy.data.archives import archive_members
from cnnstudy.data.datasets import DataOptions, ImageSource
from cnnstudy.data.image_tree import ExistingPath, require_distinct_classes, require_known_classes, select_classes
from cnnstudy.errors import DataError
from cnnstudy.system.download import download

if TYPE_CHECKING:
    import numpy as np

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
FOLDER = "cifar-10-batches-bin"
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
BATCHES = ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch")
IMAGES_PER_BATCH = 10_000
#: A label, then the red, green and blue planes.
RECORD_BYTES = 1 + 3 * 32 * 32


class Options(DataOptions):
    """The options of CIFAR-10.

    `path`: the archive, the folder it unpacks to, or that folder's parent; without it, the archive is downloaded
    (170 MB). `classes`: the classes to use; labels are numbered in this order.
    """

    path: ExistingPath | None = None
    classes: Annotated[
        tuple[str, ...],
        Field(min_length=2),
        AfterValidator(require_distinct_classes),
        AfterValidator(require_known_classes(CLASSES)),
    ] = CLASSES


def load(options: Options) -> ImageSource:
    """Load the images of the six batches, as [32, 32, 3] uint8 RGB.

    Raises:
        DataError: the files can't be downloaded or read, or are not CIFAR-10.
    """
    path = options.path or download(
        URL,
        "cifar-10-binary.tar.gz",
        MD5,
        DataError,
        otherwise=f"give the archive or its folder {FOLDER} as `data: {{name: cifar10, path: PATH}}`.",
    )
    batches = _from_folder(path) if path.is_dir() else _from_archive(path)
    missing = [f"{name}.bin" for name in BATCHES if name not in batches]
    if missing:
        raise DataError(
            f"{path} lacks {', '.join(missing)}; it must be {URL.rpartition('/')[2]} (the binary version), the folder "
            f"{FOLDER} that it unpacks to, or that folder's parent."
        )
    return select_classes(
        CLASSES, options.classes, (image for name in BATCHES for image in _images(path, name, batches))
    )


def _from_folder(path: Path) -> dict[str, bytes]:
    folder = path / FOLDER if (path / FOLDER).is_dir() else path
    try:
        return {name: (folder / f"{name}.bin").read_bytes() for name in BATCHES if (folder / f"{name}.bin").exists()}
    except OSError as reason:
        raise DataError(f"can't read {reason.filename or folder}: {reason.strerror or reason}") from reason


def _from_archive(path: Path) -> dict[str, bytes]:
    wanted = {f"{name}.bin" for name in BATCHES}
    members = archive_members(path, lambda parts: parts[-1] in wanted)
    return {parts[-1].removesuffix(".bin"): content for parts, content in members if content is not None}


def _images(path: Path, name: str, batches: dict[str, bytes]) -> Iterator[tuple[str, int, np.ndarray]]:
    import numpy as np

    content, expected = batches[name], IMAGES_PER_BATCH * RECORD_BYTES
    if len(content) != expected:
        raise DataError(
            f"{name}.bin in {path} has {len(content):,} bytes and must have {expected:,}; it is damaged, download it "
            "again."
        )
    records = np.frombuffer(content, np.uint8).reshape(IMAGES_PER_BATCH, RECORD_BYTES)
    labels = records[:, 0].tolist()
    if max(labels) >= len(CLASSES):
        raise DataError(
            f"{name}.bin in {path} has the label {max(labels)}, but labels are 0 to {len(CLASSES) - 1}; it is damaged "
            "or not CIFAR-10; download it again."
        )
    pixels = np.ascontiguousarray(records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    for index, label in enumerate(labels):
        yield f"{name}/{index:05d}", label, pixels[index]
