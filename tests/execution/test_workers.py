"""An executor and its folder, made when they are needed and gone afterwards."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from fake_executor import FakeExecutor

from cnnstudy.execution import Workers


class Made:
    """Makes executors in a temporary folder that holds nothing else."""

    def __init__(self) -> None:
        self.executors: list[FakeExecutor] = []

    def __call__(self, folder: Path) -> FakeExecutor:
        self.executors.append(FakeExecutor(folder))
        return self.executors[-1]


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_nothing_is_made_that_nobody_asks_for(temporary: Path) -> None:
    made = Made()
    Workers(made).close()
    assert made.executors == []
    assert list(temporary.iterdir()) == []


def test_there_is_one_executor_in_one_folder(temporary: Path) -> None:
    made = Made()
    workers = Workers(made)
    workers.start()
    assert [workers.executor, workers.executor] == made.executors * 2
    assert made.executors[0].folder == workers.folder
    assert workers.folder.parent == temporary
    (workers.folder / "alexnet-000").mkdir()
    workers.close()
    workers.close()
    assert made.executors[0].closed
    assert list(temporary.iterdir()) == []


def test_an_executor_that_can_not_be_made_leaves_no_folder(temporary: Path) -> None:
    def fail(folder: Path) -> FakeExecutor:
        assert folder.is_dir()
        raise OSError("no process can be started")

    workers = Workers(fail)
    with pytest.raises(OSError, match="no process can be started"):
        workers.start()
    workers.close()
    assert list(temporary.iterdir()) == []
