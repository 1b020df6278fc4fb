"""Check the packages, the machine, the cache, the database and the studies; repair what killed processes left behind.

`examine` looks and changes nothing; `repair` is --repair; `show_findings` prints a table.
"""

from __future__ import annotations

import contextlib
import importlib.util
import platform
import shutil
import sqlite3
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from ctypes.util import find_library
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import cnnstudy
from cnnstudy.analysis.confirmation import RECORD_PATH, describe_other_champion
from cnnstudy.errors import TrackingError, TrackingUnavailableError, UnknownNameError, without_secrets
from cnnstudy.study.lock import DriverLock, read_driver, try_study_lock
from cnnstudy.study.recovery import (
    FoundStudy,
    Leftovers,
    apply_decisions,
    decide_recovery,
    find_broken_entries,
    inspect_checkpoints,
    inspect_machine,
    inspect_study,
    tidy_machine,
)
from cnnstudy.system.cache import cache_folder, is_owned_by_user, try_lock
from cnnstudy.system.display import format_size
from cnnstudy.system.files import find_half_written, remove_half_written
from cnnstudy.system.output import add_row, plain_table, print_lines, print_table
from cnnstudy.system.processes import count_cores, list_gpus
from cnnstudy.system.scratch import remove_tree
from cnnstudy.tracking import study_run
from cnnstudy.tracking.client import Tracker
from cnnstudy.tracking.outbox import find_lost_records
from cnnstudy.tracking.recorded import RecordedStudy, counted_trials
from cnnstudy.tracking.registry import Registry
from cnnstudy.tracking.relocation import Moved, correct_places, corrected_copy, find_moved, local_folder
from cnnstudy.tracking.spool import Envelope, Spool, find_waiting
from cnnstudy.tracking.sqlite import sqlite_file

if TYPE_CHECKING:
    from cnnstudy.system.output import Console


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    area: str  # "packages", "machine", "cache", "database", "processes", "files", "checkpoints", "study NAME"
    text: str
    trouble: bool = False
    remedy: str = ""  # what to do about the trouble
    mendable: bool = False  # --repair fixes it


#: Packages whose module has another name.
_MODULES = {"scikit-learn": "sklearn", "pillow": "PIL", "ruamel.yaml": "ruamel"}
LEAST_PYTHON = (3, 11)
#: Bytes. With less, a study is likely to fail before its end.
LEAST_DISK = 10**9
LEAST_MEMORY = 2 * 10**9
#: Seconds after which a locked database is reported.
_PATIENCE = 5


def examine(uri: str) -> list[Finding]:
    """Run all checks and return their findings, good and bad; change nothing.

    Args:
        uri: of the tracking server or database.
    """
    tracker, database = _open_tracker(uri)
    moved = find_moved(uri) if tracker is not None else None
    if moved is not None:
        tracker = Tracker(corrected_copy(moved))
    studies = _studies(tracker) if tracker is not None else []
    artifacts = local_folder(tracker.artifact_location(studies[0].experiment_id)) if tracker and studies else None
    if moved is not None:
        remedy = "--repair corrects every place that the database stores"
        database.append(Finding("database", str(moved), True, remedy, mendable=True))
    found = [
        *check_packages(),
        *check_machine(artifacts),
        *check_cache(),
        *_check_processes(),
        *_check_files(),
        *database,
    ]
    found += _check_waiting(uri, tracker)
    if tracker is not None:
        found += [Finding(f"study {name}", text, True) for name, text in tracker.list_lost_studies()]
        found += _check_checkpoints(tracker, studies)
        for study in studies:
            found += _check_study(tracker, study, study.name in find_waiting(uri))
    return found


