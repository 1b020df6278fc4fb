"""List the images below a folder or in an archive, the same for training and for predictions.

A file is an image if it begins like one, whatever its name. A file whose name ends like an image's is listed too:
silently ignored, a damaged one would go unnoticed. What is not used is counted by kind.

Links in a folder are followed wherever they lead, because people keep their photos in one place and link to them; each
real folder is read once, so loops end. Links in an archive are refused. Pipes and devices are ignored.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from cnnstudy.data.archives import Parts, archive_members, is_hidden
from cnnstudy.data.file_types import RIGHTS_ADVICE, PassedOver, is_photo, read_head
from cnnstudy.errors import DataError, did_you_mean, printable

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jfif", ".jpe", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"),
    *(".heic", ".heif", ".avif"),
)
#: Formats that are not supported, some of which begin like a TIFF file that holds only a small preview.
UNSUPPORTED_SUFFIXES = (
    *(".jxl", ".jp2", ".svg", ".psd"),
    *(".dng", ".nef", ".cr2", ".cr3", ".arw", ".raf", ".orf", ".rw2"),
)

#: An image: its path below the root, and its file or bytes.
ListedImage = tuple[Parts, Path | bytes]


@dataclass(frozen=True)
class Tree:
    """Every visible folder and every image below a root, with their names as stored, and what is not used."""

    folders: set[Parts]
    images: list[ListedImage]
    passed_over: PassedOver = field(default_factory=PassedOver)

    def without(self, ignored: Collection[str]) -> Tree:
        """Return the tree without folders of these names, at any depth and in any case.

        `passed_over`, which both trees share, counts their images.

        Raises:
            DataError: there is no folder of such a name.
        """
        if not ignored:
            return self
        known = {_fold(parts[-1]): parts[-1] for parts in sorted(self.folders)}
        named = [name.strip().rstrip("/").removeprefix("./") for name in ignored]
        folded = set(map(_fold, named))
        for name in named:
            if "/" in name:
                raise DataError(
                    f"`ignore_folders` lists the path {name!r}; it takes names of folders, which are passed over at "
                    f"any depth, such as {name.rpartition('/')[2]!r}."
                )
            if _fold(name) not in known and not is_hidden(name):  # hidden ones are passed over anyway
                raise DataError(
                    f"`ignore_folders` lists {name!r}, and there is no such folder"
                    f"{did_you_mean(name, known.values()) or '.'} List names of folders that are there."
                )

        def is_kept(folders: Parts) -> bool:
            return not folded.intersection(map(_fold, folders))

        self.passed_over.add_images("in `ignore_folders`", (one for one, _ in self.images if not is_kept(one[:-1])))
        images = [image for image in self.images if is_kept(image[0][:-1])]
        return Tree(set(filter(is_kept, self.folders)), images, self.passed_over)


def _fold(name: str) -> str:
    """Return a name as file systems that ignore case and the form of Unicode compare it."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def list_tree(path: Path) -> Tree:
    """List a folder or an archive.

    Raises:
        DataError: it can't be read.
    """
    return _list_archive(path) if os.path.isfile(path) else _list_folder(path)


def _has_image_suffix(parts: Parts) -> bool:
    return strip_end(parts[-1]).lower().endswith((*IMAGE_SUFFIXES, *UNSUPPORTED_SUFFIXES))


def strip_end(name: str) -> str:
    """Strip the spaces and dots at the end, which Windows drops."""
    return name.rstrip(" .")


def _list_folder(root: Path) -> Tree:
    """List a folder on disk, following links.

    Each real folder is read once, so that no image is in two parts of the split; links to folders come last, so that a
    folder keeps its own name.

    Raises:
        DataError: a folder can't be read, or a link that may be a folder leads nowhere.
    """
    tree = Tree(set(), [])
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
                tree.passed_over.add("folder linked to twice", "/".join(parts))
                continue
            seen.add(real)
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
            for entry in entries:
                below = (*parts, entry.name)
                broken = entry.is_symlink() and not os.path.exists(entry.path)
                if is_hidden(entry.name):
                    tree.passed_over.add("hidden", "/".join(below))
                elif broken or not entry.is_dir():
                    _add_file(tree, entry, below, broken)
                elif not entry.is_symlink():
                    waiting.append((entry.path, below))
                elif not _is_inside(real, entry.path):  # a link to a folder above would be a loop
                    links.append((entry.path, below))
    except OSError as reason:
        advice = f". {RIGHTS_ADVICE}" if isinstance(reason, PermissionError) else ""
        raise DataError(
            f"can't read {printable(str(reason.filename or root))}: {reason.strerror or reason}{advice}"
        ) from reason
    return tree


def _add_file(tree: Tree, entry: os.DirEntry[str], parts: Parts, broken: bool) -> None:
    """Add a file that is an image, or may be meant to be one; count any other.

    Raises:
        DataError: a link that may be a folder leads nowhere.
    """
    if broken and not os.path.splitext(entry.name)[1]:
        raise DataError(
            f"the link {printable(entry.path)} leads to nothing that can be read; if it is meant to be a folder of "
            "images, repair it, else remove it."
        )
    # broken links are listed too: reading them reports them, while ignored they would not be missed
    listed = _has_image_suffix(parts) and (broken or entry.is_file())
    if listed or (not broken and is_photo(read_head(entry.path) or b"")):
        tree.images.append((parts, Path(entry.path)))
    else:
        tree.passed_over.add_file("/".join(parts))


def _is_inside(real_folder: str, link: str) -> bool:
    return f"{real_folder}{os.sep}".startswith(os.path.join(os.path.realpath(link), ""))


def _list_archive(path: Path) -> Tree:
    tree = Tree(set(), [])
    for parts, content in archive_members(path, _has_image_suffix, is_photo, tree.passed_over):
        folder = parts if content is None else parts[:-1]
        tree.folders.update(folder[:depth] for depth in range(1, len(folder) + 1))
        if content is not None:
            tree.images.append((parts, content))
    return tree
