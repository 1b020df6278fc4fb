"""The version of the code in a checkout and installed, and the versions of packages."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from importlib import metadata
from pathlib import Path

import pytest

import cnnstudy
from cnnstudy.system.code_version import code_version, driver_versions


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the package seems to be installed."""
    (tmp_path / "cnnstudy").mkdir()
    (tmp_path / "cnnstudy" / "__init__.py").write_text("")
    monkeypatch.setattr(cnnstudy, "__file__", str(tmp_path / "cnnstudy" / "__init__.py"))
    return tmp_path


def git(root: Path, *arguments: str) -> None:
    who = ("-c", "user.name=somebody", "-c", "user.email=somebody@example.org")
    subprocess.run(["git", "-C", str(root), *who, *arguments], check=True, capture_output=True)


def test_outside_a_checkout_the_version_is_all_there_is(root: Path) -> None:
    assert code_version() == cnnstudy.__version__


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_in_a_checkout_the_commit_is_named(root: Path) -> None:
    git(root, "init")
    assert code_version() == cnnstudy.__version__  # no commit yet
    git(root, "add", ".")
    git(root, "commit", "-m", "first")
    clean = code_version()
    assert re.fullmatch(re.escape(cnnstudy.__version__) + r"\+g[0-9a-f]{12}", clean)
    (root / "notes.txt").write_text("not of the package")
    assert code_version() == clean
    (root / "cnnstudy" / "new.py").write_text("")
    assert code_version() == f"{clean}.dirty"


def test_without_git_the_version_is_all_there_is(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / ".git").mkdir()
    monkeypatch.setenv("PATH", str(root / "empty"))
    assert code_version() == cnnstudy.__version__


def test_the_drivers_packages() -> None:
    versions = driver_versions()
    assert versions["python"] == platform.python_version()
    assert versions["mlflow"] == metadata.version("mlflow")
    assert set(versions) == {"python", "optuna", "mlflow"}
