"""The command that looks at images before anything trains: data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cnnstudy.cli.options import one_worker
from cnnstudy.cli.sources import (
    GroupColumn,
    IgnoreFolders,
    ImageColumn,
    LabelColumn,
    Layout,
    PartColumn,
    find_features,
    find_images_to_pretrain_on,
    find_own_features,
    find_source,
)
from cnnstudy.errors import InputError, printable

if TYPE_CHECKING:
    from cnnstudy.config.load import Study
    from cnnstudy.data.examination import Examined
    from cnnstudy.results.lookalikes import FeatureSource

WeightsGiven = Annotated[
    str | None,
    typer.Option(
        "--weights",
        metavar="NAME-OR-FILE",
        help="Also list what may show the same to a network with these weights: a name in `weights list`, a file, or "
        "imagenet.",
    ),
]
NetworkGiven = Annotated[
    str | None,
    typer.Option("--network", help="Whose weights they are.", show_default="as the weights or STUDY say"),
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
    weights: WeightsGiven = None,
    network: NetworkGiven = None,
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
    features = find_features(weights, network, study) if weights or network else None
    from cnnstudy.data.examination import examine_images
    from cnnstudy.results.pages.data_summary import format_summary, summarize
    from cnnstudy.system import output
    from cnnstudy.system.display import watch_command

    console = output.open_console(error=True)
    with watch_command(console) as display:
        seed, pretrained_on = (study.config.seed, find_images_to_pretrain_on(study)) if study else (0, None)
        examined = examine_images(options, seed, display.count, pretrained_on)
    summary = summarize(examined, study, source, _look_for_lookalikes(examined, features, study))
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


def _look_for_lookalikes(
    examined: Examined, features: FeatureSource | None, study: Study | None
) -> dict[str, Any] | None:
    """Return what the features show, or those that the study starts from; None: there are none."""
    from cnnstudy.results.lookalikes import MOST_UNASKED, look_for_lookalikes

    if features is None and study is not None and len(examined.grouping.usable) <= MOST_UNASKED:
        features = find_own_features(study)
    if features is None:
        return None
    with one_worker() as (executor, display, _):
        return look_for_lookalikes(examined, features, executor, display)
