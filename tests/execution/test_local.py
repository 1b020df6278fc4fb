"""Worker processes on this machine: what becomes of them, what they see, and what they may say."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cnnstudy.execution import Alive, Done, Event, Failed, Job, Progress
from cnnstudy.execution.local import LocalExecutor
from cnnstudy.system.processes import count_memory_kills
from execution.contract_jobs import PATIENCE, images_job, run


def pids(executor: LocalExecutor) -> list[int]:
    """The processes of its workers."""
    return [process._process.pid for process in (*executor._idle, *executor._busy.values())]


def wait_for_ends(executor: LocalExecutor) -> None:
    """Until the executor can know that the idle workers, which were killed, are gone."""
    for process in executor._idle:
        process._process.wait(PATIENCE)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # one whose parent died may wait for the system to collect its exit status
    status = Path(f"/proc/{pid}/stat")
    with contextlib.suppress(FileNotFoundError):
        return status.read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.fixture
def executor(tmp_path: Path) -> Iterator[LocalExecutor]:
    with contextlib.closing(LocalExecutor(1, tmp_path)) as made:
        yield made


def test_jobs_in_two_slots(tmp_path: Path) -> None:
    executor = LocalExecutor(2, tmp_path)
    assert executor.slots == 2
    with contextlib.closing(executor):
        sizes = {"small": 8, "large": 24}
        for key, size in sizes.items():
            executor.submit(images_job(key, sizes=[size]))
        assert len(set(pids(executor))) == 2
        done: dict[str, int] = {}
        while len(done) < 2:
            event = executor.next_event(PATIENCE)
            assert not isinstance(event, Failed | None)
            if isinstance(event, Done):
                done[event.key] = event.result[0]["size"]
    assert done == sizes


@pytest.mark.parametrize(
    ("number", "reason", "words"),
    [
        (signal.SIGKILL, "oom" if count_memory_kills() is None else "environment", "lack of memory"),
        (signal.SIGSEGV, "crash", "signal 11"),
        (signal.SIGTERM, "environment", "signal 15"),
    ],
)
def test_a_killed_worker_is_a_failed_job_and_the_next_gets_a_new_one(
    executor: LocalExecutor, number: signal.Signals, reason: str, words: str
) -> None:
    executor.submit(images_job("first"))
    (killed,) = pids(executor)
    os.kill(killed, number)
    while isinstance(event := executor.next_event(PATIENCE), Progress | Alive):
        pass
    assert isinstance(event, Failed)
    assert (event.key, event.reason, event.error) == ("first", reason, None)
    assert words in event.message
    assert isinstance(run(executor, images_job("second"))[-1], Done)
    assert killed not in pids(executor)


@pytest.mark.parametrize("known", [True, False])
def test_a_worker_that_died_with_nothing_to_do_is_replaced(
    executor: LocalExecutor, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    run(executor, images_job("first"))
    (killed,) = pids(executor)
    os.kill(killed, signal.SIGKILL)
    wait_for_ends(executor)
    with monkeypatch.context() as patch:
        if not known:  # as in the moment between the look and the job
            patch.setattr("cnnstudy.execution.local._Process.is_alive", lambda process: True)
        executor.submit(images_job("second"))
    while isinstance(event := executor.next_event(PATIENCE), Progress | Alive):
        pass
    assert isinstance(event, Done if known else Failed)
    assert isinstance(run(executor, images_job("third"))[-1], Done)
    assert killed not in pids(executor)


def test_what_a_dying_worker_wrote_is_kept(
    executor: LocalExecutor, site: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    site("sys.stderr.write('the last words')\nsys.stderr.flush()\nos._exit(3)")
    (failed,) = run(executor, images_job())
    assert isinstance(failed, Failed)
    assert failed.reason == "environment", "it could not even start"
    assert "exit code 3" in failed.message
    assert "the last words" in failed.traceback


GIB = 2**30


@pytest.mark.parametrize(
    ("memory", "jobs"),
    [
        ([GIB, 1.5 * GIB, 2 * GIB, 2.1 * GIB], 4),  # twice, and more
        ([0.1 * GIB, 1.1 * GIB, 1.2 * GIB], 3),  # more than a GiB
        ([GIB, None, 0.5 * GIB, 1.9 * GIB, 1.9 * GIB], None),
    ],
)
def test_a_worker_that_grows_is_replaced_between_jobs(
    executor: LocalExecutor, monkeypatch: pytest.MonkeyPatch, memory: list[int | None], jobs: int | None
) -> None:
    resident = iter(memory)
    monkeypatch.setattr("cnnstudy.execution.local.resident_memory", lambda pid: next(resident))
    seen = []
    for number in range(len(memory)):
        assert isinstance(run(executor, images_job(f"job-{number}"))[-1], Done)
        seen.append(pids(executor))
    kept = seen[0]
    assert len(kept) == 1
    assert seen == [kept] * ((jobs or len(memory) + 1) - 1) + [[]] * (jobs is not None)


def test_each_kind_of_job_has_its_own_measure(executor: LocalExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    resident = iter([GIB, 9 * GIB, GIB])
    monkeypatch.setattr("cnnstudy.execution.local.resident_memory", lambda pid: next(resident))
    run(executor, images_job("first"))
    (worker,) = pids(executor)
    run(executor, Job("other", "run_trial", {"architecture": "vgg16"}))  # that it fails makes no difference
    run(executor, images_job("second"))
    assert pids(executor) == [worker]


SAYS_ITS_CARD = """
import json, os, sys
for line in sys.stdin:
    job = json.loads(line)
    if job["payload"]:
        failed = {"kind": "failed", "key": job["key"], "reason": "crash", "message": "", "traceback": ""}
        print(json.dumps(failed), flush=True)
    else:
        card = os.environ.get("CUDA_VISIBLE_DEVICES", "all")
        print(json.dumps({"kind": "done", "key": job["key"], "result": card}), flush=True)
