from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

import cnnstudy
from cnnstudy.system import processes
from cnnstudy.system.processes import (
    Process,
    is_alive,
    list_gpus,
    package_environment,
    resident_memory,
    start_time,
    this_process,
)

WHOLE = "pid:[4026531836]"
HERE = Process("here", 1, "1", "machine", "boot", WHOLE)


def test_this_process_lives_until_it_has_ended() -> None:
    here = this_process()
    assert is_alive(here, here) == "alive"
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        process = replace(here, pid=other.pid, started=start_time(other.pid))
        assert is_alive(process, here) == "alive"
        assert is_alive(replace(process, started="1"), here) == "gone", "another had its number before"
        other.kill()
    assert is_alive(process, here) == "gone"


@pytest.mark.parametrize(
    ("given", "expected"), [("", []), ("-1", []), ("0", ["0"]), ("GPU-a, 1", ["GPU-a", "1"]), ("1,-1,0", ["1"])]
)
def test_the_gpus_that_the_user_gives(given: str, expected: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert list_gpus() == expected


@pytest.mark.parametrize(
    ("script", "expected"),
    [("echo GPU-a; echo GPU-b", ["GPU-a", "GPU-b"]), ("echo GPU-a; exit 9", []), (None, [])],
    ids=["two", "without a driver", "none"],
)
def test_the_gpus_of_the_machine(
    script: str | None, expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin" if script else str(tmp_path))
    if script is not None:
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
    processes._all_gpus.cache_clear()
    try:
        assert list_gpus() == expected
    finally:
        processes._all_gpus.cache_clear()


def test_a_process_that_waits_to_be_collected_is_gone() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as other:
        while start_time(other.pid):
            pass
        assert other.returncode is None


@pytest.mark.parametrize(
    ("changes", "life"),
    [
        ({"host": "there", "machine": "other", "boot": "other"}, "unknown"),
        ({"machine": "other", "boot": "other"}, "unknown"),
        ({"space": "pid:[4026532000]"}, "unknown"),
        ({"boot": "before"}, "gone"),  # the machine was started anew
        ({"boot": "before", "host": "renamed"}, "unknown"),
        ({"boot": "before", "space": "pid:[4026532000]"}, "unknown"),
        ({"boot": "before", "machine": ""}, "unknown"),
        ({"host": "renamed"}, "gone"),  # no process 1 began when this one is said to have
    ],
)
def test_what_can_be_seen_from_here(changes: dict[str, str], life: str) -> None:
    assert is_alive(replace(HERE, started="0.00", **changes), HERE) == life


def test_without_any_mark_of_the_machine_the_host_must_be_the_same() -> None:
    bare = Process("here", 1, "0.00", "", "", "")
    assert is_alive(bare, bare) == "gone"
    assert is_alive(replace(bare, host="there"), bare) == "unknown"


def test_how_much_memory_a_process_holds() -> None:
    wait = "print(flush=True)\nsys.stdin.readline()\n"
    code = f"import sys\n{wait}held = b'x' * 2**26\n{wait}"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        before = resident_memory(process.pid)
        assert before is not None
        process.stdin.write("\n")
        process.stdin.flush()
        process.stdout.readline()
        after = resident_memory(process.pid)
        assert after is not None
        assert after - before > 0.9 * 2**26
        process.stdin.write("\n")
    assert resident_memory(2**30) is None


def test_the_linux_form_is_the_one_of_earlier_versions() -> None:
    """A driver that an earlier version started is found alive, and one that has ended is not."""
    if sys.platform != "linux":
        pytest.skip("Linux' form")
    assert start_time(os.getpid()) == Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]


@pytest.mark.parametrize(
    ("recorded", "life"),
    [
        ("{now}", "alive"),
        ("1764377144.25", "gone"),  # another had its number before
        ("Sat Nov 29 00:45:44 2025", "unknown"),  # from `ps`, in whatever language it spoke
        ("Sa 29 Nov 00:45:44 2025", "unknown"),
        ("", "unknown"),  # without `ps`, as on Windows
    ],
)
def test_a_process_on_other_systems_than_linux(recorded: str, life: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cnnstudy.system.processes.sys", SimpleNamespace(platform="darwin"))
    here = this_process()
    now = start_time(here.pid)
    assert here.started == now
    assert abs(float(now) - psutil.Process().create_time()) <= 0.005
    assert is_alive(replace(here, started=recorded.format(now=now)), here) == life
    with subprocess.Popen([sys.executable, "-c", ""]) as other:
        while start_time(other.pid):
            pass
        ended = replace(here, pid=other.pid, started=recorded.format(now=now))
        assert is_alive(ended, here) == "gone", "its exit status is all that is left of it"


def test_a_process_is_named_by_its_number_and_host() -> None:
    assert str(HERE) == "pid 1 on here"
    assert Process.from_json(HERE.to_json()) == HERE


def test_kills_for_lack_of_memory_are_counted_where_the_system_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "/proc/self/cgroup": "4:memory:/a\n0::/user/job",
        "/sys/fs/cgroup/user/job/memory.events": "low 0\noom 9\noom_kill 2\noom_group_kill 0",
        "/proc/vmstat": "nr_free_pages 1\noom_kill 7",
    }
    monkeypatch.setattr(processes, "_read_text", lambda path: files.get(path, ""))
    assert processes.count_memory_kills() == 2
    del files["/sys/fs/cgroup/user/job/memory.events"]
    assert processes.count_memory_kills() == 7
    files.clear()
    assert processes.count_memory_kills() is None


def start_and_wait(run: Callable[[], None]) -> None:
    threading.Thread(target=run).start()
    threading.Event().wait(60)


def test_an_interrupt_that_did_not_wake_the_main_thread_is_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal that comes just before the main thread begins to wait is not noticed."""
    send, sent = signal.pthread_kill, []

    def lose_the_first(thread: int, number: int) -> None:
        sent.append(number)
        if len(sent) > 1:
            send(thread, number)

    monkeypatch.setattr(signal, "pthread_kill", lose_the_first)
    with pytest.raises(KeyboardInterrupt), processes.terminate_as_interrupt():
        start_and_wait(processes.interrupt_command)
    assert len(sent) >= 2


def test_a_child_finds_the_package_wherever_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    environment = package_environment(leave_out="MLFLOW_")
    program = "import cnnstudy, os; print(cnnstudy.__file__, os.environ.get('MLFLOW_TRACKING_PASSWORD'))"
    call = [sys.executable, "-P", "-c", program]
    said = subprocess.run(call, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout
    assert said.split() == [cnnstudy.__file__, "None"]
    assert package_environment()["MLFLOW_TRACKING_PASSWORD"] == "secret"
