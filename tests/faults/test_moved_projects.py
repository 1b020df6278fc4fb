"""A project that is moved, or copied: models are found, nothing is written to the old place, and `doctor` mends it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from commands import Answer, call
from PIL import Image

from cnnstudy.errors import TrackingError

STUDY = """\
name: odd
data: {name: digits, classes: [0, 1], images_per_class: 40}
image_size: 64
architectures: [alexnet]
training: {epochs: 6}
budget: {trials: 1}
confirm: {top: 1, seeds: 2}
"""


def test_a_moved_and_a_copied_project(tmp_path: Path) -> None:
    old, moved, copied = (tmp_path / name for name in ("old", "moved", "copied %2F#?"))
    old.mkdir()
    (old / "odd.yaml").write_text(STUDY)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)).save(old / "photo.png")

    def run(folder: Path, *command: str) -> Answer:
        return call(*command, folder=folder, limit=300, CNNSTUDY_CACHE=str(tmp_path / "cache"))

    assert run(old, "run-study", "odd.yaml").code == 0
    expected = run(old, "predict", "odd", "photo.png").output
    shutil.copytree(old, copied)
    old.rename(moved)
    for folder in (moved, copied):
        found = run(folder, "predict", "odd", "photo.png")
        assert (found.code, found.output) == (0, expected)
        assert "was moved or copied" in found.errors
        assert "`python -m cnnstudy doctor --repair` corrects that" in found.errors
    moved.rename(old)  # the copy must not write into what it is a copy of
    before = {path.relative_to(old) for path in old.rglob("*")}
    running = ["run-study", "odd.yaml", "--trials", "2"]
    for command in (running, [*running, "--dry-run"], ["confirm", "odd"], ["report", "odd"], ["ui", "odd"]):
        answer = run(copied, *command)
        assert (answer.code, answer.output) == (TrackingError.exit_code, "")
        assert "New files would go to the other place. `python -m cnnstudy doctor --repair` corrects" in answer.errors
    told = run(copied, "doctor")
    assert told.code == 4
    assert "are missing" not in told.output
    repaired = run(copied, "doctor", "--repair")
    assert "the places are corrected" in repaired.output
    assert "no problems found" in repaired.output
    assert run(copied, "run-study", "odd.yaml", "--trials", "2").code == 0
    told = run(copied, "predict", "odd", "photo.png").errors.splitlines()
    busy = ("loading the model", "starting TensorFlow")  # said where it takes seconds
    assert [line for line in told if not line.startswith(busy)] == []
    assert {path.relative_to(old) for path in old.rglob("*")} == before
    assert "no problems found" in run(old, "doctor").output
