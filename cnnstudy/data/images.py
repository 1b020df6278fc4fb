"""Images of a study: decoded once into the cache, split, and handed to training.

The subsets and the probe follow the ranking of splits.py: they are nested, a larger subset holds the smaller one.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from numpy.typing import DTypeLike

from cnnstudy.data import datasets
from cnnstudy.data.batches import count_used
from cnnstudy.data.datasets import DataOptions, ImageSource, SourceImage
from cnnstudy.data.decode import DECODER_VERSION
from cnnstudy.data.decoder_pool import Progress, decode_all
from cnnstudy.data.duplicates import duplicate_warnings, format_list, image_digests
from cnnstudy.data.splits import count_held_out, rank_by_hash, split_indices
from cnnstudy.errors import DataError
from cnnstudy.records import BadImage, PreparedImages, Split
from cnnstudy.system.cache import ABOUT, build_entries, content_address, entry_folder
from cnnstudy.system.files import NO_ROOM, allocate_memmap


class Pixels:
    """Images [n, size, size, 3] uint8 that stay in the cache's memory map, which all workers share, until they are
    asked for: `pixels[index]` is an array.

    Args:
        mapped: all images of the data set.
        places: [n]: of these ones.
    """

    def __init__(self, mapped: np.ndarray, places: np.ndarray) -> None:
        self._mapped, self._places = mapped, places
        self.shape = (len(places), *mapped.shape[1:])
        self.dtype = mapped.dtype

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int | slice | np.ndarray) -> np.ndarray:
        return np.asarray(self._mapped[self._places[index]])

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)


@dataclass(frozen=True)
class Images:
    """Images [n, size, size, 3] uint8 with their labels [n] int64, and their places in the data set [n] int64."""

    pixels: Pixels | np.ndarray
    labels: np.ndarray
    places: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class CachedImages:
    """A cache entry: all images [n, size, size, 3] uint8 as a memory map, keys, labels [n] int64, and which are usable.

    It holds the whole data set, held-out images among it: only a split says what may be looked at.
    """

    pixels: np.ndarray
    keys: tuple[str, ...]
    labels: np.ndarray
    usable: np.ndarray  # places


@dataclass(frozen=True)
class TrainingImages:
    """What training may see; the test split is not among it."""

    train: Images
    validation: Images
    probe: Images  # a fixed stratified subset of train, as large as validation (or all of train, if that is smaller)


def prepare_images(
    options: DataOptions, sizes: Sequence[int], split_seed: int, progress: Progress
) -> list[PreparedImages]:
    """Decode the data set at each size in pixels (once, whatever the number of sizes) into the cache.

    Raises:
        DataError: nothing there, an image that can't be decoded (where the file says refuse), or too few of a class.
    """
    progress(f"reading {options.name}", 0, 0)
    split = Split(options.validation, options.test, split_seed)
    source = _capped(datasets.find(options.name).load(options), options, split)
    digests = image_digests(source.images, progress)
    digest = _digest(source, digests)
    addresses = {content_address([digest, size, DECODER_VERSION, PIL.__version__]): size for size in sizes}
    build_entries(
        "images",
        list(addresses),
        lambda folders: _decode_into(
            source, digests, dict(sorted((addresses[a], folder) for a, folder in folders.items())), progress
        ),
    )
    folders = [entry_folder("images", address) for address in addresses]
    bad = [BadImage(key, reason) for key, reason in _read_index(folders[0])["bad"].items()]
    if bad and options.bad_images == "refuse":
        raise DataError(_refusal(options, bad, len(source.images)))
    unusable = {image.path for image in bad}
    usable = [place for place, image in enumerate(source.images) if image.key not in unusable]
    counts = _counted(source.classes, [source.images[place] for place in usable], split)
    warnings = duplicate_warnings(source, digests, usable, split)
    return [
        PreparedImages(
            name=options.name,
            folder=str(folder),
            digest=content_address([digest, split.to_json()]),
            size=size,
            classes=source.classes,
            skipped=tuple(bad),
            warnings=warnings,
            **counts,
        )
        for size, folder in zip(sizes, folders, strict=True)
    ]


def _refusal(options: DataOptions, bad: Sequence[BadImage], total: int) -> str:
    return (
        f"{len(bad)} of {total} images of {options.name} can't be used:{format_list(list(map(str, bad)))}\n"
        "Mend or remove them, or write `bad_images: skip` under `data` to train without them."
    )


def _capped(source: ImageSource, options: DataOptions, split: Split) -> ImageSource:
    if options.images_per_class is None:
        return source
    order = rank_by_hash([i.key for i in source.images], [i.label for i in source.images], f"cap-{split.seed}")
    kept = sorted(i for members in order for i in members[: options.images_per_class])
    return ImageSource(source.classes, tuple(source.images[i] for i in kept))


def _decode_into(source: ImageSource, digests: Sequence[bytes], folders: dict[int, Path], progress: Progress) -> None:
    """Fill a cache entry for each size; what can't be decoded stays black there and is named in its index."""
    stores = {
        size: _room(folder / "images.npy", (len(source.images), size, size, 3)) for size, folder in folders.items()
    }

    def store(index: int, size: int, pixels: np.ndarray) -> None:
        stores[size][index] = pixels

    bad = decode_all(source.images, list(folders), store, progress, digests)
    index = {
        "classes": source.classes,
        "keys": [image.key for image in source.images],
        "labels": [image.label for image in source.images],
        "bad": {image.path: image.reason for image in bad},
    }
    for size, folder in folders.items():
        stores[size].flush()
        (folder / "index.json").write_text(json.dumps(index), encoding="utf-8")
        classes = ", ".join(source.classes[:5]) + (", ..." if len(source.classes) > 5 else "")
        about = f"{len(source.images)} images of {size} pixels, {len(source.classes)} classes: {classes}"
        (folder / ABOUT).write_text(about, encoding="utf-8", errors="replace")


