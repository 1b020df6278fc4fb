"""Which of a study's runs are its trials: one for each."""

from __future__ import annotations

from collections.abc import Iterable

from cnnstudy.records import RecordedRun, latest_runs


def latest_trials(runs: Iterable[RecordedRun]) -> list[RecordedRun]:
    """The run of each trial that counts.

    Args:
        runs: of the study, of every kind, oldest first.
    """
    return list(latest_runs(run for run in runs if run.kind == "trial").values())
