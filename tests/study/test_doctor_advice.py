"""Each piece of advice that the doctor gives is followed, and then all is well."""

from __future__ import annotations

import contextlib
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from click.testing import CliRunner
from faulty_store import Desk
from mlflow.cli import cli
from mlflow.exceptions import MlflowException
from mlflow.store.db.utils import _get_alembic_config, create_sqlalchemy_engine
from mlflow.store.tracking.dbmodels.initial_models import Base as InitialBase

from cnnstudy.errors import TrackingError
from cnnstudy.names import Tag
from cnnstudy.results import models
from cnnstudy.study import doctor
from cnnstudy.study.doctor import Finding
from cnnstudy.system import cache
from cnnstudy.tracking.client import Tracker
from cnnstudy.tracking.entities import translate_errors
from cnnstudy.tracking.registry import Registry
from cnnstudy.tracking.shown_names import shown_tag


class Patient:
    """A confirmed study in a database of its own."""

    def __init__(self, desk: Desk, folder: Path) -> None:
        self.desk, self.folder, self.path = desk, folder, folder / "mlflow.db"
        self.uri = f"sqlite:///{self.path}"

    def run_of(self, trial: str) -> str:
        study = self.desk.tracker.study("fake")
        return next(run.run_id for run in self.desk.tracker.runs(study.experiment_id) if run.trial == trial)

    def files(self) -> Path:
        (place,) = (self.folder / "mlruns").iterdir()
        return place


