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
from cnnstudy.errors import ConfigError, WorkerError
from cnnstudy.execution import selection
from cnnstudy.execution.local import LocalExecutor
from cnnstudy.execution.ray_connection import SlotNeeds


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
    for execution in (None, Execution(), Execution(slots=3, cpus=64, memory=8)):
        executor = selection.make_executor(2, tmp_path, execution)
        assert isinstance(executor, LocalExecutor)
        assert executor.slots == 2
        executor.close()


@pytest.mark.parametrize(
    ("there", "slots", "gpus", "missing"),
    [
        (4, 2, 2, ""),
        (3, 2, 2, "slots: 2, with execution.gpus: 2 for each, need 4 NVIDIA GPUs, and this machine has 3: 0, 1, 2."),
        (2, 2, 1, ""),
        (1, 2, 1, "need 2 NVIDIA GPUs, and this machine has 1: 0. Lower --jobs"),
        (0, 1, 1, "need 1 NVIDIA GPU, and this machine has none. Lower --jobs"),
        (1, 2, 0.5, ""),
        (1, 3, 0.5, "slots: 3, with execution.gpus: 0.5 for each, need 2 NVIDIA GPUs"),
        (2, 4, 0.4, ""),  # a third one does not fit beside two of them
        (2, 5, 0.4, "need 3 NVIDIA GPUs"),
        (0, 8, 0, ""),
    ],
)
def test_gpus_of_this_machine(
    there: int, slots: int, gpus: float, missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command's number of slots counts, not the file's."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(selection, "list_gpus", lambda: [str(number) for number in range(there)])
    execution = Execution(slots=64, gpus=gpus)
    if not missing:
        selection.make_executor(slots, tmp_path, execution).close()
        return
    with pytest.raises(WorkerError) as raised:
        selection.make_executor(slots, tmp_path, execution)
    assert missing in str(raised.value)


def test_gpus_that_the_environment_hides(own_places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a")
    done = CliRunner().invoke(app, ["run-study", "tiny", "--set", "execution.gpus=2"])
    assert "need 2 NVIDIA GPUs, and CUDA_VISIBLE_DEVICES leaves 1: GPU-a." in str(done.exception)


def test_a_program_of_xla_runs_on_one_gpu() -> None:
    with pytest.raises(ConfigError, match=r"training.xla: can't be combined with execution.gpus: 2, .* leave it out"):
        load_study("quickstart", ["execution.gpus=2", "training.xla=true"])
    for allowed in (["execution.gpus=2"], ["execution.gpus=1", "training.xla=true"]):
        load_study("quickstart", allowed)


@pytest.mark.parametrize(("gpus", "devices"), [(0, 1), (0.5, 1), (1, 1), (2, 2)])
def test_gpus_of_a_node_divide_updates(gpus: float, devices: int) -> None:
    assert SlotNeeds(gpus=gpus).devices == devices


def test_a_cluster_without_ray_says_how_to_install_it(own_places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    done = CliRunner().invoke(app, ["run-study", "tiny", "--on", "ray"])
    assert "Ray can't be imported" in str(done.exception)
    assert "pip install -c constraints.txt -e '.[ray]'" in str(done.exception)


def test_the_command_says_where_as_the_file_does(own_places: Path) -> None:
    done = CliRunner().invoke(app, ["run-study", "tiny", "--on", "slurm"])
    assert "--on: 'slurm' is no place to run trials" in str(done.exception)
