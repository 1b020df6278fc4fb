"""Check a study that was killed and resumed; reads SQLite and folders directly, without cnnstudy."""

from __future__ import annotations

import json
import os
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path

TRIALS = {f"alexnet-{number:03d}" for number in range(3)}
SEEDS = 2
EPOCHS = [1, 2]
#: How the files of a trial begin.
FILES = {
    "curves.png": "picture",
    "confusion_matrix.png": "picture",
    "per_class.csv": "class,",
    "confusion_matrix.csv": "true class,",
}
#: MLflow's codes for the status of a model.
PENDING, READY = 1, 2


class Record:
    """The contents of the MLflow database in a folder."""

    def __init__(self, folder: Path) -> None:
        # not read-only: whoever opens the database next rolls back a transaction that was killed
        with closing(sqlite3.connect(folder / "mlflow.db")) as connection:

            def rows(query: str) -> list[tuple]:
                return connection.execute(query).fetchall()

            self.status = dict(rows("SELECT run_uuid, status FROM runs WHERE lifecycle_stage = 'active'"))
            self.tags: dict[str, dict[str, str]] = {run: {} for run in self.status}
            for run, key, value in rows("SELECT run_uuid, key, value FROM tags"):
                self.tags.get(run, {})[key.removeprefix("cnnstudy.")] = value
            self.steps: dict[str, list[int]] = {run: [] for run in self.status}
            for run, step in rows("SELECT run_uuid, step FROM metrics WHERE key = 'val/accuracy' ORDER BY step"):
                self.steps.get(run, []).append(step)
            query = "SELECT model_id, source_run_id, status, lifecycle_stage, artifact_location FROM logged_models"
            self.models = rows(query)
            self.versions = rows("SELECT version, source, current_stage FROM model_versions")
            self.aliases = rows("SELECT alias, version FROM registered_model_aliases")

    def finished(self) -> dict[str, str]:
        """Return the trial of each finished run, by run id."""
        return {run: tags["trial"] for run, tags in self.tags.items() if self._has_trial(run) and self.is_finished(run)}

    def is_finished(self, run: str) -> bool:
        return self.tags[run].get("state") == "finished"

    def _has_trial(self, run: str) -> bool:
        return self.tags[run].get("kind") in ("trial", "confirm", "pretrain")

    def counts(self, run: str) -> bool:
        """Return whether the run is its trial's final result."""
        tags = self.tags[run]
        ended = tags.get("state") in ("finished", "pruned", "failed")
        return ended and tags.get("reason") != "interrupted" and "retried" not in tags


def troubles_at_rest(folder: Path) -> list[str]:
    """List what is wrong after a driver has ended by itself, whatever its outcome."""
    record = Record(folder)
    found = [f"run {run} is {status}" for run, status in record.status.items() if status in ("RUNNING", "SCHEDULED")]
    states = {run: tags.get("state", "running") for run, tags in record.tags.items()}
    found += [f"run {run} has no state" for run, state in states.items() if state == "running"]
    found += [f"model {model} is pending" for model, _, status, *_ in record.models if status == PENDING]
    for run, tags in record.tags.items():
        expected = {"finished": "FINISHED", "pruned": "FINISHED", "failed": "FAILED"}.get(tags.get("state", ""), "")
        expected = "KILLED" if tags.get("reason") == "interrupted" else expected
        if record.status[run] != expected:
            found.append(f"run {run} is {record.status[run]}, and its tags say {expected}")
    found += [f"process {pid} is an orphan" for pid in processes_of(folder)]
    found += _half_written(folder, record)
    return found


