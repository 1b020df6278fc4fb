"""Is everything in order: packages, machine, cache, database, studies; and what killed processes left, put right."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import platform
import shutil
import sqlite3
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Callable, Iterator, Sequence
from ctypes.util import find_library
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
import psutil
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

import cnnstudy
from cnnstudy.errors import TrackingError, without_secrets
from cnnstudy.study.estimate import local_folder
from cnnstudy.study.lock import DriverLock, read_driver, while_nobody_runs
from cnnstudy.study.recovery import (
    Found,
    FoundStudy,
    apply_decisions,
    decide_recovery,
    inspect_checkpoints,
    inspect_machine,
    inspect_study,
    tidy_machine,
)
from cnnstudy.system.cache import cache_folder, entry_folders, try_lock
from cnnstudy.system.display import format_size
from cnnstudy.system.processes import cores, gpus
from cnnstudy.system.scratch import remove_tree
from cnnstudy.tracking.client import Tracker
from cnnstudy.tracking.recorded import RecordedStudy
from cnnstudy.tracking.spool import waiting_for
from cnnstudy.tracking.sqlite import sqlite_file
from cnnstudy.training import checkpoints, shared_epochs


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    area: str  # "packages", "machine", "cache", "database", "study NAME", "processes"
    text: str
    trouble: bool = False
    remedy: str = ""  # what to do about it
    mendable: bool = False  # --repair does it


#: Where a module has another name than its package.
_MODULES = {"scikit-learn": "sklearn", "pillow": "PIL", "ruamel.yaml": "ruamel"}
LEAST_PYTHON = (3, 11)
#: Bytes. With less, a study stops in its midst.
LEAST_DISK = 10**9
LEAST_MEMORY = 2 * 10**9


def check_packages() -> Iterator[Finding]:
    """Python, and each package that cnnstudy asks for: is it there, and new enough?"""
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
            yield Finding("packages", f"{name} {version} is not supported; it takes {allowed}", True, install)
        elif importlib.util.find_spec(_MODULES.get(name, name)) is None:
            again = f"python -m pip install --force-reinstall {name}"
            yield Finding("packages", f"{name} {version} is installed, and its module is not there", True, again)
        else:
            yield Finding("packages", f"{name} {version}")


def requirements() -> dict[str, SpecifierSet]:
    """Return the versions allowed of each package, by the checkout's file, else by the installed package's metadata."""
    project = Path(cnnstudy.__file__).parent.parent / "pyproject.toml"
    lines: list[str] = []
    if project.is_file():
        lines = tomllib.loads(project.read_text(encoding="utf-8")).get("project", {}).get("dependencies", [])
    else:
        lines = metadata.requires("cnnstudy") or []
    wanted = [Requirement(line) for line in lines]
    # without those of an extra, such as `pytest>=8.3; extra == "test"`
    return {
        one.name.lower(): one.specifier for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})
    }


def check_machine(artifacts: Path | None) -> Iterator[Finding]:
    """Cores, memory, and room on the disks.

    Args:
        artifacts: the folder that MLflow's files go to; None where that is on another machine.
    """
    yield Finding("machine", f"{cores()} cores")
    if gpus():
        has_libraries = _is_there("nvidia.cudnn") or find_library("cudnn") is not None
        without = "" if has_libraries else ", and no CUDA libraries: TensorFlow trains on the processor"
        install = "python -m pip install -c constraints.txt 'tensorflow[and-cuda]'"
        count = f"{len(gpus())} NVIDIA GPU{'s' if len(gpus()) > 1 else ''}"
        yield Finding("machine", f"{count}{without}", not has_libraries, install)
    memory = psutil.virtual_memory().available
    remedy = "end other programs, or train smaller batches with fewer workers"
    yield Finding("machine", f"{format_size(memory)} of memory available", memory < LEAST_MEMORY, remedy)
    places = {"cache": cache_folder(), "temporary files": Path(tempfile.gettempdir())}
    if artifacts is not None:
        places["MLflow's files"] = artifacts
    for what, folder in places.items():
        there = next(parent for parent in (folder, *folder.parents) if parent.exists())
        free = shutil.disk_usage(there).free
        yield Finding(
            "machine", f"{format_size(free)} free for {what}, {folder}", free < LEAST_DISK, f"make room in {there}"
        )


def _is_there(module: str) -> bool:
    with contextlib.suppress(ModuleNotFoundError):  # of what it is a part of
        return importlib.util.find_spec(module) is not None
    return False


def broken_entries() -> dict[Path, str]:
    """Cache entries that can't be what was built, and why."""
    checks: dict[str, Callable[[Path], str]] = {
        "images": _why_images_are_broken,
        "weights": _why_weights_are_broken,
        checkpoints.KIND: checkpoints.why_broken,
        shared_epochs.KIND: shared_epochs.why_broken,
    }
    found = {}
    for kind, check in checks.items():
        for folder in entry_folders(kind):
            why = check(folder)
            if why:
                found[folder] = why
    return found


def check_cache() -> Iterator[Finding]:
    """A finding for each broken entry, or one for all when they are whole."""
    broken = broken_entries()
    remedy = "--repair removes it; the next study that needs it builds it again"
    for folder, why in broken.items():
        yield Finding("cache", f"{folder} is broken: {why}", True, remedy, mendable=True)
    if not broken:
        yield Finding("cache", f"all entries in {cache_folder()} are whole")