"""


def cards_of(executor: LocalExecutor, jobs: int) -> list[str]:
    for number in range(jobs):
        executor.submit(Job(f"job-{number}", "prepare_images", {}))
    found = []
    while len(found) < jobs:
        event = executor.next_event(PATIENCE)
        assert isinstance(event, Done)
        found.append(event.result)
    return sorted(found)


@pytest.mark.parametrize(
    ("cards", "workers", "expected"),
    [
        (["GPU-a", "GPU-b"], 2, ["GPU-a", "GPU-b"]),
        (["GPU-a", "GPU-b"], 3, ["GPU-a", "GPU-a", "GPU-b"]),
        (["GPU-a", "GPU-b"], 1, ["GPU-a"]),
        (["GPU-a"], 2, ["all", "all"]),
        ([], 2, ["all", "all"]),
    ],
)
def test_each_worker_takes_a_card(
    cards: list[str], workers: int, expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("cnnstudy.execution.local.list_gpus", lambda: cards)
    with contextlib.closing(LocalExecutor(workers, tmp_path, ("-c", SAYS_ITS_CARD))) as executor:
        assert cards_of(executor, workers) == expected


@pytest.mark.parametrize(
    ("cards", "workers", "expected"),
    [
        (["GPU-a", "GPU-b", "GPU-c", "GPU-d"], 2, ["GPU-a,GPU-b", "GPU-c,GPU-d"]),
        (["GPU-a", "GPU-b", "GPU-c"], 1, ["GPU-a,GPU-b"]),
        (["GPU-a", "GPU-b"], 1, ["all"]),
    ],
)
def test_each_worker_takes_several_cards(
    cards: list[str], workers: int, expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one that replaces another takes those that this one had."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("cnnstudy.execution.local.list_gpus", lambda: cards)
    with contextlib.closing(LocalExecutor(workers, tmp_path, ("-c", SAYS_ITS_CARD), gpus=2)) as executor:
        assert cards_of(executor, workers) == expected
        run(executor, Job("crashes", "prepare_images", {"it": "crashes"}))
        assert cards_of(executor, workers) == expected


@pytest.mark.parametrize("cards", [["GPU-a"], []])
def test_a_worker_whose_gpu_may_be_broken_is_replaced(
    cards: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cnnstudy.execution.local.list_gpus", lambda: cards)
    with contextlib.closing(LocalExecutor(1, tmp_path, ("-c", SAYS_ITS_CARD))) as executor:
        cards_of(executor, 1)
        (worker,) = pids(executor)
        event = run(executor, Job("crashes", "prepare_images", {"it": "crashes"}))[-1]
        assert isinstance(event, Failed)
        assert (pids(executor) == [worker]) == (not cards)


def test_a_worker_that_had_no_memory_left_is_replaced(executor: LocalExecutor, site: Callable[[str], None]) -> None:
    site(HANG.replace("threading.Event().wait()", "raise MemoryError"))
    executor.submit(images_job("first"))
    (worker,) = pids(executor)
    while isinstance(event := executor.next_event(PATIENCE), Progress | Alive):
        pass
    assert isinstance(event, Failed)
    assert event.reason == "oom"
    assert pids(executor) == []
    assert not is_alive(worker)


HANG = """
import threading
original = builtins.__import__
def hanging(name, *arguments, **keywords):
    if name.startswith("sklearn"):
        builtins.__import__ = original
        where_it_hangs()
    return original(name, *arguments, **keywords)
