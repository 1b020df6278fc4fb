"""Find what killed processes left behind, on this machine and in MLflow, and clean it up.

`inspect_machine`, `inspect_checkpoints` and `inspect_study` look; `decide_recovery`, a pure function, decides what
becomes of each leftover; `apply_decisions` carries that out.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from cnnstudy.errors import CacheError, TrackingError
from cnnstudy.names import Tag
from cnnstudy.records import INTERRUPTED, STATES
from cnnstudy.system.cache import KINDS, entry_folders, find_unfinished, remove_unfinished, why_damaged
from cnnstudy.system.scratch import is_abandoned, is_scratch, remove_abandoned, scratch_folders
from cnnstudy.tracking.client import Tracker
from cnnstudy.tracking.entities import FoundModel, FoundVersion, choose_mlflow_status
from cnnstudy.tracking.recorded import RecordedRun, RecordedStudy
from cnnstudy.tracking.registry import Registry
from cnnstudy.training import checkpoints, shared_epochs

#: Whether a study's driver is running; "unknown": it is recorded as a process on another machine.
DriverState = Literal["gone", "alive", "unknown"]

#: Values of Decision.becomes, besides INTERRUPTED: a trial's run gets state failed, reason interrupted, and its files
#: are removed.
STOPPED = "stopped"  # a study's own run: as INTERRUPTED, but it keeps its files
MATCHED = "matched"  # a run: MLflow's status is set to agree with its state
DISCARDED = "discarded"  # a model: marked as failed, and deleted with its files
REMOVED = "removed"  # a folder, or a model version
ENDED = "ended"  # a process
_WORDS = {
    INTERRUPTED: "marked interrupted, to run again",
    STOPPED: "marked stopped; run the study again to resume it",
    MATCHED: "MLflow's status corrected",
    DISCARDED: "deleted with its files",
    REMOVED: "removed",
    ENDED: "ended",
}
#: Days without a write after which a checkpoint of a study that MLflow does not know is removed.
ABANDONED_AFTER_DAYS = 30
#: Seconds by which a file server's clock may be ahead of this machine's.
MAX_CLOCK_SKEW = 60.0
_UNENDED = ("RUNNING", "SCHEDULED")
_WORKER = "cnnstudy.execution.worker"


@dataclass(frozen=True)
class FoundStudy:
    """What MLflow holds of one study."""

    name: str
    driver: DriverState
    runs: tuple[RecordedRun, ...]
    models: tuple[FoundModel, ...] = ()
    versions: tuple[FoundVersion, ...] = ()


@dataclass(frozen=True)
class FoundFolder:
    """A folder that belongs to one process: a cache entry being built, or a scratch folder."""

    path: str
    held: bool  # a living process holds its lock
    building: bool = False  # a cache entry


@dataclass(frozen=True)
class FoundWorker:
    """A worker's process."""

    pid: int
    driver_lives: bool


@dataclass(frozen=True)
class FoundCheckpoint:
    """A trial's checkpoint on this machine."""

    path: str
    study: str
    trial: str
    days: float  # since the last write
    ended: bool | None  # whether the trial has ended; None: MLflow does not know


@dataclass(frozen=True)
class Leftovers:
    """Everything that may be a leftover."""

    studies: tuple[FoundStudy, ...] = ()
    folders: tuple[FoundFolder, ...] = ()
    workers: tuple[FoundWorker, ...] = ()
    checkpoints: tuple[FoundCheckpoint, ...] = ()


@dataclass(frozen=True)
class Decision:
    """What becomes of one leftover."""

    what: Literal["run", "model", "version", "folder", "building", "worker", "checkpoint"]
    key: str  # run id, model id, name/version, path, process id
    name: str  # for people
    becomes: str
    why: str
    status: str = ""  # MLflow's new status, for MATCHED

    def __str__(self) -> str:
        return f"{self.name} {self.why}: {_WORDS[self.becomes]}"


def decide_recovery(found: Leftovers) -> list[Decision]:
    """Decide what becomes of each leftover, in the order to carry it out; whatever is complete or in use is left alone.

    Models come before their runs: if the cleanup is itself interrupted, the next one still finds what remains.
    """
    decisions = [decision for study in found.studies for decision in _decide_study(study)]
    for worker in found.workers:
        if not worker.driver_lives:
            why = "works for a driver that no longer exists"
            decisions.append(Decision("worker", str(worker.pid), f"worker process {worker.pid}", ENDED, why))
    for folder in found.folders:
        if not folder.held:
            why = "was left by a process that no longer exists"
            what: Literal["building", "folder"] = "building" if folder.building else "folder"
            decisions.append(Decision(what, folder.path, folder.path, REMOVED, why))
    for checkpoint in found.checkpoints:
        why = _why_abandoned(checkpoint)
        if why:
            name = f"checkpoint of {checkpoint.trial} of study {checkpoint.study}, {checkpoint.path},"
            decisions.append(Decision("checkpoint", checkpoint.path, name, REMOVED, why))
    return decisions


