"""Reproducing a trial: from a simulated record, and once from a real one."""

from __future__ import annotations

import dataclasses
import io
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_executor import FakeExecutor
from rich.console import Console
from trained_study import NAME, Trained

from cnnstudy.config.load import load_study
from cnnstudy.errors import StudyChangedError, UnknownNameError, WorkerError
from cnnstudy.execution import Failed, Workers
from cnnstudy.execution.local import LocalExecutor
from cnnstudy.records import TrialResult
from cnnstudy.results.terminal import show_reproduction
from cnnstudy.study import reproduce as reproduction
from cnnstudy.study.reproduce import Reproduction, reproduce_trial
from cnnstudy.study.run import run_study
from cnnstudy.system.display import SilentDisplay
from cnnstudy.tracking.client import Tracker
from cnnstudy.tracking.recorded import RecordedRun
from cnnstudy.tracking.registry import Registry

FILE = """
name: fake
data: {name: digits, classes: [0, 1, 2]}
image_size: 64
architectures: [alexnet]
factors: {batch_size: [8, 16], transfer: [scratch, frozen]}
weights: {default: {source: pretrain, epochs: 2, data: {name: digits, classes: [3, 4]}}}
training: {epochs: 2}
strategy: {sampler: grid}
budget: {trials: 4}
"""


def made(**script: Any) -> Workers:
    return Workers(lambda folder: FakeExecutor(folder, **script))


@pytest.fixture(autouse=True)
def _file(own_places: Path) -> None:
    (own_places / "fake.yaml").write_text(FILE, encoding="utf-8")


@pytest.fixture
def registry(own_places: Path, tracker: Tracker) -> Registry:
    """A study of four trials, the last of which failed."""
    failed = Failed("alexnet-003", "diverged", "not finite", "Traceback")
    study = load_study(str(own_places / "fake.yaml"))
    run_study(study, tracker, made(failures={"alexnet-003": failed}), SilentDisplay())
    return Registry(tracker)


def runs(registry: Registry) -> dict[str, str]:
    study = registry.tracker.study("fake")
    found = registry.tracker.runs(study.experiment_id)
    return {run.tags["cnnstudy.trial"]: run.run_id for run in found if "cnnstudy.trial" in run.tags}


def trials(registry: Registry, name: str = "fake") -> list[RecordedRun]:
    found = registry.tracker.runs(registry.tracker.study(name).experiment_id)
    return [run for run in found if run.kind == "trial" and run.state == "finished"]


def told(found: Reproduction) -> str:
    console = Console(file=io.StringIO(), width=160)
    show_reproduction(console, found)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_same_comes_out_and_nothing_is_recorded(registry: Registry) -> None:
    before = runs(registry)
    for given in ("fake/alexnet-000", "fake/alexnet-001", before["alexnet-002"], "fake/pretrain-alexnet"):
        found = reproduce_trial(given, registry, made(), SilentDisplay())
        assert found.differences == ()
        assert found.compared > 10
        assert found.changed == {}
    assert runs(registry) == before
    assert f"all {found.compared} recorded numbers are equal to the last bit" in told(found)


def test_what_comes_out_otherwise_is_told_the_largest_first(registry: Registry) -> None:
    found = reproduce_trial("fake/alexnet-000", registry, made(accuracy={"alexnet-000": 0.2}), SilentDisplay())
    sizes = [one.size for one in found.differences]
    assert sizes == sorted(sizes, reverse=True)
    assert {"val/accuracy", "best/val_accuracy"} <= {one.metric for one in found.differences}
    shown = told(found)
    assert f"{len(found.differences)} of {found.compared} recorded numbers differ" in shown
    assert "largest differences" in shown


