"""A seeded sample; `python tests/faults/run.py --kills 100` has the full count."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from killing import Drivers, Tally, drivers, kill_and_continue

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
        (2, []),  # nobody: what is checked can be kept
    ],
)
def test_killed_at_any_moment(made: Drivers, empty_database: Path, tmp_path: Path, seed: int, kinds: list[str]) -> None:
    tally = Tally()
    kill_and_continue(made, tmp_path / "study", empty_database, kinds, random.Random(seed), tally)
    assert tally.troubles == []