def _decide_study(study: FoundStudy) -> Iterator[Decision]:
    if study.driver != "gone":
        return
    by_run = {run.run_id: run for run in study.runs}
    for model in study.models:
        why = _why_discarded(model, by_run.get(model.run_id))
        if why:
            yield Decision("model", model.model_id, f"model {model.name} of study {study.name}", DISCARDED, why)
    for version in study.versions:
        if version.status == "PENDING_REGISTRATION":
            key, why = f"{version.name}/{version.version}", "was not registered completely"
            yield Decision("version", key, f"version {version.version} of {version.name}", REMOVED, why)
    # the study's own run comes last: until then it shows that the study was under way
    for run in sorted(study.runs, key=lambda run: run.kind == "study"):
        name = f"study {study.name}" if run.kind == "study" else run.name
        if run.state not in STATES:
            becomes = STOPPED if run.kind == "study" else INTERRUPTED
            yield Decision("run", run.run_id, name, becomes, "was left unfinished by a driver that no longer exists")
        elif run.status in _UNENDED:
            why = f"is {run.state}, but MLflow still shows {run.status}"
            yield Decision("run", run.run_id, name, MATCHED, why, choose_mlflow_status(run.state, run.reason))


def _why_discarded(model: FoundModel, run: RecordedRun | None) -> str:
    if model.status == "PENDING":
        return "was not stored completely"
    if run is not None and (run.state not in STATES or run.reason == "interrupted"):
        return "belongs to a run that did not end"
    return ""


def _why_abandoned(checkpoint: FoundCheckpoint) -> str:
    if checkpoint.ended:
        return "belongs to a trial that has ended"
    # if MLflow does not know: the trial may be another tracking store's
    if checkpoint.ended is None and checkpoint.days > ABANDONED_AFTER_DAYS:
        return (
            f"belongs to no trial under way that this MLflow knows, and was last written {checkpoint.days:.0f} days ago"
        )
    return ""


def inspect_study(tracker: Tracker, study: RecordedStudy, driver: DriverState) -> FoundStudy:
    """Return what MLflow holds of a study.

    Args:
        driver: the state of its driver, which MLflow does not know.
    """
    registry = Registry(tracker)
    # models before runs: a run that ends in between does not look like one whose model was left behind
    models, versions = registry.list_models(study), registry.list_versions(study)
    return FoundStudy(study.name, driver, tuple(tracker.runs(study.experiment_id)), models, versions)


def inspect_checkpoints(
    tracker: Tracker, studies: Sequence[RecordedStudy], known: Mapping[str, Sequence[RecordedRun]] | None = None
) -> tuple[FoundCheckpoint, ...]:
    """Return the checkpoints on this machine, and what MLflow knows of their trials.

    Args:
        studies: all studies in MLflow.
        known: by study name, runs that were read from MLflow already.
    """
    found, runs_by_study = [], dict(known or {})
    by_name = {study.name: study for study in studies}
    for folder in entry_folders(checkpoints.KIND):
        with contextlib.suppress(OSError, ValueError, KeyError):  # removed meanwhile, or broken: the doctor reports it
            study, trial = checkpoints.read_owner(folder)
            written = (folder / checkpoints.FILE).stat().st_mtime
            if study in by_name and study not in runs_by_study:
                runs_by_study[study] = tracker.runs(by_name[study].experiment_id)
            ended = _has_ended(trial, written, runs_by_study.get(study))
            days = (time.time() - written) / (24 * 3600)
            found.append(FoundCheckpoint(str(folder), study, trial, days, ended))
    return tuple(found)


def _has_ended(trial: str, written: float, runs: Sequence[RecordedRun] | None) -> bool | None:
    """Return whether the trial has ended whose checkpoint was written at that time; None: MLflow does not know."""
    if runs is None:
        return None
    done = [run for run in runs if run.done and run.trial == trial]
    if any(not run.ended or written < run.ended / 1000 + MAX_CLOCK_SKEW for run in done):
        return True
    return None if done else False  # a later checkpoint may be of a study of the same name in another tracking store


