"""Splits that keep groups whole: the images of a group are all in train, all in validation, or all in the test split.

A group's place in the order is the hash of its first key, so that an image on its own is placed as without groups. Each
part takes, in that order, the groups that still fit, then those that bring the shares of the classes nearer.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

from cnnstudy.records import Split

#: The indices of the images of a group.
Group = Sequence[int]


def divide_groups(
    keys: Sequence[str],
    labels: Sequence[int],
    split: Split,
    groups: Sequence[int],
    block: int | None = None,
    given: Sequence[str] = (),
) -> dict[str, list[list[int]]]:
    """Return train, validation and test as indices, class by class, each class in the order of its groups.

    Args:
        groups: the group of each image.
        block: divides train and validation afresh; the test images are the same in all blocks.
        given: as in `splits.split_indices`. Parts that are given stay as they are; what is in a group with one of
            their images is left out of train.
    """
    held_out = {groups[i] for i, part in enumerate(given) if part != "train"}
    by_group: dict[int, list[int]] = {}
    for index in sorted(range(len(keys)), key=keys.__getitem__):
        if not given or (given[index] == "train" and groups[index] not in held_out):
            by_group.setdefault(groups[index], []).append(index)
    members = _rank(list(by_group.values()), keys, f"split-{split.seed}")
    counts = Counter(labels[index] for group in members for index in group)
    fixed: dict[str, list[Group]] = {
        part: [[i] for i, of in enumerate(given) if of == part] for part in ("validation", "test")
    }
    test, rest = fixed["test"], members
    if "test" not in given:
        test, rest = _take(members, labels, _targets(counts, split.test), reserve=2)
    if block is not None:
        rest = _rank(rest, keys, f"split-{split.seed}-block-{block}")
    validation, train = fixed["validation"], rest
    if "validation" not in given:
        validation, train = _take(rest, labels, _targets(counts, split.validation), reserve=1)
    parts = {"train": train, "validation": validation, "test": test}
    return {part: _by_class(chosen, labels, max(labels, default=-1) + 1) for part, chosen in parts.items()}


def _targets(counts: Counter[int], share: float) -> Counter[int]:
    return Counter({label: max(1, round(share * count)) for label, count in counts.items()})


def _rank(members: Sequence[Group], keys: Sequence[str], salt: str) -> list[Group]:
    return sorted(members, key=lambda group: hashlib.sha256(f"{salt}\0{keys[group[0]]}".encode()).digest())


def _by_class(chosen: Sequence[Group], labels: Sequence[int], classes: int) -> list[list[int]]:
    by_class: list[list[int]] = [[] for _ in range(classes)]
    for group in chosen:
        for index in group:
            by_class[labels[index]].append(index)
    return by_class


def _take(
    ranked: Sequence[Group], labels: Sequence[int], targets: Counter[int], reserve: int
) -> tuple[list[Group], list[Group]]:
    """Divide ranked groups into those of a part and the rest, both in their order.

    Args:
        targets: the number of images of each class that the part should have.
        reserve: the number of groups of each class that must be left.
    """
    sizes = [Counter(labels[index] for index in group) for group in ranked]
    left = Counter(label for size in sizes for label in size)
    need, taken = Counter(targets), set[int]()

    def take_if(place: int, wanted: bool) -> None:
        if wanted and place not in taken and all(left[label] > reserve for label in sizes[place]):
            taken.add(place)
            need.subtract(sizes[place])
            left.subtract(dict.fromkeys(sizes[place], 1))

    for place, size in enumerate(sizes):
        take_if(place, all(need[label] >= count for label, count in size.items()))
    for place, size in enumerate(sizes):
        take_if(place, sum(abs(need[label] - count) - abs(need[label]) for label, count in size.items()) < 0)
    for label, target in targets.items():  # no class goes without, even if only a group that is too large is left
        if need[label] == target:
            for place in sorted(range(len(sizes)), key=lambda place: (sizes[place].total(), place)):
                take_if(place, need[label] == target and label in sizes[place])
    return [ranked[place] for place in sorted(taken)], [
        group for place, group in enumerate(ranked) if place not in taken
    ]


def first_whole_groups(
    by_class: Sequence[Sequence[int]], counts: Sequence[int], groups: Sequence[int]
) -> list[list[int]]:
    """Return the first groups of each class, as many as come nearest to a number of its images; at least one.

    A group with images of several classes counts for the class that it has most of. More images contain all of fewer.

    Args:
        by_class: images in the order of their groups.
        counts: the number of images wanted of each class.
    """
    home: dict[int, Counter[int]] = {}
    for label, members in enumerate(by_class):
        for index in members:
            home.setdefault(groups[index], Counter())[label] += 1
    homes = {count.most_common(1)[0][0] for count in home.values()}
    # a class that has the most images of no group would otherwise have none
    kept = {groups[members[0]] for label, members in enumerate(by_class) if members and label not in homes}
    for label, (members, wanted) in enumerate(zip(by_class, counts, strict=True)):
        total = 0
        for group in dict.fromkeys(groups[index] for index in members):
            size = home[group][label]
            if home[group].most_common(1)[0][0] != label:
                continue
            if total and abs(total + size - wanted) >= abs(total - wanted):
                break
            kept.add(group)
            total += size
    return [[index for index in members if groups[index] in kept] for members in by_class]