Follow = Callable[[], object]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Iterator[Path]:
    """The folder of a study whose two trials finished and were confirmed."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("CNNSTUDY_CACHE", str(folder / "cache"))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        desk = Desk(folder, patch)
        desk.use(Tracker(f"sqlite:///{shutil.copy(empty_database, folder / 'mlflow.db')}"))
        desk.run()
        desk.confirm()
        yield folder


@pytest.fixture
def patient(whole: Path, alone: Path, monkeypatch: pytest.MonkeyPatch) -> Patient:
    """A copy of it, as a project that was copied and mended."""
    shutil.copy(whole / "mlflow.db", alone)
    shutil.copytree(whole / "mlruns", alone / "mlruns")
    desk = Desk(alone, monkeypatch)
    patient = Patient(desk, alone)
    doctor.repair(patient.uri)
    desk.use(Tracker(patient.uri))
    return patient


def rename_experiment(patient: Patient) -> Follow:
    """It has a champion, which is registered under its name."""
    client, experiment = patient.desk.client.client, patient.desk.tracker.study("fake").experiment_id
    client.rename_experiment(experiment, "other")
    return lambda: client.rename_experiment(experiment, "fake")


def troubles(uri: str) -> list[Finding]:
    return [one for one in doctor.examine(uri) if one.trouble]


def change_database(path: Path, *statements: str) -> Follow:
    """Change it directly, and return what puts it back."""
    copy = shutil.copy(path, path.with_suffix(".copy"))
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(statement)
    return lambda: shutil.copy(copy, path)


def replace_database(patient: Patient, content: bytes) -> Follow:
    copy = shutil.copy(patient.path, patient.path.with_suffix(".copy"))
    patient.path.write_bytes(content)
    return lambda: shutil.copy(copy, patient.path)


def lock_database(patient: Patient) -> Follow:
    connection = sqlite3.connect(patient.path, isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    return connection.close


def make_folder(patient: Patient) -> Follow:
    patient.path.rename(patient.path.with_suffix(".copy"))
    patient.path.mkdir()

    def move() -> None:
        patient.path.rename(patient.folder / "a folder")
        patient.path.with_suffix(".copy").rename(patient.path)

    return move


def lose_files(patient: Patient, what: Callable[[], Path]) -> Follow:
    lost = what()
    away = lost.rename(patient.folder / "away")
    return lambda: away.rename(lost)


def set_tag(patient: Patient, trial: str, tag: str, value: str) -> Follow:
    run_id = patient.run_of(trial)
    before = patient.desk.tracker.tags(run_id)[tag]
    patient.desk.client.client.set_tag(run_id, shown_tag(tag), value)
    return lambda: patient.desk.client.client.set_tag(run_id, shown_tag(tag), before)


def edit_accuracy(patient: Patient) -> Follow:
    change = "UPDATE latest_metrics SET value = 7 WHERE key = 'best_val_accuracy' AND run_uuid = "
    return change_database(patient.path, f"{change}'{patient.run_of('alexnet-000')}'")


def move_alias(patient: Patient) -> Follow:
    client = patient.desk.client.client
    champion = client.get_model_version_by_alias("fake", "champion")
    other = client.create_model_version("fake", champion.source, champion.run_id).version
    client.set_registered_model_alias("fake", "champion", other)
    return lambda: client.set_registered_model_alias("fake", "champion", champion.version)


def delete_alias(patient: Patient) -> Follow:
    patient.desk.client.client.delete_registered_model_alias("fake", "champion")
    return patient.desk.confirm


def leave_a_run(patient: Patient) -> Follow:
    patient.desk.tracker.set_tags(patient.run_of("alexnet-000"), {Tag.STATE: "running"})
    return lambda: doctor.repair(patient.uri)


def leave_a_folder(patient: Patient) -> Follow:
    scratch = Path(tempfile.gettempdir()) / "cnnstudy-0123456789abcdef"
    scratch.mkdir()
    Path(f"{scratch}.lock").touch()
    return lambda: doctor.repair(patient.uri)


def break_the_cache(patient: Patient) -> Follow:
    cache.build_entry("images", "a" * 24, lambda folder: (folder / "index.json").write_text("{}"))
    (cache.entry_folder("images", "a" * 24) / "index.json").write_text("[]")
    return lambda: doctor.repair(patient.uri)


def move_project(patient: Patient) -> Follow:
    """As if it had been copied from elsewhere."""
    old, new = patient.files(), "/elsewhere/mlruns/" + patient.files().name
    columns = {"experiments": "artifact_location", "runs": "artifact_uri", "logged_models": "artifact_location"}
    change_database(
        patient.path,
        *(f"UPDATE {table} SET {name} = replace({name}, '{old}', '{new}')" for table, name in columns.items()),
    )
    return lambda: doctor.repair(patient.uri)


RESTORE = r"[Rr]estore (it|them|the database) from a copy"
CASES: dict[str, tuple[Callable[[Patient], Follow], str]] = {
    "a table is missing": (
        lambda one: change_database(one.path, "DROP TABLE logged_model_tags"),
        rf"lacks the table logged_model_tags, which MLflow needs.* {RESTORE}",
    ),
    "a column is missing": (
        lambda one: change_database(one.path, "ALTER TABLE datasets RENAME COLUMN dataset_schema TO other"),
        rf"lacks the column dataset_schema of the table datasets.* {RESTORE}",
    ),
    "it is no database": (lambda one: replace_database(one, b"no database" * 500), RESTORE),
    "it is cut off": (
        lambda one: replace_database(one, one.path.read_bytes()[: 1 << 17]),
        RESTORE,
    ),
    "it is another program's": (
        lambda one: change_database(one.path, "ALTER TABLE experiments RENAME TO other"),
        "Give another with --tracking-uri",
    ),
    "it is a folder": (make_folder, "is a folder, not a database; move it"),
    "it is locked": (lock_database, "wait for the process that holds it, or end that"),
    "the files of a trial are gone": (
        lambda one: lose_files(one, lambda: one.files() / one.run_of("alexnet-000")),
        RESTORE,
    ),
    "all files are gone": (
        lambda one: lose_files(one, lambda: one.folder / "mlruns"),
        r"the folder of its files, .*, is not there.*move it back or mount its disk",
    ),
    "the project was moved": (move_project, "--repair corrects every place"),
    "a trial's tag was edited": (lambda one: set_tag(one, "alexnet-000", Tag.SEED, "x"), "Restore it from a copy"),
    "a trial's network was edited": (
        lambda one: set_tag(one, "alexnet-000", Tag.ARCHITECTURE, "nope"),
        rf"cnnstudy\.architecture 'nope'; it counts as failed.*{RESTORE}",
    ),
    "the study's own tag was edited": (
        lambda one: set_tag(one, "", f"{Tag.CONFIG}.0", "{"),
        "Restore it from a copy, or give the study another name",
    ),
    "a measurement was edited": (edit_accuracy, RESTORE),
    "the champion's alias was moved": (move_alias, "set the alias back in MLflow"),
    "the champion's alias was deleted": (
        delete_alias,
        "the alias `champion` of fake is gone, .*`python -m cnnstudy confirm",
    ),
    "its experiment was renamed": (rename_experiment, "was renamed 'other' in MLflow. Rename it back: `mlflow exp"),
    "a run was left": (leave_a_run, "fixed by --repair"),
    "a folder was left": (leave_a_folder, "--repair fixes it"),
    "an entry of the cache is broken": (break_the_cache, "--repair removes it"),
}


@pytest.mark.parametrize("name", CASES)
def test_following_the_advice_helps(patient: Patient, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cnnstudy.study.doctor._PATIENCE", 0.01)
    assert troubles(patient.uri) == []
    make, words = CASES[name]
    follow = make(patient)
    told = troubles(patient.uri)
    text = "\n".join(f"{one.text} {one.remedy}" for one in told)
    assert re.search(words, text, re.DOTALL), told
    assert {one.mendable for one in told} == {"--repair" in words}
    assert "db upgrade" not in text
    follow()
    assert troubles(patient.uri) == []


def test_a_server_that_is_not_there_is_another_address_or_a_server_to_start(
    patient: Patient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    (told,) = troubles("http://127.0.0.1:9")
    assert told.remedy == "check the address, and that the server is running"
    assert troubles(patient.uri) == []


def test_an_entry_that_others_could_have_changed_is_not_removed_for_the_user(
    patient: Patient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The doctor would not remove it, so it does not say so."""
    cache.build_entry("images", "a" * 24, lambda folder: (folder / "index.json").write_text("{}"))
    with monkeypatch.context() as patch:
        for module in ("system.cache", "study.doctor"):
            patch.setattr(f"cnnstudy.{module}.is_owned_by_user", lambda folder: folder.name != "a" * 24)
        (told,) = troubles(patient.uri)
        assert "belongs to another user" in told.text
        assert "Set CNNSTUDY_CACHE to a folder of your own" in told.text
        assert (told.remedy, told.mendable) == ("", False)
        assert doctor.repair(patient.uri) == []
        patch.setenv("CNNSTUDY_CACHE", str(patient.folder / "own"))
        assert troubles(patient.uri) == []


