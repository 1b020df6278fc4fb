from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from cnnstudy.system import cache, scratch

HOLD = """
import sys, tempfile
tempfile.tempdir = sys.argv[1]
from cnnstudy.system.scratch import Scratch
held = Scratch()
(held.folder / "file").touch()
print(held.folder, flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary folder of this test's own."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_folder_goes_with_its_block(place: Path) -> None:
    with scratch.scratch_folder() as folder, scratch.scratch_folder() as other:
        (folder / "deep").mkdir()
        assert scratch.scratch_folders() == {folder: True, other: True}
        assert not scratch.remove_abandoned(folder)
        assert folder.stat().st_mode & 0o777 == 0o700
    assert list(place.iterdir()) == []


def test_closing_twice_is_no_harm(place: Path) -> None:
    held = scratch.Scratch()
    held.close()
    held.close()
    assert list(place.iterdir()) == []


def test_a_killed_process_leaves_its_folder_to_be_removed(place: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(place)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        folder = Path(holder.stdout.readline().strip())
        assert scratch.scratch_folders() == {folder: True}
        assert not scratch.remove_abandoned(folder)
        assert (folder / "file").exists()
        holder.kill()
    assert scratch.scratch_folders() == {folder: False}
    # to look is not to touch
    assert scratch.scratch_folders() == {folder: False}
    assert scratch.remove_abandoned(folder)
    assert list(place.iterdir()) == []


def test_folders_of_others_are_not_looked_at(place: Path) -> None:
    for name in ("cnnstudy-abc", "cnnstudy-0123456789abcdef0", "other-0123456789abcdef"):
        (place / name).mkdir()
    (place / "cnnstudy-0123456789abcdef").touch()
    assert scratch.scratch_folders() == {}


def test_a_folder_whose_lock_was_tidied_away_is_left(place: Path) -> None:
    with scratch.scratch_folder() as folder:
        Path(f"{folder}.lock").unlink()
        assert scratch.scratch_folders() == {folder: True}
        assert not scratch.is_abandoned(folder)
        assert not scratch.remove_abandoned(folder)
        assert folder.is_dir()
        assert [path.name for path in place.iterdir()] == [folder.name], "to look is not to touch"
    assert list(place.iterdir()) == []


def test_what_can_not_be_removed_keeps_the_lock_that_tells_whose_it_is(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("cnnstudy.system.scratch.remove_tree", lambda folder: None)
        with scratch.scratch_folder() as folder:
            pass
    assert scratch.scratch_folders() == {folder: False}
    assert scratch.is_abandoned(folder)
    assert scratch.remove_abandoned(folder)
    assert list(place.iterdir()) == []


def test_a_cache_entry_that_is_being_built(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNNSTUDY_CACHE", str(place / "cache"))
    address = cache.content_address("it")

    def build(folder: Path) -> None:
        assert cache.find_unfinished() == {folder: True}
        assert not cache.remove_unfinished(folder)
        (folder / "file").touch()

    entry = cache.build_entry("images", address, build)
    left = entry.parent / f".{address}-left"
    left.mkdir()
    (entry.parent / ".another").mkdir()
    assert cache.find_unfinished() == {left: False}
    assert cache.remove_unfinished(left)
    assert cache.find_unfinished() == {}
    assert (entry / "file").exists()


def test_to_ask_for_a_folder_that_is_gone_leaves_nothing(place: Path) -> None:
    assert not scratch.is_held(place / "cnnstudy-0123456789abcdef")
    assert list(place.iterdir()) == []


def test_what_others_build_in_a_shared_cache_is_theirs(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNNSTUDY_CACHE", str(place / "cache"))
    for kind in ("images", "features"):
        (place / "cache" / kind / f".{'a' * 24}-theirs").mkdir(parents=True)
    lock = place / "cache" / "features" / f"{'a' * 24}.lock"
    lock.mkdir()  # like one that this user may not open
    assert cache.find_unfinished() == {place / "cache" / "images" / f".{'a' * 24}-theirs": False}
    monkeypatch.setattr("os.getuid", lambda: -1)
    assert cache.find_unfinished() == {}
