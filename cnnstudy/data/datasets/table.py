"""Your own images, listed in a table: a row for each image, with its file, its label and perhaps its part.

The table is CSV, TSV or Parquet. Cells count as the text that is in them: 001 is not 1.
"""

from __future__ import annotations

import contextlib
import csv
import os
import posixpath
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, Field

from cnnstudy.data.datasets import DataOptions, ImageSource, Part, SourceImage
from cnnstudy.data.file_types import PassedKind
from cnnstudy.data.image_tree import ClassName, name_classes, require_distinct_classes
from cnnstudy.data.layouts import PART_NAMES, find_part, quote_names
from cnnstudy.errors import DataError, did_you_mean, format_list
from cnnstudy.system.validation import describe_place

if TYPE_CHECKING:
    import pandas as pd

SUFFIXES = (".csv", ".tsv", ".parquet")
#: Separators of a .csv; the one that is most frequent in the first line counts.
_SEPARATORS = ",;\t"
#: Names of columns that tell parts and groups.
_TELLING = {
    "part": {"part", "partition", "split", "subset"},
    "group": {"animal", "burst", "group", "individual", "patient", "person", "subject", "video"},
}
_TOLD = {
    "part": "which images are for training, validation and test",
    "group": "what images belong to that must stay on one side of a split",
}


def _require_table(path: Path) -> Path:
    expanded = Path(os.path.expanduser(path))
    if not os.path.isfile(expanded):
        raise ValueError(f"there is no file {describe_place(path)}; give a table that exists.")
    if expanded.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path} is not a table ({', '.join(SUFFIXES)}); give one.")
    return expanded


class Options(DataOptions):
    """The options of a table of images.

    `path`: the table; files in it are relative to its folder. `image`, `label`, `part`, `group`: the names of its
    columns. `classes`: use only these labels; classes are numbered in this order.
    """

    path: Annotated[Path, AfterValidator(_require_table)]
    image: str = Field(description="the column with the file of each image, relative to the table's folder")
    label: str = Field(description="the column with the class of each image")
    part: str | None = Field(None, description="the column with train, validation or test; default: divide them here")
    group: str | None = Field(
        None, description="the column that names what an image belongs to; its cells may be empty"
    )
    classes: Annotated[tuple[ClassName, ...] | None, Field(min_length=2), AfterValidator(require_distinct_classes)] = (
        None
    )


def load(options: Options) -> ImageSource:
    """Load the images of the classes, sorted by path.

    Raises:
        DataError: the table can't be read, lacks a column, or has a row that is incomplete or names an image again.
    """
    path = options.path
    columns = [options.image, options.label, *([options.part] if options.part else [])]
    more = [options.group] if options.group and options.group not in columns else []
    rows = (_read_parquet if path.suffix.lower() == ".parquet" else _read_text)(path, columns, more)
    found: dict[str, tuple[str, str, Path, Part | None, str | None]] = {}  # key -> row, label, file, part, group
    written: dict[Part, set[str]] = {}  # what cells call each part
    for place, row in rows:
        key, file = _locate(path, row[options.image])
        label = row[options.label].strip()
        if key in found:
            raise DataError(
                f"{path}: {place} and {found[key][0]} are both about {key!r}; keep one. If they are two files of that "
                "name, write the folder of each before it."
            )
        part = _find_part(path, place, row[options.part]) if options.part else None
        if part is not None:
            written.setdefault(part, set()).add(row[options.part or ""].strip().casefold())
        found[key] = place, label, file, part, (row[options.group].strip() or None) if options.group else None
    if not found:
        raise DataError(f"{path} has no rows; it must have one for each image.")
    _refuse_missing(path, {place: file for place, _, file, *_ in found.values()})
    label_of = name_classes(path, sorted({label for _, label, *_ in found.values()}), "label")
    known = sorted(label_of)
    classes = options.classes or tuple(known)
    for name in classes:
        if name not in known:
            raise DataError(
                f"there is no class {name!r} in column {options.label!r} of {path}{did_you_mean(name, known)} "
                f"The classes there are {quote_names(known)}."
            )
    numbers = {label_of[name]: number for number, name in enumerate(classes)}
    images = tuple(
        SourceImage(key, numbers[label], file, part, group)
        for key, (_, label, file, part, group) in sorted(found.items())
        if label in numbers
    )
    unused = len(found) - len(images)
    passed_over = (PassedKind(unused, "rows of classes that are not listed"),) if unused else ()
    return ImageSource(
        classes, images, passed_over, warnings=(*_warn_of_columns(options), *_warn_of_parts(options, written))
    )


def _refuse_missing(path: Path, files: Mapping[str, Path]) -> None:
    """Raise DataError if there are rows whose file does not exist."""
    missing = [f"{place}: {file}" for place, file in files.items() if not os.path.lexists(file)]
    if missing:
        raise DataError(
            f"{path} names {len(missing)} files (of {len(files)}) that are not there:{format_list(missing)}\nPaths in "
            "a table are relative to its folder. Correct or remove these rows."
        )


