"""What a model says of images: a table on the screen, CSV, or JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from rich import box
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cnnstudy.analysis import leaderboard
from cnnstudy.datasets.archives import is_hidden
from cnnstudy.datasets.files import IMAGE_SUFFIXES
from cnnstudy.display import Display
from cnnstudy.errors import DataError, InputError
from cnnstudy.execution import Executor, Job
from cnnstudy.jobs import result_of
from cnnstudy.models import Model
from cnnstudy.records import BadImage

HEADINGS = ("image", "class", "probability")


@dataclass(frozen=True)
class Prediction:
    """The classes of one image with their probabilities, best first."""

    path: str  # as the user named it
    classes: tuple[tuple[str, float], ...]


def predict(
    model: Model, given: Sequence[str], top: int, executor: Executor, display: Display
) -> list[Prediction | BadImage]:
    """Return the `top` classes of every image, in the order given; of a folder the images in it, sorted.

    Raises:
        ModelError: the model can't be used. An image that can't be used is an answer of its own.
    """
    places = [image for place in given for image in _images_at(place)]
    usable = [image for image in places if isinstance(image, str)]
    answers: Iterator[Any] = iter(())
    if usable:
        payload = {
            "model": str(model.file.absolute()),
            "classes": None if model.classes is None else len(model.classes),
            "images": [os.path.abspath(os.path.expanduser(image)) for image in usable],
            "top": top,
        }
        answers = iter(result_of(executor, Job("predict", "predict", payload), display))
    return [image if isinstance(image, BadImage) else _prediction(image, next(answers), model) for image in places]


def _prediction(path: str, answer: dict[str, Any], model: Model) -> Prediction | BadImage:
    if "bad" in answer:
        return replace(BadImage.from_json(answer["bad"]), path=path)
    return Prediction(path, tuple((model.class_name(index), probability) for index, probability in answer["classes"]))


def _images_at(place: str) -> Iterator[str | BadImage]:
    """Yield the image files that a place stands for; a bad image where there is none."""
    path = os.path.expanduser(place)
    if not os.path.isdir(path):
        yield place if os.path.exists(path) else BadImage(place, "there is no such file")
        return
    names = []
    for folder, folders, files in os.walk(path):
        folders[:] = [name for name in folders if not is_hidden(name)]
        images = [name for name in files if name.lower().endswith(IMAGE_SUFFIXES) and not is_hidden(name)]
        names += [os.path.join(folder, name) for name in images]
    if not names:
        yield BadImage(place, f"a folder without images; they end in {', '.join(IMAGE_SUFFIXES)}")
    yield from sorted(names)


def show(console: Console, title: str, predictions: Sequence[Prediction | BadImage]) -> None:
    """What could be predicted: a table on a terminal, else a line for each image and class that says it all."""
    usable = [prediction for prediction in predictions if isinstance(prediction, Prediction)]
    if not usable:
        return
    if not console.is_terminal:
        lines = [row for prediction in usable for row in _rows(prediction, repeated=True)]
        widths = [max(cell_len(line[column]) for line in lines) for column in range(3)]
        for image, name, share in lines:
            print(f"{set_cell_size(image, widths[0])}  {set_cell_size(name, widths[1])}  {share:>{widths[2]}}")
        return
    grid = Table(title=Text(_printable(title)), title_justify="left", box=box.SIMPLE_HEAD, show_edge=False)
    for heading in HEADINGS:
        number = heading == HEADINGS[-1]
        grid.add_column(heading, justify="right" if number else "left", no_wrap=number, overflow="fold")
    for prediction in usable:
        for row in _rows(prediction, repeated=False):
            grid.add_row(*map(Text, row))
        grid.add_section()
    console.print(grid, markup=False, emoji=False)


def _rows(prediction: Prediction, repeated: bool) -> list[tuple[str, str, str]]:
    """The three cells of each class; the image in all of them, or in the first only."""
    return [
        (_printable(prediction.path) if repeated or rank == 0 else "", _printable(name), f"{100 * probability:.1f} %")
        for rank, (name, probability) in enumerate(prediction.classes)
    ]


def write_csv(predictions: Sequence[Prediction | BadImage], path: Path) -> None:
    """A row for each image and class, with probabilities in [0, 1]; one for an image without.

    Raises:
        InputError: the file can't be written.
    """
    rows = [
        (_printable(one.path), name, probability, _error(one) or "")
        for one in predictions
        for name, probability in _classes(one) or (("", None),)
    ]
    leaderboard.write_csv(pd.DataFrame(rows, columns=[*HEADINGS, "error"]), path)


def write_json(title: str, predictions: Sequence[Prediction | BadImage], path: Path) -> None:
    """`{"model": ..., "images": [{"image": ..., "classes": [{"class": ..., "probability": ...}], "error": ...}]}`.

    Raises:
        InputError: the file can't be written.
    """
    images = [
        {
            "image": _printable(one.path),
            "classes": [{"class": name, "probability": probability} for name, probability in _classes(one)],
            "error": _error(one),
        }
        for one in predictions
    ]
    text = json.dumps({"model": title, "images": images}, ensure_ascii=False, indent=2)
    try:
        path.write_text(f"{text}\n", encoding="utf-8", errors="backslashreplace")
    except OSError as reason:
        raise InputError(f"can't write {path}: {reason.strerror or reason}") from reason


def _classes(one: Prediction | BadImage) -> tuple[tuple[str, float], ...]:
    return one.classes if isinstance(one, Prediction) else ()


def _error(one: Prediction | BadImage) -> str | None:
    return one.reason if isinstance(one, BadImage) else None


def check(predictions: Sequence[Prediction | BadImage]) -> None:
    """Raise DataError that names each image that could not be predicted, if any."""
    bad = [one for one in predictions if isinstance(one, BadImage)]
    if bad:
        lines = "".join(f"\n  {one}" for one in bad)
        raise DataError(f"{len(bad)} of {len(predictions)} images can't be predicted:{lines}")


def _printable(text: str) -> str:
    """A file's name may hold bytes that are no text."""
    return text.encode(errors="backslashreplace").decode()
