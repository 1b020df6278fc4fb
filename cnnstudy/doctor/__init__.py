"""Is everything in order: packages, machine, cache, database, studies; and what killed processes left, put right."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cnnstudy.cache import locked_or_none
from cnnstudy.claim import Claim, driver_of, while_nobody_runs
from cnnstudy.database import sqlite_file
from cnnstudy.doctor import environment, wholeness
from cnnstudy.doctor.findings import Finding
from cnnstudy.errors import TrackingError, without_secrets
from cnnstudy.estimate import local_folder
from cnnstudy.leftovers import Found, decide
from cnnstudy.records import RecordedStudy
from cnnstudy.repair import carry_out, look_around, look_at, look_at_checkpoints, tidy_machine
from cnnstudy.scratch import remove_tree
from cnnstudy.spool import waiting_for
from cnnstudy.tracking import Tracker

_REPAIRABLE = "--repair does it, and so does the next call that runs the study"
#: Of a database that is locked for so many seconds, it is said.
_PATIENCE = 5


def examine(uri: str) -> list[Finding]:
    """All that there is to be said, whether all is well or not; nothing is changed.

    Args:
        uri: of the tracking server or database.
    """
    tracker, of_database = _open(uri)
    studies = _studies(tracker) if tracker is not None else []
    artifacts = local_folder(tracker.artifacts_of(studies[0].experiment_id)) if tracker and studies else None
    found = [*environment.packages(), *environment.machine(artifacts), *wholeness.cache(), *_processes(), *of_database]
    if tracker is not None:
        found += _checkpoints(tracker, studies)
        for study in studies:
            found += _of_study(tracker, study)
    return found


def repair(uri: str) -> list[str]:
    """Put right what can be, and say each thing that was done."""
    done = list(map(str, tidy_machine()))
    for folder, why in wholeness.broken_entries().items():
        with locked_or_none(folder) as lock:  # else another process builds it anew
            if lock is not None:
                remove_tree(folder)
                done.append(f"{folder} was broken ({why}): removed")
    tracker, _ = _open(uri)
    if tracker is None:
        return done
    studies = _studies(tracker)
    abandoned = decide(Found(checkpoints=look_at_checkpoints(tracker, studies)))
    carry_out(abandoned)
    done += map(str, abandoned)
    for study in studies:
        with while_nobody_runs(study.name, uri) as free:
            # a trial whose last word waits on this disk has ended
            if free and Claim(tracker, study).driver()[0] == "gone" and waiting_for(study.name, uri) is None:
                decisions = decide(Found(studies=(look_at(tracker, study, "gone"),)))
                carry_out(decisions, tracker)
                done += map(str, decisions)
    return done


def show(console: Console, findings: Sequence[Finding], done: Sequence[str] | None = None) -> None:
    """The findings by area, trouble with its remedy; before that what --repair did."""
    for line in done or ():
        console.print(f"repaired: {line}", markup=False, emoji=False, highlight=False, soft_wrap=True)
    if done is not None and not done:
        console.print("nothing to repair")
    grid = Table(box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False)
    for heading in ("", "area", "what"):
        grid.add_column(heading)
    for finding in findings:
        remedy = f"\n-> {finding.remedy}" if finding.trouble and finding.remedy else ""
        mark = Text("!", "bold red") if finding.trouble else Text("ok", "green")
        grid.add_row(mark, Text(finding.area), Text(finding.text + remedy))
    console.print(grid)
    troubles = sum(finding.trouble for finding in findings)
    console.print(f"{troubles} to look at" if troubles else "all is well", highlight=False)


def _open(uri: str) -> tuple[Tracker | None, list[Finding]]:
    """The tracker, if it answers; and what is to be said of it. A database that is not there is not made."""
    shown, path = without_secrets(uri), sqlite_file(uri)
    if path is not None:
        if not path.exists():
            return None, [Finding("database", f"{path} is not there yet; the first run-study makes it")]
        trouble = _trouble_of(path)
        if trouble is not None:
            return None, [trouble]
    try:
        tracker = Tracker(uri)
        count = len(tracker.studies())
    except TrackingError as error:
        upgrade = f"`mlflow db upgrade {shown}` after a copy was made" if "db upgrade" in str(error) else ""
        return None, [Finding("database", str(error), True, upgrade or "check the address, and that it is running")]
    return tracker, [Finding("database", f"{shown} answers{', and can be written' if path else ''}; studies: {count}")]


def _trouble_of(path: Path) -> Finding | None:
    """What keeps an SQLite database from being read and written, if anything does."""
    try:
        connection = sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, timeout=_PATIENCE, isolation_level=None)
        try:
            connection.execute("BEGIN IMMEDIATE")
            # of a file that nobody may write, SQLite only says so when something is written
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            connection.execute(f"PRAGMA user_version = {int(version)}")
            connection.execute("ROLLBACK")
            (answer,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        finally:
            connection.close()
    except sqlite3.Error as error:
        locked = "locked" in str(error)
        remedy = "find the process that holds it" if locked else "see that file and folder can be written, or restore"
        return Finding("database", f"{path}: {error}", True, f"{remedy}; `lsof {path}` tells who has it open")
    if answer != "ok":
        return Finding("database", f"{path} is damaged: {answer}", True, "restore it from a copy")
    return None


def _studies(tracker: Tracker) -> list[RecordedStudy]:
    return sorted(tracker.studies(), key=lambda study: study.name)


def _processes() -> Iterator[Finding]:
    """Workers and folders whose process is gone."""
    folders, workers = look_around()
    decisions = decide(Found(folders=folders, workers=workers))
    for decision in decisions:
        yield Finding("processes", f"{decision.name} {decision.why}", True, "--repair does it", mendable=True)
    if not decisions:
        yield Finding("processes", "no process has left anything behind")


def _checkpoints(tracker: Tracker, studies: Sequence[RecordedStudy]) -> Iterator[Finding]:
    """Those that no trial will go on from; the others are named."""
    found = look_at_checkpoints(tracker, studies)
    decisions = decide(Found(checkpoints=found))
    for decision in decisions:
        yield Finding("checkpoints", f"{decision.name} {decision.why}", True, "--repair removes it", mendable=True)
    waiting = len(found) - len(decisions)
    if waiting:
        trials = "1 trial" if waiting == 1 else f"{waiting} trials"
        yield Finding("checkpoints", f"of {trials} under way, or that MLflow does not have here; the next call goes on")


def _of_study(tracker: Tracker, study: RecordedStudy) -> Iterator[Finding]:
    area = f"study {study.name}"
    driver, who = driver_of(tracker, study)
    found = look_at(tracker, study, driver)
    if driver == "alive":
        yield Finding(area, f"is being run by {who}")
    elif driver == "unknown":
        yield Finding(area, f"was begun by {who}, and nothing here can tell whether that still runs it")
    late = waiting_for(study.name, tracker.uri)
    if late is not None:
        records = f"{late.records} record{' waits' if late.records == 1 else 's wait'}"
        yield Finding(area, f"{records} for MLflow in {late.folder}; the next call that runs the study delivers them")
    decisions = decide(Found(studies=(found,))) if late is None else []
    for decision in decisions:
        yield Finding(area, f"{decision.name} {decision.why}", True, _REPAIRABLE, mendable=True)
    gone = wholeness.missing_files(tracker, study, found)
    if gone:
        shown = ", ".join(gone[:5]) + (f" and {len(gone) - 5} more" if len(gone) > 5 else "")
        remedy = "restore them from a copy; the numbers are in the database and hold"
        yield Finding(area, f"files of finished trials are gone: {shown}", True, remedy)
    if driver == "gone" and late is None and not decisions and not gone:
        trials = sum(run.kind == "trial" and run.done for run in found.runs)
        yield Finding(area, f"in order; trials done: {trials}")
