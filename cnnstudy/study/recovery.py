"""What killed processes left, looked for in MLflow and on this machine, and put right as `leftovers.decide` says."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from cnnstudy.errors import TrackingError
from cnnstudy.names import Tag
from cnnstudy.records import INTERRUPTED, STATES
from cnnstudy.system.cache import entry_folders, find_unfinished, remove_unfinished
from cnnstudy.system.scratch import is_abandoned, is_scratch, remove_abandoned, scratch_folders
from cnnstudy.tracking.client import Tracker
from cnnstudy.tracking.entities import FoundModel, FoundVersion, choose_mlflow_status
from cnnstudy.tracking.recorded import RecordedRun, RecordedStudy
from cnnstudy.tracking.registry import Registry
from cnnstudy.training import checkpoints

#: Of a study: is somebody running it? Unknown: a driver on another machine is recorded, and nothing here can tell.
Driver = Literal["gone", "alive", "unknown"]
#: What becomes of a leftover.
# INTERRUPTED: a trial's run: state failed, reason interrupted, its files removed
STOPPED = "stopped"  # a study's own run: the same, and it keeps its files
MATCHED = "matched"  # a run: MLflow's status becomes what its state says
DISCARDED = "discarded"  # a model: marked as failed, and deleted with its files
REMOVED = "removed"  # a folder, or a model's version
ENDED = "ended"  # a process
#: How each is said.
_WORDS = {
    INTERRUPTED: "marked interrupted, to run again",
    STOPPED: "marked stopped; the next call goes on",
    MATCHED: "given the status that its state says",
    DISCARDED: "deleted with its files",
    REMOVED: "removed",
    ENDED: "ended",
}
#: Days after which a checkpoint is nobody's, where MLflow does not know its study.
ABANDONED_AFTER = 30
_UNENDED = ("RUNNING", "SCHEDULED")


@dataclass(frozen=True)
class FoundStudy:
    """What MLflow has of one study."""

    name: str
    driver: Driver
    runs: tuple[RecordedRun, ...]
    models: tuple[FoundModel, ...] = ()
    versions: tuple[FoundVersion, ...] = ()


@dataclass(frozen=True)
class FoundFolder:
    """A folder that a process made for itself: in the cache an entry that is being built, elsewhere files of trials."""

    path: str
    held: bool  # its lock, by a living process
    building: bool = False


@dataclass(frozen=True)
class FoundWorker:
    """A worker's process."""

    pid: int
    driver_lives: bool


@dataclass(frozen=True)
class FoundCheckpoint:
    """A checkpoint of a trial."""

    path: str
    study: str
    trial: str
    days: float  # since it was written
    ended: bool | None  # whether its trial has; None: this MLflow has no such study


@dataclass(frozen=True)
class Found:
    """Everything that may be left over."""

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
    status: str = ""  # MATCHED: MLflow's

    def __str__(self) -> str:
        return f"{self.name} {self.why}: {_WORDS[self.becomes]}"


def decide_recovery(found: Found) -> list[Decision]:
    """What becomes of each leftover, in the order in which it is to be done; nothing for what is in use or whole.

    A model goes before its run is marked, so that a repair that is stopped itself finds on its next call what is left.
    """
    decisions = [decision for study in found.studies for decision in _of_study(study)]
    for worker in found.workers:
        if not worker.driver_lives:
            why = "works for a driver that is gone"
            decisions.append(Decision("worker", str(worker.pid), f"worker process {worker.pid}", ENDED, why))
    for folder in found.folders:
        if not folder.held:
            why = "was left by a process that is gone"
            what: Literal["building", "folder"] = "building" if folder.building else "folder"
            decisions.append(Decision(what, folder.path, folder.path, REMOVED, why))
    for checkpoint in found.checkpoints:
        why = _why_abandoned(checkpoint)
        if why:
            name = f"checkpoint of {checkpoint.trial} of study {checkpoint.study}, {checkpoint.path},"
            decisions.append(Decision("checkpoint", checkpoint.path, name, REMOVED, why))
    return decisions


