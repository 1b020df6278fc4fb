"""Groups of images that stay on one side of every split: those that `groups` names, and copies of one picture."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL

from cnnstudy.data.copies import COPIES_VERSION, find_copies
from cnnstudy.data.datasets import DataOptions, ImageSource
from cnnstudy.data.decode import DECODER_VERSION
from cnnstudy.data.decoder_pool import Progress, decode_all
from cnnstudy.data.grouped_splits import divide_groups
from cnnstudy.data.path_groups import Taken
from cnnstudy.data.splits import split_indices
from cnnstudy.errors import format_list, printable
from cnnstudy.records import ImageFacts, Split
from cnnstudy.system.cache import ABOUT, build_entry, content_address, is_intact

#: The kind of the cache's entries.
KIND = "groups"
#: Two images, by their indices in the data set, the smaller first.
Pair = tuple[int, int]


@dataclass(frozen=True)
class Copies:
    """The copies among the usable images of a data set, by their indices in it."""

    pairs: tuple[Pair, ...]  # sorted; of many copies of one picture enough to connect them
    identical: int  # images that repeat another one byte for byte
    groups: tuple[tuple[int, ...], ...]  # the images that are copies of each other, two or more
    leaks: dict[str, tuple[int, int]]  # validation, test -> images with a copy in train were they not grouped, and all
    conflicts: tuple[Pair, ...]  # pairs with different labels; near-duplicates in the test split are not looked at


@dataclass(frozen=True)
class Grouping:
    """The groups of a data set; without groups of two or more images there are none."""

    groups: tuple[int, ...] = ()  # the number of each image's group
    usable: tuple[int, ...] = ()  # the images that can be used
    notes: tuple[str, ...] = ()  # what was found, each in a sentence
    warnings: tuple[str, ...] = ()  # copies whose labels contradict each other
    copies: Copies | None = None  # None: none were found, or looked for

    @property
    def of_usable(self) -> list[int] | None:
        """The group of each usable image; None if there are no groups."""
        return [self.groups[place] for place in self.usable] if self.groups else None

    def store(self) -> str:
        """Put the groups into the cache, and return the path of the file; "" if there are none."""
        if not self.groups:
            return ""

        def build(folder: Path) -> None:
            np.save(folder / "groups.npy", np.array(self.groups, dtype=np.int64))
            (folder / ABOUT).write_text(f"{len(set(self.groups))} groups of {len(self.groups)} images", "utf-8")

        return str(build_entry(KIND, content_address(self.groups), build) / "groups.npy")


def is_searched(digest: str) -> bool:
    """Check whether the copies among the images with this digest are in the cache."""
    return is_intact(KIND, _copies_address(digest))


def look_for_copies(digest: str, thumbnails: Callable[[], np.ndarray[Any, Any]], progress: Progress) -> list[Pair]:
    """Return the pairs of near-duplicates, from the cache or found now.

    Args:
        digest: of the images.
        thumbnails: loads the images at copies.SIZE pixels.
    """

    def build(folder: Path) -> None:
        images = thumbnails()
        pairs = find_copies(images, progress)
        (folder / "copies.json").write_text(json.dumps(pairs), encoding="utf-8")
        (folder / ABOUT).write_text(f"{len(pairs)} pairs of copies among {len(images)} images", encoding="utf-8")

    folder = build_entry(KIND, _copies_address(digest), build)
    return [(i, j) for i, j in json.loads((folder / "copies.json").read_text(encoding="utf-8"))]


def look_for_times(source: ImageSource, digest: str, digests: Sequence[bytes], progress: Progress) -> list[Taken]:
    """Return when each image was taken, from the cache or read now.

    Args:
        digest: of the images.
        digests: of each image's content.
    """

    def build(folder: Path) -> None:
        taken: list[Taken] = [None] * len(source.images)

        def measure(index: int, facts: ImageFacts) -> None:
            taken[index] = None if facts.taken is None else (facts.camera, facts.taken)

        decode_all(source.images, [], lambda *_: None, progress, digests, measure)
        (folder / "taken.json").write_text(json.dumps(taken), encoding="utf-8")
        known = sum(one is not None for one in taken)
        (folder / ABOUT).write_text(f"shooting times of {known} of {len(taken)} images", encoding="utf-8")

    folder = build_entry(KIND, content_address(["taken", digest, DECODER_VERSION, PIL.__version__]), build)
    read = json.loads((folder / "taken.json").read_text(encoding="utf-8"))
    return [None if one is None else (one[0], one[1]) for one in read]


def _copies_address(digest: str) -> str:
    return content_address(["copies", digest, COPIES_VERSION, DECODER_VERSION, PIL.__version__])


def group_images(
    source: ImageSource,
    options: DataOptions,
    similar: Iterable[Pair],
    digests: Sequence[bytes],
    usable: Sequence[int],
    split: Split,
    taken: Callable[[], Sequence[Taken]],
) -> Grouping:
    """Group the images that belong together.

    Args:
        similar: near-duplicates; with `copies: ignore` none.
        digests: of each image's content; equal ones are copies, unless `copies: ignore`.
        usable: the images that can be used.
        taken: returns when each image was taken.

    Raises:
        DataError: the key `groups` names no groups.
    """
    chosen = set(usable)
    copies: set[Pair] = set()
    if options.copies == "together":
        copies = {pair for pair in similar if chosen.issuperset(pair)} | set(pair_equal(digests, usable))
    own = [source.images[place].group for place in usable]
    named, alike = _pair_named(own, usable), warn_of_similar_names(own)
    if options.groups is not None:
        keys = [source.images[place].key for place in usable]
        depth = 0 if options.name == "table" else 2 if source.layout in ("divided", "classes-below") else 1
        names = options.groups.name_groups(keys, lambda: [taken()[place] for place in usable], depth)
        named += _pair_named(names, usable)
        alike += warn_of_similar_names(names)
    if not copies and not named:
        return Grouping(usable=tuple(usable), warnings=alike)
    groups = connect_pairs(len(source.images), [*copies, *named])
    grouping = Grouping(tuple(groups), tuple(usable))
    grouping = replace(grouping, warnings=(*alike, *warn_of_groups_held_out_twice(source, grouping)))
    if not copies:
        return grouping
    found = describe_pairs(source, copies, digests, usable, split, grouping.of_usable)
    given = any(source.images[place].part for place in usable)
    near = [pair for pair in found.conflicts if not _are_equal(digests, pair)]
    return replace(
        grouping,
        notes=(_describe_copies(found, given),),
        warnings=(*grouping.warnings, *_contradictions(source, near)),
        copies=found,
    )


def read_groups(file: Path) -> np.ndarray[Any, Any]:
    """Return the group of each image of a data set, [n] int64."""
    groups: np.ndarray[Any, Any] = np.load(file, allow_pickle=False)
    return groups


def _pair_named(names: Sequence[str | None], places: Sequence[int]) -> list[Pair]:
    """Return the images with a name in common, each paired with the first of them; None and "" are no names."""
    of_place = {place: unicodedata.normalize("NFC", name) for place, name in zip(places, names, strict=True) if name}
    return pair_equal(of_place, of_place)


def warn_of_similar_names(names: Iterable[str | None]) -> tuple[str, ...]:
    """Return a warning about names of different groups that differ only in case, spaces, hyphens or underscores."""
    alike: dict[str, set[str]] = {}
    for name in filter(None, names):
        written = unicodedata.normalize("NFC", name)
        alike.setdefault(re.sub(r"[-_\s]", "", written.casefold()), set()).add(written)
    several = [" ~ ".join(map(repr, sorted(one))) for one in alike.values() if len(one) > 1]
    if not several:
        return ()
    return (
        "names of groups differ only in upper and lower case, spaces, hyphens or underscores, and count as different "
        f"groups, which may be on both sides of a split; write them alike if they are the same:{format_list(several)}",
    )


def pair_equal(values: Sequence[object] | Mapping[int, object], places: Iterable[int]) -> list[Pair]:
    """Return places with equal values, each paired with the first of them."""
    first: dict[object, int] = {}
    return [(first[values[place]], place) for place in places if first.setdefault(values[place], place) != place]


def _are_equal(digests: Sequence[bytes], pair: Pair) -> bool:
    return digests[pair[0]] == digests[pair[1]]


def connect_pairs(count: int, pairs: Iterable[Pair]) -> list[int]:
    """Return the group of each image, the number of its first image, if the images of a pair are in one group."""
    group = list(range(count))

    def find(place: int) -> int:
        while group[place] != place:
            group[place] = group[group[place]]
            place = group[place]
        return place

    for i, j in pairs:
        first, second = sorted((find(i), find(j)))
        group[second] = first
    return [find(place) for place in range(count)]


def describe_pairs(
    source: ImageSource,
    pairs: Collection[Pair],
    digests: Sequence[bytes],
    usable: Sequence[int],
    split: Split,
    groups: Sequence[int] | None,
) -> Copies:
    """Return what pairs of copies mean for a data set.

    Args:
        groups: the group of each usable image, by which the images are divided; None: there are no groups.
    """
    keys, labels = [source.images[place].key for place in usable], [source.images[place].label for place in usable]
    given = [part for place in usable if (part := source.images[place].part)]
    copy_of = connect_pairs(len(source.images), pairs)
    parts = split_indices(keys, labels, split, given=given)
    part_of = {i: part for part, by_class in parts.items() for members in by_class for i in members}
    trained = {copy_of[usable[i]] for i, part in part_of.items() if part == "train"}
    leaks: dict[str, tuple[int, int]] = {}
    for name in ("validation", "test"):
        held_out = [place for i, place in enumerate(usable) if part_of.get(i, "test") == name]
        leaks[name] = (sum(copy_of[place] in trained for place in held_out), len(held_out))
    tested = {place for place, part in name_parts(source, usable, split, groups).items() if part == "test"}
    members_of: dict[int, list[int]] = {}
    for place in usable:
        members_of.setdefault(copy_of[place], []).append(place)
    return Copies(
        tuple(sorted(pairs)),
        len(pair_equal(digests, usable)),
        tuple(tuple(members) for members in members_of.values() if len(members) > 1),
        leaks,
        tuple(
            pair
            for pair in sorted(pairs)
            if source.images[pair[0]].label != source.images[pair[1]].label
            and (_are_equal(digests, pair) or pair[0] not in tested)
        ),
    )


def name_parts(
    source: ImageSource, usable: Sequence[int], split: Split, groups: Sequence[int] | None
) -> dict[int, str]:
    """Return the part of each image: train, validation or test; those that are left out have none.

    Args:
        groups: the group of each usable image; None: there are no groups.
    """
    keys, labels = [source.images[place].key for place in usable], [source.images[place].label for place in usable]
    given = [part for place in usable if (part := source.images[place].part)]
    alone = range(len(usable))
    parts = divide_groups(keys, labels, split, alone if groups is None else groups, given=given)
    return {usable[i]: part for part, by_class in parts.items() for members in by_class for i in members}


def _describe_copies(copies: Copies, given: bool) -> str:
    """Say how many copies there are, and how many held-out images would have one in training if they were ignored."""
    pairs, several = len(copies.pairs), len(copies.groups)
    leaks = describe_leaks(copies)
    kept = (
        ". Parts that were given beforehand stay as they are, and images of train with a copy in one are left out"
        if given
        else f", {'each of which' if several > 1 else 'which'} stays on one side of every split"
    )
    return (
        f"{pairs} {'pairs' if pairs > 1 else 'pair'} of copies (re-saved, resized, recompressed, slightly cropped, "
        f"mirrored or brightened) form {several} {'groups' if several > 1 else 'group'}{kept}; otherwise {leaks} "
        "would have a copy in training. If these are no copies, write `copies: ignore` under `data`"
    )


def describe_leaks(copies: Copies) -> str:
    """Say how many held-out images have a copy in training: `3 of 36 validation and 0 of 36 test images`."""
    leaks = (f"{number} of {total} {part}" for part, (number, total) in copies.leaks.items())
    return f"{' and '.join(leaks)} images"


def warn_of_groups_held_out_twice(source: ImageSource, grouping: Grouping) -> tuple[str, ...]:
    """Return a warning about groups with images in a validation and a test part that were given beforehand."""
    members: dict[int, dict[str | None, int]] = {}
    for place in grouping.usable if grouping.groups else ():
        members.setdefault(grouping.groups[place], {}).setdefault(source.images[place].part, place)
    both = [(one["validation"], one["test"]) for one in members.values() if {"validation", "test"} <= one.keys()]
    if not both:
        return ()
    subject = f"{len(both)} groups have" if len(both) > 1 else "a group has"
    return (
        f"{subject} images in the validation and in the test part, which were given beforehand and stay so; what is "
        f"chosen by validation then looks better in the test than it is. Move each to one part:"
        f"{format_list([name_pair(source, pair) for pair in both])}",
    )


def _contradictions(source: ImageSource, near: Sequence[Pair]) -> tuple[str, ...]:
    """Return a warning about near-duplicates in more than one class."""
    if not near:
        return ()
    subject = f"{len(near)} pairs of copies are" if len(near) > 1 else "a pair of copies is"
    return (
        f"{subject} in more than one class, so a label of each is wrong, unless they are no copies:"
        f"{format_list([name_pair(source, pair) for pair in near])}",
    )


def name_pair(source: ImageSource, pair: Pair) -> str:
    """Return the names of two copies."""
    return " ~ ".join(printable(source.images[place].key) for place in pair)


def describe_shares(split: Split, counts: dict[str, tuple[int, ...]]) -> list[str]:
    """Say how far validation and test are from their shares because groups stay whole; nothing if they are not.

    Args:
        counts: the images of each class in train, validation and test.
    """
    totals = [sum(numbers) for numbers in zip(*counts.values(), strict=True)]
    notes = []
    for part, share in (("validation", split.validation), ("test", split.test)):
        wanted = [max(1, round(share * total)) for total in totals]
        off = [number - target for number, target in zip(counts[part], wanted, strict=True)]
        if any(off):
            notes.append(
                f"{part} has {sum(counts[part])} images where its share asks for {sum(wanted)}, at most "
                f"{max(map(abs, off))} off in a class, because groups stay whole"
            )
    return notes
