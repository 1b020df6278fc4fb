"""The command that puts things right: doctor."""

from __future__ import annotations

from typing import Annotated

import typer

from cnnstudy.commands.shared import TRIALS_FAILED, TrackingUri, wide_console


def doctor(
    repair: Annotated[bool, typer.Option("--repair", help="Put right what killed processes left.")] = False,
    tracking_uri: TrackingUri = None,
) -> None:
    """Check packages, machine, cache, database and studies. Exit code 4: something is to be looked at."""
    from cnnstudy import doctor as examination
    from cnnstudy import tracking

    uri = tracking.tracking_uri(tracking_uri)
    done = examination.repair(uri) if repair else None
    findings = examination.examine(uri)
    examination.show(wide_console(), findings, done)
    if any(finding.trouble for finding in findings):
        raise typer.Exit(TRIALS_FAILED)
