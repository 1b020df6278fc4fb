"""Records that wait for a database or a run that is not there any more: a way out that loses nothing else."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import pytest
from faulty_store import BRIEF, Desk, is_clean

from cnnstudy.errors import LostRunError, TrackingUnavailableError
from cnnstudy.study import doctor
from cnnstudy.study.doctor import Finding
from cnnstudy.study.lock import hold_study_lock
from cnnstudy.tracking.client import Tracker
from cnnstudy.tracking.spool import Envelope, Spool, list_waiting


@pytest.fixture
def desk(alone: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    return Desk(alone, monkeypatch)


class Place:
    """A database that is replaced: MLflow keeps a connection for each address, so each has options of its own."""

    def __init__(self, desk: Desk, empty: Path, folder: Path) -> None:
        self.desk, self.empty, self.path, self.numbers = desk, empty, folder / "mlflow.db", itertools.count(10)

    @property
    def uri(self) -> str:
        return f"sqlite:///{self.path}?timeout={next(self.numbers)}"

    def make(self) -> None:
        shutil.copy(self.empty, self.path)

    def open(self) -> None:
        self.desk.use(Tracker(self.uri))

    def troubles(self) -> list[Finding]:
        return [one for one in doctor.examine(self.uri) if one.trouble]


@pytest.fixture
def place(desk: Desk, empty_database: Path, own_places: Path) -> Place:
    """The database of a study whose second trial, and the end of the first, wait for it."""
    place = Place(desk, empty_database, own_places)
    place.make()
    place.open()
    with pytest.raises(TrackingUnavailableError):
        desk.run(retry_policy=BRIEF, on_event=desk.down)
    return place


def test_a_database_that_was_renamed_alone(place: Place, desk: Desk, own_places: Path) -> None:
    """Its records come along, and no trial runs again."""
    (waiting,) = list_waiting()
    before, place.path = place.path, place.path.rename(own_places / "renamed.db")
    place.open()
    desk.begin()
    assert desk.run().finished == 2
    assert "alexnet-000" not in desk.trained
    assert (
        f"{waiting.records} records waited for {before}, which is gone and whose runs are in this database" in desk.said
    )
    assert is_clean(own_places)


def test_a_copy_of_a_database_takes_no_records(place: Place, desk: Desk, own_places: Path) -> None:
    waiting = list_waiting()
    place.path = Path(shutil.copy(place.path, own_places / "copy.db"))
    place.open()
    desk.run()
    assert list_waiting() == waiting


@pytest.mark.parametrize("replaced", [False, True], ids=["deleted", "replaced by an empty one"])
def test_a_database_that_is_gone(place: Place, desk: Desk, own_places: Path, replaced: bool) -> None:
    before = place.path.rename(own_places / "before.db")
    (waiting,) = list_waiting()
    if replaced:
        place.make()
        place.open()
        with pytest.raises(LostRunError) as caught:
            desk.run()
        for words in (
            f"{place.path} was replaced",
            f"Put {place.path} back from a copy",
            f"{waiting.records} records are stored in {waiting.folder}",
            "`python -m cnnstudy doctor --repair` sets the records of such runs aside",
        ):
            assert words in str(caught.value)
        assert desk.trained == []
    (told,) = place.troubles()
    assert told.mendable
    assert told.text.startswith(f"{waiting.records} records wait for MLflow in {waiting.folder}; ")
    assert "--repair sets these records aside" in told.remedy
    (done,) = doctor.repair(place.uri)
    (aside,) = (own_places / "cache" / "outbox-set-aside").iterdir()
    assert str(aside) in done
    assert str(waiting.folder) in done
    place.open()
    assert desk.run().finished == 2
    assert desk.trained == ["alexnet-000"], "the second trial was stored from its start to its end"
    assert place.troubles() == []
    # the database is found again: nothing was lost
    place.path.unlink()
    before.rename(place.path)
    waiting.folder.mkdir(parents=True)
    for path in aside.iterdir():
        path.rename(waiting.folder / path.name)
    place.open()
    assert desk.run().finished == 2
    assert desk.trained == ["alexnet-001"]
    assert is_clean(own_places)


def test_a_run_that_is_not_restored(place: Place, desk: Desk, own_places: Path) -> None:
    """Its records are set aside, and its trial runs again."""
    desk.up()
    desk.client.client.delete_run(desk.runs()[0].run_id)
    with pytest.raises(LostRunError, match=r"the run of alexnet-000 .* was deleted in MLflow"):
        desk.run()
    (told,) = place.troubles()
    assert told.mendable
    doctor.repair(place.uri)
    assert desk.run().finished == 2
    assert desk.trained == ["alexnet-000"]
    assert is_clean(own_places)
    assert place.troubles() == []


@pytest.mark.parametrize("copied", [False, True])
def test_records_of_a_project_that_is_moved_come_along(
    place: Place, desk: Desk, own_places: Path, copied: bool
) -> None:
    """Those of a project that is copied wait for the original."""
    old, new = place.path, own_places / "moved"
    new.mkdir()
    for name in ("mlflow.db", "mlruns"):
        path = own_places / name
        if copied:
            shutil.copytree(path, new / name) if path.is_dir() else shutil.copy(path, new)
        else:
            path.rename(new / name)
    (waiting,) = list_waiting()
    place.path = new / "mlflow.db"
    done = doctor.repair(place.uri)
    assert "the places are corrected" in done[0]
    assert (f"study fake: {waiting.records} records that waited for {old} are sent by its next run" in done) != copied
    assert (waiting in list_waiting()) == copied
    place.open()
    assert desk.run().finished == 2
    assert desk.trained == (["alexnet-000", "alexnet-001"] if copied else [])
    assert place.troubles() == []
    place.path = old
    if copied:
        place.open()
        assert desk.run().finished == 2
        assert desk.trained == []
    assert is_clean(own_places)


def test_a_store_that_can_not_be_asked_sets_nothing_aside(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.path.write_text("no database" * 100)
    (waiting,) = list_waiting()
    assert [one.area for one in place.troubles()] == ["database"]
    assert doctor.repair(place.uri) == []
    assert list_waiting() == [waiting]


def test_a_study_that_is_being_run_keeps_its_records(
    place: Place, own_places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = place.uri
    place.path.unlink()
    (waiting,) = list_waiting()
    with hold_study_lock("fake", uri):
        assert doctor.repair(uri) == []
    assert list_waiting() == [waiting]


@pytest.fixture
def spool(own_places: Path) -> Spool:
    spool = Spool("fake", "sqlite:///mlflow.db")
    spool.reserve()
    return spool


def test_what_is_set_aside_is_complete(spool: Spool, own_places: Path) -> None:
    """Also files that a full disk kept where they were, and records that were set aside before."""
    for round_number in (1, 2):
        own = own_places / f"own-{round_number}"
        own.mkdir()
        (own / "curves.png").write_text("a picture")
        spool.add(Envelope("log_files", 1, "a" * 32, files=own), in_use=True)
        (stored,) = spool.load()
        assert stored.kept is not None
        if round_number == 2:  # as a full disk leaves it
            elsewhere = stored.kept.rename(own_places / "elsewhere")
            stored.files = stored.kept = elsewhere
        aside = spool.set_aside(stored)
        name = f"{stored.number:08d}"
        record = json.loads((aside / f"{name}.json").read_text())
        assert record["files"] == str(spool.folder / name)
        assert (aside / name / "curves.png").read_text() == "a picture"
        assert list(spool.load()) == []
        spool = Spool("fake", "sqlite:///mlflow.db")
        spool.reserve()
    assert len(list((own_places / "cache" / "outbox-set-aside").iterdir())) == 2


def test_a_record_that_can_not_be_read_is_a_finding_and_the_advice_helps(place: Place) -> None:
    (waiting,) = list_waiting()
    damaged = next(waiting.folder.glob("0*.json"))
    damaged.write_text("{")
    (told,) = place.troubles()
    assert f"the record {damaged}" in told.text
    assert "delete that file to discard the record" in told.text
    damaged.unlink()
    assert place.troubles() == []
