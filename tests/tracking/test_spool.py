"""Records on disk."""

from __future__ import annotations

import errno
import json
import math
import tempfile
from pathlib import Path

import pytest

from cnnstudy.errors import TrackingError
from cnnstudy.system.scratch import Scratch
from cnnstudy.tracking import spool as module
from cnnstudy.tracking.spool import (
    Envelope,
    Spool,
    find_waiting,
    list_waiting,
    remove_abandoned_files,
    spool_folder_for,
)

URI = "postgresql://bob:geheim@host/db"


@pytest.fixture
def spool(own_places: Path) -> Spool:
    return Spool("fake", URI)


def operation(step: int = 1, files: Path | None = None) -> Envelope:
    return Envelope("log_metrics", 5, "run", {"metrics": {"a": 0.1 + 0.2, "b": math.inf}, "step": step}, "t", files)


def folder_of(place: Path, name: str) -> Path:
    (place / name / "deep").mkdir(parents=True)
    (place / name / "deep" / "note.txt").write_text(f"Größe von {name}", encoding="utf-8")
    return place / name


def test_what_is_added_comes_back_in_order_and_exactly(spool: Spool) -> None:
    for step in range(12):
        assert spool.add(operation(step)) is None
    again = list(Spool("fake", URI).load())
    assert [one.arguments["step"] for one in again] == list(range(12))
    assert again[3].arguments["metrics"] == {"a": 0.1 + 0.2, "b": math.inf}
    assert (again[3].what, again[3].at, again[3].run, again[3].token) == ("log_metrics", 5, "run", "t")


def test_numbers_go_on_after_those_that_are_left(spool: Spool) -> None:
    spool.add(operation(1))
    later = Spool("fake", URI)
    later.reserve()
    later.add(operation(2))
    assert [one.arguments["step"] for one in later.load()] == [1, 2]


def test_what_is_removed_is_gone_and_the_folder_with_the_last(spool: Spool, tmp_path: Path) -> None:
    first, second = operation(1, folder_of(tmp_path, "a")), operation(2)
    spool.add(first)
    spool.add(second)
    spool.remove(first)
    spool.release()
    assert [one.arguments["step"] for one in spool.load()] == [2]
    assert {path.name for path in spool.folder.iterdir()} == {"00000002.json", "about.json"}
    spool.remove(second)
    spool.release()
    assert not spool.folder.exists()


def test_files_lie_beside_their_record_and_take_no_room(spool: Spool, tmp_path: Path) -> None:
    files = folder_of(tmp_path, "a")
    inode = (files / "deep" / "note.txt").stat().st_ino
    spool.add(operation(1, files))
    assert not files.exists()
    (again,) = spool.load()
    assert again.files is not None
    assert again.files.parent == spool.folder
    assert (again.files / "deep" / "note.txt").read_text(encoding="utf-8") == "Größe von a"
    assert (again.files / "deep" / "note.txt").stat().st_ino == inode


def test_files_that_somebody_reads_stay_where_they_are(spool: Spool, tmp_path: Path) -> None:
    mine = operation(1, folder_of(tmp_path, "a"))
    spool.add(mine, in_use=True)
    assert mine.files == tmp_path / "a"
    assert (tmp_path / "a" / "deep" / "note.txt").exists()
    spool.remove(mine)
    assert not (tmp_path / "a").exists()
    assert list(spool.load()) == []
    assert [path.name for path in spool.folder.iterdir() if path.is_dir()] == []


