"""A digest of each image's source, and warnings about images that are copies of each other."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from cnnstudy.data.datasets import ImageSource, SourceImage
from cnnstudy.data.decode import read_file
from cnnstudy.data.decoder_pool import Progress
from cnnstudy.data.file_types import RIGHTS_ADVICE
from cnnstudy.data.splits import split_indices
from cnnstudy.errors import DataError, format_list, printable
from cnnstudy.records import BadImage, Split
from cnnstudy.system.processes import count_cores


def image_digests(images: Sequence[SourceImage], progress: Progress) -> list[bytes]:
    """Return the SHA-256 of each image's file, bytes or pixels, read in parallel.

    Raises:
        DataError: some files can't be read; the message lists them.
    """
    digests: list[bytes] = []
    unreadable: list[str] = []
    with ThreadPoolExecutor(min(8, count_cores() + 2)) as pool:
        for done, digest in enumerate(pool.map(_digest, images), 1):
            if isinstance(digest, BadImage):
                unreadable.append(printable(f"{digest.path}: {digest.cause}"))
            else:
                digests.append(digest)
            if done % 256 == 0:
                progress("checking images", done, len(images))
    forbidden = os.strerror(errno.EACCES)
    advice = RIGHTS_ADVICE if any(line.endswith(f": {forbidden}") for line in unreadable) else ""
    if len(unreadable) == 1:
        raise DataError(". ".join(filter(None, [f"can't read {unreadable[0]}", advice])))
    if unreadable:
        listed = f"can't read {len(unreadable)} of {len(images)} images:{format_list(unreadable)}"
        raise DataError("\n".join(filter(None, [listed, advice])))
    return digests


def _digest(image: SourceImage) -> bytes | BadImage:
    content: Path | bytes | np.ndarray | BadImage = image.content
    if isinstance(content, Path):
        content = read_file(content, str(content))
    if isinstance(content, BadImage):
        if content.kind == "unreadable":
            path = image.content
            leads_nowhere = isinstance(path, Path) and path.is_symlink() and not path.exists()
            return replace(content, cause="a link to no file; repair or remove it") if leads_nowhere else content
        content = f"unusable: {content.cause}".encode()  # decoding will report it as a bad image
    return hashlib.sha256(content if isinstance(content, bytes) else content.tobytes()).digest()


def duplicate_warnings(
    source: ImageSource,
    digests: Sequence[bytes],
    usable: Sequence[int],
    split: Split,
    groups: Sequence[int] | None = None,
) -> tuple[str, ...]:
    """Return warnings, each of one or more lines, about usable images that are identical byte for byte.

    Of copies in different classes at least one has a wrong label; copies in different parts of the split let training
    see images that it is evaluated on.

    Args:
        usable: the indices in `source.images` of the images that can be decoded.
        groups: the group of each usable image, all of which are in one part.
    """
    places_by_digest: dict[bytes, list[int]] = {}
    for place in usable:
        places_by_digest.setdefault(digests[place], []).append(place)
    copies = [places for places in places_by_digest.values() if len(places) > 1]
    if not copies:
        return ()
    contradicting = [places for places in copies if len({source.images[place].label for place in places}) > 1]
    warnings = []
    if contradicting:
        lines = [_name_copies(source, places) for places in contradicting]
        subject = f"{len(contradicting)} images are" if len(contradicting) > 1 else "an image is"
        warnings.append(
            f"{subject} in more than one class, as byte-identical copies; remove the wrong ones:{format_list(lines)}"
        )
    divided = _copies_across_split(source, copies, usable, split, groups)
    if divided:
        lines = [_name_copies(source, places) for places in divided]
        subject = f"{len(divided)} images have" if len(divided) > 1 else "an image has"
        warnings.append(
            f"{subject} byte-identical copies in more than one of train, validation and test, so memorised images "
            f"inflate the accuracy. Keep one copy of each:{format_list(lines)}"
        )
    return tuple(warnings)


def _name_copies(source: ImageSource, places: Sequence[int]) -> str:
    """Return the names of copies, starting with the first of each class."""
    first = {source.images[place].label: place for place in reversed(places)}
    order = [*sorted(first.values()), *(place for place in places if place not in first.values())]
    more = f" and {len(order) - 4} more" if len(order) > 4 else ""
    return " = ".join(printable(source.images[place].key) for place in order[:4]) + more


def _copies_across_split(
    source: ImageSource,
    copies: Sequence[Sequence[int]],
    usable: Sequence[int],
    split: Split,
    groups: Sequence[int] | None,
) -> list[Sequence[int]]:
    """Return the groups of copies that are not all in the same part of the split."""
    keys, labels = [source.images[place].key for place in usable], [source.images[place].label for place in usable]
    given = [part for place in usable if (part := source.images[place].part)]
    part_of = {
        usable[index]: part
        for part, by_class in split_indices(keys, labels, split, groups=groups, given=given).items()
        for members in by_class
        for index in members
    }  # images in neither part are in the test split
    # images of train that are left out, for a copy in a part that was given, do no harm
    left_out = {place for place in usable if place not in part_of and source.images[place].part == "train"}
    there = ([place for place in places if place not in left_out] for places in copies)
    return [places for places in there if len({part_of.get(place) for place in places}) > 1]
