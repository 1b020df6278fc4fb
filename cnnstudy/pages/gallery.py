"""Validation images that are wrong, beside the training images that they resemble: pictures inside the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnnstudy.errors import DataError

#: Pixels of the longer side, and mistakes that a page shows.
_LONGEST, MOST_SHOWN = 144, 30


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
    places: tuple[int, int] | None = None  # rows and columns of the map that Grad-CAM is drawn from
    reason: str = ""


def read_gallery(given: Mapping[str, Any] | str) -> Gallery:
    """A gallery from what a worker told (`entries`, `wrong`, `validation`, `map`, and `trial`), or from why it did not.

    Raises:
        DataError: an image that can't be decoded.
    """
    if isinstance(given, str):
        return Gallery(reason=given)
    places = given.get("map")
    return Gallery(
        mistakes=mistakes(given["entries"]),
        wrong=int(given.get("wrong", len(given["entries"]))),
        validation=int(given.get("validation", 0)),
        trial=str(given.get("trial", "")),
        places=(int(places[0]), int(places[1])) if places else None,
    )


def mistakes(entries: Sequence[Mapping[str, Any]]) -> list[Mistake]:
    """Entries of plain data as pictures: `image`, `true`, `predicted`, `probability`, `key`, and `neighbours` with
    `image`, `class`, `similarity`, `key`; where there are maps, `cam_predicted` (or `cam`) and `cam_true`. Images are
    PNG or JPEG, as bytes or as a path.

    Raises:
        DataError: an image that can't be decoded.
    """
    return [
        Mistake(
            picture=_address(entry["image"]),
            cams=tuple(
                (str(entry[of]), _address(entry[name]))
                for name, of in (("cam", "predicted"), ("cam_predicted", "predicted"), ("cam_true", "true"))
                if entry.get(name)
            ),
            true=str(entry["true"]),
            predicted=str(entry["predicted"]),
            probability=float(entry["probability"]),
            key=str(entry["key"]),
            neighbours=tuple(
                Neighbour(_address(near["image"]), str(near["class"]), str(near["key"]), float(near["similarity"]))
                for near in entry.get("neighbours") or ()
            ),
        )
        for entry in entries[:MOST_SHOWN]
    ]


def _address(given: bytes | str | Path) -> str:
    """The picture, no larger than it is shown, as a data: address."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(given) if isinstance(given, bytes) else given) as image:
            small = image.convert("RGB")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        what = "bytes of the gallery" if isinstance(given, bytes) else str(given)
        raise DataError(f"can't decode an image of the gallery, {what}: {error}") from error
    small.thumbnail((_LONGEST, _LONGEST))
    file = io.BytesIO()
    small.save(file, "WEBP", quality=85)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