def test_files_are_copied_where_they_cannot_be_linked(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def elsewhere(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr("os.link", elsewhere)
    spool.add(operation(1, folder_of(tmp_path, "a")))
    (again,) = spool.load()
    assert again.files is not None
    assert (again.files / "deep" / "note.txt").read_text(encoding="utf-8") == "Größe von a"


def test_a_record_that_was_being_written_when_the_power_failed_is_none(spool: Spool, tmp_path: Path) -> None:
    spool.add(operation(1))
    (spool.folder / ".00000002.json").write_text('{"what": "log_met', encoding="utf-8")
    folder_of(spool.folder, "00000002")  # files without a record
    later = Spool("fake", URI)
    assert [one.arguments["step"] for one in later.load()] == [1]
    later.reserve()
    later.add(operation(2, folder_of(tmp_path, "b")))
    *_, last = later.load()
    assert last.files is not None
    assert (last.files / "deep" / "note.txt").read_text(encoding="utf-8") == "Größe von b"


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"what": "x", "files": null, "colour": 1}'])
def test_a_record_that_cannot_be_read_is_named(spool: Spool, content: str) -> None:
    spool.add(operation(1))
    path = spool.folder / "00000001.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(TrackingError, match=rf"the record {path}.*delete that file to discard the record"):
        list(spool.load())


def test_files_that_are_gone_are_not_passed_over(spool: Spool, tmp_path: Path) -> None:
    spool.add(operation(1, folder_of(tmp_path, "a")))
    (spool.folder / "00000001").rename(tmp_path / "elsewhere")
    with pytest.raises(TrackingError, match=r"its files in .* are gone"):
        list(spool.load())


# ---- a full disk


class Disk:
    """Has no room for files beyond so many bytes, of those that the spool writes itself."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.room: int | None = None
        self._write, self._link = module._write, module.hardlink_tree
        monkeypatch.setattr(module, "_write", self.write)
        monkeypatch.setattr(module, "hardlink_tree", self.link)

    def write(self, path: Path, content: bytes) -> None:
        self.check(path, len(content))
        self._write(path, content)

    def link(self, source: Path, target: Path, durable: bool = False) -> None:
        self.check(target, 1)
        self._link(source, target, durable)

    def check(self, path: Path, wanted: int) -> None:
        used = sum(entry.stat().st_size for entry in path.parent.rglob("*") if entry.is_file())
        if self.room is not None and used + wanted > self.room:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def test_the_last_words_have_room_on_a_full_disk(spool: Spool, disk: Disk, tmp_path: Path) -> None:
    spool.reserve()
    spool.add(operation(1))
    disk.room = sum(path.stat().st_size for path in spool.folder.iterdir())
    mine = operation(2, folder_of(tmp_path, "model"))
    trouble = spool.add(mine)
    assert trouble is not None
    assert trouble.errno == errno.ENOSPC
    assert spool.add(operation(3)) is None
    first, second, third = spool.load()
    assert (first.arguments["step"], second.arguments["step"], third.arguments["step"]) == (1, 2, 3)
    assert second.files == tmp_path / "model", "there was no room for it beside the record"
    spool.forget(mine)
    assert (tmp_path / "model").is_dir()
    disk.room = None
    spool.remove(second)
    assert not (tmp_path / "model").exists()


def test_without_any_room_the_record_is_not_half_there(spool: Spool, disk: Disk, tmp_path: Path) -> None:
    spool.reserve()
    disk.room = 0
    mine = operation(1, folder_of(tmp_path, "model"))
    with pytest.raises(OSError, match="No space left"):
        spool.add(mine)
    assert (mine.number, mine.kept, list(spool.load())) == (0, None, [])
    assert (tmp_path / "model").is_dir()
    disk.room = None
    spool.add(mine)
    assert [one.number for one in spool.load()] == [1]


# ---- whose they are


def test_what_waits_is_listed_without_secrets(spool: Spool) -> None:
    assert list_waiting() == []
    spool.reserve()
    assert list_waiting() == []
    for step in range(2):
        spool.add(operation(step))
    (found,) = list_waiting()
    assert (found.study, found.tracking, found.records) == ("fake", "postgresql://***@host/db", 2)
    assert found.folder == spool.folder
    written = "".join(path.read_text(encoding="utf-8") for path in spool.folder.glob("*.json"))
    assert '"fake"' in written
    assert "geheim" not in written
    assert "bob" not in written


def test_each_study_in_each_store_has_its_own(own_places: Path) -> None:
    places = [("fake", URI), ("other", URI), ("fake", "postgresql://host/other"), ("fake", "sqlite:///mlflow.db")]
    assert len({Spool(*place).folder for place in places}) == 4
    assert Spool("fake", URI).folder == Spool("fake", "postgresql://alice:other@host/db").folder
    assert Spool("fake", "sqlite:///a.db").folder == Spool("fake", f"sqlite:///{own_places / 'a.db'}").folder
    assert Spool("fake", "sqlite:///a.db").folder == Spool("fake", "sqlite:///a.db?timeout=5").folder


def test_what_a_record_says_can_be_read(spool: Spool) -> None:
    spool.add(operation(1))
    record = json.loads((spool.folder / "00000001.json").read_text(encoding="utf-8"))
    assert set(record) == {"what", "at", "run", "arguments", "token", "files", "number"}


def test_which_study_waits_is_told_by_its_store(spool: Spool) -> None:
    assert find_waiting(URI) == {}
    spool.add(operation())
    found = find_waiting(URI)["fake"]
    assert found is not None
    assert (found.study, found.records, found.folder) == ("fake", 1, spool.folder)
    assert find_waiting("postgresql://host/other") == {}


def test_files_that_a_killed_driver_had_set_aside_go_unless_a_record_names_them(
    spool: Spool, own_places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (own_places / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(own_places / "temporary"))
    living, dead = Scratch(), Scratch()
    in_use, named, abandoned = spool_folder_for(living), spool_folder_for(dead), spool_folder_for(dead)
    stranger = own_places / "temporary" / "cnnstudy-outbox-of-somebody"
    for folder in (in_use, named, abandoned, stranger):
        folder.mkdir()
    monkeypatch.setattr(Spool, "_store_files", lambda self, files, number: files)  # as where there is no room beside it
    spool.add(operation(files=named), in_use=True)
    dead.close()
    remove_abandoned_files()
    assert sorted(Path(tempfile.gettempdir()).glob("cnnstudy-outbox-*")) == sorted([in_use, named, stranger])
    living.close()
    remove_abandoned_files()
    assert not in_use.exists()
