"""A data set as one self-contained HTML page: its summary, and contact sheets of what is in it and may be wrong.

The pictures are small JPEGs, squeezed to squares as networks see them. Their number is limited, whatever the number of
images; each sheet says how many it leaves out.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import cnnstudy
from cnnstudy.data.decoder_pool import Progress, decode_all
from cnnstudy.data.description import describe_given, describe_left_out
from cnnstudy.data.examination import Examined
from cnnstudy.data.file_types import MOST_NAMES, PassedKind
from cnnstudy.errors import as_sentence, printable
from cnnstudy.results.pages.content import Fact, Table
from cnnstudy.results.pages.data_summary import (
    LAYOUTS,
    MEASURES,
    describe_copies,
    describe_groups,
    describe_modes,
    describe_sizes,
    describe_smooth,
)
from cnnstudy.results.pages.rendering import render
from cnnstudy.system.files import write_whole

#: Pixels of a picture in height and width, and the quality of its JPEG: 2 to 4 kB.
PICTURE, QUALITY = 112, 75
#: Pictures of a class, and of all classes together; pictures of a group of copies, and of a kind of suspects.
MOST_OF_CLASS, MOST_OF_CLASSES, MOST_OF_GROUP, MOST_SUSPECTS = 24, 960, 12, 24
#: Sheets of classes, of groups of copies, and pairs of conflicting copies.
MOST_CLASSES, MOST_GROUPS, MOST_CONFLICTS = 120, 60, 60
#: Names of bad images.
MOST_BAD = 100


@dataclass(frozen=True)
class Picture:
    """An image on the page: its picture as a data URI, its name, and the text below it."""

    uri: str
    name: str
    caption: str


@dataclass(frozen=True)
class Sheet:
    """Pictures below a heading; `left_out` more, of what `of` says (if they are of one class), are not shown."""

    title: str
    pictures: list[Picture]
    left_out: int
    of: str


@dataclass(frozen=True)
class _Chosen:
    """The images of a sheet, and whether they are of one class, which then is not told below each."""

    title: str
    places: Sequence[int]
    left_out: int
    one_class: bool = False


def write_data_page(examined: Examined, summary: dict[str, Any], path: Path, progress: Progress) -> None:
    """Write the page to `path`.

    Raises:
        OSError: it can't be written.
        DataError: an image has changed.
    """
    page = data_page(examined, summary, progress)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, page)


def data_page(examined: Examined, summary: dict[str, Any], progress: Progress) -> str:
    """Return the page as HTML; every name is escaped.

    Raises:
        DataError: an image has changed.
    """
    chosen = {
        "classes": list(_choose_of_classes(examined)),
        "copies": _choose_groups(examined.copies.groups, MOST_GROUPS),
        "lookalikes": _choose_groups(_place_lookalikes(examined, summary)[:MOST_GROUPS], MOST_GROUPS),
        "conflicts": _choose_groups(examined.copies.conflicts, MOST_CONFLICTS),
        "suspects": [
            _Chosen(f"May be {kind}: {MEASURES[kind][1]}", places[:MOST_SUSPECTS], len(places[MOST_SUSPECTS:]))
            for kind, places in examined.find_suspects().items()
            if summary["suspects"][kind]
        ],
    }
    pictures = _draw(
        examined, {place for sheets in chosen.values() for one in sheets for place in one.places}, progress
    )
    return render(
        "data.html",
        title=f"{printable(summary['source'])}: what is there",
        version=cnnstudy.__version__,
        summary=summary,
        told=[as_sentence(sentence) for sentence in summary["told"]],
        source=printable(summary["source"]),
        layout=LAYOUTS.get(summary["layout"], ""),
        facts=_list_facts(summary),
        sizes=describe_sizes(summary) if summary["sizes"] else "",
        modes=describe_modes(summary),
        copies=describe_copies(summary),
        left_out=describe_left_out(summary["left_out"]),
        groups_told=describe_groups(summary) if summary["groups"] else "",
        smooth=describe_smooth(summary) if summary["smooth"] else "",
        classes=_class_table(summary),
        bad=_bad_table(summary),
        passed_over=[PassedKind(**kind).describe(MOST_NAMES) for kind in summary["passed_over"]],
        sheets={section: [_lay_out(examined, one, pictures) for one in sheets] for section, sheets in chosen.items()},
        hidden={
            "classes": max(0, len(summary["classes"]) - MOST_CLASSES),
            "copies": max(0, len(examined.copies.groups) - MOST_GROUPS),
            "lookalikes": max(0, len(_place_lookalikes(examined, summary)) - MOST_GROUPS),
            "conflicts": max(0, len(examined.copies.conflicts) - MOST_CONFLICTS),
            "bad": max(0, len(summary["bad"]) - MOST_BAD),
        },
    )


# ---- which images


def _choose_of_classes(examined: Examined) -> Iterator[_Chosen]:
    """Yield images of each class, spread over their names; none of the test split."""
    names = examined.listed.source.classes
    most = max(4, min(MOST_OF_CLASS, MOST_OF_CLASSES // len(names)))
    of_class: dict[int, list[int]] = {}
    for place in examined.grouping.usable:
        if place not in examined.test:
            of_class.setdefault(examined.image(place).label, []).append(place)
    for label, name in enumerate(names[:MOST_CLASSES]):
        places = of_class.get(label, [])
        shown = places if len(places) <= most else [places[i * len(places) // most] for i in range(most)]
        yield _Chosen(printable(name), shown, len(places) - len(shown), one_class=True)


def _choose_groups(groups: Sequence[Sequence[int]], most: int) -> list[_Chosen]:
    """Return the largest groups."""
    largest = sorted(groups, key=lambda group: (-len(group), group[0]))[:most]
    return [_Chosen("", group[:MOST_OF_GROUP], len(group[MOST_OF_GROUP:])) for group in largest]


def _place_lookalikes(examined: Examined, summary: dict[str, Any]) -> list[list[int]]:
    """Return the pairs that were found by a network's features, as images' indices, the most alike first."""
    places = {image.key: place for place, image in enumerate(examined.listed.source.images)}
    found = summary["lookalikes"] or {"pairs": []}
    return [[places[name] for name in pair["images"]] for pair in found["pairs"]]


# ---- their pictures


def _draw(examined: Examined, places: Iterable[int], progress: Progress) -> dict[int, str]:
    """Return a JPEG of each image as a data URI."""
    order = sorted(places)
    drawn: dict[int, str] = {}

    def store(index: int, size: int, pixels: np.ndarray) -> None:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=QUALITY)
        drawn[order[index]] = f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"

    digests = [examined.listed.digests[place] for place in order]
    decode_all([examined.image(place) for place in order], [PICTURE], store, progress, digests)
    return drawn


def _lay_out(examined: Examined, chosen: _Chosen, drawn: dict[int, str]) -> Sheet:
    pictures = []
    for place in chosen.places:
        name = printable(examined.image(place).key)
        # in a tree of folders the name tells the class
        whole = name if examined.listed.source.layout else f"{examined.class_of(place)}: {name}"
        caption = name.rpartition("/")[2] if chosen.one_class else whole
        pictures.append(Picture(drawn[place], name, caption))
    return Sheet(chosen.title, pictures, chosen.left_out, " outside the test split" if chosen.one_class else "")


# ---- numbers


def _list_facts(summary: dict[str, Any]) -> list[Fact]:
    split = summary["split"]
    parts = "none" if split is None else f"{split['train']:,} / {split['validation']:,} / {split['test']:,}"
    given = describe_given(split["given"]) if split else ""
    copies, suspects = summary["copies"], summary["suspects"]
    return [
        Fact("images", f"{summary['images']:,}", f"{len(summary['classes'])} classes"),
        Fact("train / validation / test", parts, given),
        Fact("can't be used", f"{len(summary['bad']):,}", "decoding failed" if summary["bad"] else ""),
        Fact("pairs of copies", f"{copies['pairs']:,}", f"{len(summary['conflicts']):,} with different labels"),
        Fact("may be dark, blank or blurred", f"{sum(map(len, suspects.values())):,}", ""),
    ]


def _class_table(summary: dict[str, Any]) -> Table:
    parts = ("train", "validation", "test") if summary["split"] else ()
    rows = [
        (printable(one["name"]), f"{one['images']:,}", *(f"{one[part]:,}" for part in parts))
        for one in summary["classes"]
    ]
    return Table(("class", "images", *parts), tuple(rows))


def _bad_table(summary: dict[str, Any]) -> Table:
    rows = [(printable(one["image"]), one["reason"]) for one in summary["bad"][:MOST_BAD]]
    return Table(("image", "why it can't be used"), tuple(rows))
