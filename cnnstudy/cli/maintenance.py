"""Commands for maintenance: doctor, schema, cache list, cache clear."""

from __future__ import annotations

from typing import Annotated

import typer

from cnnstudy.cli.options import TRIALS_FAILED, TrackingUri
from cnnstudy.system import output


def doctor(
    repair: Annotated[bool, typer.Option("--repair", help="Clean up after killed processes.")] = False,
    tracking_uri: TrackingUri = None,
) -> None:
    """Check packages, machine, cache, database and studies. Exit code 4: a problem was found."""
    from cnnstudy.study import doctor as examination
    from cnnstudy.tracking import client

    uri = client.tracking_uri(tracking_uri)
    done = examination.repair(uri) if repair else None
    findings = examination.examine(uri)
    examination.show_findings(output.open_console(), findings, done)
    if any(finding.trouble for finding in findings):
        raise typer.Exit(TRIALS_FAILED)


def schema() -> None:
    """Print the JSON Schema of study files, with which editors complete and check them."""
    from cnnstudy.config.json_schema import make_schema

    output.print_text(output.format_json(make_schema()))


cache = typer.Typer(
    no_args_is_help=True,
    help="Manage the shared cache: images, weights, features, first epochs, checkpoints and saved estimates.",
)
Kind = Annotated[
    str | None,
    typer.Option(
        "--kind",
        help="Only this kind: images, groups, weights, networks, features, prefixes (first epochs that trials share), "
        "checkpoints, received (from drivers on other machines) or forecasts.",
    ),
]


@cache.command("list")
def list_cache(kind: Kind = None) -> None:
    """List the cache entries, largest first."""
    from datetime import datetime

    from cnnstudy.system import cache
    from cnnstudy.system.cache import cache_folder
    from cnnstudy.system.display import format_size

    entries = cache.list_entries(kind)
    console = output.open_console()
    grid = output.plain_table()
    for heading in ("kind", "what", "size", "last used", "address"):
        grid.add_column(heading, justify="right" if heading == "size" else "left", no_wrap=heading != "what")
    for entry in entries:
        used = datetime.fromtimestamp(entry.used).strftime("%Y-%m-%d")
        output.add_row(grid, (entry.kind, entry.about, format_size(entry.bytes), used, entry.address))
    if entries:
        output.print_table(console, grid)
    total = format_size(sum(entry.bytes for entry in entries))
    output.print_lines(console, [f"{len(entries)} entries, {total} in {cache_folder()}"])


@cache.command("clear")
def clear_cache(
    kind: Kind = None,
    unused_for: Annotated[
        float | None,
        typer.Option("--unused-for", min=0, metavar="DAYS", help="Only entries that were not used for this many days."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Remove without asking.")] = False,
) -> None:
    """Remove cache entries; a study that needs one again recreates it."""
    from cnnstudy.system import cache
    from cnnstudy.system.display import format_size

    chosen = (
        cache.list_entries(kind)
        if unused_for is None
        else cache.entries_unused_for(cache.list_entries(kind), unused_for)
    )
    if not chosen:
        output.print_text("nothing to remove")
        return
    what = f"{len(chosen)} entries, {format_size(sum(entry.bytes for entry in chosen))}"
    if not yes:
        typer.confirm(f"Remove {what}?", abort=True)
    cache.clear_entries(chosen)
    output.print_text(f"removed {what}")
