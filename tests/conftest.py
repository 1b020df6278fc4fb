"""Places of a test's own: a tracking database, a cache, a working folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

from cnnstudy.tracking import Tracker


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database with its tables: they take seconds to make, a copy takes none."""
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
def make_tracker(empty_database: Path, own_places: Path) -> Callable[[str], Tracker]:
    """make_tracker(name): an empty database of that name in the test's folder."""

    def make(name: str) -> Tracker:
        path = own_places / f"{name}.db"
        shutil.copy(empty_database, path)
        return Tracker(f"sqlite:///{path}")

    return make


@pytest.fixture
def tracker(make_tracker: Callable[[str], Tracker]) -> Tracker:
    return make_tracker("mlflow")