def _of_study(study: FoundStudy) -> Iterator[Decision]:
    if study.driver != "gone":
        return
    by_run = {run.run_id: run for run in study.runs}
    for model in study.models:
        why = _why_discarded(model, by_run.get(model.run_id))
        if why:
            yield Decision("model", model.model_id, f"model {model.name} of study {study.name}", DISCARDED, why)
    for version in study.versions:
        if version.status == "PENDING_REGISTRATION":
            key, why = f"{version.name}/{version.version}", "was never registered to its end"
            yield Decision("version", key, f"version {version.version} of {version.name}", REMOVED, why)
    # the study's own run comes last: it says that something was under way
    for run in sorted(study.runs, key=lambda run: run.kind == "study"):
        name = f"study {study.name}" if run.kind == "study" else run.name
        if run.state not in STATES:
            becomes = STOPPED if run.kind == "study" else INTERRUPTED
            yield Decision("run", run.run_id, name, becomes, "was left unfinished by a driver that is gone")
        elif run.status in _UNENDED:
            why = f"is {run.state}, and MLflow still has it as {run.status}"
            yield Decision("run", run.run_id, name, MATCHED, why, choose_mlflow_status(run.state, run.reason))


def _why_abandoned(checkpoint: FoundCheckpoint) -> str:
    if checkpoint.ended:
        return "is of a trial that has ended"
    if checkpoint.ended is None and checkpoint.days > ABANDONED_AFTER:  # it may be of another MLflow's study
        return f"is of no trial under way that MLflow has here, and was not written to for {checkpoint.days:.0f} days"
    return ""


def _why_discarded(model: FoundModel, run: RecordedRun | None) -> str:
    if model.status == "PENDING":
        return "was never stored to its end"
    if run is not None and (run.state not in STATES or run.reason == "interrupted"):
        return "belongs to a run that did not end"
    return ""


_WORKER = "cnnstudy.execution.worker"
#: Seconds by which a file server's clock may be ahead of this machine's.
CLOCKS_APART = 60.0


def inspect_study(tracker: Tracker, study: RecordedStudy, driver: Driver) -> FoundStudy:
    """What MLflow has of a study.

    Args:
        driver: whether somebody runs it, which MLflow can't say.
    """
    registry = Registry(tracker)
    # the models first: a run that ends in between is then none that has left its model
    models, versions = registry.models_of(study), registry.versions_of(study)
    return FoundStudy(study.name, driver, tuple(tracker.runs(study.experiment_id)), models, versions)


def inspect_machine() -> tuple[tuple[FoundFolder, ...], tuple[FoundWorker, ...]]:
    """The folders of this user's processes in the cache and the temporary folder, and the workers on this machine."""
    building = [FoundFolder(str(folder), held, True) for folder, held in find_unfinished().items()]
    scratch = [FoundFolder(str(folder), held) for folder, held in scratch_folders().items()]
    workers = [FoundWorker(pid, not _driver_is_gone(pid, folder)) for pid, folder in workers_here().items()]
    return (*building, *scratch), tuple(workers)


def inspect_checkpoints(
    tracker: Tracker, studies: Sequence[RecordedStudy], known: Mapping[str, Sequence[RecordedRun]] | None = None
) -> tuple[FoundCheckpoint, ...]:
    """The checkpoints on this machine, and what MLflow has of their trials.

    Args:
        studies: all that MLflow has.
        known: by a study's name its runs, where MLflow was asked for them already.
    """
    found, asked = [], dict(known or {})
    by_name = {study.name: study for study in studies}
    for folder in entry_folders(checkpoints.KIND):
        with contextlib.suppress(OSError, ValueError, KeyError):  # gone since; or broken, which is another finding
            study, trial = checkpoints.read_owner(folder)
            written = (folder / checkpoints.FILE).stat().st_mtime
            if study in by_name and study not in asked:
                asked[study] = tracker.runs(by_name[study].experiment_id)
            runs = asked.get(study)
            days = (time.time() - written) / (24 * 3600)
            found.append(FoundCheckpoint(str(folder), study, trial, days, _has_ended(trial, written, runs)))
    return tuple(found)


