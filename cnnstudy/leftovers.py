"""What is left by a process that was killed, and what becomes of each piece: one pure function decides.

The driver writes a trial's state last, in one piece with its other tags: a trial that has one is whole, its metrics,
files and model with it, and only MLflow's status may lag behind. A trial without one has to run again, so its files,
of which one may be half written, and its model go. What a living driver is at work on is nobody else's to touch.
A last word may wait on disk for MLflow (spool.py): whoever decides has delivered what waits, or leaves the study alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from cnnstudy.mlflow_entities import FoundModel, FoundVersion, mlflow_status
from cnnstudy.records import INTERRUPTED, STATES, RecordedRun

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


def decide(found: Found) -> list[Decision]:
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
            yield Decision("run", run.run_id, name, MATCHED, why, mlflow_status(run.state, run.reason))


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
