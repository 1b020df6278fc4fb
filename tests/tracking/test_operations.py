"""What an earlier version left on disk for MLflow still arrives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cnnstudy.errors import TrackingError
from cnnstudy.names import Tag
from cnnstudy.records import PreparedImages
from cnnstudy.tracking import operations, spool
from cnnstudy.tracking.client import Tracker
from cnnstudy.tracking.operations import EndRun, LogFiles, LogModel
from cnnstudy.tracking.outbox import Outbox
from cnnstudy.tracking.spool import Spool

RUN, MODEL = "token-2cd7c6e5f31840e58d80c7ee66206465", "2ac348c3e8ca46589793578631c6b70c"
IMAGES = (
    '{"name": "digits", "folder": "/cache/images/1", "digest": '
    '"dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd", "size": 64, "classes": ["cat", "dog"], '
    '"train": [6, 6], "validation": [4, 4], "test": [2, 2], "skipped": [], "warnings": []}'
)
#: As version 0.1.0 wrote them in November 2026, but for FOLDER and RUN, which stand for what varies.
RECORDS = (
    '{"what": "start_run", "at": 1000, "run": "RUN", "arguments": {"name": "alexnet-000 scratch", "tags": '
    '{"cnnstudy.kind": "trial", "cnnstudy.state": "running", "cnnstudy.trial": "alexnet-000"}, "parameters": '
    '{"batch_size": "16", "patience": "None"}, "images": IMAGES}, "token": "RUN", "files": null, "number": 1}',
    '{"what": "log_metrics", "at": 1001, "run": "RUN", "arguments": {"metrics": {"val/accuracy": 0.30000000000000004, '
    '"val/loss": Infinity}, "step": 1}, "token": "", "files": null, "number": 2}',
    '{"what": "log_files", "at": 1002, "run": "RUN", "arguments": {}, "token": "", "files": "FOLDER/00000003", '
    '"number": 3}',
    '{"what": "log_model", "at": 1003, "run": "RUN", "arguments": {"name": "alexnet-000", "metrics": '
    '{"best/val_accuracy": 0.5}, "step": 1, "images": IMAGES, "tags": {"cnnstudy.study": "old"}}, "token": "MODEL", '
    '"files": "FOLDER/00000004", "number": 4}',
    '{"what": "set_tags", "at": 1004, "run": "RUN", "arguments": {"tags": {"cnnstudy.note": "gr\\u00f6\\u00dfer"}}, '
    '"token": "", "files": null, "number": 5}',
    '{"what": "end_run", "at": 1005, "run": "RUN", "arguments": {"state": "finished", "tags": {"cnnstudy.ended_by": '
    '"epochs"}}, "token": "", "files": null, "number": 6}',
)
FILES = {"00000003/note.txt": "a note", "00000004/MLmodel": "artifact_path: model\n"}


def text_of(record: str, folder: Path) -> str:
    given = {"IMAGES": IMAGES, "RUN": RUN, "MODEL": MODEL, "FOLDER": str(folder)}
    for name, value in given.items():
        record = record.replace(name, value)
    return record


@pytest.fixture
def left(own_places: Path, tracker: Tracker) -> Path:
    """The folder that an earlier version left of study "old"."""
    folder = Spool("old", tracker.uri).folder
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text(content, encoding="utf-8")
    for number, record in enumerate(RECORDS, 1):
        (folder / f"{number:08d}.json").write_text(text_of(record, folder), encoding="utf-8")
    (folder / "about.json").write_text(json.dumps({"study": "old", "tracking": tracker.uri}), encoding="utf-8")
    return folder


def test_the_folder_of_a_study_is_where_it_was(own_places: Path) -> None:
    assert Spool("old", "postgresql://host/db").folder.name == "c78ba62830c1a4aecb76099e"


def test_what_an_earlier_version_left_arrives_whole(left: Path, tracker: Tracker) -> None:
    study = tracker.open_study("old", {"objective": {"metric": "val/accuracy"}})
    said: list[str] = []
    outbox = Outbox(tracker, study, said.append)
    outbox.delivery.send_stored()
    outbox.close()
    assert said == [
        f"sending 6 records that an earlier run stored for MLflow in {left}",
        "all of them were sent",
    ]
    assert not left.exists()
    (run,) = [run for run in tracker.runs(study.experiment_id) if run.kind == "trial"]
    assert (run.name, run.state, run.started, run.ended) == ("alexnet-000 scratch", "finished", 1000, 1005)
    assert run.parameters == {"batch_size": "16", "patience": "None"}
    assert tracker.metric_history(run.run_id, "val/accuracy") == {1: 0.1 + 0.2}
    assert run.metrics["best/val_accuracy"] == 0.5
    assert (run.tags["cnnstudy.note"], run.tags["cnnstudy.ended_by"], run.tags[Tag.TOKEN]) == ("größer", "epochs", RUN)
    assert tracker.read_text(run.run_id, "note.txt") == "a note"
    model = tracker.client.get_logged_model(run.tags["cnnstudy.model"].removeprefix("models:/"))
    assert (model.name, model.tags[Tag.TOKEN], str(model.status)) == ("alexnet-000", MODEL, "READY")
    (given,) = tracker.client.get_run(run.run_id).inputs.dataset_inputs
    assert given.dataset.name == "digits"


def test_this_version_writes_what_an_earlier_one_reads(left: Path) -> None:
    for number, record in enumerate(RECORDS, 1):
        old = json.loads(text_of(record, left))
        files = Path(old["files"]) if old["files"] else None
        name, arguments = operations.to_json(operations.from_json(old["what"], old["arguments"], files))
        assert (name, json.loads(json.dumps(arguments))) == (old["what"], old["arguments"]), number


def test_operations_that_bring_files_keep_their_folder() -> None:
    images = PreparedImages.from_json(json.loads(IMAGES))
    end = EndRun("finished", {"cnnstudy.ended_by": "epochs"}, {"final/val_loss": 0.2}, 3)
    for operation in (
        LogFiles(Path("a")),
        LogModel(Path("a"), "a model", {"best/val_loss": 0.1}, 3, images),
        LogModel(Path("a"), "a model", {"best/val_loss": 0.1}, 3, images, end=end),
    ):
        assert operations.from_json(*operations.to_json(operation), Path("a")) == operation


@pytest.mark.parametrize(
    ("what", "arguments"), [("log_colour", {}), ("log_metrics", {"colour": 1}), ("start_run", {"images": 3})]
)
def test_a_record_of_another_version_is_kept_and_named(
    own_places: Path, tracker: Tracker, what: str, arguments: dict[str, Any]
) -> None:
    study = tracker.open_study("old", {"objective": {"metric": "val/accuracy"}})
    folder = Spool("old", tracker.uri)
    folder.add(spool.Envelope(what, 1, "run", arguments))
    outbox = Outbox(tracker, study)
    with pytest.raises(
        TrackingError, match=rf"can't read a record of '{what}' .* another version stored it.*1 record is stored in"
    ):
        outbox.delivery.send_stored()
    assert [one.what for one in folder.load()] == [what]
