"""The key `execution`: places, and what a slot may ask for."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from cnnstudy.cli import app
from cnnstudy.config.execution import Execution
from cnnstudy.config.load import load_study
from cnnstudy.execution.local import LocalExecutor
from cnnstudy.execution.selection import make_executor


@pytest.mark.parametrize("place", ["local", "ray", "ray://head.example.org:10001", "ray://10.0.0.1:6379"])
def test_places(place: str) -> None:
    assert Execution.model_validate({"on": place, "slots": 8, "cpus": 2, "gpus": 0.5, "memory": 1.5}).on == place


@pytest.mark.parametrize(
    ("key", "given", "told"),
    [
        ("on", "slurm", "give local .* ray .* or ray://HOST:PORT"),
        ("on", "ray:head", "no place"),
        ("on", "ray://head", "no place"),
        ("gpus", 1.5, "whole GPUs, or a fraction of one"),
        ("gpus", -1, "greater than or equal to 0"),
        ("slots", 0, "greater than or equal to 1"),
        ("cpus", 0, "greater than 0"),
    ],
)
def test_what_is_none(key: str, given: object, told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        Execution.model_validate({key: given})


def test_the_place_is_this_machine_unless_another_is_given(tmp_path: Path) -> None:
    assert load_study("quickstart").config.execution == Execution()
    for execution in (None, Execution(), Execution(slots=3, cpus=64, gpus=8)):
        executor = make_executor(2, tmp_path, execution)
        assert isinstance(executor, LocalExecutor)
        assert executor.slots == 2
        executor.close()


def test_a_cluster_without_ray_says_how_to_install_it(own_places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    done = CliRunner().invoke(app, ["run-study", "tiny", "--on", "ray"])
    assert "Ray can't be imported" in str(done.exception)
    assert "pip install -c constraints.txt -e '.[ray]'" in str(done.exception)


def test_the_command_says_where_as_the_file_does(own_places: Path) -> None:
    done = CliRunner().invoke(app, ["run-study", "tiny", "--on", "slurm"])
    assert "--set execution.on: 'slurm' is no place to run trials" in str(done.exception)
