"""Observations of recorded trials on each basis."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping

import pytest

from cnnstudy.analysis.observations import LEGACY_GAP, observe
from cnnstudy.tracking.recorded import RecordedRun

MakeRun = Callable[..., RecordedRun]
Curves = dict[str, dict[str, dict[int, float]]]


@pytest.fixture
def study(make_run: MakeRun) -> tuple[list[RecordedRun], Curves]:
    """Return two trials that learn, the second less well, one that does not, and a pruned one."""
    train = {"run0": [1.2, 0.8, 0.2], "run1": [1.4, 1.0, 0.6], "run2": [1.6, 1.6, 1.6], "run3": [1.5]}
    gaps = {"run0": [0.0, 0.1, 0.3], "run1": [0.0, 0.05, 0.1], "run2": [0.0] * 3, "run3": [0.0]}
    curves: Curves = {
        run: {
            "train/loss": dict(enumerate(train[run], 1)),
            "gap/accuracy": dict(enumerate(gaps[run], 1)),
            "val/accuracy": dict(enumerate((0.5 + gap for gap in gaps[run]), 1)),
            "val/loss": dict(enumerate((1 - gap for gap in gaps[run]), 1)),
            "gap/loss": dict(enumerate(gaps[run], 1)),
        }
        for run in train
    }
    more = {"last/gap_accuracy": 0.3, "equal_updates/gap_accuracy": 0.2, "legacy/gap_accuracy": 0.4}
    plain = make_run(0)
    runs = [
        make_run(0, metrics={**plain.metrics, **more}, tags={"cnnstudy.verdict": "overfit"}),
        make_run(1, tags={"cnnstudy.verdict": "underfit", "cnnstudy.seed": "4"}),
        make_run(2, tags={"cnnstudy.verdict": "not-learning"}),
        make_run(3, state="pruned"),
        make_run(4, state="failed"),
        make_run(5, state="failed"),
    ]
    return runs, curves


def history(curves: Curves) -> Callable[[str, str], Mapping[int, float]]:
    return lambda run, name: curves[run][name]


def test_each_basis_has_its_own_numbers(study: tuple[list[RecordedRun], Curves]) -> None:
    runs, curves = study
    (found,) = observe(runs, history(curves))
    first = found.frame.iloc[0]
    assert (first["epochs/gap_accuracy"], first["updates/gap_accuracy"], first[LEGACY_GAP]) == (0.3, 0.2, 0.4)
    # the second trial only reaches 0.6, the higher of the two; the first passes it a third into its last epoch
    assert found.train_loss == pytest.approx(0.6)
    assert first["train_loss/gap_accuracy"] == pytest.approx(0.1 + 0.2 / 3)
    assert found.frame["train_loss/gap_accuracy"].iloc[1] == pytest.approx(0.1)
    assert math.isnan(found.frame["train_loss/gap_accuracy"].iloc[2])
    assert math.isnan(found.frame["epochs/gap_accuracy"].iloc[1])
    assert found.frame["seed"].tolist() == [0, 4, 0]
    assert found.frame["verdict"].tolist() == ["overfit", "underfit", "not-learning"]


def test_what_is_no_observation_is_counted(study: tuple[list[RecordedRun], Curves]) -> None:
    runs, curves = study
    (found,) = observe(runs, history(curves))
    assert dict(found.left_out) == {"pruned": 1, "failed": 2}
    assert len(found.frame) == 3


def test_the_train_loss_of_the_study_file_holds(study: tuple[list[RecordedRun], Curves]) -> None:
    runs, curves = study
    (found,) = observe(runs, history(curves), until_train_loss=1.0)
    assert found.train_loss == 1.0
    assert found.frame["train_loss/gap_accuracy"].iloc[1] == pytest.approx(0.05)
    assert found.frame["train_loss/gap_accuracy"].iloc[0] == pytest.approx(0.05)


def test_a_loss_passed_within_the_first_epoch_is_taken_there(study: tuple[list[RecordedRun], Curves]) -> None:
    runs, curves = study
    (found,) = observe(runs, history(curves), until_train_loss=1.3)
    assert found.frame["train_loss/val_accuracy"].iloc[0] == 0.5


def test_one_in_ten_that_hardly_learns_does_not_decide(study: tuple[list[RecordedRun], Curves]) -> None:
    runs, curves = study
    many = [dataclasses.replace(runs[1], run_id=f"more{i}") for i in range(9)]
    curves |= {run.run_id: curves["run1"] for run in many}
    hardly = dataclasses.replace(runs[1], run_id="hardly")
    curves["hardly"] = {**curves["run1"], "train/loss": {1: 1.6, 2: 1.59, 3: 1.58}}
    (found,) = observe([*many, hardly], history(curves))
    assert found.train_loss == pytest.approx(0.6)
    assert found.frame["train_loss/gap_accuracy"].isna().tolist() == [False] * 9 + [True]


def test_where_nothing_learns_there_is_no_equal_loss(study: tuple[list[RecordedRun], Curves]) -> None:
    runs, curves = study
    (found,) = observe(runs[2:3], history(curves))
    assert found.train_loss is None
    assert math.isnan(found.frame["train_loss/gap_accuracy"].iloc[0])


def test_networks_stand_apart(study: tuple[list[RecordedRun], Curves], make_run: MakeRun) -> None:
    runs, curves = study
    curves["run9"] = curves["run1"]
    other = make_run(9, tags={"cnnstudy.architecture": "vgg16"})
    assert [len(found.frame) for found in observe([*runs, other], history(curves))] == [3, 1]
