"""A dry run refuses what the run refuses before its first trial, with the same message."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_executor import FakeExecutor
from pictures import leave_out_pictures

from cnnstudy.config.load import load_study
from cnnstudy.errors import CnnstudyError
from cnnstudy.execution import Failed, Workers
from cnnstudy.names import Tag
from cnnstudy.study import resume
from cnnstudy.study.dry_run import plan_study
from cnnstudy.study.run import run_study
from cnnstudy.system.display import SilentDisplay
from cnnstudy.tracking.client import Tracker
from cnnstudy.tracking.recorded import RecordedRun

FILE = """
name: fake
data: {name: digits, classes: [0, 1, 2]}
image_size: 64
architectures: [alexnet]
factors: {batch_size: [8, 16], transfer: [scratch, frozen]}
weights: {default: {source: pretrain, epochs: 2, data: {name: cifar10, classes: [cat, dog]}}}
training: {epochs: 2}
strategy: {sampler: grid}
budget: {trials: 4}
"""
FACTORIAL = ("strategy={kind: factorial, seeds: 2}", "budget=")
GIVEN_WEIGHTS = ("weights={default: {source: file, file: weights.npz}}",)


class Desk:
    """Runs a study, for real or dry, with an executor whose script says what goes wrong."""

    def __init__(self, folder: Path, tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.tracker, self.monkeypatch = folder, tracker, monkeypatch
        self.file = folder / "fake.yaml"
        self.file.write_text(FILE, encoding="utf-8")
        (folder / "weights.npz").write_bytes(b"PK")
        self.trials: list[str] = []

    def start(self, dry: bool, *overrides: str, **script: Any) -> None:
        executors: list[FakeExecutor] = []

        def make(folder: Path) -> FakeExecutor:
            executors.append(FakeExecutor(folder, **script))
            return executors[0]

        study = load_study(str(self.file), overrides)
        try:
            if dry:
                plan_study(study, self.tracker, Workers(make), SilentDisplay())
            else:
                run_study(study, self.tracker, Workers(make), SilentDisplay())
        finally:
            self.trials = [key for executor in executors for key in executor.trials]

    def record(self, *overrides: str, trials: int = 2, **script: Any) -> None:
        """Run the first trials of the study, and forget them in the working folder."""
        self.start(False, *overrides, *([] if "budget=" in overrides else [f"budget.trials={trials}"]), **script)

    def tag(self, tags: Mapping[str, str]) -> None:
        self.tracker.set_tags(self.tracker.study("fake").run_id, tags)

    def lose(self, choose: Callable[[RecordedRun], bool]) -> None:
        """Mark trials as interrupted, so that they are missing."""
        for run in self.tracker.runs(self.tracker.study("fake").experiment_id):
            if run.kind == "trial" and choose(run):
                self.tracker.set_tags(run.run_id, {Tag.STATE: "failed", Tag.REASON: "interrupted"})


def failing(key: str, error: str | None, message: str = "it can't be had") -> dict[str, Any]:
    return {"failures": {key: Failed(key, "crash", message, "Traceback", error=error)}}


def other_settings(desk: Desk) -> dict[str, Any]:
    desk.record("training.epochs=1")
    return {}


def other_code(desk: Desk) -> dict[str, Any]:
    desk.record()
    code = resume.training_code(["alexnet"])
    changed = replace(code, units={**code.units, "Trainer.run_epoch": "0" * 10})
    desk.monkeypatch.setattr(resume, "training_code", lambda networks, **given: changed)
    return {}


def damaged_code(desk: Desk) -> dict[str, Any]:
    desk.record()
    desk.tag({f"{Tag.CODE}.0": "not JSON"})
    return {}


def damaged_study(desk: Desk) -> dict[str, Any]:
    desk.record()
    (name,) = (name for name in desk.tracker.tags(desk.tracker.study("fake").run_id) if name.startswith(Tag.CONFIG))
    desk.tag({name: "not JSON"})
    return {}


def deleted_study(desk: Desk) -> dict[str, Any]:
    desk.record()
    desk.tracker.client.delete_experiment(desk.tracker.study("fake").experiment_id)
    return {}


def other_images(desk: Desk) -> dict[str, Any]:
    desk.record()
    return {"digest": "f" * 24}


def other_weights(desk: Desk) -> dict[str, Any]:
    desk.record(*GIVEN_WEIGHTS)
    return {"weights_digest": "2" * 64}


def other_pretrained_weights(desk: Desk) -> dict[str, Any]:
    desk.record(trials=3)
    (entry,) = (desk.folder / "cache" / "weights").glob("*/backbone.npz")
    np.savez(entry, whose="somebody else's")
    return {}


def other_weights_of_a_seed(desk: Desk) -> dict[str, Any]:
    desk.record(*FACTORIAL)
    for entry in (desk.folder / "cache" / "weights").glob("*/backbone.npz"):
        np.savez(entry, whose="somebody else's")
    desk.lose(lambda run: run.seed == 1 and run.parameters["batch_size"] == "8")
    return {}


def no_cache(desk: Desk) -> dict[str, Any]:
    (desk.folder / "no folder").write_text("")
    desk.monkeypatch.setenv("CNNSTUDY_CACHE", str(desk.folder / "no folder"))
    return {}


#: What is wrong: overrides, and a function that brings it about and returns the executor's script; the message.
REFUSED: dict[str, tuple[tuple[str, ...], Callable[[Desk], dict[str, Any]], str]] = {
    "images": ((), lambda desk: failing("images-digits", "DataError"), "it can't be had"),
    "source images": ((), lambda desk: failing("images-cifar10", "DataError"), "it can't be had"),
    "source images of a factorial": (FACTORIAL, lambda desk: failing("images-cifar10", "DataError"), "can't be had"),
    "a worker that dies": ((), lambda desk: failing("images-cifar10", None, "signal 9"), "signal 9\nTraceback"),
    "a weights file": (GIVEN_WEIGHTS, lambda desk: failing("weights-alexnet", "WeightsError"), "had. Expected is"),
    "updates out of reach": (("training.updates=1000",), lambda desk: {}, "batch_size 8 makes only 6 of 1000 updates"),
    "updates of one batch size": (("training.updates=5",), lambda desk: {}, "batch_size 16 makes only 4 of 5"),
    "updates of a factorial": ((*FACTORIAL, "training.updates=5"), lambda desk: {}, "makes only 4 of 5 updates"),
    "no epoch for two-phase": (
        ("training.updates=1", "factors.transfer=[scratch, two-phase]"),
        lambda desk: {},
        "needs at least one more",
    ),
    "other settings": ((), other_settings, "other settings:\n  training.epochs: 1 -> 2"),
    "other code": ((), other_code, "Trainer.run_epoch"),
    "a damaged record of the code": ((), damaged_code, f"{Tag.CODE}.0"),
    "a damaged study": ((), damaged_study, "the record of study 'fake' can't be read"),
    "a deleted study": ((), deleted_study, "'fake' was deleted in MLflow"),
    "other images": ((), other_images, "the images of digits differ"),
    "other weights": (GIVEN_WEIGHTS, other_weights, "the source weights of alexnet in"),
    "other pretrained weights": ((), other_pretrained_weights, "pretrained again"),
    "other weights of a seed": (FACTORIAL, other_weights_of_a_seed, "trials of study 'fake' with seed 1 (digest"),
    "a cache that is no folder": ((), no_cache, "no folder"),
}


@pytest.fixture
def desk(own_places: Path, tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> Desk:
    leave_out_pictures(monkeypatch)
    return Desk(own_places, tracker, monkeypatch)


@pytest.mark.parametrize("name", REFUSED)
def test_a_dry_run_and_the_run_refuse_alike(desk: Desk, name: str) -> None:
    overrides, bring_about, message = REFUSED[name]
    script = bring_about(desk)
    refusals = []
    for dry in (True, False):
        with pytest.raises(CnnstudyError) as caught:
            desk.start(dry, *overrides, **script)
        assert desk.trials == []
        refusals.append((type(caught.value), str(caught.value)))
    assert refusals[0] == refusals[1]
    assert message in refusals[0][1]


def test_what_the_run_accepts_a_dry_run_accepts_too(desk: Desk) -> None:
    """And the updates that every trial can make, at the edge."""
    for dry in (True, False):
        desk.start(dry, "training.updates=4", "factors.transfer=scratch", "weights={}", "budget.trials=2")
    assert desk.trials == ["alexnet-000", "alexnet-001"]
    kept = json.loads(json.dumps(desk.tracker.study("fake").config))
    desk.start(True, "training.updates=4", "factors.transfer=scratch", "weights={}", "budget.trials=2")
    assert desk.tracker.study("fake").config == kept
    assert re.fullmatch(r"\d+", desk.tracker.study("fake").experiment_id)
