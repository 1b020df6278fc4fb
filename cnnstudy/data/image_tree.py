"""From the folders of a tree or an archive to classes and images; options shared by the data sets.

The key of an image comes from its path below the root alone, Unicode-normalised, and keys are sorted: they are the same
on every file system.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

from pydantic import AfterValidator, Field

from cnnstudy.data.archives import ARCHIVE_SUFFIXES, Parts
from cnnstudy.data.datasets import ImageSource, SourceImage
from cnnstudy.data.layouts import (
    OUTSIDE,
    Layout,
    Placed,
    arrange,
    find_part,
    quote_names,
    require_trained,
    warn_of_names,
)
from cnnstudy.data.listing import Tree, list_tree, strip_end
from cnnstudy.errors import DataError, did_you_mean, printable
from cnnstudy.system.validation import describe_place

if TYPE_CHECKING:
    import numpy as np


# ---- options and classes, for the data sets


def _require_existing(path: Path, archives: bool = True) -> Path:
    kinds = f"a folder or an archive ({', '.join(ARCHIVE_SUFFIXES)})" if archives else "a folder"
    expanded = Path(os.path.expanduser(path))
    if os.path.isdir(expanded) or (archives and os.path.isfile(expanded) and _is_archive(expanded)):
        return expanded
    if os.path.exists(expanded):
        raise ValueError(f"{path} is not {kinds}; give one.")
    raise ValueError(f"there is no {describe_place(path)}; give {kinds} that exists.")


def _is_archive(path: Path) -> bool:
    return path.name.lower().endswith(ARCHIVE_SUFFIXES)


#: A folder or an archive, `~` expanded; a relative path is relative to the working folder, but see `load_study`.
ExistingPath = Annotated[Path, AfterValidator(_require_existing)]
ExistingFolder = Annotated[Path, AfterValidator(partial(_require_existing, archives=False))]


#: YAML reads a name such as 7 as a number.
ClassName = Annotated[str, Field(coerce_numbers_to_str=True)]

_Classes = TypeVar("_Classes", bound="tuple[str | int, ...] | None")


def require_distinct_classes(classes: _Classes) -> _Classes:
    """Return the classes.

    Raises:
        ValueError: a class is listed twice.
    """
    if classes is not None and len(set(classes)) < len(classes):
        raise ValueError(f"a class is listed twice in {list(classes)}; list each class once.")
    return classes


def require_known_classes(known: Sequence[str]) -> Callable[[tuple[str, ...]], tuple[str, ...]]:
    """Return a validator that raises ValueError for a class that is not among the known ones."""

    def check(classes: tuple[str, ...]) -> tuple[str, ...]:
        for name in classes:
            if name not in known:
                raise ValueError(
                    f"there is no class {name!r}{did_you_mean(name, known)} The classes are {', '.join(known)}."
                )
        return classes

    return check


def select_classes(
    known: Sequence[str], classes: Sequence[str], images: Iterable[tuple[str, int, np.ndarray]]
) -> ImageSource:
    """Return the images of `classes`, labelled in that order.

    Args:
        images: (key, label, pixels), the label an index into `known`.
    """
    label_of = {known.index(name): label for label, name in enumerate(classes)}
    return ImageSource(
        tuple(classes),
        tuple(SourceImage(key, label_of[label], pixels) for key, label, pixels in images if label in label_of),
    )


# ---- from a tree of files to classes and images


def read_tree(
    path: Path,
    classes: Sequence[str] | None = None,
    layout: Layout | None = None,
    ignore_folders: Sequence[str] = (),
) -> ImageSource:
    """List the images of a tree of folders, with images at any depth below the folder of their class.

    A folder that only wraps the others (`flower_photos/daisy/1.jpg`, `train/train/cat/1.jpg`) is stripped. Hidden files
    and folders, files that are no images, and images outside the class folders are counted and not used.

    Args:
        path: the folder that holds the class folders, or an archive of it.
        classes: use only these, labelled in this order; default: all, sorted.
        layout: how to read the folders; None: the only way in which they can be read.
        ignore_folders: names of folders to pass over, at any depth.

    Raises:
        DataError: the path can't be read, or in two ways, there are fewer than two classes, one is empty or unknown, or
            names clash.
    """
    tree, path = _strip_wrapping_folders(list_tree(path).without(ignore_folders), path)
    options = [f"`layout: {layout}`"] * (layout is not None) + ["`ignore_folders`"] * bool(ignore_folders)
    layout, folders, placed = arrange(path, tree, layout)
    if len(folders) < 2:
        outside = sorted(parts[0] for parts, _ in tree.images if len(parts) == 1)
        raise DataError(_too_few_classes(path, sorted(folders), outside, options))
    images_in: dict[str, list[Placed]] = {folder: [] for folder in sorted(folders)}
    for one in placed:
        images_in[one.folder].append(one)
    folder_of = name_classes(path, images_in, "class folder")
    warnings = () if classes is not None else tuple(warn_of_names(folders))
    classes = sorted(folder_of) if classes is None else classes
    _check_classes(path, classes, folder_of, images_in)
    require_trained(path, [one for name in classes for one in images_in[folder_of[name]]])
    images: dict[str, SourceImage] = {}
    for label, name in enumerate(classes):
        for one in images_in[folder_of[name]]:
            key = _normalise(path, "/".join(one.image[0]))
            if key in images:
                raise DataError(
                    f"two images in {path} have the name {key!r} once its Unicode is normalised (NFC); rename one."
                )
            images[key] = SourceImage(key, label, one.image[1], one.part)
    unlisted = [one for name in set(folder_of) - set(classes) for one in images_in[folder_of[name]]]
    tree.passed_over.add_images("of classes that are not listed", (one.image[0] for one in unlisted))
    ordered = tuple(images[key] for key in sorted(images))
    return ImageSource(tuple(classes), ordered, tree.passed_over.list_kinds(), layout, warnings)


def _strip_wrapping_folders(tree: Tree, path: Path) -> tuple[Tree, Path]:
    """Return the tree below the folders that only wrap it, and the path that then is its root, for messages."""
    while (
        sum(len(parts) == 1 for parts in tree.folders) == 1
        and any(len(parts) == 2 for parts in tree.folders)
        and not any(len(parts) == 2 for parts, _ in tree.images)
    ):
        path /= printable(next(parts[0] for parts in tree.folders if len(parts) == 1))
        tree.passed_over.add_images(OUTSIDE, (parts for parts, _ in tree.images if len(parts) == 1))
        tree = Tree(
            {parts[1:] for parts in tree.folders if len(parts) > 1},
            [(parts[1:], content) for parts, content in tree.images if len(parts) > 1],
            tree.passed_over,
        )
    return _strip_repeated_parts(tree), path


def _strip_repeated_parts(tree: Tree) -> Tree:
    """Return the tree without the only folder in a part's: `training_set/training_set/cat`, as Kaggle packs it."""
    below: dict[str, set[str]] = {}
    for parts in (*tree.folders, *(parts for parts, _ in tree.images)):
        if len(parts) > 1:
            below.setdefault(parts[0], set()).add(parts[1])
    deep = {parts[0] for parts, _ in tree.images if len(parts) > 3}
    packed = all(find_part(name) and len(names) == 1 and name in deep for name, names in below.items())
    repeated = {name for name, names in below.items() if packed or (names == {name} and find_part(name))}
    if not repeated:
        return tree

    def strip(parts: Parts) -> Parts:
        return parts[:1] + parts[2:] if parts[0] in repeated else parts

    return Tree(
        set(map(strip, tree.folders)), [(strip(parts), content) for parts, content in tree.images], tree.passed_over
    )


