"""A study's record is the same, whatever happens to the store below it, and whenever."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from faulty_store import BRIEF, ONE, Desk, is_clean

import cnnstudy
from cnnstudy.analysis.confirmation import RECORD_PATH
from cnnstudy.errors import (
    DiskFullError,
    LostRunError,
    StudyBusyError,
    TakenOverError,
    TrackingUnavailableError,
)
from cnnstudy.execution import Done, Epoch, Event
from cnnstudy.names import NOBODY, Tag
from cnnstudy.system.files import hardlink_tree
from cnnstudy.system.processes import Process, this_process
from cnnstudy.tracking import entities, spool
from cnnstudy.tracking.client import Tracker
from cnnstudy.tracking.operations import EndRun
from cnnstudy.tracking.outbox import Outbox
from cnnstudy.tracking.recorded import RecordedRun, counted_runs
from cnnstudy.tracking.retry import RetryPolicy
from cnnstudy.tracking.spool import list_waiting


class Own(Desk):
    """On databases of its own."""

    make_tracker: Callable[[str], Tracker]
    deleted = ""

    def fresh(self, name: str, fails: Callable[[int, str], str] = lambda number, name: "") -> None:
        self.use(self.make_tracker(name), fails)


@pytest.fixture
def desk(own_places: Path, make_tracker: Callable[[str], Tracker], monkeypatch: pytest.MonkeyPatch) -> Own:
    desk = Own(own_places, monkeypatch)
    desk.make_tracker = make_tracker
    desk.fresh("first")
    return desk


# ---- each write, failing


@pytest.mark.parametrize(("when", "times"), [("before", 3), ("after", 2)])
def test_whichever_write_fails_the_record_is_the_same(desk: Own, own_places: Path, when: str, times: int) -> None:
    """Not done, or done with the reply lost; so often that records have to wait on disk."""
    desk.run(ONE)
    whole, calls = desk.record(), list(desk.client.calls)
    first = calls.index("create_run", 1)  # before that a call fails at once
    assert calls[first:].count("create_run") == 1
    waited = 0
    for at in range(first, len(calls)):
        desk.fresh(f"{when}-{at}", lambda number, name, at=at: when if at <= number < at + times else "")
        outcome = desk.run(ONE)
        assert (outcome.finished, outcome.missing) == (1, 0), (at, calls[at])
        assert desk.record() == whole, (at, calls[at])
        assert len(desk.told("MLflow at")) == len(desk.told("MLflow is available again")), (at, calls[at])
        assert is_clean(own_places), (at, calls[at])
        waited += len(desk.told("MLflow at"))
    assert waited > 0


def test_one_failure_is_nobodys_news(desk: Own) -> None:
    """As after a restart of PostgreSQL: a connection that was open is broken, and the next one is not."""
    desk.run(ONE)
    whole, said, calls = desk.record(), list(desk.said), list(desk.client.calls)
    for at in (calls.index("create_run", 1), calls.index("create_logged_model"), len(calls) - 1):
        desk.fresh(f"once-{at}", lambda number, name, at=at: "after" if number == at else "")
        desk.run(ONE)
        assert desk.record() == whole, calls[at]
        assert desk.said == said, calls[at]


@pytest.mark.parametrize("seed", range(3))
def test_a_store_that_fails_half_the_time(desk: Own, own_places: Path, seed: int) -> None:
    desk.run(slots=2)
    whole, first = desk.record(), desk.client.calls.index("create_run", 1)
    dice = random.Random(seed)
    desk.fresh("bad", lambda number, name: dice.choice(["", "", "before", "after"]) if number >= first else "")
    assert desk.run(slots=2).finished == 2
    assert desk.record() == whole
    assert is_clean(own_places)


@pytest.mark.parametrize(("when", "at"), [("before", 0), ("before", 1), ("before", 2), ("after", 1), ("after", 2)])
def test_a_store_that_is_down_at_the_start_is_waited_for_as_long_as_later(
    desk: Own, own_places: Path, when: str, at: int
) -> None:
    desk.run(ONE)
    whole = desk.record()
    desk.fresh("down", lambda number, name: when if number == at else "")
    with pytest.raises(TrackingUnavailableError, match=r"^MLflow at .* failed"):
        desk.run(ONE, retry_policy=BRIEF)
    assert desk.trained == []
    assert is_clean(own_places)
    desk.client.fails = lambda number, name: ""
    desk.begin()
    assert desk.run(ONE).finished == 1
    assert desk.record() == whole


def test_whichever_write_fails_at_the_start_the_study_waits(desk: Own, own_places: Path) -> None:
    """The store of files among them: the study's own file is the first."""
    desk.run(ONE)
    whole, calls = desk.record(), list(desk.client.calls)
    for at in range(1 + calls.index("log_artifacts")):
        desk.fresh(f"start-{at}", lambda number, name, at=at: "before" if at <= number < at + 3 else "")
        assert desk.run(ONE).finished == 1, calls[at]
        assert desk.record() == whole, calls[at]
        assert len([line for line in desk.said if "Waiting for MLflow; press Ctrl-C" in line]) == 1, calls[at]


