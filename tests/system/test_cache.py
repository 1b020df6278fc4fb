from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cnnstudy.errors import CacheError
from cnnstudy.system import cache

ADDRESS = cache.content_address("an entry")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh cache."""
    monkeypatch.setenv("CNNSTUDY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def content_of(folder: Path) -> list[str]:
    """What the cache contains, besides its locks."""
    return sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.suffix != ".lock")


def test_the_variable_says_where_the_cache_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache.cache_folder() == folder
    monkeypatch.chdir(folder.parent)
    monkeypatch.setenv("CNNSTUDY_CACHE", "here")
    assert cache.cache_folder() == folder.parent / "here"
    monkeypatch.setenv("HOME", str(folder.parent))
    monkeypatch.setenv("CNNSTUDY_CACHE", "~/mine")
    assert cache.cache_folder() == folder.parent / "mine"


@pytest.mark.parametrize("value", [None, ""])
def test_without_the_variable_it_is_the_users_cache(value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CNNSTUDY_CACHE")
    if value is not None:
        monkeypatch.setenv("CNNSTUDY_CACHE", value)
    assert cache.cache_folder().name == "cnnstudy"
    assert cache.cache_folder().is_absolute()


def test_an_address_does_not_depend_on_the_order_of_keys() -> None:
    parts = {"name": "digits", "size": 64, "nested": {"x": 1.5, "y": [1, 2]}, "Größe": None}
    addresses = {
        cache.content_address({**dict(order), "nested": dict(reversed(parts["nested"].items()))})  # type: ignore[attr-defined]
        for order in itertools.permutations(parts.items())
    }
    assert addresses == {cache.content_address(parts)}
    assert len(cache.content_address(parts)) == 24


@pytest.mark.parametrize(
    "other", [{"a": 2}, {"a": "1"}, {"b": 1}, {"a": [1]}, {"a": None}, {"a": 1, "b": 1}, {"a": 1.5}, [["a", 1]], {}]
)
def test_another_description_has_another_address(other: object) -> None:
    assert cache.content_address(other) != cache.content_address({"a": 1})


def test_what_json_does_not_know_has_no_address() -> None:
    with pytest.raises(TypeError):
        cache.content_address({"path": Path("x")})
    with pytest.raises(ValueError, match="JSON"):
        cache.content_address(float("nan"))


def test_an_entry_is_built_once(folder: Path) -> None:
    calls = []

    def build(entry: Path) -> None:
        calls.append(entry)
        (entry / "file").write_text(f"{len(calls)}")

    entries = [cache.build_entry("images", ADDRESS, build) for _ in range(3)]
    assert set(entries) == {cache.entry_folder("images", ADDRESS)}
    assert len(calls) == 1
    assert calls[0] != entries[0], "it was built in place: a reader could have seen it half done"
    assert content_of(folder) == [
        "images",
        f"images/{ADDRESS}",
        f"images/{ADDRESS}/file",
        f"images/{ADDRESS}/seal.json",
    ]
    assert (entries[0] / "file").read_text() == "1"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failing_build_leaves_nothing(folder: Path, error: type[BaseException]) -> None:
    def fail(entry: Path) -> None:
        (entry / "half").write_text("done")
        raise error("stop")

    with pytest.raises(error, match="stop"):
        cache.build_entry("images", ADDRESS, fail)
    assert content_of(folder) == ["images"]
    cache.build_entry("images", ADDRESS, lambda entry: None)
    assert cache.entry_folder("images", ADDRESS).is_dir()


def test_several_entries_are_built_in_one_go_where_they_are_missing(folder: Path) -> None:
    one, two, three = (cache.content_address(number) for number in range(3))
    cache.build_entry("images", two, lambda entry: None)
    seen: list[list[str]] = []
    for _ in range(2):
        cache.build_entries("images", [three, one, two, one], lambda folders: seen.append(sorted(folders)))
    assert seen == [sorted([one, three])]
    assert [path for path in content_of(folder) if not path.endswith("seal.json")] == sorted(
        ["images", *(f"images/{address}" for address in (one, two, three))]
    )


def build_files(entry: Path) -> None:
    (entry / "below").mkdir()
    for name, content in {"a": b"first", "b": b"", "below/c": bytes(range(256)) * 40}.items():
        (entry / name).write_bytes(content)
    (entry / cache.ABOUT).write_text("for people")


def damaged(kind: str = "images") -> Path:
    """An entry as another process would find it, which has not looked at it yet."""
    entry = cache.build_entry(kind, ADDRESS, build_files)
    cache._intact.clear()
    return entry


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda entry: (entry / "a").write_bytes(b"fIrst"), "a is not what was written"),
        (lambda entry: (entry / "b").write_bytes(b"x"), "b is not what was written"),
        (lambda entry: (entry / "below" / "c").unlink(), "below/c is missing"),
        (lambda entry: (entry / cache.SEAL).write_bytes(b"null"), "'NoneType' object"),
        (lambda entry: (entry / cache.SEAL).write_bytes(b"5"), "'int' object"),
        (lambda entry: _replace(entry, Path.touch), "it is no folder"),
        (lambda entry: _replace(entry, lambda path: path.symlink_to(path.parent)), "it is no folder"),
        (lambda entry: _replace(entry, lambda path: path.symlink_to("nowhere")), "it is no folder"),
        (lambda entry: (entry / cache.SEAL).unlink(), "no seal.json; earlier versions wrote none"),
        (lambda entry: (entry / cache.SEAL).write_bytes(b"{"), "Expecting property name"),
        (lambda entry: (entry / cache.SEAL).write_bytes(b"[1]"), "'list' object"),
    ],
)
def test_a_damaged_entry_is_told_and_made_anew(damage: Callable[[Path], object], why: str) -> None:
    entry = damaged()
    damage(entry)
    assert not cache.is_intact("images", ADDRESS)
    told: list[str] = []
    cache.build_entry("images", ADDRESS, build_files, told.append)
    assert len(told) == 1
    assert f"{entry} is damaged ({why}" in told[0]
    assert cache.is_intact("images", ADDRESS)
    cache._intact.clear()
    cache.build_entry("images", ADDRESS, pytest.fail, told.append)
    assert len(told) == 1, "it is whole again"


def _replace(entry: Path, put: Callable[[Path], object]) -> None:
    shutil.rmtree(entry)
    put(entry)


def test_what_people_read_and_what_is_looked_at_is_no_damage() -> None:
    entry = damaged()
    (entry / cache.ABOUT).write_text("changed")
    (entry / ".DS_Store").touch()
    os.utime(entry / "a", (0, 0))
    assert cache.why_damaged(entry) == ""
    (entry / "a").write_bytes(b"fIrst")
    assert cache.why_damaged(entry) == "", "a process looks once"


@pytest.mark.parametrize(("kind", "intact"), [("weights", True), ("images", False), ("features", False)])
def test_entries_from_before_there_were_seals(kind: str, intact: bool) -> None:
    """Weights check themselves, and other ones would not do for their recorded trials."""
    (damaged(kind) / cache.SEAL).unlink()
    assert cache.is_intact(kind, ADDRESS) == intact


def test_the_command_says_on_its_error_output_what_was_damaged(capsys: pytest.CaptureFixture[str]) -> None:
    (damaged() / "a").unlink()
    cache.build_entry("images", ADDRESS, build_files)
    assert "note: the cache entry " in capsys.readouterr().err


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="there are no users")
def test_an_entry_that_others_can_write_is_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = damaged()
    entry.chmod(0o770)
    with pytest.raises(CacheError, match=r"can be written by other users, so .* not trusted. Remove it \(`rm -r /"):
        cache.build_entry("images", ADDRESS, build_files)
    entry.chmod(0o755)
    cache.build_entry("images", ADDRESS, pytest.fail)
    monkeypatch.setattr(cache, "is_owned_by_user", lambda folder: folder != entry)
    with pytest.raises(CacheError, match=r"belongs to another user, so .* Set CNNSTUDY_CACHE to a folder of your own"):
        cache.build_entry("images", ADDRESS, build_files)


def test_what_a_killed_process_left_is_cleared_away(folder: Path) -> None:
    left = folder / "images" / f".{ADDRESS}-abc"
    other = folder / "images" / ".0000-abc"
    for path in (left, other):
        path.mkdir(parents=True)
        (path / "half").write_text("")
    cache.build_entry("images", ADDRESS, lambda entry: None)
    assert not left.exists()
    assert other.exists(), "it may be being built"


BUILDER = """
import sys, time
from pathlib import Path
from cnnstudy.system import cache
log = Path(sys.argv[1])

def build(entry):
    (log / f"built-{sys.argv[2]}").touch()
    time.sleep(0.5)
    (entry / "whole").touch()

(log / f"ready-{sys.argv[2]}").touch()
while not (log / "go").exists():
    time.sleep(0.005)
entry = cache.build_entry("images", sys.argv[3], build)
sys.exit(0 if (entry / "whole").exists() else 1)
"""


def test_two_processes_at_once_build_once(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen([sys.executable, "-c", BUILDER, str(tmp_path), name, ADDRESS], env=dict(os.environ))
        for name in ("a", "b")
    ]
    deadline = time.monotonic() + 20
    while len(list(tmp_path.glob("ready-*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    (tmp_path / "go").touch()
    assert [process.wait(timeout=20) for process in processes] == [0, 0]
    assert len(list(tmp_path.glob("built-*"))) == 1
