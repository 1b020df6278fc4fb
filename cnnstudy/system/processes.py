"""Processes: identify them, see whether they live, what they may use, and how a command is interrupted.

A command that is interrupted (Ctrl-C, SIGTERM, SIGHUP, a pipe without a reader) ends cleanly; interrupted twice, it may
end immediately.
"""

from __future__ import annotations

import _thread
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

import cnnstudy
from cnnstudy.errors import EXIT_INTERRUPTED
from cnnstudy.records import Record

#: Linux' initial namespace of process ids; a container has another.
_INITIAL_NAMESPACE = "pid:[4026531836]"
#: `Process.started` on systems other than Linux.
_SECONDS = re.compile(r"\d+\.\d\d")


# ---- identity


@dataclass(frozen=True)
class Process(Record):
    """A process, identified across machines, reboots and containers."""

    host: str
    pid: int
    started: str  # as `start_time` gives it
    machine: str  # id of the installation
    boot: str  # id that changes when the machine is started
    space: str  # namespace of process ids: a container's, or the machine's

    def __str__(self) -> str:
        return f"pid {self.pid} on {self.host}"


def this_process() -> Process:
    """Return the process that calls this."""
    pid = os.getpid()
    machine = _read_text("/etc/machine-id") if sys.platform == "linux" else f"{uuid.getnode():x}"
    boot, space = _read_text("/proc/sys/kernel/random/boot_id"), ""
    with contextlib.suppress(OSError):
        space = os.readlink("/proc/self/ns/pid")
    return Process(socket.gethostname(), pid, start_time(pid), machine, boot, space)


def is_alive(process: Process, seen_from: Process) -> Literal["gone", "alive", "unknown"]:
    """Check whether a process lives; "unknown" if that can't be seen, as on another machine or in another container."""
    here = seen_from
    if (process.machine, process.boot, process.space) == (here.machine, here.boot, here.space) and (
        process.boot or process.host == here.host
    ):
        return _is_neighbour_alive(process)
    rebooted = process.boot != here.boot and process.machine == here.machine != "" and process.host == here.host
    if rebooted and process.space == here.space == _INITIAL_NAMESPACE:
        return "gone"
    return "unknown"


def _is_neighbour_alive(process: Process) -> Literal["gone", "alive", "unknown"]:
    """Check whether a process of this namespace of process ids lives."""
    now = start_time(process.pid)
    if not now or process.started == now:
        return "alive" if now else "gone"
    # earlier versions recorded the output of `ps`, which depends on the language, or nothing
    from_earlier_version = sys.platform != "linux" and not _SECONDS.fullmatch(process.started)
    return "unknown" if from_earlier_version else "gone"


def start_time(pid: int) -> str:
    """Return when the process started; "" if there is no such process, or it is a zombie.

    On Linux in clock ticks since the machine was started, because psutil's seconds since 1970 change there when the
    clock is set.
    """
    if sys.platform == "linux":
        fields = _read_text(f"/proc/{pid}/stat").rpartition(")")[2].split()
        return fields[19] if fields and fields[0] != "Z" else ""
    try:
        process = psutil.Process(pid)
        return "" if process.status() == psutil.STATUS_ZOMBIE else f"{process.create_time():.2f}"
    except psutil.Error:
        return ""


# ---- resources