def repair(uri: str) -> list[str]:
    """Repair everything that can be repaired, and return a sentence for each repair."""
    done = list(map(str, tidy_machine()))
    for folder, why in find_broken_entries().items():
        with try_lock(folder) as lock:  # otherwise another process is rebuilding it
            if lock is not None and is_owned_by_user(folder):
                remove_tree(folder)
                done.append(f"{folder} was broken ({why}): removed")
    for left in _list_half_written():
        remove_half_written(left)
        done.append(f"{left} was left by a command that was killed: removed")
    tracker, _ = _open_tracker(uri)
    if tracker is not None and (moved := find_moved(uri)):
        correct_places(moved)
        done.append(f"{moved}: the places are corrected")
        done += _bring_records_along(moved, uri)
    done += _set_lost_aside(uri, tracker)
    if tracker is None:
        return done
    studies = _studies(tracker)
    abandoned = decide_recovery(Leftovers(checkpoints=inspect_checkpoints(tracker, studies)))
    apply_decisions(abandoned)
    done += map(str, abandoned)
    for study in studies:
        with try_study_lock(study.name, uri) as free:
            # records that wait on this disk may include the end of a trial: the next run delivers them first
            if free and DriverLock(tracker, study).driver()[0] == "gone" and study.name not in find_waiting(uri):
                decisions = decide_recovery(Leftovers(studies=(inspect_study(tracker, study, "gone"),)))
                apply_decisions(decisions, tracker)
                done += map(str, decisions)
    return done


def show_findings(console: Console, findings: Sequence[Finding], done: Sequence[str] | None = None) -> None:
    """Print the findings as a table, trouble with its remedy.

    Args:
        done: what --repair did, printed first; None: without --repair.
    """
    for line in done or ():
        print_lines(console, [f"repaired: {line}"])
    if done is not None and not done:
        print_lines(console, ["nothing to repair"])
    grid = plain_table(padding=(0, 1))
    for heading in ("", "area", "finding"):
        grid.add_column(heading)
    for finding in findings:
        mark = "!" if finding.trouble else "ok"
        add_row(grid, (mark, finding.area, finding.text), {"!": "bold red", "ok": "green"})
        if finding.trouble and finding.remedy:
            add_row(grid, ("", "", f"-> {finding.remedy}"))
    print_table(console, grid)
    troubles = sum(finding.trouble for finding in findings)
    print_lines(console, [f"problems found: {troubles}" if troubles else "no problems found"])


def check_packages() -> Iterator[Finding]:
    """Check the versions of Python and of each package that cnnstudy requires."""
    yield Finding(
        "packages",
        f"Python {platform.python_version()}",
        sys.version_info < LEAST_PYTHON,
        f"cnnstudy needs Python {'.'.join(map(str, LEAST_PYTHON))} or newer",
    )
    for name, allowed in requirements().items():
        install = f'python -m pip install "{name}{allowed}"'
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            yield Finding("packages", f"{name} is not installed", True, install)
            continue
        if not allowed.contains(version, prereleases=True):
            yield Finding("packages", f"{name} {version} is not supported; cnnstudy needs {allowed}", True, install)
        elif importlib.util.find_spec(_MODULES.get(name, name)) is None:
            again = f"python -m pip install --force-reinstall {name}"
            yield Finding("packages", f"{name} {version} is installed, but its module is missing", True, again)
        else:
            yield Finding("packages", f"{name} {version}")


def requirements() -> dict[str, SpecifierSet]:
    """Return the required versions of each package: from pyproject.toml, or the metadata of the installed package."""
    project = Path(cnnstudy.__file__).parent.parent / "pyproject.toml"
    lines: list[str] = []
    if project.is_file():
        lines = tomllib.loads(project.read_text(encoding="utf-8")).get("project", {}).get("dependencies", [])
    else:
        lines = metadata.requires("cnnstudy") or []
    wanted = [Requirement(line) for line in lines]
    # leave out the requirements of extras, such as `pytest>=8.3; extra == "test"`
    return {
        one.name.lower(): one.specifier for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})
    }


