"""Lists the images of a folder or an archive that holds one folder per class; options shared by the data sets.

The key of an image comes from its path below the root alone, Unicode-normalised, and keys are sorted: they are the same
on every file system.

Links in a folder are followed wherever they lead, because people keep their photos in one place and link to them; each
real folder is read once, so loops end. Links in an archive are refused. Pipes and devices are ignored.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

from pydantic import AfterValidator

from cnnstudy.data.archives import ARCHIVE_SUFFIXES, Parts, archive_members, is_hidden
from cnnstudy.data.datasets import ImageSource, SourceImage
from cnnstudy.errors import DataError, did_you_mean, printable

if TYPE_CHECKING:
    import numpy as np

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
#: Image formats that are not supported. They are listed all the same, so that they are reported as bad images: silently
#: ignored, they would go unnoticed.
UNSUPPORTED_SUFFIXES = (
    *(".heic", ".heif", ".avif", ".jxl", ".jp2", ".svg", ".psd"),
    *(".dng", ".nef", ".cr2", ".cr3", ".arw", ".raf", ".orf", ".rw2"),
)


# ---- options and classes, for the data sets


def _require_existing(path: Path, archives: bool = True) -> Path:
    kinds = f"a folder or an archive ({', '.join(ARCHIVE_SUFFIXES)})" if archives else "a folder"
    expanded = Path(os.path.expanduser(path))
    if os.path.isdir(expanded) or (archives and os.path.isfile(expanded) and _is_archive(expanded)):
        return expanded
    if os.path.exists(expanded):
        raise ValueError(f"{path} is not {kinds}; give one.")
    raise ValueError(f"there is no {path} (looked for {expanded.absolute()}); give {kinds} that exists.")


def _is_archive(path: Path) -> bool:
    return path.name.lower().endswith(ARCHIVE_SUFFIXES)


#: A folder or an archive, `~` expanded; a relative path is relative to the current directory.
ExistingPath = Annotated[Path, AfterValidator(_require_existing)]
ExistingFolder = Annotated[Path, AfterValidator(partial(_require_existing, archives=False))]


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


#: An image: its path below the root, and its file or bytes.
_Image = tuple[Parts, Path | bytes]


@dataclass(frozen=True)
class _Tree:
    """Every visible folder and every image below a root, with their names as stored."""

    folders: set[Parts]
    images: list[_Image]


def read_tree(path: Path, classes: Sequence[str] | None = None) -> ImageSource:
    """List the images of a tree that has one folder per class, with images at any depth below it.

    A folder that only wraps the class folders (`flower_photos/daisy/1.jpg`) is stripped. Hidden files and folders,
    `__MACOSX`, files without an image suffix and files outside the class folders are ignored.

    Args:
        path: the folder that holds the class folders, or an archive of it.
        classes: use only these, labelled in this order; default: all, sorted.

    Raises:
        DataError: the path can't be read, there are fewer than two classes, one is empty or unknown, or names clash.
    """
    tree, path = _strip_wrapping_folders(_list_archive(path) if os.path.isfile(path) else _list_folder(path), path)
    images_in = _group_by_folder(path, tree)
    folder_of = _name_classes(path, images_in)
    if classes is None:
        classes = sorted(folder_of)
    _check_classes(path, classes, folder_of, images_in)
    images: dict[str, SourceImage] = {}
    for label, name in enumerate(classes):
        for parts, content in images_in[folder_of[name]]:
            key = _normalise(path, "/".join(parts))
            if key in images:
                raise DataError(
                    f"two images in {path} have the name {key!r} once its Unicode is normalised (NFC); rename one."
                )
            images[key] = SourceImage(key, label, content)
    return ImageSource(tuple(classes), tuple(images[key] for key in sorted(images)))


def _strip_wrapping_folders(tree: _Tree, path: Path) -> tuple[_Tree, Path]:
    """Return the tree below the folders that only wrap it, and the path that then is its root, for messages."""
    while (
        sum(len(parts) == 1 for parts in tree.folders) == 1
        and any(len(parts) == 2 for parts in tree.folders)
        and not any(len(parts) == 2 for parts, _ in tree.images)
    ):
        path /= printable(next(parts[0] for parts in tree.folders if len(parts) == 1))
        tree = _Tree(
            {parts[1:] for parts in tree.folders if len(parts) > 1},
            [(parts[1:], content) for parts, content in tree.images if len(parts) > 1],
        )
    return tree, path


def _group_by_folder(path: Path, tree: _Tree) -> dict[str, list[_Image]]:
    """Return the images of each top-level folder.

    Raises:
        DataError: there are fewer than two folders.
    """
    images_in: dict[str, list[_Image]] = {parts[0]: [] for parts in sorted(tree.folders) if len(parts) == 1}
    for parts, content in tree.images:
        if len(parts) > 1:
            images_in[parts[0]].append((parts, content))
    if len(images_in) < 2:
        outside = sorted(parts[0] for parts, _ in tree.images if len(parts) == 1)
        raise DataError(_too_few_classes(path, list(images_in), outside))
    return images_in


def _too_few_classes(path: Path, folders: list[str], outside: list[str]) -> str:
    contents = f"only one folder, {folders[0]!r}," if folders else "no folder of images"
    if outside:
        contents += f" and {len(outside)} images outside any class folder ({_quote_names(outside)})"
    return (
        f"{path} holds {contents.rstrip(',')}; it must hold one folder per class, at least two, each with the images "
        f"of its class, such as {path.name.split('.')[0] or path}/daisy/1.jpg and .../tulips/1.jpg."
    )


def _quote_names(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:12])) + (f" and {len(names) - 12} more" if len(names) > 12 else "")


def _name_classes(path: Path, folders: Iterable[str]) -> dict[str, str]:
    """Return the folder of each class by its name, which is the folder's name, Unicode-normalised.

    Raises:
        DataError: a name can't be shown, or two would be the same folder on some file systems.
    """
    folder_of: dict[str, str] = {}
    by_folded_name: dict[str, str] = {}
    for folder in folders:
        name = _normalise(path, folder)
        if any(unicodedata.category(letter) in ("Cc", "Zl", "Zp") or _changes_direction(letter) for letter in name):
            raise DataError(
                f"the name of the class folder {folder!r} in {path} contains a line break or another control "
                "character, which no table can show; rename it."
            )
        folded_name = unicodedata.normalize("NFC", _strip_end(name).casefold())
        other = by_folded_name.setdefault(folded_name, folder)
        if other != folder:
            raise DataError(
                f"the class folders {other!r} and {folder!r} in {path} differ only in upper and lower case, in spaces "
                f"or dots at the end, or in the form of their Unicode ({other!a} and {folder!a}), and are the same "
                "folder on other file systems; merge or rename one."
            )
        folder_of[name] = folder
    return folder_of


def _check_classes(
    path: Path, classes: Sequence[str], folder_of: Mapping[str, str], images_in: Mapping[str, list[_Image]]
) -> None:
    """Raise DataError for a class that does not exist or has no images."""
    for name in classes:
        if name not in folder_of:
            raise DataError(
                f"there is no class {name!r} in {path}{did_you_mean(name, folder_of)} "
                f"The classes there are {_quote_names(sorted(folder_of))}."
            )
    empty = [name for name in classes if not images_in[folder_of[name]]]
    if empty:
        raise DataError(
            f"no images in {path} for {_quote_names(empty)}; images are files that end in {', '.join(IMAGE_SUFFIXES)}, "
            "and a folder that is linked to twice counts once. Add images, remove the folder, or list the `classes` to "
            "use."
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


# ---- the contents of a folder or an archive


def _is_image(parts: Parts) -> bool:
    return _strip_end(parts[-1]).lower().endswith((*IMAGE_SUFFIXES, *UNSUPPORTED_SUFFIXES))


def _strip_end(name: str) -> str:
    """Strip the spaces and dots at the end, which Windows drops."""
    return name.rstrip(" .")


def _list_folder(root: Path) -> _Tree:
    """List a folder on disk, following links.

    Each real folder is read once, so that no image is in two parts of the split; links to folders come last, so that a
    folder keeps its own name.

    Raises:
        DataError: a folder can't be read, or a link that may be a folder leads nowhere.
    """
    tree = _Tree(set(), [])
    seen: set[str] = set()
    waiting: list[tuple[str, Parts]] = [(os.fspath(root), ())]
    links: list[tuple[str, Parts]] = []
    try:
        while waiting or links:
            folder, parts = waiting.pop() if waiting else links.pop(0)
            if parts:
                tree.folders.add(parts)
            real = os.path.realpath(folder)
            if real in seen:
                continue
            seen.add(real)
            with os.scandir(folder) as listing:
                entries = sorted((e for e in listing if not is_hidden(e.name)), key=lambda e: e.name)
            for entry in entries:
                below = (*parts, entry.name)
                broken = entry.is_symlink() and not os.path.exists(entry.path)
                if broken and not os.path.splitext(entry.name)[1]:
                    raise DataError(
                        f"the link {printable(entry.path)} leads to nothing that can be read; if it is meant to be a "
                        "folder of images, repair it, else remove it."
                    )
                if not broken and entry.is_dir():
                    if not entry.is_symlink():
                        waiting.append((entry.path, below))
                    elif not _is_inside(real, entry.path):  # a link to a folder above would be a loop
                        links.append((entry.path, below))
                # broken links are listed too: reading them reports them, while ignored they would not be missed
                elif _is_image(below) and (broken or entry.is_file()):
                    tree.images.append((below, Path(entry.path)))
    except OSError as reason:
        raise DataError(
            f"can't read {printable(str(reason.filename or root))}: {reason.strerror or reason}"
        ) from reason
    return tree


def _is_inside(real_folder: str, link: str) -> bool:
    return f"{real_folder}{os.sep}".startswith(os.path.join(os.path.realpath(link), ""))


def _list_archive(path: Path) -> _Tree:
    tree = _Tree(set(), [])
    for parts, content in archive_members(path, _is_image):
        folder = parts if content is None else parts[:-1]
        tree.folders.update(folder[:depth] for depth in range(1, len(folder) + 1))
        if content is not None:
            tree.images.append((parts, content))
    return tree
