"""Copies among a study's images: what is recorded about them, and studies from before they were looked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from fake_executor import FakeExecutor, Work
from pictures import leave_out_pictures

from cnnstudy.config.load import load_study
from cnnstudy.config.schema import StudyConfig
from cnnstudy.execution import Done, Job, Workers
from cnnstudy.names import Tag
from cnnstudy.records import PreparedImages
from cnnstudy.study.resume import keep_recorded_copies, recorded_config
from cnnstudy.study.run import run_study
from cnnstudy.system.display import PlainDisplay
from cnnstudy.tracking.client import Tracker
from cnnstudy.tracking.recorded import RecordedStudy, config_differences, config_tags, read_config

FILE = """
name: fake
data: {name: folder, path: photos, classes: [cat, dog]}
image_size: 64
architectures: [alexnet]
factors: {transfer: frozen}
weights: {default: {source: pretrain, epochs: 1, data: {name: folder, path: others, classes: [owl, fox]}}}
training: {epochs: 1}
strategy: {sampler: random}
budget: {trials: 1}
"""


@pytest.fixture
def folder(own_places: Path) -> Path:
    for name in ("photos", "others"):
        (own_places / name).mkdir()
    return own_places


def load(folder: Path, text: str = FILE) -> StudyConfig:
    (folder / "fake.yaml").write_text(text, encoding="utf-8")
    return load_study(str(folder / "fake.yaml")).config


def recorded_as(config: dict[str, object]) -> RecordedStudy:
    return RecordedStudy("fake", "", "", read_config(config_tags(config)))


def test_a_study_from_before_ignores_them(folder: Path) -> None:
    config = load(folder)
    assert config.data.copies == "together"
    earlier = config.model_dump(mode="json")
    for data in (earlier["data"], earlier["weights"]["default"]["data"]):
        del data["copies"], data["groups"]
    study = recorded_as(earlier)
    for kept in (keep_recorded_copies(config, study), recorded_config(study)):
        assert kept.data.copies == "ignore"
        pretraining = kept.weights["default"].data
        assert pretraining is not None
        assert pretraining.copies == "ignore"
        assert list(config_differences(study.config, kept.model_dump(mode="json"))) == []


def test_what_the_file_names_is_a_change(folder: Path) -> None:
    config = load(folder)
    study = recorded_as({**config.model_dump(mode="json"), "data": {"name": "folder", "path": "photos"}})
    named = load(folder, FILE.replace("[cat, dog]}", "[cat, dog], copies: together}"))
    assert keep_recorded_copies(named, study).data.copies == "together"


def test_a_new_study_and_other_data_have_the_default(folder: Path) -> None:
    config = load(folder)
    assert keep_recorded_copies(config, RecordedStudy("fake", "", "", {})) == config
    other = recorded_as({**config.model_dump(mode="json"), "data": {"name": "digits"}})
    assert keep_recorded_copies(config, other).data.copies == "together"


class Engine(FakeExecutor):
    """Its images have copies."""

    def _prepare(self, job: Job) -> Work:
        for event in super()._prepare(job):
            if isinstance(event, Done):
                found = [PreparedImages.from_json(one) for one in event.result]
                event = replace(
                    event, result=[replace(one, notes=("copies", "shares"), conflicts=3).to_json() for one in found]
                )
            yield event


def test_they_are_said_and_recorded(folder: Path, tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    leave_out_pictures(monkeypatch)
    lines = [line for line in FILE.splitlines() if not line.startswith(("factors", "weights"))]
    load(folder, "\n".join(lines))
    said: list[str] = []
    run_study(load_study(str(folder / "fake.yaml")), tracker, Workers(Engine), PlainDisplay(said.append))
    assert {"folder: copies", "folder: shares"} <= set(said)
    tags = tracker.tags(tracker.study("fake").run_id)
    assert (tags[Tag.COPIES], tags[Tag.CONFLICTS]) == ("copies. shares", "3")