def check_machine(artifacts: Path | None) -> Iterator[Finding]:
    """Check cores, GPUs, available memory and disk space.

    Args:
        artifacts: the folder of MLflow's files; None if they are on another machine.
    """
    yield Finding("machine", f"{count_cores()} cores")
    if list_gpus():
        has_libraries = _has_module("nvidia.cudnn") or find_library("cudnn") is not None
        without = "" if has_libraries else ", but no CUDA libraries: TensorFlow trains on the CPU"
        install = "python -m pip install -c constraints.txt 'tensorflow[and-cuda]'"
        count = f"{len(list_gpus())} NVIDIA GPU{'s' if len(list_gpus()) > 1 else ''}"
        yield Finding("machine", f"{count}{without}", not has_libraries, install)
    memory = psutil.virtual_memory().available
    remedy = "close other programs, or train smaller batches with fewer workers"
    yield Finding("machine", f"{format_size(memory)} of memory available", memory < LEAST_MEMORY, remedy)
    places = {"cache": cache_folder(), "temporary files": Path(tempfile.gettempdir())}
    if artifacts is not None:
        places["MLflow's files"] = artifacts
    for what, folder in places.items():
        existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
        free = shutil.disk_usage(existing).free
        yield Finding(
            "machine",
            f"{format_size(free)} free for {what}, {folder}",
            free < LEAST_DISK,
            f"free some space in {existing}",
        )


def _has_module(module: str) -> bool:
    with contextlib.suppress(ModuleNotFoundError):  # raised for a missing parent package
        return importlib.util.find_spec(module) is not None
    return False


def check_cache() -> Iterator[Finding]:
    """Check the cache entries: a finding for each broken one, or one for all if none is."""
    broken = find_broken_entries()
    for folder, why in broken.items():
        own = is_owned_by_user(folder)
        remedy = "--repair removes it; the next study that needs it rebuilds it" if own else ""
        yield Finding("cache", f"{folder} is broken: {why}", True, remedy, mendable=own)
    if not broken:
        yield Finding("cache", f"all entries in {cache_folder()} are intact")


def _open_tracker(uri: str) -> tuple[Tracker | None, list[Finding]]:
    """Return the tracker, or None if it can't be used, and a finding about it; never creates a database."""
    shown, path = without_secrets(uri), sqlite_file(uri)
    if path is not None:
        if not path.exists():
            return None, [Finding("database", f"{path} does not exist yet; the first run-study creates it")]
        trouble = None if path.is_dir() else _check_sqlite(path)  # the tracker refuses a folder
        if trouble is not None:
            return None, [trouble]
    try:
        tracker = Tracker(uri)
        count = len(tracker.studies())
    except TrackingError as error:
        # a server's own message says less than what is wrong with a database
        remedy = "" if path else "check the address, and that the server is running"
        return None, [Finding("database", str(error), True, remedy)]
    return tracker, [Finding("database", f"{shown} answers{', and is writable' if path else ''}; studies: {count}")]