# ---- schemas


def make_schema(path: Path, revision: str) -> str:
    """Make a database with the tables of an earlier MLflow; return its URI."""
    uri = f"sqlite:///{path}"
    engine = create_sqlalchemy_engine(uri)
    InitialBase.metadata.create_all(engine)
    config = _get_alembic_config(uri)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    engine.dispose()
    return uri


def test_an_older_schema_is_upgraded_as_the_advice_says(alone: Path) -> None:
    scripts = ScriptDirectory.from_config(_get_alembic_config("sqlite:///none.db"))
    (head,) = scripts.get_revisions("heads")
    uri = make_schema(alone / "mlflow.db", str(head.down_revision))
    (told,) = troubles(uri)
    assert "was written by an older MLflow" in told.text
    advice = re.search(r"`mlflow (db upgrade \S+)`", told.text)
    assert advice is not None
    done = CliRunner().invoke(cli, advice[1].split(), catch_exceptions=False)
    assert done.exit_code == 0
    assert troubles(uri) == []


def test_a_newer_schema_is_not_to_be_upgraded(patient: Patient) -> None:
    copy = Path(shutil.copy(patient.path, patient.folder / "newer.db"))
    change_database(copy, "UPDATE alembic_version SET version_num = 'abcdef012345'")
    (told,) = troubles(f"sqlite:///{copy}")
    assert "was written by a newer MLflow" in told.text
    assert "choose another database with --tracking-uri" in told.text
    assert "upgrade" not in f"{told.text} {told.remedy}"
    assert troubles(patient.uri) == []


@pytest.mark.parametrize(("found", "newer"), [("0584bdc529eb", False), ("abcdef012345", True)])
def test_so_is_a_newer_schema_of_a_database_server(found: str, newer: bool) -> None:
    """MLflow's own message advises to upgrade either."""
    uri = "postgresql://user:geheim@host/mlflow"
    with pytest.raises(TrackingError) as caught, translate_errors(uri):
        raise MlflowException(
            f"Detected out-of-date database schema (found version {found}, but expected 0123456789ab). Take a backup "
            "of your database, then run 'mlflow db upgrade <database_uri>' to migrate your database."
        )
    assert ("was written by a newer MLflow" in str(caught.value)) == newer
    assert ("`mlflow db upgrade postgresql://***@host/mlflow`" in str(caught.value)) != newer


def test_predictions_say_so_where_the_champions_alias_is_gone(patient: Patient) -> None:
    follow = delete_alias(patient)
    registry, study = Registry(patient.desk.tracker), patient.desk.tracker.study("fake")
    stored, note = models._find_champion(registry, study)
    assert note.startswith(
        "the alias `champion` of fake is gone, but the study's confirmation named version 1, of fake/"
    )
    assert f"this is {stored.trial.removeprefix('fake/')}, which has the best validation score" in note
    assert note.endswith("`python -m cnnstudy confirm fake` sets the alias again.")
    follow()
    assert models._find_champion(registry, study)[1] == ""
