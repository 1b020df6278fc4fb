"""Causes outside of a study are named, with where they are and what to do, instead of what a library says of them."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import queue
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import call
from fake_executor import FakeExecutor
from odd_photos import write_photos
from pictures import leave_out_pictures

from cnnstudy.config.load import load_study
from cnnstudy.data.duplicates import image_digests
from cnnstudy.data.image_tree import read_tree
from cnnstudy.errors import CacheError, DataError, DiskFullError, EnvironmentTrouble
from cnnstudy.execution import Failed, Workers, local
from cnnstudy.execution.worker import Worker
from cnnstudy.study import recorder
from cnnstudy.study.failures import FailureCounter
from cnnstudy.study.run import run_study
from cnnstudy.system import cache
from cnnstudy.system.display import SilentDisplay
from cnnstudy.system.imports import require_home
from cnnstudy.system.scratch import describe_unusable_tmpdir, restate_os_error, scratch_folder
from cnnstudy.tracking.client import Tracker

FILE = """
name: fake
data: {name: digits, classes: [0, 1, 2]}
image_size: 64
architectures: [alexnet]
factors: {batch_size: [8, 16]}
training: {epochs: 1}
strategy: {sampler: grid}
budget: {trials: 2}
"""
OTHER = 65534
needs_users = pytest.mark.skipif(not hasattr(os, "getuid"), reason="there are no users")
needs_root = pytest.mark.skipif(getattr(os, "getuid", lambda: 1)() != 0, reason="only root can act for other users")


# ---- the cache


@needs_users
def test_each_user_has_a_cache_of_their_own_in_a_shared_folder(
    own_places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = own_places / "cache"
    assert cache.cache_folder() == shared, "it does not exist yet"
    shared.mkdir()
    assert cache.cache_folder() == shared
    monkeypatch.setattr(os, "getuid", lambda: OTHER)
    assert cache.cache_folder() == shared / f"user-{OTHER}"
    assert cache.require_cache("locks") == shared / f"user-{OTHER}" / "locks"


@needs_root
def test_the_locks_of_others_shut_nobody_out(own_places: Path) -> None:
    """Of a folder that everyone can write."""
    locks = own_places / "cache" / "locks"
    locks.mkdir(parents=True)
    for folder in (locks.parent, locks):
        os.chown(folder, OTHER, OTHER)
    built = cache.build_entry("images", "0" * 24, lambda entry: (entry / "one").touch())
    assert built.is_relative_to(own_places / "cache" / "user-0")
    assert cache.require_cache("locks") != locks


@needs_users
def test_a_part_of_the_cache_that_belongs_to_another_user_is_named(
    own_places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `sudo` leaves it."""
    locks = own_places / "cache" / "locks"
    locks.mkdir(parents=True)
    monkeypatch.setattr(cache, "is_owned_by_user", lambda folder: folder != locks)
    refused = PermissionError(errno.EACCES, "Permission denied", str(locks / "1.lock"))
    told = restate_os_error(refused)
    assert isinstance(told, CacheError)
    assert str(told).startswith(f"the cache folder {own_places / 'cache'} can't be used (Permission denied: {locks} be")
    assert str(told).endswith("set CNNSTUDY_CACHE to a folder that you can write, on a disk with room.")
    assert restate_os_error(PermissionError(errno.EACCES, "Permission denied", "/elsewhere")) is None


# ---- no home folder


@needs_users
def test_without_a_home_folder_it_is_said_what_to_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_home()
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os, "getuid", lambda: 2**30)
    with pytest.raises(EnvironmentTrouble, match=r"HOME is not set, and user 1073741824 has no entry .* Set HOME to a"):
        require_home()
    (tmp_path / "sitecustomize.py").write_text("import os\nos.environ.pop('HOME')\nos.getuid = lambda: 2**30\n")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    answer = call("leaderboard", folder=tmp_path, PYTHONPATH=path, HOME="/")
    assert (answer.code, answer.output) == (3, "")
    assert answer.errors.startswith("error: there is no home folder: HOME is not set")