def _check_sqlite(path: Path) -> Finding | None:
    """Return a finding if an SQLite database can't be read and written; None if it can."""
    try:
        connection = sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, timeout=_PATIENCE, isolation_level=None)
        try:
            connection.execute("BEGIN IMMEDIATE")
            # SQLite reports a read-only file only when something is written
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            connection.execute(f"PRAGMA user_version = {int(version)}")
            connection.execute("ROLLBACK")
            (answer,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        finally:
            connection.close()
    except sqlite3.Error as error:
        remedy = "restore it from a copy"
        if "locked" in str(error):
            remedy = f"wait for the process that holds it, or end that; `lsof {path}` shows who has it open"
        elif "readonly" in str(error) or "unable to open" in str(error):
            remedy = "make the file and its folder writable"
        return Finding("database", f"{path}: {error}", True, remedy)
    if answer != "ok":
        return Finding("database", f"{path} is damaged: {answer}", True, "restore it from a copy")
    return None


def _studies(tracker: Tracker) -> list[RecordedStudy]:
    return sorted(tracker.studies(), key=lambda study: study.name)


def _check_processes() -> Iterator[Finding]:
    """Check for workers and folders whose driver no longer exists."""
    folders, workers = inspect_machine()
    decisions = decide_recovery(Leftovers(folders=folders, workers=workers))
    for decision in decisions:
        yield Finding("processes", f"{decision.name} {decision.why}", True, "--repair fixes it", mendable=True)
    if not decisions:
        yield Finding("processes", "killed processes have left nothing behind")


def _check_files() -> Iterator[Finding]:
    """Check for files and folders that commands were writing for the user when they were killed."""
    for left in _list_half_written():
        what = f"{left} was left by a command that was killed"
        yield Finding("files", what, True, "--repair removes it", mendable=True)


def _list_half_written() -> list[Path]:
    """Return them from this folder and the two levels below it, where reports have their figures."""
    return [left for level in ("", "*/", "*/*/") for left in find_half_written(Path.cwd(), f"{level}.cnnstudy-*")]


def _check_checkpoints(tracker: Tracker, studies: Sequence[RecordedStudy]) -> Iterator[Finding]:
    """Check for checkpoints from which no trial will resume; count the others."""
    found = inspect_checkpoints(tracker, studies)
    decisions = decide_recovery(Leftovers(checkpoints=found))
    for decision in decisions:
        yield Finding("checkpoints", f"{decision.name} {decision.why}", True, "--repair removes it", mendable=True)
    waiting = len(found) - len(decisions)
    if waiting:
        trials = "1 trial" if waiting == 1 else f"{waiting} trials"
        yield Finding("checkpoints", f"of {trials} under way or unknown to this MLflow; kept for resuming")


def _check_waiting(uri: str, tracker: Tracker | None) -> Iterator[Finding]:
    """Check for records that wait for MLflow."""
    for study, waiting in find_waiting(uri).items():
        records = "1 record waits" if waiting.records == 1 else f"{waiting.records} records wait"
        text = f"{records} for MLflow in {waiting.folder}"
        try:
            lost = _find_lost_records(study, uri, tracker)
        except TrackingUnavailableError:
            raise
        except TrackingError as error:
            yield Finding(f"study {study}", str(error).rstrip("."), True)
            continue
        if lost:
            text += (
                f"; {len(lost)} of them belong to runs that it does not have any more: its database was deleted or "
                "replaced, or the runs were deleted"
            )
            remedy = (
                "put the database back or restore the runs, then run the study again; or --repair sets these records "
                "aside, and the study's next run goes on without them"
            )
            yield Finding(f"study {study}", text, True, remedy, mendable=True)
        else:
            yield Finding(f"study {study}", f"{text}; the study's next run delivers them")


def _bring_records_along(moved: Moved, uri: str) -> Iterator[str]:
    """Have the records that wait for a database that was moved, not copied, wait for it where it is now."""
    for earlier in moved.earlier:
        for study in find_waiting(f"sqlite:///{earlier}") if not earlier.exists() else ():
            with try_study_lock(study, uri) as free:
                if free:
                    records = Spool(study, uri).take_over(Spool(study, f"sqlite:///{earlier}"))
                    yield f"study {study}: {records} records that waited for {earlier} are sent by its next run"


def _find_lost_records(study: str, uri: str, tracker: Tracker | None) -> list[Envelope]:
    """Return the waiting records that MLflow can't take; [] if that can't be told now."""
    file = sqlite_file(uri)
    if tracker is None and (file is None or file.exists()):
        return []
    return find_lost_records(Spool(study, uri), tracker)


def _set_lost_aside(uri: str, tracker: Tracker | None) -> Iterator[str]:
    """Set aside the records that MLflow can't take, and yield a sentence for each study."""
    for study in find_waiting(uri):
        with try_study_lock(study, uri) as free, contextlib.suppress(TrackingError):  # one that `examine` tells
            spool = Spool(study, uri)
            lost = _find_lost_records(study, uri, tracker) if free else []
            places = {spool.set_aside(envelope) for envelope in lost}
            if places:
                yield (
                    f"study {study}: {len(lost)} records of runs that MLflow does not have any more were set aside in "
                    f"{places.pop()}; moved back to {spool.folder}, they are sent"
                )


def _check_study(tracker: Tracker, study: RecordedStudy, records_wait: bool) -> Iterator[Finding]:
    """Check a study's record; one that can't be read is a finding."""
    try:
        if study.damage:
            raise TrackingError(study.damage)
        yield from _check_record(tracker, study, records_wait)
    except TrackingUnavailableError:
        raise
    except TrackingError as error:
        yield Finding(f"study {study.name}", str(error).rstrip("."), True, "")


def _check_record(tracker: Tracker, study: RecordedStudy, records_wait: bool) -> Iterator[Finding]:
    area = f"study {study.name}"
    driver, who = read_driver(tracker, study)
    found = inspect_study(tracker, study, driver)
    finished = {run.run_id for run in found.runs if run.state == "finished"}
    for run in counted_trials(found.runs):
        _ = run.number, run.seed, run.levels, run.verdict_counts  # all that is read from tags
        if run.state == "failed" and run.run_id in finished:
            yield Finding(area, f"{run.trial}: {run.message}", True, "restore the database from a copy")
    if driver == "alive":
        yield Finding(area, f"is being run by {who}")
    elif driver == "unknown":
        yield Finding(area, f"was started by {who}; whether that is still running can't be seen from here")
    # the records that wait may include the end of a trial
    decisions = [] if records_wait else decide_recovery(Leftovers(studies=(found,)))
    for decision in decisions:
        yield Finding(
            area,
            f"{decision.name} {decision.why}",
            True,
            "fixed by --repair, or by the study's next run",
            mendable=True,
        )
    root = local_folder(tracker.artifact_location(study.experiment_id))
    missing = find_missing_files(tracker, study, found)
    if missing and root is not None and not root.is_dir():
        remedy = "move it back or mount its disk, or restore it from a copy; the numbers in the database are intact"
        yield Finding(area, f"the folder of its files, {root}, is not there", True, remedy)
    elif missing:
        shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        remedy = "restore them from a copy; the numbers in the database are intact"
        yield Finding(area, f"files of finished trials are missing: {shown}", True, remedy)
    # a model is registered under the name that the study had; `examine` tells of one that was renamed
    own_name = any(run.kind == "study" and run.name == study_run.run_name(study.name) for run in found.runs)
    other = _find_other_champion(tracker, study) if own_name else ""
    if other:
        remedy = f"set the alias back in MLflow, or `python -m cnnstudy confirm {study.name}` sets it"
        yield Finding(area, other, True, remedy)
    if driver == "gone" and not records_wait and not decisions and not missing and not other:
        trials = sum(run.done for run in counted_trials(found.runs))
        yield Finding(area, f"in order; trials done: {trials}" if trials else "no trial is done yet")


def _find_other_champion(tracker: Tracker, study: RecordedStudy) -> str:
    record, version, trial = tracker.read_text(study.run_id, RECORD_PATH), "", ""
    with contextlib.suppress(UnknownNameError):
        stored = Registry(tracker).champion(study)
        version, trial = stored.version, stored.trial
    return describe_other_champion(study.name, record, version, trial)


def find_missing_files(tracker: Tracker, study: RecordedStudy, found: FoundStudy) -> list[str]:
    """Return `TRIAL: what` for each finished trial with missing files; [] if MLflow's files are on another machine."""
    root = local_folder(tracker.artifact_location(study.experiment_id))
    if root is None:
        return []
    missing = []
    for run in found.runs:
        if run.kind == "study" or run.state != "finished":
            continue
        key = run.trial or run.name
        if not (root / run.run_id / "artifacts" / "trial.json").is_file():
            missing.append(f"{key}: its files")
        model = run.model.removeprefix("models:/")
        if model and not (root / "models" / model / "artifacts" / "MLmodel").is_file():
            missing.append(f"{key}: its model")
    return missing
