"""Commands for features: features export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cnnstudy.cli.options import Quiet, TrackingUri, plain_workers
from cnnstudy.system.output import open_console, print_text

features = typer.Typer(no_args_is_help=True, help="Export the outputs of frozen layers, for other programs.")


@features.callback()
def _group() -> None:
    """Export the outputs of frozen layers, for other programs."""


@features.command("export")
def export(
    trial: Annotated[
        str,
        typer.Argument(metavar="STUDY-OR-TRIAL", help="STUDY/TRIAL, or STUDY for its first trial with frozen layers."),
    ],
    to: Annotated[Path, typer.Option("--to", help="File to write: .parquet or .npz.")],
    tracking_uri: TrackingUri = None,
    quiet: Quiet = False,
) -> None:
    """Write a trial's features of all images outside the test split, with file, label, class, part and group."""
    from cnnstudy.study.feature_export import check_target, describe_features, export_features
    from cnnstudy.system.display import choose_display
    from cnnstudy.tracking import client
    from cnnstudy.tracking.registry import Registry

    check_target(to)
    registry = Registry(client.existing_tracker(tracking_uri))
    with choose_display(open_console(error=True), quiet) as display:
        written = export_features(trial, to, registry, plain_workers(1), display)
    if not quiet:
        print_text(describe_features(to, written))
