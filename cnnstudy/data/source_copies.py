"""Near-duplicates between a study's images and those on which its source weights are pretrained."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cnnstudy.data.copies import COPIES_VERSION, SIZE, find_copies
from cnnstudy.data.decode import resize
from cnnstudy.data.decoder_pool import Progress
from cnnstudy.data.groups import KIND, connect_pairs
from cnnstudy.data.images import CachedImages, list_parts, open_decoded
from cnnstudy.records import PreparedImages, Split
from cnnstudy.system.cache import ABOUT, build_entry, content_address


def count_source_copies(
    images: PreparedImages, source: PreparedImages, split: Split, progress: Progress
) -> dict[str, int]:
    """Return how many images of each part have a near-duplicate among the source's; it is looked for once.

    Args:
        split: of the study.

    Raises:
        DataError: decoded images are gone.
    """

    def build(folder: Path) -> None:
        known, others = open_decoded(images), open_decoded(source)
        count = len(known.usable)
        found = find_shared(np.concatenate([_shrink(known), _shrink(others)]), count, progress)
        (folder / "copies.json").write_text(json.dumps(found), encoding="utf-8")
        about = f"{len(found)} of {count} images have a copy among {len(others.usable)} to pretrain on"
        (folder / ABOUT).write_text(about, encoding="utf-8")

    address = content_address(["source", COPIES_VERSION, *(Path(one.folder).name for one in (images, source))])
    found = json.loads((build_entry(KIND, address, build) / "copies.json").read_text(encoding="utf-8"))
    parts = [part for *_, part in list_parts(images, split, None)]
    return count_parts(parts[place] for place in found)


def find_shared(thumbnails: np.ndarray[Any, Any], count: int, progress: Progress) -> list[int]:
    """Return which of the first `count` pictures have a near-duplicate among the others.

    Args:
        thumbnails: as `find_copies` takes them.
    """
    group = connect_pairs(len(thumbnails), find_copies(thumbnails, progress))
    others = set(group[count:])
    return [place for place in range(count) if group[place] in others]


def count_parts(parts: Iterable[str]) -> dict[str, int]:
    """Return the number of images in each part of the split."""
    listed = list(parts)
    return {part: listed.count(part) for part in ("train", "validation", "test")}


def describe_source_copies(counts: dict[str, int]) -> str:
    """Say how many images have a near-duplicate among those that weights are pretrained on; "" if none has.

    Args:
        counts: of each part.
    """
    if not sum(counts.values()):
        return ""
    return (
        f"{sum(counts.values())} of the study's images ({counts['validation'] + counts['test']} of its validation and "
        f"test images) have a near-duplicate among the images that source weights are pretrained on, which makes "
        "transfer look better than it is; remove them there"
    )


def _shrink(images: CachedImages) -> np.ndarray[Any, Any]:
    """Return the usable images [n, SIZE, SIZE, 3]."""
    return np.stack([np.asarray(resize(Image.fromarray(images.pixels[place]), SIZE)) for place in images.usable])