def _room(path: Path, shape: tuple[int, ...]) -> np.memmap:
    """A file for images, mapped into memory.

    Raises:
        DataError: there is not enough.
    """
    try:
        return allocate_memmap(path, shape, np.uint8)
    except OSError as reason:
        if reason.errno not in NO_ROOM:
            raise
        raise DataError(
            f"the decoded images take {math.prod(shape):,} bytes, for which {path.parent.parent} has no room "
            f"({reason.strerror}); make room, or set CNNSTUDY_CACHE to a folder that has it."
        ) from reason


def _read_index(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "index.json").read_text(encoding="utf-8"))


def image_keys(images: PreparedImages) -> list[str]:
    """The key of every image in the data set, by its place."""
    return list(_read_index(Path(images.folder))["keys"])


def _digest(source: ImageSource, digests: Sequence[bytes]) -> str:
    """Over the classes and, image by image, key, label and every byte of what the image is made from."""
    digest = hashlib.sha256(json.dumps(source.classes).encode())
    for image, of_image in zip(source.images, digests, strict=True):
        digest.update(f"\0{image.key}\0{image.label}\0".encode())
        digest.update(of_image)
    return digest.hexdigest()


def _counted(classes: Sequence[str], images: Sequence[SourceImage], split: Split) -> dict[str, tuple[int, ...]]:
    """Images per class in each part of the split."""
    labels = [image.label for image in images]
    for label, name in enumerate(classes):
        if labels.count(label) < 4:
            raise DataError(
                f"class {name!r} has {labels.count(label)} usable images; it takes at least 4 to have some to train "
                "on, to validate and to test. Add images or remove the class."
            )
    if len(classes) < 2:
        raise DataError(f"there is one class only ({', '.join(classes) or 'none'}); it takes at least two.")
    parts = split_indices([image.key for image in images], labels, split)
    for label, members in enumerate(parts["train"]):
        if not members:
            raise DataError(
                f"class {classes[label]!r} has {labels.count(label)} usable images; validation {split.validation:g} "
                f"and test {split.test:g} leave none of them to train on. Add images or make these shares smaller."
            )
    held_out = tuple(count_held_out(labels.count(label), split) for label in range(len(classes)))
    return {**{part: tuple(map(len, members)) for part, members in parts.items()}, "test": held_out}


def open_decoded(images: PreparedImages) -> CachedImages:
    """The decoded images in the cache.

    Raises:
        DataError: the cache entry is gone or damaged.
    """
    folder = Path(images.folder)
    try:
        index = _read_index(folder)
        pixels = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
    except OSError as reason:
        raise DataError(f"the decoded images in {folder} are gone ({reason}); run the study again.") from reason
    except ValueError as reason:
        raise DataError(
            f"the decoded images in {folder} are damaged ({reason}); delete that folder and run the study again."
        ) from reason
    usable = np.array([i for i, key in enumerate(index["keys"]) if key not in index["bad"]])
    return CachedImages(pixels, tuple(index["keys"]), np.array(index["labels"], dtype=np.int64), usable)


def load_for_training(
    images: PreparedImages,
    split: Split,
    data_fraction: float,
    block: int | None = None,
    shuffled_labels: float = 0.0,
    seed: int = 0,
) -> TrainingImages:
    """Train (its nested stratified `data_fraction`), validation and probe, from the cache.

    Args:
        block: divides train and validation anew; see `split_indices`.
        shuffled_labels: the share of the training images whose labels are dealt out among them, by `seed`; the probe
            has the labels that training sees, so that its accuracy is what was memorised.

    Raises:
        DataError: the cache entry is gone.
    """
    decoded = open_decoded(images)
    pixels, labels, usable = decoded.pixels, decoded.labels, decoded.usable
    parts = split_indices([decoded.keys[i] for i in usable], labels[usable].tolist(), split, block)
    train = [members[: count_used(len(members), data_fraction)] for members in parts["train"]]
    probe = [members[: len(validation)] for members, validation in zip(train, parts["validation"], strict=True)]

    def places(chosen: list[list[int]]) -> np.ndarray:
        return usable[sorted(i for members in chosen for i in members)]

    if shuffled_labels:
        labels = _shuffled(labels, places(train), shuffled_labels, seed)

    def take(chosen: list[list[int]]) -> Images:
        rows = places(chosen)
        return Images(Pixels(pixels, rows), labels[rows], rows)

    return TrainingImages(take(train), take(parts["validation"]), take(probe))


def open_all_but_test(images: PreparedImages, split: Split) -> tuple[np.ndarray, np.ndarray]:
    """What training may see in any block.

    Returns:
        Pixels [all, size, size, 3] uint8 of the whole data set, on disk; the places [n] of images that are in no test.

    Raises:
        DataError: the cache entry is gone.
    """
    decoded = open_decoded(images)
    usable = decoded.usable
    parts = split_indices([decoded.keys[i] for i in usable], decoded.labels[usable].tolist(), split)
    return decoded.pixels, usable[sorted(i for part in parts.values() for members in part for i in members)]


def _shuffled(labels: np.ndarray, train: np.ndarray, share: float, seed: int) -> np.ndarray:
    """The labels with a share of those of the training images in an order of chance (Zhang et al. 2017)."""
    dice = np.random.default_rng([seed, len(train)])
    chosen = dice.permutation(train)[: round(share * len(train))]
    shuffled = labels.copy()
    shuffled[chosen] = labels[dice.permutation(chosen)]
    return shuffled
