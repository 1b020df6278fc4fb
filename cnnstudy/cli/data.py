"""The command that looks at images before anything trains: data."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cnnstudy.errors import InputError, did_you_mean, printable

if TYPE_CHECKING:
    from cnnstudy.config.load import Study
    from cnnstudy.data.datasets import DataOptions

Layout = Annotated[
    Literal["classes", "divided", "classes-below"] | None,
    typer.Option("--layout", help="How to read folders that can be read in two ways."),
]
IgnoreFolders = Annotated[
    str | None,
    typer.Option("--ignore-folders", metavar="NAMES", help="Names of folders to pass over, separated by commas."),
]

ImageColumn = Annotated[
    str | None, typer.Option("--image", metavar="COLUMN", help="Of a table: the column with the images' files.")
]
LabelColumn = Annotated[
    str | None, typer.Option("--label", metavar="COLUMN", help="Of a table: the column with the classes.")
]
PartColumn = Annotated[
    str | None, typer.Option("--part", metavar="COLUMN", help="Of a table: the column with train, validation, test.")
]
GroupColumn = Annotated[
    str | None,
    typer.Option("--group", metavar="COLUMN", help="Of a table: the column that names what images belong to."),
]


def show_data(
    source: Annotated[
        str,
        typer.Argument(
            metavar="PATH-OR-STUDY",
            help="A folder, an archive or a table of images; or a study file, or the name of one in experiments/.",
        ),
    ],
    image: ImageColumn = None,
    label: LabelColumn = None,
    part: PartColumn = None,
    group: GroupColumn = None,
    layout: Layout = None,
    ignore_folders: IgnoreFolders = None,
    json_: Annotated[
        bool, typer.Option("--json", help="Print everything as one JSON object, and nothing else.")
    ] = False,
    html: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", help="Also write an HTML page with contact sheets to this file."),
    ] = None,
) -> None:
    """Show what there is to train on: classes, sizes, copies, what may be wrong, and what it can tell."""
    _refuse_to_overwrite(source, html)
    columns = {"image": image, "label": label, "part": part, "group": group}
    options, study = find_source(source, columns, layout, ignore_folders)
    from cnnstudy.data.examination import examine_images
    from cnnstudy.results.pages.data_summary import format_summary, summarize
    from cnnstudy.system import output
    from cnnstudy.system.display import watch_command

    console = output.open_console(error=True)
    with watch_command(console) as display:
        examined = examine_images(options, study.config.seed if study else 0, display.count)
        summary = summarize(examined, study, source)
    output.print_text(output.format_json(summary) if json_ else format_summary(examined, summary))
    if html is not None:
        from cnnstudy.results.pages.data_page import write_data_page

        with watch_command(console) as display:
            write_data_page(examined, summary, html, display.count)
        output.print_text(html.absolute().as_uri(), error=json_)


def _refuse_to_overwrite(source: str, html: Path | None) -> None:
    """Refuse to write the page over the data that it is about.

    Raises:
        InputError: the page's file is the table or archive, or exists in the folder of images.
    """
    if html is None:
        return
    target, data = html.expanduser().resolve(), Path(source).expanduser().resolve()
    if (
        target.exists()
        and (target == data or data in target.parents)
        and target.suffix.lower() not in (".html", ".htm")
    ):
        raise InputError(f"--html {printable(str(html))} belongs to the data itself; give another file.")


def find_source(
    source: str, columns: Mapping[str, str | None], layout: str | None, ignore_folders: str | None
) -> tuple[DataOptions, Study | None]:
    """Return the options of a data set, and the study that they belong to, if one was given.

    Args:
        columns: of a table: `image`, `label`, `part` and `group`.

    Raises:
        InputError: the path does not exist, or is neither images nor a study; an option does not fit it.
        ConfigError: the study file can't be used.
    """
    from cnnstudy.config.find import list_studies
    from cnnstudy.config.load import load_study
    from cnnstudy.data.archives import ARCHIVE_SUFFIXES
    from cnnstudy.data.datasets import folder, table
    from cnnstudy.data.layouts import quote_names

    ignored = tuple(filter(None, map(str.strip, (ignore_folders or "").split(","))))
    of_folder: dict[str, Any] = {"layout": layout, "ignore_folders": ignored}
    path, name = os.path.expanduser(source), source.lower()
    is_folder = os.path.isdir(path) or name.endswith(ARCHIVE_SUFFIXES)
    is_table = not is_folder and name.endswith(table.SUFFIXES)
    is_study = not is_folder and not is_table and (name.endswith((".yaml", ".yml")) or source in list_studies())
    archives, tables = ", ".join(ARCHIVE_SUFFIXES), ", ".join(table.SUFFIXES)
    if not is_study and not os.path.exists(path):
        raise InputError(
            f"there is no {printable(source)}{did_you_mean(source, list_studies())} Give a folder, an archive "
            f"({archives}), a table ({tables}), a study file, or one of the studies {', '.join(list_studies())}."
        )
    if not (is_study or is_folder or is_table):
        raise InputError(
            f"{printable(source)} is no archive ({archives}), no table ({tables}) and no study file (.yaml); give one, "
            "or the folder of the images."
        )
    if not is_folder and (given := [name.replace("_", "-") for name, value in of_folder.items() if value]):
        raise InputError(f"--{', --'.join(given)}: only for folders and archives, and {printable(source)} is none.")
    if not is_table and (given := [f"--{name}" for name, column in columns.items() if column]):
        raise InputError(f"{', '.join(given)}: only a table ({tables}) has columns; {printable(source)} is none.")
    if is_study:
        study = load_study(source)
        return study.config.data, study
    if is_folder:
        return folder.Options(name="folder", path=Path(path), **of_folder), None
    if missing := [f"--{name} COLUMN" for name in ("image", "label") if not columns[name]]:
        raise InputError(
            f"{printable(source)} is a table: give {' and '.join(missing)}. Its columns are "
            f"{quote_names(table.list_columns(Path(path)))}."
        )
    return table.Options(name="table", path=Path(path), copies="together", **columns), None
