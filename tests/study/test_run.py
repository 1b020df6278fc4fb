"""Running and resuming a study, with simulated trials and a real MLflow database."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_executor import FakeExecutor
from faulty_store import FaultyClient
from pictures import leave_out_pictures

from cnnstudy.analysis import leaderboard
from cnnstudy.config.load import load_study
from cnnstudy.errors import (
    DataError,
    RepeatedFailureError,
    StudyBusyError,
    StudyChangedError,
    TakenOverError,
    TrackingError,
    WeightsError,
    WorkerError,
)
from cnnstudy.execution import Done, Epoch, Event, Failed, Workers
from cnnstudy.names import NOBODY, Tag, last_name
from cnnstudy.records import TrialSpec
from cnnstudy.results import terminal
from cnnstudy.search.optuna_search import OptunaStrategy
from cnnstudy.search.strategy import Proposal
from cnnstudy.study import interim, preparation
from cnnstudy.study import run as running
from cnnstudy.study.interim import SO_FAR, InterimAnswer
from cnnstudy.study.lock import DriverLock
from cnnstudy.study.preparation import weights_digest
from cnnstudy.study.recorder import Recorder
from cnnstudy.study.resume import recorded_config
from cnnstudy.study.run import Outcome, run_study
from cnnstudy.system.cache import cache_folder
from cnnstudy.system.display import PlainDisplay, SilentDisplay
from cnnstudy.system.output import guard_streams, print_text
from cnnstudy.system.processes import Process, terminate_as_interrupt
from cnnstudy.tracking.client import Tracker
from cnnstudy.tracking.recorded import RecordedRun, RecordedStudy, config_tags
from cnnstudy.tracking.retry import RetryPolicy

FILE = """
name: fake
data: {name: digits, classes: [0, 1, 2]}
image_size: 64
architectures: [alexnet]
factors:
  batch_size: [8, 16, 32]
  dropout: {low: 0.1, high: 0.7}
training: {epochs: 2}
strategy: {sampler: random}
budget: {trials: 3}
"""
TRANSFER = "factors.transfer=[scratch, frozen]"
PRETRAIN = "weights={default: {source: pretrain, epochs: 2, data: {name: digits, classes: [3, 4]}}}"


class Desk:
    """Runs a study on one database as the command does, and reads what was recorded."""

    def __init__(self, folder: Path, tracker: Tracker) -> None:
        self.tracker = tracker
        self.file = folder / "fake.yaml"
        self.file.write_text(FILE, encoding="utf-8")
        self.said: list[str] = []
        self.executor: FakeExecutor | None = None

    def run(self, *overrides: str, **script: Any) -> Outcome:
        self.executor = None

        def make(folder: Path) -> FakeExecutor:
            self.executor = FakeExecutor(folder, **script)
            return self.executor

        display = script.pop("display", None) or PlainDisplay(self.said.append)
        take_over, retry = script.pop("take_over", False), script.pop("retry", False)
        study = load_study(str(self.file), overrides)
        return run_study(study, self.tracker, Workers(make), display, take_over, retry=retry)

    @property
    def trained(self) -> list[str]:
        """Return the keys of the trials that the last run trained."""
        return [] if self.executor is None else self.executor.trials

    def jobs(self, kind: str) -> list[dict[str, Any]]:
        """Return the payloads of the last run's jobs of that kind."""
        return [] if self.executor is None else [job.payload for job in self.executor.jobs if job.kind == kind]

    def study(self, name: str = "fake") -> RecordedStudy:
        return self.tracker.study(name)

    def runs(self, kind: str = "trial", name: str = "fake") -> list[RecordedRun]:
        return [run for run in self.tracker.runs(self.study(name).experiment_id) if run.kind == kind]

    def levels(self, name: str = "fake") -> dict[str, dict[str, Any]]:
        return {run.tags["cnnstudy.trial"]: json.loads(run.tags["cnnstudy.levels"]) for run in self.runs(name=name)}

    def status(self, run_id: str) -> str:
        return str(self.tracker._client.get_run(run_id).info.status)

    def statuses(self, name: str = "fake") -> list[str]:
        """Return MLflow's status of every run, including the study's own."""
        return [self.status(run.run_id) for run in self.tracker.runs(self.study(name).experiment_id)]


@pytest.fixture
def desk(own_places: Path, tracker: Tracker) -> Desk:
    return Desk(own_places, tracker)


