"""Commands for what lies on this disk: cache list, cache clear."""

from __future__ import annotations

from typing import Annotated

import typer

from cnnstudy.commands.shared import wide_console

cache = typer.Typer(
    no_args_is_help=True, help="What is kept for all studies: images, weights, features, first epochs; and checkpoints."
)
Kind = Annotated[
    str | None,
    typer.Option("--kind", help="Of one kind: images, weights, features, prefixes, checkpoints, forecasts."),
]


@cache.command("list")
def list_entries(kind: Kind = None) -> None:
    """Show what the cache holds, the largest first."""
    from datetime import datetime

    from rich import box
    from rich.table import Table
    from rich.text import Text

    from cnnstudy import shelf
    from cnnstudy.cache import cache_folder
    from cnnstudy.display import size

    found = shelf.entries(kind)
    console = wide_console()
    grid = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    for heading in ("kind", "what", "size", "last used", "address"):
        grid.add_column(heading, justify="right" if heading == "size" else "left", no_wrap=heading != "what")
    for entry in found:
        used = datetime.fromtimestamp(entry.used).strftime("%Y-%m-%d")
        grid.add_row(*map(Text, (entry.kind, entry.about, size(entry.bytes), used, entry.address)))
    if found:
        console.print(grid, markup=False, emoji=False)
    total = size(sum(entry.bytes for entry in found))
    console.print(f"{len(found)} entries, {total} in {cache_folder()}", markup=False, highlight=False, soft_wrap=True)


@cache.command("clear")
def clear_entries(
    kind: Kind = None,
    unused_for: Annotated[
        float | None, typer.Option("--unused-for", min=0, metavar="DAYS", help="Only what was not used for so long.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove entries; what a study needs again is made again."""
    from cnnstudy import shelf
    from cnnstudy.display import size

    chosen = shelf.entries(kind) if unused_for is None else shelf.older_than(shelf.entries(kind), unused_for)
    if not chosen:
        print("nothing to remove")
        return
    what = f"{len(chosen)} entries, {size(sum(entry.bytes for entry in chosen))}"
    if not yes:
        typer.confirm(f"Remove {what}?", abort=True)
    shelf.clear(chosen)
    print(f"removed {what}")
