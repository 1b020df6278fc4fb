"""The images of a study: decoded once into the cache, split, and loaded for training.

Subsets (`data_fraction`) and the probe take the first images of each class in the ranking of `splits`, so they are
nested: a larger subset contains every smaller one.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from numpy.typing import DTypeLike

from cnnstudy.data import copies, datasets
from cnnstudy.data.datasets import DataOptions, ImageSource
from cnnstudy.data.decode import DECODER_VERSION
from cnnstudy.data.decoder_pool import Progress, decode_all
from cnnstudy.data.description import describe_left_out, warn_of_masks, warn_of_shares
from cnnstudy.data.duplicates import duplicate_warnings, image_digests
from cnnstudy.data.groups import (
    Grouping,
    describe_shares,
    group_images,
    is_searched,
    look_for_copies,
    look_for_times,
    read_groups,
)
from cnnstudy.data.part_counts import count_images
from cnnstudy.data.splits import first_images, rank_by_hash, select_share, split_indices
from cnnstudy.errors import DataError, format_list
from cnnstudy.records import BadImage, PreparedImages, Split
from cnnstudy.system.cache import ABOUT, build_entries, content_address, entry_folder, why_damaged
from cnnstudy.system.files import NO_ROOM, allocate_memmap


class Pixels:
    """Some images of a data set, [n, size, size, 3] uint8, read from the cache's memory map when they are indexed.

    `pixels[index]` is an array. All workers share the memory map.

    Args:
        mapped: all images of the data set.
        places: [n], the indices of these images among them.
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
    """Images [n, size, size, 3] uint8 with their labels [n] int64, and their indices in the data set [n] int64.

    `groups` [n] int64 are numbers that images of a group share; None: there are no groups.
    """

    pixels: Pixels | np.ndarray
    labels: np.ndarray
    places: np.ndarray
    groups: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class CachedImages:
    """A cache entry: the whole data set, including the test images. A split decides which of them training may see."""

    pixels: np.ndarray  # [n, size, size, 3] uint8, a memory map
    keys: tuple[str, ...]  # n of them
    labels: np.ndarray  # [n] int64
    usable: np.ndarray  # indices of the images that could be decoded
    groups: np.ndarray | None  # [n] int64, the group of each image; None: there are no groups
    given: tuple[str, ...]  # the part of each image, if they were divided beforehand

    def list_usable(self) -> tuple[list[str], list[int], list[int] | None, list[str]]:
        """Return keys, labels, groups and given parts of the usable images, for the functions of `splits`."""
        groups = None if self.groups is None else self.groups[self.usable].tolist()
        given = [self.given[i] for i in self.usable] if self.given else []
        return [self.keys[i] for i in self.usable], self.labels[self.usable].tolist(), groups, given


@dataclass(frozen=True)
class TrainingImages:
    """The images that training may see: all but the test split."""

    train: Images
    validation: Images
    probe: Images  # a fixed stratified subset of train, as large as validation (or all of train, if that is smaller)