def troubles_at_the_end(folder: Path) -> list[str]:
    """List what is wrong after a study is complete."""
    record, found = Record(folder), troubles_at_rest(folder)
    done = Counter(tags["trial"] for run, tags in record.tags.items() if tags["kind"] == "trial" and record.counts(run))
    if done != Counter(dict.fromkeys(TRIALS, 1)):
        found.append(f"trials that count: {done}")
    confirmed = Counter(
        tags["trial"] for run, tags in record.tags.items() if tags["kind"] == "confirm" and record.counts(run)
    )
    if len(confirmed) != SEEDS or set(confirmed.values()) != {1}:
        found.append(f"confirming runs that count: {confirmed}")
    pretrained = [run for run, tags in record.tags.items() if tags["kind"] == "pretrain" and record.is_finished(run)]
    if len(pretrained) != 1:
        found.append(f"pretrainings that finished: {len(pretrained)}")
    (study,) = (run for run, tags in record.tags.items() if tags["kind"] == "study")
    tags = record.tags[study]
    if tags["state"] != "finished" or "test_split" not in tags:
        found.append(f"the study's own run: {tags.get('state')}, tested: {'test_split' in tags}")
    elif json.loads(tags["test_split"])["openings"] != 1:
        found.append("the test split was opened twice")
    if len(record.versions) != 1 or [alias for alias, _ in record.aliases] != ["champion"]:
        found.append(f"versions {record.versions}, aliases {record.aliases}")
    entries = [path for path in (folder / "cache" / "checkpoints").glob("*") if path.is_dir()]
    found += [f"{path} is left of a trial that has ended" for path in entries]
    for run in record.finished():
        if record.steps[run] != EPOCHS:
            found.append(f"run {run} has the epochs {record.steps[run]}")
    return found


def processes_of(folder: Path) -> list[int]:
    """Return the process ids of workers whose folder is in this one."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
            state = (process / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if f"--folder={folder}".encode() in command and state != "Z":
            found.append(int(process.name))
    return found


def _half_written(folder: Path, record: Record) -> list[str]:
    root = folder / "mlruns"
    found = [f"{path} is left" for path in root.rglob(".artifact.uploading.*")]
    found += [f"{path} is left" for path in (folder / "temporary").glob("cnnstudy-*") if path.is_dir()]
    found += [f"{path} is left" for path in (folder / "cache").glob("*/.*-*")]
    kept = set()
    for model, run, status, stage, location in record.models:
        place = Path(location.removeprefix("file://"))
        if stage == "deleted":
            found += [f"{place} of a deleted model is left"] * place.exists()
            continue
        kept.add(run)
        content = place / "data" / "model.keras"
        expected = record.tags[run]["trial"] * 1000
        if status != READY or not record.is_finished(run) or content.read_text() != expected:
            found.append(f"model {model} of run {run} ({record.tags[run].get('state')}) is not whole")
    for run, tags in record.tags.items():
        (place,) = [*root.glob(f"*/{run}/artifacts"), None][:1]
        if tags.get("reason") == "interrupted" and tags["kind"] != "study" and place is not None:
            found.append(f"{place} of an interrupted run is left")
        if not record.is_finished(run) or tags["kind"] == "study":
            continue
        if run not in kept or place is None:
            found.append(f"run {run} finished without model or files")
            continue
        if json.loads((place / "trial.json").read_text())["number"] != int(tags["number"]):
            found.append(f"{place}/trial.json is another's")
        for name, start in FILES.items():
            if not (place / name).read_text().startswith(start):
                found.append(f"{place / name} is not whole")
    for entry in (folder / "cache" / "images").glob("[0-9a-f]*"):
        if entry.is_dir():
            images = len(json.loads((entry / "index.json").read_text())["keys"])
            if os.path.getsize(entry / "images.npy") != 128 + images * 8 * 8 * 3:
                found.append(f"{entry}/images.npy is not whole")
    for entry in (folder / "cache" / "weights").glob("[0-9a-f]*"):
        if entry.is_dir():
            json.loads((entry / "record.json").read_text())
            if not (entry / "model" / "data" / "model.keras").read_text().startswith("pretrain"):
                found.append(f"{entry}/model is not whole")
    return found
