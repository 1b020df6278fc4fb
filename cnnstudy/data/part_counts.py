"""How many images of each class are in train, validation and test, and what a class has too few of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from cnnstudy.data.datasets import SourceImage
from cnnstudy.data.grouped_splits import divide_groups
from cnnstudy.data.splits import count_held_out, split_indices
from cnnstudy.errors import DataError, format_list
from cnnstudy.records import Split


def count_images(
    classes: Sequence[str],
    images: Sequence[SourceImage],
    split: Split,
    groups: Sequence[int] | None,
    are_copies: bool = False,
) -> dict[str, tuple[int, ...]]:
    """Count the images per class in train, validation and test.

    Args:
        are_copies: whether copies are among the groups.

    Raises:
        DataError: there are fewer than two classes, or classes have too few images for all three.
    """
    labels = [image.label for image in images]
    given = [image.part for image in images if image.part]
    if len(classes) < 2:
        raise DataError(f"there is only one class ({', '.join(classes) or 'none'}); at least two are needed.")
    if groups is not None:
        keys = [image.key for image in images]
        parts = divide_groups(keys, labels, split, groups, given=given)
        lack = _describe_grouped_lack(classes, parts, labels, groups, bool(set(given) - {"train"}), are_copies)
        if lack:
            raise DataError(f"{lack}.")
        return {part: tuple(map(len, by_class)) for part, by_class in parts.items()}
    parts = split_indices([image.key for image in images], labels, split, given=given)
    totals, tested = Counter(labels), Counter(image.label for image in images if image.part == "test")
    to_divide = Counter(image.label for image in images if image.part in (None, "train"))
    counts: dict[str, list[int]] = {"train": [], "validation": [], "test": []}
    lacking, too_small = [], []
    for label, name in enumerate(classes):
        numbers = {part: len(by_class[label]) if label < len(by_class) else 0 for part, by_class in parts.items()}
        numbers["test"] = (
            tested[label] if "test" in given else min(to_divide[label], count_held_out(to_divide[label], split))
        )
        lack = _describe_lack(totals[label], numbers, bool(given), split)
        lacking += [f"class {name!r} has {lack}"] if lack else []
        too_small += [totals[label]] if lack else []
        for part, number in numbers.items():
            counts[part].append(number)
    if lacking:
        several = f"{len(lacking)} classes are too small for their parts:{format_list(lacking)}\n"
        shares = "" if given or max(too_small) < 4 else ", or make the shares of validation and test smaller"
        raise DataError(
            f"{several if len(lacking) > 1 else f'{lacking[0]}. '}Add images, or leave classes out (`classes` lists "
            f"those to use){shares}."
        )
    return {part: tuple(numbers) for part, numbers in counts.items()}


def _describe_lack(total: int, numbers: Mapping[str, int], given: bool, split: Split) -> str:
    """Return what a class has too few of; "" if it has images in every part.

    Args:
        total: its usable images.
        numbers: those in train, validation and test.
        given: whether the images were divided beforehand.
    """
    if given:
        listed = f"{numbers['train']} train, {numbers['validation']} validation and {numbers['test']} test images"
        return "" if all(numbers.values()) else f"{listed}; each part needs at least one"
    if total < 4:
        number = "1 usable image" if total == 1 else f"{total} usable images"
        return f"{number}; at least 4 are needed for training, validation and test"
    if numbers["train"]:
        return ""
    return (
        f"{total} usable images; with validation {split.validation:g} and test {split.test:g} none is left for training"
    )


def _describe_grouped_lack(
    classes: Sequence[str],
    parts: Mapping[str, Sequence[Sequence[int]]],
    labels: Sequence[int],
    groups: Sequence[int],
    given: bool,
    are_copies: bool,
) -> str:
    """Return what the first class that lacks images in a part has too few of, and what to do; "" if none does.

    Args:
        parts: how images in groups were divided.
        given: whether there was a validation or a test part beforehand.
    """
    totals = Counter(labels)
    for label, name in enumerate(classes):
        numbers = {part: len(by_class[label]) for part, by_class in parts.items()}
        if totals[label] < 4:
            lack = _describe_lack(totals[label], {}, False, Split(0, 0, 0))
            return f"class {name!r} has {lack}. Add images or remove the class"
        if all(numbers.values()):
            continue
        left_out = totals[label] - sum(numbers.values())
        if given and left_out:
            return (
                f"class {name!r} has {_describe_lack(totals[label], numbers, True, Split(0, 0, 0))}. {left_out} of its "
                "training images are left out, because each is in a group with an image of a part that was given; "
                "move each group to one part, or do without groups"
            )
        number = len({group for group, own in zip(groups, labels, strict=True) if own == label})
        return (
            f"the {totals[label]} images of class {name!r} are in {number} group{'s' * (number != 1)} that "
            f"stay{'s' * (number == 1)} whole: too few for training, validation and test, each of which needs one. Add "
            "other images or remove the class"
            + "; if its images are no copies, write `copies: ignore` under `data`"
            * are_copies
        )
    return ""
