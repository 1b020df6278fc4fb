"""What data sets of files share: their options, and image trees (one folder a class) from a folder or an archive.

The keys of images come from their names alone, Unicode-normalised and sorted: the same on every file system.

Links in a folder are followed wherever they lead, for people keep their photos once and link to them; each real folder
is read once, so that loops end. Links in an archive are refused. Pipes and devices are ignored.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator

from cnnstudy.data.archives import ARCHIVE_SUFFIXES, Parts, archive_members, is_hidden
from cnnstudy.data.datasets import ImageSource, SourceImage
from cnnstudy.errors import DataError, did_you_mean, printable

if TYPE_CHECKING:
    import numpy as np

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
#: Images that are not read. They count, so that they are named: left out without a word they would not be missed.
UNREAD_SUFFIXES = (
    *(".heic", ".heif", ".avif", ".jxl", ".jp2", ".svg", ".psd"),
    *(".dng", ".nef", ".cr2", ".cr3", ".arw", ".raf", ".orf", ".rw2"),
)


def _existing(path: Path, archives: bool = True) -> Path:
    kinds = f"a folder or an archive ({', '.join(ARCHIVE_SUFFIXES)})" if archives else "a folder"
    found = Path(os.path.expanduser(path))
    if os.path.isdir(found) or (archives and os.path.isfile(found) and _is_archive(found)):
        return found
    if os.path.exists(found):
        raise ValueError(f"{path} is not {kinds}; give one.")
    raise ValueError(f"there is no {path} (looked for {found.absolute()}); give {kinds} that exists.")


def _is_archive(path: Path) -> bool:
    return path.name.lower().endswith(ARCHIVE_SUFFIXES)


#: A folder or an archive, `~` expanded; a relative path is relative to the current directory.
ExistingPath = Annotated[Path, AfterValidator(_existing)]
ExistingFolder = Annotated[Path, AfterValidator(partial(_existing, archives=False))]


def require_distinct(classes: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """A validator: no class stands twice."""
    if classes is not None and len(set(classes)) < len(classes):
        raise ValueError(f"a class stands twice in {list(classes)}; give each once.")
    return classes


def require_known(known: Sequence[str]) -> Callable[[tuple[str, ...]], tuple[str, ...]]:
    """A validator: all are classes of a data set whose classes are known beforehand."""

    def check(classes: tuple[str, ...]) -> tuple[str, ...]:
        for name in classes:
            if name not in known:
                guess = did_you_mean(name, known) or "."
                raise ValueError(f"there is no class {name!r}{guess} The classes are {', '.join(known)}.")
        return classes

    return check


def select_classes(
    known: Sequence[str], classes: Sequence[str], images: Iterable[tuple[str, int, np.ndarray]]
) -> ImageSource:
    """Of (key, label, pixels), whose labels are indices into `known`, those in `classes`, labelled in their order."""
    label_of = {known.index(name): label for label, name in enumerate(classes)}
    return ImageSource(
        tuple(classes),
        tuple(SourceImage(key, label_of[label], pixels) for key, label, pixels in images if label in label_of),
    )


@dataclass(frozen=True)
class _Tree:
    """Every visible folder and every image below a root; names as they were found."""

    folders: set[Parts]
    images: list[tuple[Parts, Path | bytes]]


def read_tree(path: Path, classes: Sequence[str] | None = None) -> ImageSource:
    """The images of a tree with one folder a class, at any depth below it.

    A folder that only wraps the class folders (`flower_photos/daisy/1.jpg`) is stripped. Hidden files and folders,
    `__MACOSX`, files that are no images by their suffix and files outside the class folders are ignored.

    Args:
        path: the folder that holds the class folders, or an archive of it.
        classes: use only these, labelled in this order; without, all, sorted.

    Raises:
        DataError: it can't be read, there are fewer than two classes, one is empty or unknown, or names clash.
    """
    tree = _unwrapped(_tree_of_archive(path) if os.path.isfile(path) else _tree_of_folder(path))
    members: dict[str, list[tuple[Parts, Path | bytes]]] = {
        parts[0]: [] for parts in sorted(tree.folders) if len(parts) == 1
    }
    for parts, content in tree.images:
        if len(parts) > 1:
            members[parts[0]].append((parts, content))
    if len(members) < 2:
        raise DataError(_too_few_classes(path, list(members), [p[0] for p, _ in tree.images if len(p) == 1]))
    by_name = _by_name(path, members)
    if classes is None:
        classes = sorted(by_name)
    for name in classes:
        if name not in by_name:
            guess = did_you_mean(name, by_name) or "."
            raise DataError(
                f"there is no class {name!r} in {path}{guess} The classes there are {_shown(sorted(by_name))}."
            )
    empty = [name for name in classes if not members[by_name[name]]]
    if empty:
        raise DataError(
            f"no images in {path} for {_shown(empty)}; images are files that end in {', '.join(IMAGE_SUFFIXES)}, and "
            "a folder that is linked to twice counts once. Add images, remove the folder, or list the `classes` to use."
        )
    images: dict[str, SourceImage] = {}
    for label, name in enumerate(classes):
        for parts, content in members[by_name[name]]:
            key = _normalised(path, "/".join(parts))
            if key in images:
                raise DataError(
                    f"two images in {path} have the name {key!r} once its Unicode is normalised (NFC); rename one."
                )
            images[key] = SourceImage(key, label, content)
    return ImageSource(tuple(classes), tuple(images[key] for key in sorted(images)))


def _unwrapped(tree: _Tree) -> _Tree:
    """Without the folders that only wrap the class folders."""
    while (
        sum(len(parts) == 1 for parts in tree.folders) == 1
        and any(len(parts) == 2 for parts in tree.folders)
        and not any(len(parts) == 2 for parts, _ in tree.images)
    ):
        tree = _Tree(
            {parts[1:] for parts in tree.folders if len(parts) > 1},
            [(parts[1:], content) for parts, content in tree.images if len(parts) > 1],
        )
    return tree


def _too_few_classes(path: Path, classes: list[str], loose: list[str]) -> str:
    found = f"one folder only, {classes[0]!r}," if classes else "no folder of images"
    if loose:
        found += f" and {len(loose)} images that are in no class folder ({_shown(sorted(loose))})"
    return (
        f"{path} holds {found.rstrip(',')}; expected is one folder for each class, at least two, with the images of "
        f"the class in it, such as {path.name.split('.')[0] or path}/daisy/1.jpg and .../tulips/1.jpg."
    )


def _shown(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:12])) + (f" and {len(names) - 12} more" if len(names) > 12 else "")


def _by_name(path: Path, found: Iterable[str]) -> dict[str, str]:
    """The folder of each class, by its normalised name; two that would be one on some file system are an error."""
    by_name: dict[str, str] = {}
    by_folded: dict[str, str] = {}
    for folder in found:
        name = _normalised(path, folder)
        if any(unicodedata.category(letter) in ("Cc", "Zl", "Zp") or _turns(letter) for letter in name):
            raise DataError(
                f"the name of the class folder {folder!r} in {path} has a line break or another control character in "
                "it, which no table can show; rename it."
            )
        other = by_folded.setdefault(unicodedata.normalize("NFC", _bare(name).casefold()), folder)
        if other != folder:
            raise DataError(
                f"the class folders {other!r} and {folder!r} in {path} differ only by upper and lower case, by spaces "
                f"or dots at their end, or by the form of their Unicode ({other!a} and {folder!a}), and are one "
                "folder on other file systems; merge or rename one."
            )
        by_name[name] = folder
    return by_name


def _turns(letter: str) -> bool:
    """Whether it changes in which direction the text after it is written: a name could look like another."""
    return unicodedata.bidirectional(letter) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")


def _normalised(path: Path, name: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError:
        raise DataError(f"a name in {path} is not valid Unicode: {name!a}; rename it.") from None
    return unicodedata.normalize("NFC", name)


def _is_image(parts: Parts) -> bool:
    return _bare(parts[-1]).lower().endswith((*IMAGE_SUFFIXES, *UNREAD_SUFFIXES))


def _bare(name: str) -> str:
    """Without the spaces and dots at its end, which Windows leaves out."""
    return name.rstrip(" .")


def _tree_of_folder(root: Path) -> _Tree:
    """Each real folder is read once, links to folders after all others: an image must not be in two splits."""
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
                        f"the link {printable(entry.path)} leads to nothing that can be read; where it is to be a "
                        "folder of images, mend it, else remove it."
                    )
                if not broken and entry.is_dir():
                    if not entry.is_symlink():
                        waiting.append((entry.path, below))
                    elif not f"{real}{os.sep}".startswith(os.path.join(os.path.realpath(entry.path), "")):  # no loop
                        links.append((entry.path, below))
                # a link to nowhere counts: reading it names it, where dropping it would go unnoticed
                elif _is_image(below) and (broken or entry.is_file()):
                    tree.images.append((below, Path(entry.path)))
    except OSError as reason:
        raise DataError(
            f"can't read {printable(str(reason.filename or root))}: {reason.strerror or reason}"
        ) from reason
    return tree


def _tree_of_archive(path: Path) -> _Tree:
    tree = _Tree(set(), [])
    for parts, content in archive_members(path, _is_image):
        folder = parts if content is None else parts[:-1]
        tree.folders.update(folder[:depth] for depth in range(1, len(folder) + 1))
        if content is not None:
            tree.images.append((parts, content))
    return tree