def test_a_store_that_can_not_be_read_at_the_start_is_waited_for(desk: Own) -> None:
    """At the start of a study, of the call that resumes it, and of a confirmation."""
    desk.on_say = lambda text: desk.up() if "Waiting for MLflow" in text else None
    for trials in (1, 2):
        desk.client.down = True
        assert desk.run(f"budget.trials={trials}").finished == trials
        assert desk.client.down is False
    desk.client.down = True
    assert desk.confirm().confirmed is not None


def test_the_lost_reply_of_the_studys_own_run_is_no_loss(desk: Own) -> None:
    desk.run(ONE)
    whole = desk.record()
    desk.fresh("lost", lambda number, name: "after" if number == 0 else "")
    assert desk.run(ONE).finished == 1
    assert desk.client.calls[0] == "create_run"
    assert desk.record() == whole


# ---- an outage


def test_training_goes_on_while_the_store_is_down(desk: Own, own_places: Path) -> None:
    desk.run()
    whole = desk.record()
    desk.fresh("down")
    desk.at_the_end(desk.up)
    outcome = desk.run(on_event=desk.down)
    assert (outcome.finished, outcome.missing) == (2, 0)
    assert desk.record() == whole
    (late,) = desk.told("MLflow at")
    assert "the database is locked. The study continues; its records are stored in" in late
    places = [
        desk.said.index(line) for line in (late, *desk.told("waiting for"), *desk.told("MLflow is available again"))
    ]
    ended = next(place for place, line in enumerate(desk.said) if line.startswith("alexnet-001  finished"))
    assert places[0] < ended < places[1] < places[2], "the last trial ended before anything was waited for"
    assert is_clean(own_places)


def test_a_slow_store_holds_nothing_up(desk: Own, own_places: Path) -> None:
    desk.run()
    whole = desk.record()
    answers = threading.Event()

    def slowly(number: int, name: str) -> str:
        if "alexnet-000" in "".join(desk.said):
            answers.wait(60)
        return ""

    desk.fresh("slow", slowly)
    desk.at_the_end(answers.set)
    assert desk.run(retry_policy=RetryPolicy(wait_per_record=0.05, give_up_after=60)).finished == 2
    assert desk.record() == whole
    assert len(desk.told("MLflow did not answer within 0.05 s. The study continues")) == 1
    assert is_clean(own_places)