@dataclass(frozen=True)
class ListedImages:
    """A data set whose files were found and read, but not decoded."""

    options: DataOptions
    source: ImageSource
    split: Split
    digests: list[bytes]  # of each image's content

    @cached_property
    def digest(self) -> str:
        """A digest of the classes and, image by image, of key, label, given part and the digest of its content."""
        digest = hashlib.sha256(json.dumps(self.source.classes).encode())
        for image, image_digest in zip(self.source.images, self.digests, strict=True):
            part = f"{image.part}\0" if image.part else ""
            digest.update(f"\0{image.key}\0{image.label}\0{part}".encode())
            digest.update(image_digest)
        return digest.hexdigest()

    def group(
        self, bad: Sequence[BadImage], thumbnails: Callable[[], np.ndarray[Any, Any]], progress: Progress
    ) -> Grouping:
        """Return the groups of the images, which are empty if there are none, and which images can be used.

        Args:
            bad: the images that can't be used.
            thumbnails: loads the images at copies.SIZE pixels, to look for copies.
        """
        unusable = {image.path for image in bad}
        usable = [place for place, image in enumerate(self.source.images) if image.key not in unusable]
        similar = []
        if self.options.copies == "together":
            similar = look_for_copies(self.digest, thumbnails, progress)
        taken = cache(lambda: look_for_times(self.source, self.digest, self.digests, progress))
        return group_images(self.source, self.options, similar, self.digests, usable, self.split, taken)

    def divide(self, bad: Sequence[BadImage], grouping: Grouping) -> PreparedImages:
        """Return what a study is told about the images; `folder` and `size` are still empty.

        Raises:
            DataError: a class has too few images.
        """
        source, split, usable, groups = self.source, self.split, grouping.usable, grouping.of_usable
        used = [source.images[place] for place in usable]
        counts = count_images(source.classes, used, split, groups, bool(grouping.copies))
        given = tuple(sorted({image.part for image in used if image.part}))
        notes = [*grouping.notes, *describe_left_out(len(used) - sum(map(sum, counts.values())))]
        notes += describe_shares(split, counts) if grouping.groups and not given else []
        return PreparedImages(
            name=self.options.name,
            folder="",
            digest=content_address([self.digest, split.to_json(), *([grouping.groups] if grouping.groups else [])]),
            size=0,
            classes=source.classes,
            skipped=tuple(bad),
            warnings=(
                *(f"{text} (`{key}`)" for text, key in source.warnings),
                *warn_of_masks(used),
                *warn_of_shares(self.options, given),
                *grouping.warnings,
                *duplicate_warnings(source, self.digests, usable, split, groups),
            ),
            groups=grouping.store(),
            notes=tuple(notes),
            conflicts=len(grouping.copies.conflicts) if grouping.copies else 0,
            given=given,
            passed_over=tuple(map(str, source.passed_over)),
            **counts,
        )


def list_images(options: DataOptions, split_seed: int, progress: Progress) -> ListedImages:
    """Find the images of a data set, and read each once.

    Raises:
        DataError: the data set, or a file, can't be read.
    """
    progress(f"reading {options.name}", 0, 0)
    split = Split(options.validation, options.test, split_seed)
    source = _cap_classes(datasets.find(options.name).load(options), options, split)
    return ListedImages(options, source, split, image_digests(source.images, progress))


def prepare_images(
    options: DataOptions, sizes: Sequence[int], split_seed: int, progress: Progress
) -> list[PreparedImages]:
    """Decode the data set at each size in pixels into the cache; its files are read once for all sizes.

    Raises:
        DataError: the data set can't be read, a class has too few images, or an image can't be decoded and the study
            file does not say `bad_images: skip`.
    """
    listed = list_images(options, split_seed, progress)
    needs_thumbnails = options.copies == "together" and not is_searched(listed.digest)
    folders = _decode(listed, [*sizes, *([copies.SIZE] if needs_thumbnails else [])], progress)
    bad = [BadImage(key, reason) for key, reason in _read_index(folders[sizes[0]])["bad"].items()]
    if bad and options.bad_images == "refuse":
        raise DataError(_bad_images_message(options, bad, len(listed.source.images)))
    grouping = listed.group(bad, lambda: _map_pixels(folders[copies.SIZE]), progress)
    first = listed.divide(bad, grouping)
    return [replace(first, folder=str(folders[size]), size=size) for size in sizes]


def _decode(listed: ListedImages, sizes: Sequence[int], progress: Progress) -> dict[int, Path]:
    """Decode the images into the cache, and return the entry's folder of each size."""
    addresses = {content_address([listed.digest, size, DECODER_VERSION, PIL.__version__]): size for size in sizes}
    build_entries(
        "images",
        list(addresses),
        lambda folders: _decode_into(
            listed, dict(sorted((addresses[a], folder) for a, folder in folders.items())), progress
        ),
    )
    return {size: entry_folder("images", address) for address, size in addresses.items()}


