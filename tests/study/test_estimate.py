"""The size and cost of a study that are reported before it starts."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_executor import FakeExecutor

from cnnstudy.config.schema import StudyConfig
from cnnstudy.execution import Failed
from cnnstudy.names import Tag
from cnnstudy.records import PreparedImages, Speed, TrialSpec
from cnnstudy.study import estimate
from cnnstudy.study.estimate import report_cost, report_size, setup_seconds, trial_seconds
from cnnstudy.study.recorder import Recorder
from cnnstudy.system.display import PlainDisplay, SilentDisplay, format_duration
from cnnstudy.tracking.client import Tracker
from cnnstudy.tracking.recorded import RecordedRun

IMAGES = PreparedImages("digits", "/images", "d" * 64, 64, ("cat", "dog"), (40, 60), (10, 80), (2, 2))
LEVELS = {"transfer": "scratch", "batch_size": 8, "dropout": 0.5, "data_fraction": 1.0, "protocol": "clean"}


@pytest.fixture
def trial(spec: TrialSpec) -> TrialSpec:
    """10 epochs on 100 images in batches of 8: 13 updates each; 40 + 60 images to train on, 10 + 80 to validate."""
    return dataclasses.replace(spec, images=IMAGES, levels=LEVELS, epochs=10, head_epochs=4)


def changed(trial: TrialSpec, **changes: Any) -> TrialSpec:
    fields = {name: changes.pop(name) for name in list(changes) if name in TrialSpec.__dataclass_fields__}
    return dataclasses.replace(trial, **fields, levels={**trial.levels, **changes})


# ---- the time of a trial


def training_seconds(trial: TrialSpec, sizes: tuple[int, ...], *phases: tuple[float, ...]) -> float:
    return trial_seconds(trial, Speed(1000, 0.0, sizes, phases, 0.0))


@pytest.mark.parametrize(
    ("changes", "updates"),
    [
        ({}, 130),
        ({"batch_size": 100}, 10),
        ({"batch_size": 200}, 10),
        ({"data_fraction": 0.5}, 70),
        ({"data_fraction": 0.001}, 10),  # one image a class
        ({"protocol": "legacy"}, 65),  # 12 full batches and a partial one
        ({"updates": 26}, 26),
        ({"updates": 1000}, 130),
    ],
)
def test_every_update_counts(trial: TrialSpec, changes: dict[str, Any], updates: int) -> None:
    assert training_seconds(changed(trial, **changes), (8,), (2.0,)) == pytest.approx(2 * updates)


@pytest.mark.parametrize(("batch_size", "seconds"), [(8, 1.0), (16, 2.0), (24, 3.0), (32, 4.0)])
def test_between_two_batch_sizes_an_update_takes_its_share(trial: TrialSpec, batch_size: int, seconds: float) -> None:
    updates = 10 * math.ceil(100 / batch_size)
    found = training_seconds(changed(trial, batch_size=batch_size), (8, 32), (1.0, 4.0))
    assert found == pytest.approx(seconds * updates)


def test_the_head_alone_is_faster(trial: TrialSpec) -> None:
    two_phase = changed(trial, transfer="two-phase")
    assert training_seconds(two_phase, (8,), (1.0,), (5.0,)) == pytest.approx(13 * (4 * 1.0 + 6 * 5.0))


def test_a_probe_before_the_first_epoch_is_fitted_once(trial: TrialSpec) -> None:
    tuned = changed(trial, transfer="probe-then-fine-tune")
    assert training_seconds(tuned, (8,), (1.0,), (5.0,)) == pytest.approx(13 * (1.0 + 10 * 5.0))


def test_every_evaluated_image_counts(trial: TrialSpec) -> None:
    """Probe and validation before and after each epoch; at the end all images, with last and best weights."""
    speed = Speed(1000, 7.0, (8,), ((0.0,),), 1.0)
    probe = 10 + 60
    assert trial_seconds(trial, speed) == 7 + (10 + 3) * (probe + 90) + 2 * 100
    assert trial_seconds(changed(trial, data_fraction=0.1), speed) == 7 + (10 + 3) * (4 + 6 + 90) + 2 * 10


# ---- the size


def study(strategy: dict[str, Any] | None = None, **changes: Any) -> StudyConfig:
    return StudyConfig.model_validate(
        {
            "name": "fake",
            "data": {"name": "digits"},
            "architectures": ["alexnet", "googlenet"],
            "factors": {"batch_size": [8, 32], "dropout": [0.0, 0.5], "augmentation": "flip"},
            "training": {"epochs": 4},
            "strategy": {"kind": "factorial", **(strategy or {})},
            **changes,
        }
    )


def told_size(config: StudyConfig, remaining: int) -> list[str]:
    said: list[str] = []
    report_size(config, remaining, PlainDisplay(said.append))
    return said


def test_the_size_of_a_study() -> None:
    assert told_size(study(), 40) == [
        "factorial: 2 networks x 4 cells x 5 seeds = 40 trials (0 recorded, 40 to run)",
        "  batch size 8, 32; dropout 0, 0.5",
    ]
    assert told_size(study({"seeds": 1}, architectures=["alexnet"]), 1) == [
        "factorial: 1 network x 4 cells x 1 seed = 4 trials (3 recorded, 1 to run)",
        "  batch size 8, 32; dropout 0, 0.5",
    ]


def test_where_networks_differ_each_has_its_line() -> None:
    factors = {"transfer": ["scratch", "frozen"], "auxiliary_weight": [0.0, 0.3], "dropout": {"alexnet": [0.1, 0.2]}}
    assert told_size(study(factors=factors), 30) == [
        "factorial: 2 networks, 4 + 3 cells x 5 seeds = 35 trials (5 recorded, 30 to run)",
        "  alexnet: transfer scratch, frozen; dropout 0.1, 0.2",
        "  googlenet: transfer scratch, frozen; auxiliary weight 0, 0.3",
    ]


def test_a_part_of_the_cells_is_told_as_one() -> None:
    factors = {"batch_size": [8, 32], "dropout": [0.0, 0.5], "data_fraction": [0.5, 1.0]}
    half = study({"design": "fractional", "fraction": 2}, factors=factors)
    lines = told_size(half, 40)
    assert lines[0].startswith("factorial: 2 networks x 4 of 8 cells x 5 seeds = 40 trials")
    assert "  batch size: mixed with dropout x data fraction: these trials cannot separate them" in lines
    assert len(lines) == 1 + 1 + 3 + 1
    sure = study({"design": "fractional", "fraction": 2, "assume_no_interactions": True}, factors=factors)
    assert len(told_size(sure, 40)) == 2
    spread = study({"design": "qmc", "cells": 6}, factors={**factors, "dropout": {"low": 0.0, "high": 0.5}})
    assert told_size(spread, 60) == [
        "factorial: 2 networks x 6 cells x 5 seeds = 60 trials (0 recorded, 60 to run)",
        "  batch size 8, 32; dropout 0 to 0.5; data fraction 50 %, 100 %",
    ]


def test_nothing_is_told_of_levels_where_only_networks_are_compared() -> None:
    assert len(told_size(study(factors={"batch_size": 8}), 10)) == 1


# ---- time and disk


def test_each_worker_compiles_and_one_extracts_features() -> None:
    speed = Speed(1000, 7.0, (8,), ((0.0,),), 1.0, compile_seconds=3.0, extraction_seconds=100.0)
    assert (setup_seconds(speed, 1), setup_seconds(speed, 4)) == (103.0, 112.0)
    assert setup_seconds(speed, 1, draws=3) == 303.0


class Desk:
    """Reports the cost of trials, and keeps the messages and jobs."""

    def __init__(self, tracker: Tracker, folder: Path) -> None:
        self.recorder = Recorder(tracker, tracker.open_study("fake", {"objective": {"metric": "val/accuracy"}}))
        self.folder = folder

    def tell(self, specs: list[TrialSpec], **script: Any) -> list[str]:
        said: list[str] = []
        redrawn = script.pop("redrawn", ())
        self.executor = FakeExecutor(self.folder, **script)
        display = PlainDisplay(said.append)
        self.seconds = report_cost(specs, *self.recorded, self.executor, display, redrawn)
        return said

    @property
    def recorded(self) -> tuple[list[RecordedRun], str]:
        tracker, experiment = self.recorder.tracker, self.recorder.study.experiment_id
        return tracker.runs(experiment), tracker.artifact_location(experiment)

    @property
    def measured(self) -> dict[str, list[int]]:
        return {job.key: job.payload["batch_sizes"] for job in self.executor.jobs}

    def record(self, spec: TrialSpec, seconds: float, parameters: int, state: str = "finished") -> None:
        run_id = self.recorder.start(spec).run_id
        metrics = {
            "time/total_seconds": seconds,
            "parameters/trainable": 300.0,
            "parameters/frozen": parameters - 300.0,
        }
        self.recorder.tracker.log_metrics(run_id, metrics, 1)
        self.recorder.tracker.end_run(run_id, state, {Tag.STATE: state})


@pytest.fixture
def desk(tracker: Tracker, own_places: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    for name in ("SECONDS_TO_SAVE", "SECONDS_TO_RECORD"):
        monkeypatch.setattr(estimate, name, 0.0)
    return Desk(tracker, own_places)


def costs(trial: TrialSpec) -> float:
    """Return the seconds of a trial at the simulated speed: one per update and image of the batch."""
    return trial_seconds(trial, Speed(1000, 10.0, (8, 32), ((8.0, 32.0),), 0.01))


def test_each_network_and_mode_is_measured_once_at_its_smallest_and_largest_batch(desk: Desk, trial: TrialSpec) -> None:
    specs = [changed(trial, batch_size=size, number=size) for size in (16, 8, 32)]
    specs += [changed(trial, transfer="frozen", batch_size=16, number=number) for number in (1, 2)]
    specs += [changed(trial, architecture="vgg16", number=4)]
    said = desk.tell(specs)
    assert desk.measured == {
        "speed-alexnet-scratch": [8, 32],
        "speed-alexnet-frozen": [16],
        "speed-vgg16-scratch": [8],
    }
    assert said[:3] == [
        "measuring the speed of alexnet frozen",
        "measuring the speed of alexnet scratch",
        "measuring the speed of vgg16 scratch",
    ]
    assert said[3].startswith(f"  about {format_duration(sum(map(costs, specs)))} (measured: ")
    assert f"alexnet scratch {format_duration(sum(map(costs, specs[:3])) / 3)} a trial" in said[3]
    assert said[3].endswith("a trial), about 1.22 MB of disk for models")  # six times 1000 weights, and the plots
    assert len(said) == 4


def test_workers_share_the_time(desk: Desk, trial: TrialSpec) -> None:
    alone, shared = (desk.tell([trial] * 4, slots=slots)[-1] for slots in (1, 4))
    assert alone.startswith(
        f"  about {round(4 * costs(trial)) // 3600} h {round(4 * costs(trial)) % 3600 // 60:02d} min "
    )
    assert shared.startswith(f"  about {round(costs(trial)) // 60} min {round(costs(trial)) % 60:02d} s ")
    assert alone.partition("(")[2] == shared.partition("(")[2]


def test_to_save_and_record_a_trial_takes_its_time_too(
    desk: Desk, trial: TrialSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.record(trial, 3.0, 1000)
    assert desk.tell([trial] * 10)[-1].startswith("  about 30 s (measured: alexnet scratch 3.0 s a trial)")
    monkeypatch.setattr(estimate, "SECONDS_TO_SAVE", 0.5)  # by the workers, as they train
    assert desk.tell([trial] * 10)[-1].startswith("  about 35 s (measured: alexnet scratch 3.5 s a trial)")
    assert desk.tell([trial] * 10, slots=5)[-1].startswith("  about 7 s ")
    monkeypatch.setattr(estimate, "SECONDS_TO_RECORD", 2.0)  # by the driver, while a worker trains on
    assert desk.tell([trial] * 10)[-1].startswith("  about 37 s (measured: alexnet scratch 3.5 s a trial)")
    assert desk.tell([trial] * 10, slots=5)[-1].startswith("  about 24 s ")
    assert desk.seconds == 3.5 + 10 * 2.0


@pytest.mark.parametrize(("slots", "each", "to_record"), [(1, 5.0, 2.0), (1, 1.0, 2.0), (2, 10.0, 1.0), (4, 3.0, 2.0)])
def test_the_driver_records_one_trial_after_the_other(
    slots: int, each: float, to_record: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compare with a simulation: a worker gets its next trial before the finished one is recorded."""
    monkeypatch.setattr(estimate, "SECONDS_TO_RECORD", to_record)
    trials, driver_free = 24, 0.0
    begun, training = slots, [each] * slots  # when each worker is done
    while training:
        ended = min(training)
        training.remove(ended)
        now = max(ended, driver_free)
        if begun < trials:
            begun += 1
            training.append(now + each)
        driver_free = now + to_record
    found = estimate.wall_clock_seconds(trials * each, trials, slots)
    assert found == pytest.approx(driver_free, rel=0.1)
    assert found <= driver_free


