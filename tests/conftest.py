"""Places of a test's own: a tracking database, a cache, a working folder."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import random
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from thorough import mark_thorough

from cnnstudy.records import Optimizer, PreparedImages, Rule, Split, TrialSpec
from cnnstudy.tracking.recorded import RecordedRun

if TYPE_CHECKING:
    from trained_study import Trained

    from cnnstudy.architectures import Network
    from cnnstudy.tracking.client import Tracker

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def pytest_configure(config: pytest.Config) -> None:
    """Leave thorough tests out, unless files, tests or marks are named: `python -m pytest tests` runs all."""
    if config.args_source is not pytest.Config.ArgsSource.ARGS and not config.option.markexpr:
        config.option.markexpr = "not thorough"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what takes most of the time, and is run before a release."""
    mark_thorough(items)


@pytest.fixture(autouse=True)
def _same_draws() -> None:
    """Give each test the same random numbers whatever ran before it; Keras draws default seeds from `random`."""
    random.seed(0)
    np.random.seed(0)


@pytest.fixture
def hangs_up() -> Iterator[None]:
    """Processes that a test starts end with their terminal, also if the tests run under nohup, which they inherit."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture(scope="session", autouse=True)
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One cache for all tests that do not set their own, away from the user's."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("CNNSTUDY_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database with its tables: they take seconds to make, a copy takes none."""
    from cnnstudy.tracking.client import Tracker

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    Tracker(f"sqlite:///{path}").studies()
    return path


@pytest.fixture
def own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder, where artifacts go too, and a cache of this test's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CNNSTUDY_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


@pytest.fixture
def alone(own_places: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, on a machine without leftovers of other processes."""
    (own_places / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(own_places / "temporary"))
    monkeypatch.setattr("cnnstudy.study.recovery.find_workers", dict)
    return own_places


@pytest.fixture
def make_tracker(empty_database: Path, own_places: Path) -> Callable[[str], Tracker]:
    """make_tracker(name): an empty database of that name in the test's folder."""
    from cnnstudy.tracking.client import Tracker

    def make(name: str) -> Tracker:
        path = own_places / f"{name}.db"
        shutil.copy(empty_database, path)
        return Tracker(f"sqlite:///{path}")

    return make


@pytest.fixture
def tracker(make_tracker: Callable[[str], Tracker]) -> Tracker:
    return make_tracker("mlflow")


@pytest.fixture
def spec() -> TrialSpec:
    """A trial of two classes."""
    return TrialSpec(
        study="fake",
        purpose="trial",
        architecture="alexnet",
        number=7,
        seed=3,
        levels={"transfer": "scratch", "batch_size": 16, "dropout": 0.5, "learning_rate": 1e-3, "data_fraction": 1.0},
        images=PreparedImages("digits", "/images", "d" * 64, 64, ("cat", "dog"), (6, 6), (4, 4), (2, 2)),
        split=Split(0.2, 0.2, 0),
        epochs=3,
        head_epochs=1,
        patience=None,
        rule=Rule("val/accuracy"),
        optimizer=Optimizer("adam"),
        weights_source="none",
        weights_file=None,
    )


@pytest.fixture(scope="session")
def trained(empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    """One for all tests that use a trained model and leave the study as it is."""
    from trained_study import trained_study

    with trained_study(tmp_path_factory.mktemp("trained"), empty_database) as made:
        yield made


@pytest.fixture
def broken_decoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """broken_decoder(code): what every decoder runs when it comes to a file with BREAK in it."""

    def write(code: str) -> None:
        (tmp_path / "site").mkdir()
        (tmp_path / "site" / "sitecustomize.py").write_text(
            "import ctypes, os, signal\n"
            "from PIL import ImageFile\n"
            "original = ImageFile.ImageFile.load\n"
            "def load(picture):\n"
            f"    if picture.fp is not None and b'BREAK' in picture.fp.getvalue():\n        {code}\n"
            "    return original(picture)\n"
            "ImageFile.ImageFile.load = load\n"
        )
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")]))

    return write


MakeRun = Callable[..., RecordedRun]
Build = Callable[..., "Network"]


@pytest.fixture
def make_run() -> MakeRun:
    """make_run(number, accuracy): a finished trial; accuracy None for one without metrics, and fields by name."""

    def make(
        number: int, accuracy: float | None = 0.5, levels: dict[str, Any] | None = None, **changes: Any
    ) -> RecordedRun:
        metrics = {}
        if accuracy is not None:
            metrics = {"best/val_accuracy": accuracy, "best/val_loss": 1 - accuracy, "best/train_accuracy": 0.95}
            metrics |= {"best/gap_accuracy": 0.95 - accuracy, "best/epoch": 2.0, "time/total_seconds": 1.25}
            metrics |= {"optimizer/updates": 30.0, "parameters/trainable": 1e7, "parameters/frozen": 0.0}
        chosen = {"transfer": "scratch", "batch_size": 16, "dropout": 0.5, "data_fraction": 1.0} | (levels or {})
        key = f"alexnet-{number:03d}"
        parameters = {"image_size": "64", "epochs": "3", "optimizer": "adam"}
        tags = {"cnnstudy.trial": key, "cnnstudy.architecture": "alexnet", "cnnstudy.weights": "none"}
        tags |= {"cnnstudy.levels": json.dumps(chosen), "cnnstudy.seed": "0", "cnnstudy.number": str(number)}
        run = RecordedRun(f"run{number}", key, "trial", "finished", "", number, parameters, metrics, tags)
        given_tags = changes.pop("tags", {})
        return dataclasses.replace(run, tags=tags | given_tags, **changes)

    return make


@pytest.fixture(scope="session")
def build() -> Build:
    """build(name, image_size, classes=5, dropout=0.5): each is built once; leave all but its weights as they were."""
    from cnnstudy import architectures

    @functools.cache
    def built(name: str, image_size: int, classes: int = 5, dropout: float = 0.5) -> Network:
        return architectures.build_network(architectures.find(name), image_size, classes, dropout)

    return built
