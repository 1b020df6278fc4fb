"""Odd environments: other backends, keras.json, files that have the names of libraries, any umask, no user's name."""

from __future__ import annotations

import csv
import getpass
import json
import os
import pwd
from pathlib import Path

import pytest
from commands import Answer, call
from pictures import leave_out_pictures

import cnnstudy
from cnnstudy.config.load import load_study
from cnnstudy.errors import InputError
from cnnstudy.execution import Workers
from cnnstudy.execution.local import LocalExecutor
from cnnstudy.study.run import run_study
from cnnstudy.system import cache
from cnnstudy.system.display import SilentDisplay
from cnnstudy.system.imports import refuse_shadows
from cnnstudy.tracking.client import Tracker

STUDY = """\
name: odd
data: {name: digits, classes: [0, 1], images_per_class: 16}
image_size: 64
architectures: [alexnet]
training: {epochs: 1, keep_models: false, deterministic: true}
budget: {trials: 1}
"""
#: Modules of the standard library and of packages.
SHADOWS = ("keras", "optuna", "random", "numpy", "mlflow", "tensorflow", "pandas", "queue", "PIL")


def run(folder: Path, **variables: str) -> list[dict[str, str]]:
    """The leaderboard of the study, run in this folder."""
    (folder / "odd.yaml").write_text(STUDY)
    given = {"CNNSTUDY_CACHE": str(folder / "cache"), **variables}
    expect_done(call("run-study", "odd.yaml", folder=folder, limit=300, **given))
    expect_done(call("leaderboard", "odd", "--csv", "board.csv", folder=folder, limit=300, **given))
    with (folder / "board.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{name: value for name, value in row.items() if "accuracy" in name or "gap" in name} for row in rows]


def expect_done(answer: Answer) -> None:
    assert answer.code == 0, answer.text


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    for name in ("plain", "odd"):
        (tmp_path / name).mkdir()
    return tmp_path / "plain", tmp_path / "odd"


def test_other_backends_layouts_and_files_change_nothing(folders: tuple[Path, Path]) -> None:
    plain, odd = folders
    for name in SHADOWS:
        (odd / f"{name}.py").write_text("raise SystemExit('the wrong module')")
    home = odd / "keras home"
    home.mkdir()
    settings = {"backend": "jax", "image_data_format": "channels_first", "floatx": "float16", "epsilon": 1e-2}
    (home / "keras.json").write_text(json.dumps(settings))
    rows = run(odd, KERAS_BACKEND="torch", KERAS_HOME=str(home))
    assert rows
    assert rows == run(plain)
    answer = call("describe", "alexnet", folder=odd, limit=300, KERAS_BACKEND="jax", KERAS_HOME=str(home))
    expect_done(answer)
    assert "64 x 64 pixels" in answer.text


@pytest.mark.parametrize("name", ["keras.py", "random.py", "pandas/__init__.py"])
def test_a_file_on_the_path_that_hides_a_module_is_named(tmp_path: Path, name: str) -> None:
    file = tmp_path / "mine" / name
    file.parent.mkdir(parents=True)
    file.write_text("raise SystemExit('the wrong module')")
    path = os.pathsep.join([os.environ.get("PYTHONPATH", ""), str(tmp_path / "mine")])
    for command in (["doctor"], ["run-study", "tiny"], ["leaderboard"]):
        answer = call(*command, folder=tmp_path, PYTHONPATH=path)
        assert answer.code == 2, answer.text
        assert (
            f"error: {tmp_path / 'mine' / name.partition('/')[0]} would be imported in place of the module"
            in answer.errors
        )
        assert "Rename it, or take its folder out of PYTHONPATH" in answer.errors
        assert "Traceback" not in answer.text


def test_an_empty_entry_of_the_path_is_not_the_working_folder(tmp_path: Path) -> None:
    """`export PYTHONPATH=/x:$PYTHONPATH` leaves one, which means the working folder to Python."""
    (tmp_path / "random.py").write_text("raise SystemExit('the wrong module')")
    path = os.environ.get("PYTHONPATH", "") or str(Path(cnnstudy.__file__).parent.parent)
    for given in (f"{path}{os.pathsep}", f"{os.pathsep}{path}"):
        answer = call("leaderboard", folder=tmp_path, PYTHONPATH=given)
        assert answer.code == 2, answer.text
        assert "the wrong module" not in answer.text
        assert "there is no study" in answer.errors


def test_a_folder_of_the_path_that_can_not_be_read_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(folder: str) -> list[str]:
        raise PermissionError(folder)

    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(os, "listdir", refuse)
    refuse_shadows()


@pytest.mark.parametrize("name", ["six.py", "numpy.pyc", "google/__init__.py"])
def test_modules_of_libraries_of_libraries_count(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(InputError, match="would be imported in place of the module"):
        refuse_shadows()


def test_a_path_of_installed_packages_is_none_of_these(tmp_path: Path) -> None:
    (tmp_path / "site" / "numpy-2.2.dist-info").mkdir(parents=True)
    (tmp_path / "site" / "tabulate.py").touch()
    path = os.pathsep.join([os.environ.get("PYTHONPATH", ""), str(tmp_path / "site")])
    expect_done(call("--version", folder=tmp_path, PYTHONPATH=path))


# ---- users and their rights


def run_fast(tracker: Tracker) -> int:
    """Run the study with workers whose trials take no time; return how many trials finished."""
    program = (str(Path(__file__).parent / "fast_worker.py"),)
    Path("odd.yaml").write_text(STUDY)
    workers = Workers(lambda folder: LocalExecutor(1, folder, program))
    return run_study(
        load_study("odd.yaml", ["training.deterministic=false"]), tracker, workers, SilentDisplay()
    ).finished


@pytest.mark.usefixtures("own_places")
@pytest.mark.parametrize("mask", [0o000, 0o077])
def test_any_umask(mask: int, tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    """What others can write is not trusted, so that no entry of the cache may be."""
    leave_out_pictures(monkeypatch)
    before = os.umask(mask)
    try:
        assert run_fast(tracker) == 1
    finally:
        os.umask(before)
    folders = cache.entry_folders("images")
    assert folders
    assert [cache.why_untrusted(folder) for folder in folders] == [""] * len(folders)
    assert {folder.stat().st_mode & 0o022 for folder in folders} == {0}


@pytest.mark.usefixtures("own_places")
def test_a_user_without_a_name(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that runs under a number."""
    leave_out_pictures(monkeypatch)

    def unknown(number: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {number}")

    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    with pytest.raises((KeyError, OSError)):
        getpass.getuser()
    assert run_fast(tracker) == 1