def inspect_machine() -> tuple[tuple[FoundFolder, ...], tuple[FoundWorker, ...]]:
    """Return this user's process folders, in the cache and the temporary folder, and worker processes."""
    building = [FoundFolder(str(folder), held, True) for folder, held in find_unfinished().items()]
    scratch = [FoundFolder(str(folder), held) for folder, held in scratch_folders().items()]
    workers = [FoundWorker(pid, not _driver_is_gone(pid, folder)) for pid, folder in find_workers().items()]
    return (*building, *scratch), tuple(workers)


def find_workers() -> dict[int, Path]:
    """Return this user's worker processes on this machine, each with its scratch folder.

    Workers in other folders, such as those of tests, are left out: nothing shows whether their driver is alive.
    """
    found, user = {}, psutil.Process().username()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # it ended meanwhile, or belongs to another user
            words = process.cmdline()
            folder = Path(next((word for word in words if word.startswith("--folder=")), "").removeprefix("--folder="))
            if _WORKER in words and is_scratch(folder) and process.username() == user:
                found[process.pid] = folder
    return found


def _driver_is_gone(pid: int, folder: Path) -> bool:
    """Check whether the worker's scratch folder is abandoned, and is certainly the folder of that path here.

    A worker in a container may see another temporary folder. It is then left alone: it ends when its driver does.
    """
    with contextlib.suppress(OSError):  # the worker ended meanwhile, or the folder does not exist
        # on Linux a process may see another file system
        seen = Path(f"/proc/{pid}/root{folder}") if sys.platform == "linux" else folder
        return os.path.samestat(seen.stat(), folder.stat()) and is_abandoned(folder)
    return False


def tidy_machine() -> list[Decision]:
    """Clean up what killed processes left on this machine, and return what was done."""
    folders, workers = inspect_machine()
    decisions = decide_recovery(Leftovers(folders=folders, workers=workers))
    apply_decisions(decisions)
    return decisions


def apply_decisions(decisions: Sequence[Decision], tracker: Tracker | None = None) -> None:
    """Carry out the decisions in order; may be interrupted and repeated.

    Args:
        tracker: needed for runs, models and versions; None: these are skipped.

    Raises:
        TrackingError: MLflow refuses a change.
    """
    for decision in decisions:
        if decision.what == "worker":
            _end_worker(int(decision.key))
        elif decision.what == "building":
            remove_unfinished(Path(decision.key))
        elif decision.what == "folder":
            remove_abandoned(Path(decision.key))
        elif decision.what == "checkpoint":
            checkpoints.remove_entry(Path(decision.key))
        elif tracker is not None:
            _apply_in_mlflow(decision, tracker)


def _end_worker(pid: int) -> None:
    if pid in find_workers():  # the process id may belong to another process by now
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(pid).kill()


def _apply_in_mlflow(decision: Decision, tracker: Tracker) -> None:
    registry = Registry(tracker)
    if decision.what == "model":
        registry.discard_model(decision.key)
    elif decision.what == "version":
        name, _, version = decision.key.rpartition("/")
        registry.remove_version(name, version)
    elif decision.becomes == MATCHED:
        tracker.set_status(decision.key, decision.status)
    elif decision.becomes == INTERRUPTED:
        # some stores forbid deleting; the run is marked all the same, and nothing reads its files
        with contextlib.suppress(TrackingError):
            registry.remove_files(decision.key)
        tracker.end_run(decision.key, "failed", {Tag.REASON: "interrupted"})
    elif decision.becomes == STOPPED:
        tracker.end_run(decision.key, "failed", {Tag.REASON: "interrupted", Tag.MESSAGE: "its driver was killed"})


def find_broken_entries() -> dict[Path, str]:
    """Return the damaged cache entries, and what is wrong with each."""
    checks: dict[str, Callable[[Path], str]] = {
        "weights": _why_weights_are_broken,
        checkpoints.KIND: checkpoints.broken_reason,
        shared_epochs.KIND: shared_epochs.broken_reason,
    }
    found = {}
    for kind in KINDS:
        for folder in entry_folders(kind):
            with contextlib.suppress(FileNotFoundError):  # another process has just removed it
                try:
                    why = why_damaged(folder, again=True) or (checks[kind](folder) if kind in checks else "")
                except CacheError as error:
                    why = str(error)
                if why:
                    found[folder] = why
    return found


def _why_weights_are_broken(folder: Path) -> str:
    try:
        json.loads((folder / "record.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return _describe(error)
    if not zipfile.is_zipfile(folder / "backbone.npz"):
        return "backbone.npz is missing or incomplete"
    return "" if (folder / "model" / "MLmodel").is_file() else "model/MLmodel is missing"


def _describe(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return f"{Path(error.filename).name} is missing"
    return f"{type(error).__name__}: {error}"