def _warn_of_columns(options: Options) -> Iterator[tuple[str, str]]:
    """Yield a warning for each column that is named like parts or groups and is not used as such."""
    used = {options.image, options.label, options.part, options.group}
    for key, names in _TELLING.items():
        for column in list_columns(options.path) if getattr(options, key) is None else ():
            if column not in used and column.strip().casefold().removesuffix("_id") in names:
                yield f"the column {column!r} is not used; name it if it tells {_TOLD[key]}", f"data.{key}: {column}"


def _warn_of_parts(options: Options, written: Mapping[Part, set[str]]) -> Iterator[tuple[str, str]]:
    """Yield a warning for each part that has several names in the table."""
    for part, names in written.items():
        if len(names) > 1:
            yield (
                f"{quote_names(sorted(names))} are read as one part, {part}; if they are not the same, remove the rows "
                "that are not meant",
                f"data.part: {options.part}",
            )


def list_columns(path: Path) -> list[str]:
    """Return the names of a table's columns.

    Raises:
        DataError: the table can't be read.
    """
    if path.suffix.lower() == ".parquet":
        return list(map(str, _read_frame(path).columns))
    with _open_text(path) as (_, header):
        return header


def _read_text(path: Path, columns: list[str], may_be_empty: list[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the rows of a CSV or TSV file: where each is, and its cells by column.

    Args:
        columns: those without empty cells.
        may_be_empty: further columns.

    Raises:
        DataError: it can't be read, lacks a column, has a row of another length, or an empty cell in a column.
    """
    with _open_text(path) as (lines, header):
        _check_columns(path, [*columns, *may_be_empty], header)
        for cells in lines:
            place = f"line {lines.line_num}"
            if cells and len(cells) != len(header):
                raise DataError(
                    f"{path}, {place}: has {len(cells)} cells, and the first line {len(header)}; a cell that "
                    f"contains {lines.dialect.delimiter!r} must be in quotes."
                )
            if cells:
                row = dict(zip(header, cells, strict=True))
                _check_cells(path, place, columns, row)
                yield place, row


@contextlib.contextmanager
def _open_text(path: Path) -> Iterator[tuple[Any, list[str]]]:
    """Yield a csv.reader of a CSV or TSV file, past the first line, and the names of the columns.

    Raises:
        DataError: it can't be read; when it is opened, and in the block.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            separator = "\t" if path.suffix.lower() == ".tsv" else max(_SEPARATORS, key=first.count)
            file.seek(0)
            lines = csv.reader(file, delimiter=separator, strict=True)
            yield lines, [name.strip() for name in next(lines, [])]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"can't read the table {path}: {reason}; save it as CSV in UTF-8.") from error


def _read_parquet(path: Path, columns: list[str], may_be_empty: list[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the rows of a Parquet file, as `_read_text`."""
    import pandas as pd

    frame = _read_frame(path)
    frame.columns = list(map(str, frame.columns))
    read = [*columns, *may_be_empty]
    _check_columns(path, read, list(frame.columns))
    for number, cells in enumerate(zip(*(frame[column] for column in read), strict=True), 1):
        row = {c: "" if pd.isna(cell) else str(cell) for c, cell in zip(read, cells, strict=True)}
        _check_cells(path, f"row {number}", columns, row)
        yield f"row {number}", row


def _read_frame(path: Path) -> pd.DataFrame:
    import pandas as pd

    try:
        return pd.read_parquet(path, dtype_backend="pyarrow")
    except (OSError, ValueError, ImportError) as error:  # pyarrow's errors are OSErrors and ValueErrors
        raise DataError(f"can't read the table {path}: {str(error).splitlines()[0]}") from error


def _check_columns(path: Path, columns: list[str], header: list[str]) -> None:
    for name in columns:
        if header.count(name) != 1:
            what = "two columns" if name in header else "no column"
            near = "" if name in header else did_you_mean(name, header)
            columns_there = f"Its columns are {quote_names(header)}" if header else "It has no columns"
            raise DataError(f"{path} has {what} {name!r}{near or '.'} {columns_there}.")


def _check_cells(path: Path, place: str, columns: list[str], row: Mapping[str, str]) -> None:
    for name in columns:
        if not row[name].strip():
            raise DataError(f"{path}, {place}: the column {name!r} is empty; fill it in, or remove the row.")


def _find_part(path: Path, place: str, given: str) -> Part:
    part = find_part(given)
    if part is None:
        raise DataError(f"{path}, {place}: {given!r} is no part of the split; parts are {PART_NAMES}.")
    return part


def _locate(table: Path, given: str) -> tuple[str, Path]:
    """Return the key of an image, and its file.

    The key is the path as the table gives it, so that it is the same on every machine that has the table.
    """
    written = given.replace("\\", "/") if "/" not in given else given
    key = posixpath.normpath(unicodedata.normalize("NFC", written)).lstrip("/")
    return key, table.parent / written
