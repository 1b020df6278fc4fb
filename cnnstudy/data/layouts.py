"""How the folders of a tree are read: which are classes, and which divide the images into train, validation and test.

`classes`: the top folders are the classes. `divided`: the top folders, or those just below the classes, are train,
validation and test. `classes-below`: the classes are one level below the top folders (years, cameras, people), each of
which holds images of most of them.

Without a layout, a tree must have one possible reading; else `arrange` raises DataError and names both.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cnnstudy.data.archives import Parts
from cnnstudy.data.datasets import Part
from cnnstudy.data.listing import ListedImage, Tree
from cnnstudy.errors import DataError, printable

Layout = Literal["classes", "divided", "classes-below"]

#: What people call the parts of a divided data set, as find_part takes them.
_PART_NAMES: dict[str, Part] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "holdout"), "test"),
}
#: What is not the part's own name in `training_set`, `Test-Data`.
_PART_ADDITION = re.compile(r"[-_ ]?(set|data|images)$|[-_ ]")
#: For messages.
PART_NAMES = (
    "train, validation and test (or training, val, valid, dev, testing, holdout; also `training_set`, `Test-Data`)"
)
#: Names of folders that lie beside each other: images, and what is drawn on them or said of them.
_IMAGE_FOLDERS = {"image", "images", "img", "imgs", "photos", "pictures", "jpegimages"}
_COMPANIONS = {
    *("mask", "masks", "label", "labels", "annotation", "annotations", "segmentation", "segmentations"),
    *("gt", "ground_truth", "groundtruth", "xml", "json", "segmentationclass", "segmentationobject"),
}
#: The end of a mask's name, which the photo does not have: `7_mask.png`.
MASK_ENDING = re.compile(r"[-_ .](mask|masks|seg|segmentation|annotation|groundtruth|gt)$", re.IGNORECASE)
#: Names of folders with the same photos, smaller or as they came from the camera.
_VERSIONS = {"thumb", "thumbs", "thumbnail", "thumbnails", "raw", "raws", "original", "originals", "backup"}
#: A file name that begins with its class: `cat.0.jpg`, `dog_17.png`.
_WORD_AND_NUMBER = re.compile(r"([^\W\d_]{2,})[-_. ]?\(?\d")
_MAX_QUOTED = 12
#: Why an image that is too far up is not used.
OUTSIDE = "outside the class folders"


@dataclass(frozen=True)
class Placed:
    """An image in the folder of its class, and the part of the split that it was put into; None: not divided yet."""

    folder: str
    part: Part | None
    image: ListedImage


def arrange(path: Path, tree: Tree, layout: Layout | None) -> tuple[Layout, set[str], list[Placed]]:
    """Return the layout, the class folders (including those without images), and the images in them.

    Args:
        path: the root, for messages.
        layout: None: recognise it.

    Raises:
        DataError: the tree can be read in two ways, or not as the layout says.
    """
    if layout is None:
        layout = _recognise(path, tree)
        folders, placed = _READERS[layout](path, tree)
        if layout == "divided":
            images = [(_below(one), one.image[1]) for one in placed]
            within = {parts[:depth] for parts, _ in images for depth in range(1, len(parts))}
            below = Tree({(folder,) for folder in folders} | within, images)
            _refuse_companions(path, below, "divided")
            _refuse_shared_subfolders(path, below, "divided")
        return layout, folders, placed
    return layout, *_READERS[layout](path, tree)


def find_part(name: str) -> Part | None:
    """Return the part of the split that a folder or a cell of a table names, in any case; None if it names none."""
    return _PART_NAMES.get(_PART_ADDITION.sub("", name.strip().casefold()))


def quote_names(names: Iterable[str]) -> str:
    """Return names in quotes, at most _MAX_QUOTED of them."""
    listed = list(names)
    more = f" and {len(listed) - _MAX_QUOTED} more" if len(listed) > _MAX_QUOTED else ""
    return ", ".join(map(repr, listed[:_MAX_QUOTED])) + more


def _below(one: Placed) -> Parts:
    """Return the path of an image below the part of the split that it is in."""
    parts = one.image[0]
    return (one.folder, *parts[2:])


# ---- which layout it is


def _recognise(path: Path, tree: Tree) -> Layout:
    """Return the only way to read the tree.

    Raises:
        DataError: there are several.
    """
    top = sorted({parts[0] for parts, _ in tree.images if len(parts) > 1})
    direct = {parts[0] for parts, _ in tree.images if len(parts) == 2}
    below = _names_below(tree)
    _refuse_without_class_folders(path, tree)
    parts_of_top = {name: part for name in top if (part := find_part(name))}
    if parts_of_top:
        complete = len(parts_of_top) == len(top) == len(set(parts_of_top.values()))
        if complete and "train" in parts_of_top.values() and not direct:
            return "divided"
        if len(parts_of_top) > 1 or any(len(below.get(name, ())) > 1 for name in parts_of_top):
            raise DataError(
                _two_readings(
                    path,
                    f"the folders {quote_names(top)}",
                    f"{quote_names(top)} are the classes: `layout: classes`",
                    f"{quote_names(parts_of_top)} divide the images into train, validation and test: `layout: divided`,"
                    " with one folder per class in each and nothing beside them but what `ignore_folders` lists",
                )
            )
    inner = {name: set(map(find_part, folders)) - {None} for name, folders in below.items()}
    divided = [name for name, found in inner.items() if len(found) > 1]
    _refuse_parts_in_between(path, tree)
    if divided:
        raise DataError(
            _two_readings(
                path,
                f"the folder {divided[0]!r} with {quote_names(sorted(below[divided[0]]))} in it",
                "the images of a class belong together, however they were divided: `layout: classes`",
                "they stay divided as they are into train, validation and test: `layout: divided`",
            )
        )
    _refuse_renamed_parts(path, top)
    _refuse_companions(path, tree, "classes")
    _refuse_shared_subfolders(path, tree, "classes")
    return "classes"


def _refuse_without_class_folders(path: Path, tree: Tree) -> None:
    """Raise DataError if all images lie just in folders that are named like parts: `train/cat.0.jpg`, `test1/7.jpg`."""
    paths = [parts for parts, _ in tree.images if len(parts) > 1]
    top = sorted({parts[0] for parts in paths})
    numbered = {name: find_part(name.rstrip("0123456789")) for name in top}
    if not top or None in numbered.values() or "train" not in numbered.values() or any(len(p) > 2 for p in paths):
        return
    words = Counter(match[1] for parts in paths if (match := _WORD_AND_NUMBER.match(parts[1])))
    told = sorted(word for word, count in words.items() if count > 1)
    names = f" Their names may tell the classes ({quote_names(told)})." if len(told) > 1 else ""
    train = next(name for name, part in numbered.items() if part == "train")
    kept = f" If {quote_names(top)} are the classes, write `layout: classes`." if len(top) > 1 else ""
    raise DataError(
        f"{printable(str(path))} has no class folders: its images lie just in {quote_names(top)}, which are named like "
        f"parts of the split.{names} List the images in a table, `name: table`, with a column for the class, or move "
        f"them into one folder per class, such as {train}/{told[0] if names else 'daisy'}.{kept}"
    )


def _refuse_parts_in_between(path: Path, tree: Tree) -> None:
    """Raise DataError if parts lie below years, cameras or people, and the classes in them: `2023/train/cat`."""
    places = sorted({parts[:3] for parts, _ in tree.images if len(parts) > 3 and find_part(parts[1])})
    holders: dict[str, set[str]] = {}
    for top, part, name in places:
        holders.setdefault(name, set()).add(f"{top}/{part}")
    shared = sorted(name for name, found in holders.items() if len(found) > 1)
    if len(shared) < 2 or 2 * len(shared) < len(holders):
        return
    top, part, name = next(one for one in places if one[2] in shared)
    tops, parts = (quote_names(sorted({one[i] for one in places})) for i in (0, 1))
    raise DataError(
        f"{printable(str(path))} can't be read as it is: the folders {parts} lie below {tops}, and hold "
        f"folders that look like the classes ({quote_names(shared)}). Move {top}/{part}/{name} to "
        f"{part}/{name}/{top}, and the others likewise, or list the images in a table, `name: table`. If "
        f"{tops} are the classes, write `layout: divided` or, to divide them anew, `layout: classes`."
    )


def _refuse_renamed_parts(path: Path, top: list[str]) -> None:
    """Raise DataError if the top folders are parts but for a number or a word before each: `01_train`, `seg_test`."""
    shortened = [re.sub(r"^\d+[-_ .]*", "", name) for name in top]
    if len({re.split("[-_ .]", name)[0] for name in shortened}) == 1:
        shortened = [re.sub(r"^[^-_ .]+[-_ .]", "", name) for name in shortened]
    parts = set(map(find_part, shortened))
    if len(top) > 1 and None not in parts and "train" in parts:
        raise DataError(
            _two_readings(
                path,
                f"the folders {quote_names(top)}",
                f"{quote_names(top)} are the classes: `layout: classes`",
                "they divide the images: rename them to train, validation and test",
            )
        )


def _two_readings(path: Path, what: str, first: str, second: str) -> str:
    return (
        f"{printable(str(path))} can be read in two ways, because of {what}:\n"
        f"  {first}\n  {second}\n"
        "Write the one that is meant under `data`; `data PATH` takes it as --layout or --ignore-folders. If neither is "
        "meant, list the images in a table, `name: table`."
    )


def _names_below(tree: Tree) -> dict[str, set[str]]:
    """Return the names of the folders with images just below each top folder."""
    below: dict[str, set[str]] = {}
    for parts, _ in tree.images:
        if len(parts) > 2:
            below.setdefault(parts[0], set()).add(parts[1])
    return below


def _refuse_companions(path: Path, tree: Tree, layout: Layout) -> None:
    """Raise DataError if the folders look like images beside their masks or labels, none of which is a class.

    They lie at the top (`images/cat`, `masks/cat`) or in each class folder (`cat/images`, `cat/masks`).
    """
    top = {parts[0] for parts in tree.folders}
    if beside := _find_companions_of_photos(tree):
        raise DataError(
            _two_readings(
                path,
                f"the folders {quote_names(beside)}",
                f"they hold photos of the classes, or are classes themselves: `layout: {layout}`",
                f"they hold masks or labels of the photos beside them: `ignore_folders: [{', '.join(beside)}]`",
            )
        )
    for depth, where in enumerate(("", " in its class folders")):
        names = {parts[depth] for parts in tree.folders if len(parts) > depth}
        images = sorted(name for name in names if name.casefold() in _IMAGE_FOLDERS)
        others = sorted(name for name in names if name.casefold() in _COMPANIONS)
        drawn = any(len(parts) > 2 and parts[1] in others for parts, _ in tree.images)
        # in class folders, labels without images are text files, which are passed over
        if not images or not others or len(names) > len(images) + len(others) or (where and not drawn):
            continue
        have_classes = where or any(len(parts) > 2 and parts[0] in images for parts, _ in tree.images)
        only = f"`ignore_folders: [{', '.join(others)}]`" if have_classes else "list them in a table, `name: table`"
        raise DataError(
            _two_readings(
                path,
                f"the folders {quote_names(sorted(names))}{where}",
                f"all of these hold photos, and {quote_names(sorted(top))} are the classes: `layout: {layout}`",
                f"only {quote_names(images)} holds photos: {only}",
            )
        )


def _find_companions_of_photos(tree: Tree) -> list[str]:
    """Return the folders of masks below photos (`cat/1.jpg`, `cat/masks/1.png`), or beside the classes' folders.

    Beside them, most files must be named like photos in the others: `mask` may be a class.
    """
    stems = {
        parts: MASK_ENDING.sub("", parts[-1].rpartition(".")[0] or parts[-1]).casefold() for parts, _ in tree.images
    }
    below: set[str] = set()
    direct = {parts[0] for parts in stems if len(parts) == 2}
    top: dict[str, list[str]] = {}
    for parts, stem in stems.items():
        if len(parts) > 2 and parts[0] in direct and parts[1].casefold() in _COMPANIONS:
            below.add(parts[1])
        if len(parts) > 1 and parts[0].casefold() in _COMPANIONS:
            top.setdefault(parts[0], []).append(stem)
    photos = {stem for parts, stem in stems.items() if parts[0] not in top}
    drawn = {name for name, own in top.items() if 2 * sum(stem in photos for stem in own) > len(own)}
    classes = {parts[0] for parts in tree.folders}
    images = any(name.casefold() in _IMAGE_FOLDERS for name in classes)
    return sorted(below | (drawn if len(classes - set(top)) > 1 and not images else set()))


def warn_of_names(classes: Iterable[str]) -> Iterable[tuple[str, str]]:
    """Yield a warning, and the key that answers it, about each class that is named like no class."""
    for name in sorted(classes):
        if name.casefold() in _COMPANIONS | _VERSIONS:
            yield (
                f"the folder {name!r} is read as a class; if it is none, pass it over",
                f"data.ignore_folders: [{name}]",
            )


def _refuse_shared_subfolders(path: Path, tree: Tree, layout: Layout) -> None:
    """Raise DataError if the folders one level below may be the classes: most of their names are in several folders."""
    below = _names_below(tree)
    depths = Counter((parts[0], len(parts) == 2) for parts, _ in tree.images)
    holds_images = any(depths[name, True] >= depths[name, False] for name, direct in depths if direct)
    # on another disk the same names may have another case, or another form of their Unicode
    same = {_normalise(name).casefold(): name for name in sorted(set().union(*below.values()))}
    counts = Counter(name for names in below.values() for name in {_normalise(name).casefold() for name in names})
    shared = sorted(same[name] for name, count in counts.items() if count > 1)
    if holds_images or len(below) < 2 or len(shared) < 2 or 2 * len(shared) < len(counts):
        return
    lower = "`layout: classes-below`" if layout == "classes" else "list the images in a table, `name: table`"
    raise DataError(
        _two_readings(
            path,
            f"the folders {quote_names(shared)}, which are in several of {quote_names(sorted(below))}",
            f"{quote_names(sorted(below))} are the classes: `layout: {layout}`",
            f"{quote_names(sorted(same.values()))} are the classes: {lower}",
        )
    )


# ---- reading each layout


def _read_classes(path: Path, tree: Tree) -> tuple[set[str], list[Placed]]:
    tree.passed_over.add_images(OUTSIDE, (parts for parts, _ in tree.images if len(parts) < 2))
    placed = [Placed(image[0][0], None, image) for image in tree.images if len(image[0]) > 1]
    return {parts[0] for parts in tree.folders}, placed


def _read_classes_below(path: Path, tree: Tree) -> tuple[set[str], list[Placed]]:
    tree.passed_over.add_images(OUTSIDE, (parts for parts, _ in tree.images if len(parts) < 3))
    placed = [Placed(_normalise(image[0][1]), None, image) for image in tree.images if len(image[0]) > 2]
    return {_normalise(parts[1]) for parts in tree.folders if len(parts) > 1}, placed


def _read_divided(path: Path, tree: Tree) -> tuple[set[str], list[Placed]]:
    """Read a tree whose top folders, or those just below them, are train, validation and test.

    Raises:
        DataError: other folders hold images, two folders are the same part, there is no train, or images have no class.
    """
    tree.passed_over.add_images(OUTSIDE, (parts for parts, _ in tree.images if len(parts) < 2))
    images = sorted((image for image in tree.images if len(image[0]) > 1), key=lambda image: image[0])
    level = 0 if any(find_part(image[0][0]) for image in images) else 1
    placed: list[Placed] = []
    without_class: list[str] = []
    for image in images:
        parts = image[0]
        part = find_part(parts[level]) if len(parts) > level + 1 else None
        if part is None:
            raise DataError(
                f"{path} is to be read as divided beforehand, and {'/'.join(parts)!a} is in none of its folders "
                f"{PART_NAMES}; move it into one, or out of this folder, or list its folder under `ignore_folders`."
            )
        if len(parts) > 2:
            placed.append(Placed(_normalise(parts[1 - level]), part, image))
        else:
            without_class.append("/".join(parts))
    if without_class:
        raise DataError(
            f"{len(without_class)} images in {path} are in no class folder ({quote_names(sorted(without_class))}), so "
            "that their classes are not known; move them out of this folder, or into one folder per class."
        )
    _check_parts(path, placed, level)
    class_folders = (parts for parts in tree.folders if len(parts) > 1 and find_part(parts[level]))
    return {_normalise(parts[1 - level]) for parts in class_folders}, placed


def _check_parts(path: Path, placed: list[Placed], level: int) -> None:
    """Raise DataError if two folders are the same part."""
    folders: dict[Part, set[str]] = {}
    for one in placed:
        assert one.part is not None
        folders.setdefault(one.part, set()).add(one.image[0][level])
    for part, names in folders.items():
        if len(names) > 1 and level == 0:
            raise DataError(f"the folders {quote_names(sorted(names))} in {path} are both {part}; merge them.")


def require_trained(path: Path, placed: Iterable[Placed]) -> None:
    """Raise DataError if images that were divided beforehand are of classes that train lacks."""
    classes: dict[Part | None, set[str]] = {}
    for one in placed:
        classes.setdefault(one.part, set()).add(one.folder)
    for part, found in classes.items():
        unknown = sorted(found - classes.get("train", set()))
        if part is not None and unknown:
            raise DataError(
                f"{path} is divided beforehand, and its {part} part has images of {quote_names(unknown)}, of which "
                "its train part has none; add training images, remove these, list them in `ignore_folders`, or list "
                "the `classes` to use."
            )


def _normalise(name: str) -> str:
    return unicodedata.normalize("NFC", name)


_READERS: dict[Layout, Callable[[Path, Tree], tuple[set[str], list[Placed]]]] = {
    "classes": _read_classes,
    "divided": _read_divided,
    "classes-below": _read_classes_below,
}
