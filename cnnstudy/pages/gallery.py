"""Validation images that are wrong, beside the training images that they resemble: pictures inside the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cnnstudy.errors import DataError

#: Pixels of the longer side, and mistakes that a page shows.
_LONGEST, MOST_SHOWN = 144, 30
#: Why a page shows none, where nobody looked for any.
LEFT_OUT = "It was left out."


@dataclass(frozen=True)
class Neighbour:
    """A training image that resembles the wrong one."""

    picture: str  # a data: address
    name: str  # its class
    key: str
    similarity: float  # cosine, -1..1


@dataclass(frozen=True)
class Mistake:
    """A validation image that the model takes for another class."""

    picture: str  # a data: address
    cams: tuple[tuple[str, str], ...]  # Grad-CAM: the class that it is for, a data: address
    true: str
    predicted: str
    probability: float
    key: str
    neighbours: tuple[Neighbour, ...]


@dataclass(frozen=True)
class Gallery:
    """What a model gets wrong, or why that can't be shown."""

    mistakes: Sequence[Mistake] = ()
    wrong: int = 0  # of its validation images, all of them
    validation: int = 0
    trial: str = ""
    places: tuple[int, int] = (0, 0)  # rows and columns of the map that Grad-CAM is drawn from
    reason: str = ""


def read_gallery(given: Mapping[str, Any] | str) -> Gallery:
    """A gallery from what a worker told (`entries`, `wrong`, `validation`, `map`, and `trial`), or from why it did not.

    Raises:
        DataError: an image that can't be decoded.
    """
    if isinstance(given, str):
        return Gallery(reason=given)
    rows, columns = given["map"]
    return Gallery(mistakes(given["entries"]), given["wrong"], given["validation"], given["trial"], (rows, columns))


def mistakes(entries: Sequence[Mapping[str, Any]]) -> list[Mistake]:
    """Entries of plain data as pictures: `image`, `true`, `predicted`, `probability`, `key`, and `neighbours` with
    `image`, `class`, `similarity`, `key`; the maps are `cam_predicted` and `cam_true`. Images are paths of files.

    Raises:
        DataError: an image that can't be decoded.
    """
    return [
        Mistake(
            picture=_address(entry["image"]),
            cams=tuple((entry[of], _address(entry[f"cam_{of}"])) for of in ("predicted", "true")),
            true=entry["true"],
            predicted=entry["predicted"],
            probability=entry["probability"],
            key=entry["key"],
            neighbours=tuple(
                Neighbour(_address(near["image"]), near["class"], near["key"], near["similarity"])
                for near in entry["neighbours"]
            ),
        )
        for entry in entries[:MOST_SHOWN]
    ]


def _address(file: str) -> str:
    """The picture, no larger than it is shown, as a data: address."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file) as image:
            small = image.convert("RGB")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise DataError(f"can't decode an image of the gallery, {file}: {error}") from error
    small.thumbnail((_LONGEST, _LONGEST))
    encoded = io.BytesIO()
    small.save(encoded, "WEBP", quality=85)
    return f"data:image/webp;base64,{base64.b64encode(encoded.getvalue()).decode()}"
