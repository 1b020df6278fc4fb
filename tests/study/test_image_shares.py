"""What images explain of a mean over seeds, read from what trials record."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cnnstudy.analysis.resampled import measure_images
from cnnstudy.records import Rule
from cnnstudy.study.image_shares import explain_by_images
from cnnstudy.tracking.client import Tracker
from cnnstudy.tracking.recorded import RecordedRun
from cnnstudy.tracking.registry import Registry
from cnnstudy.training.cross_fit import cross_fit

EPOCHS, PROBE, IMAGES = 4, 6, 11  # no multiples of eight: answers are packed in bytes


class Record:
    """Two confirming runs in a database, whose artifacts tests may change before they are logged."""

    def __init__(self, tracker: Tracker, make_run: Any, folder: Path) -> None:
        self.tracker, self.make_run, self.folder = tracker, make_run, folder
        self.experiment = tracker.open_study("fake", {}).experiment_id
        self.right: list[tuple[np.ndarray, np.ndarray]] = []

    def run(self, seed: int, change: Callable[[dict[str, Any], dict[str, Any]], None] | None = None) -> RecordedRun:
        """Record a run; `change` may alter its arrays and its trial.json."""
        rng = np.random.default_rng(seed)
        labels = {"probe": np.arange(PROBE) % 3, "validation": np.arange(IMAGES) % 3}
        by_epoch = {part: rng.random((EPOCHS, len(own))) < 0.7 for part, own in labels.items()}
        arrays: dict[str, Any] = {"validation_places": rng.permutation(30)[:IMAGES]}
        for part, own in labels.items():
            arrays[f"{part}_labels"] = own
            arrays[f"{part}_by_epoch"] = np.stack([np.packbits(row) for row in by_epoch[part]])
        crossed = cross_fit(by_epoch["probe"], labels["probe"], by_epoch["validation"], labels["validation"], Rule())
        assert crossed is not None
        self.right.append((arrays["validation_places"], crossed.right))
        spec: dict[str, Any] = {"images": {"groups": ""}}
        if change is not None:
            change(arrays, spec)
        folder = self.folder / str(seed)
        folder.mkdir(parents=True)
        np.savez(folder / "correctness.npz", **arrays)
        (folder / "trial.json").write_text(json.dumps(spec), encoding="utf-8")
        run_id = self.tracker._client.create_run(self.experiment).info.run_id
        self.tracker.log_files(run_id, folder)
        metrics = {"crossed/val_accuracy": crossed.metrics["val/accuracy"]}
        return RecordedRun(**{**vars(self.make_run(seed)), "run_id": run_id, "metrics": metrics})


@pytest.fixture
def record(tracker: Tracker, make_run: Any, tmp_path: Path) -> Record:
    return Record(tracker, make_run, tmp_path / "files")


def test_it_is_what_the_recorded_answers_explain(record: Record) -> None:
    runs = [record.run(0), record.run(1)]
    assert explain_by_images(Registry(record.tracker), runs, Rule()) == measure_images(record.right)
    assert explain_by_images(Registry(record.tracker), [], Rule()) is None


def _forget_epochs(arrays: dict[str, Any], _: dict[str, Any]) -> None:
    del arrays["validation_by_epoch"], arrays["probe_by_epoch"]


def _group(_: dict[str, Any], spec: dict[str, Any]) -> None:
    spec["images"]["groups"] = "groups.json"


def _change_an_answer(arrays: dict[str, Any], _: dict[str, Any]) -> None:
    arrays["validation_by_epoch"] = arrays["validation_by_epoch"] ^ 128


def _cut(arrays: dict[str, Any], _: dict[str, Any]) -> None:
    arrays["validation_labels"] = arrays["validation_labels"][:1]


def _forget_places(arrays: dict[str, Any], _: dict[str, Any]) -> None:
    arrays["validation_places"] = arrays["validation_places"][1:]


def _forget_images(_: dict[str, Any], spec: dict[str, Any]) -> None:
    spec.clear()


@pytest.mark.parametrize("change", [_forget_epochs, _group, _change_an_answer, _cut, _forget_places, _forget_images])
def test_what_was_not_recorded_so_is_not_known(record: Record, change: Any) -> None:
    runs = [record.run(0), record.run(1, change)]
    assert explain_by_images(Registry(record.tracker), runs, Rule()) is None
    assert explain_by_images(Registry(record.tracker), runs[:1], Rule()) is not None


def test_files_that_are_gone_or_damaged(record: Record) -> None:
    run = record.run(0)
    (file,) = Path.cwd().rglob(f"{run.run_id}/artifacts/correctness.npz")
    whole = file.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"no arrays"):
        file.write_bytes(damaged)
        assert explain_by_images(Registry(record.tracker), [run], Rule()) is None
    file.unlink()
    assert explain_by_images(Registry(record.tracker), [run], Rule()) is None