def _bad_images_message(options: DataOptions, bad: Sequence[BadImage], total: int) -> str:
    return (
        f"{len(bad)} of {total} images of {options.name} can't be used:{format_list(list(map(str, bad)))}\n"
        "Repair or remove them, or write `bad_images: skip` under `data` to train without them."
    )


def _cap_classes(source: ImageSource, options: DataOptions, split: Split) -> ImageSource:
    """Keep at most `images_per_class` images of each class."""
    if options.images_per_class is None:
        return source
    ranked = rank_by_hash([i.key for i in source.images], [i.label for i in source.images], f"cap-{split.seed}")
    chosen = sorted(i for members in ranked for i in _mix_parts(source, members)[: options.images_per_class])
    return replace(source, images=tuple(source.images[i] for i in chosen))


def _mix_parts(source: ImageSource, members: Sequence[int]) -> list[int]:
    """Return the images of a class in an order of which every beginning has the parts in about equal shares."""
    by_part: dict[str | None, list[int]] = {}
    for i in members:
        by_part.setdefault(source.images[i].part, []).append(i)
    place = {i: (rank + 0.5) / len(part) for part in by_part.values() for rank, i in enumerate(part)}
    return sorted(members, key=place.__getitem__)


def _decode_into(listed: ListedImages, folders: dict[int, Path], progress: Progress) -> None:
    """Fill a cache entry for each size; bad images stay black in it and are listed in its index."""
    source = listed.source
    arrays = {
        size: _allocate_images(folder / "images.npy", (len(source.images), size, size, 3))
        for size, folder in folders.items()
    }

    def store(index: int, size: int, pixels: np.ndarray) -> None:
        arrays[size][index] = pixels

    bad = decode_all(source.images, list(folders), store, progress, listed.digests)
    index = {
        "classes": source.classes,
        "keys": [image.key for image in source.images],
        "labels": [image.label for image in source.images],
        "bad": {image.path: image.reason for image in bad},
        **({"given": [image.part for image in source.images]} if any(image.part for image in source.images) else {}),
    }
    for size, folder in folders.items():
        arrays[size].flush()
        (folder / "index.json").write_text(json.dumps(index), encoding="utf-8")
        classes = ", ".join(source.classes[:5]) + (", ..." if len(source.classes) > 5 else "")
        about = f"{len(source.images)} images of {size} pixels, {len(source.classes)} classes: {classes}"
        (folder / ABOUT).write_text(about, encoding="utf-8", errors="replace")


def _allocate_images(path: Path, shape: tuple[int, ...]) -> np.memmap:
    """Create a file for images, mapped into memory.

    Raises:
        DataError: the disk has no room for it.
    """
    try:
        return allocate_memmap(path, shape, np.uint8)
    except OSError as reason:
        if reason.errno not in NO_ROOM:
            raise
        raise DataError(
            f"the decoded images take {math.prod(shape):,} bytes, and {path.parent.parent} has no room for them "
            f"({reason.strerror}); free some space, or set CNNSTUDY_CACHE to a folder on another disk."
        ) from reason


def _read_index(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "index.json").read_text(encoding="utf-8"))


def _map_pixels(folder: Path) -> np.ndarray:
    mapped: np.ndarray = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
    return mapped


def image_keys(images: PreparedImages) -> list[str]:
    """Return the key of every image in the data set, by its index."""
    return list(_read_index(Path(images.folder))["keys"])