def package_environment(leave_out: str = "\0") -> dict[str, str]:
    """Return the environment of a child that finds this package where it is, though its working folder is no place to
    import from (`python -P`).

    Args:
        leave_out: what the names of variables that it does not get begin with.
    """
    root = str(Path(cnnstudy.__file__).parent.parent)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(leave_out)}
    return kept | {"PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}


def count_cores() -> int:
    """Return how many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def list_gpus() -> list[str]:
    """Return the ids of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES takes them."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return list(itertools.takewhile(lambda name: name not in ("", "-1"), map(str.strip, given.split(","))))
    return _all_gpus()


@functools.cache
def _all_gpus() -> list[str]:
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        command = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.split()
    return []


def resident_memory(pid: int) -> int | None:
    """Return the resident memory of a process in bytes; None if it has ended or belongs to another user."""
    try:
        return psutil.Process(pid).memory_info().rss or None  # 0 for one that has ended
    except psutil.Error:
        return None


def _read_text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def address_space_limit() -> int | None:
    """Return the bytes of memory that a process may address; None if the user does not limit them (`ulimit -v`)."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if limit == resource.RLIM_INFINITY else limit


def count_memory_kills() -> int | None:
    """Return how many processes the system has killed so far for lack of memory; None where it does not tell.

    Counted in this process's control group (cgroup v2), else on the whole machine.
    """
    group = re.search(r"^0::(/.*)$", _read_text("/proc/self/cgroup"), re.MULTILINE)
    own = f"/sys/fs/cgroup{group[1]}/memory.events" if group else ""
    for path in filter(None, (own, "/proc/vmstat")):
        if counted := re.search(r"^oom_kill (\d+)$", _read_text(path), re.MULTILINE):
            return int(counted[1])
    return None


# ---- interrupts

#: Seconds within which two signals count as one: a program that wraps the command passes on a Ctrl-C that the command
#: receives itself, too.
SAME_INTERRUPT_SECONDS = 1.0
#: Times (time.monotonic) of the interrupts since `terminate_as_interrupt`.
_interrupts: list[float] = []
#: The signal that a terminal sends when it is closed; Windows has none.
_HANG_UP = (signal.SIGHUP,) if hasattr(signal, "SIGHUP") else ()
#: How many `defer_interrupt` blocks are active.
_deferring = 0


@contextlib.contextmanager
def terminate_as_interrupt(leave_at_once: bool = False) -> Iterator[None]:
    """During the block, let SIGTERM (from Slurm, Docker) and SIGHUP (a terminal closed) end a command like Ctrl-C.

    SIGHUP stays ignored where it was, as under nohup.

    Args:
        leave_at_once: end the process at the second interrupt. Only for commands that may be killed at any moment, for
            which an interrupted clean-up would be worse.

    Raises:
        KeyboardInterrupt: one of these signals, or SIGINT, arrived.
    """

    def interrupt(*_: object) -> None:
        now = time.monotonic()
        if _interrupts and now - _interrupts[0] < SAME_INTERRUPT_SECONDS:
            return
        if _interrupts and leave_at_once:
            _leave()
        _interrupts.append(now)
        if not _deferring:
            raise KeyboardInterrupt

    handlers = {}
    try:
        for number in (signal.SIGTERM, signal.SIGINT, *_HANG_UP):
            if number in _HANG_UP and signal.getsignal(number) == signal.SIG_IGN:
                continue
            handlers[number] = signal.signal(number, interrupt)
    except ValueError:  # not in the main thread: the caller handles signals
        yield
        return
    _interrupts.clear()
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        _interrupts.clear()


@contextlib.contextmanager
def defer_interrupt() -> Iterator[None]:
    """Defer interrupts to the end of the block, which must be done completely or not at all.

    This applies to the main thread; other threads are never interrupted.

    Raises:
        KeyboardInterrupt: at the end, if an interrupt arrived in the block.
    """
    global _deferring
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = len(_interrupts)
    _deferring += 1
    try:
        yield
    finally:
        _deferring -= 1
        if not _deferring and len(_interrupts) > before:
            raise KeyboardInterrupt


def stop_if_asked() -> None:
    """Raise again an interrupt that was lost; call it in loops.

    Python drops a KeyboardInterrupt that is raised while an object is being finalised.

    Raises:
        KeyboardInterrupt: the command was interrupted but still runs.
    """
    if _interrupts:
        raise KeyboardInterrupt


#: How often, and after how many seconds, another thread interrupts again while the main thread has not noticed.
_MOST_TRIES, _TRY_SECONDS = 100, 0.05


def interrupt_command() -> None:
    """Interrupt the command as SIGTERM does, from any thread; nothing outside of `terminate_as_interrupt`."""
    before = len(_interrupts)
    for _ in range(_MOST_TRIES):
        if signal.getsignal(signal.SIGTERM) in (signal.SIG_DFL, signal.SIG_IGN):
            return
        if hasattr(signal, "pthread_kill"):  # wakes a main thread that waits
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
        else:
            _thread.interrupt_main(signal.SIGTERM)
        if threading.current_thread() is threading.main_thread():
            return
        # a signal that comes just before the main thread begins to wait does not wake it
        time.sleep(_TRY_SECONDS)
        if len(_interrupts) != before:
            return


def _leave() -> None:
    with contextlib.suppress(OSError, ValueError):
        if sys.stdout.isatty():
            os.write(sys.stdout.fileno(), b"\x1b[?25h")  # the live view hides the cursor
        os.write(sys.stderr.fileno(), b"stopped immediately; the next command repairs what was left unfinished\n")
    os._exit(EXIT_INTERRUPTED)
