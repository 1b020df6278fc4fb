"""The live view of a study that runs elsewhere, with a real MLflow database and a fake clock."""

from __future__ import annotations

import dataclasses
import io
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_executor import FakeExecutor
from pictures import leave_out_pictures
from rich.console import Console

from cnnstudy.config.load import load_study
from cnnstudy.errors import TrackingError, UnknownNameError
from cnnstudy.execution import Event, Workers
from cnnstudy.names import Tag
from cnnstudy.records import EpochRecord, TrialResult, TrialSpec
from cnnstudy.results.watch import QUIET_SECONDS, watch_study
from cnnstudy.study.recorder import Recorder, TrialRecording
from cnnstudy.study.run import run_study
from cnnstudy.system.display import Display, SilentDisplay, choose_display
from cnnstudy.tracking.client import Tracker
from cnnstudy.tracking.recorded import RecordedRun

FILE = """
name: fake
data: {name: digits, classes: [0, 1, 2]}
image_size: 64
architectures: [alexnet]
factors: {batch_size: [8, 16, 32]}
training: {epochs: 2}
strategy: {sampler: grid}
budget: {trials: 3}
"""
SUMMARY = {"train/accuracy": 1.0, "val/accuracy": 0.625, "gap/accuracy": 0.375, "train/loss": 0.1, "val/loss": 0.9}


@pytest.fixture(autouse=True)
def _plain_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    leave_out_pictures(monkeypatch)


class Told(Display):
    """A display that records its calls."""

    silent = False

    def __init__(self) -> None:
        self.lines: list[str] = []

    def show_message(self, text: str) -> None:
        self.lines.append(text)

    def start_trials(self, done: int, total: int) -> None:
        self.lines.append(f"{done} of {total}")

    def start_trial(self, key: str, title: str, epochs: int, seconds: float = 0.0) -> None:
        self.lines.append(f"start {key} {epochs}")

    def epoch(self, key: str, record: EpochRecord) -> None:
        self.lines.append(f"{key} epoch {record.epoch} val {record.metrics['val/accuracy']:.2f}")

    def end_trial(self, key: str, text: str) -> None:
        self.lines.append(f"end {key} {text.split(',')[0]}")

    def stop_trial(self, key: str, text: str) -> None:
        self.lines.append(f"stop {key}")


class Elsewhere:
    """A driver on another machine, and a view; each sleep of the view runs one step of the driver."""

    def __init__(self, folder: Path, tracker: Tracker, spec: TrialSpec) -> None:
        self.file = folder / "fake.yaml"
        self.file.write_text(FILE, encoding="utf-8")
        self.tracker, self.spec = tracker, spec
        self.config = load_study(str(self.file)).config.model_dump(mode="json")
        self.study = tracker.open_study("fake", self.config)
        self.recorder = Recorder(tracker, self.study)
        self.display, self.now, self.sleeps = Told(), 1000.0, 0

    def begin(self) -> None:
        self.tracker.start_study(self.study, self.config, self.file, FILE)

    def start(self, number: int, **changes: Any) -> TrialRecording:
        return self.recorder.start(dataclasses.replace(self.spec, number=number, epochs=2, **changes))

    def epoch(self, recording: TrialRecording, number: int) -> None:
        metrics = {"train/accuracy": 0.5, "val/accuracy": 0.1 * number, "gap/accuracy": 0.1}
        self.recorder.epoch(recording, EpochRecord(number, metrics))

    def finish(self, recording: TrialRecording) -> None:
        result = TrialResult("finished", 2, 3, 12.5, SUMMARY, ((3, 1), (2, 2)), 10, 5, None, verdict="overfit")
        self.recorder.finish(recording, result)

    def end(self, state: str = "finished", **tags: str) -> None:
        self.tracker.end_run(self.study.run_id, state, tags)

    def watch(self, steps: Iterator[None], tracker: Tracker | None = None, **options: Any) -> list[str]:
        """Return what the view shows while the driver takes its steps; after the last step comes Ctrl-C."""

        def sleep(seconds: float) -> None:
            self.sleeps += 1
            self.now += seconds
            try:
                next(steps)
            except StopIteration:
                raise KeyboardInterrupt from None

        watch_study(tracker or self.tracker, "fake", self.display, sleep=sleep, clock=lambda: self.now, **options)
        return self.display.lines


@pytest.fixture
def elsewhere(own_places: Path, tracker: Tracker, spec: TrialSpec) -> Elsewhere:
    return Elsewhere(own_places, tracker, spec)


