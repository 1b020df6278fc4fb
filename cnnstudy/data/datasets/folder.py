"""Your own images: a folder, or an archive of one, with one folder of images per class, divided beforehand or not.

Links in a folder are followed, even out of it; links in an archive are refused.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from cnnstudy.data.datasets import DataOptions, ImageSource
from cnnstudy.data.image_tree import ClassName, ExistingPath, read_tree, require_distinct_classes
from cnnstudy.data.layouts import Layout


class Options(DataOptions):
    """The options of a folder of images.

    `path`: the folder or archive. `classes`: use only these; labels are numbered in this order. `layout`: how to read
    the folders; needed only where they can be read in two ways. `ignore_folders`: names of folders to pass over, at any
    depth.
    """

    path: ExistingPath
    classes: Annotated[tuple[ClassName, ...] | None, Field(min_length=2), AfterValidator(require_distinct_classes)] = (
        None
    )
    copies: Literal["together", "ignore"] = "together"
    layout: Layout | None = None
    ignore_folders: tuple[ClassName, ...] = ()


def load(options: Options) -> ImageSource:
    """Load the images of the classes, sorted by path.

    Raises:
        DataError: the path can't be read, or in two ways, or does not hold one folder per class.
    """
    return read_tree(options.path, options.classes, options.layout, options.ignore_folders)
