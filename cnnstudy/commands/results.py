"""Commands that show what was recorded: leaderboard, effects, ui."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cnnstudy.commands.shared import StudyName, TrackingUri, open_or_print, wide_console


def leaderboard(
    study: StudyName = None,
    csv: Annotated[Path | None, typer.Option(help="Write every column of every trial to this CSV file.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write the table to this Markdown file.")] = None,
    sort: Annotated[str | None, typer.Option(help="Sort by this column.  [default: the study's objective]")] = None,
    top: Annotated[int | None, typer.Option(min=1, help="Show only the best so many.")] = None,
    tracking_uri: TrackingUri = None,
) -> None:
    """Show a study's trials, best first."""
    from cnnstudy import report, tracking
    from cnnstudy.analysis import leaderboard as table

    tracker = tracking.Tracker(tracking.tracking_uri(tracking_uri))
    recorded = tracker.study(study)
    frame = report.trials(tracker, recorded, sort)
    wanted = frame if top is None else frame.head(top)
    if csv is not None:
        table.write_csv(wanted, csv)
    if markdown is not None:
        table.write_markdown(wanted, markdown)
    report.show_trials(wide_console(), recorded.name, frame, top)


def effects(
    study: StudyName = None,
    csv: Annotated[Path | None, typer.Option(help="Write every effect and interaction to this CSV file.")] = None,
    gap: Annotated[float, typer.Option(min=0.1, max=50, help="Points of gap that the data law aims at.")] = 5.0,
    tracking_uri: TrackingUri = None,
) -> None:
    """Say which factor causes how many points of gap, with intervals."""
    from cnnstudy import report, tracking
    from cnnstudy.analysis.causes import effects_frame
    from cnnstudy.analysis.leaderboard import write_csv

    tracker = tracking.Tracker(tracking.tracking_uri(tracking_uri))
    recorded = tracker.study(study)
    found = report.causes_of(tracker, recorded, gap / 100)
    if csv is not None:
        write_csv(effects_frame(found), csv)
    report.show_effects(wide_console(), recorded.name, found)


def ui(
    study: StudyName = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="[default: 5000, or a free one]")] = None,
    open_: Annotated[bool, typer.Option("--open/--no-open", help="Open the address in the browser.")] = True,
    tracking_uri: TrackingUri = None,
) -> None:
    """Serve MLflow's UI on loopback, at the study's trials and gap charts."""
    from cnnstudy import tracking
    from cnnstudy import ui as server
    from cnnstudy.mlflow_view import study_url

    uri = tracking.tracking_uri(tracking_uri)
    recorded = tracking.Tracker(uri).study(study)
    if server.is_server(uri):
        open_or_print(study_url(uri, recorded.experiment_id), open_)
        return
    with server.serve(uri, port) as (base, process):
        open_or_print(study_url(base, recorded.experiment_id), open_)
        print("Ctrl-C stops the server.", flush=True)
        process.wait()
