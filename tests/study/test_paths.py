"""Paths in study files: relative to the file's folder, and recorded so that every later command finds them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from fake_executor import FakeExecutor
from odd_photos import write_photos
from pictures import leave_out_pictures
from typer.testing import CliRunner

from cnnstudy.cli import app
from cnnstudy.config.load import load_study
from cnnstudy.errors import ConfigError, StudyChangedError
from cnnstudy.execution import Workers
from cnnstudy.study.reproduce import reproduce_trial
from cnnstudy.study.resume import run_command
from cnnstudy.study.run import Outcome, confirm_study, run_study
from cnnstudy.system.cache import entry_folders
from cnnstudy.system.display import SilentDisplay
from cnnstudy.tracking.client import Tracker
from cnnstudy.tracking.recorded import config_tags
from cnnstudy.tracking.registry import Registry

FILE = """
name: fake
data: {name: folder, path: photos, classes: [a, b]}
image_size: 64
architectures: [alexnet, vgg16]
factors: {batch_size: [8, 16], transfer: frozen}
weights:
  alexnet: {source: file, file: weights.npz}
  vgg16: {source: pretrain, epochs: 1, data: {name: folder, path: ./others, classes: [a, b]}}
training: {epochs: 1}
strategy: {sampler: grid}
budget: {trials: 2}
"""


@pytest.fixture
def project(own_places: Path) -> Path:
    """A folder within the working folder: a study, and everything that it names."""
    folder = own_places / "project"
    write_photos(folder / "photos", {"a": 4, "b": 4})
    write_photos(folder / "others", {"a": 4, "b": 4})
    (folder / "weights.npz").write_bytes(b"PK")
    (folder / "labels.csv").write_text("file,kind\nphotos/a/0.jpg,a\nphotos/b/0.jpg,b\n")
    (folder / "fake.yaml").write_text(FILE)
    return folder


def paths(file: Path, *overrides: str) -> list[Path]:
    config = load_study(str(file), overrides).config
    alexnet, vgg16 = config.weights["alexnet"], config.weights["vgg16"]
    assert alexnet.file is not None
    return [config.data.path, alexnet.file, vgg16.data.path]  # type: ignore[attr-defined,union-attr]


def test_they_lead_to_the_same_place_from_every_folder(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [project / "photos", project / "weights.npz", project / "others"]
    for folder in (project.parent, project, project / "photos", Path("/")):
        monkeypatch.chdir(folder)
        assert paths(project / "fake.yaml") == expected
        table = load_study(str(project / "fake.yaml"), ["data={name: digits}", "weights.vgg16.data.path=/"]).config
        assert table.data.name == "digits"
    monkeypatch.chdir(project.parent)
    text = FILE.replace("folder, path: photos, classes: [a, b]", "table, path: labels.csv, image: file, label: kind")
    (project / "table.yaml").write_text(text)
    assert paths(project / "table.yaml")[0] == project / "labels.csv"


def test_on_the_command_line_they_start_from_the_working_folder(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_photos(project / "more", {"a": 4, "b": 4})
    (project.parent / "w.npz").write_bytes(b"PK")
    given = ("data.path=project/more", "weights.alexnet={source: file, file: w.npz}", "training.epochs=1")
    study = load_study("project/fake.yaml", given)
    assert paths(project / "fake.yaml", *given)[:2] == [project / "more", project.parent / "w.npz"]
    monkeypatch.chdir("/")
    again = load_study(str(project / "fake.yaml"), study.overrides)
    assert again.config == study.config, "the recorded command resumes it from every folder"
    monkeypatch.chdir(project.parent)
    assert str(project / "more") in run_command(study)["cnnstudy.run_command"]
    assert study.overrides[-1] == given[-1]


def test_home_and_absolute_paths_stay(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(project))
    text = FILE.replace("path: photos", "path: ~/photos").replace("file: weights", f"file: {project}/weights")
    (project.parent / "elsewhere.yaml").write_text(text.replace("./others", "~/others"))
    assert paths(project.parent / "elsewhere.yaml") == [
        project / "photos",
        project / "weights.npz",
        project / "others",
    ]


def test_the_way_from_the_working_folder_is_told(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That is what such a path meant in earlier versions."""
    (project / "studies").mkdir()
    (project / "studies" / "fake.yaml").write_text(FILE)
    monkeypatch.chdir(project)
    with pytest.raises(ConfigError) as caught:
        load_study("studies/fake.yaml")
    lines = str(caught.value).splitlines()
    assert [line.rpartition("working folder write ")[2] for line in lines] == [
        '"../photos".',
        '"../weights.npz".',
        '"../others".',
    ]
    assert f"line 3, data.path: there is no {project}/studies/photos; give a folder" in lines[0]
    with pytest.raises(ConfigError, match=r"^--set data.path: there is no .*/nowhere; give a folder .* that exists.$"):
        load_study("fake.yaml", ["data.path=nowhere"])


