"""What there is to train on, in a few lines that a study shows before anything trains, and `data` at its beginning."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from cnnstudy.data.datasets import DataOptions, SourceImage
from cnnstudy.data.layouts import MASK_ENDING
from cnnstudy.errors import format_list, printable
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
    given = describe_given(images.given)
    equal = all(len(set(counts)) == 1 for counts in parts.values())
    which = "each class" if equal else f"the smallest class, {images.classes[smallest]},"
    lines = [
        describe_classes(images.name, sizes),
        f"  parts: {numbers}{f' ({given})' if given else ''}; {which} has {of_smallest}",
    ]
    if images.passed_over:
        lines.append(f"  passed over: {', '.join(images.passed_over)}")
    return "\n".join(map(printable, lines))


def describe_classes(name: str, sizes: Mapping[str, int]) -> str:
    """Return the classes of a data set with their numbers of images."""
    of = "1 class" if len(sizes) == 1 else f"{len(sizes)} classes"
    return f"{name}: {sum(sizes.values()):,} images of {of}: {_list_sizes(sizes)}"


def _list_sizes(sizes: Mapping[str, int]) -> str:
    if len(sizes) <= MOST_CLASSES:
        return ", ".join(f"{name} ({size:,})" for name, size in sizes.items())
    order = sorted(sizes, key=lambda name: -sizes[name])
    ends = [", ".join(f"{name} ({sizes[name]:,})" for name in names) for names in (order[:3], order[-3:])]
    return f"{ends[0]}, ... {ends[1]}"


def describe_given(given: Collection[str]) -> str:
    """Say which parts are as they were given beforehand, and which were cut from train; "" if none were given."""
    if not given:
        return ""
    held = [part for part in ("validation", "test") if part in given]
    cut = [part for part in ("validation", "test") if part not in given]
    told = [f"{' and '.join(held)} as given"] * bool(held) + [f"{' and '.join(cut)} cut from train"] * bool(cut)
    return ", ".join(told) + ("; every seed has the same validation images" if "validation" in given else "")


def describe_left_out(number: int) -> list[str]:
    """Say how many images of train are left out for parts that were given beforehand; nothing if none are."""
    if not number:
        return []
    subject = "1 image of train is" if number == 1 else f"{number} images of train are"
    return [f"{subject} left out: each is a copy of an image in a part that was given, or in a group with one"]


def warn_of_shares(options: DataOptions, given: Collection[str]) -> tuple[str, ...]:
    """Return a warning for each share of the split that has no effect, because that part was given beforehand."""
    return tuple(
        f"`{part}: {getattr(options, part):g}` has no effect, because the images have a {part} part already. Remove "
        "the key; to divide all images anew, move those of each class into one folder"
        for part in ("validation", "test")
        if part in given and getattr(options, part) != DataOptions.model_fields[part].default
    )


def warn_of_masks(used: Sequence[SourceImage]) -> tuple[str, ...]:
    """Return a warning about images that are named like masks of others."""
    masks = [image.key for image in used if MASK_ENDING.search(image.key.rpartition("/")[2].rpartition(".")[0])]
    if not masks:
        return ()
    return (
        f"{len(masks)} images are named like masks or labels of others, and are used as photos: "
        f"{format_list(list(map(printable, masks)))}\nMove them elsewhere, or list the photos in a table "
        "(`name: table`)",
    )
