"""A seeded sample of kills; `python tests/faults/run.py --kills 100` and `--operations` are complete."""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from checking import troubles_at_the_end
from killing import Drivers, Tally, count_operations, drivers, kill_and_continue, kill_at_operation

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes in /proc")


@pytest.fixture(scope="module")
def made() -> Iterator[Drivers]:
    with drivers() as found:
        yield found


@pytest.mark.parametrize(
    ("seed", "kinds"),
    [
        (0, ["driver", "worker", "both", "terminate"]),
        (1, ["ctrl-c", "ctrl-c twice", "driver", "worker"]),
    ],
)
def test_killed_at_any_moment(made: Drivers, empty_database: Path, tmp_path: Path, seed: int, kinds: list[str]) -> None:
    tally = Tally()
    kill_and_continue(made, tmp_path / "study", empty_database, kinds, random.Random(seed), tally)
    assert tally.troubles == []


@pytest.fixture(scope="module")
def operations(made: Drivers, empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> int:
    """The number of durable operations of a driver that is not killed."""
    return count_operations(made, tmp_path_factory.mktemp("counted") / "study", empty_database)


@pytest.mark.parametrize("share", [0.02, 0.19, 0.37, 0.55, 0.73, 0.97])
def test_killed_before_a_durable_operation(
    made: Drivers, empty_database: Path, tmp_path: Path, operations: int, share: float
) -> None:
    assert operations > 200
    tally = Tally()
    kill_at_operation(made, tmp_path / "study", empty_database, max(1, round(share * operations)), tally)
    assert (tally.kills["operation"], tally.troubles) == (1, [])


@pytest.fixture(scope="module")
def whole(made: Drivers, empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a study that was not killed."""
    folder, tally = tmp_path_factory.mktemp("whole") / "study", Tally()
    kill_and_continue(made, folder, empty_database, [], random.Random(0), tally)
    assert tally.troubles == []
    return folder


def sql(statement: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        with closing(sqlite3.connect(folder / "mlflow.db")) as connection:
            assert connection.execute(statement).rowcount > 0
            connection.commit()

    return change


def first(pattern: str, act: Callable[[Path], object]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        act(min(folder.glob(pattern)))

    return change


TRIAL = "(SELECT run_uuid FROM tags WHERE key = 'cnnstudy.trial' AND value = 'alexnet-001')"
DAMAGES = {
    "a run under way": (sql(f"UPDATE runs SET status = 'RUNNING' WHERE run_uuid = {TRIAL}"), "is RUNNING"),
    "a model under way": (sql("UPDATE logged_models SET status = 1"), "is pending"),
    "a trial that is another": (sql("UPDATE tags SET value = 'alexnet-7' WHERE value = 'alexnet-001'"), "trials that"),
    "a trial too many": (sql("UPDATE tags SET value = 'alexnet-000' WHERE value = 'alexnet-001'"), "trials that count"),
    "an epoch twice": (
        sql("INSERT INTO metrics SELECT key, value, timestamp + 1, run_uuid, step, is_nan FROM metrics"),
        "has the epochs [1, 1, 2, 2]",
    ),
    "no champion": (sql("DELETE FROM registered_model_aliases"), "aliases []"),
    "half a model": (first("mlruns/*/models/*/artifacts/data/model.keras", lambda path: path.write_text("a")), "whole"),
    "half a table": (first("mlruns/*/*/artifacts/per_class.csv", lambda path: path.write_text("")), "is not whole"),
    "half an entry": (first("cache/images/*/images.npy", lambda path: path.write_bytes(b"")), "is not whole"),
    "a cache entry under way": (first("cache/images", lambda path: (path / ".a-b").mkdir()), "is left"),
    "a checkpoint": (
        lambda folder: (folder / "cache/checkpoints/abc").mkdir(parents=True, exist_ok=True),
        "is left of",
    ),
    "files of trials": (first("temporary", lambda path: (path / "cnnstudy-1").mkdir()), "is left"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_checked_can_fail(whole: Path, tmp_path: Path, damage: str) -> None:
    change, told = DAMAGES[damage]
    folder = tmp_path / "damaged"
    shutil.copytree(whole, folder)
    with closing(sqlite3.connect(folder / "mlflow.db")) as connection:
        connection.execute(
            "UPDATE logged_models SET artifact_location = REPLACE(artifact_location, ?, ?)", [str(whole), str(folder)]
        )
        connection.commit()
    assert troubles_at_the_end(folder) == []
    change(folder)
    assert any(told in trouble for trouble in troubles_at_the_end(folder))
