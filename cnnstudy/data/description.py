"""What there is to train on, in a few lines that a study shows before anything trains, and `data` at its beginning."""

from __future__ import annotations

from collections.abc import Mapping

from cnnstudy.data.duplicates import format_list
from cnnstudy.errors import printable
from cnnstudy.records import PreparedImages

#: More classes than this are not all listed: the largest and the smallest are.
MOST_CLASSES = 12


def describe_prepared(images: PreparedImages) -> list[str]:
    """Return the messages of a study at its start: the images, those that are skipped, warnings and notes."""
    bad = format_list(list(map(str, images.skipped)))
    return [
        describe_images(images),
        *([f"{images.name}: {len(images.skipped)} images can't be used and are skipped:{bad}"] if bad else ()),
        *(f"WARNING: {images.name}: {warning}" for warning in images.warnings),
        *(f"{images.name}: {note}" for note in images.notes),
    ]


def describe_images(images: PreparedImages) -> str:
    """Return the classes with their numbers of images, the parts, the smallest class, and what was passed over."""
    parts = {"train": images.train, "validation": images.validation, "test": images.test}
    sizes = {name: sum(counts) for name, *counts in zip(images.classes, *parts.values(), strict=True)}
    smallest = min(range(len(sizes)), key=[*sizes.values()].__getitem__)
    numbers = ", ".join(f"{sum(counts):,} {part}" for part, counts in parts.items())
    of_smallest = ", ".join(f"{counts[smallest]:,}" for counts in parts.values())
    equal = all(len(set(counts)) == 1 for counts in parts.values())
    which = "each class" if equal else f"the smallest class, {images.classes[smallest]},"
    lines = [
        describe_classes(images.name, sizes),
        f"  parts: {numbers}{_describe_given(images.given)}; {which} has {of_smallest}",
    ]
    if images.passed_over:
        lines.append(f"  passed over: {', '.join(images.passed_over)}")
    return "\n".join(map(printable, lines))


def describe_classes(name: str, sizes: Mapping[str, int]) -> str:
    """Return the classes of a data set with their numbers of images."""
    return f"{name}: {sum(sizes.values()):,} images of {len(sizes)} classes: {_list_sizes(sizes)}"


def _list_sizes(sizes: Mapping[str, int]) -> str:
    if len(sizes) <= MOST_CLASSES:
        return ", ".join(f"{name} ({size:,})" for name, size in sizes.items())
    order = sorted(sizes, key=lambda name: -sizes[name])
    ends = [", ".join(f"{name} ({sizes[name]:,})" for name in names) for names in (order[:3], order[-3:])]
    return f"{ends[0]}, ... {ends[1]}"


def _describe_given(given: tuple[str, ...]) -> str:
    """Say which parts are as they were given, and which were cut from train."""
    if not given:
        return ""
    held = [part for part in ("validation", "test") if part in given]
    cut = [part for part in ("validation", "test") if part not in given]
    text = f" ({' and '.join(held)} as given" + (f", {cut[0]} cut from train" if cut else "")
    return f"{text}; every seed has the same validation images)" if "validation" in given else f"{text})"