def test_a_study_is_followed_to_its_end(elsewhere: Elsewhere) -> None:
    elsewhere.begin()
    elsewhere.finish(elsewhere.start(0))
    one = elsewhere.start(1)
    elsewhere.epoch(one, 1)

    def driver() -> Iterator[None]:
        elsewhere.epoch(one, 2)
        yield
        yield
        elsewhere.finish(one)
        elsewhere.finish(elsewhere.start(2))
        elsewhere.end()
        yield

    assert elsewhere.watch(driver()) == [
        "1 of 3",
        "start alexnet-001 2",
        "alexnet-001 epoch 1 val 0.10",
        "study fake: 1 finished, 0 pruned, 0 failed, 1 running, 1 to start",
        "alexnet-001 epoch 2 val 0.20",
        "end alexnet-001 finished",
        "start alexnet-002 2",
        "end alexnet-002 finished",
        "study fake: 3 finished, 0 pruned, 0 failed, 0 missing. No driver is running: it is done.",
    ]


@pytest.mark.parametrize(
    ("state", "tags", "told"),
    [
        ("finished", {}, "No driver is running: it is done."),
        ("failed", {Tag.REASON: "interrupted"}, "it was stopped; `go on` resumes it."),
        ("failed", {Tag.REASON: "interrupted", Tag.LAST_COMMAND: "confirm"}, "it was stopped; `confirm` resumes it."),
        ("failed", {"cnnstudy.message": "no images"}, "it ended with an error: no images."),
        ("failed", {}, "it ended with trials missing; `go on` resumes it."),
        ("failed", {Tag.LAST_COMMAND: "confirm"}, "it ended with trials missing; `go on` resumes it."),
    ],
)
def test_a_study_that_nobody_runs_is_told_and_left(
    elsewhere: Elsewhere, state: str, tags: dict[str, str], told: str
) -> None:
    elsewhere.begin()
    elsewhere.finish(elsewhere.start(0))
    elsewhere.end(state, **{Tag.RUN_COMMAND: "go on", **tags})
    (line,) = elsewhere.watch(iter(()))
    assert line.startswith("study fake: 1 finished, 0 pruned, 0 failed, 2 missing. No driver")
    assert line.endswith(told)
    assert elsewhere.sleeps == 0


def test_a_study_of_a_version_that_did_not_record_its_call(elsewhere: Elsewhere) -> None:
    elsewhere.begin()
    elsewhere.end("failed", **{Tag.REASON: "interrupted"})
    (line,) = elsewhere.watch(iter(()))
    assert line.endswith("it was stopped; the command that ran it resumes it.")


def test_the_next_driver_can_be_waited_for(elsewhere: Elsewhere) -> None:
    elsewhere.end()

    def driver() -> Iterator[None]:
        yield
        elsewhere.begin()
        yield
        one = elsewhere.start(0)
        yield
        elsewhere.finish(one)
        elsewhere.end()
        yield
        yield

    with pytest.raises(KeyboardInterrupt):
        elsewhere.watch(driver(), until_done=False)
    assert elsewhere.display.lines == [
        "study fake: 0 finished, 0 pruned, 0 failed, 3 missing. No driver is running: it is done.",
        "0 of 3",
        "study fake: 0 finished, 0 pruned, 0 failed, 0 running, 3 to start; no trial is running, its images or weights "
        "may be in preparation",
        "start alexnet-000 2",
        "end alexnet-000 finished",
        "study fake: 1 finished, 0 pruned, 0 failed, 2 missing. No driver is running: it is done.",
        "View closed; study fake is not affected.",
    ]


def test_ctrl_c_ends_the_view_only(elsewhere: Elsewhere) -> None:
    elsewhere.begin()
    one = elsewhere.start(0)
    with pytest.raises(KeyboardInterrupt):
        elsewhere.watch(iter(()))
    assert elsewhere.display.lines[-1] == "View closed; study fake is not affected."
    states = {run.run_id: run.state for run in elsewhere.tracker.runs(elsewhere.study.experiment_id)}
    assert states == {elsewhere.study.run_id: "running", one.run_id: "running"}


class Shaky(Tracker):
    """A server that is down for a while."""

    away = False

    def recent_runs(self, experiment_id: str, since: int) -> list[RecordedRun]:
        if self.away:
            raise TrackingError("MLflow at http://far does not answer as it should: connection refused")
        return super().recent_runs(experiment_id, since)


def test_a_server_that_is_away_for_a_while(elsewhere: Elsewhere) -> None:
    tracker = Shaky(elsewhere.tracker.uri)
    elsewhere.begin()

    def driver() -> Iterator[None]:
        tracker.away = True
        yield
        one = elsewhere.start(0)
        yield
        yield
        tracker.away = False
        yield
        elsewhere.finish(one)
        elsewhere.end()
        yield

    assert elsewhere.watch(driver(), tracker)[2:] == [
        "MLflow at http://far does not answer as it should: connection refused\n"
        "Trying again until it answers; Ctrl-C closes the view.",
        "MLflow answers again",
        "start alexnet-000 2",
        "end alexnet-000 finished",
        "study fake: 1 finished, 0 pruned, 0 failed, 2 missing. No driver is running: it is done.",
    ]


