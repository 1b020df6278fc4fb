"""The wheel holds what an installed cnnstudy needs, and works in an empty folder."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from commands import call

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a wheel from the project's files, and unpack it into a folder."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    for folder in ("cnnstudy", "experiments", "docs"):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "constraints.txt", "CHANGELOG.md"):
        shutil.copy(ROOT / file, source)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "-w", str(target), str(source)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options], check=True, capture_output=True)
    (wheel,) = target.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(target)
    return target


def names(folder: Path, pattern: str) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob(pattern) if "__pycache__" not in path.parts}


def test_it_holds_the_package_the_studies_and_the_docs_and_nothing_else(installed: Path) -> None:
    package = installed / "cnnstudy"
    assert names(package, "*.py") == names(ROOT / "cnnstudy", "*.py")
    assert names(package / "experiments", "*") == names(ROOT / "experiments", "*")
    assert names(package / "docs", "*") == names(ROOT / "docs", "*")
    templates = Path("results", "pages", "templates")
    assert names(package / templates, "*") == names(ROOT / "cnnstudy" / templates, "*")
    others = {path.name for path in installed.iterdir() if path.suffix != ".whl"} - {"cnnstudy"}
    assert [name for name in others if not re.fullmatch(r"cnnstudy-[\d.]+\.dist-info", name)] == []


def test_a_shipped_study_runs_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    few = ("--set", "training.epochs=1", "--quiet")
    ran = call("run-study", "tiny", *few, folder=tmp_path, PYTHONPATH=str(installed))
    assert ran.code == 0, ran.text
    assert (tmp_path / "mlflow.db").is_file()
    listed = call("leaderboard", "tiny", folder=tmp_path, PYTHONPATH=str(installed))
    assert "alexnet-000" in listed.output


def test_ones_own_study_of_the_same_name_comes_first(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "tiny.yaml").write_text("name: mine\nimage_sizes: 32\n", encoding="utf-8")
    refused = call("run-study", "tiny", folder=tmp_path, PYTHONPATH=str(installed))
    assert refused.code == 2
    assert "experiments/tiny.yaml, line 2, image_sizes" in refused.errors