def test_more_workers_than_trials_are_of_no_use() -> None:
    assert estimate.wall_clock_seconds(20.0, 2, 8) == estimate.wall_clock_seconds(20.0, 2, 4) > 10.0


def test_finished_trials_are_the_better_measurement(desk: Desk, trial: TrialSpec) -> None:
    frozen = changed(trial, transfer="frozen")
    desk.record(trial, 10.0, 1_000_000)
    desk.record(changed(trial, number=1), 20.0, 1_000_000)
    desk.record(changed(trial, number=2), 99.0, 1_000_000, state="failed")
    desk.record(changed(trial, purpose="pretrain"), 99.0, 1_000_000)
    desk.record(changed(trial, architecture="vgg16"), 99.0, 1_000_000)
    said = desk.tell([changed(trial, number=3), changed(trial, number=4)])
    assert desk.measured == {}
    assert said == ["  about 30 s (measured: alexnet scratch 15.0 s a trial), about 8.4 MB of disk for models"]
    desk.tell([changed(trial, number=3), frozen])
    assert list(desk.measured) == ["speed-alexnet-frozen"]


def test_what_augmentation_decides_is_measured_by_itself(desk: Desk, trial: TrialSpec) -> None:
    frozen = changed(trial, transfer="frozen", augmentation="none")
    strong = changed(frozen, augmentation="strong", number=1)
    desk.record(changed(strong, number=2), 60.0, 1000)
    said = desk.tell([frozen, strong])
    assert list(desk.measured) == ["speed-alexnet-frozen-none"]
    assert "alexnet frozen strong 1 min 00 s a trial" in said[-1]
    desk.tell([frozen])
    assert list(desk.measured) == ["speed-alexnet-frozen"], "told only where it varies"


