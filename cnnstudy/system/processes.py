"""How a command is asked to stop: once, and it ends cleanly; twice, and it leaves at once."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from cnnstudy.records import Record

#: Linux' own space of process ids; a container has another.
_WHOLE_MACHINE = "pid:[4026531836]"
#: `started`, where it is not Linux'.
_SECONDS = re.compile(r"\d+\.\d\d")


@dataclass(frozen=True)
class Process(Record):
    """A process, by all that tells it from any other."""

    host: str
    pid: int
    started: str  # as the system has it
    machine: str  # lasts as long as the installation
    boot: str  # since the machine was started
    space: str  # of process ids: a container's, or the machine's

    def __str__(self) -> str:
        return f"pid {self.pid} on {self.host}"


def this_process() -> Process:
    """The one that asks."""
    pid = os.getpid()
    machine = _text("/etc/machine-id") if sys.platform == "linux" else f"{uuid.getnode():x}"
    boot, space = _text("/proc/sys/kernel/random/boot_id"), ""
    with contextlib.suppress(OSError):
        space = os.readlink("/proc/self/ns/pid")
    return Process(socket.gethostname(), pid, start_time(pid), machine, boot, space)


def is_alive(process: Process, seen_from: Process) -> Literal["gone", "alive", "unknown"]:
    """Whether it lives; unknown where that can't be seen, as on another machine or in another container."""
    here = seen_from
    if (process.machine, process.boot, process.space) == (here.machine, here.boot, here.space) and (
        process.boot or process.host == here.host
    ):
        return _life_of_neighbour(process)
    rebooted = process.boot != here.boot and process.machine == here.machine != "" and process.host == here.host
    if rebooted and process.space == here.space == _WHOLE_MACHINE:
        return "gone"
    return "unknown"


def _life_of_neighbour(process: Process) -> Literal["gone", "alive", "unknown"]:
    """Return what has become of a process whose number means the same process here."""
    now = start_time(process.pid)
    if not now or process.started == now:
        return "alive" if now else "gone"
    # earlier versions recorded the words of `ps`, which depend on its language, or nothing at all
    from_earlier_version = sys.platform != "linux" and not _SECONDS.fullmatch(process.started)
    return "unknown" if from_earlier_version else "gone"


def start_time(pid: int) -> str:
    """Return when the process began; "" where there is no such process, or only its exit status is left.

    Linux: clock ticks since the machine was started. psutil's seconds since 1970 change there when the clock is set.
    """
    if sys.platform == "linux":
        fields = _text(f"/proc/{pid}/stat").rpartition(")")[2].split()
        return fields[19] if fields and fields[0] != "Z" else ""
    try:
        process = psutil.Process(pid)
        return "" if process.status() == psutil.STATUS_ZOMBIE else f"{process.create_time():.2f}"
    except psutil.Error:
        return ""


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpus() -> list[str]:
    """NVIDIA's names of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES takes them."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return list(itertools.takewhile(lambda name: name not in ("", "-1"), map(str.strip, given.split(","))))
    return _all_gpus()


@functools.cache
def _all_gpus() -> list[str]:
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        asked = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
        told = subprocess.run(asked, capture_output=True, text=True, timeout=30, check=True)
        return told.stdout.split()
    return []


def resident_memory(pid: int) -> int | None:
    """Return the bytes that the process has in memory; None where it has ended or is another user's."""
    try:
        return psutil.Process(pid).memory_info().rss or None  # 0 of one that has ended
    except psutil.Error:
        return None


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return ""


#: Seconds: what wraps a command passes on a Ctrl-C that the command gets by itself too; that is asking once.
SAME = 1.0

INTERRUPTED = 130
_asked: list[float] = []  # when
_deferring = 0


@contextlib.contextmanager
def terminate_as_interrupt(leave_at_once: bool = False) -> Iterator[None]:
    """SIGTERM, as Slurm and Docker send it, ends a command as cleanly as Ctrl-C does.

    Args:
        leave_at_once: when asked twice, end the process there and then. Only for what may be killed at any moment: to
            be interrupted while it cleans up would be worse.
    """

    def interrupt(*_: object) -> None:
        now = time.monotonic()
        if _asked and now - _asked[0] < SAME:
            return
        if _asked and leave_at_once:
            _leave()
        _asked.append(now)
        if not _deferring:
            raise KeyboardInterrupt

    before = {}
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            before[number] = signal.signal(number, interrupt)
    except ValueError:  # not in the main thread: whoever runs us there handles signals
        yield
        return
    _asked.clear()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _asked.clear()


@contextlib.contextmanager
def defer_interrupt() -> Iterator[None]:
    """An interrupt waits for the end of the block: half of what it does would be worse than all or nothing.

    In the main thread, that is: no other is interrupted.
    """
    global _deferring
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked = len(_asked)
    _deferring += 1
    try:
        yield
    finally:
        _deferring -= 1
        if not _deferring and len(_asked) > asked:
            raise KeyboardInterrupt


def stop_if_asked() -> None:
    """For a loop: Python loses an interrupt that comes while an object is being cleared away.

    Raises:
        KeyboardInterrupt: the command was asked to stop, and goes on all the same.
    """
    if _asked:
        raise KeyboardInterrupt


def _leave() -> None:
    with contextlib.suppress(OSError, ValueError):
        if sys.stdout.isatty():
            os.write(sys.stdout.fileno(), b"\x1b[?25h")  # a live view had hidden the cursor
        os.write(sys.stderr.fileno(), b"stopped at once; the next call puts right what was left\n")
    os._exit(INTERRUPTED)
