"""What images are made from: a digest of each, and which of them are copies of each other."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from cnnstudy.data.datasets import ImageSource, SourceImage
from cnnstudy.data.decode import read_file
from cnnstudy.data.decoder_pool import Progress
from cnnstudy.data.splits import split_indices
from cnnstudy.errors import DataError, printable
from cnnstudy.records import BadImage, Split
from cnnstudy.system.processes import cores

#: Of copies and of files that can't be read, so many are named.
MOST_NAMED = 20


def image_digests(images: Sequence[SourceImage], progress: Progress) -> list[bytes]:
    """The SHA-256 of what each image is made from, read in parallel.

    Raises:
        DataError: files that can't be read, all of them named.
    """
    digests: list[bytes] = []
    unreadable: list[str] = []
    with ThreadPoolExecutor(min(8, cores() + 2)) as pool:
        for number, found in enumerate(pool.map(_digest, images), 1):
            if isinstance(found, BadImage):
                unreadable.append(printable(f"{found.path}: {found.cause}"))
            else:
                digests.append(found)
            if number % 256 == 0:
                progress("checking images", number, len(images))
    if len(unreadable) == 1:
        raise DataError(f"can't read {unreadable[0]}")
    if unreadable:
        raise DataError(f"can't read {len(unreadable)} of {len(images)} images:{format_list(unreadable)}")
    return digests


def _digest(image: SourceImage) -> bytes | BadImage:
    content: Path | bytes | np.ndarray | BadImage = image.content
    if isinstance(content, Path):
        content = read_file(content, str(content))
    if isinstance(content, BadImage):
        if content.kind == "unreadable":
            return content
        content = f"unusable: {content.cause}".encode()  # named once all images are decoded
    return hashlib.sha256(content if isinstance(content, bytes) else content.tobytes()).digest()


def format_list(lines: Sequence[str]) -> str:
    """An indented line for each of the first ones."""
    more = f"\n  and {len(lines) - MOST_NAMED} more" if len(lines) > MOST_NAMED else ""
    return "".join(f"\n  {line}" for line in lines[:MOST_NAMED]) + more


def duplicate_warnings(
    source: ImageSource, digests: Sequence[bytes], usable: Sequence[int], split: Split
) -> tuple[str, ...]:
    """What to say of usable images that are, byte for byte, the same: as texts of one or more lines.

    Copies in different classes have a wrong label; copies in different parts of the split let training see what it is
    measured on.
    """
    same: dict[bytes, list[int]] = {}
    for place in usable:
        same.setdefault(digests[place], []).append(place)
    copies = [places for places in same.values() if len(places) > 1]
    if not copies:
        return ()
    contradicting = [places for places in copies if len({source.images[place].label for place in places}) > 1]
    warnings = []
    if contradicting:
        lines = [_equal(source, places) for places in contradicting]
        many = f"{len(contradicting)} images are" if len(contradicting) > 1 else "an image is"
        warnings.append(
            f"{many} in more than one class, byte for byte the same; remove the wrong ones:{format_list(lines)}"
        )
    divided = _divided(source, copies, usable, split)
    if divided:
        lines = [_equal(source, places) for places in divided]
        what = f"{len(divided)} images have" if len(divided) > 1 else "an image has"
        warnings.append(
            f"{what} copies, byte for byte the same, in more than one of train, validation and test: what was learnt "
            f"by heart counts as known there. Keep one of each:{format_list(lines)}"
        )
    return tuple(warnings)


def _equal(source: ImageSource, places: Sequence[int]) -> str:
    """The names of copies, the first of each class before others."""
    first = {source.images[place].label: place for place in reversed(places)}
    order = [*sorted(first.values()), *(place for place in places if place not in first.values())]
    more = f" and {len(order) - 4} more" if len(order) > 4 else ""
    return " = ".join(printable(source.images[place].key) for place in order[:4]) + more


def _divided(
    source: ImageSource, copies: Sequence[Sequence[int]], usable: Sequence[int], split: Split
) -> list[Sequence[int]]:
    """The copies that are not all in the same part of the split."""
    keys, labels = [source.images[place].key for place in usable], [source.images[place].label for place in usable]
    part_of = {
        usable[index]: part
        for part, by_class in split_indices(keys, labels, split).items()
        for members in by_class
        for index in members
    }  # what is in neither part is held out for the test
    return [places for places in copies if len({part_of.get(place) for place in places}) > 1]