def _has_ended(trial: str, written: float, runs: Sequence[RecordedRun] | None) -> bool | None:
    """Whether the trial of a checkpoint has, that was written at that time; None where it is not known here."""
    if runs is None:
        return None
    done = [run for run in runs if run.done and run.trial == trial]
    if any(not run.ended or written < run.ended / 1000 + CLOCKS_APART for run in done):
        return True
    return None if done else False  # one that is written later may be of a study of that name in another store


def tidy_machine() -> list[Decision]:
    """Put right what killed processes left on this machine; what that was."""
    folders, workers = inspect_machine()
    decisions = decide_recovery(Found(folders=folders, workers=workers))
    apply_decisions(decisions)
    return decisions


def workers_here() -> dict[int, Path]:
    """The worker processes of this user that have a scratch folder, and that folder.

    Of one that works in another folder, a test's say, nothing tells whether its driver lives.
    """
    found, user = {}, psutil.Process().username()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # ended since, or another user's
            words = process.cmdline()
            folder = Path(next((word for word in words if word.startswith("--folder=")), "").removeprefix("--folder="))
            if _WORKER in words and is_scratch(folder) and process.username() == user:
                found[process.pid] = folder
    return found


def _driver_is_gone(pid: int, folder: Path) -> bool:
    """Whether the worker's scratch folder was abandoned, and that can be seen: the worker's is the one that is here.

    Another's temporary folder may be a private one, or tidied by others. Then the worker is left: it ends by itself
    when its driver does.
    """
    with contextlib.suppress(OSError):  # it has ended, or there is no such folder here or there
        # on Linux a process may have a file system of its own
        seen = Path(f"/proc/{pid}/root{folder}") if sys.platform == "linux" else folder
        return os.path.samestat(seen.stat(), folder.stat()) and is_abandoned(folder)
    return False


def apply_decisions(decisions: Sequence[Decision], tracker: Tracker | None = None) -> None:
    """Do what was decided, in that order. Whatever stops it, it can be begun again.

    Raises:
        TrackingError: MLflow does not take it.
    """
    for decision in decisions:
        if decision.what == "worker":
            _end(int(decision.key))
        elif decision.what == "building":
            remove_unfinished(Path(decision.key))
        elif decision.what == "folder":
            remove_abandoned(Path(decision.key))
        elif decision.what == "checkpoint":
            checkpoints.remove_entry(Path(decision.key))
        elif tracker is not None:
            _carry_out_in_mlflow(decision, tracker)


def _carry_out_in_mlflow(decision: Decision, tracker: Tracker) -> None:
    registry = Registry(tracker)
    if decision.what == "model":
        registry.discard_model(decision.key)
    elif decision.what == "version":
        name, _, version = decision.key.rpartition("/")
        registry.remove_version(name, version)
    elif decision.becomes == MATCHED:
        tracker.end_status(decision.key, decision.status)
    elif decision.becomes == INTERRUPTED:
        # a store may let nobody delete; the run is marked all the same, and nothing reads its files
        with contextlib.suppress(TrackingError):
            registry.remove_files(decision.key)
        tracker.end_run(decision.key, "failed", {Tag.REASON: "interrupted"})
    elif decision.becomes == STOPPED:
        tracker.end_run(decision.key, "failed", {Tag.REASON: "interrupted", Tag.MESSAGE: "its driver was killed"})


def _end(pid: int) -> None:
    if pid in workers_here():  # and not another process that has its number by now
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(pid).kill()