def test_what_the_end_does_not_wait_for_the_next_call_delivers(desk: Own, own_places: Path) -> None:
    desk.run()
    whole = desk.record()
    desk.fresh("down")
    with pytest.raises(TrackingUnavailableError) as caught:
        desk.run(retry_policy=BRIEF, on_event=desk.down)
    (left,) = list_waiting()
    assert (left.study, left.tracking) == ("fake", desk.tracker.uri)
    temporary = Path(tempfile.gettempdir())
    kept = [
        folder for folder in (*temporary.glob("cnnstudy-outbox-*"), *Path(left.folder).iterdir()) if folder.is_dir()
    ]
    assert kept
    assert {folder.stat().st_mode & 0o777 for folder in kept} == {0o700}, "what waits is nobody else's to read"
    assert caught.value.exit_code == 3
    assert f"records are stored in {left.folder}; run the same command to send them first" in str(caught.value)
    assert desk.trained == ["alexnet-000", "alexnet-001"]

    with pytest.raises(TrackingUnavailableError, match=r"^MLflow at .* failed"):
        desk.run(retry_policy=BRIEF)
    assert list_waiting() == [left]
    desk.up()
    desk.said.clear()
    assert desk.run().finished == 2
    assert desk.trained == [], "nothing is trained twice"
    assert desk.said[0].startswith(
        f"sending {left.records} records that an earlier run stored for MLflow in {left.folder}"
    )
    ours, theirs = ([run for run in record["runs"] if run["name"] != "study fake"] for record in (whole, desk.record()))
    assert ours == theirs
    assert is_clean(own_places)


def test_confirming_delivers_what_the_search_left(desk: Own, own_places: Path) -> None:
    with pytest.raises(TrackingUnavailableError):
        desk.run(retry_policy=BRIEF, on_event=desk.down)
    desk.up()
    outcome = desk.confirm()
    assert outcome.confirmed is not None
    assert (outcome.finished, len(outcome.confirmed.standings)) == (2, 2)
    assert is_clean(own_places)


def test_ctrl_c_while_records_wait_leaves_them_for_the_next_call(desk: Own, own_places: Path) -> None:
    desk.run("budget.trials=4")
    whole = desk.record(times=False)
    desk.fresh("down")
    with pytest.raises(KeyboardInterrupt):
        desk.run("budget.trials=4", interrupt_at=6, on_event=desk.down)
    assert desk.trained == ["alexnet-000", "alexnet-001", "alexnet-002"]
    assert list_waiting()
    desk.up()
    assert desk.run("budget.trials=4").finished == 4
    assert desk.trained == ["alexnet-002", "alexnet-003"], "those that ended are not run again"
    states = [(run.tags["cnnstudy.trial"], run.state, run.reason) for run in desk.runs()]
    assert states.count(("alexnet-002", "failed", "interrupted")) == 1
    assert [run for run in desk.record(times=False)["runs"] if run["tags"]["cnnstudy.state"] != "failed"] == whole[
        "runs"
    ]


def test_ctrl_c_while_the_end_waits(desk: Own) -> None:
    def press() -> None:
        if desk.told("waiting for MLflow"):
            os.kill(os.getpid(), signal.SIGINT)

    desk.fresh("down")
    desk.client.on_call = press
    with pytest.raises(KeyboardInterrupt):
        desk.run(on_event=desk.down)
    assert desk.told("waiting for MLflow")[0].endswith("press Ctrl-C to stop, and the next run sends them")
    desk.client.on_call = lambda: None
    desk.up()
    assert desk.run().finished == 2
    assert desk.trained == []


def test_ctrl_c_while_the_store_is_down_and_nothing_waits_is_no_wait(desk: Own) -> None:
    """How far the study is can't be said then."""
    with pytest.raises(KeyboardInterrupt):
        desk.run(interrupt_at=1, on_event=lambda event: setattr(desk.client, "down", True))
    assert desk.told("MLflow at") == []
    desk.up()
    assert desk.run().finished == 2


def test_an_end_without_a_beginning_is_none(desk: Own, monkeypatch: pytest.MonkeyPatch) -> None:
    """There was no room for the start of a run, and then there was for its end."""
    desk.run()
    runs, study = len(desk.runs()), desk.tracker.study("fake")
    outbox = Outbox(desk.tracker, study)
    outbox.leave("token-of-none", EndRun("failed"))
    outbox.delivery.wait()
    outbox.delivery.leave(spool.Envelope("set_tags", 1, "token-of-none", {"tags": {}}))
    with pytest.raises(LostRunError, match=r"no run with the tag cnnstudy\.token = token-of-none"):
        outbox.delivery.wait()
    outbox.close()
    assert len(desk.runs()) == runs


