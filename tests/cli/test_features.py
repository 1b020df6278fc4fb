"""The command of features, as a user calls it."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from commands import call
from trained_study import NAME, Trained


def test_errors_are_told_before_anything_starts(trained: Trained, tmp_path: Path) -> None:
    answer = call("features", "export", "any", "--to", "features.csv", folder=tmp_path)
    assert answer.code == 2
    assert answer.errors == "error: features.csv is to hold features, so its name must end with .parquet or .npz.\n"
    answer = call("features", "export", NAME, "--to", "features.npz", "--tracking-uri", trained.uri, folder=tmp_path)
    assert answer.code == 2
    assert f"no finished trial of {NAME} has frozen layers" in answer.errors
    assert list(tmp_path.iterdir()) == []


def test_a_study_of_photos(tmp_path: Path, trained: Trained) -> None:
    """From the study file to the table: the file names are those in the folder."""
    study = f"""
name: photos
data: {{name: folder, path: {trained.folder / "photos"}, copies: ignore}}
image_size: 64
architectures: [alexnet]
factors: {{transfer: probe}}
weights: {{default: {{source: random}}}}
training: {{epochs: 1, keep_models: false}}
budget: {{trials: 1}}
"""
    (tmp_path / "photos.yaml").write_text(study, encoding="utf-8")
    ran = call("run-study", "photos.yaml", folder=tmp_path)
    assert ran.code == 0, ran.text
    answer = call("features", "export", "photos", "--to", "photos.parquet", folder=tmp_path)
    assert answer.code == 0, answer.text
    assert answer.output.startswith(
        "photos.parquet: features of 51 images outside the test split, 128 each: the output"
    )
    frame = pd.read_parquet(tmp_path / "photos.parquet")
    assert [(trained.folder / "photos" / image).is_file() for image in frame["image"]] == [True] * 51
    assert (frame["class"] == frame["image"].str.partition("/")[0]).all()
