"""A study on a small disk of its own that is really full."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from faulty_store import Desk

from cnnstudy.errors import DiskFullError
from cnnstudy.execution import Done, Epoch, Event
from cnnstudy.tracking.client import Tracker
from cnnstudy.tracking.spool import list_waiting


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if not shutil.which("mount"):
        pytest.skip("a small disk can't be made here")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "none", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("a small disk can't be made here")
    before = Path.cwd()
    yield folder
    os.chdir(before)  # monkeypatch would leave the folder only after it is unmounted
    subprocess.run(["umount", "-l", folder], check=True)


def fill(folder: Path) -> None:
    with (folder / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        for size in (1 << 16, 1 << 9, 1):
            with contextlib.suppress(OSError):
                while file.write(b"x" * size) == size:
                    pass


@pytest.mark.parametrize("kind", [Epoch, Done])
def test_a_full_disk_stops_the_study_and_the_next_call_goes_on(
    small_disk: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Event]
) -> None:
    """MLflow's database, its files and the outbox are on the disk."""
    monkeypatch.chdir(small_disk)
    monkeypatch.setenv("CNNSTUDY_CACHE", str(small_disk / "cache"))
    desk = Desk(small_disk, monkeypatch)
    desk.use(Tracker(f"sqlite:///{shutil.copy(empty_database, small_disk / 'mlflow.db')}"))

    def told(event: Event) -> None:
        if isinstance(event, kind) and event.key == "alexnet-000":
            fill(small_disk)

    with pytest.raises(DiskFullError, match=r"the disk is full: .*Everything recorded so far is safe") as caught:
        desk.run(on_event=told)
    assert caught.value.exit_code == 3
    assert [line for line in desk.said if "The study continues" in line] == [], "it does not"
    # the space that was set aside for the last records may have let them through to MLflow in the meantime
    assert list_waiting() or desk.runs()[0].metrics
    (small_disk / "filler").unlink()
    assert desk.run().finished == 2
    ended = kind is Done  # a trial that had ended is not run again
    assert ("alexnet-000" in desk.trained) != ended
    done = [run for run in desk.runs() if run.done]
    assert sorted(run.tags["cnnstudy.trial"] for run in done) == ["alexnet-000", "alexnet-001"]
    assert all("cnnstudy.model" in run.tags for run in done)
    assert not list_waiting()
