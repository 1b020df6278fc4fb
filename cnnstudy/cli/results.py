"""Commands that show recorded studies: leaderboard, effects, report, ui, compare, watch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cnnstudy.cli.options import StudyName, TrackingUri, one_worker, open_or_print
from cnnstudy.system.output import format_json, open_console, print_note, print_text

Json = Annotated[bool, typer.Option("--json", help="Print everything as JSON, instead of tables.")]
TargetGap = Annotated[float, typer.Option(min=0.1, max=50, help="Target gap, in points, for the data-size projection.")]


def leaderboard(
    study: StudyName = None,
    csv: Annotated[
        Path | None, typer.Option(help="Write every column of the trials shown to this CSV file; - prints it.")
    ] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write the table to this Markdown file.")] = None,
    sort: Annotated[str | None, typer.Option(help="Sort by this column.", show_default="the study's objective")] = None,
    top: Annotated[int | None, typer.Option(min=1, help="Show and write only this many of the best.")] = None,
    json_: Json = False,
    tracking_uri: TrackingUri = None,
) -> None:
    """List a study's trials, best first, as a table, CSV or Markdown."""
    from cnnstudy.analysis import leaderboard as table
    from cnnstudy.results import json_answers, terminal
    from cnnstudy.tracking import client

    tracker = client.existing_tracker(tracking_uri)
    recorded = tracker.study(study)
    trials = terminal.latest_trials(tracker, recorded)
    frame = terminal.build_frame(trials, recorded, sort)
    selected = frame if top is None else frame.head(top)
    if csv is not None:
        table.write_csv(selected, csv)
    if markdown is not None:
        table.write_markdown(selected, markdown)
    if json_:
        print_text(format_json(json_answers.describe_trials(recorded.name, selected)))
    if json_ or csv == table.STANDARD_OUTPUT:
        return
    terminal.show_trials(open_console(), recorded.name, frame, top, sort)
    terminal.show_configurations(open_console(), trials, top)


def effects(
    study: StudyName = None,
    csv: Annotated[
        Path | None, typer.Option(help="Write every effect and interaction to this CSV file; - prints it.")
    ] = None,
    gap: TargetGap = 5.0,
    json_: Json = False,
    tracking_uri: TrackingUri = None,
) -> None:
    """Show how many points of gap each factor causes, with intervals."""
    from cnnstudy.analysis.leaderboard import STANDARD_OUTPUT, write_csv
    from cnnstudy.results import json_answers, terminal
    from cnnstudy.tracking import client

    tracker = client.existing_tracker(tracking_uri)
    recorded = tracker.study(study)
    trials = terminal.latest_trials(tracker, recorded)
    analyses = terminal.analyze_study(tracker, recorded, gap / 100, trials)
    if csv is not None:
        write_csv(terminal.effects_table(analyses), csv)
    steps = terminal.list_steps(tracker, recorded, analyses, trials)
    if json_:
        print_text(format_json(json_answers.describe_effects(recorded.name, analyses, steps)))
    elif csv != STANDARD_OUTPUT:
        terminal.show_effects(open_console(), recorded.name, analyses)
        terminal.show_conclusion(open_console(), analyses, steps)