def test_a_driver_that_was_killed_while_records_waited(desk: Own, own_places: Path) -> None:
    """A process of its own, and its end is kill -9."""
    desk.run()
    whole = desk.record(times=False)
    desk.fresh("killed")
    code = f"""
import sys
sys.path[:0] = {[str(Path(__file__).parents[1]), str(Path(cnnstudy.__file__).parent.parent)]!r}
import pytest
from pathlib import Path
from faulty_store import Desk
from cnnstudy.tracking.client import Tracker

desk = Desk(Path({str(own_places)!r}), pytest.MonkeyPatch())
desk.use(Tracker({desk.tracker.uri!r}))
desk.on_say = lambda text: print(text, flush=True)
desk.run(on_event=desk.down)
"""
    driver = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    with driver:
        assert driver.stdout is not None
        assert any(line.startswith("waiting for MLflow") for line in driver.stdout)
        driver.kill()
    assert list_waiting()
    assert desk.run().finished == 2
    assert desk.trained == []
    assert desk.record(times=False) == whole
    assert not list_waiting()


def test_source_weights_learnt_while_the_store_is_down_are_recorded_once(desk: Own) -> None:
    pretrain = "weights={default: {source: pretrain, epochs: 1, data: {name: digits, classes: [3, 4]}}}"
    desk.at_the_end(desk.up)
    outcome = desk.run(ONE, "factors={transfer: frozen}", pretrain, on_event=desk.down)
    assert outcome.finished == 1
    assert [(run.state, "cnnstudy.from_cache" in run.tags) for run in desk.runs("pretrain")] == [("finished", False)]


# ---- the champion


def test_a_store_that_breaks_while_a_champion_is_confirmed(desk: Own, own_places: Path) -> None:
    desk.run()
    desk.at_the_end(desk.up)
    outcome = desk.confirm(on_event=desk.down)
    assert outcome.confirmed is not None
    assert outcome.confirmed.test is not None
    assert len(desk.runs("confirm")) == 4
    assert desk.client.client.download_artifacts(desk.runs("study")[0].run_id, RECORD_PATH)
    assert is_clean(own_places)


