"""Observations of recorded trials on each basis."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from cnnstudy.analysis.intervals import Estimate
from cnnstudy.analysis.observations import GAP, LEGACY_GAP, VALIDATION, VALIDATION_IMAGES, mean_gap, observe
from cnnstudy.tracking.recorded import RecordedRun

MakeRun = Callable[..., RecordedRun]
Curves = dict[str, dict[str, dict[int, float]]]
#: Of a trial whose last weights are those after the compared number of updates.
ENDED_THERE = {
    f"{moment}/{name}": value
    for moment in ("equal_updates", "last")
    for name, value in (("val_loss", 0.7), ("gap_loss", 0.1), ("gap_accuracy", 0.1))
}


@pytest.fixture
def study(make_run: MakeRun) -> tuple[list[RecordedRun], Curves]:
    """Return two trials that learn, the second less well, one that does not, and a pruned one."""
    train = {"run0": [1.2, 0.8, 0.5], "run1": [1.4, 1.0, 0.6], "run2": [1.6, 1.6, 1.6], "run3": [1.5]}
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
    plain, fewest = make_run(0), {**make_run(2).metrics, **ENDED_THERE, "optimizer/updates": 12.0}
    runs = [
        make_run(0, metrics={**plain.metrics, **more}, tags={"cnnstudy.verdict": "overfit"}),
        make_run(1, tags={"cnnstudy.verdict": "underfit", "cnnstudy.seed": "4"}),
        make_run(2, tags={"cnnstudy.verdict": "not-learning"}, metrics=fewest),
        make_run(3, state="pruned"),
        make_run(4, state="failed"),
        make_run(5, state="failed"),
    ]
    return runs, curves


def history(curves: Curves) -> Callable[[str, str], Mapping[int, float]]:
    return lambda run, name: curves[run].get(name, {})


def test_each_basis_has_its_own_numbers(study: tuple[list[RecordedRun], Curves]) -> None:
    runs, curves = study
    (found,) = observe(runs, history(curves))
    first = found.frame.iloc[0]
    assert (first["epochs/gap_accuracy"], first["updates/gap_accuracy"], first[LEGACY_GAP]) == (0.3, 0.2, 0.4)
    assert found.updates == 12
    # the second trial only reaches 0.6, the higher of the two; the first passes it within its last epoch
    assert found.train_loss == pytest.approx(0.6)
    assert 0.1 < first["train_loss/gap_accuracy"] < 0.3
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
    assert 0.0 < found.frame["train_loss/gap_accuracy"].iloc[0] < 0.1


def test_a_loss_passed_within_the_first_epoch_needs_a_measurement_before_it(
    study: tuple[list[RecordedRun], Curves],
) -> None:
    runs, curves = study
    (found,) = observe(runs, history(curves), until_train_loss=1.3)
    assert math.isnan(found.frame["train_loss/val_accuracy"].iloc[0])
    assert found.frame["train_loss/state"].tolist() == ["lower when first measured", "compared", "never reached"]
    start = {"train/loss": 1.6, "gap/accuracy": 0.0, "val/accuracy": 0.2, "val/loss": 1.6, "gap/loss": 0.0}
    for name, value in start.items():
        curves["run0"][name][0] = value
    (found,) = observe(runs, history(curves), until_train_loss=1.3)
    assert 0.2 < found.frame["train_loss/val_accuracy"].iloc[0] < 0.5


def test_after_a_number_of_updates_that_no_worker_measured_values_are_interpolated(
    study: tuple[list[RecordedRun], Curves],
) -> None:
    runs, curves = study
    ended = dataclasses.replace(runs[0], metrics={**runs[0].metrics, "optimizer/updates": 15.0})
    longest = dataclasses.replace(runs[2], metrics={**runs[2].metrics, "optimizer/updates": 60.0})
    for run, each in (("run0", 5), ("run1", 10), ("run2", 20)):
        curves[run]["optimizer/updates"] = {epoch: float(each * epoch) for epoch in (1, 2, 3)}
    (found,) = observe([ended, runs[1], longest], history(curves))
    assert found.updates == 15
    assert found.frame["updates/gap_accuracy"].tolist()[:2] == pytest.approx([0.3, 0.025])
    # the third made 20 in its first epoch, before which nothing was measured
    assert found.frame["updates/state"].tolist() == ["compared", "compared", "not measured"]


@pytest.mark.parametrize(
    ("loss", "accuracy", "state"), [(1.6, 0.5, "at chance"), (1.2, 0.22, "at chance"), (1.2, 0.5, "compared")]
)
def test_a_trial_that_has_learnt_nothing_after_these_updates_has_no_value_there(
    study: tuple[list[RecordedRun], Curves], loss: float, accuracy: float, state: str
) -> None:
    runs, curves = study
    there = {"train_loss": loss, "val_accuracy": accuracy - 0.2, "gap_accuracy": 0.2}
    metrics = {**runs[0].metrics, **{f"equal_updates/{name}": value for name, value in there.items()}}
    metrics |= {"images/validation": 100.0, "images/train": 300.0}
    run = dataclasses.replace(runs[0], metrics=metrics, parameters={**runs[0].parameters, "classes": "5"})
    fewest = dataclasses.replace(runs[1], metrics={**ENDED_THERE, **runs[1].metrics, "optimizer/updates": 12.0})
    (found,) = observe([run, fewest], history(curves))
    assert found.frame["updates/state"].iloc[0] == state
    assert math.isnan(found.frame["updates/gap_accuracy"].iloc[0]) == (state == "at chance")


def test_whether_a_trial_learnt_is_an_outcome(study: tuple[list[RecordedRun], Curves]) -> None:
    runs, curves = study
    metrics = {"images/validation": 100.0, "images/train": 300.0}
    unsure = [
        dataclasses.replace(
            runs[1],
            tags={**runs[1].tags, "cnnstudy.verdict": "cannot-tell"},
            parameters={"classes": "5"},
            metrics={**metrics, "best/train_accuracy": accuracy},
        )
        for accuracy in (0.9, 0.22)
    ]
    (found,) = observe([*runs[:3], *unsure], history(curves))
    learnt = found.frame["epochs/learnt"]
    assert learnt.tolist()[:4] == [1, 1, 0, 1]
    assert math.isnan(learnt.iloc[4])


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


def test_the_mean_gap_has_students_interval_over_the_seeds() -> None:
    gaps = [[0.1, 0.2], [0.15, 0.25], [0.3, 0.2], [0.1, math.nan]]
    frame = pd.DataFrame([(seed, gap, 0.55) for seed, both in enumerate(gaps) for gap in both])
    frame.columns = pd.Index(["seed", GAP, VALIDATION])
    found = mean_gap(frame)
    assert found is not None
    means = [np.nanmean(both) for both in gaps]
    half = stats.t.ppf(0.975, 3) * stats.sem(means)
    value = float(frame[GAP].mean())
    assert (found.value, found.count) == (pytest.approx(value), 4)
    assert (found.low, found.high) == pytest.approx((value - half, value + half))
    assert mean_gap(frame.iloc[7:]) is None
    assert mean_gap(frame.iloc[:2]) == Estimate(pytest.approx(0.15))


def test_the_interval_of_a_mean_gap_lies_among_gaps() -> None:
    found = mean_gap(pd.DataFrame({"seed": [0, 1], GAP: [0.1, 0.45], VALIDATION: [0.55, 0.5]}))
    assert found is not None
    assert (found.low, found.high) == (-1.0, 1.0), "Student's t over two seeds reaches further"


def test_a_mean_gap_on_which_all_seeds_agree_is_as_sure_as_its_images() -> None:
    frame = pd.DataFrame({"seed": [0, 1, 2], GAP: [0.25] * 3, VALIDATION: [0.55, 0.6, 0.65]})
    found = mean_gap(frame)
    assert found is not None
    assert found.low is not None
    # validation moves in steps of 1 / 20; the share of the gap is shrunk by one right and one wrong answer
    share = (0.25 * 20 + 1) / 22
    variance = 1 / 20**2 / 12 + share * (1 - share) / 20
    assert found.value - found.low == pytest.approx(stats.t.ppf(0.975, 2) * math.sqrt(variance / 3))
    irrational = [math.pi / 10, math.sqrt(0.1)]
    continuous = pd.DataFrame({"seed": [0, 0, 1, 1, 2, 2], GAP: irrational * 3, VALIDATION: irrational * 3})
    assert mean_gap(continuous) == Estimate(pytest.approx(np.mean(irrational)), count=3)


def test_where_all_is_right_the_number_of_images_is_the_recorded_one() -> None:
    frame = pd.DataFrame({"seed": range(5), GAP: 0.0, VALIDATION: 1.0, VALIDATION_IMAGES: 60.0})
    found, unknown = mean_gap(frame), mean_gap(frame.drop(columns=VALIDATION_IMAGES))
    assert found is not None
    assert unknown is not None
    assert found.high is not None
    assert unknown.high is not None
    assert 0.01 < found.high < 0.05 < 0.3 < unknown.high  # of 60 images, and of one