def _too_few_classes(path: Path, folders: list[str], outside: list[str], options: list[str]) -> str:
    contents = f"only one folder, {folders[0]!r}," if folders else "no folder of images"
    if outside:
        contents += f" and {len(outside)} images outside any class folder ({quote_names(outside)})"
    read = f"read with {' and '.join(options)}, " if options else ""
    root = f"{path.name.split('.')[0] or path}{'/2024' * any('below' in one for one in options)}"
    return (
        f"{read}{path} holds {contents.rstrip(',')}; it must hold one folder per class, at least two, each with the "
        f"images of its class, such as {root}/daisy/1.jpg and .../tulips/1.jpg."
    )


def name_classes(path: Path, folders: Iterable[str], what: str) -> dict[str, str]:
    """Return the folder or label of each class by its name, which is the same, Unicode-normalised.

    Args:
        what: "class folder" or "label", for messages.

    Raises:
        DataError: a name can't be shown, or two would be the same folder on some file systems.
    """
    folder_of: dict[str, str] = {}
    by_folded_name: dict[str, str] = {}
    for folder in folders:
        name = _normalise(path, folder)
        if any(unicodedata.category(letter) in ("Cc", "Zl", "Zp") or _changes_direction(letter) for letter in name):
            raise DataError(
                f"the name of the {what} {folder!r} in {path} contains a line break or another control character, "
                "which no table can show; rename it."
            )
        folded_name = unicodedata.normalize("NFC", strip_end(name).casefold())
        other = by_folded_name.setdefault(folded_name, folder)
        if other != folder:
            raise DataError(
                f"the {what}s {other!r} and {folder!r} in {path} differ only in upper and lower case, in spaces or "
                f"dots at the end, or in the form of their Unicode ({other!a} and {folder!a}), and are the same folder "
                "on other file systems; merge or rename one."
            )
        folder_of[name] = folder
    return folder_of


def _check_classes(
    path: Path, classes: Sequence[str], folder_of: Mapping[str, str], images_in: Mapping[str, list[Placed]]
) -> None:
    """Raise DataError for a class that does not exist or has no images."""
    for name in classes:
        if name not in folder_of:
            raise DataError(
                f"there is no class {name!r} in {path}{did_you_mean(name, folder_of)} "
                f"The classes there are {quote_names(sorted(folder_of))}."
            )
    empty = [name for name in classes if not images_in[folder_of[name]]]
    if empty:
        raise DataError(
            f"no images in {path} for {quote_names(empty)}; images are told by what is in a file, and a folder "
            "that is linked to twice counts once. Add images, remove the folder, list it in `ignore_folders`, or list "
            "the `classes` to use."
        )


def _changes_direction(letter: str) -> bool:
    """Check whether it changes the direction of the text after it, which would make a name look like another."""
    return unicodedata.bidirectional(letter) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")


def _normalise(path: Path, name: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError:
        raise DataError(f"a name in {path} is not valid Unicode: {name!a}; rename it.") from None
    return unicodedata.normalize("NFC", name)
