"""Projects in folders whose names look like encoded addresses: every file is written there, and found again."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
from commands import call
from PIL import Image

STUDY = """\
name: odd
data: {name: digits, classes: [0, 1], images_per_class: 40}
image_size: 64
architectures: [alexnet]
training: {epochs: 6}
budget: {trials: 1}
confirm: {top: 1, seeds: 2}
"""


def test_a_project_stays_in_its_folder(tmp_path: Path) -> None:
    name = "a %20b%2Fc#d?e ü"
    folder = tmp_path / name
    folder.mkdir()
    (folder / "odd.yaml").write_text(STUDY)
    photo = "photo %20#1?.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)).save(folder / photo, "PNG")

    def run(*command: str) -> str:
        answer = call(*command, folder=folder, limit=300, CNNSTUDY_CACHE=str(folder / "cache %2F#?"))
        assert answer.code == 0, answer.text
        return answer.output

    assert "The champion's model: models:/odd@champion" in run("run-study", "odd.yaml")
    of_name, of_address = (run("predict", model, photo) for model in ("odd", "models:/odd@champion"))
    assert photo in of_name
    assert of_name == of_address
    run("report", "odd")
    run("export", "odd", "out %2F#?", "--format", "keras")
    assert "no problems found" in run("doctor")
    assert {path.name for path in folder.iterdir()} == {
        *("odd.yaml", photo, "mlflow.db", "mlruns", "cache %2F#?", "odd-report", "out %2F#?")
    }
    assert [path.name for path in tmp_path.iterdir()] == [name]
    with closing(sqlite3.connect(folder / "mlflow.db")) as database:
        runs = database.execute("SELECT count(*) FROM runs").fetchone()[0]
    assert len(list((folder / "mlruns").glob("*/*/artifacts"))) >= runs - 1, "the study's own run may have no files"
