"""The gallery of a recorded trial, and the reason if there is none."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import colours
import pytest
from fake_executor import FakeExecutor
from PIL import Image
from trained_study import NAME, Trained

from cnnstudy.execution import Failed
from cnnstudy.records import TrialResult, TrialSpec
from cnnstudy.results.mistakes import explain_trial_mistakes
from cnnstudy.study.recorder import Recorder
from cnnstudy.system.display import SilentDisplay
from cnnstudy.tracking.client import Tracker
from cnnstudy.tracking.recorded import RecordedRun
from cnnstudy.tracking.registry import Registry
from cnnstudy.training import model_package

RED = colours.keys_in("validation", "red")
WRONG = {RED[0]: ("green", 200), RED[1]: ("blue", 150)}
Gallery = dict[str, Any] | str


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "model"
    model_package.save_model(colours.classifier(), folder, colours.CLASSES)
    return folder


@pytest.fixture
def given(spec: TrialSpec, own_places: Path) -> TrialSpec:
    """A trial on images with two mistakes."""
    images = colours.prepared(own_places / "photos", WRONG, {})
    levels = {**spec.levels, "shuffled_labels": 0.0}
    return dataclasses.replace(spec, images=images, split=colours.SPLIT, levels=levels)


def recorded(tracker: Tracker, spec: TrialSpec, files: Mapping[str, str]) -> RecordedRun:
    """A finished trial of study `fake` with these files."""
    recorder = Recorder(tracker, tracker.open_study("fake", {"objective": {"metric": "val/accuracy"}}))
    metrics = {f"{part}/{name}": 0.5 for part in ("train", "val", "gap") for name in ("accuracy", "loss")}
    result = TrialResult(
        state="finished",
        best_epoch=1,
        epochs=1,
        seconds=1.0,
        summary=metrics,
        confusion=((4, 0, 0), (0, 4, 0), (1, 1, 2)),
        trainable_parameters=10,
        frozen_parameters=0,
        frozen_digest=None,
        files=dict(files),
    )
    recording = recorder.start(spec)
    recorder.finish(recording, result)
    return run_of(tracker, recording.run_id)


def run_of(tracker: Tracker, run_id: str) -> RecordedRun:
    (run,) = [run for run in tracker.runs(tracker.study("fake").experiment_id) if run.run_id == run_id]
    return run


Show = Callable[[RecordedRun], Gallery]


@pytest.fixture
def show(tracker: Tracker, trained: Trained, own_places: Path) -> Show:
    """show(run): its gallery, with a worker that has TensorFlow started."""
    registry = Registry(tracker)
    return lambda run: explain_trial_mistakes(
        registry, registry.tracker.study("fake"), run, trained.executor, SilentDisplay(), own_places / "gallery"
    )


# ---- shown


def test_the_mistakes_of_a_recorded_trial(tracker: Tracker, given: TrialSpec, model: Path, show: Show) -> None:
    found = show(recorded(tracker, given, {"model": str(model)}))
    assert not isinstance(found, str), found
    assert (found["wrong"], found["validation"]) == (2, 12)
    assert [(entry["key"], entry["true"], entry["predicted"]) for entry in found["entries"]] == [
        (RED[0], "red", "green"),
        (RED[1], "red", "blue"),
    ]
    for entry in found["entries"]:
        paths = [entry["image"], entry["cam_predicted"], entry["cam_true"]]
        paths += [neighbour["image"] for neighbour in entry["neighbours"]]
        assert len(paths) == 6
        for path in map(Path, paths):
            assert path.is_absolute()
            with Image.open(path) as picture:
                assert picture.format == "PNG"


def test_a_study_that_was_really_run(trained: Trained, tmp_path: Path) -> None:
    registry = Registry(Tracker(trained.uri))
    found = explain_trial_mistakes(
        registry, registry.tracker.study(NAME), trained.run, trained.executor, SilentDisplay(), tmp_path, count=2
    )
    accuracy = trained.run.metrics["best/val_accuracy"]
    if accuracy == 1:
        assert (
            found
            == f"{NAME}/alexnet-000 classifies all of its 9 validation images correctly: there is no mistake to show."
        )
    else:
        assert not isinstance(found, str), found
        assert 1 - found["wrong"] / found["validation"] == pytest.approx(accuracy)
        assert len(found["entries"]) == min(2, found["wrong"])


# ---- not shown


def test_no_mistakes(tracker: Tracker, given: TrialSpec, model: Path, show: Show, own_places: Path) -> None:
    right = dataclasses.replace(given, images=colours.prepared(own_places / "right", {}, {}))
    reason = show(recorded(tracker, right, {"model": str(model)}))
    assert (
        reason == "fake/alexnet-007 classifies all of its 12 validation images correctly: there is no mistake to show."
    )
    assert not (own_places / "gallery").exists()


def test_no_model_was_kept(tracker: Tracker, given: TrialSpec, show: Show) -> None:
    reason = show(recorded(tracker, given, {}))
    assert reason == (
        "fake/alexnet-007 has no model; finished trials keep theirs unless the study file says `keep_models: false`."
    )


def test_the_models_files_are_gone(tracker: Tracker, given: TrialSpec, model: Path, show: Show) -> None:
    run = recorded(tracker, given, {"model": str(model)})
    model_id = run.tags["cnnstudy.model"].removeprefix("models:/")
    place = Path(tracker._client.get_logged_model(model_id).artifact_location)
    (place / "data" / "model.keras").unlink()  # not to write into `model`, which it is a link to
    (place / "data" / "model.keras").write_text("no model")
    assert "model.keras does not match the recorded model of" in str(show(run))
    (place / "data" / "model.keras").unlink()
    assert str(show(run)).startswith("the model of fake/alexnet-007 is gone: there is no model.keras in ")
    shutil.rmtree(place)
    assert str(show(run)).startswith(f"can't get the files of models:/{model_id} from ")
    tracker._client.delete_logged_model(model_id)
    assert str(show(run)).startswith(f"there is no model models:/{model_id}")


def test_the_images_left_the_cache(tracker: Tracker, given: TrialSpec, model: Path, show: Show) -> None:
    run = recorded(tracker, given, {"model": str(model)})
    (Path(given.images.folder) / "images.npy").unlink()
    reason = str(show(run))
    assert reason.startswith(f"the decoded images that fake/alexnet-007 saw are not in {given.images.folder} (removed,")
    assert reason.endswith("to decode them again, run one more trial of the study, with a larger budget or more seeds.")


def test_the_model_is_of_another_trial(tracker: Tracker, given: TrialSpec, model: Path, show: Show) -> None:
    other = dataclasses.replace(given, images=dataclasses.replace(given.images, classes=given.images.classes[:2]))
    run = recorded(tracker, given, {"model": str(model)})
    tracker._client.log_text(run.run_id, json.dumps(other.to_json()), "trial.json")
    assert "takes images of 16 pixels and has 3 classes, but fake/alexnet-007 has" in str(show(run))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda asked: "no JSON", "has no readable trial.json"),
        (lambda asked: json.dumps([asked]), "is from another version of cnnstudy"),
        (lambda asked: json.dumps({**asked, "colour_space": "RGB"}), "is from another version of cnnstudy"),
        (lambda asked: json.dumps({**asked, "images": None}), "is from another version of cnnstudy"),
        (lambda asked: json.dumps({**asked, "levels": {"data_fraction": 1.0}}), "is from another version of cnnstudy"),
        (lambda asked: json.dumps({**asked, "levels": None}), "is from another version of cnnstudy"),
    ],
    ids=["no JSON", "a list", "an unknown key", "no images", "an older one", "no levels"],
)
def test_what_the_trial_was_asked_can_not_be_read(
    tracker: Tracker,
    given: TrialSpec,
    model: Path,
    show: Show,
    change: Callable[[dict[str, Any]], str],
    words: str,
) -> None:
    run = recorded(tracker, given, {"model": str(model)})
    tracker._client.log_text(run.run_id, change(given.to_json()), "trial.json")
    assert words in str(show(run))


def test_nobody_knows_what_the_trial_was_asked(tracker: Tracker, given: TrialSpec, model: Path, show: Show) -> None:
    run = recorded(tracker, given, {"model": str(model)})
    folder = Path(tracker._client.get_run(run.run_id).info.artifact_uri.removeprefix("file://"))
    (folder / "trial.json").unlink()
    assert str(show(run)).startswith("fake/alexnet-007 has no readable trial.json")


def test_a_worker_that_dies_is_a_reason(tracker: Tracker, given: TrialSpec, model: Path, own_places: Path) -> None:
    run = recorded(tracker, given, {"model": str(model)})
    key = f"gallery-{given.key}"
    failed = Failed(key, "oom", "the worker process was killed by signal 9", "its last words")
    registry = Registry(tracker)
    executor = FakeExecutor(own_places, failures={key: failed})
    reason = explain_trial_mistakes(
        registry, registry.tracker.study("fake"), run, executor, SilentDisplay(), own_places / "gallery"
    )
    assert reason == ("looking for the mistakes of fake/alexnet-007 failed: the worker process was killed by signal 9")
