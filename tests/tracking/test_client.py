"""What MLflow holds after each call, read back with MLflow's own client."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import ViewType
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE

from cnnstudy.errors import TrackingError, UnknownNameError, without_secrets
from cnnstudy.names import Tag
from cnnstudy.records import TrialSpec
from cnnstudy.study.recorder import Recorder
from cnnstudy.tracking.client import DEFAULT_URI, Tracker, existing_tracker, find_tracker, tracking_uri
from cnnstudy.tracking.operations import Attempt, LogModel, StartRun
from cnnstudy.tracking.recorded import RecordedRun, RecordedStudy, config_tags
from cnnstudy.tracking.registry import Registry
from cnnstudy.tracking.ui_layout import VIEW_TAG, layout_tag

CONFIG: dict[str, Any] = {"objective": {"metric": "val/accuracy"}, "budget": {"trials": 3}}
TRIAL = {"cnnstudy.kind": "trial", "cnnstudy.trial": "alexnet-007"}


@pytest.fixture
def study(tracker: Tracker) -> RecordedStudy:
    return tracker.open_study("fake", CONFIG)


class Before:
    """A client that does something before each of its calls."""

    def __init__(self, client: Any, do: Callable[[str], None]) -> None:
        self.client, self.do = client, do

    def __getattr__(self, name: str) -> Any:
        self.do(name)
        return getattr(self.client, name)


def start(tracker: Tracker, study: RecordedStudy, spec: TrialSpec, name: str = "a trial") -> str:
    parameters = {"batch_size": "16", "patience": "None"}
    return tracker.start_run(study.experiment_id, StartRun(name, TRIAL, parameters, spec.images))


def log_model(tracker: Tracker, study: RecordedStudy, spec: TrialSpec, run_id: str) -> str:
    folder = Path("model")
    folder.mkdir(exist_ok=True)
    (folder / "MLmodel").write_text("artifact_path: model\n")
    metrics = {"best/val_accuracy": 0.75}
    model = LogModel(folder, spec.key, metrics, 3, spec.images, {"who": "me"})
    return tracker.log_model(study.experiment_id, run_id, model)


def recorded(tracker: Tracker, study: RecordedStudy, run_id: str) -> RecordedRun:
    return next(run for run in tracker.runs(study.experiment_id) if run.run_id == run_id)


# ---- runs


def test_a_run_holds_what_was_given(tracker: Tracker, study: RecordedStudy, spec: TrialSpec) -> None:
    run_id = start(tracker, study, spec, "alexnet-007 scratch, batch 16")
    tracker.log_metrics(run_id, {"val/accuracy": 0.25, "val/loss": 2.0}, step=1)
    tracker.log_metrics(run_id, {"val/accuracy": 0.5, "val/loss": 1.0}, step=2)
    run = recorded(tracker, study, run_id)
    assert (run.name, run.kind, run.state, run.reason) == ("alexnet-007 scratch, batch 16", "trial", "running", "")
    assert run.parameters == {"batch_size": "16", "patience": "None"}
    assert run.metrics == {"val/accuracy": 0.5, "val/loss": 1.0}
    assert tracker.metric_history(run_id, "val/accuracy") == {1: 0.25, 2: 0.5}
    assert tracker.metric_history(run_id, "val/nothing") == {}


def test_a_runs_texts_are_read_back(tracker: Tracker, study: RecordedStudy, spec: TrialSpec, tmp_path: Path) -> None:
    run_id = start(tracker, study, spec)
    assert tracker.read_text(run_id, "confirm/confirm.json") is None
    (tmp_path / "out" / "confirm").mkdir(parents=True)
    (tmp_path / "out" / "confirm" / "confirm.json").write_text("größer", encoding="utf-8")
    (tmp_path / "out" / "top.csv").write_text("a,b", encoding="utf-8")
    tracker.log_files(run_id, tmp_path / "out")
    assert tracker.read_text(run_id, "confirm/confirm.json") == "größer"
    assert tracker.read_text(run_id, "top.csv") == "a,b"
    assert tracker.read_text(run_id, "confirm") is None
    assert tracker.read_text(run_id, "confirm/other.json") is None
    assert (tracker.files(run_id, ""), tracker.files(run_id, "confirm")) == (["top.csv"], ["confirm/confirm.json"])


def test_the_data_set_is_the_runs_input(tracker: Tracker, study: RecordedStudy, spec: TrialSpec) -> None:
    run_id = start(tracker, study, spec)
    (given,) = tracker._client.get_run(run_id).inputs.dataset_inputs
    assert (given.dataset.name, given.dataset.digest) == ("digits", "d" * 36)
    assert json.loads(given.dataset.profile) == {"train_images": 12, "validation_images": 8, "test_images": 4}
    assert json.loads(given.dataset.schema) == {"classes": ["cat", "dog"], "pixels": 64}
    assert {tag.key: tag.value for tag in given.tags} == {"mlflow.data.context": "training"}


def test_what_is_written_again_is_there_once_and_with_its_time(
    tracker: Tracker, study: RecordedStudy, spec: TrialSpec
) -> None:
    given = StartRun("a trial", TRIAL, {"batch_size": "16"}, spec.images)
    run_id = tracker.start_run(study.experiment_id, given, Attempt(1000, "token-a"))
    for _ in range(2):
        again = tracker.start_run(study.experiment_id, given, Attempt(1000, "token-a", again=True))
        assert again == run_id == tracker.find_run(study.experiment_id, "token-a")
        tracker.log_metrics(run_id, {"val/loss": float("nan"), "val/accuracy": 0.1 + 0.2}, 1, at=2000)
        tracker.end_run(run_id, "finished", at=3000)
    assert tracker.find_run(study.experiment_id, "token-b") is None
    run = tracker._client.get_run(run_id)
    assert (run.info.start_time, run.info.end_time) == (1000, 3000)
    assert len(run.inputs.dataset_inputs) == 1
    for name in ("val/loss", "val/accuracy"):
        assert [(m.step, m.timestamp) for m in tracker._client.get_metric_history(run_id, name)] == [(1, 2000)]
    other = tracker.start_run(study.experiment_id, given, Attempt(token="token-b", again=True))
    assert other != run_id


def test_a_run_that_somebody_deleted_is_not_made_again(tracker: Tracker, study: RecordedStudy, spec: TrialSpec) -> None:
    given = StartRun("a trial", TRIAL, {}, spec.images)
    tracker._client.delete_run(tracker.start_run(study.experiment_id, given, Attempt(token="token-a")))
    with pytest.raises(TrackingError, match="must be in the 'active' state"):
        tracker.start_run(study.experiment_id, given, Attempt(token="token-a", again=True))


def test_more_metrics_than_mlflow_takes_at_once(tracker: Tracker, study: RecordedStudy, spec: TrialSpec) -> None:
    run_id = start(tracker, study, spec)
    tracker.log_metrics(run_id, {f"recall/{number}": 0.5 for number in range(1001)}, step=1)
    assert len(recorded(tracker, study, run_id).metrics) == 1001


@pytest.mark.parametrize(
    ("state", "reason", "status"),
    [
        ("finished", "", "FINISHED"),
        ("pruned", "", "FINISHED"),
        ("failed", "oom", "FAILED"),
        ("failed", "interrupted", "KILLED"),
    ],
)
def test_the_state_and_mlflows_status(
    tracker: Tracker, study: RecordedStudy, spec: TrialSpec, state: str, reason: str, status: str
) -> None:
    run_id = start(tracker, study, spec)
    tracker.end_run(run_id, state, {Tag.REASON: reason})
    run = recorded(tracker, study, run_id)
    assert (run.state, run.reason, run.done) == (state, reason, reason != "interrupted")
    assert tracker._client.get_run(run_id).info.status == status


def test_tags_are_cut_to_what_mlflow_takes(tracker: Tracker, study: RecordedStudy) -> None:
    tracker.set_tags(study.run_id, {"cnnstudy.message": "ä" * 9000, "cnnstudy.file": "caf\udce9.jpg"})
    tags = recorded(tracker, study, study.run_id).tags
    assert set(tags["cnnstudy.message"]) == {"ä"}
    assert len(tags["cnnstudy.message"]) >= 1000
    assert tags["cnnstudy.file"] == "caf?.jpg"


def test_files_become_artifacts(tracker: Tracker, study: RecordedStudy, tmp_path: Path) -> None:
    (tmp_path / "files" / "deep").mkdir(parents=True)
    (tmp_path / "files" / "deep" / "note.txt").write_text("Größe")
    tracker.log_files(study.run_id, tmp_path / "files")
    found = tracker._client.download_artifacts(study.run_id, "deep/note.txt", str(tmp_path))
    assert Path(found).read_text() == "Größe"


def test_where_files_go(tracker: Tracker, study: RecordedStudy, tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "note.txt").write_text("text")
    tracker.log_files(study.run_id, tmp_path / "files")
    folder = Path(tracker.artifact_location(study.experiment_id).removeprefix("file://"))
    assert list(folder.rglob("note.txt")) == [folder / study.run_id / "artifacts" / "note.txt"]


def test_runs_of_others_are_ignored(tracker: Tracker, study: RecordedStudy, spec: TrialSpec) -> None:
    run_id = start(tracker, study, spec)
    tracker._client.create_run(study.experiment_id, run_name="somebody's", tags={"mlflow.user": "somebody"})
    deleted = start(tracker, study, spec)
    tracker._client.delete_run(deleted)
    assert {run.run_id for run in tracker.runs(study.experiment_id)} == {study.run_id, run_id}


def test_runs_come_oldest_first_whatever_the_pages(
    tracker: Tracker, study: RecordedStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [
        tracker._client.create_run(study.experiment_id, start_time=10 - number, tags=TRIAL).info.run_id
        for number in range(5)
    ]
    search, pages = tracker._client.search_runs, []

    def two_at_a_time(*arguments: Any, **keywords: Any) -> Any:
        pages.append(search(*arguments, **{**keywords, "max_results": 2}))
        return pages[-1]

    monkeypatch.setattr(tracker._client, "search_runs", two_at_a_time)
    assert [run.run_id for run in tracker.runs(study.experiment_id)] == [*reversed(ids), study.run_id]
    assert len(pages) == 3


# ---- models


def test_a_model_is_ready_and_belongs_to_its_run(
    tracker: Tracker, study: RecordedStudy, spec: TrialSpec, tmp_path: Path
) -> None:
    run_id = start(tracker, study, spec)
    address = log_model(tracker, study, spec, run_id)
    assert address.startswith("models:/m-")
    assert recorded(tracker, study, run_id).tags["cnnstudy.model"] == address
    model = tracker._client.get_logged_model(address.removeprefix("models:/"))
    assert str(model.status) == "READY"
    assert (model.name, model.source_run_id, model.tags["who"]) == (spec.key, run_id, "me")
    assert [(m.key, m.value, m.dataset_name) for m in model.metrics] == [("best_val_accuracy", 0.75, "digits")]
    file = Path(model.artifact_location.removeprefix("file://")) / "MLmodel"
    assert file.samefile(Path("model") / "MLmodel"), "it takes no room of its own on this disk"
    (output,) = tracker._client.get_run(run_id).outputs.model_outputs
    assert output.model_id == model.model_id


def test_a_model_that_is_written_again_is_there_once(
    tracker: Tracker, study: RecordedStudy, spec: TrialSpec, tmp_path: Path
) -> None:
    run_id = start(tracker, study, spec)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "MLmodel").write_text("artifact_path: model\n")
    given = LogModel(tmp_path / "model", spec.key, {"best/val_accuracy": 0.75}, 3, spec.images)
    place = (study.experiment_id, run_id)
    made = {tracker.log_model(*place, given, Attempt(1000, "a", again)) for again in (False, True, True)}
    assert len(made) == 1
    (model,) = tracker._client.search_logged_models([study.experiment_id])
    assert [(m.key, m.timestamp) for m in model.metrics] == [("best_val_accuracy", 1000)]
    assert len(tracker._client.get_run(run_id).outputs.model_outputs) == 1
    assert tracker.log_model(*place, given, Attempt(token="b", again=True)) not in made


def test_the_champion_is_a_version_of_that_model(
    make_tracker: Callable[[str], Tracker], spec: TrialSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = make_tracker("another place than the default")
    registry = Registry(tracker)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///not-this-one.db")
    study = tracker.open_study("fake", CONFIG)
    runs = []
    for _ in range(2):
        run_id = start(tracker, study, spec)
        log_model(tracker, study, spec, run_id)
        runs.append(recorded(tracker, study, run_id))
    assert registry.register_champion("fake", runs[0], "the first") == "1"
    assert registry.register_champion("fake", runs[0], "the same again") == "1"
    assert registry.register_champion("fake", runs[1], "better") == "2"
    assert registry.register_champion("fake", runs[0], "after all") == "1"
    assert str(tracker._client.get_model_version_by_alias("fake", "champion").version) == "1"
    assert registry.register_champion("fake", runs[1], "better") == "2"
    version = tracker._client.get_model_version_by_alias("fake", "champion")
    assert (str(version.version), version.run_id, version.description) == ("2", runs[1].run_id, "better")
    assert version.source == runs[1].tags["cnnstudy.model"]
    assert tracking_uri(None) == "sqlite:///not-this-one.db"
    assert not Path("not-this-one.db").exists()


def test_a_database_that_is_a_folder_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").mkdir()
    with pytest.raises(TrackingError, match=r"mlflow\.db is a folder, not a database; move it"):
        Tracker(f"sqlite:///{tmp_path / 'mlflow.db'}")


# ---- studies


@pytest.mark.parametrize("tag", [Tag.LEVELS, Tag.SEED, Tag.NUMBER, f"{Tag.VERDICT_COUNTS}.0"])
@pytest.mark.parametrize("value", ["", "{", "x"])
def test_a_damaged_tag_of_a_trial_is_named(
    tracker: Tracker, study: RecordedStudy, spec: TrialSpec, tag: str, value: str
) -> None:
    run_id = start(tracker, study, spec)
    tracker.set_tags(run_id, {Tag.NUMBER: "0", Tag.SEED: "0", Tag.LEVELS: '{"batch_size": 16}', tag: value})
    run = recorded(tracker, study, run_id)
    with pytest.raises(TrackingError, match=rf"the tag {tag} of MLflow's run {run_id} is '{value}', which cnnstudy"):
        _ = run.number, run.seed, run.levels, run.verdict_counts


def test_a_study_with_a_damaged_configuration_leaves_others_alone(tracker: Tracker, study: RecordedStudy) -> None:
    other = tracker.open_study("other", CONFIG)
    tracker.set_tags(study.run_id, {f"{Tag.CONFIG}.0": '{"name": "f"', Tag.CALLED: "x"})
    assert {one.name: bool(one.damage) for one in tracker.studies()} == {"fake": True, "other": False}
    assert tracker.study("other") == other
    for open_again in (lambda: tracker.study("fake"), lambda: tracker.open_study("fake", CONFIG)):
        with pytest.raises(
            TrackingError, match=r"record of study 'fake' can't be read: the tag mlflow\.cnnstudy\.config\.0"
        ):
            open_again()


def test_a_study_is_made_once(tracker: Tracker, study: RecordedStudy) -> None:
    again = tracker.open_study("fake", {"other": "config"})
    assert again == study == tracker.study("fake")
    assert study.config == CONFIG
    assert study.objective == "val/accuracy"
    experiment = tracker._client.get_experiment(study.experiment_id)
    assert experiment.tags[VIEW_TAG] == layout_tag({"other": "config"})


def test_two_that_make_it_in_the_same_moment_get_one_study(tracker: Tracker) -> None:
    other, calls = Tracker(tracker.uri), []

    def first_the_other(name: str) -> None:
        if name in ("create_experiment", "create_run"):
            calls.append(name)
            made.append(other.open_study("fake", CONFIG))

    made: list[RecordedStudy] = []
    tracker._client = Before(tracker._client, first_the_other)  # type: ignore[assignment]
    study = tracker.open_study("fake", CONFIG)
    assert calls == ["create_experiment"]
    assert study == made[0]
    # and where the experiment is there already
    tracker._client.delete_run(study.run_id)
    other._client = Before(other._client, lambda name: None)  # type: ignore[assignment]
    study = tracker.open_study("fake", CONFIG)
    assert calls == ["create_experiment", "create_run"]
    assert study == made[1]
    assert [one.run_id for one in other.runs(study.experiment_id)] == [study.run_id]
    assert [one.run_id for one in other.studies()] == [study.run_id]
    (left,) = [
        run
        for run in other._client.search_runs([study.experiment_id], run_view_type=ViewType.DELETED_ONLY)
        if run.info.status == "KILLED"
    ]
    assert left.info.run_id != study.run_id


def test_a_study_that_somebody_runs_keeps_its_run(tracker: Tracker, study: RecordedStudy) -> None:
    """Whose clock is slow would else seem to have been there before."""
    tags = {"cnnstudy.kind": "study", **config_tags(CONFIG)}
    early = tracker._client.create_run(study.experiment_id, 1, tags, "study fake").info.run_id
    assert tracker.open_study("fake", CONFIG).run_id == early
    tracker.set_tags(study.run_id, {Tag.DRIVER: "somebody"})
    assert tracker.open_study("fake", CONFIG).run_id == study.run_id
    assert [one.run_id for one in tracker.studies()] == [study.run_id]


@pytest.mark.parametrize("name", ["create_experiment", "create_run"])
def test_a_lost_reply_leaves_one_study(tracker: Tracker, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    really, lost = getattr(tracker._client, name), []

    def lose(*given: Any, **named: Any) -> Any:
        answer = really(*given, **named)
        if lost:
            return answer
        lost.append(name)
        raise MlflowException("the reply was lost", TEMPORARILY_UNAVAILABLE)

    monkeypatch.setattr(tracker._client, name, lose)
    study = tracker.open_study("fake", CONFIG)
    assert lost == [name]
    assert study.config == CONFIG
    assert [one.run_id for one in tracker.runs(study.experiment_id)] == [study.run_id]


def test_starting_a_study_records_its_file_and_what_holds_now(
    tracker: Tracker, study: RecordedStudy, tmp_path: Path
) -> None:
    config = {**CONFIG, "budget": {"trials": 9}}
    tracker.start_study(study, config, tmp_path / "fake.yaml", "name: fake  # Größe\n")
    assert tracker.study("fake").config == config
    found = tracker._client.download_artifacts(study.run_id, "study/fake.yaml", str(tmp_path))
    assert Path(found).read_text(encoding="utf-8") == "name: fake  # Größe\n"
    assert tracker._client.get_run(study.run_id).info.status == "RUNNING"


@pytest.mark.parametrize("length", [4000, 5000, 8000, 30_000])
def test_a_long_configuration_comes_back_whole_and_may_get_shorter(tracker: Tracker, length: int) -> None:
    config = {**CONFIG, "start_with": "ö" * 500 + "x" * (length - len(json.dumps({**CONFIG, "start_with": "ö" * 500})))}
    assert len(json.dumps(config)) == length
    study = tracker.open_study("long", config)
    assert tracker.open_study("long", {}).config == config
    tracker.start_study(study, CONFIG, Path("long.yaml"), "")
    assert tracker.study("long").config == CONFIG


def test_without_a_name_the_study_that_was_run_last(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 2_000_000_000.0
    monkeypatch.setattr("cnnstudy.tracking.client.current_time", lambda: int(now * 1000))
    for name in ("first", "second", "third", "first"):
        now += 1
        tracker.start_study(tracker.open_study(name, CONFIG), CONFIG, Path("study.yaml"), "")
    assert tracker.study(None).name == "first"
    assert [study.name for study in tracker.studies()] == ["first", "third", "second"]


def test_a_study_that_ended_before_its_first_trial_is_not_the_latest(
    tracker: Tracker, study: RecordedStudy, spec: TrialSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    Recorder(tracker, study).start(spec)
    tracker.end_run(study.run_id, "finished")
    later = tracker.open_study("refused", CONFIG)
    monkeypatch.setattr("cnnstudy.tracking.client.current_time", lambda: 4_000_000_000_000)
    tracker.start_study(later, CONFIG, Path("study.yaml"), "")
    assert tracker.study(None).name == "refused"  # its driver runs
    tracker.end_run(later.run_id, "failed", {Tag.MESSAGE: "no images"})
    assert tracker.studies()[0].name == "refused"
    assert tracker.study(None).name == study.name
    assert tracker.study("refused").name == "refused"


def test_a_store_that_is_not_there_is_not_created(own_places: Path) -> None:
    database, folder = f"{own_places}/gone.db", f"file://{own_places}/gone"
    named = {"sqlite:///gone.db": database, f"sqlite:///{database}": database, "gone": "gone", folder: folder}
    for uri, place in named.items():
        assert find_tracker(uri) is None
        with pytest.raises(UnknownNameError, match=f"no study in {re.escape(place)} yet"):
            existing_tracker(uri)
    assert list(own_places.iterdir()) == []


def test_an_unknown_study_is_answered_with_a_near_one(tracker: Tracker, study: RecordedStudy) -> None:
    with pytest.raises(UnknownNameError, match=r"no study 'fakes'.*did you mean 'fake'\?.*Available studies: fake"):
        tracker.study("fakes")


def test_no_study_at_all(tracker: Tracker) -> None:
    tracker._client.create_experiment("somebody's")
    for name in (None, "fake"):
        with pytest.raises(UnknownNameError, match=r"no study in .*mlflow\.db yet.*run-study"):
            tracker.study(name)


def test_a_deleted_experiment_is_not_written_to(tracker: Tracker, study: RecordedStudy) -> None:
    tracker._client.delete_experiment(study.experiment_id)
    with pytest.raises(TrackingError, match=r"'fake' was deleted in MLflow\. Restore it: `mlflow exp"):
        tracker.open_study("fake", CONFIG)


def test_an_experiment_of_that_name_becomes_the_study(tracker: Tracker) -> None:
    theirs = tracker._client.create_experiment("fake")
    tracker._client.create_run(theirs, run_name="somebody's")
    study = tracker.open_study("fake", CONFIG)
    assert study.experiment_id == theirs
    assert [run.kind for run in tracker.runs(theirs)] == ["study"]


# ---- errors and addresses


def test_the_address_comes_from_option_then_environment_then_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://there")
    assert tracking_uri("http://here") == "http://here"
    assert tracking_uri(None) == "http://there"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    assert tracking_uri(None) == DEFAULT_URI


@pytest.mark.parametrize(
    "uri", ["http://bob:pass@host:5000", "postgresql://bob:p@ss@host/db", "mysql://bob:pa/ss@host/db", "http://pass@h"]
)
def test_secrets_are_hidden(uri: str) -> None:
    shown = without_secrets(f"can't reach {uri}: timeout of user@host")
    assert "bob" not in shown
    assert "ss@" not in shown
    assert shown.startswith(f"can't reach {uri.split('//')[0]}//***@h")
    assert shown.endswith(": timeout of user@host")


@pytest.mark.parametrize(
    "uri",
    ["http://bob:geheim@127.0.0.1:9", "unheard-of://bob:geheim@host", "postgresql+unheard_of://bob:geheim@host/db"],
)
def test_what_mlflow_cannot_reach_is_one_error_without_secrets(
    own_places: Path, monkeypatch: pytest.MonkeyPatch, uri: str
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(TrackingError) as caught:
        Tracker(uri).studies()
    assert "geheim" not in str(caught.value)
    assert f"MLflow at {uri.split('//')[0]}//***@" in str(caught.value)


def test_a_database_that_is_none_is_a_tracking_error(own_places: Path) -> None:
    Path("broken.db").write_text("this is no database, whatever its name says" * 50)
    with pytest.raises(TrackingError, match="file is not a database"):
        Tracker("sqlite:///broken.db").studies()


def test_a_run_that_is_gone_is_a_tracking_error(tracker: Tracker) -> None:
    with pytest.raises(TrackingError, match="0000"):
        tracker.log_metrics("0" * 32, {"val/accuracy": 1.0}, 1)


def test_our_own_errors_pass_as_they_are(tracker: Tracker, study: RecordedStudy, spec: TrialSpec) -> None:
    strange = dataclasses.replace(spec.images, train=None)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        tracker.start_run(study.experiment_id, StartRun("a trial", TRIAL, {}, strange))
