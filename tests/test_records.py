from __future__ import annotations

import dataclasses
import json

import pytest

from cnnstudy.names import best_name
from cnnstudy.records import (
    FAILURE_REASONS,
    BadImage,
    EpochRecord,
    Optimizer,
    PreparedImages,
    Record,
    Rule,
    Split,
    TrialResult,
    TrialSpec,
    plain_name,
)
from cnnstudy.tracking.recorded import RecordedRun, RecordedStudy

IMAGES = PreparedImages(
    name="digits",
    folder="/cache/images/0",
    digest="0" * 64,
    size=32,
    classes=("zero", "eins"),
    train=(3, 4),
    validation=(1, 1),
    test=(1, 1),
    skipped=(BadImage("a.jpg", "truncated"),),
)
SPEC = TrialSpec(
    study="tiny",
    purpose="trial",
    architecture="vgg16",
    number=7,
    seed=3,
    levels={"batch_size": 8, "dropout": 0.1 + 0.2, "transfer": "scratch"},
    images=IMAGES,
    split=Split(0.15, 0.15, 0),
    epochs=3,
    head_epochs=1,
    patience=None,
    rule=Rule("val/loss", 0.1),
    optimizer=Optimizer("adam"),
    weights_source="none",
    weights_file=None,
)
RESULT = TrialResult(
    state="finished",
    best_epoch=2,
    epochs=3,
    seconds=1.5,
    summary={"val/loss": 1e-300},
    confusion=((1, 0), (0, 1)),
    trainable_parameters=10,
    frozen_parameters=0,
    frozen_digest=None,
    files={"model": "m"},
)
RECORDS: list[Record] = [IMAGES, SPEC, RESULT, EpochRecord(1, {"val/loss": 0.1}), Split(0.1, 0.2, 3), Optimizer("sgd")]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_a_record_survives_json(record: Record) -> None:
    text = json.dumps(record.to_json(), allow_nan=False)
    again = type(record).from_json(json.loads(text))
    assert json.dumps(again.to_json()) == text
    assert type(again) is type(record)


def test_nested_records_and_tuples_come_back_as_they_were() -> None:
    again = TrialSpec.from_json(json.loads(json.dumps(SPEC.to_json())))
    assert again == SPEC
    assert (type(again.images), type(again.split), type(again.optimizer)) == (PreparedImages, Split, Optimizer)
    assert isinstance(again.images.train, tuple)


def test_the_confusion_matrix_keeps_its_counts() -> None:
    again = TrialResult.from_json(json.loads(json.dumps(RESULT.to_json())))
    assert [list(row) for row in again.confusion] == [[1, 0], [0, 1]]


def test_a_result_from_before_the_probes_confusion_was_counted_still_loads() -> None:
    data = RESULT.to_json()
    del data["train_confusion"]
    assert TrialResult.from_json(data).train_confusion == ()


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_a_key_of_another_version_is_an_error(record: Record) -> None:
    with pytest.raises(TypeError, match="colour"):
        type(record).from_json({**record.to_json(), "colour": "red"})


def test_a_missing_key_is_an_error() -> None:
    data = SPEC.to_json()
    del data["seed"]
    with pytest.raises(TypeError, match="seed"):
        TrialSpec.from_json(data)


def test_keys_of_trials_are_unique() -> None:
    assert SPEC.key == "vgg16-007"
    assert dataclasses.replace(SPEC, number=1234).key == "vgg16-1234"
    assert dataclasses.replace(SPEC, purpose="pretrain", block=None).key == "pretrain-vgg16"
    assert dataclasses.replace(SPEC, purpose="pretrain", block=2).key == f"pretrain-vgg16-seed-{SPEC.seed}"


@pytest.mark.parametrize(
    ("state", "reason", "done"),
    [
        ("finished", "", True),
        ("pruned", "", True),
        ("running", "", False),
        *(("failed", reason, reason != "interrupted") for reason in FAILURE_REASONS),
    ],
)
def test_only_an_interrupted_or_running_trial_is_not_done(state: str, reason: str, done: bool) -> None:
    run = RecordedRun("id", "name", "trial", state, reason, 0, {}, {}, {})
    assert run.done is done


def test_names_of_metrics() -> None:
    assert best_name("val/loss") == "best/val_loss"
    study = RecordedStudy("tiny", "1", "id", {"objective": {"metric": "val/accuracy"}})
    assert study.objective == "val/accuracy"


# ---- the rule

GOOD = {"val/accuracy": 0.8, "val/loss": 0.5, "gap/accuracy": 0.05}
BETTER = {"val/accuracy": 0.9, "val/loss": 0.6, "gap/accuracy": 0.25}


def test_without_limits_the_metric_decides_and_between_equals_the_loss() -> None:
    rule = Rule("val/accuracy")
    assert rule.rank(BETTER) > rule.rank(GOOD)
    assert rule.rank({**GOOD, "val/loss": 0.4}) > rule.rank(GOOD)
    assert rule.beyond(BETTER, "not-learning") == {}
    assert Rule("val/loss").rank(GOOD) > Rule("val/loss").rank(BETTER)


def test_what_keeps_the_limits_comes_first_then_what_is_least_beyond_them() -> None:
    rule = Rule("val/accuracy", maximum_gap=0.1, minimum_accuracy=0.7)
    assert rule.keeps(GOOD)
    assert not rule.keeps(BETTER)
    assert rule.rank(GOOD) > rule.rank(BETTER) > rule.rank({**BETTER, "gap/accuracy": 0.3})
    assert not rule.keeps({**GOOD, "val/accuracy": 0.6})
    assert not rule.keeps(GOOD, "not-learning"), "a network that learns nothing has no gap"
    assert rule.keeps({**GOOD, "gap/accuracy": 0.9 - 0.8}), "0.9 - 0.8 is 0.1 but for rounding"
    assert rule.beyond(BETTER)["maximum_gap"] == pytest.approx(0.15)


def test_a_pruner_sees_the_gap_beyond_its_limit() -> None:
    assert Rule("val/accuracy", maximum_gap=0.1).score(BETTER) == pytest.approx(0.75)
    assert Rule("val/loss", maximum_gap=0.1).score(BETTER) == pytest.approx(0.75)
    assert Rule("val/accuracy", maximum_gap=0.1).score(GOOD) == 0.8
    assert Rule("val/accuracy", minimum_accuracy=0.95).score(GOOD) == 0.8


def test_the_key_of_a_trial_can_name_a_folder_everywhere() -> None:
    own = {"file:my.net.py:build@0123456789": "my-net-build", "file:base.keras@0123456789": "base"}
    assert {name: plain_name(name) for name in own} == own
    spec = dataclasses.replace(SPEC, architecture="keras:MobileNetV2", number=3)
    assert spec.key == "keras-MobileNetV2-003"
    assert spec.key.startswith(f"{plain_name(spec.architecture)}-")
    assert dataclasses.replace(spec, purpose="pretrain", block=None).key == "pretrain-keras-MobileNetV2"


@pytest.mark.parametrize(
    ("purpose", "key"),
    [("trial", "vgg16-007"), ("pretrain", "pretrain-vgg16"), ("confirm", "confirm-vgg16-007-seed-10003")],
)
def test_the_key_of_a_trial(purpose: str, key: str) -> None:
    assert dataclasses.replace(SPEC, architecture="vgg16", number=7, seed=10003, purpose=purpose).key == key
