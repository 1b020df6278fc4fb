"""The decisions on everything that a killed process may leave."""

from __future__ import annotations

import dataclasses
import itertools
import random

import pytest

from cnnstudy.records import FAILURE_REASONS, INTERRUPTED
from cnnstudy.study.recovery import (
    DISCARDED,
    ENDED,
    MATCHED,
    REMOVED,
    STOPPED,
    Decision,
    DriverState,
    FoundCheckpoint,
    FoundFolder,
    FoundStudy,
    FoundWorker,
    Leftovers,
    decide_recovery,
)
from cnnstudy.tracking.entities import FoundModel, FoundVersion, choose_mlflow_status
from cnnstudy.tracking.recorded import RecordedRun

DRIVERS: tuple[DriverState, ...] = ("gone", "alive", "unknown")
#: Every state that a run may have, with its reason.
STATES = [("running", ""), ("", ""), ("finished", ""), ("pruned", ""), *(("failed", why) for why in FAILURE_REASONS)]


def run(state: str = "finished", reason: str = "", status: str = "FINISHED", kind: str = "trial") -> RecordedRun:
    return RecordedRun("run", "alexnet-000 scratch", kind, state, reason, 0, {}, {}, {}, status=status)


def study(*runs: RecordedRun, driver: DriverState = "gone", models: tuple[FoundModel, ...] = ()) -> Leftovers:
    return Leftovers(studies=(FoundStudy("probe", driver, runs, models),))


def becomes(found: Leftovers) -> list[tuple[str, str]]:
    return [(decision.becomes, decision.status) for decision in decide_recovery(found)]


# ---- runs


@pytest.mark.parametrize("kind", ["trial", "confirm", "pretrain"])
@pytest.mark.parametrize("status", ["RUNNING", "SCHEDULED", "FINISHED", "FAILED", "KILLED"])
@pytest.mark.parametrize(("state", "reason"), STATES)
def test_a_run_whose_driver_is_gone(state: str, reason: str, status: str, kind: str) -> None:
    found = becomes(study(run(state, reason, status, kind)))
    if state in ("running", ""):
        assert found == [(INTERRUPTED, "")]
    elif status in ("RUNNING", "SCHEDULED"):
        assert found == [
            (MATCHED, {"failed": "FAILED"}.get(state, "FINISHED") if reason != "interrupted" else "KILLED")
        ]
    else:
        assert found == []


@pytest.mark.parametrize(
    ("state", "reason", "status", "expected"),
    [
        ("running", "", "RUNNING", [(STOPPED, "")]),  # or before its first tags were written
        ("running", "", "FINISHED", [(STOPPED, "")]),
        ("finished", "", "RUNNING", [(MATCHED, "FINISHED")]),  # killed as it was restarted, or as it ended
        ("failed", "interrupted", "RUNNING", [(MATCHED, "KILLED")]),
        ("failed", "", "RUNNING", [(MATCHED, "FAILED")]),
        ("finished", "", "FINISHED", []),
        ("failed", "interrupted", "KILLED", []),
    ],
)
def test_a_studys_own_run(state: str, reason: str, status: str, expected: list[tuple[str, str]]) -> None:
    assert becomes(study(run(state, reason, status, "study"))) == expected


@pytest.mark.parametrize("driver", ["alive", "unknown"])
def test_what_a_living_driver_may_be_at_work_on_is_not_touched(driver: DriverState) -> None:
    runs = [run(state, reason, status) for (state, reason), status in itertools.product(STATES, ("RUNNING", "FAILED"))]
    models = tuple(FoundModel("m-1", "alexnet-000", status, "run") for status in ("PENDING", "READY"))
    assert becomes(study(*runs, driver=driver, models=models)) == []


def test_the_studys_own_run_comes_last() -> None:
    found = study(run("running", "", "RUNNING", "study"), run("running", "", "RUNNING"))
    assert [becomes for becomes, _ in becomes(found)] == [INTERRUPTED, STOPPED]


# ---- models and versions