@pytest.fixture(autouse=True)
def _plain_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes most of the time here and is tested elsewhere."""
    leave_out_pictures(monkeypatch)


def failed(key: str, reason: str, error: str | None = None) -> Failed:
    return Failed(key, reason, f"{reason} it was\nat length", f"Traceback: {reason}", error)


# ---- the budget


def test_the_budget_is_spent_exactly(desk: Desk) -> None:
    outcome = desk.run()
    assert (outcome.finished, outcome.failed, outcome.missing, outcome.interrupted) == (3, 0, 0, False)
    assert sorted(desk.levels()) == ["alexnet-000", "alexnet-001", "alexnet-002"] == desk.trained
    assert desk.statuses() == ["FINISHED"] * 4
    assert desk.executor is not None
    assert desk.executor.closed


def test_a_second_call_does_nothing(desk: Desk) -> None:
    desk.run()
    before = [run.run_id for run in desk.runs()]
    outcome = desk.run()
    assert desk.executor is None
    assert (outcome.finished, outcome.missing) == (3, 0)
    assert [run.run_id for run in desk.runs()] == before
    assert desk.status(desk.study().run_id) == "FINISHED"


def test_a_raised_budget_runs_what_is_missing(desk: Desk) -> None:
    desk.run("strategy.sampler=tpe")
    assert desk.run("strategy.sampler=tpe", "budget.trials=5").finished == 5
    assert desk.trained == ["alexnet-003", "alexnet-004"]
    desk.run("strategy.sampler=tpe", "budget.trials=5", "name=at-once")
    assert desk.levels() == desk.levels("at-once")
    assert desk.study().config["budget"]["trials"] == 5


def test_a_lowered_budget_prepares_and_runs_nothing(desk: Desk) -> None:
    desk.run()
    outcome = desk.run("budget.trials=1")
    assert desk.executor is None
    assert (outcome.finished, outcome.missing) == (3, 0)


def test_networks_take_turns(desk: Desk) -> None:
    desk.run("architectures=[vgg16, alexnet]", "budget.trials=5")
    assert desk.trained == ["vgg16-000", "alexnet-000", "vgg16-001", "alexnet-001", "vgg16-002"]


def test_two_slots_give_what_one_gives(desk: Desk) -> None:
    desk.run("budget.trials=5", slots=2)
    assert desk.executor is not None
    assert desk.executor.most_at_once == 2
    desk.run("budget.trials=5", "name=one")

    def values(name: str) -> dict[str, Any]:
        return {run.tags["cnnstudy.trial"]: (run.metrics, run.parameters) for run in desk.runs(name=name)}

    assert values("fake") == values("one")


def test_a_pruned_trial_counts_and_keeps_its_curves(desk: Desk) -> None:
    pruning = ("strategy.pruner=median", "strategy.startup_trials=1", "training.epochs=3")
    accuracy = {"alexnet-000": 0.9, "alexnet-001": 0.5, "alexnet-002": 0.5}
    outcome = desk.run(*pruning, "budget.trials=2", accuracy=accuracy)
    assert (outcome.finished, outcome.pruned, outcome.missing) == (1, 1, 0)
    assert desk.runs()[1].state == "pruned"
    assert desk.status(desk.runs()[1].run_id) == "FINISHED"
    assert list(desk.tracker.metric_history(desk.runs()[1].run_id, "val/accuracy")) == [1]
    assert "cnnstudy.model" not in desk.runs()[1].tags
    # the next run knows the curves of the earlier trials
    assert desk.run(*pruning, accuracy=accuracy).pruned == 2
    assert desk.trained == ["alexnet-002"]


def test_the_measurement_before_the_first_update_is_recorded_and_decides_nothing(desk: Desk) -> None:
    pruning = ("strategy.pruner=median", "strategy.startup_trials=1", "training.epochs=3")
    accuracy = {"alexnet-000": 0.9, "alexnet-001": 0.5, "alexnet-002": 0.5}
    desk.run(*pruning, "name=without", accuracy=accuracy)
    plain = [line for line in desk.said if "  epoch " in line]
    desk.said.clear()
    desk.run(*pruning, "budget.trials=2", accuracy=accuracy, measures_start=True)
    desk.run(*pruning, accuracy=accuracy, measures_start=True)  # the pruner knows the earlier trials from their curves
    assert [line for line in desk.said if "  epoch " in line] == plain
    histories = [desk.tracker.metric_history(run.run_id, "val/accuracy") for run in desk.runs()]
    assert [list(history) for history in histories] == [[0, 1, 2, 3], [0, 1], [0, 1]]
    assert {history[0] for history in histories} == {1 / 3}
    assert 0 not in desk.tracker.metric_history(desk.runs()[0].run_id, "optimizer/updates")
    for run, without in zip(desk.runs(), desk.runs(name="without"), strict=True):
        assert (run.state, run.epoch, run.metrics) == (without.state, without.epoch, without.metrics)


# ---- interruptions


def pretrained_study(name: str) -> tuple[str, ...]:
    few = (PRETRAIN.replace("epochs: 2", "epochs: 1"), "strategy.start_with=[{transfer: frozen}]", "budget.trials=2")
    return (f"name={name}", TRANSFER, *few)


@pytest.mark.thorough
def test_ctrl_c_at_any_event_loses_nothing(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.run(*pretrained_study("whole"))
    assert desk.executor is not None
    events = len(desk.executor.dealt)
    assert events == 2 + 2 + 2 + 2 * 3  # images, images and training of the source weights, trials
    for at in range(events):
        name = f"at-{at}"
        monkeypatch.setenv("CNNSTUDY_CACHE", str(desk.file.parent / name))
        outcome = desk.run(*pretrained_study(name), interrupt_at=at)
        assert desk.executor is not None
        assert desk.executor.closed, at
        assert outcome.interrupted, at
        assert outcome.finished + outcome.missing == 2, at
        assert "RUNNING" not in desk.statuses(name), at
        assert desk.status(desk.study(name).run_id) == "KILLED", at
        stopped = [run for run in (*desk.runs("trial", name), *desk.runs("pretrain", name)) if run.state == "failed"]
        assert [run.reason for run in stopped] == ["interrupted"] * len(stopped), at
        assert [desk.status(run.run_id) for run in stopped] == ["KILLED"] * len(stopped), at
        finished_before = {run.tags["cnnstudy.trial"] for run in desk.runs(name=name) if run.state == "finished"}

        outcome = desk.run(*pretrained_study(name))
        assert (outcome.finished, outcome.missing, outcome.interrupted) == (2, 0, False), at
        assert not finished_before & set(desk.trained), at
        assert desk.levels(name) == desk.levels("whole"), at
        done = [run.tags["cnnstudy.trial"] for run in desk.runs(name=name) if run.done]
        assert sorted(done) == ["alexnet-000", "alexnet-001"], at
        assert sum(run.state == "finished" for run in desk.runs("pretrain", name)) == 1, at
        study_run = desk.runs("study", name)[0]
        assert (study_run.state, study_run.reason) == ("finished", ""), at


@pytest.mark.thorough
def test_ctrl_c_while_something_is_recorded(
    desk: Desk, make_tracker: Callable[[str], Tracker], monkeypatch: pytest.MonkeyPatch
) -> None:
    writes = ("start_study", "start_run", "log_metrics", "log_files", "log_model", "_end")
    calls = 0
    stop_at: int | None = None

    def stopping(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls - 1 == stop_at:
                raise KeyboardInterrupt
            return method(*arguments, **keywords)

        return call

    for name in writes:
        monkeypatch.setattr(Tracker, name, stopping(getattr(Tracker, name)))
    one_trial = ("budget.trials=1", "training.epochs=1")
    desk.run(*one_trial)
    whole, reference = calls, desk.levels()
    assert whole == 8  # the epochs' metrics; files of study and trial; the model; the ends of both
    for at in range(whole):
        desk.tracker = make_tracker(f"at-{at}")
        calls, stop_at = 0, at
        try:
            assert desk.run(*one_trial).interrupted, at
        except KeyboardInterrupt:
            assert "RUNNING" not in desk.statuses(), at
        stop_at = None
        assert "RUNNING" not in desk.statuses(), at
        assert desk.run(*one_trial).finished == 1, at
        assert sum(run.done for run in desk.runs()) == 1, at
        assert desk.levels() == reference, at


def test_sigterm_is_as_good_as_ctrl_c(desk: Desk) -> None:
    def terminate(event: Event) -> None:
        if isinstance(event, Epoch):
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    assert desk.run(on_event=terminate).interrupted
    assert signal.getsignal(signal.SIGTERM) is before
    assert "RUNNING" not in desk.statuses()


def test_a_pipe_without_a_reader_is_as_good_as_sigterm(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, pipe = os.pipe()
    monkeypatch.setattr(sys, "stdout", os.fdopen(pipe, "w"))
    ends = 0

    def leave_after_a_trial(event: Event) -> None:
        nonlocal ends
        ends += isinstance(event, Done) and event.key.startswith("alexnet")
        if ends == 1 and isinstance(event, Epoch):
            os.close(reader)
            ends = 2

    with terminate_as_interrupt(), guard_streams():
        display = PlainDisplay(print_text)
        assert desk.run(display=display, on_event=leave_after_a_trial).interrupted
    sys.stdout.close()
    assert ends == 2
    assert "RUNNING" not in desk.statuses()
    (own,) = desk.runs("study")
    assert (own.tags[Tag.REASON], own.tags.get(Tag.MESSAGE, "")) == ("interrupted", "")
    kept = [run.trial for run in desk.runs() if run.done]
    assert kept
    assert desk.run().finished == 3
    assert not set(kept) & set(desk.trained), "what was measured is kept"


def test_a_closed_terminal_that_no_signal_told_of_is_no_failure(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    master, terminal = os.openpty()
    os.close(master)
    monkeypatch.setattr(sys, "stdout", os.fdopen(terminal, "w"))
    with guard_streams():
        assert desk.run(display=PlainDisplay(print_text)).finished == 3
    sys.stdout.close()


def test_an_interrupt_that_python_loses_is_heard_all_the_same(desk: Desk) -> None:
    def terminate(event: Event) -> None:
        if isinstance(event, Epoch):
            with contextlib.suppress(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGTERM)

    assert desk.run(on_event=terminate).interrupted
    assert "RUNNING" not in desk.statuses()
    assert desk.run().finished == 3


def test_what_a_dead_driver_left_is_repaired(desk: Desk) -> None:
    desk.run("budget.trials=2")
    levels = desk.levels()
    left = desk.runs()[1]
    for run_id in (left.run_id, desk.study().run_id):
        desk.tracker.set_tags(run_id, {Tag.STATE: "running"})
        desk.tracker._client.update_run(run_id, status="RUNNING")
    outcome = desk.run("budget.trials=2")
    assert (outcome.finished, outcome.missing) == (2, 0)
    assert desk.trained == ["alexnet-001"]
    assert desk.levels() == levels
    repaired = next(run for run in desk.runs() if run.run_id == left.run_id)
    assert (repaired.state, repaired.reason, desk.status(left.run_id)) == ("failed", "interrupted", "KILLED")
    assert any("left unfinished" in line and "alexnet-001" in line for line in desk.said)
    assert "RUNNING" not in desk.statuses()


def test_a_trial_that_is_done_stays_so_whatever_came_after(desk: Desk) -> None:
    desk.run()
    assert desk.executor is not None
    again = TrialSpec.from_json(desk.executor.jobs[-1].payload)
    Recorder(desk.tracker, desk.study()).start(again)  # by a driver on another machine, say
    assert desk.run().finished == 3
    assert desk.trained == []
    assert "RUNNING" not in desk.statuses()


def test_a_tracking_server_that_breaks_ends_the_call_and_the_next_goes_on(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_files = Tracker.log_files

    def broken(self: Tracker, run_id: str, folder: Path) -> None:
        if (folder / "trial.json").exists():
            raise TrackingError("no space left")
        log_files(self, run_id, folder)

    with monkeypatch.context() as patch:
        patch.setattr(Tracker, "log_files", broken)
        with pytest.raises(TrackingError, match="no space left"):
            desk.run()
    # the trial that could not be recorded, and the next one, already under way
    assert [(run.state, run.reason) for run in desk.runs()] == 2 * [("failed", "interrupted")]
    assert "RUNNING" not in desk.statuses()
    assert desk.runs("study")[0].tags["cnnstudy.message"] == "no space left"
    assert desk.run().finished == 3
    assert not desk.runs("study")[0].tags.get("cnnstudy.message")


def test_an_error_of_our_own_leaves_nothing_running(desk: Desk) -> None:
    def stumble(event: Event) -> None:
        if isinstance(event, Epoch):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        desk.run(on_event=stumble)
    assert "RUNNING" not in desk.statuses()
    assert desk.run().finished == 3


# ---- failures


def test_failed_trials_say_why_and_count(desk: Desk, tmp_path: Path) -> None:
    reasons = {"alexnet-000": "oom", "alexnet-001": "diverged", "alexnet-003": "crash"}
    failures = {key: failed(key, reason) for key, reason in reasons.items()}
    outcome = desk.run("budget.trials=4", failures=failures)
    assert (outcome.finished, outcome.failed, outcome.missing) == (1, 3, 0)
    runs = {run.tags["cnnstudy.trial"]: run for run in desk.runs()}
    for key, reason in reasons.items():
        run = runs[key]
        assert (run.state, run.reason, run.tags["cnnstudy.message"]) == ("failed", reason, f"{reason} it was")
        assert desk.status(run.run_id) == "FAILED"
        traceback = desk.tracker._client.download_artifacts(run.run_id, "traceback.txt", str(tmp_path))
        assert Path(traceback).read_text() == f"Traceback: {reason}"
        assert list(desk.tracker.metric_history(run.run_id, "val/accuracy")) == [1]
        assert f"{key}  failed ({reason}): {reason} it was" in "\n".join(desk.said)
    desk.run("budget.trials=4")
    assert desk.executor is None


@pytest.mark.parametrize(("error", "raised"), [("DataError", DataError), (None, WorkerError)])
def test_images_that_cannot_be_had_end_the_study(desk: Desk, error: str | None, raised: type[Exception]) -> None:
    with pytest.raises(raised, match="data it was"):
        desk.run(failures={"images-digits": failed("images-digits", "data", error)})
    assert desk.executor is not None
    assert desk.executor.closed
    assert desk.trained == []
    assert desk.statuses() == ["FAILED"]
    assert "data it was" in desk.runs("study")[0].tags["cnnstudy.message"]


def test_weights_that_do_not_fit_end_the_study_before_anything_is_trained(desk: Desk) -> None:
    imagenet = "weights={vgg16: {source: imagenet}, default: " + PRETRAIN.partition("default: ")[2]
    both = ("architectures=[alexnet, vgg16]", TRANSFER, imagenet)
    with pytest.raises(WeightsError, match="crash it was"):
        desk.run(*both, failures={"weights-vgg16": failed("weights-vgg16", "crash", "WeightsError")})
    assert desk.trained == []
    assert desk.statuses() == ["FAILED"]
    assert desk.jobs("prepare_images") == [], "what to download or repair is told before time is spent on images"
    desk.run(*both)
    sources = {run.tags["cnnstudy.architecture"]: run.parameters["weights"] for run in desk.runs()}
    assert set(sources.values()) <= {"imagenet", "pretrain", "none"}
    assert len(desk.jobs("check_weights")) == 1


def test_pretraining_that_fails_ends_the_study(desk: Desk) -> None:
    with pytest.raises(WeightsError, match=r"pretraining alexnet on digits failed \(oom\): oom it was"):
        desk.run(TRANSFER, PRETRAIN, failures={"pretrain-alexnet": failed("pretrain-alexnet", "oom")})
    assert desk.trained == ["pretrain-alexnet"] * 2
    assert [(run.state, run.reason) for run in desk.runs("pretrain")] == [("failed", "oom")] * 2
    assert set(desk.statuses()) == {"FAILED"}
    assert desk.run(TRANSFER, PRETRAIN).finished == 3


# ---- what must not change


@pytest.mark.parametrize("error", [TrackingError("refused"), KeyboardInterrupt(), ZeroDivisionError()])
def test_what_stops_a_call_before_it_begins_leaves_the_study_to_others(
    desk: Desk, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise error

    desk.run("budget.trials=1")
    monkeypatch.setattr("cnnstudy.study.run.settle_settings", stop)
    with pytest.raises(type(error)):
        desk.run()
    (own,) = desk.runs("study")
    assert own.tags[Tag.DRIVER] == NOBODY
    assert own.state == "finished"


def test_a_study_goes_on_that_was_recorded_before_a_key_was_there(desk: Desk) -> None:
    desk.run("budget.trials=1")
    config = desk.study().config
    assert config["training"].pop("precision") == "float32"
    desk.tracker.set_tags(desk.study().run_id, config_tags(config))
    with pytest.raises(StudyChangedError, match="mixed_float16"):
        desk.run("budget.trials=2", "training.precision=mixed_float16")
    assert desk.run("budget.trials=2").finished == 2


def test_a_changed_file_is_refused_with_what_changed(desk: Desk) -> None:
    desk.run()
    with pytest.raises(StudyChangedError) as caught:
        desk.run("training.epochs=3", "factors.batch_size=[8, 16]", "budget.trials=9")
    message = str(caught.value)
    assert "training.epochs: 2 -> 3" in message
    assert "factors.batch_size: [8, 16, 32] -> [8, 16]" in message
    assert "budget" not in message
    assert "--set name=fake-2" in message
    assert desk.executor is None
    assert desk.study().config["training"]["epochs"] == 2
    assert desk.status(desk.study().run_id) == "FINISHED"
    assert desk.run("training.epochs=3", "name=fake-2").finished == 3


def test_a_study_without_trials_may_change(desk: Desk) -> None:
    with pytest.raises(DataError):
        desk.run(failures={"images-digits": failed("images-digits", "data", "DataError")})
    assert desk.run("training.epochs=1").finished == 3
    assert desk.study().config["training"]["epochs"] == 1


@pytest.mark.thorough
@pytest.mark.parametrize("strategy", ["search", "factorial", "source weights"])
def test_mlflow_is_asked_for_all_runs_a_few_times_only(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    """With thousands of runs on a distant server, each request takes seconds."""
    more = {"search": (), "factorial": FACTORIAL, "source weights": (TRANSFER, PRETRAIN)}[strategy]
    fewer, all_ = (
        ("strategy.seeds=1", "strategy.seeds=2") if strategy == "factorial" else ("budget.trials=2", "budget.trials=3")
    )
    confirm = "confirm={top: 2, seeds: 2}"
    checkpoints = ("training.checkpoints=every-epoch",)
    desk.run(*more, *checkpoints, fewer)
    assert len([run for run in desk.runs() if run.done]) == 2
    asked: list[str] = []
    runs = Tracker.runs

    def count(self: Tracker, experiment_id: str, where: str = "") -> list[RecordedRun]:
        asked.append(where)
        return runs(self, experiment_id, where)

    monkeypatch.setattr(Tracker, "runs", count)
    desk.run(*more, *checkpoints, fewer)
    assert (desk.trained, len(asked)) == ([], 1)
    asked.clear()
    assert desk.run(*more, *checkpoints, all_, interrupt_at=4).interrupted  # within a trial, which has a checkpoint
    asked.clear()
    outcome = desk.run(*more, *checkpoints, all_)
    assert (outcome.missing, bool(desk.trained)) == (0, True)
    assert len(asked) <= 3  # when the file changed, at the start, and at the end
    asked.clear()
    assert desk.run(*more, *checkpoints, all_, confirm).confirmed is not None
    assert len(asked) <= 4  # and after those that confirm


def test_other_images_are_refused(desk: Desk) -> None:
    desk.run()
    with pytest.raises(StudyChangedError, match="files were added, removed or changed"):
        desk.run("budget.trials=4", digest="f" * 24)
    assert desk.trained == []
    assert len(desk.runs()) == 3
    assert "RUNNING" not in desk.statuses()
    assert desk.run("budget.trials=4").finished == 4


def test_a_second_driver_is_refused(desk: Desk) -> None:
    code = (
        "import sys\nfrom cnnstudy.study.lock import hold_study_lock\n"
        "with hold_study_lock(sys.argv[1], sys.argv[2]):\n    print('held', flush=True)\n    sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, "fake", desk.tracker.uri], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(StudyBusyError, match=rf"pid {holder.pid} on {socket.gethostname()}"):
            desk.run()
        assert desk.run("name=another", "budget.trials=1").finished == 1
        holder.stdin.close()
    assert desk.run("budget.trials=1").finished == 1


# ---- source weights


@pytest.mark.thorough
def test_source_weights_are_trained_once_a_network(
    desk: Desk, own_places: Path, make_tracker: Callable[[str], Tracker]
) -> None:
    both = ("architectures=[alexnet, vgg16]", TRANSFER, PRETRAIN, "budget.trials=4", "strategy.sampler=grid")
    both += ("factors={transfer: [scratch, frozen]}",)
    desk.run(*both)
    pretraining = ["pretrain-alexnet", "pretrain-vgg16"]
    assert desk.trained[:2] == pretraining
    assert len(desk.trained) == 2 + 4
    assert desk.executor is not None
    for job in desk.executor.jobs:
        if job.kind == "run_trial" and job.payload["purpose"] == "trial":
            source = np.load(job.payload["weights_file"])["whose"]
            assert source == f"backbone of {job.payload['architecture']}"
    weights = {(run.parameters["transfer"], run.parameters["weights"]) for run in desk.runs()}
    assert weights == {("scratch", "none"), ("frozen", "pretrain")}

    def pretraining_runs(name: str) -> list[tuple[str, str, list[int], bool]]:
        runs = desk.runs("pretrain", name)
        for run in runs:
            assert run.tags["cnnstudy.model"].startswith("models:/")
        curves = [list(desk.tracker.metric_history(run.run_id, "val/accuracy")) for run in runs]
        keys = [run.tags["cnnstudy.trial"] for run in runs]
        cached = ["cnnstudy.from_cache" in run.tags for run in runs]
        return list(zip(keys, [run.state for run in runs], curves, cached, strict=True))

    trained_here = [(key, "finished", [1, 2], False) for key in pretraining]
    from_cache = [(key, "finished", [1, 2], True) for key in pretraining]
    assert pretraining_runs("fake") == trained_here
    desk.run(*both, "name=second")
    assert not set(pretraining) & set(desk.trained)
    assert pretraining_runs("second") == from_cache
    desk.tracker = make_tracker("fresh")
    desk.run(*both)
    assert not set(pretraining) & set(desk.trained)
    assert pretraining_runs("fake") == from_cache


def test_random_weights_are_said_everywhere(desk: Desk) -> None:
    random_weights = (TRANSFER, "weights={default: {source: random}}", "strategy.start_with=[{transfer: frozen}]")
    desk.run(*random_weights)
    run = next(run for run in desk.runs() if run.parameters["transfer"] == "frozen")
    assert run.parameters["weights"] == run.tags["cnnstudy.weights"] == "random"
    assert "frozen (random weights)" in run.name
    frame = terminal.trial_frame(desk.tracker, desk.study())
    _, rows = leaderboard.leaderboard_table(frame[frame["run_id"] == run.run_id])
    assert "frozen (random weights)" in rows[0]
    assert leaderboard.best_by_transfer(frame)[0].count("(random weights)") == 1


# ---- the champion


def test_without_confirmation_nobody_is_champion(desk: Desk) -> None:
    assert desk.run().confirmed is None
    assert desk.tracker._client.search_registered_models() == []


def test_a_study_of_failures_has_no_champion(desk: Desk) -> None:
    desk.run("budget.trials=1", failures={"alexnet-000": failed("alexnet-000", "oom")})
    assert desk.tracker._client.search_registered_models() == []
    assert desk.runs("study")[0].tags["cnnstudy.trials_failed"] == "1"
    assert Tag.REASON in desk.runs()[0].tags


def test_source_weights_belong_to_their_image_size(desk: Desk) -> None:
    """Images and digest are the same, but weights learnt at another image size are not."""
    for name, size in (("small", 64), ("large", 96), ("small-again", 64)):
        desk.run("factors={transfer: frozen}", PRETRAIN, "budget.trials=1", f"image_size={size}", f"name={name}")
        assert ("pretrain-alexnet" in desk.trained) == (name != "small-again")
    addresses = [desk.runs("pretrain", name)[0].tags["cnnstudy.weights_address"] for name in ("small", "large")]
    assert len(set(addresses)) == 2


def test_precision_reaches_trials_and_source_weights(desk: Desk) -> None:
    for name, precision in (("whole", "float32"), ("half", "mixed_bfloat16")):
        desk.run(
            "factors={transfer: frozen}", PRETRAIN, "budget.trials=1", f"training.precision={precision}", f"name={name}"
        )
        assert [job["precision"] for job in desk.jobs("run_trial")] == [precision] * 2, "none of them from the cache"
        assert [run.parameters["precision"] for run in desk.runs(name=name)] == [precision]


def test_source_data_is_prepared_once_for_all_networks(desk: Desk) -> None:
    desk.run(
        "architectures=[alexnet, vgg16]", "image_size={alexnet: 64, vgg16: 32}", TRANSFER, PRETRAIN, "budget.trials=2"
    )
    assert desk.executor is not None
    prepared = [job.payload for job in desk.executor.jobs if job.kind == "prepare_images"]
    assert [(payload["options"]["classes"], payload["sizes"]) for payload in prepared] == [
        ([0, 1, 2], [32, 64]),
        ([3, 4], [32, 64]),
    ]


def test_a_trial_tells_which_source_weights_it_began_with(desk: Desk) -> None:
    desk.run("factors={transfer: [scratch, frozen]}", PRETRAIN, "budget.trials=2", "strategy.sampler=grid")
    digests = {run.tags["cnnstudy.transfer"]: run.tags.get("cnnstudy.weights_digest") for run in desk.runs()}
    (file,) = {job["weights_file"] for job in desk.jobs("run_trial") if job["weights_file"]}
    assert digests == {"scratch": None, "frozen": weights_digest(Path(file))}


def test_other_source_weights_are_refused(desk: Desk, own_places: Path) -> None:
    """The file was overwritten between two runs, or pretraining was repeated with another result."""
    frozen = ("factors={transfer: frozen, batch_size: [8, 16]}", "strategy.sampler=grid")
    (own_places / "weights.npz").write_bytes(b"PK")
    given = (*frozen, "weights={default: {source: file, file: weights.npz}}", "name=given")
    desk.run(*given, "budget.trials=1", weights_digest="1" * 64)
    with pytest.raises(StudyChangedError, match=r"weights of alexnet in .*study 'given' .*1{64}.*=given-2"):
        desk.run(*given, "budget.trials=2", weights_digest="2" * 64)
    assert desk.trained == []
    assert desk.run(*given, "budget.trials=2", weights_digest="1" * 64).finished == 2
    desk.run(*frozen, PRETRAIN, "budget.trials=1")
    (entry,) = (own_places / "cache" / "weights").glob("*/backbone.npz")
    whole = entry.read_bytes()
    np.savez(entry, whose="somebody else's")
    with pytest.raises(StudyChangedError, match="pretrained again by other code"):
        desk.run(*frozen, PRETRAIN, "budget.trials=2")
    entry.write_bytes(b"no weights")
    with pytest.raises(WeightsError, match=r"can't read the source weights in .*the next run trains them again"):
        desk.run(*frozen, PRETRAIN, "budget.trials=2")
    entry.write_bytes(whole)
    assert desk.run(*frozen, PRETRAIN, "budget.trials=2").finished == 2


# ---- a factorial

FACTORIAL = (
    "strategy={kind: factorial, seeds: 2}",
    "budget=",
    "factors={batch_size: [8, 32]}",
    "training.epochs=1",
    "seed=7",
)


def design(desk: Desk, name: str = "fake") -> list[tuple[str, str, str]]:
    """Return the seed and the batch size of each trial that is done, by key."""
    done = [run for run in desk.runs(name=name) if run.done]
    return sorted((run.tags["cnnstudy.trial"], run.tags["cnnstudy.seed"], run.parameters["batch_size"]) for run in done)


def expected(seeds: int) -> list[tuple[str, str, str]]:
    """Return the design of two cells with the seeds 7, 8 and so on."""
    return [(f"alexnet-{number:03d}", str(7 + number // 2), ("8", "32")[number % 2]) for number in range(2 * seeds)]


def kinds(desk: Desk) -> list[str]:
    """Return the kinds of the last run's jobs."""
    return [] if desk.executor is None else [job.kind for job in desk.executor.jobs]


