"""The data sets, one file each, found by name.

To add a data set, add a file here with `Options` (a DataOptions with the keys of its study-file entry) and
`load(options) -> ImageSource`. The contract tests in tests/data/test_datasets.py run on it automatically. The module
must be cheap to import: heavy imports belong inside `load`.

Comes in: the `data` key of a study file. Goes out: an ImageSource, every image with its key and label.

May import: errors, names, records, system, data.archives, data.file_types, data.image_tree, data.layouts,
data.path_groups.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from pydantic import Field, model_validator

from cnnstudy.data.file_types import PassedKind
from cnnstudy.data.path_groups import GroupBy
from cnnstudy.errors import UnknownNameError, did_you_mean
from cnnstudy.system.validation import StrictModel

if TYPE_CHECKING:
    import numpy as np


class DataOptions(StrictModel):
    """The options that every data set takes in a study file."""

    name: str
    validation: float = Field(0.15, gt=0, lt=1, description="share of the images, class by class")
    test: float = Field(0.15, gt=0, lt=1, description="share of the images, class by class")
    images_per_class: int | None = Field(None, ge=4, description="use at most this many images of each class")
    bad_images: Literal["refuse", "skip"] = Field("refuse", description="how to treat files that can't be decoded")
    groups: GroupBy | None = Field(None, description="images that belong together, and stay on one side of a split")
    copies: Literal["together", "ignore"] = Field(
        "ignore", description="keep near-duplicates on one side of a split; or do not look for them"
    )

    @model_validator(mode="after")
    def _leave_images_to_train_on(self) -> DataOptions:
        if self.validation + self.test > 0.9:
            raise ValueError(
                f"validation ({self.validation:g}) and test ({self.test:g}) together leave less than a tenth of the "
                "images for training; make them smaller."
            )
        return self


#: A part of the split.
Part = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class SourceImage:
    """An image before decoding. Its `key` is the same on every machine and file system."""

    key: str
    label: int
    content: Path | bytes | np.ndarray  # a file, its bytes, or pixels [height, width] or [height, width, 3] uint8
    part: Part | None = None  # the part that it was put into beforehand; None: not divided; for all images or for none
    group: str | None = None  # the name of its group, where the data set itself gives one


@dataclass(frozen=True)
class ImageSource:
    """A loaded data set: its classes, and every image with its label (an index into `classes`)."""

    classes: tuple[str, ...]
    images: tuple[SourceImage, ...]
    passed_over: tuple[PassedKind, ...] = ()  # what was found and is not used
    layout: str = ""  # how folders were read, as in data.layouts
    warnings: tuple[tuple[str, str], ...] = ()  # what may be meant otherwise, and the key of a study file that says so


class DataSet(Protocol):
    """The interface of each module in this folder."""

    Options: type[DataOptions]

    def load(self, options: DataOptions) -> ImageSource: ...


def names() -> list[str]:
    """List the names of all data sets, sorted, without importing them."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def find(name: str) -> DataSet:
    """Import and return the data set of that name.

    Raises:
        UnknownNameError: there is no such data set.
    """
    if name not in names():
        raise UnknownNameError(
            f"unknown data set {name!r}{did_you_mean(name, names())} The data sets are {', '.join(names())}."
        )
    return importlib.import_module(f"{__name__}.{name}")
