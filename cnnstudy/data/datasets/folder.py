"""Your own images: a folder, or an archive of one, that holds one folder of image files for each class.

Links in a folder are followed, also out of it; in an archive they are refused.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from cnnstudy.data.datasets import DataOptions, ImageSource
from cnnstudy.data.image_tree import ExistingPath, read_tree, require_distinct

#: YAML reads a folder's name like 7 as a number.
ClassName = Annotated[str, Field(coerce_numbers_to_str=True)]


class Options(DataOptions):
    """`path`: the folder or archive. `classes`: use only these; the labels follow their order."""

    path: ExistingPath
    classes: Annotated[tuple[ClassName, ...] | None, Field(min_length=2), AfterValidator(require_distinct)] = None


def load(options: Options) -> ImageSource:
    """The images of the classes, sorted by their path.

    Raises:
        DataError: it can't be read, or is not one folder a class.
    """
    return read_tree(options.path, options.classes)
