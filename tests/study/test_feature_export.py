"""Exported features: those that the trial trained on, in rows that say which image each is of."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from trained_study import NAME, Trained

from cnnstudy.config.load import load_study
from cnnstudy.errors import InputError, UnknownNameError
from cnnstudy.execution import Workers
from cnnstudy.execution.local import LocalExecutor
from cnnstudy.study.feature_export import ExportedFeatures, check_target, describe_features, export_features
from cnnstudy.study.run import run_study
from cnnstudy.system.cache import cache_folder
from cnnstudy.system.display import SilentDisplay
from cnnstudy.tracking.client import Tracker
from cnnstudy.tracking.registry import Registry

STUDY = """
name: probed
data: {name: digits, classes: [0, 1, 2], images_per_class: 20}
image_size: 64
architectures: [alexnet]
factors: {transfer: [scratch, probe, frozen], augmentation: strong}
weights: {default: {source: random}}
training: {epochs: 1}
strategy: {kind: factorial, seeds: 1}
"""


class _Kept(LocalExecutor):
    def close(self) -> None:
        pass


@pytest.fixture
def executor(tmp_path: Path) -> Iterator[LocalExecutor]:
    made = _Kept(1, tmp_path)
    yield made
    LocalExecutor.close(made)


def test_rows_are_the_images_and_what_the_head_takes(
    own_places: Path, tracker: Tracker, executor: LocalExecutor
) -> None:
    (own_places / "probed.yaml").write_text(STUDY, encoding="utf-8")
    outcome = run_study(load_study("probed.yaml"), tracker, Workers(lambda _: executor), SilentDisplay())
    trials = {
        run.levels["transfer"]: run for run in tracker.runs(outcome.recorded.experiment_id) if run.kind == "trial"
    }
    assert {run.state for run in trials.values()} == {"finished"}

    def export(given: str, to: str) -> ExportedFeatures:
        return export_features(given, Path(to), Registry(tracker), Workers(lambda _: executor), SilentDisplay())

    before = {folder: folder.stat().st_ino for folder in (cache_folder() / "features").iterdir()}
    probe = f"probed/{trials['probe'].trial}"
    written = export(probe, "probe.parquet")
    assert written == ExportedFeatures(probe, "head_pool", (128,), 51)
    assert {folder: folder.stat().st_ino for folder in (cache_folder() / "features").iterdir()} == before, "reused"
    assert "probe.parquet: features of 51 images outside the test split, 128 each" in describe_features(
        Path("probe.parquet"), written
    )
    frame = pd.read_parquet("probe.parquet")
    assert list(frame.columns) == ["image", "label", "class", "part", "group", "features"]
    assert frame.attrs == {"layer": "head_pool", "shape": [128]}
    assert frame["group"].isna().all()
    assert (frame["class"] == frame["label"].astype(str)).all()
    # a probe by hand gives what the trial recorded
    split = frame.groupby("part")
    train, validation = split.get_group("train"), split.get_group("validation")
    found = np.stack(train["features"])
    means, deviations = found.mean(axis=0), found.std(axis=0)
    deviations[deviations == 0] = 1
    recorded = trials["probe"].metrics
    model = LogisticRegression(C=1 / recorded["probe/regularisation"], max_iter=500, tol=1e-5)
    model.fit((found - means) / deviations, train["label"])
    right = model.predict((np.stack(validation["features"]) - means) / deviations) == validation["label"]
    assert right.mean() == pytest.approx(recorded["best/val_accuracy"])

    shutil.rmtree(cache_folder() / "features")
    again = export(trials["frozen"].run_id, "frozen.npz")
    with np.load("frozen.npz", allow_pickle=False) as arrays:
        assert arrays["features"].shape == (51, *again.shape)
        assert str(arrays["layer"]) == again.layer != "head_pool"
        for column in ("image", "label", "class", "part"):
            assert arrays[column].tolist() == frame[column].tolist()
        assert "group" not in arrays
    first = min(run.trial for mode, run in trials.items() if mode != "scratch")
    assert export("probed", "first.npz").trial == f"probed/{first}"
    with pytest.raises(InputError, match="transfer scratch: it starts from no source weights"):
        export(f"probed/{trials['scratch'].trial}", "scratch.npz")


def test_what_can_not_be_exported(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def export(given: str) -> None:
        made = Workers(lambda _: pytest.fail("a worker started"))
        export_features(given, tmp_path / "a.npz", Registry(Tracker(trained.uri)), made, SilentDisplay())

    with pytest.raises(UnknownNameError, match=f"no finished trial of {NAME} has frozen layers"):
        export(NAME)
    with pytest.raises(UnknownNameError, match="no trial 'vgg16-000' in study"):
        export(f"{NAME}/vgg16-000")
    with pytest.raises(UnknownNameError, match="'other' is neither STUDY/TRIAL"):
        export("other")


def test_the_file_is_checked_first(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"must end with \.parquet or \.npz"):
        check_target(tmp_path / "features.csv")
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        check_target(tmp_path / "folder.npz")
    os.mkfifo(tmp_path / "pipe.npz")
    with pytest.raises(InputError, match="is a pipe or a device"):
        check_target(tmp_path / "pipe.npz")
    (tmp_path / "link.npz").symlink_to(tmp_path / "gone" / "features.npz")
    with pytest.raises(InputError, match="gone is no folder in which you can write"):
        check_target(tmp_path / "link.npz")
    check_target(tmp_path / "FEATURES.NPZ")
    with pytest.raises(InputError, match="no folder in which you can write"):
        check_target(tmp_path / "nowhere" / "features.npz")
