"""Which images train and which validate, by a hash of seed and key: the same on every machine and file system.

Which images are left for the test is not answered here but in held_out.py, which only `confirm` uses.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from cnnstudy.records import Split


def rank_by_hash(keys: Sequence[str], labels: Sequence[int], salt: str) -> list[list[int]]:
    """The images of each class in the order of the hash of salt and key."""
    order = sorted(range(len(keys)), key=lambda i: hashlib.sha256(f"{salt}\0{keys[i]}".encode()).digest())
    members: list[list[int]] = [[] for _ in range(max(labels, default=-1) + 1)]
    for i in order:
        members[labels[i]].append(i)
    return members


def rank_for_split(keys: Sequence[str], labels: Sequence[int], split: Split) -> list[list[int]]:
    """The order of a study's split: of each class the first ones are held out for the test."""
    return rank_by_hash(keys, labels, f"split-{split.seed}")


def count_held_out(images: int, split: Split) -> int:
    """Of so many images of a class those that are held out for the test."""
    return max(1, round(split.test * images))


def split_indices(
    keys: Sequence[str], labels: Sequence[int], split: Split, block: int | None = None
) -> dict[str, list[list[int]]]:
    """Train and validation as indices, class by class, each class in its ranked order; test images are in neither.

    Each block divides train and validation anew; the test images are the same in all of them.
    """
    parts: dict[str, list[list[int]]] = {"train": [], "validation": []}
    again = None if block is None else rank_by_hash(keys, labels, f"split-{split.seed}-block-{block}")
    for label, members in enumerate(rank_for_split(keys, labels, split)):
        left = members[count_held_out(len(members), split) :]
        if again is not None:
            allowed = set(left)
            left = [i for i in again[label] if i in allowed]
        validation = max(1, round(split.validation * len(members)))
        parts["validation"].append(left[:validation])
        parts["train"].append(left[validation:])
    return parts