def test_a_champions_version_whose_reply_was_lost_is_made_once(desk: Own, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.run()
    client = type(desk.client.client)
    make, lost = client.create_model_version, []

    def lose(*given: Any, **named: Any) -> Any:
        version = make(*given, **named)
        if not lost:
            lost.append(version)
            raise ConnectionResetError("the reply was lost")
        return version

    monkeypatch.setattr(client, "create_model_version", lose)
    outcome = desk.confirm()
    assert lost
    assert outcome.confirmed is not None
    assert outcome.confirmed.version == "1"
    assert len(desk.client.client.search_model_versions("name = 'fake'")) == 1


# ---- another driver


def test_who_lost_the_study_while_the_store_was_down_ends_nothing(desk: Own) -> None:
    def lose() -> None:
        elsewhere = Process("elsewhere", 7, "1", "another machine", "another boot", "pid:[1]")
        client = desk.client.client
        experiment = client.get_experiment_by_name("fake").experiment_id
        (study,) = client.search_runs([experiment], "tags.`cnnstudy.kind` = 'study'")
        client.set_tag(study.info.run_id, Tag.DRIVER, json.dumps(elsewhere.to_json()))
        desk.up()

    desk.at_the_end(lose)
    with pytest.raises(TakenOverError, match="pid 7 on elsewhere"):
        desk.run(on_event=desk.down)
    assert [run.state for run in desk.runs()] == ["running"]
    assert desk.runs("study")[0].state == "running"
    (left,) = list_waiting()
    with pytest.raises(StudyBusyError, match="give --take-over"):
        desk.run()
    assert list_waiting() == [left]
    assert desk.run(take_over=True).finished == 2
    assert desk.trained == []
    assert desk.runs("study")[0].tags[Tag.DRIVER] == NOBODY


def test_the_last_words_of_an_earlier_call_do_not_give_up_the_study_of_this_one(desk: Own) -> None:
    with pytest.raises(TrackingUnavailableError):
        desk.run(retry_policy=BRIEF, on_event=desk.down)
    desk.up()
    named: list[str] = []
    desk.run("budget.trials=3", on_event=lambda event: named.append(desk.runs("study")[0].tags[Tag.DRIVER]))
    assert set(named) == {json.dumps(this_process().to_json())}


def test_a_trial_that_another_driver_marked_interrupted_stays_so(desk: Own) -> None:
    """It is run again there: what waits here of it came too late."""
    with pytest.raises(TrackingUnavailableError):
        desk.run(retry_policy=BRIEF, on_event=desk.down)
    desk.up()
    (first,) = desk.runs()
    desk.tracker.end_run(first.run_id, "failed", {Tag.REASON: "interrupted"})
    assert desk.run().finished == 2
    assert desk.trained == ["alexnet-000"]
    interrupted = desk.runs()[0]
    assert (interrupted.run_id, interrupted.state, interrupted.reason) == (first.run_id, "failed", "interrupted")
    assert "cnnstudy.model" not in interrupted.tags
    assert desk.tracker.files(first.run_id, "") == []


@pytest.fixture
def machine(own_places: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """machine(name): go on as on another machine, with a cache and so with an outbox of its own."""
    return lambda name: monkeypatch.setenv("CNNSTUDY_CACHE", str(own_places / name / "cache"))


def run_on_two_machines(desk: Own, machine: Callable[[str], None]) -> RecordedRun:
    """A whole trial waits on the first machine, and the second runs it to its end; the run of that."""
    desk.fresh("taken-over", lambda number, name: "before" if number > 0 and name == "create_run" else "")
    machine("first")
    with pytest.raises(TrackingUnavailableError):
        desk.run(ONE, retry_policy=BRIEF)
    assert desk.trained == ["alexnet-000"]
    assert desk.runs() == []
    desk.client.fails = lambda number, name: ""
    machine("second")
    assert desk.run(ONE).finished == 1
    assert desk.trained == ["alexnet-000"]
    (run,) = desk.runs()
    machine("first")
    return run


def test_a_trial_that_another_machine_ran_meanwhile_counts_once(
    desk: Own, own_places: Path, machine: Callable[[str], None]
) -> None:
    other = run_on_two_machines(desk, machine)
    outcome = desk.run(ONE)
    assert desk.trained == []
    assert (outcome.finished, outcome.missing) == (1, 0)
    (late,) = [run for run in desk.runs() if run.run_id != other.run_id]
    assert (late.state, late.reason, late.status, late.done) == ("failed", "interrupted", "KILLED", False)
    assert late.tags["cnnstudy.message"].endswith(f"completed this trial: run {other.run_id}")
    assert desk.tracker.files(late.run_id, "") == []
    assert counted_runs(desk.runs()) == {"alexnet-000": other}
    assert [one["run"] for one in desk.record()["models"]] == ["batch size 32, seed 0 (alexnet-000)"]
    assert len(desk.told("alexnet-000: another driver took over the study")) == 1
    assert is_clean(own_places / "first")


def test_a_trial_that_another_machine_did_not_bring_to_its_end_arrives_late(
    desk: Own, own_places: Path, machine: Callable[[str], None]
) -> None:
    other = run_on_two_machines(desk, machine)
    desk.tracker.end_run(other.run_id, "failed", {Tag.REASON: "interrupted"})
    assert desk.run(ONE).finished == 1
    assert desk.trained == []
    (late,) = [run for run in desk.runs() if run.done]
    assert late.run_id != other.run_id
    assert "cnnstudy.model" in late.tags
    assert is_clean(own_places / "first")


# ---- what can't be helped


def test_a_record_that_is_refused_ends_the_study_with_nothing_lost(desk: Own) -> None:
    """Somebody deletes the run while its records wait."""

    def delete() -> None:
        desk.up()
        desk.deleted = desk.runs()[0].run_id
        desk.client.client.delete_run(desk.deleted)

    desk.at_the_end(delete)
    with pytest.raises(LostRunError, match=r"the run of alexnet-000 .* was deleted in MLflow. Restore it: ") as caught:
        desk.run(on_event=desk.down)
    (left,) = list_waiting()
    assert f"`mlflow runs restore --run-id {desk.deleted}`" in str(caught.value)
    assert f"{left.records - 1} records are stored in {left.folder}" in str(caught.value)
    assert "`python -m cnnstudy doctor --repair` sets the records of such runs aside" in str(caught.value)
    with pytest.raises(LostRunError, match=f"{left.records} records are stored"):
        desk.run()
    desk.client.client.restore_run(desk.deleted)
    assert desk.run().finished == 2
    assert desk.trained == []


def test_records_can_be_given_up(desk: Own) -> None:
    with pytest.raises(TrackingUnavailableError, match=r"To discard them, delete that folder\.$"):
        desk.run(retry_policy=BRIEF, on_event=desk.down)
    shutil.rmtree(list_waiting()[0].folder)
    desk.up()
    assert desk.run().finished == 2
    assert sorted(desk.trained) == ["alexnet-000", "alexnet-001"]


def test_a_full_disk_stops_the_study_and_loses_nothing(desk: Own, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow is down, and when the first trial ends there is no room but what was kept free."""
    write, full = spool._write, []

    def writing(path: Path, content: bytes) -> None:
        if full and (path.parent / "reserve").exists():
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write(path, content)

    def told(event: Event) -> None:
        desk.client.down = desk.client.down or isinstance(event, Epoch)
        full.extend([True] if isinstance(event, Done) and event.key == "alexnet-000" else [])

    desk.run("budget.trials=4")
    whole = desk.record(times=False)
    desk.fresh("full")
    monkeypatch.setattr(spool, "_write", writing)
    with pytest.raises(
        DiskFullError, match=r"the disk is full: .*No space left.* is safe \(\d+ records are stored"
    ) as caught:
        desk.run("budget.trials=4", on_event=told)
    assert caught.value.exit_code == 3
    assert desk.trained == ["alexnet-000", "alexnet-001"]
    full.clear()
    desk.up()
    assert desk.run("budget.trials=4").finished == 4
    assert desk.trained == ["alexnet-001", "alexnet-002", "alexnet-003"], "the first one's record was complete"
    assert [run for run in desk.record(times=False)["runs"] if run["tags"]["cnnstudy.state"] != "failed"] == whole[
        "runs"
    ]


def test_a_disk_too_full_to_begin_with(desk: Own, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(spool, "_write", full)
    with pytest.raises(DiskFullError, match="no disk space to store records while MLflow is unavailable"):
        desk.run()
    assert desk.trained == []


def test_a_full_disk_below_mlflows_files(desk: Own, own_places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its database answers, and there is no room for a model."""
    desk.run()
    whole = desk.record(times=False)
    desk.fresh("full")
    room = []

    def without_room(source: Path, target: Path) -> None:
        if not room:
            raise OSError(errno.ENOSPC, "No space left on device", str(target))
        hardlink_tree(source, target)

    monkeypatch.setattr(entities, "hardlink_tree", without_room)
    with pytest.raises(DiskFullError, match="free some space, then run the same command"):
        desk.run()
    assert desk.runs("study")[0].state == "running", "what came after waits, too"
    room.append(True)
    assert desk.run().finished == 2
    assert desk.trained == ["alexnet-001"]
    assert [run for run in desk.record(times=False)["runs"] if run["tags"]["cnnstudy.state"] != "failed"] == whole[
        "runs"
    ]
    assert is_clean(own_places)
