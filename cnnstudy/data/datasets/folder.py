"""Your own images: a folder, or an archive of one, that holds one folder of image files per class.

Links in a folder are followed, even out of it; links in an archive are refused.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from cnnstudy.data.datasets import DataOptions, ImageSource
from cnnstudy.data.image_tree import ExistingPath, read_tree, require_distinct_classes

#: YAML reads a folder name such as 7 as a number.
ClassName = Annotated[str, Field(coerce_numbers_to_str=True)]


class Options(DataOptions):
    """The options of a folder of images.

    `path`: the folder or archive. `classes`: use only these; labels are numbered in this order.
    """

    path: ExistingPath
    classes: Annotated[tuple[ClassName, ...] | None, Field(min_length=2), AfterValidator(require_distinct_classes)] = (
        None
    )
    copies: Literal["together", "ignore"] = "together"


def load(options: Options) -> ImageSource:
    """Load the images of the classes, sorted by path.

    Raises:
        DataError: the path can't be read, or does not hold one folder per class.
    """
    return read_tree(options.path, options.classes)
