"""Copies of folders that take no room."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from cnnstudy.linking import link_tree


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    (folder / "data").mkdir(parents=True)
    (folder / "MLmodel").write_text("about it")
    (folder / "data" / "model.keras").write_bytes(b"weights")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("durable", [False, True])
def test_files_are_the_same_ones(source: Path, tmp_path: Path, durable: bool) -> None:
    link_tree(source, tmp_path / "target", durable)
    assert contents(tmp_path / "target") == contents(source)
    for name in contents(source):
        assert (tmp_path / "target" / name).samefile(source / name)


def test_the_target_outlives_the_source(source: Path, tmp_path: Path) -> None:
    before = contents(source)
    link_tree(source, tmp_path / "target")
    for name in before:
        (source / name).unlink()
    assert contents(tmp_path / "target") == before


def test_what_an_interrupted_try_left_gives_way(source: Path, tmp_path: Path) -> None:
    """Files cut off, the same links again, and files that others have laid there."""
    target = tmp_path / "target"
    target.mkdir()
    (target / "MLmodel").write_text("ab")
    (target / "other").write_text("stays")
    for _ in range(2):
        link_tree(source, target)
        assert contents(target) == {**contents(source), "other": b"stays"}


@pytest.mark.parametrize("reason", [errno.EXDEV, errno.EPERM, errno.EMLINK])
def test_where_nothing_can_be_linked_it_is_copied(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: int
) -> None:
    def no_link(source: str, target: str) -> None:
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr(os, "link", no_link)
    for _ in range(2):
        link_tree(source, tmp_path / "target", durable=True)
        assert contents(tmp_path / "target") == contents(source)
        assert not (tmp_path / "target" / "MLmodel").samefile(source / "MLmodel")
