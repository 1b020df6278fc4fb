"""The data sets, one file each, found by name.

To add one, add a file here with `Options` (a DataOptions with what its study-file entry takes) and
`load(options) -> ImageSource`; the contract tests in tests/data run on it by themselves. A module must be light to
import: whatever is heavy is imported inside `load`.

Comes in: the `data` key of a study file. Goes out: an ImageSource, every image with its key and label.

May import: errors, names, records, system, data.archives, data.image_tree.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from pydantic import Field, model_validator

from cnnstudy.errors import UnknownNameError, did_you_mean
from cnnstudy.system.validation import StrictModel

if TYPE_CHECKING:
    import numpy as np


class DataOptions(StrictModel):
    """What every data set takes in a study file."""

    name: str
    validation: float = Field(0.15, gt=0, lt=1, description="share of the images, class by class")
    test: float = Field(0.15, gt=0, lt=1, description="share of the images, class by class")
    images_per_class: int | None = Field(None, ge=4, description="use at most so many images of every class")
    bad_images: Literal["refuse", "skip"] = Field("refuse", description="what to do with files that can't be decoded")

    @model_validator(mode="after")
    def _leave_images_to_train_on(self) -> DataOptions:
        if self.validation + self.test > 0.9:
            raise ValueError(
                f"validation ({self.validation:g}) and test ({self.test:g}) together leave less than a tenth of the "
                "images for training; make them smaller."
            )
        return self


@dataclass(frozen=True)
class SourceImage:
    """One image before decoding. `key` is stable: the same on every machine and file system."""

    key: str
    label: int
    content: Path | bytes | np.ndarray  # a file, its bytes, or pixels [height, width] or [height, width, 3] uint8


@dataclass(frozen=True)
class ImageSource:
    """What a data set loads: its classes, and every image with its label (an index into `classes`)."""

    classes: tuple[str, ...]
    images: tuple[SourceImage, ...]


class DataSet(Protocol):
    """What each module here provides."""

    Options: type[DataOptions]

    def load(self, options: DataOptions) -> ImageSource: ...


#: Files here that are no data set themselves.
_PARTS = {"files", "archives"}


def names() -> list[str]:
    """The data sets there are, without importing them."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name not in _PARTS)


def find(name: str) -> DataSet:
    """The data set of that name.

    Raises:
        UnknownNameError: there is none.
    """
    if name not in names():
        raise UnknownNameError(
            f"unknown data set {name!r}{did_you_mean(name, names())} There are {', '.join(names())}."
        )
    return importlib.import_module(f"{__name__}.{name}")