# ---- disks


def full(place: Path | None = None) -> OSError:
    return OSError(errno.ENOSPC, "No space left on device", *([str(place)] if place else []))


def test_a_full_disk_is_told_with_the_room_in_each_place(own_places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = str(restate_os_error(full()))
    assert told.startswith("a disk has no room left (No space left on device). There are ")
    for place in (f"the working folder, {own_places}", f"the cache, {own_places / 'cache'}", "temporary files, "):
        assert f"B free for {place}" in told
    assert "set CNNSTUDY_CACHE or TMPDIR to folders on another disk" in told
    assert str(restate_os_error(full(own_places / "model"))).startswith(f"a disk has no room left ({own_places}/model:")
    with scratch_folder() as folder:
        monkeypatch.setattr(tempfile, "tempdir", str(folder))
        assert f"temporary files, {folder.parent}." in str(restate_os_error(full())), "a worker's is in its driver's"


def test_no_folder_for_temporary_files(own_places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(own_places / "none")])
    monkeypatch.setattr(tempfile, "tempdir", None)
    with pytest.raises(FileNotFoundError) as caught:
        tempfile.gettempdir()
    assert "that can be written and has room" in str(restate_os_error(caught.value))
    assert "set TMPDIR to one" in str(restate_os_error(caught.value))


def test_a_tmpdir_that_is_passed_over_is_named(own_places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(own_places / "none"))
    told = f"WARNING: TMPDIR, {own_places}/none, can't be written or has no room; temporary files go to "
    assert describe_unusable_tmpdir() == f"{told}{tempfile.gettempdir()}"
    for usable in (tempfile.gettempdir(), f"{tempfile.gettempdir()}/", ""):
        monkeypatch.setenv("TMPDIR", usable)
        assert describe_unusable_tmpdir() == ""


