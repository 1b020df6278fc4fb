"""Which images train and which validate, by a hash of seed and key: the same on every machine and file system.

Images that were divided beforehand stay as they are; what they lack, validation or test, is cut from train.

This module never returns the test images: those come from `training.test_split`, which only `confirm` uses.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from cnnstudy.data.batches import count_used_images
from cnnstudy.data.grouped_splits import divide_groups, first_whole_groups
from cnnstudy.records import Split


def rank_by_hash(keys: Sequence[str], labels: Sequence[int], salt: str) -> list[list[int]]:
    """Return the images of each class, as indices, ordered by the hash of salt and key."""
    order = sorted(range(len(keys)), key=lambda i: hashlib.sha256(f"{salt}\0{keys[i]}".encode()).digest())
    members: list[list[int]] = [[] for _ in range(max(labels, default=-1) + 1)]
    for i in order:
        members[labels[i]].append(i)
    return members


def rank_for_split(
    keys: Sequence[str], labels: Sequence[int], split: Split, given: Sequence[str] = ()
) -> list[list[int]]:
    """Return the images of each class that are to be divided, as indices, in the order of a study's split.

    Unless the test part is given, the test images are the first.

    Args:
        given: the part of each image, if they were divided beforehand; of them only train is divided further.
    """
    ranked = rank_by_hash(keys, labels, f"split-{split.seed}")
    return [[i for i in members if given[i] == "train"] for members in ranked] if given else ranked


def count_held_out(images: int, split: Split, given: Sequence[str] = ()) -> int:
    """Return how many of a class's images, those to be divided, are held out for the test."""
    if "test" in given:
        return 0
    return max(1, round(split.test * images))


def split_indices(
    keys: Sequence[str],
    labels: Sequence[int],
    split: Split,
    block: int | None = None,
    groups: Sequence[int] | None = None,
    given: Sequence[str] = (),
) -> dict[str, list[list[int]]]:
    """Return train and validation as indices, class by class, each class in its ranked order; test images in neither.

    Each block divides train and validation afresh; the test images are the same in all blocks.

    Args:
        groups: the group of each image; the images of a group are all in one part.
        given: as in `rank_for_split`; a validation part that is given is the same in all blocks.
    """
    if groups is not None:
        divided = divide_groups(keys, labels, split, groups, block, given)
        return {part: divided[part] for part in ("train", "validation")}
    parts: dict[str, list[list[int]]] = {"train": [], "validation": []}
    block_ranking = None if block is None else rank_by_hash(keys, labels, f"split-{split.seed}-block-{block}")
    validating: list[list[int]] = [[] for _ in range(max(labels, default=-1) + 1)]
    for i, part in enumerate(given):
        if part == "validation":
            validating[labels[i]].append(i)
    for label, members in enumerate(rank_for_split(keys, labels, split, given)):
        remaining = members[count_held_out(len(members), split, given) :]
        if block_ranking is not None:
            allowed = set(remaining)
            remaining = [i for i in block_ranking[label] if i in allowed]
        if "validation" in given:
            parts["validation"].append(validating[label])
            parts["train"].append(remaining)
            continue
        validation = max(1, round(split.validation * len(members)))
        parts["validation"].append(remaining[:validation])
        parts["train"].append(remaining[validation:])
    return parts


def select_share(
    train: Sequence[Sequence[int]], data_fraction: float, groups: Sequence[int] | None = None
) -> list[list[int]]:
    """Return the nested share of the training images of each class that a trial with this `data_fraction` uses."""
    return first_images(train, [count_used_images(len(members), data_fraction) for members in train], groups)


def first_images(
    by_class: Sequence[Sequence[int]], counts: Sequence[int], groups: Sequence[int] | None = None
) -> list[list[int]]:
    """Return the first images of each class, so many of each; with groups as near to that as whole groups allow."""
    if groups is not None:
        return first_whole_groups(by_class, counts, groups)
    return [list(members[:count]) for members, count in zip(by_class, counts, strict=True)]
