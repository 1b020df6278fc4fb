"""What every executor must do, wherever it runs jobs; a new one needs a case in `make`."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

from cnnstudy.execution import Done, Epoch, Executor, Failed, Job, Progress
from cnnstudy.execution.local import LocalExecutor
from cnnstudy.execution.ray_cluster import RayExecutor
from cnnstudy.execution.ray_connection import SlotNeeds
from cnnstudy.records import PreparedImages, Speed, TrialResult, TrialSpec
from execution.contract_jobs import Make, images_job, prepare, run, small_spec, trial_job
from execution.ray_nodes import Nodes


@pytest.fixture(scope="module", params=["local", pytest.param("ray", marks=pytest.mark.thorough)])
def make(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Make]:
    if request.param == "local":
        yield LocalExecutor
        return
    pytest.importorskip("ray")
    with contextlib.closing(Nodes(tmp_path_factory.mktemp("cluster"), 2)) as nodes:
        yield functools.partial(RayExecutor, needs=SlotNeeds(), address=nodes.address)


@pytest.fixture(scope="module")
def warm(make: Make, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Executor]:
    """One for all tests that leave its worker as it was: TensorFlow takes seconds to start."""
    with contextlib.closing(make(1, tmp_path_factory.mktemp("trials"))) as made:
        yield made


@pytest.fixture(scope="module")
def spec(warm: Executor) -> TrialSpec:
    return small_spec(prepare(warm))


# ---- jobs and their events


def test_progress_comes_before_the_result(warm: Executor) -> None:
    *progress, done = run(warm, images_job())
    assert progress
    assert all(isinstance(event, Progress) for event in progress)
    assert isinstance(done, Done)
    (images,) = map(PreparedImages.from_json, done.result)
    assert (images.size, images.classes, sum(images.train + images.validation + images.test)) == (16, ("0", "1"), 16)
    assert (Path(images.folder) / "images.npy").is_file()


def test_a_trial_tells_of_each_epoch_then_of_its_result(warm: Executor, spec: TrialSpec) -> None:
    start, first, second, done = run(warm, trial_job(spec))
    assert isinstance(start, Epoch)
    assert start.record.epoch == 0, "the measurement before the first update"
    assert isinstance(first, Epoch)
    assert isinstance(second, Epoch)
    assert (first.record.epoch, second.record.epoch) == (1, 2)
    assert {"train/accuracy", "val/loss", "gap/accuracy"} <= set(first.record.metrics)
    assert isinstance(done, Done)
    result = TrialResult.from_json(done.result)
    assert (result.state, result.epochs) == ("finished", 2)
    assert (Path(result.files["model"]) / "MLmodel").is_file()


def test_what_a_trial_computes_with_is_not_the_users_environment(
    warm: Executor, spec: TrialSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    done = run(warm, trial_job(spec, number=8, epochs=1, keep_model=False, xla=False))[-1]
    assert isinstance(done, Done)
    computed_on = TrialResult.from_json(done.result).computed_on
    assert computed_on.pop("device")
    assert int(computed_on.pop("threads")) >= 1
    assert computed_on == {"onednn": "on", "precision": "float32", "xla": "off"}


def test_features_are_told_of_and_found_by_the_next_trial(warm: Executor, spec: TrialSpec) -> None:
    frozen = {**spec.levels, "transfer": "frozen"}
    first, second = (run(warm, trial_job(spec, number=number, levels=frozen, seed=5)) for number in (3, 4))
    assert isinstance(first[0], Progress)
    assert first[0].what.startswith("features of AlexNet")
    assert not any(isinstance(event, Progress) for event in second)
    results = [TrialResult.from_json(events[-1].result) for events in (first, second) if isinstance(events[-1], Done)]
    assert [result.features for result in results] == ["cached", "cached"]
    assert results[0].summary == results[1].summary


def test_the_speed_of_a_trial_is_one_result(warm: Executor, spec: TrialSpec) -> None:
    (done,) = run(warm, Job("speed", "measure_speed", {"spec": spec.to_json(), "batch_sizes": [4, 8]}))
    assert isinstance(done, Done)
    speed = Speed.from_json(done.result)
    assert speed.batch_sizes == (4, 8)
    assert speed.parameters > 1_000_000
    assert speed.seconds_per_evaluated_image > 0


def test_the_mistakes_of_a_trial_come_with_their_pictures(warm: Executor, spec: TrialSpec, tmp_path: Path) -> None:
    done = run(warm, trial_job(spec, number=6, epochs=1))[-1]
    assert isinstance(done, Done)
    result = TrialResult.from_json(done.result)
    payload = {"spec": spec.to_json(), "model": str(Path(result.files["model"]) / "data" / "model.keras")}
    payload |= {"folder": str(tmp_path / "gallery"), "count": 1}
    *progress, done = run(warm, Job("gallery", "explain_mistakes", payload))
    assert progress
    assert all(isinstance(event, Progress) for event in progress)
    assert isinstance(done, Done)
    assert done.result["wrong"] == sum(map(sum, result.confusion)) - sum(
        row[label] for label, row in enumerate(result.confusion)
    )
    assert len(done.result["entries"]) == min(1, done.result["wrong"])
    assert len(list(tmp_path.glob("gallery/*.png"))) == 6 * len(done.result["entries"])


def test_an_answer_of_no_prunes(warm: Executor, spec: TrialSpec) -> None:
    _, epoch, done = run(warm, trial_job(spec, number=1), go_on=lambda epoch: False)
    assert isinstance(epoch, Epoch)
    assert isinstance(done, Done)
    result = TrialResult.from_json(done.result)
    assert (result.state, result.epochs, "model" in result.files) == ("pruned", 1, False)


def test_no_event_without_a_job(warm: Executor) -> None:
    assert warm.next_event(0.01) is None


# ---- failures


def test_an_error_on_purpose_keeps_its_name(warm: Executor, spec: TrialSpec) -> None:
    (failed,) = run(warm, images_job(options={"name": "digitz"}))
    assert isinstance(failed, Failed)
    assert (failed.error, failed.reason) == ("UnknownNameError", "crash")
    assert "did you mean 'digits'" in failed.message
    assert "Traceback" in failed.traceback
    gone = dataclasses.replace(spec.images, folder="/no/such/folder")
    (failed,) = run(warm, trial_job(spec, number=2, images=gone))
    assert isinstance(failed, Failed)
    assert (failed.error, failed.reason) == ("DataError", "data")


def test_an_error_that_is_a_mistake_has_no_name(warm: Executor) -> None:
    (failed,) = run(warm, Job("strange", "run_trial", {"no": "specification"}))
    assert isinstance(failed, Failed)
    assert (failed.error, failed.reason) == (None, "crash")
    assert isinstance(run(warm, images_job())[-1], Done)


def test_an_executor_that_is_closed_has_no_events(make: Make, tmp_path: Path) -> None:
    executor = make(2, tmp_path)
    run(executor, images_job("ended"))
    executor.submit(images_job("under-way"))
    executor.close()
    assert executor.next_event(0.01) is None
    executor.close()