@pytest.mark.parametrize(("where", "name"), [(None, "DiskFullError"), ("cache/images/1", "CacheError")])
def test_a_worker_names_them(where: str | None, name: str, own_places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(own: Worker, key: str, payload: object) -> None:
        raise full(own_places / where) if where else full()

    monkeypatch.setattr(Worker, "_run_trial", refuse)
    events = io.StringIO()
    worker = Worker(events, queue.Queue(), 1, False)
    worker.run({"key": "a", "kind": "run_trial", "folder": "", "asks": False, "payload": {}})
    assert json.loads(events.getvalue())["error"] == name


def test_a_full_disk_stops_the_study_at_its_first_trial(
    own_places: Path, tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No other trial could do better; each runs once there is room."""
    leave_out_pictures(monkeypatch)
    (own_places / "fake.yaml").write_text(FILE)
    said = "a disk has no room left"
    failure = Failed("alexnet-000", "crash", said, "Traceback", error="DiskFullError")

    @contextlib.contextmanager
    def no_room() -> Iterator[Path]:
        raise DiskFullError("no room for the traceback either")
        yield Path()

    def run(failures: dict[str, Failed]) -> tuple[int, int]:
        workers = Workers(lambda folder: FakeExecutor(folder, failures=failures))
        outcome = run_study(load_study("fake.yaml"), tracker, workers, SilentDisplay())
        return outcome.finished, outcome.failed

    with monkeypatch.context() as patch:
        patch.setattr(recorder, "scratch_folder", no_room)
        with pytest.raises(DiskFullError, match=r"^alexnet-000: a disk has no room left$"):
            run({"alexnet-000": failure})
    runs = tracker.runs(tracker.study("fake").experiment_id)
    (failed,) = [run for run in runs if run.kind == "trial"]
    assert (failed.trial, failed.status, failed.reason, failed.message) == (
        "alexnet-000",
        "FAILED",
        "environment",
        said,
    )
    assert run({}) == (2, 0)


# ---- memory


@pytest.mark.parametrize(
    ("code", "log", "limit", "reason"),
    [
        (-11, "", 3_000_000_000, "oom"),
        (-6, "std::bad_alloc", 3_000_000_000, "oom"),
        (1, "MemoryError", 3_000_000_000, "oom"),
        (-11, "", None, "crash"),
        (1, "", 3_000_000_000, "crash"),
        (-9, "", None, "oom"),
    ],
)
def test_a_limited_address_space_is_named(
    code: int, log: str, limit: int | None, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "address_space_limit", lambda: limit)
    monkeypatch.setattr(local, "count_memory_kills", lambda: None)
    failed = local._crash_event("alexnet-000", code, log, has_started=True)
    assert failed.reason == reason
    assert ("address space is limited to 3 GB (`ulimit -v`)" in failed.message) == (reason == "oom" and bool(limit))
    # otherwise its retry would keep the batch that does not fit
    assert failed.is_guess == (code == -9)


@pytest.mark.parametrize(
    ("reason", "limit", "said"),
    [
        (
            "oom",
            2_000_000_000,
            "OOM in a tensor; the worker's address space is limited to 2 GB (`ulimit -v`)\nat length",
        ),
        ("oom", None, "OOM in a tensor\nat length"),
        ("crash", 2_000_000_000, "OOM in a tensor\nat length"),
    ],
)
def test_a_worker_without_memory_names_the_limit(
    reason: str, limit: int | None, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "address_space_limit", lambda: limit)
    message = "{{function_node __wrapped__AddV2_device_/job:localhost}} OOM in a tensor\nat length"
    told = {"key": "a", "reason": reason, "message": message, "traceback": ""}
    event = local._parse_event({"kind": "failed", **told})
    assert isinstance(event, Failed)
    assert event.message == said


@pytest.mark.parametrize(
    ("before", "now", "reason", "said", "halves"),
    [
        (3, 3, "environment", "killed by signal 9, by a program or person: the system has ended no process", False),
        (3, 4, "oom", r"the system ended the worker process \(signal 9\) for lack of memory", True),
        (None, None, "oom", "killed by signal 9, perhaps for lack of memory", False),
    ],
)
def test_who_killed_a_worker_is_told_apart(
    before: int | None, now: int | None, reason: str, said: str, halves: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "address_space_limit", lambda: None)
    monkeypatch.setattr(local, "count_memory_kills", lambda: now)
    failed = local._crash_event("alexnet-000", -9, "", True, before)
    assert failed.reason == reason
    assert re.search(said, failed.message)
    counter = FailureCounter(Counter(), 3)
    assert counter.take_retry(failed)
    assert counter.next_attempt("alexnet-000") == (1 if reason == "environment" else 2)
    assert (counter.micro_batch("alexnet-000", 32) == 16) == halves


# ---- rights


@contextlib.contextmanager
def without_rights() -> Iterator[None]:
    """Act as another user, if this one may do everything."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(OTHER)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@needs_users
@pytest.mark.parametrize("name", ["a/0.jpg", "a/0", "a"])
def test_what_can_not_be_read_for_its_rights_is_never_skipped(name: str) -> None:
    folder = Path(tempfile.mkdtemp())
    try:
        folder.chmod(0o755)
        write_photos(folder / "photos", {"a": 4, "b": 4})
        if name != "a":
            next((folder / "photos" / "a").iterdir()).rename(folder / "photos" / name)
        image_digests(read_tree(folder / "photos").images, lambda *_: None)
        (folder / "photos" / name).chmod(0)
        with (
            without_rights(),
            pytest.raises(
                DataError, match=rf"^can't read {folder}/photos/{name}: Permission denied. Give yourself the"
            ),
        ):
            image_digests(read_tree(folder / "photos").images, lambda *_: None)
    finally:
        (folder / "photos" / name).chmod(0o755)
        shutil.rmtree(folder)