def report(
    study: StudyName = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FOLDER", help="Folder to write to.", show_default="STUDY-report"),
    ] = None,
    open_: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in the browser.")] = False,
    gap: TargetGap = 5.0,
    gallery: Annotated[
        bool, typer.Option("--gallery/--no-gallery", help="Show the best model's mistakes; this starts a worker.")
    ] = True,
    tracking_uri: TrackingUri = None,
) -> None:
    """Write a one-page HTML report: the answer, its figures, and every trial.

    It is recorded in MLflow, too, where the database can be written.
    """
    from cnnstudy.results.mistakes import explain_study_mistakes
    from cnnstudy.results.pages.report_data import LEFT_OUT
    from cnnstudy.results.pages.study_page import write_report
    from cnnstudy.tracking import client
    from cnnstudy.tracking.registry import Registry
    from cnnstudy.tracking.relocation import find_unwritable

    locked = find_unwritable(client.tracking_uri(tracking_uri))
    tracker = client.existing_tracker(tracking_uri, writes=locked is None)
    recorded = tracker.study(study)
    folder = out or Path(f"{recorded.name}-report")
    mistakes: dict[str, Any] | str = LEFT_OUT
    with one_worker() as (executor, display, scratch):
        if gallery:
            mistakes = explain_study_mistakes(Registry(tracker), recorded, executor, display, scratch)
        page = write_report(tracker, recorded, folder, mistakes, gap / 100, records=locked is None)
    if locked is not None:
        print_note(f"{locked} can't be written, so the page is not recorded in MLflow.")
    print_text(f"{page} (one file; its figures as PNG and SVG in {page.parent / 'figures'})")
    if open_:
        open_or_print(page.absolute().as_uri(), open_)


def ui(
    study: StudyName = None,
    port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="Port that MLflow listens on.", show_default="5000, or a free one"),
    ] = None,
    open_: Annotated[bool, typer.Option("--open/--no-open", help="Open the address in the browser.")] = True,
    tracking_uri: TrackingUri = None,
) -> None:
    """Open MLflow's UI at the study's gap charts, served on 127.0.0.1."""
    from cnnstudy.tracking import client
    from cnnstudy.tracking import ui_server as server
    from cnnstudy.tracking.retry import is_server
    from cnnstudy.tracking.ui_layout import study_url

    uri = client.tracking_uri(tracking_uri)
    recorded = client.existing_tracker(uri, writes=True).study(study)
    if is_server(uri):
        open_or_print(study_url(server.strip_login(uri), recorded.experiment_id), open_)
        return
    with server.serve(uri, port) as (base, process):
        open_or_print(study_url(base, recorded.experiment_id), open_)
        print_text("Press Ctrl-C to stop the server.")
        process.wait()


def compare(
    study_a: Annotated[str, typer.Argument(metavar="STUDY_A", help="A study's name.")],
    study_b: Annotated[str, typer.Argument(metavar="STUDY_B", help="Another study's name.")],
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write an HTML page to this file.")] = None,
    open_: Annotated[
        bool, typer.Option("--open/--no-open", help="Write the HTML page and open it in the browser.")
    ] = False,
    json_: Json = False,
    tracking_uri: TrackingUri = None,
) -> None:
    """Compare two studies side by side: settings, outcomes, effects and champions, with intervals."""
    from cnnstudy.results.json_answers import describe_comparison
    from cnnstudy.results.terminal import compare_recorded_studies, show_comparison
    from cnnstudy.tracking import client

    comparison = compare_recorded_studies(client.existing_tracker(tracking_uri), study_a, study_b)
    if json_:
        print_text(format_json(describe_comparison(comparison)))
    else:
        show_comparison(open_console(), comparison)
    if open_ and html is None:
        html = Path(f"{comparison.a}-and-{comparison.b}.html")
    if html is not None:
        from cnnstudy.results.pages.comparison_page import write_comparison

        write_comparison(comparison, html)
        open_or_print(html.absolute().as_uri(), open_)


def watch(
    study: StudyName = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Keep watching until Ctrl-C, even when no driver is running.")
    ] = False,
    every: Annotated[float, typer.Option(min=0.2, max=3600, help="Seconds between updates.")] = 2.0,
    tracking_uri: TrackingUri = None,
) -> None:
    """Show the live view of a study that runs elsewhere; Ctrl-C ends the view, not the study."""
    from cnnstudy.results.watch import watch_study
    from cnnstudy.system.display import choose_display
    from cnnstudy.tracking import client

    tracker = client.existing_tracker(tracking_uri)
    with choose_display(open_console(), quiet=False, reminds=False) as display:
        watch_study(tracker, study, display, every, until_done=not wait)