def test_a_server_that_does_not_answer_at_the_start_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(TrackingError, match=r"MLflow at http://127\.0\.0\.1:1 failed"):
        watch_study(Tracker("http://127.0.0.1:1"), "fake", SilentDisplay())


def test_no_such_study(elsewhere: Elsewhere) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'fake'"):
        watch_study(elsewhere.tracker, "fakes", SilentDisplay())


def test_without_a_name_it_is_the_latest(elsewhere: Elsewhere) -> None:
    elsewhere.end()
    told = Told()
    watch_study(elsewhere.tracker, None, told)
    assert told.lines[0].startswith("study fake: 0 finished")


def test_silence_is_said_once(elsewhere: Elsewhere) -> None:
    elsewhere.begin()
    elsewhere.start(0)

    def driver() -> Iterator[None]:
        for _ in range(4):
            elsewhere.now += QUIET_SECONDS / 2
            yield

    with pytest.raises(KeyboardInterrupt):
        elsewhere.watch(driver())
    quiet = [line for line in elsewhere.display.lines if "no news" in line]
    assert quiet == ["no news for 10 min 04 s: a long epoch, or the driver was killed"]


def test_a_configuration_of_another_version_has_no_total(tracker: Tracker) -> None:
    study = tracker.open_study("old", {"objective": {"metric": "val/accuracy"}, "unknown": 1})
    tracker.end_run(study.run_id, "finished")
    told = Told()
    watch_study(tracker, "old", told)
    assert told.lines == ["study old: 0 finished, 0 pruned, 0 failed. No driver is running: it is done."]


@pytest.mark.parametrize("terminal", [True, False])
def test_what_is_on_the_screen(elsewhere: Elsewhere, terminal: bool) -> None:
    """Show an interrupted and repeated trial, and a confirmation, on the real displays."""
    elsewhere.begin()
    one = elsewhere.start(0)
    elsewhere.epoch(one, 1)

    def driver() -> Iterator[None]:
        elsewhere.tracker.end_run(one.run_id, "failed", {Tag.REASON: "interrupted"})
        again = elsewhere.start(0)
        yield
        elsewhere.epoch(again, 2)
        yield
        elsewhere.finish(again)
        confirming = elsewhere.start(0, purpose="confirm", seed=10_000)
        yield
        elsewhere.finish(confirming)
        elsewhere.end()
        yield

    stream, steps = io.StringIO(), driver()
    with choose_display(Console(file=stream, force_terminal=terminal, width=120, color_system=None), False) as display:
        watch_study(elsewhere.tracker, "fake", display, sleep=lambda _: next(steps), clock=lambda: 0.0)
    text = stream.getvalue()
    assert "interrupted; the next run of the study repeats it" in text
    assert "finished, train 100.0 %, val 62.5 %, gap +37.5 at epoch 2: overfit" in text
    assert "1 done with fresh seeds" in text
    if not terminal:
        assert "alexnet-000  epoch 2/2  train  50.0 %  val  20.0 %  gap +10.0\n" in text
        assert "\n1 of 3 trials, about " in text
        assert "so far" not in text  # how many are to be confirmed is not recorded


def test_a_study_as_it_really_runs(own_places: Path, tracker: Tracker) -> None:
    """Run driver and view in lockstep: each sleep of the view lets the driver handle one event."""
    (own_places / "fake.yaml").write_text(FILE, encoding="utf-8")
    go, arrived = threading.Semaphore(0), threading.Semaphore(0)
    failures: list[BaseException] = []

    def pause(_: Event) -> None:
        arrived.release()
        assert go.acquire(timeout=60)

    def drive() -> None:
        try:
            study = load_study(str(own_places / "fake.yaml"))
            own = Tracker(tracker.uri)
            run_study(
                study, own, Workers(lambda folder: FakeExecutor(folder, slots=2, on_event=pause)), SilentDisplay()
            )
        except BaseException as error:
            failures.append(error)
        finally:
            arrived.release()

    def sleep(_: float) -> None:
        go.release()
        assert arrived.acquire(timeout=60)

    driver = threading.Thread(target=drive, daemon=True)
    driver.start()
    assert arrived.acquire(timeout=60)
    told = Told()
    watch_study(tracker, "fake", told, sleep=sleep)
    driver.join(60)
    assert failures == []
    assert told.lines[0] == "0 of 3"
    keys = [f"alexnet-{number:03d}" for number in range(3)]
    for key in keys:
        of_trial = [line.split(" val ")[0] for line in told.lines if key in line]
        assert of_trial == [f"start {key} 2", f"{key} epoch 1", f"{key} epoch 2", f"end {key} finished"]
    assert told.lines[-1] == "study fake: 3 finished, 0 pruned, 0 failed, 0 missing. No driver is running: it is done."
