"""What there is to train on, in a short paragraph that a study shows before anything trains."""

from __future__ import annotations

from collections.abc import Mapping

from cnnstudy.errors import printable
from cnnstudy.records import PreparedImages

#: More classes than this are not all listed: the largest and the smallest are.
MOST_CLASSES = 12


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
        f"{images.name}: {sum(sizes.values()):,} images of {len(sizes)} classes: {_list_sizes(sizes)}",
        f"  parts: {numbers}{_describe_given(images.given)}; {which} has {of_smallest}",
    ]
    if images.passed_over:
        lines.append(f"  passed over: {', '.join(images.passed_over)}")
    return "\n".join(map(printable, lines))


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