def _why_images_are_broken(folder: Path) -> str:
    try:
        index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        images, labels = len(index["keys"]), len(index["labels"])
        pixels = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        return _in_words(error)
    if not len(pixels) == images == labels:
        return f"images.npy holds {len(pixels)} images, and index.json names {images} with {labels} labels"
    return ""


def _why_weights_are_broken(folder: Path) -> str:
    try:
        json.loads((folder / "record.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return _in_words(error)
    if not zipfile.is_zipfile(folder / "backbone.npz"):
        return "backbone.npz is missing or cut off"
    return "" if (folder / "model" / "MLmodel").is_file() else "model/MLmodel is missing"


def _in_words(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return f"{Path(error.filename).name} is missing"
    return f"{type(error).__name__}: {error}"


def missing_files(tracker: Tracker, study: RecordedStudy, found: FoundStudy) -> list[str]:
    """`TRIAL: what` for each finished trial whose files are gone; [] where they lie on another machine."""
    root = local_folder(tracker.artifacts_of(study.experiment_id))
    if root is None:
        return []
    gone = []
    for run in found.runs:
        if run.kind == "study" or run.state != "finished":
            continue
        key = run.trial or run.name
        if not (root / run.run_id / "artifacts" / "trial.json").is_file():
            gone.append(f"{key}: its files")
        model = run.model.removeprefix("models:/")
        if model and not (root / "models" / model / "artifacts" / "MLmodel").is_file():
            gone.append(f"{key}: its model")
    return gone


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
    found = [*check_packages(), *check_machine(artifacts), *check_cache(), *_processes(), *of_database]
    if tracker is not None:
        found += _checkpoints(tracker, studies)
        for study in studies:
            found += _of_study(tracker, study)
    return found


def repair(uri: str) -> list[str]:
    """Put right what can be, and say each thing that was done."""
    done = list(map(str, tidy_machine()))
    for folder, why in broken_entries().items():
        with try_lock(folder) as lock:  # else another process builds it anew
            if lock is not None:
                remove_tree(folder)
                done.append(f"{folder} was broken ({why}): removed")
    tracker, _ = _open(uri)
    if tracker is None:
        return done
    studies = _studies(tracker)
    abandoned = decide_recovery(Found(checkpoints=inspect_checkpoints(tracker, studies)))
    apply_decisions(abandoned)
    done += map(str, abandoned)
    for study in studies:
        with while_nobody_runs(study.name, uri) as free:
            # a trial whose last word waits on this disk has ended
            if free and DriverLock(tracker, study).driver()[0] == "gone" and waiting_for(study.name, uri) is None:
                decisions = decide_recovery(Found(studies=(inspect_study(tracker, study, "gone"),)))
                apply_decisions(decisions, tracker)
                done += map(str, decisions)
    return done


def show_findings(console: Console, findings: Sequence[Finding], done: Sequence[str] | None = None) -> None:
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
    folders, workers = inspect_machine()
    decisions = decide_recovery(Found(folders=folders, workers=workers))
    for decision in decisions:
        yield Finding("processes", f"{decision.name} {decision.why}", True, "--repair does it", mendable=True)
    if not decisions:
        yield Finding("processes", "no process has left anything behind")


def _checkpoints(tracker: Tracker, studies: Sequence[RecordedStudy]) -> Iterator[Finding]:
    """Those that no trial will go on from; the others are named."""
    found = inspect_checkpoints(tracker, studies)
    decisions = decide_recovery(Found(checkpoints=found))
    for decision in decisions:
        yield Finding("checkpoints", f"{decision.name} {decision.why}", True, "--repair removes it", mendable=True)
    waiting = len(found) - len(decisions)
    if waiting:
        trials = "1 trial" if waiting == 1 else f"{waiting} trials"
        yield Finding("checkpoints", f"of {trials} under way, or that MLflow does not have here; the next call goes on")


def _of_study(tracker: Tracker, study: RecordedStudy) -> Iterator[Finding]:
    area = f"study {study.name}"
    driver, who = read_driver(tracker, study)
    found = inspect_study(tracker, study, driver)
    if driver == "alive":
        yield Finding(area, f"is being run by {who}")
    elif driver == "unknown":
        yield Finding(area, f"was begun by {who}, and nothing here can tell whether that still runs it")
    late = waiting_for(study.name, tracker.uri)
    if late is not None:
        records = f"{late.records} record{' waits' if late.records == 1 else 's wait'}"
        yield Finding(area, f"{records} for MLflow in {late.folder}; the next call that runs the study delivers them")
    decisions = decide_recovery(Found(studies=(found,))) if late is None else []
    for decision in decisions:
        yield Finding(area, f"{decision.name} {decision.why}", True, _REPAIRABLE, mendable=True)
    gone = missing_files(tracker, study, found)
    if gone:
        shown = ", ".join(gone[:5]) + (f" and {len(gone) - 5} more" if len(gone) > 5 else "")
        remedy = "restore them from a copy; the numbers are in the database and hold"
        yield Finding(area, f"files of finished trials are gone: {shown}", True, remedy)
    if driver == "gone" and late is None and not decisions and not gone:
        trials = sum(run.kind == "trial" and run.done for run in found.runs)
        yield Finding(area, f"in order; trials done: {trials}")
