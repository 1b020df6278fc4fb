"""How many images of each class are in train, validation and test, and what a class has too few of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from cnnstudy.data.datasets import SourceImage
from cnnstudy.data.grouped_splits import divide_groups
from cnnstudy.data.splits import count_held_out, split_indices
from cnnstudy.errors import DataError, format_list
from cnnstudy.records import Split

#: Images that a class needs, to have one in test, one in validation and two in training.
LEAST_IMAGES = 4


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
        found = f"there is only one class ({classes[0]})" if classes else "there is no class"
        raise DataError(f"{found}; at least two are needed.")
    if groups is not None:
        keys = [image.key for image in images]
        parts = divide_groups(keys, labels, split, groups, given=given)
        if lack := _describe_grouped_lack(classes, parts, labels, groups, bool(set(given) - {"train"}), are_copies):
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
        shares = "" if given or max(too_small) < LEAST_IMAGES else ", or make the shares of validation and test smaller"
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
        return "" if all(numbers.values()) else _describe_empty_part(numbers)
    if total < LEAST_IMAGES:
        return _describe_small_class(total)
    if numbers["train"]:
        return ""
    return (
        f"{total} usable images; with validation {split.validation:g} and test {split.test:g} none is left for training"
    )


def _describe_empty_part(numbers: Mapping[str, int]) -> str:
    listed = f"{numbers['train']} train, {numbers['validation']} validation and {numbers['test']} test images"
    return f"{listed}; each part needs at least one"


def _describe_small_class(total: int) -> str:
    number = "1 usable image" if total == 1 else f"{total} usable images"
    return f"{number}; at least {LEAST_IMAGES} are needed for training, validation and test"


def _describe_grouped_lack(
    classes: Sequence[str],
    parts: Mapping[str, Sequence[Sequence[int]]],
    labels: Sequence[int],
    groups: Sequence[int],
    has_given_part: bool,
    are_copies: bool,
) -> str:
    """Return what the first class that lacks images in a part has too few of, and what to do; "" if none does.

    Args:
        parts: how images in groups were divided.
        has_given_part: whether validation or test was given beforehand.
    """
    totals = Counter(labels)
    for label, name in enumerate(classes):
        numbers = {part: len(by_class[label]) for part, by_class in parts.items()}
        if totals[label] < LEAST_IMAGES:
            return f"class {name!r} has {_describe_small_class(totals[label])}. Add images or remove the class"
        if all(numbers.values()):
            continue
        left_out = totals[label] - sum(numbers.values())
        if has_given_part and left_out:
            return (
                f"class {name!r} has {_describe_empty_part(numbers)}. {left_out} of its training images are left out, "
                "because each is in a group with an image of a part that was given; move each group to one part, or do "
                "without groups"
            )
        number = len({group for group, own in zip(groups, labels, strict=True) if own == label})
        listed = "1 group that stays whole" if number == 1 else f"{number} groups that stay whole"
        advice = "Add other images or remove the class"
        if are_copies:
            advice += "; if its images are no copies, write `copies: ignore` under `data`"
        return (
            f"the {totals[label]} images of class {name!r} are in {listed}: too few for training, validation and test, "
            f"each of which needs one. {advice}"
        )
    return ""
