"""Is what lies in the cache, and in MLflow's folder of files, whole?"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from cnnstudy.cache import cache_folder, entry_folders
from cnnstudy.doctor.findings import Finding
from cnnstudy.estimate import local_folder
from cnnstudy.leftovers import FoundStudy
from cnnstudy.records import RecordedStudy
from cnnstudy.tracking import Tracker
from cnnstudy.training import checkpoints, prefixes


def broken_entries() -> dict[Path, str]:
    """Cache entries that can't be what was built, and why."""
    checks: dict[str, Callable[[Path], str]] = {
        "images": _why_images_are_broken,
        "weights": _why_weights_are_broken,
        checkpoints.KIND: checkpoints.why_broken,
        prefixes.KIND: prefixes.why_broken,
    }
    found = {}
    for kind, check in checks.items():
        for folder in entry_folders(kind):
            why = check(folder)
            if why:
                found[folder] = why
    return found


def cache() -> Iterator[Finding]:
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