@pytest.mark.parametrize(
    ("status", "state", "reason", "discarded"),
    [
        ("PENDING", "running", "", True),
        ("PENDING", "finished", "", True),
        ("PENDING", "failed", "crash", True),
        ("READY", "running", "", True),
        ("READY", "failed", "interrupted", True),
        ("FAILED", "running", "", True),
        ("READY", "finished", "", False),
        ("READY", "failed", "crash", False),  # may be the user's own
        ("FAILED", "finished", "", False),
    ],
)
def test_a_model_goes_with_its_run_and_before_it(status: str, state: str, reason: str, discarded: bool) -> None:
    decisions = decide_recovery(
        study(run(state, reason, "RUNNING"), models=(FoundModel("m-1", "alexnet-000", status, "run"),))
    )
    assert [one.key for one in decisions if one.becomes == DISCARDED] == ["m-1"] * discarded
    if discarded:
        assert decisions[0].becomes == DISCARDED


@pytest.mark.parametrize(("status", "discarded"), [("PENDING", True), ("READY", False)])
def test_a_model_of_no_known_run(status: str, discarded: bool) -> None:
    found = becomes(study(models=(FoundModel("m-1", "x", status, ""),)))
    assert found == [(DISCARDED, "")] * discarded


@pytest.mark.parametrize(("status", "removed"), [("PENDING_REGISTRATION", True), ("READY", False)])
def test_a_version(status: str, removed: bool) -> None:
    found = Leftovers(studies=(FoundStudy("probe", "gone", (), versions=(FoundVersion("probe", "2", status),)),))
    assert [(one.becomes, one.key) for one in decide_recovery(found)] == [(REMOVED, "probe/2")] * removed


# ---- this machine


@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize(("building", "what"), [(True, "building"), (False, "folder")])
def test_a_folder(held: bool, building: bool, what: str) -> None:
    found = decide_recovery(Leftovers(folders=(FoundFolder("/tmp/it", held, building),)))
    assert [(one.what, one.becomes, one.key) for one in found] == [(what, REMOVED, "/tmp/it")] * (not held)


@pytest.mark.parametrize("lives", [True, False])
def test_a_worker(lives: bool) -> None:
    found = decide_recovery(Leftovers(workers=(FoundWorker(7, lives),)))
    assert [(one.becomes, one.key) for one in found] == [(ENDED, "7")] * (not lives)


def test_a_worker_is_ended_before_its_folder_is_removed() -> None:
    found = Leftovers(folders=(FoundFolder("/tmp/it", False),), workers=(FoundWorker(7, False),))
    assert [becomes for becomes, _ in becomes(found)] == [ENDED, REMOVED]


def test_each_decision_is_a_sentence() -> None:
    (left,) = decide_recovery(study(run("running", "", "RUNNING")))
    said = "alexnet-000 scratch was left unfinished by a driver that no longer exists: marked interrupted, to run again"
    assert str(left) == said
    (left,) = decide_recovery(study(run("finished", "", "RUNNING")))
    assert str(left).endswith("is finished, but MLflow still shows RUNNING: MLflow's status corrected")


# ---- checkpoints


@pytest.mark.parametrize(
    ("ended", "days", "removed"),
    [(True, 0, True), (False, 400, False), (None, 1, False), (None, 30, False), (None, 31, True)],
    ids=["ended", "to go on, however old", "another MLflow's perhaps", "still", "nobody's"],
)
def test_a_checkpoint(ended: bool | None, days: float, removed: bool) -> None:
    found = Leftovers(checkpoints=(FoundCheckpoint("/c/a", "probe", "alexnet-001", days, ended),))
    decisions = decide_recovery(found)
    assert [(one.what, one.key, one.becomes) for one in decisions] == [("checkpoint", "/c/a", REMOVED)] * removed
    if ended:
        told = "checkpoint of alexnet-001 of study probe, /c/a, belongs to a trial that has ended: removed"
        assert [str(one) for one in decisions] == [told]


# ---- whatever is found