def open_decoded(images: PreparedImages) -> CachedImages:
    """Open the decoded images in the cache.

    Raises:
        DataError: the cache entry is gone or damaged.
        CacheError: others could have changed it.
    """
    folder = Path(images.folder)
    try:
        for entry in (folder, *([Path(images.groups).parent] if images.groups else [])):
            if why := why_damaged(entry):
                raise ValueError(why)
        index = _read_index(folder)
        pixels = _map_pixels(folder)
        groups = read_groups(Path(images.groups)) if images.groups else None
    except OSError as reason:
        raise DataError(f"the decoded images in {folder} are gone ({reason}); run the study again.") from reason
    except ValueError as reason:
        raise DataError(
            f"the decoded images in {folder} are damaged ({reason}); run the study again, which makes them anew."
        ) from reason
    usable = np.array([i for i, key in enumerate(index["keys"]) if key not in index["bad"]])
    labels = np.array(index["labels"], dtype=np.int64)
    return CachedImages(pixels, tuple(index["keys"]), labels, usable, groups, tuple(index.get("given", ())))


def load_for_training(
    images: PreparedImages,
    split: Split,
    data_fraction: float,
    block: int | None = None,
    shuffled_labels: float = 0.0,
    seed: int = 0,
) -> TrainingImages:
    """Load train (its nested, stratified `data_fraction`), validation and probe from the cache.

    Args:
        block: divides train and validation afresh; see `split_indices`.
        shuffled_labels: share of the training images whose labels are permuted among them, by `seed`; the probe has the
            labels that training sees, so that its accuracy measures memorisation.

    Raises:
        DataError: the cache entry is gone or damaged.
    """
    decoded = open_decoded(images)
    pixels, labels, usable = decoded.pixels, decoded.labels, decoded.usable
    keys, known_labels, groups, given = decoded.list_usable()
    parts = split_indices(keys, known_labels, split, block, groups, given)
    train = select_share(parts["train"], data_fraction, groups)
    probe = first_images(train, [len(members) for members in parts["validation"]], groups)

    if shuffled_labels:
        labels = _shuffle_labels(labels, _places(usable, train), shuffled_labels, seed)

    def select(indices: list[list[int]]) -> Images:
        places = _places(usable, indices)
        return Images(
            Pixels(pixels, places), labels[places], places, None if decoded.groups is None else decoded.groups[places]
        )

    return TrainingImages(select(train), select(parts["validation"]), select(probe))


def list_parts(images: PreparedImages, split: Split, block: int | None) -> list[tuple[str, str, str]]:
    """Return key, class and part (train, validation or test) of every usable image, in the order of the data set.

    Args:
        block: as for `load_for_training`.

    Raises:
        DataError: the cache entry is gone or damaged.
    """
    keys, labels, groups, given = open_decoded(images).list_usable()
    parts = dict.fromkeys(range(len(keys)), "test")
    for part, by_class in split_indices(keys, labels, split, block, groups, given).items():
        parts.update(dict.fromkeys(itertools.chain(*by_class), part))
    return [(key, images.classes[labels[i]], parts[i]) for i, key in enumerate(keys)]


def _places(usable: np.ndarray, indices: Iterable[list[int]]) -> np.ndarray:
    """Return the sorted indices in the data set of images that are given, class by class, as indices into `usable`."""
    return usable[sorted(index for members in indices for index in members)]


def _shuffle_labels(labels: np.ndarray, train: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Return the labels with those of a share of the training images permuted at random (Zhang et al. 2017)."""
    rng = np.random.default_rng([seed, len(train)])
    chosen = rng.permutation(train)[: round(share * len(train))]
    shuffled = labels.copy()
    shuffled[chosen] = labels[rng.permutation(chosen)]
    return shuffled


def open_train_and_validation(images: PreparedImages, split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Open the images that training may see in any block: all but the test split.

    Returns:
        Pixels [all, size, size, 3] uint8 of the whole data set, a memory map; the indices [n] of the images in it that
        are not in the test split.

    Raises:
        DataError: the cache entry is gone or damaged.
    """
    decoded = open_decoded(images)
    keys, labels, groups, given = decoded.list_usable()
    parts = split_indices(keys, labels, split, groups=groups, given=given)
    return decoded.pixels, _places(decoded.usable, itertools.chain.from_iterable(parts.values()))