def test_a_factorial_runs_every_cell_once_with_each_seed(desk: Desk) -> None:
    outcome = desk.run(*FACTORIAL)
    assert (outcome.finished, outcome.pruned, outcome.failed, outcome.missing) == (4, 0, 0, 0)
    assert design(desk) == expected(2)
    assert set(desk.trained[:2]) == {"alexnet-000", "alexnet-001"}, "a block after the other"
    assert {(run.parameters["seed"], run.parameters["block"]) for run in desk.runs()} == {("7", "0"), ("8", "1")}
    assert desk.said[:2] == [
        "factorial: 1 network x 2 cells x 2 seeds = 4 trials (0 recorded, 4 to run)",
        "  batch size 8, 32",
    ]
    assert kinds(desk) == ["prepare_images", "measure_speed", *["run_trial"] * 4]
    told = next(place for place, line in enumerate(desk.said) if "(measured: alexnet scratch " in line)
    assert told < next(place for place, line in enumerate(desk.said) if line.endswith(": started"))


def test_a_trial_that_ended_as_the_study_was_stopped_is_recorded(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its last epoch and its result were reported, but not handled yet."""
    queue: list[Event] = []
    original = FakeExecutor.next_event

    def next_event(self: FakeExecutor, timeout: float) -> Event | None:
        if self._interrupted:
            return queue.pop(0) if queue else None
        event = original(self, timeout)
        if event is None or event.key != "alexnet-001" or not isinstance(event, Epoch | Done):
            return event
        if isinstance(event, Epoch) and event.record.epoch < 2:
            return event
        queue.append(event)
        if isinstance(event, Epoch):
            self.answer(event.key, True)
            return next_event(self, timeout)
        self._interrupted = True
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(FakeExecutor, "next_event", next_event)
        outcome = desk.run()
    assert (outcome.interrupted, outcome.finished, outcome.missing) == (True, 2, 1)
    (run,) = (run for run in desk.runs() if run.tags["cnnstudy.trial"] == "alexnet-001")
    assert list(desk.tracker.metric_history(run.run_id, "val/accuracy")) == [1, 2]
    assert desk.run().finished == 3
    assert desk.trained == ["alexnet-002"]


def test_a_factorial_that_is_done_is_told_and_nothing_more(desk: Desk) -> None:
    desk.run(*FACTORIAL)
    desk.said.clear()
    assert desk.run(*FACTORIAL).finished == 4
    assert desk.executor is None
    assert desk.said[0].endswith("= 4 trials (4 recorded, 0 to run)")


@pytest.mark.thorough
@pytest.mark.parametrize(("at", "slots", "left"), [(2, 1, 4), (4, 1, 4), (6, 1, 3), (8, 2, 2)])
def test_a_factorial_that_was_stopped_ends_as_the_whole(desk: Desk, at: int, slots: int, left: int) -> None:
    """Stopped while the speed is measured, in the first trial, in the second block, and in two trials at once."""
    outcome = desk.run(*FACTORIAL, interrupt_at=at, slots=slots)
    assert (outcome.interrupted, outcome.finished, outcome.missing) == (True, 4 - left, left)
    assert "RUNNING" not in desk.statuses()
    before = {run.tags["cnnstudy.trial"] for run in desk.runs() if run.done}
    assert desk.run(*FACTORIAL).finished == 4
    assert not before & set(desk.trained)
    assert len(desk.trained) == left
    assert design(desk) == expected(2)


def test_finished_trials_tell_the_time_of_those_that_are_left(desk: Desk) -> None:
    desk.run(*FACTORIAL)
    desk.said.clear()
    desk.run(*FACTORIAL, "strategy.seeds=3")
    assert "measure_speed" not in kinds(desk)
    assert desk.said[0].endswith("= 6 trials (4 recorded, 2 to run)")
    # simulated trials take one second per epoch, and 0.3 s to save the model
    assert any("(measured: alexnet scratch 1.3 s a trial)" in line for line in desk.said)


def test_more_seeds_add_blocks_and_fewer_leave_what_is_there(desk: Desk) -> None:
    desk.run(*FACTORIAL)
    more = desk.run(*FACTORIAL, "strategy.seeds=3")
    assert more.finished == 6
    assert more.recorded.config["strategy"]["seeds"] == 3, "what is said of it is about the settings it has now"
    assert design(desk) == expected(3)
    assert desk.study().config["strategy"]["seeds"] == 3
    assert desk.run(*FACTORIAL, "strategy.seeds=1").missing == 0
    assert desk.executor is None
    assert design(desk) == expected(3)


def test_what_is_missing_of_the_seeds_that_are_left_is_run(desk: Desk) -> None:
    """Trials of a removed block do not count for one that is still wanted."""
    desk.run(*FACTORIAL, slots=2)
    stopped = next(run for run in desk.runs() if run.tags["cnnstudy.trial"] == "alexnet-001")
    desk.tracker.end_run(stopped.run_id, "failed", {Tag.REASON: "interrupted"})
    outcome = desk.run(*FACTORIAL, "strategy.seeds=1", interrupt_at=0)
    assert outcome.missing == 1
    assert desk.run(*FACTORIAL, "strategy.seeds=1").missing == 0
    assert desk.trained == ["alexnet-001"]
    assert design(desk) == expected(2)


def test_another_design_under_the_same_name_is_refused(desk: Desk) -> None:
    desk.run(*FACTORIAL)
    for change, told in (
        ("strategy={kind: factorial, design: qmc, cells: 2, seeds: 9}", 'strategy.design: "full" -> "qmc"'),
        ("seed=8", "seed: 7 -> 8"),
        ("factors.batch_size=[8, 16]", "factors.batch_size: [8, 32] -> [8, 16]"),
    ):
        with pytest.raises(StudyChangedError) as caught:
            desk.run(*FACTORIAL, change)
        assert told in str(caught.value)
        assert "seeds" not in str(caught.value)
    with pytest.raises(StudyChangedError, match=r'strategy\.kind: "factorial" -> "search"'):
        desk.run(*FACTORIAL, "strategy={kind: search, sampler: random}", "budget={trials: 4}")


def test_a_search_does_not_become_a_factorial(desk: Desk) -> None:
    desk.run("training.epochs=1", "seed=7", "factors={batch_size: [8, 32]}", "budget.trials=1")
    with pytest.raises(StudyChangedError, match=r'strategy\.kind: "search" -> "factorial"'):
        desk.run(*FACTORIAL)


def test_a_quiet_factorial_measures_nothing(desk: Desk) -> None:
    assert desk.run(*FACTORIAL, display=SilentDisplay()).finished == 4
    assert "measure_speed" not in kinds(desk)
    assert desk.said == []


def test_a_cell_that_fails_counts_and_a_speed_that_fails_ends_nothing(desk: Desk) -> None:
    failures = {key: failed(key, "oom") for key in ("speed-alexnet-scratch", "alexnet-001", "alexnet-003")}
    outcome = desk.run(*FACTORIAL, failures=failures)
    assert (outcome.finished, outcome.failed, outcome.missing) == (2, 2, 0)
    assert "  alexnet scratch: its speed can't be measured (oom): oom it was" in desk.said
    desk.run(*FACTORIAL)
    assert desk.trained == []


def test_a_factorial_of_two_networks_with_source_weights(desk: Desk) -> None:
    both = ("architectures=[alexnet, vgg16]", "factors={transfer: [scratch, frozen]}", PRETRAIN)
    outcome = desk.run(*FACTORIAL, *both, slots=2)
    assert (outcome.finished, outcome.missing) == (8, 0)
    assert desk.executor is not None
    measured = {job.key: job.payload["spec"] for job in desk.executor.jobs if job.kind == "measure_speed"}
    assert sorted(measured) == [
        f"speed-{name}-{mode}" for name in ("alexnet", "vgg16") for mode in ("frozen", "pretraining", "scratch")
    ]
    assert measured["speed-vgg16-frozen"]["weights_source"] == "random", "as fast as those not pretrained yet"
    pretrained = [f"pretrain-{name}-seed-{seed}" for seed in (7, 8) for name in ("alexnet", "vgg16")]
    assert sorted(run.trial for run in desk.runs("pretrain")) == sorted(pretrained)
    keys = {(run.tags["cnnstudy.trial"], run.tags["cnnstudy.seed"]) for run in desk.runs()}
    assert keys == {(f"{name}-{n:03d}", str(7 + n // 2)) for name in ("alexnet", "vgg16") for n in range(4)}


REDRAWN = (*FACTORIAL, "factors={transfer: [scratch, frozen, fine-tune]}", PRETRAIN)


def started_from(desk: Desk) -> dict[str, str]:
    """Return whose source weights each of the last run's trials from source weights started from."""
    specs = [spec for spec in desk.jobs("run_trial") if spec["levels"]["transfer"] != "scratch"]
    return {TrialSpec.from_json(spec).key: str(np.load(spec["weights_file"])["whose"]) for spec in specs}


def test_each_seed_of_a_factorial_starts_from_weights_of_its_own(desk: Desk) -> None:
    assert desk.run(*REDRAWN, slots=2).finished == 6
    keys = [f"pretrain-alexnet-seed-{seed}" for seed in (7, 8)]
    halves = (desk.trained[:4], desk.trained[4:])
    pretrained = [[key for key in half if key.startswith("pretrain")] for half in halves]
    assert pretrained == [keys[:1], keys[1:]], "each is pretrained with its block"
    transfers = [run for run in desk.runs() if run.levels["transfer"] != "scratch"]
    assert started_from(desk) == {run.trial: f"backbone of alexnet with seed {run.seed}" for run in transfers}
    digests = {(run.parameters["block"], run.weights_digest) for run in transfers}
    assert len({digest for _, digest in digests}) == len(digests) == 2
    assert [(run.trial, run.seed, run.state) for run in desk.runs("pretrain")] == [
        (key, 7 + number, "finished") for number, key in enumerate(keys)
    ]
    prepared = [payload["options"]["classes"] for payload in desk.jobs("prepare_images")]
    assert prepared == [[0, 1, 2], [3, 4]], "the images to pretrain on are prepared once"


def test_a_factorial_may_share_one_draw(desk: Desk) -> None:
    desk.run(*REDRAWN, "weights.default.draws=one")
    assert desk.trained[0] == "pretrain-alexnet"
    assert set(started_from(desk).values()) == {"backbone of alexnet"}


def test_seeds_that_need_no_source_weights_pretrain_none(desk: Desk) -> None:
    desk.run(*FACTORIAL, PRETRAIN)
    assert not any(key.startswith("pretrain") for key in desk.trained)


@pytest.mark.thorough
@pytest.mark.parametrize("slots", [1, 2])
def test_a_factorial_that_was_stopped_pretrains_only_what_is_missing(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, slots: int
) -> None:
    desk.run(*REDRAWN, "name=whole", slots=slots)
    assert desk.executor is not None
    events = [event.key for event in desk.executor.dealt]
    places = [place for place, key in enumerate(events) if key == "pretrain-alexnet-seed-8"]
    for at in (places[0], places[1], places[-1] + 1):  # before it, within it, and after it
        name = f"at-{at}"
        monkeypatch.setenv("CNNSTUDY_CACHE", str(desk.file.parent / name))
        assert desk.run(*REDRAWN, f"name={name}", interrupt_at=at, slots=slots).interrupted
        assert "RUNNING" not in desk.statuses(name)
        done = {run.trial for run in desk.runs(name=name) if run.done}
        assert done == {key for key in events[: places[0]] if key.startswith("alexnet")}, "recorded before pretraining"
        assert desk.run(*REDRAWN, f"name={name}", slots=slots).finished == 6
        pretrained = [key for key in desk.trained if key.startswith("pretrain")]
        assert pretrained == ([] if at > places[-1] else ["pretrain-alexnet-seed-8"])
        assert not done & set(desk.trained)
        digests = [{run.trial: run.weights_digest for run in desk.runs(name=of) if run.done} for of in (name, "whole")]
        assert digests[0] == digests[1]


def test_other_source_weights_of_one_seed_are_refused(desk: Desk, own_places: Path) -> None:
    desk.run(*REDRAWN)
    digest = next(run.weights_digest for run in desk.runs() if run.weights_digest and run.seed == 8)
    for entry in (own_places / "cache" / "weights").glob("*/backbone.npz"):
        if weights_digest(entry) == digest:
            np.savez(entry, whose="somebody else's")
    for run in desk.runs():
        if run.seed == 8 and run.levels["transfer"] == "fine-tune":
            desk.tracker.set_tags(run.run_id, {Tag.STATE: "failed", Tag.REASON: "interrupted"})
    with pytest.raises(StudyChangedError, match=r"trials of study 'fake' with seed 8 \(digest"):
        desk.run(*REDRAWN)


def forget_draws(desk: Desk) -> None:
    """Leave the record of the study as a version that had no choice left it."""
    config = desk.study().config
    assert config["weights"]["default"].pop("draws") == "one"
    desk.tracker.set_tags(desk.study().run_id, config_tags(config))


def test_a_factorial_that_was_begun_with_one_draw_goes_on_with_it(desk: Desk) -> None:
    desk.run(*REDRAWN, "strategy.seeds=1", "weights.default.draws=one")
    forget_draws(desk)
    assert recorded_config(desk.study()).weights["default"].draws == "one", "for confirm and reproduce"
    for seeds in (2, 3):
        desk.said.clear()
        assert desk.run(*REDRAWN, f"strategy.seeds={seeds}").finished == 3 * seeds
        assert len(desk.trained) == 3, "nothing is pretrained"
        assert set(started_from(desk).values()) == {"backbone of alexnet"}
        assert sum("'fake' start from one draw of pretrained weights" in line for line in desk.said) == 1
        assert desk.study().config["weights"]["default"]["draws"] == "one"
    with pytest.raises(StudyChangedError, match=r'weights\.default\.draws: "one" -> "each-seed"'):
        desk.run(*REDRAWN, "weights.default.draws=each-seed")


def test_a_search_that_was_begun_before_there_was_a_choice_goes_on_in_silence(desk: Desk) -> None:
    desk.run(TRANSFER, PRETRAIN, "budget.trials=1")
    forget_draws(desk)
    assert desk.run(TRANSFER, PRETRAIN).finished == 3
    assert not any("one draw" in line for line in desk.said)


# ---- another try


def attempts(desk: Desk) -> list[tuple[str, str, str, bool]]:
    """Return the trial, attempt, state and retried flag of each run."""
    return [
        (run.tags["cnnstudy.trial"], run.tags["cnnstudy.attempt"], run.reason or run.state, run.done)
        for run in desk.runs()
    ]


@pytest.mark.parametrize("settings", [(), FACTORIAL], ids=["search", "factorial"])
@pytest.mark.parametrize("reason", ["oom", "crash", "timeout"])
def test_a_trial_that_fails_is_tried_once_more(desk: Desk, reason: str, settings: tuple[str, ...]) -> None:
    outcome = desk.run(*settings, failures={"alexnet-001": [failed("alexnet-001", reason)]})
    assert (outcome.failed, outcome.missing) == (0, 0)
    total = outcome.finished
    assert desk.trained.count("alexnet-001") == 2
    tries = [attempt for attempt in attempts(desk) if attempt[0] == "alexnet-001"]
    assert tries == [("alexnet-001", "1", reason, False), ("alexnet-001", "2", "finished", True)]
    first, second = (run for run in desk.runs() if run.tags["cnnstudy.trial"] == "alexnet-001")
    assert (first.tags["cnnstudy.levels"], first.tags["cnnstudy.seed"]) == (
        second.tags["cnnstudy.levels"],
        second.tags["cnnstudy.seed"],
    )
    assert desk.status(first.run_id) == "FAILED"
    assert len(terminal.trial_frame(desk.tracker, desk.study())) == total
    assert any("runs once more" in line for line in desk.said)
    # after running out of memory the retry starts with half a batch, and says so
    spec = json.loads(second.tags["cnnstudy.levels"])
    micro_batch = str(spec["batch_size"] // 2) if reason == "oom" else None
    assert second.tags.get("cnnstudy.micro_batch") == micro_batch
    assert any(f"parts of at most {micro_batch} images" in line for line in desk.said) == (reason == "oom")
    desk.run(*settings)
    assert desk.trained == []


def test_a_second_failure_counts(desk: Desk) -> None:
    outcome = desk.run(failures={"alexnet-001": failed("alexnet-001", "crash")})
    assert (outcome.finished, outcome.failed, outcome.missing) == (2, 1, 0)
    tries = [attempt for attempt in attempts(desk) if attempt[0] == "alexnet-001"]
    assert tries == [("alexnet-001", "1", "crash", False), ("alexnet-001", "2", "crash", True)]
    frame = terminal.trial_frame(desk.tracker, desk.study())
    assert list(frame["state"]) == ["finished", "finished", "failed"]


@pytest.mark.parametrize(("reason", "error"), [("diverged", None), ("crash", "ConfigError")])
def test_what_would_fail_again_is_not_tried_again(desk: Desk, reason: str, error: str | None) -> None:
    assert desk.run(failures={"alexnet-001": failed("alexnet-001", reason, error)}).failed == 1
    assert desk.trained.count("alexnet-001") == 1


@pytest.mark.parametrize(("reason", "error"), [("data", "DataError"), ("environment", None)])
@pytest.mark.parametrize("settings", [(), FACTORIAL], ids=["search", "factorial"])
def test_a_cause_outside_the_trials_is_none_of_their_attempts(
    desk: Desk, settings: tuple[str, ...], reason: str, error: str | None
) -> None:
    """It stops the study; the next call goes on, and every trial has all its attempts."""
    levels = None
    for _ in range(2):
        with pytest.raises(RepeatedFailureError, match=rf"^3 attempts in a row .* outside the trials \({reason}\)"):
            desk.run(*settings, failures={"alexnet-001": failed("alexnet-001", reason, error)})
        assert desk.trained.count("alexnet-001") == 3
        assert levels in (None, desk.levels())
        levels = desk.levels()
    frame = terminal.trial_frame(desk.tracker, desk.study())
    assert dict(zip(frame["trial"], frame["state"], strict=True))["alexnet-001"] == "interrupted"
    outcome = desk.run(*settings, failures={"alexnet-001": [failed("alexnet-001", "crash")]})
    assert (outcome.failed, outcome.missing) == (0, 0)
    assert desk.trained.count("alexnet-001") == 2, "its second attempt is its own"
    assert {key: level for key, level in desk.levels().items() if key in levels} == levels


def test_one_failure_outside_a_trial_is_nobodys_failure(desk: Desk) -> None:
    lost = failed("alexnet-001", "environment")
    outcome = desk.run(failures={"alexnet-001": [lost, failed("alexnet-001", "crash"), lost]})
    assert (outcome.finished, outcome.failed) == (3, 0)
    tries = [attempt[1:] for attempt in attempts(desk) if attempt[0] == "alexnet-001"]
    assert tries == [
        ("1", "environment", False),
        ("1", "crash", False),
        ("2", "environment", False),
        ("2", "finished", True),
    ]
    assert any(line.startswith("alexnet-001  failed (environment), and runs again: ") for line in desk.said)


def test_a_try_that_was_interrupted_is_no_try(desk: Desk) -> None:
    """The images take two events, each trial three, and a failed attempt two."""
    for at in (2 + 2, 2 + 2 + 1):  # before the second try said anything, and after its first epoch
        name = f"name=at-{at}"
        assert desk.run(
            name, "budget.trials=1", failures={"alexnet-000": [failed("alexnet-000", "oom")]}, interrupt_at=at
        ).interrupted
        assert desk.run(name, "budget.trials=1").finished == 1
        runs = [(run.tags["cnnstudy.attempt"], run.reason or run.state) for run in desk.runs(name=name[5:])]
        assert runs == [("1", "oom"), ("2", "interrupted"), ("2", "finished")]


def test_a_driver_that_died_between_two_tries_left_one(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    fail = Recorder.fail

    def stop_then(*arguments: Any) -> None:
        fail(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "fail", stop_then)
        assert desk.run("budget.trials=1", failures={"alexnet-000": failed("alexnet-000", "oom")}).missing == 1
    assert desk.run("budget.trials=1", failures={"alexnet-000": failed("alexnet-000", "oom")}).failed == 1
    assert [attempt[1:] for attempt in attempts(desk)] == [("1", "oom", False), ("2", "oom", True)]


def test_another_try_is_pruned_as_the_first_was(desk: Desk) -> None:
    """Optuna warns if an epoch is reported twice."""
    pruning = ("strategy.pruner=median", "strategy.startup_trials=1", "training.epochs=3")
    accuracy = {"alexnet-000": 0.9, "alexnet-001": 0.95, "alexnet-002": 0.5}
    failures = {"alexnet-001": [failed("alexnet-001", "oom")]}
    outcome = desk.run(*pruning, accuracy=accuracy, failures=failures)
    assert (outcome.finished, outcome.pruned, outcome.failed) == (2, 1, 0)


# ---- checkpoints (test_checkpoints has what is in them)

EVERY_EPOCH = ("training.checkpoints=every-epoch", "training.epochs=3")


def epochs_trained(desk: Desk, key: str) -> list[int]:
    """Return the epochs that the last run trained."""
    assert desk.executor is not None
    told = [event for event in desk.executor.dealt if isinstance(event, Epoch) and event.key == key]
    return [event.record.epoch for event in told if not event.record.replayed]


def checkpoints_left() -> list[Path]:
    return list((cache_folder() / "checkpoints").glob("*"))


def curves(desk: Desk, number: int) -> list[int]:
    return list(desk.tracker.metric_history(desk.runs()[number].run_id, "val/accuracy"))


@pytest.mark.parametrize("reason", ["oom", "crash", "timeout"])
def test_another_try_goes_on_from_the_checkpoint(desk: Desk, reason: str) -> None:
    outcome = desk.run(*EVERY_EPOCH, failures={"alexnet-001": [failed("alexnet-001", reason)]})
    assert outcome.finished == 3
    assert epochs_trained(desk, "alexnet-001") == [1, 2, 3]
    tries = [run for run in desk.runs() if run.tags["cnnstudy.trial"] == "alexnet-001"]
    assert [run.tags.get("cnnstudy.resumed_from_epoch") for run in tries] == [None, "1"]
    assert list(desk.tracker.metric_history(tries[1].run_id, "val/accuracy")) == [1, 2, 3]
    assert len([line for line in desk.said if line.startswith("alexnet-001  epoch 1/3")]) == 1
    assert checkpoints_left() == []


def test_a_trial_that_fails_for_good_leaves_none(desk: Desk) -> None:
    desk.run(*EVERY_EPOCH, failures={"alexnet-001": failed("alexnet-001", "crash")})
    assert epochs_trained(desk, "alexnet-001") == [1, 2]
    assert desk.runs()[2].tags["cnnstudy.resumed_from_epoch"] == "1"
    desk.run(*EVERY_EPOCH, "name=diverges", failures={"alexnet-001": failed("alexnet-001", "diverged")})
    assert epochs_trained(desk, "alexnet-001") == [1]
    assert checkpoints_left() == []


def test_the_next_call_goes_on_from_the_checkpoint(desk: Desk) -> None:
    """The images take two events; the trial is stopped after its second epoch was reported, and before the answer."""
    few = (*EVERY_EPOCH, "budget.trials=1")
    assert desk.run(*few, interrupt_at=4).interrupted
    assert len(checkpoints_left()) > 0
    assert desk.run(*few).finished == 1
    assert epochs_trained(desk, "alexnet-000") == [2, 3]
    assert desk.runs()[1].tags["cnnstudy.resumed_from_epoch"] == "1"
    assert [run.reason or run.state for run in desk.runs()] == ["interrupted", "finished"]
    assert (curves(desk, 0), curves(desk, 1)) == ([1, 2], [1, 2, 3])
    assert checkpoints_left() == []


def test_checkpoints_may_be_switched_between_calls(desk: Desk) -> None:
    few = ("training.epochs=3", "budget.trials=1")
    assert desk.run(*few, "training.checkpoints=every-epoch", interrupt_at=4).interrupted
    assert desk.run(*few, "training.checkpoints=true").finished == 1
    assert epochs_trained(desk, "alexnet-000") == [2, 3]


def test_source_weights_go_on_from_the_checkpoint(desk: Desk) -> None:
    """The images and the source images take two events each."""
    few = (*EVERY_EPOCH, PRETRAIN.replace("epochs: 2", "epochs: 3"), TRANSFER, "budget.trials=1")
    assert desk.run(*few, interrupt_at=4 + 2).interrupted
    assert desk.run(*few).finished == 1
    assert epochs_trained(desk, "pretrain-alexnet") == [2, 3]
    assert desk.runs("pretrain")[1].tags["cnnstudy.resumed_from_epoch"] == "1"
    assert checkpoints_left() == []


@pytest.mark.parametrize("reason", ["oom", "crash"])
def test_pretraining_gets_another_attempt_as_trials_do(desk: Desk, reason: str) -> None:
    few = (PRETRAIN, TRANSFER, "budget.trials=1")
    broken = failed("pretrain-alexnet", reason)
    assert desk.run(*few, failures={"pretrain-alexnet": [broken]}).finished == 1
    specs = [job for job in desk.jobs("run_trial") if job["purpose"] == "pretrain"]
    assert [job["micro_batch"] for job in specs] == [None, 16 if reason == "oom" else None]
    assert [run.tags[Tag.ATTEMPT] for run in desk.runs("pretrain")] == ["1", "2"]
    with pytest.raises(WeightsError, match=f"^pretraining alexnet on digits failed .{reason}"):
        desk.run(*few, "name=other", "weights.default.epochs=3", failures={"pretrain-alexnet": broken})
    assert len(desk.runs("pretrain", "other")) == 2


def test_source_weights_that_were_stopped_say_so(desk: Desk) -> None:
    few = (PRETRAIN, TRANSFER, "budget.trials=1")
    assert desk.run(*few, interrupt_at=5).interrupted
    assert "pretrain-alexnet  interrupted; resuming the study runs it again" in desk.said
    assert any(line.startswith("pretrain-alexnet  epoch 1/2  train") for line in desk.said)


def test_source_weights_that_end_as_they_are_stopped_are_kept(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The interrupt comes when their end is reported and not read yet; or while they are put into the cache."""
    unread: list[Event] = []
    read, fill = FakeExecutor.next_event, preparation._fill_entry

    def interrupt(event: Event) -> None:
        if isinstance(event, Done) and event.key == "pretrain-alexnet":
            unread.append(event)
            raise KeyboardInterrupt

    def fill_and_interrupt(*given: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        fill(*given)

    monkeypatch.setattr(FakeExecutor, "next_event", lambda own, timeout: unread.pop() if unread else read(own, timeout))
    few = (PRETRAIN, TRANSFER, "budget.trials=1")
    assert desk.run(*few, on_event=interrupt).interrupted
    assert [run.state for run in desk.runs("pretrain")] == ["finished"]
    monkeypatch.setattr(preparation, "_fill_entry", fill_and_interrupt)
    assert desk.run(*few, "weights.default.epochs=3", "name=other").interrupted
    assert [run.state for run in desk.runs("pretrain", "other")] == ["finished"]
    for name, epochs in (("fake", 2), ("other", 3)):
        assert desk.run(*few, f"name={name}", f"weights.default.epochs={epochs}").finished == 1
        assert desk.trained == ["alexnet-000"]


# ---- shared epochs (test_prefixes has which are)


def test_shared_epochs_are_recorded_and_told(desk: Desk) -> None:
    desk.run("training.epochs=3", shared={"alexnet-001": 2})
    assert epochs_trained(desk, "alexnet-001") == [3]
    assert [run.tags.get("cnnstudy.shared_epochs") for run in desk.runs()] == [None, "2", None]
    assert all("cnnstudy.resumed_from_epoch" not in run.tags for run in desk.runs())
    assert curves(desk, 1) == [1, 2, 3]
    (line,) = [line for line in desk.said if "shared" in line]
    assert line == "alexnet-001  2 of its 3 epochs shared with another trial"


def test_a_killed_trial_that_shared_epochs_tells_both(desk: Desk) -> None:
    """The images take two events; then come two shared epochs and a trained one with a checkpoint."""
    few = (*EVERY_EPOCH, "training.epochs=4", "budget.trials=1")
    assert desk.run(*few, shared={"alexnet-000": 2}, interrupt_at=2 + 4).interrupted
    assert desk.run(*few).finished == 1
    assert epochs_trained(desk, "alexnet-000") == [4]
    tags = desk.runs()[1].tags
    assert (tags["cnnstudy.shared_epochs"], tags["cnnstudy.resumed_from_epoch"]) == ("2", "3")


@pytest.mark.parametrize(
    ("override", "shares"),
    [
        ("training.share_epochs=true", True),
        ("training.share_epochs=false", False),
        # what it would have pruned is reported only once that is no longer possible
        ("strategy.pruner=median", False),
    ],
)
def test_which_trials_may_share_epochs(desk: Desk, override: str, shares: bool) -> None:
    desk.run(override, TRANSFER, PRETRAIN, "budget.trials=1")
    jobs = {job["purpose"]: job["share_epochs"] for job in desk.jobs("run_trial")}
    assert jobs == {"pretrain": shares or "pruner" in override, "trial": shares}


def test_what_was_trained_before_is_told_to_the_pruner_and_prunes_nothing(desk: Desk) -> None:
    """The median pruner stops the second trial after its first epoch; an earlier driver did not prune it."""
    pruning = (*EVERY_EPOCH, "strategy.pruner=median", "strategy.startup_trials=1")
    accuracy = {"alexnet-000": 0.9, "alexnet-001": 0.5}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OptunaStrategy, "report", lambda *given: False)
        assert desk.run(*pruning, "budget.trials=2", accuracy=accuracy, interrupt_at=2 + 4 + 2).interrupted
    told = []
    terminal = OptunaStrategy.report

    def listen(search: OptunaStrategy, proposal: Proposal, epoch: int, score: float) -> bool:
        told.append((proposal.number, epoch, terminal(search, proposal, epoch, score)))
        return told[-1][-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OptunaStrategy, "report", listen)
        assert desk.run(*pruning, "budget.trials=2", accuracy=accuracy).pruned == 1
    assert told == [(1, 1, True), (1, 2, True)]  # and not pruned at the first
    assert epochs_trained(desk, "alexnet-001") == [2]
    assert checkpoints_left() == []


# ---- failures one like the other


@pytest.mark.thorough
@pytest.mark.parametrize("settings", [("budget.trials=6",), (*FACTORIAL, "strategy.seeds=3")])
def test_failures_that_are_alike_stop_the_study(desk: Desk, settings: tuple[str, ...]) -> None:
    keys = [f"alexnet-{number:03d}" for number in range(6)]
    failures = {key: Failed(key, "crash", f"no device {number}", "Traceback") for number, key in enumerate(keys)}
    with pytest.raises(RepeatedFailureError, match=r"3 trials in a row failed alike \(crash\), .* no device \d"):
        desk.run(*settings, failures=failures, slots=2)
    assert desk.executor is not None
    assert desk.executor.closed
    assert sum(run.state == "failed" and run.done for run in desk.runs()) == 3
    assert "RUNNING" not in desk.statuses()
    assert "failed alike" in desk.runs("study")[0].tags["cnnstudy.message"]
    outcome = desk.run(*settings)
    assert (outcome.finished, outcome.failed, outcome.missing) == (3, 3, 0)


@pytest.mark.thorough
def test_how_many_is_the_files_to_say_and_any_other_end_breaks_the_row(desk: Desk) -> None:
    broken = {number: failed(f"alexnet-{number:03d}", "oom") for number in (0, 1, 3, 4)}
    broken[2] = failed("alexnet-002", "crash")
    failures = {fault.key: fault for fault in broken.values()}
    assert desk.run("budget.trials=6", failures=failures).failed == 5
    with pytest.raises(RepeatedFailureError, match=r"^2 trials in a row"):
        desk.run("name=two", "budget.trials=6", "training.equal_failures=2", failures=failures)
    assert desk.run("name=two", "budget.trials=6", failures=failures).failed == 5


def test_a_loss_that_is_not_finite_is_an_answer(desk: Desk) -> None:
    keys = [f"alexnet-{number:03d}" for number in range(5)]
    assert desk.run("budget.trials=5", failures={key: failed(key, "diverged") for key in keys}).failed == 5


# ---- workers that hang


def on_fake_time(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the watchdog the clock of the desk's executor."""
    monkeypatch.setattr(
        "cnnstudy.execution.jobs.monotonic", lambda: 0.0 if desk.executor is None else desk.executor.now
    )


def test_a_trial_that_hangs_fails_with_where_it_hung(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    on_fake_time(desk, monkeypatch)
    outcome = desk.run(slots=2, hangs={"alexnet-001": 9})
    assert desk.executor is not None
    assert set(desk.executor.stopped) == {"alexnet-001"}
    assert (outcome.finished, outcome.failed, outcome.missing) == (2, 1, 0)
    (run,) = [run for run in desk.runs() if run.state == "failed" and run.done]
    assert (run.tags["cnnstudy.trial"], run.reason) == ("alexnet-001", "timeout")
    assert "no sign of life" in run.tags["cnnstudy.message"]
    said = desk.tracker._client.download_artifacts(run.run_id, "traceback.txt", str(tmp_path))
    assert Path(said).read_text() == "stacks of alexnet-001"
    assert "RUNNING" not in desk.statuses()


def test_images_that_never_come_end_the_study(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    on_fake_time(desk, monkeypatch)
    with pytest.raises(WorkerError, match="no sign of life"):
        desk.run(hangs={"images-digits": 1})
    assert desk.statuses() == ["FAILED"]


def test_how_long_an_epoch_may_take_is_the_files_to_say(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    on_fake_time(desk, monkeypatch)
    outcome = desk.run("training.timeout=5000", hangs={"alexnet-001": 9}, alive=True)
    assert outcome.failed == 1
    assert any("no epoch ended within 5000 s" in line for line in desk.said)
    # it may change: no trial depends on it
    assert desk.run("training.timeout=6000").missing == 0


# ---- drivers on other machines

ELSEWHERE = Process("elsewhere", 7, "1", "another machine", "another boot", "pid:[1]")


def test_a_study_that_was_begun_elsewhere_is_taken_over_when_asked(desk: Desk) -> None:
    desk.run("budget.trials=1")
    left = Recorder(desk.tracker, desk.study()).start(TrialSpec.from_json(desk.jobs("run_trial")[0]))
    DriverLock(desk.tracker, desk.study(), ELSEWHERE).take()
    with pytest.raises(StudyBusyError, match=r"pid 7 on elsewhere.*--take-over"):
        desk.run("budget.trials=2")
    assert desk.status(left.run_id) == "RUNNING", "it may be at work on it"
    assert desk.executor is None
    assert desk.run("budget.trials=2", take_over=True).finished == 2
    assert desk.status(left.run_id) == "KILLED"
    assert desk.runs("study")[0].tags[Tag.DRIVER] == NOBODY


def test_a_driver_that_was_taken_from_writes_nothing_more(desk: Desk) -> None:
    def take(event: Event) -> None:
        if isinstance(event, Done) and event.key == "alexnet-001":
            desk.tracker.set_tags(desk.study().run_id, {Tag.DRIVER: json.dumps(ELSEWHERE.to_json())})

    with pytest.raises(TakenOverError, match="pid 7 on elsewhere"):
        desk.run(on_event=take)
    assert [run.state for run in desk.runs()] == ["finished", "running"]
    assert desk.runs("study")[0].state == "running"
    assert desk.executor is not None
    assert desk.executor.closed
    assert desk.run(take_over=True).finished == 3
    assert "RUNNING" not in desk.statuses()


def test_trials_under_way_are_left_to_the_driver_that_took_the_study(desk: Desk) -> None:
    def take(event: Event) -> None:
        if isinstance(event, Done) and event.key == "alexnet-000":
            desk.tracker.set_tags(desk.study().run_id, {Tag.DRIVER: json.dumps(ELSEWHERE.to_json())})

    with pytest.raises(TakenOverError, match="pid 7 on elsewhere"):
        desk.run(slots=2, on_event=take)
    assert "alexnet-001  left to the study's new driver" in desk.said
    assert not any("resuming the study runs it again" in line for line in desk.said)


@pytest.mark.parametrize("ends", ["well", "interrupted", "badly"])
def test_however_a_call_ends_the_study_is_free(desk: Desk, ends: str) -> None:
    def stumble(event: Event) -> None:
        if ends == "badly" and isinstance(event, Epoch):
            raise ZeroDivisionError

    with contextlib.suppress(ZeroDivisionError):
        desk.run(interrupt_at=3 if ends == "interrupted" else None, on_event=stumble)
    assert desk.runs("study")[0].tags[Tag.DRIVER] == NOBODY


def test_the_effects_of_an_ended_study_wait_for_a_locked_store(desk: Desk) -> None:
    desk.run(*FACTORIAL)
    study, client = desk.study(), FaultyClient(desk.tracker._client)
    desk.tracker._client = client  # type: ignore[assignment]
    calls = itertools.count()

    def unlock_after_some() -> None:
        client.down = next(calls) < 3

    client.on_call = unlock_after_some
    policy = RetryPolicy(pauses=(0.001,), give_up_after=60)
    found = terminal.analyze_ended_study(desk.tracker, study, desk.said.append, policy)
    assert found is not None
    assert [one.architecture for one in found] == ["alexnet"]
    assert desk.tracker.read_text(study.run_id, "effects/answer.txt")
    assert "Waiting for MLflow" in desk.said[-1]


def test_where_the_store_stays_locked_the_study_is_whole_all_the_same(desk: Desk) -> None:
    desk.run(*FACTORIAL)
    study, client = desk.study(), FaultyClient(desk.tracker._client)
    desk.tracker._client, client.down = client, True  # type: ignore[assignment]
    assert terminal.analyze_ended_study(desk.tracker, study, desk.said.append, RetryPolicy(give_up_after=0)) is None
    assert "the database is locked" in desk.said[-1]
    assert desk.said[-1].endswith("its effects are not. `python -m cnnstudy effects fake` shows them.")


@pytest.mark.parametrize("settings", [(), FACTORIAL], ids=["search", "factorial"])
def test_what_failed_runs_again_when_that_is_asked_for(desk: Desk, settings: tuple[str, ...]) -> None:
    """With the same levels, and with as many attempts as before; what diverged stays."""
    keys = ["alexnet-000", "alexnet-001"]
    failures = {keys[0]: [failed(keys[0], "crash", "ConfigError")], keys[1]: [failed(keys[1], "diverged")]}
    outcome = desk.run(*settings, failures=failures)
    assert (outcome.failed, outcome.missing) == (2, 0)
    levels = desk.levels()
    assert desk.run(*settings).failed == 2
    assert desk.trained == [], "nothing runs again unasked"
    again = desk.run(*settings, retry=True, failures={keys[0]: [failed(keys[0], "crash")]})
    assert desk.trained == [keys[0], keys[0]]
    assert (again.failed, again.missing) == (1, 0)
    assert again.finished == outcome.finished + 1
    assert desk.levels() == levels
    assert "alexnet-000  failed earlier (crash), and runs again" in desk.said
    desk.run(*settings, retry=True)
    assert desk.trained == []


# ---- the answer so far


FOUR_SEEDS = ("strategy={kind: factorial, seeds: 4}", *FACTORIAL[1:])


class AtOnce:
    """Computes an answer in this process, when it is asked for."""

    def __init__(self, asked: dict[str, Any]) -> None:
        self.found = interim.compute_answer(**asked)

    def poll(self) -> list[str]:
        return self.found

    def stop(self) -> None:
        return


def add_last_epoch(event: Event) -> None:
    """Give a trial's result the metrics of its last epoch, which effects are about."""
    if isinstance(event, Done) and isinstance(event.result, dict) and "final" in event.result:
        event.result["final"] |= {last_name(name): value for name, value in event.result["summary"].items()}


def test_a_factorial_tells_its_answer_so_far_from_complete_blocks(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(step=1000)
    monkeypatch.setattr(
        running, "InterimAnswer", functools.partial(InterimAnswer, begin=AtOnce, clock=lambda: next(clock))
    )
    desk.run(*FOUR_SEEDS, on_event=add_last_epoch)
    (told,) = [line for line in desk.said if line.startswith(SO_FAR)]
    assert re.fullmatch(
        r"So far, 3 of 4 seeds: alexnet gap [+-]\d+\.\d .*points \(.+\), batch size 32 instead of 8 [+-].+ \(.+\)", told
    )
    (own,) = desk.runs("study")
    assert own.tags[Tag.NOTE] == told, "until the study's effects are recorded"
    place = desk.said.index(told)
    assert sum("finished, train" in line for line in desk.said[place:]) < 2, "it comes when a block is complete"


@pytest.mark.thorough
def test_the_answer_so_far_comes_from_a_process_of_its_own(desk: Desk) -> None:
    desk.run(*FOUR_SEEDS, on_event=add_last_epoch)
    asked = {"uri": desk.tracker.uri, "study": "fake", "seeds": [7, 8, 9]}
    process = interim._Process(asked)
    process._process.wait()
    assert process.poll() == interim.compute_answer(**asked) != []
    stopped = interim._Process(asked)
    stopped.stop()
    assert stopped._process.returncode
