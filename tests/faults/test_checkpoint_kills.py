"""Kill the worker, then the driver of a real trial: only the epoch that is running is lost."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from checking import processes_of

from cnnstudy.system.cache import entry_folders
from cnnstudy.system.processes import count_memory_kills
from cnnstudy.tracking.client import Tracker
from cnnstudy.tracking.recorded import RecordedRun
from cnnstudy.training import checkpoints

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes in /proc")

EPOCHS = 6
STUDY = f"""\
name: killed
data: {{name: digits, images_per_class: 60}}
image_size: 64
architectures: [alexnet]
factors: {{batch_size: 16, dropout: 0.3, learning_rate: 0.0001}}
training: {{epochs: {EPOCHS}, deterministic: true, keep_models: false, checkpoints: every-epoch}}
budget: {{trials: 1}}
"""


class Place:
    """A folder with a study, and its drivers' output."""

    def __init__(self, folder: Path, database: Path) -> None:
        self.folder = folder
        (folder / "temporary").mkdir(parents=True)
        (folder / "killed.yaml").write_text(STUDY, encoding="utf-8")
        shutil.copy(database, folder / "mlflow.db")
        self.tracker = Tracker(f"sqlite:///{folder / 'mlflow.db'}")

    def start(self) -> subprocess.Popen[str]:
        environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
        environment |= {"CNNSTUDY_CACHE": str(self.folder / "cache"), "TMPDIR": str(self.folder / "temporary")}
        command = [sys.executable, "-m", "cnnstudy", "run-study", "killed.yaml", "--tracking-uri", self.tracker.uri]
        with (self.folder / "log.txt").open("a") as log:
            return subprocess.Popen(command, cwd=self.folder, env=environment, stdout=log, stderr=log, text=True)

    def wait_for_checkpoint(self, epoch: int, driver: subprocess.Popen[str]) -> None:
        """Wait for a checkpoint of that epoch or a later one."""
        deadline = time.monotonic() + 240
        while driver.poll() is None and time.monotonic() < deadline:
            for folder in entry_folders(checkpoints.KIND):
                if checkpoints.read_checkpoint(folder / checkpoints.FILE).reached.epoch >= epoch:
                    return
            time.sleep(0.02)
        raise AssertionError(f"no checkpoint of epoch {epoch}: {self.log}")

    @property
    def log(self) -> str:
        return (self.folder / "log.txt").read_text()

    def trained(self) -> Counter[int]:
        """Return how often each epoch was completed, according to the drivers' output."""
        return Counter(int(epoch) for epoch in re.findall(rf"alexnet-000  epoch (\d+)/{EPOCHS}", self.log))

    def runs(self) -> list[RecordedRun]:
        study = self.tracker.study("killed")
        return [run for run in self.tracker.runs(study.experiment_id) if run.kind == "trial"]

    def curve(self, run: RecordedRun, name: str) -> dict[int, float]:
        return self.tracker.metric_history(run.run_id, name)


@pytest.fixture
def make_place(tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Place]:
    def make(name: str) -> Place:
        monkeypatch.setenv("CNNSTUDY_CACHE", str(tmp_path / name / "cache"))
        return Place(tmp_path / name, empty_database)

    return make


def test_a_killed_worker_and_a_killed_driver_cost_an_epoch_each(make_place: Callable[[str], Place]) -> None:
    whole = make_place("whole")
    assert whole.start().wait(240) == 0, whole.log
    assert whole.trained() == Counter(range(1, EPOCHS + 1))
    (expected,) = whole.runs()

    place = make_place("killed")
    driver = place.start()
    try:
        place.wait_for_checkpoint(2, driver)
        (worker,) = processes_of(place.folder)
        os.kill(worker, signal.SIGKILL)
        place.wait_for_checkpoint(4, driver)
    finally:
        driver.kill()
        driver.wait(60)
    assert place.start().wait(240) == 0, place.log

    assert "runs again" in place.log or "runs once more" in place.log
    trained = place.trained()
    assert set(trained) == set(range(1, EPOCHS + 1))
    assert trained[1] == trained[2] == 1
    assert sum(trained.values()) <= EPOCHS + 2
    first, second, third = place.runs()
    assert [run.state for run in (first, second, third)] == ["failed", "failed", "finished"]
    # by whom a worker was killed is not told on every system
    assert (first.reason, second.reason) == ("oom" if count_memory_kills() is None else "environment", "interrupted")
    assert "cnnstudy.resumed_from_epoch" not in first.tags
    assert int(third.tags["cnnstudy.resumed_from_epoch"]) >= 4
    assert list(place.curve(second, "val/loss"))[:2] == [0, 1]
    for name in ("train/loss", "val/loss", "running/loss", "gap/accuracy"):
        assert place.curve(third, name) == whole.curve(expected, name), name
    numbers = [name for name in expected.metrics if name.startswith(("best/", "last/", "per_class/"))]
    assert numbers
    assert {name: third.metrics[name] for name in numbers} == {name: expected.metrics[name] for name in numbers}
    assert third.metrics["time/total_seconds"] > sum(place.curve(third, "time/seconds").values())
    assert entry_folders(checkpoints.KIND) == []