def test_features_and_the_memory_of_all_workers_are_told(
    desk: Desk, trial: TrialSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    speed = Speed(1000, 1.0, (8,), ((0.1,),), 0.0, features_bytes=3_000_000, peak_bytes=2_000_000_000)
    monkeypatch.setattr(estimate, "_measure_speed", lambda *given: speed)
    specs = [changed(trial, transfer="frozen", number=number) for number in (1, 2)]
    told = " of disk for models, 3 MB in the cache, up to 2 GB of memory"
    assert desk.tell(specs)[-1].endswith(told)
    assert desk.tell(specs, slots=2)[-1].endswith(" up to 2 GB of memory a worker, 4 GB with 2")
    shared = [changed(trial, transfer=mode, augmentation=of) for mode in ("frozen", "two-phase") for of in "ab"]
    assert ", 3 MB in the cache" in desk.tell(shared)[-1]
    probes = [changed(trial, transfer=mode) for mode in ("probe", "svm probe", "probe-then-fine-tune", "flat probe")]
    assert ", 6 MB in the cache" in desk.tell(probes)[-1]
    apart = [*specs, changed(trial, transfer="last-block"), changed(trial, transfer="frozen", architecture="vgg16")]
    assert ", 9 MB in the cache" in desk.tell(apart)[-1]
    redrawn = [dataclasses.replace(spec, block=spec.number) for spec in apart]
    # those of alexnet for each seed's source weights: frozen in blocks 1 and 2, last-block in block 0
    assert ", 12 MB in the cache" in desk.tell(redrawn, redrawn=["alexnet"])[-1]


def test_pretraining_takes_time_and_disk_too(desk: Desk, trial: TrialSpec) -> None:
    """It runs before the trials, one after the other; the cache keeps the model and its backbone."""
    pretraining = changed(trial, purpose="pretrain", batch_size=32)
    said = desk.tell([trial, trial, pretraining], slots=2)
    assert list(desk.measured) == ["speed-alexnet-pretraining", "speed-alexnet-scratch"]
    alone, once = costs(trial), costs(pretraining)
    assert said[-2].startswith(f"  about {format_duration(alone + once)} (measured: alexnet pretraining ")
    assert said[-2].endswith("a trial), about 612 kB of disk for models, 408 kB in the cache")
    assert said[-1] == f"  {format_duration(once)} of these pretrain source weights: alexnet once"
    assert desk.seconds == alone, "this is compared with what the trials take"
    seeds = [changed(pretraining, block=block, seed=block) for block in (0, 1)]
    desk.record(pretraining, 60.0, 1000)
    assert desk.tell([trial, *seeds])[-1] == (
        "  2 min 00 s of these pretrain source weights: alexnet 2 times (each seed has its own)"
    )


def test_without_models_hardly_any_disk(desk: Desk, trial: TrialSpec) -> None:
    desk.record(trial, 10.0, 100_000_000)
    said = desk.tell([changed(trial, keep_model=False)] * 5)
    assert said[-1].endswith("a trial), about 1 MB of disk")


def test_a_measurement_that_fails_is_told_and_ends_nothing(desk: Desk, trial: TrialSpec) -> None:
    failed = Failed("speed-alexnet-frozen", "oom", "no memory left\nat length", "Traceback")
    desk.record(trial, 10.0, 1000)
    said = desk.tell([trial, changed(trial, transfer="frozen")], failures={failed.key: failed})
    assert "  alexnet frozen: its speed can't be measured (oom): no memory left" in said
    assert said[-1].startswith("  about 10 s without alexnet frozen (measured: alexnet scratch 10.0 s a trial)")
    said = desk.tell([changed(trial, transfer="frozen")], failures={failed.key: failed})
    assert not said[-1].startswith("  about")
    assert desk.seconds is None


def test_what_nobody_reads_is_not_measured(desk: Desk, trial: TrialSpec) -> None:
    executor = FakeExecutor(desk.folder)
    assert report_cost([trial], *desk.recorded, executor, SilentDisplay()) is None
    assert executor.jobs == []


@pytest.mark.parametrize(("free", "warns"), [(4_199_999, True), (4_200_000, False)])
def test_a_disk_that_is_too_small_is_told(
    desk: Desk, trial: TrialSpec, monkeypatch: pytest.MonkeyPatch, free: int, warns: bool
) -> None:
    asked: list[Path] = []

    def usage(folder: Path) -> SimpleNamespace:
        asked.append(folder)
        return SimpleNamespace(free=free)

    monkeypatch.setattr("cnnstudy.study.estimate.shutil.disk_usage", usage)
    desk.record(trial, 10.0, 1_000_000)
    *_, last = desk.tell([trial])
    assert ("WARNING" in last) is warns
    if warns:
        assert "4.2 MB will not fit into the 4.2 MB that are free in " in last
        assert "`keep_models: false`" in last
    # MLflow creates the folder with the first file: until then an existing parent is measured
    (folder,) = asked
    assert folder.exists()
    assert desk.folder in (folder, *folder.parents)


def test_a_disk_elsewhere_is_not_looked_at(
    desk: Desk, trial: TrialSpec, monkeypatch: pytest.MonkeyPatch, make_tracker: Callable[[str], Tracker]
) -> None:
    monkeypatch.setattr("cnnstudy.study.estimate.shutil.disk_usage", lambda folder: SimpleNamespace(free=0))
    monkeypatch.setattr(Tracker, "artifact_location", lambda tracker, experiment: "mlflow-artifacts:/1")
    assert "WARNING" not in "".join(desk.tell([trial]))
