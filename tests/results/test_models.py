"""Finding a model by every kind of name, and the errors if there is none."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from trained_study import NAME, Trained

from cnnstudy.analysis.confirmation import (
    RECORD_PATH,
    Candidate,
    Confirmation,
    compare_candidates,
    confirmation_to_json,
)
from cnnstudy.errors import ModelError, UnknownNameError
from cnnstudy.names import Tag
from cnnstudy.records import Rule, TrialSpec
from cnnstudy.results.models import Model, find_model
from cnnstudy.study import doctor
from cnnstudy.tracking.client import Tracker
from cnnstudy.tracking.operations import LogModel, StartRun
from cnnstudy.tracking.registry import Registry


def find(given: str, trained: Trained, folder: Path) -> Model:
    return find_model(given, trained.uri, folder)


def model_folder(trained: Trained) -> Path:
    model_id = trained.run.tags["cnnstudy.model"].removeprefix("models:/")
    return Path(Tracker(trained.uri)._client.get_logged_model(model_id).artifact_location)


# ---- found


@pytest.mark.parametrize(
    "given",
    [NAME, f"{NAME}/alexnet-000", f"models:/{NAME}@champion", f"models:/{NAME}/1"],
)
def test_a_model_by_its_name_in_the_record(trained: Trained, tmp_path: Path, given: str) -> None:
    model = find(given, trained, tmp_path)
    assert model.title == f"{NAME}/alexnet-000"
    assert model.file == model_folder(trained) / "data" / "model.keras"
    assert model.classes == Trained.classes
    assert list(tmp_path.iterdir()) == [], "it was copied, though it lies on this disk"


def test_a_model_by_its_id_and_by_its_place(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    by_study = find(NAME, trained, tmp_path)
    assert find(trained.run.tags["cnnstudy.model"], trained, tmp_path) == by_study
    for place in (model_folder(trained), by_study.file):
        by_place = find_model(str(place), "http://nobody-is-asked.invalid", tmp_path)
        assert (by_place.file, by_place.classes) == (by_study.file, Trained.classes)
    # a place comes before a study of that name
    shutil.copytree(model_folder(trained), tmp_path / NAME)
    monkeypatch.chdir(tmp_path)
    assert find(NAME, trained, tmp_path).file == Path(NAME, "data", "model.keras")


def test_names_of_classes_of_a_model_from_before_they_came_with_it(trained: Trained, tmp_path: Path) -> None:
    shutil.copytree(model_folder(trained), tmp_path / "model")
    classes = model_folder(trained) / "classes.json"
    (tmp_path / "model" / "classes.json").unlink()
    hidden = classes.rename(classes.with_suffix(".hidden"))
    try:
        assert find(NAME, trained, tmp_path).classes == Trained.classes
    finally:
        hidden.rename(classes)
    unnamed = find(str(tmp_path / "model"), trained, tmp_path)
    assert unnamed.classes is None
    assert unnamed.class_name(2) == "class 2"


# ---- its hash


def test_the_hash_of_a_model_is_kept_with_its_run(trained: Trained) -> None:
    content = (model_folder(trained) / "data" / "model.keras").read_bytes()
    assert trained.run.tags[Tag.MODEL_HASH] == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    "given", [NAME, f"{NAME}/alexnet-000", f"models:/{NAME}@champion", f"models:/{NAME}/1", "models:/m-ID"]
)
def test_a_file_that_was_changed_is_refused(trained: Trained, tmp_path: Path, given: str) -> None:
    file = model_folder(trained) / "data" / "model.keras"
    whole = file.read_bytes()
    expected = hashlib.sha256(whole).hexdigest()
    changed = whole.replace(b"relu", b"tanh", 1) if b"relu" in whole else whole + b"!"
    given = trained.run.tags["cnnstudy.model"] if given == "models:/m-ID" else given
    try:
        file.write_bytes(changed)
        with pytest.raises(ModelError) as caught:
            find(given, trained, tmp_path)
    finally:
        file.write_bytes(whole)
    for part in (str(file), expected, hashlib.sha256(changed).hexdigest(), "restore it from a backup"):
        assert part in str(caught.value)
    assert find(given, trained, tmp_path).file == file


def test_a_path_of_the_users_own_has_no_hash_to_check(trained: Trained, tmp_path: Path) -> None:
    shutil.copytree(model_folder(trained), tmp_path / "model")
    with (tmp_path / "model" / "data" / "model.keras").open("ab") as file:
        file.write(b"!")
    assert find(str(tmp_path / "model"), trained, tmp_path).file == tmp_path / "model" / "data" / "model.keras"


def test_another_model_of_the_same_run_is_not_held_against_its_hash(
    tracker: Tracker, spec: TrialSpec, tmp_path: Path
) -> None:
    """Somebody registers a model of their own under the run of a trial."""
    study = tracker.open_study("fake", {"objective": {"metric": "val/accuracy"}})
    folder = tmp_path / "own"
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "model.keras").write_bytes(b"own")
    tags = {Tag.KIND: "trial", "cnnstudy.trial": "alexnet-000", "cnnstudy.study": "fake"}
    run_id = tracker.start_run(study.experiment_id, StartRun("a trial", tags, {}, spec.images))
    recorded = {Tag.MODEL_HASH: "0" * 64}
    model = LogModel(folder, "a model", {}, 1, spec.images, recorded)
    tracker.log_model(study.experiment_id, run_id, model)
    tracker._client.create_registered_model("own")
    tracker._client.create_model_version("own", str(folder), run_id)
    assert find_model("models:/own/1", tracker.uri, tmp_path).file == folder / "data" / "model.keras"
    with pytest.raises(
        ModelError, match=f"the recorded model of fake/alexnet-000: its SHA-256 is .*{'0' * 64} was recorded"
    ):
        find_model("fake/alexnet-000", tracker.uri, tmp_path)


# ---- not found


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("digits-in-file", r"no study 'digits-in-file'.*did you mean 'digits-in-files'\?.*A model is a study"),
        ("digits-in-file/alexnet-000", r"no study 'digits-in-file'.*did you mean"),
        (
            f"{NAME}/alexnet-001",
            r"no trial 'alexnet-001' in study.*did you mean 'alexnet-000'\?.*Available trials: alex",
        ),
        (f"models:/{NAME}@chump", r"no model models:/digits-in-files@chump"),
        (f"models:/{NAME}/99", r"no model models:/digits-in-files/99"),
        (f"models:/{NAME}/new", r"no model models:/digits-in-files/new"),
        ("models:/nobodys@champion", r"no model models:/nobodys@champion"),
        ("models:/m-0123", r"no model models:/m-0123"),
        (f"models:/{NAME}", r"'models:/digits-in-files' is not a model address; use models:/NAME@ALIAS"),
        ("models:/", r"'models:/' is not a model address"),
        ("models:/a/b/c", r"'models:/a/b/c' is not a model address"),
        ("photos", r"no study 'photos'.*The folder photos holds no Keras model. Expected data/model.keras"),
        ("./photos", r"The folder ./photos holds no Keras model"),
        ("study.yaml", r"no study 'study.yaml'.*study.yaml is not a .keras file"),
        ("./gone", r"There is no ./gone\. A model is a study"),
        ("gone.keras", r"There is no gone.keras\. A model is"),
        ("a/b/c", r"There is no a/b/c\. A model is"),
    ],
)
def test_no_model(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, message: str) -> None:
    monkeypatch.chdir(trained.folder)
    with pytest.raises(UnknownNameError, match=message):
        find(given, trained, tmp_path)


def test_a_study_without_champion_and_trials_without_model(tracker: Tracker, tmp_path: Path) -> None:
    study = tracker.open_study("young", {"objective": {"metric": "val/accuracy"}})
    for trial, state, reason in (("pruned", "pruned", ""), ("failed", "failed", "oom"), ("running", "running", "")):
        tags = {Tag.KIND: "trial", "cnnstudy.trial": trial, Tag.STATE: state, Tag.REASON: reason}
        tracker._client.create_run(study.experiment_id, tags=tags)
    with pytest.raises(UnknownNameError, match=r"study 'young' has no champion yet.*leaderboard young.*young/TRIAL"):
        find_model("young", tracker.uri, tmp_path)
    for trial, why in (("pruned", "was pruned"), ("failed", r"failed \(oom\)"), ("running", "is still running")):
        with pytest.raises(UnknownNameError, match=f"trial '{trial}' of study 'young' has no model: it {why}"):
            find_model(f"young/{trial}", tracker.uri, tmp_path)


def test_a_model_that_is_there_in_name_only(tracker: Tracker, tmp_path: Path) -> None:
    study = tracker.open_study("emptied", {"objective": {"metric": "val/accuracy"}})
    model = tracker._client.create_logged_model(study.experiment_id, name="alexnet-000")
    address = f"models:/{model.model_id}"
    with pytest.raises(ModelError, match=rf"can't get the files of {address} from .*{model.model_id}"):
        find_model(address, tracker.uri, tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "MLmodel").write_text("flavors: {}\n")
    tracker._client.log_model_artifacts(model.model_id, str(tmp_path / "other"))
    with pytest.raises(
        UnknownNameError, match=rf"{address} is not a Keras model: there is no model.keras in .*{model.model_id}"
    ):
        find_model(address, tracker.uri, tmp_path)


@pytest.mark.parametrize(
    ("text", "message"), [("no JSON", "can't read the class names from .*classes.json"), ('{"a": 1}', "list")]
)
def test_names_of_classes_that_are_none(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "own.keras").write_bytes(b"")
    (tmp_path / "classes.json").write_text(text)
    with pytest.raises(ModelError, match=message):
        find_model(str(tmp_path / "own.keras"), None, tmp_path)


def test_of_two_keras_files_none_is_the_model(tmp_path: Path) -> None:
    (tmp_path / "first.keras").write_bytes(b"")
    assert find_model(str(tmp_path), None, tmp_path).file == tmp_path / "first.keras"
    (tmp_path / "second.keras").write_bytes(b"")
    with pytest.raises(UnknownNameError, match=r"holds no Keras model\. Expected .*one \.keras file"):
        find_model(str(tmp_path), None, tmp_path)


def record_of(version: str) -> str:
    """The record of a confirmation whose champion is that version."""
    seeds = {seed: {"val/accuracy": 0.8, "val/loss": 0.5, "gap/accuracy": 0.1} for seed in (1, 2)}
    candidate = Candidate("alexnet", 0, {"batch_size": 8}, 0.9, 0.1)
    rule = Rule("val/accuracy")
    standings = tuple(compare_candidates([(candidate, seeds)], rule))
    record = Confirmation(rule, standings, ("alexnet-000", 0.9), standings[0], "models:/m", version, "the best")
    return json.dumps(confirmation_to_json(record))


def test_the_champion_is_the_version_with_the_alias(tracker: Tracker, spec: TrialSpec, tmp_path: Path) -> None:
    study = tracker.open_study("fake", {"objective": {"metric": "val/accuracy"}})
    (tmp_path / "saved" / "data").mkdir(parents=True)
    (tmp_path / "saved" / "data" / "model.keras").write_bytes(b"")
    for number in (0, 1):
        tags = {Tag.KIND: "trial", "cnnstudy.trial": f"alexnet-00{number}", "cnnstudy.study": "fake"}
        run_id = tracker.start_run(study.experiment_id, StartRun("a trial", tags, {}, spec.images))
        model = LogModel(tmp_path / "saved", "a model", {}, 1, spec.images)
        tracker.log_model(study.experiment_id, run_id, model)
        run = next(run for run in tracker.runs(study.experiment_id) if run.run_id == run_id)
        Registry(tracker).register_champion("fake", run, "the best")
        assert find_model("fake", tracker.uri, tmp_path).title == f"fake/alexnet-00{number}"
    assert find_model("fake", tracker.uri, tmp_path).note == ""
    tracker.client.log_text(study.run_id, record_of("1"), RECORD_PATH)
    note = find_model("fake", tracker.uri, tmp_path).note
    assert note.startswith("the alias `champion` of fake leads to version 2, of fake/alexnet-001, but the study's con")
    assert note.endswith("This is the former; `python -m cnnstudy confirm fake` sets the alias.")
    assert doctor._find_other_champion(tracker, tracker.study("fake")) == note.partition(". This is")[0]
    assert find_model("models:/fake/1", tracker.uri, tmp_path).title == "fake/alexnet-000"
    assert find_model("fake", tracker.uri, tmp_path).classes is None, "without trial.json nobody knows them"