def where_it_hangs():
    print("about to hang", file=sys.stderr, flush=True)
    threading.Event().wait()
builtins.__import__ = hanging
"""


def test_a_worker_that_hangs_is_stopped_and_says_where(executor: LocalExecutor, site: Callable[[str], None]) -> None:
    site(HANG)
    executor.submit(images_job("hangs"))
    while (event := executor.next_event(5)) is not None:
        assert isinstance(event, Progress | Alive)
    (hung,) = pids(executor)
    said = executor.stop("hangs")
    assert not is_alive(hung)
    assert "where_it_hangs" in said
    assert executor.next_event(0.01) is None


def test_a_worker_that_cannot_even_say_where_it_hangs(executor: LocalExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cnnstudy.execution.local.STACK_TRACE_SECONDS", 0.1)
    executor.submit(images_job("hangs"))
    (hung,) = pids(executor)
    os.kill(hung, signal.SIGSTOP)
    executor.stop("hangs")
    assert not is_alive(hung)
    assert isinstance(run(executor, images_job("another"))[-1], Done)


def test_a_worker_that_cannot_be_asked_where_it_hangs(executor: LocalExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(process: subprocess.Popen[str], number: int) -> None:
        raise ValueError(f"Unsupported signal: {number}")  # as Windows does

    monkeypatch.setattr("subprocess.Popen.send_signal", refuse)
    executor.submit(images_job("hangs"))
    (hung,) = pids(executor)
    monkeypatch.setattr("subprocess.Popen.kill", lambda process: os.kill(process.pid, signal.SIGKILL))
    executor.stop("hangs")
    assert not is_alive(hung)


def test_a_worker_that_gets_on_gives_signs_of_life(executor: LocalExecutor, site: Callable[[str], None]) -> None:
    # a worker runs as __main__, where its interval can't be set from outside
    site("import time\nsleep = time.sleep\ntime.sleep = lambda seconds: sleep(seconds / 10_000)")
    executor.submit(images_job())
    signs = 0
    while not isinstance(event := executor.next_event(PATIENCE), Done):
        assert event is not None
        assert event.key == "images"
        signs += isinstance(event, Alive)
    assert signs
    # between jobs it is silent
    assert executor.next_event(0.2) is None


# ---- processes


def test_close_ends_every_worker(tmp_path: Path) -> None:
    executor = LocalExecutor(2, tmp_path)
    run(executor, images_job("ended"))
    executor.submit(images_job("under-way"))
    executor.submit(images_job("too"))
    workers = pids(executor)
    assert len(workers) == 2
    executor.close()
    assert not any(map(is_alive, workers))
    assert executor.next_event(0.01) is None
    executor.close()


DRIVER = """
import json, sys, time
from pathlib import Path
here, folder, doing = sys.argv[1:]
sys.path.insert(0, here)
from execution.test_local import Done, LocalExecutor, images_job, pids
executor = LocalExecutor(2, Path(folder))
executor.submit(images_job("first"))
executor.submit(images_job("second"))
done = 0
while doing == "idle" and done < 2:
    done += isinstance(executor.next_event(60), Done)
print(json.dumps(pids(executor)), flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("doing", ["idle", "busy"])
def test_no_worker_outlives_its_driver(doing: str, tmp_path: Path) -> None:
    arguments = [str(Path(__file__).parent.parent), str(tmp_path), doing]
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, *arguments], stdout=subprocess.PIPE)
    with driver:
        assert driver.stdout is not None
        workers = json.loads(driver.stdout.readline())
        assert len(workers) == 2
        driver.kill()
    deadline = time.monotonic() + PATIENCE
    while any(map(is_alive, workers)):
        assert time.monotonic() < deadline, "a worker is still there"
        time.sleep(0.05)


# ---- what a worker sees and says


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """site(code): every worker runs that code when its Python starts."""

    def write(code: str) -> None:
        folder = tmp_path / "site"
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(f"import builtins, json, os, sys\n{code}\n")
        monkeypatch.setenv("PYTHONPATH", str(folder))

    return write


