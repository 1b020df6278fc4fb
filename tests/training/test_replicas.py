"""Updates that are divided among devices: the tests of on_two_devices.py, in processes that have two virtual CPUs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
#: Which of those tests a process runs.
SELECTED = {
    "first": "normalised-loss or resumed or computes_half",
    "kinds of updates": "normalised and not loss",
    "kinds of layers": "whole_batch or several_updates",
    "alexnet": "alexnet",
    "resnet18": "resnet18",
    "googlenet": "googlenet",
}


@pytest.mark.parametrize("selected", SELECTED)
def test_two_devices_train_as_one(selected: str, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(TESTS), environment.get("PYTHONPATH")]))
    options = ["-p", "two_virtual_cpus", "-p", "no:cacheprovider", f"--basetemp={tmp_path / 'inner'}"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "-k", SELECTED[selected], "tests/training/on_two_devices.py"],
        cwd=TESTS.parent,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