def test_another_device_is_told(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    tags = {"cnnstudy.device": "H100", "cnnstudy.threads": "2", "cnnstudy.xla": "on", "cnnstudy.replicas": "2"}
    registry.tracker.set_tags(runs(registry)["alexnet-000"], tags)
    original = reproduction._changed_environment

    def changed(run: RecordedRun, result: TrialResult) -> dict[str, tuple[str, str]]:
        return original(run, dataclasses.replace(result, computed_on={"device": "EPYC", "threads": "2", "tf32": "on"}))

    monkeypatch.setattr(reproduction, "_changed_environment", changed)
    found = reproduce_trial("fake/alexnet-000", registry, made(), SilentDisplay())
    assert found.changed == {"device": ("H100", "EPYC"), "replicas": ("2", "1")}
    assert "note: device was H100 and is EPYC" in told(found)


def test_other_packages_are_told(registry: Registry) -> None:
    registry.tracker.set_tags(runs(registry)["alexnet-000"], {"cnnstudy.packages": '{"tensorflow": "1.0"}'})
    found = reproduce_trial("fake/alexnet-000", registry, made(), SilentDisplay())
    assert found.changed["tensorflow"] == ("1.0", "0.0.0")
    assert "note: tensorflow was 1.0 and is 0.0.0" in told(found)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("fake/alexnet-009", r"no trial 'alexnet-009' in study 'fake'; did you mean 'alexnet-00"),
        ("fake/alexnet-003", r"fake/alexnet-003 can't be reproduced: it is failed"),
        ("other/alexnet-000", r"'other/alexnet-000' is neither STUDY/TRIAL nor .*The studies are fake\."),
        ("0" * 32, r"neither STUDY/TRIAL nor the id of a trial's run"),
    ],
)
def test_what_can_not_be_trained_again(registry: Registry, given: str, message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        reproduce_trial(given, registry, made(), SilentDisplay())


def test_other_images_are_refused(registry: Registry) -> None:
    with pytest.raises(StudyChangedError, match="the images of digits differ from those"):
        reproduce_trial("fake/alexnet-000", registry, made(digest="f" * 24), SilentDisplay())


def test_other_source_weights_are_refused(registry: Registry, own_places: Path) -> None:
    (entry,) = (own_places / "cache" / "weights").glob("*/backbone.npz")
    np.savez(entry, whose="somebody else's")
    frozen = next(run.tags["cnnstudy.trial"] for run in trials(registry) if run.parameters["transfer"] == "frozen")
    with pytest.raises(StudyChangedError, match=r"the source weights of alexnet in .* differ from those"):
        reproduce_trial(f"fake/{frozen}", registry, made(), SilentDisplay())


def test_nothing_is_recorded_though_source_weights_are_learnt_again(registry: Registry, own_places: Path) -> None:
    """Neither runs nor the driver's tag change: another driver may be running the study."""
    shutil.rmtree(own_places / "cache" / "weights")
    before = [dataclasses.asdict(run) for run in registry.tracker.runs(registry.tracker.study("fake").experiment_id)]
    frozen = next(run.tags["cnnstudy.trial"] for run in trials(registry) if run.parameters["transfer"] == "frozen")
    executors: list[FakeExecutor] = []

    def make(folder: Path) -> FakeExecutor:
        executors.append(FakeExecutor(folder))
        return executors[0]

    assert reproduce_trial(f"fake/{frozen}", registry, Workers(make), SilentDisplay()).differences == ()
    assert executors[0].trials == ["pretrain-alexnet", frozen]
    # every epoch is trained again
    assert [job.payload["share_epochs"] for job in executors[0].jobs if job.kind == "run_trial"] == [False, False]
    assert [
        dataclasses.asdict(run) for run in registry.tracker.runs(registry.tracker.study("fake").experiment_id)
    ] == before


def test_a_trial_starts_from_the_source_weights_of_its_seed(own_places: Path, tracker: Tracker) -> None:
    design = [
        "name=crossed",
        "factors={transfer: [scratch, frozen]}",
        "strategy={kind: factorial, seeds: 2}",
        "budget=",
    ]
    run_study(load_study(str(own_places / "fake.yaml"), design), tracker, made(), SilentDisplay())
    shutil.rmtree(own_places / "cache" / "weights")
    registry, executors = Registry(tracker), list[FakeExecutor]()

    def make(folder: Path) -> FakeExecutor:
        executors.append(FakeExecutor(folder))
        return executors[-1]

    for run in trials(registry, "crossed"):
        assert reproduce_trial(f"crossed/{run.trial}", registry, Workers(make), SilentDisplay()).differences == ()
        pretrained = [f"pretrain-alexnet-seed-{run.seed}"] if run.levels["transfer"] == "frozen" else []
        assert executors[-1].trials == [*pretrained, run.trial]
    assert reproduce_trial("crossed/pretrain-alexnet-seed-1", registry, Workers(make), SilentDisplay()).compared > 10


def test_only_the_one_networks_weights_are_prepared(own_places: Path, tracker: Tracker) -> None:
    (own_places / "both.yaml").write_text(
        FILE.replace("[alexnet]", "[alexnet, vgg16]").replace("name: fake", "name: both")
    )
    run_study(load_study(str(own_places / "both.yaml")), tracker, made(), SilentDisplay())
    shutil.rmtree(own_places / "cache" / "weights")
    registry, executors = Registry(tracker), list[FakeExecutor]()
    frozen = next(
        run.tags["cnnstudy.trial"]
        for run in trials(registry, "both")
        if (run.parameters["transfer"], run.parameters["architecture"]) == ("frozen", "vgg16")
    )

    def make(folder: Path) -> FakeExecutor:
        executors.append(FakeExecutor(folder))
        return executors[0]

    reproduce_trial(f"both/{frozen}", registry, Workers(make), SilentDisplay())
    assert executors[0].trials == ["pretrain-vgg16", frozen]


def test_a_trial_that_fails_this_time(registry: Registry) -> None:
    failed = Failed("alexnet-000", "oom", "no memory", "Traceback")
    with pytest.raises(WorkerError, match=r"the reproduction of fake/alexnet-000 failed \(oom\): no memory"):
        reproduce_trial("fake/alexnet-000", registry, made(failures={"alexnet-000": failed}), SilentDisplay())


def test_a_record_that_says_nothing(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "trial.json").write_text('{"study": "fake"}')
    registry.tracker._client.log_artifact(runs(registry)["alexnet-000"], str(tmp_path / "trial.json"))
    with pytest.raises(UnknownNameError, match=r"has no specification \(trial.json\)"):
        reproduce_trial("fake/alexnet-000", registry, made(), SilentDisplay())


def test_really(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trained.folder)  # its photos are here
    make = partial(LocalExecutor, 1)
    found = reproduce_trial(f"{NAME}/alexnet-000", Registry(Tracker(trained.uri)), Workers(make), SilentDisplay())
    assert found.differences == ()
    assert found.compared > 80
