from __future__ import annotations

import getpass
import subprocess
from pathlib import Path

import pytest

from cnnstudy.names import Tag
from cnnstudy.tracking.origin import describe_origin


def test_the_commit_is_that_of_the_study_s_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(getpass, "getuser", lambda: "ada")
    file = tmp_path / "project" / "experiments" / "cats.yaml"
    file.parent.mkdir(parents=True)
    assert describe_origin(file) == {Tag.USER: "ada", Tag.SOURCE: str(file), Tag.SOURCE_TYPE: "LOCAL"}
    git = ["git", "-C", str(tmp_path / "project"), "-c", "user.name=Ada", "-c", "user.email=ada@example.org"]
    subprocess.run([*git, "init", "-q"], check=True)
    assert Tag.COMMIT not in describe_origin(file), "a repository without a commit"
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "first"], check=True)
    commit = describe_origin(file)[Tag.COMMIT]
    assert commit == subprocess.check_output([*git, "rev-parse", "HEAD"], text=True).strip()
    monkeypatch.chdir(tmp_path / "project")
    assert describe_origin(None) == {Tag.USER: "ada", Tag.COMMIT: commit}


def test_what_is_unknown_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> str:
        raise OSError("No username set in the environment")

    monkeypatch.setattr(getpass, "getuser", nobody)
    monkeypatch.setenv("PATH", str(tmp_path))  # no git
    assert describe_origin(tmp_path / "cats.yaml") == {
        Tag.SOURCE: str(tmp_path / "cats.yaml"),
        Tag.SOURCE_TYPE: "LOCAL",
    }