def test_a_worker_knows_nothing_of_the_tracking_server(
    executor: LocalExecutor, site: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site(f"open({str(tmp_path / 'seen.json')!r}, 'w').write(json.dumps(dict(os.environ)))")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://bob:secret@host")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")
    monkeypatch.setenv("SOMETHING_ELSE", "is kept")
    run(executor, images_job())
    seen = json.loads((tmp_path / "seen.json").read_text())
    # the one that is there keeps MLflow from telling others what it does
    assert [name for name in seen if name.startswith("MLFLOW_")] == ["MLFLOW_DISABLE_TELEMETRY"]
    assert "secret" not in seen.values()
    assert seen["SOMETHING_ELSE"] == "is kept"
    assert seen["TMPDIR"] == str(tmp_path), "its own temporary files go with its folder"


NOISE = """
print("noise before the worker has begun")
for line in ("3", "null", "{}", "[]", '"text"', '{"kind": "epoch"}', '{"kind": "epoch", "key": "images", "record": 3}'):
    print(line)
print('{"kind": "noise", "key": "images"}\\n{"kind": [], "key": "images"}\\n{"kind": "done", "key": "images"}')
original = builtins.__import__
def noisy(name, *arguments, **keywords):
    if name.startswith("sklearn"):
        print("noise of a library", end="", flush=True)
        os.write(1, b"noise of a library in C")
        os.system("printf 'noise of a child process'")
        print('\\n{"kind": "progress", "key": "images", "what": "noise", "done": 0, "total": 0}', flush=True)
        builtins.__import__ = original
    return original(name, *arguments, **keywords)
builtins.__import__ = noisy
"""


def test_what_libraries_print_does_not_reach_the_driver(executor: LocalExecutor, site: Callable[[str], None]) -> None:
    site(NOISE)
    *progress, done = run(executor, images_job())
    assert progress
    assert all(isinstance(event, Progress) and event.what != "noise" for event in progress)
    assert isinstance(done, Done)


def test_a_job_that_is_started_ahead_is_the_one_that_is_submitted(tmp_path: Path) -> None:
    with contextlib.closing(LocalExecutor(2, tmp_path / "ahead")) as executor:
        executor.start_ahead(images_job(sizes=[64]))
        (ahead,) = pids(executor)
        done = run(executor, images_job(sizes=[64]))[-1]
        assert isinstance(done, Done)
        assert isinstance(run(executor, images_job(sizes=[80]))[-1], Done)
        assert pids(executor) == [ahead]
    assert not is_alive(ahead)


def test_a_job_that_is_started_ahead_is_dropped_for_another(tmp_path: Path) -> None:
    with contextlib.closing(LocalExecutor(2, tmp_path)) as executor:
        executor.start_ahead(images_job("dropped", classes=[0, 77]))
        (ahead,) = pids(executor)
        deadline = time.monotonic() + 60
        while executor._events.empty():  # what it said is not the other's
            assert time.monotonic() < deadline
            time.sleep(0.05)
        events = run(executor, images_job(sizes=[64]))
        assert {event.key for event in events} == {images_job().key}
        assert isinstance(events[-1], Done)
        assert not is_alive(ahead)


FLOOD = """
import itertools, json, sys
key, last = json.loads(sys.stdin.readline())["key"], 200_000
for number in range(last + 1) if key == "other" else itertools.count():
    print(json.dumps({"kind": "progress", "key": key, "what": "counting", "done": number, "total": last}))
print(json.dumps({"kind": "done", "key": key, "result": None}), flush=True)
sys.stdin.readline()
"""


def test_what_another_worker_says_stays_in_order_when_one_is_stopped(tmp_path: Path) -> None:
    with contextlib.closing(LocalExecutor(2, tmp_path, ("-c", FLOOD))) as executor:
        for key in ("stopped", "other"):
            executor.submit(Job(key, "prepare_images", {}))
        heard: list[Event] = []
        while not any(event.key == "other" for event in heard):
            event = executor.next_event(60)
            assert event is not None
            heard.append(event)
        executor.stop("stopped")
        so_far = len(heard)
        while not isinstance(heard[-1], Done) or heard[-1].key != "other":
            event = executor.next_event(60)
            assert event is not None
            heard.append(event)
        assert {event.key for event in heard[so_far:]} == {"other"}
        counted = [event.done for event in heard if isinstance(event, Progress) and event.key == "other"]
        assert counted == list(range(200_001))


def test_a_job_that_is_started_ahead_outlives_its_worker(tmp_path: Path) -> None:
    with contextlib.closing(LocalExecutor(1, tmp_path)) as executor:
        executor.start_ahead(images_job(sizes=[64]))
        (ahead,) = pids(executor)
        os.kill(ahead, signal.SIGKILL)
        executor._busy[images_job().key]._process.wait()
        assert isinstance(run(executor, images_job(sizes=[64]))[-1], Done)
        assert pids(executor) != [ahead]


def test_a_job_that_is_started_ahead_and_never_submitted_ends_with_the_executor(tmp_path: Path) -> None:
    with contextlib.closing(LocalExecutor(1, tmp_path)) as executor:
        executor.start_ahead(images_job(sizes=[64]))
        (ahead,) = pids(executor)
    assert not is_alive(ahead)
