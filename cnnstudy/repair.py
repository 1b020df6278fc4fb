"""What killed processes left, looked for in MLflow and on this machine, and put right as `leftovers.decide` says."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from cnnstudy.cache import building_folders, entry_folders, remove_unfinished
from cnnstudy.errors import TrackingError
from cnnstudy.leftovers import (
    INTERRUPTED,
    MATCHED,
    STOPPED,
    Decision,
    Driver,
    Found,
    FoundCheckpoint,
    FoundFolder,
    FoundStudy,
    FoundWorker,
    decide,
)
from cnnstudy.names import Tag
from cnnstudy.records import RecordedRun, RecordedStudy
from cnnstudy.registry import Registry
from cnnstudy.scratch import is_abandoned, is_scratch, remove_abandoned, scratch_folders
from cnnstudy.tracking import Tracker
from cnnstudy.training import checkpoints

_WORKER = "cnnstudy.execution.worker"
#: Seconds by which a file server's clock may be ahead of this machine's.
CLOCKS_APART = 60.0


def look_at(tracker: Tracker, study: RecordedStudy, driver: Driver) -> FoundStudy:
    """What MLflow has of a study.

    Args:
        driver: whether somebody runs it, which MLflow can't say.
    """
    registry = Registry(tracker)
    # the models first: a run that ends in between is then none that has left its model
    models, versions = registry.models_of(study), registry.versions_of(study)
    return FoundStudy(study.name, driver, tuple(tracker.runs(study.experiment_id)), models, versions)


def look_around() -> tuple[tuple[FoundFolder, ...], tuple[FoundWorker, ...]]:
    """The folders of this user's processes in the cache and the temporary folder, and the workers on this machine."""
    building = [FoundFolder(str(folder), held, True) for folder, held in building_folders().items()]
    scratch = [FoundFolder(str(folder), held) for folder, held in scratch_folders().items()]
    workers = [FoundWorker(pid, not _driver_is_gone(pid, folder)) for pid, folder in workers_here().items()]
    return (*building, *scratch), tuple(workers)


def look_at_checkpoints(
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
            study, trial = checkpoints.owner(folder)
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
    folders, workers = look_around()
    decisions = decide(Found(folders=folders, workers=workers))
    carry_out(decisions)
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


def carry_out(decisions: Sequence[Decision], tracker: Tracker | None = None) -> None:
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