def random_found(dice: random.Random) -> Leftovers:
    studies = []
    for name in range(dice.randint(0, 3)):
        runs = []
        for number in range(dice.randint(0, 5)):
            state, reason = dice.choice(STATES)
            kind = dice.choice(["study", "trial", "confirm", "pretrain"])
            status = dice.choice(["RUNNING", "SCHEDULED", "FINISHED", "FAILED", "KILLED"])
            found = dataclasses.replace(run(state, reason, status, kind), run_id=f"{name}-{number}")
            runs.append(found)
        models = tuple(
            FoundModel(f"m-{name}-{number}", "x", dice.choice(["PENDING", "READY", "FAILED"]), f"{name}-{number}")
            for number in range(dice.randint(0, 6))
        )
        status = dice.choice(["READY", "PENDING_REGISTRATION"])
        versions = tuple(FoundVersion(f"s{name}", str(number), status) for number in range(dice.randint(0, 2)))
        studies.append(FoundStudy(f"s{name}", dice.choice(DRIVERS), tuple(runs), models, versions))
    folders = tuple(FoundFolder(f"/{n}", dice.random() < 0.5, dice.random() < 0.5) for n in range(dice.randint(0, 3)))
    workers = tuple(FoundWorker(n, dice.random() < 0.5) for n in range(dice.randint(0, 3)))
    return Leftovers(tuple(studies), folders, workers)


def applied(found: Leftovers, decisions: list[Decision]) -> Leftovers:
    """Return the leftovers that remain after some decisions were carried out."""
    by_key = {(one.what, one.key): one for one in decisions}

    def after(one: RecordedRun) -> RecordedRun:
        decision = by_key.get(("run", one.run_id))
        if decision is None:
            return one
        if decision.becomes == MATCHED:
            return dataclasses.replace(one, status=decision.status)
        assert decision.becomes in (INTERRUPTED, STOPPED)
        return dataclasses.replace(one, state="failed", reason="interrupted", status="KILLED")

    return Leftovers(
        tuple(
            dataclasses.replace(
                one,
                runs=tuple(map(after, one.runs)),
                models=tuple(model for model in one.models if ("model", model.model_id) not in by_key),
                versions=tuple(v for v in one.versions if ("version", f"{v.name}/{v.version}") not in by_key),
            )
            for one in found.studies
        ),
        tuple(one for one in found.folders if not {("folder", one.path), ("building", one.path)} & set(by_key)),
        tuple(one for one in found.workers if ("worker", str(one.pid)) not in by_key),
    )


@pytest.mark.parametrize("seed", range(300))
def test_whatever_is_found(seed: int) -> None:
    dice = random.Random(seed)
    found = random_found(dice)
    decisions = decide_recovery(found)
    # repairs are idempotent, and an interrupted repair can be completed
    after = applied(found, decisions)
    assert decide_recovery(after) == []
    halfway = applied(found, decisions[: dice.randint(0, len(decisions))])
    assert applied(halfway, decide_recovery(halfway)) == after
    touched = {one.key for one in decisions}
    for before, now in zip(found.studies, after.studies, strict=True):
        ids = {one.run_id for one in before.runs} | {one.model_id for one in before.models}
        if before.driver != "gone":
            assert not ids & touched
            continue
        for old, new in zip(before.runs, now.runs, strict=True):
            if old.state in ("finished", "pruned", "failed"):
                assert (old.state, old.reason) == (new.state, new.reason)
            assert new.status not in ("RUNNING", "SCHEDULED")
            assert new.state not in ("running", "")
            if old.state in ("finished", "pruned", "failed") and old.status == "RUNNING":
                assert new.status == choose_mlflow_status(old.state, old.reason)
        kept = {model.model_id for model in now.models}
        ready = {run.run_id for run in before.runs if run.state == "finished"}
        assert {one.model_id for one in before.models if one.status == "READY" and one.run_id in ready} <= kept
        assert "PENDING" not in {model.status for model in now.models}
    assert all(folder.held for folder in after.folders)
    assert all(worker.driver_lives for worker in after.workers)
