"""A study that was really run, for the tests that use its model: one AlexNet on three digits, from image files."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from cnnstudy.config.load import load_study
from cnnstudy.execution import Workers
from cnnstudy.execution.local import LocalExecutor
from cnnstudy.study.run import run_study
from cnnstudy.system.display import SilentDisplay
from cnnstudy.tracking.client import Tracker
from cnnstudy.tracking.recorded import RecordedRun
from cnnstudy.tracking.registry import Registry

NAME = "digits-in-files"
STUDY = f"""\
name: {NAME}
data: {{name: folder, path: photos, copies: ignore}} # these drawings are alike
image_size: 64
architectures: [alexnet]
factors: {{batch_size: 4, learning_rate: 0.0001, dropout: 0.1}}
training: {{epochs: 4}}
budget: {{trials: 1}}
"""


@dataclass(frozen=True)
class Trained:
    """Where it is, and a worker that has TensorFlow started."""

    folder: Path  # `photos/zero/0.png` and so on; the record and its artifacts
    uri: str
    executor: LocalExecutor
    run: RecordedRun

    classes: ClassVar = ("one", "two", "zero")


class _Kept(LocalExecutor):
    """The study is over and its worker stays: TensorFlow takes seconds to start."""

    def close(self) -> None:
        pass


@contextlib.contextmanager
def trained_study(folder: Path, empty_database: Path) -> Iterator[Trained]:
    digits = load_digits()
    for digit, name in ((1, "one"), (2, "two"), (0, "zero")):
        (folder / "photos" / name).mkdir(parents=True)
        for number, pixels in enumerate(digits.images[digits.target == digit][:20]):
            Image.fromarray((pixels * 15).astype(np.uint8)).save(folder / "photos" / name / f"{number}.png")
    shutil.copy(empty_database, folder / "mlflow.db")
    (folder / "study.yaml").write_text(STUDY, encoding="utf-8")
    executor = _Kept(1, folder)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)  # where artifacts go
            tracker = Tracker(f"sqlite:///{folder / 'mlflow.db'}")
            outcome = run_study(load_study("study.yaml"), tracker, Workers(lambda _: executor), SilentDisplay())
        (run,) = [run for run in tracker.runs(outcome.recorded.experiment_id) if run.kind == "trial"]
        assert run.state == "finished", run
        Registry(tracker).register_champion(NAME, run, "for tests")
        yield Trained(folder, tracker.uri, executor, run)
    finally:
        LocalExecutor.close(executor)