def test_data_looks_where_the_study_does(project: Path) -> None:
    done = CliRunner().invoke(app, ["data", "project/fake.yaml", "--json"], catch_exceptions=False)
    assert json.loads(done.stdout)["images"] == 8


# ---- studies that are recorded


class Desk:
    def __init__(self, project: Path, tracker: Tracker) -> None:
        self.project, self.tracker = project, tracker

    def workers(self) -> Workers:
        return Workers(FakeExecutor)

    def run(self, *overrides: str) -> Outcome:
        study = load_study(str(self.project / "fake.yaml"), overrides)
        return run_study(study, self.tracker, self.workers(), SilentDisplay())

    def confirm(self) -> Outcome:
        return confirm_study("fake", {"top": 1, "seeds": 2}, self.tracker, self.workers(), SilentDisplay(), False)

    def reproduce(self) -> int:
        return reproduce_trial("fake/alexnet-000", Registry(self.tracker), self.workers(), SilentDisplay()).compared


@pytest.fixture
def desk(project: Path, tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> Desk:
    leave_out_pictures(monkeypatch)
    return Desk(project, tracker)


def test_a_study_of_an_earlier_version_goes_on(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its record has the paths as they were in the file."""
    desk.run()
    config = desk.tracker.study("fake").config
    config["data"]["path"], config["weights"]["alexnet"]["file"] = "photos", "weights.npz"
    config["weights"]["vgg16"]["data"]["path"] = "others"
    desk.tracker.set_tags(desk.tracker.study("fake").run_id, config_tags(config))
    monkeypatch.chdir(desk.project)
    assert desk.reproduce() > 10
    assert desk.run("budget.trials=4").finished == 4
    assert desk.tracker.study("fake").config["data"]["path"] == str(desk.project / "photos")


def test_what_has_moved_is_named_with_what_to_do(desk: Desk) -> None:
    desk.run()
    desk.project.rename(desk.project.with_name("moved"))
    for command in (desk.confirm, desk.reproduce):
        with pytest.raises(StudyChangedError) as caught:
            command()
        first, *listed, advice = str(caught.value).splitlines()
        assert first == "what study 'fake' was run with is no longer in its place:"
        assert [line.split(";")[0] for line in listed] == [
            f"  data.path: there is no {desk.project}/photos",
            f"  weights.alexnet.file: there is no file {desk.project}/weights.npz",
            f"  weights.vgg16.data.path: there is no {desk.project}/others",
        ]
        assert "write the present place into the study file and give it to `run-study` once" in advice
    desk.project = desk.project.with_name("moved")
    assert desk.run().finished == 2
    assert desk.reproduce() > 10
    assert desk.confirm().confirmed is not None


def test_a_network_of_ones_own_is_kept_in_the_cache(desk: Desk) -> None:
    """Later commands find it there; without it they say what to do; an edited file is another network."""
    file = desk.project / "net.py"
    text = "import keras\n\ndef build(image_size):\n    return keras.Sequential([keras.layers.Conv2D(4, 3)])\n"
    file.write_text(text)
    given = [f"architectures=[file:{file}]", "training.epochs=3", "factors={}", "weights={}", "strategy={}"]
    assert desk.run(*given).finished == 2
    file.write_text(text.replace("4", "8"))
    with pytest.raises(StudyChangedError, match=r"architectures: .*file:net.py:build@\w+.* -> .*file:net.py:build@"):
        desk.run(*given)
    file.unlink()
    assert desk.confirm().confirmed is not None
    for entry in entry_folders("networks"):
        shutil.rmtree(entry)
    with pytest.raises(StudyChangedError) as caught:
        desk.confirm()
    first, listed, advice = str(caught.value).splitlines()
    assert first == "what study 'fake' was run with is no longer in its place:"
    assert listed.startswith(
        "  architectures.0: the network net.py:build is no longer in the cache; give its study file"
    )
    assert "give it to `run-study` once" in advice
    file.write_text(text)
    assert desk.run(*given).finished == 2
    assert desk.confirm().confirmed is not None


def test_settings_of_another_version_are_told_in_words(desk: Desk) -> None:
    desk.run()
    config = {**desk.tracker.study("fake").config, "tempo": 3, "image_size": "large"}
    desk.tracker.set_tags(desk.tracker.study("fake").run_id, config_tags(config))
    with pytest.raises(StudyChangedError) as caught:
        desk.confirm()
    text = str(caught.value)
    assert text.startswith("study 'fake' was recorded by another version of cnnstudy; this one can't use its settings:")
    assert "  tempo: unknown key" in text
    assert "  image_size: must be a whole number" in text
    assert "pydantic" not in text
