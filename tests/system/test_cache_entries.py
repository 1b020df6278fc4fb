from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from commands import call

from cnnstudy.errors import InputError, StudyBusyError
from cnnstudy.system import cache
from cnnstudy.system.cache import ABOUT, build_entry, content_address, entry_folder


@pytest.fixture(autouse=True)
def _own(own_places: Path) -> None:
    """A cache of the test's own."""


def build(kind: str, name: str, bytes_: int, about: str | None = None) -> str:
    address = content_address(name)

    def fill(folder: Path) -> None:
        (folder / "data").write_bytes(b"x" * bytes_)
        if about is not None:
            (folder / ABOUT).write_text(about)

    build_entry(kind, address, fill)
    return address


def test_entries_largest_first_with_what_they_are() -> None:
    assert cache.list_entries() == []
    build("images", "a", 10)
    build("weights", "b", 1000, "vgg16 of 32 pixels")
    (entry_folder("images", "b").parent / f".{content_address('half')}-x").mkdir()
    found = cache.list_entries()
    assert [(entry.kind, entry.about, entry.bytes) for entry in found] == [
        ("weights", "vgg16 of 32 pixels", 1018),
        ("images", "decoded images", 10),
    ]
    assert [entry.kind for entry in cache.list_entries("images")] == ["images"]
    with pytest.raises(InputError, match="no kind 'image'; did you mean 'images'"):
        cache.list_entries("image")


def test_what_goes_while_it_is_looked_at_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    build("images", "a", 10, "whole")
    address = build("checkpoints", "b", 10, "under way")
    (entry_folder("checkpoints", address) / "more").mkdir()
    original = os.stat

    def stat(path: Path, **given: bool) -> os.stat_result:
        if Path(path).name == "data" and Path(path).parent.name == address:
            shutil.rmtree(Path(path).parent)
        return original(path, **given)

    monkeypatch.setattr(os, "stat", stat)
    assert [entry.about for entry in cache.list_entries()] == ["whole", "under way"]
    assert [entry.about for entry in cache.list_entries()] == ["whole"]


def test_cleared_entries_are_gone_and_can_be_made_again() -> None:
    build("images", "a", 10)
    kept = build("weights", "b", 10)
    cache.clear_entries(cache.list_entries("images"))
    assert [entry.address for entry in cache.list_entries()] == [kept]
    cache.clear_entries(cache.list_entries() * 2)  # what is gone already is no trouble
    assert cache.list_entries() == []
    build("images", "a", 10)
    assert len(cache.list_entries()) == 1


def test_what_was_not_used_for_long() -> None:
    old, new = build("images", "a", 10), build("images", "b", 10)
    long_ago = cache.list_entries()[0].used - 40 * 24 * 3600
    os.utime(entry_folder("images", old) / "data", (long_ago, long_ago))
    assert [entry.address for entry in cache.entries_unused_for(cache.list_entries(), 30)] == [old]
    assert {entry.address for entry in cache.entries_unused_for(cache.list_entries(), 0)} >= {old, new} - {new}


def test_not_while_a_study_runs(own_places: Path) -> None:
    build("images", "a", 10)
    code = (
        "import sys\n"
        "from cnnstudy.study.lock import hold_study_lock as one_driver\n"
        "with one_driver('night', 'sqlite:///x.db'): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(StudyBusyError, match=f"pid {other.pid} "):
            cache.clear_entries(cache.list_entries())
        assert len(cache.list_entries()) == 1
        assert other.stdin is not None
        other.stdin.close()
    cache.clear_entries(cache.list_entries())
    assert cache.list_entries() == []


def test_the_commands(own_places: Path) -> None:
    build("images", "a", 2_000_000, "480 images of 64 pixels")
    listed = call("cache", "list", folder=own_places)
    assert listed.code == 0, listed.errors
    assert "480 images of 64 pixels" in listed.output
    assert "1 entries, 2 MB" in listed.output
    assert call("cache", "clear", "--unused-for", "1", folder=own_places).output == "nothing to remove\n"
    assert call("cache", "clear", "--yes", "--kind", "images", folder=own_places).output == "removed 1 entries, 2 MB\n"
    assert "0 entries" in call("cache", "list", folder=own_places).output
