"""Handwritten digits: 1,797 images of 8 x 8 pixels that come with scikit-learn, so nothing is downloaded.

Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI (1998), its test part.
With `classes`, digits 5-9 can be the source task of transfer learning and 0-4 the five-class target.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from cnnstudy.data.datasets import DataOptions, ImageSource, SourceImage
from cnnstudy.data.image_tree import require_distinct_classes
from cnnstudy.system.imports import without_modules


class Options(DataOptions):
    """The options of the digits. `classes`: the digits to use; labels are numbered in this order."""

    classes: Annotated[
        tuple[Annotated[int, Field(ge=0, le=9)], ...], Field(min_length=2), AfterValidator(require_distinct_classes)
    ] = tuple(range(10))


def load(options: Options) -> ImageSource:
    """Load the digits as [8, 8] uint8 grey images, their values 0..16 scaled to 0..255."""
    with without_modules(("pandas", "pyarrow")):  # scikit-learn would import them for tables: a fifth of a second
        from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = (digits.images * (255 / 16)).round().astype("uint8")
    label_of = {digit: label for label, digit in enumerate(options.classes)}
    return ImageSource(
        classes=tuple(str(digit) for digit in options.classes),
        images=tuple(
            SourceImage(f"{index:06d}", label_of[int(digit)], pixels[index])
            for index, digit in enumerate(digits.target)
            if int(digit) in label_of
        ),
    )
