"""The local executor: worker processes on this machine that share its cores."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cnnstudy.errors import WorkerError
from cnnstudy.execution import Alive, Done, Epoch, Event, Failed, Job, Progress
from cnnstudy.records import EpochRecord
from cnnstudy.system.display import format_size
from cnnstudy.system.processes import (
    address_space_limit,
    count_cores,
    count_memory_kills,
    list_gpus,
    package_environment,
    resident_memory,
)

#: Set before TensorFlow is imported and whatever the user's environment says, so that all trials of a study compute in
#: the same way. oneDNN is off by default on processors without AVX-512, where it makes a step of these networks 1.3 to
#: 2.7 times faster.
WORKER_ENVIRONMENT = {
    "TF_ENABLE_ONEDNN_OPTS": "1",
    "KERAS_BACKEND": "tensorflow",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "PYTHONUNBUFFERED": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}

#: -P: a keras.py in the working folder is not the library.
WORKER = ("-P", "-m", "cnnstudy.execution.worker")
#: With these a process ends for what it did itself; with others, such as SIGTERM, somebody else ended it.
_CRASH_SIGNALS = {
    getattr(signal, name, 0) for name in ("SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGSEGV", "SIGSYS", "SIGTRAP")
}
#: Seconds that a hung worker has to write its stack traces.
STACK_TRACE_SECONDS = 5
#: A worker that has grown by more than this many bytes, and to more than twice its first size, is replaced.
MEMORY_GROWTH_LIMIT = 2**30


class LocalExecutor:
    """Up to `workers` processes, each started when first needed, reused for later jobs and replaced when it dies.

    Args:
        folder: for the files of trials and the workers' temporary files.
        program: the arguments with which Python runs a worker.
        threads: of each worker; None: its share of the cores.
        gpus: of each worker, which divides each update among several.
        events: a queue in which another executor, of which this one is a part, waits for events, to hand each to
            `take_event`; None: one of its own.
    """

    def __init__(
        self,
        workers: int,
        folder: Path,
        program: Sequence[str] = WORKER,
        threads: int | None = None,
        gpus: int = 1,
        events: queue.Queue[Any] | None = None,
    ) -> None:
        self.slots = workers
        self.deterministic = False
        self._gpus = gpus
        self._threads = threads or max(1, count_cores() // workers)
        self._folder = folder
        self._program = program
        self._events: queue.Queue[tuple[_Process, Event]] = queue.Queue() if events is None else events
        self._idle: list[_Process] = []
        self._busy: dict[str, _Process] = {}
        self._ahead: Job | None = None  # started by start_ahead and not yet submitted

    def start_ahead(self, job: Job) -> None:
        """Start the first worker, which imports TensorFlow, and this job with it; see `Executor.start_ahead`.

        If the worker has died by the time the job is submitted, the job is started again in another one.
        """
        process = self._new_process("--ahead")
        self._ahead, self._busy[job.key] = job, process
        process.start(job, self._folder)

    def submit(self, job: Job) -> None:
        ahead, self._ahead = self._ahead, None
        if ahead == job and self._busy[job.key].is_alive():
            return
        if ahead is not None:  # another job was submitted, or the worker died
            self._drop(self._busy.pop(ahead.key))
        process = self._take_idle() or self._new_process()
        self._busy[job.key] = process
        process.start(job, self._folder)

    def _take_idle(self) -> _Process | None:
        while self._idle:
            process = self._idle.pop()
            if process.is_alive():
                return process
            process.end()
        return None

    def _new_process(self, *options: str) -> _Process:
        # how sums are rounded depends on the number of threads
        threads = ["--threads=1", "--deterministic"] if self.deterministic else [f"--threads={self._threads}"]
        gpus = [f"--gpus={self._gpus}"] if self._gpus > 1 else []
        program = [*self._program, *threads, *gpus, *options]
        return _Process(program, self._folder, self._events, self._choose_gpus())

    def _choose_gpus(self) -> tuple[str, ...]:
        """Return as many GPUs as a worker gets, those that the fewest workers use; none if it gets all there are."""
        names = list_gpus()
        in_use = [gpu for process in [*self._idle, *self._busy.values()] for gpu in process.gpus]
        return tuple(sorted(names, key=in_use.count)[: self._gpus]) if len(names) > self._gpus else ()

    def next_event(self, timeout: float) -> Event | None:
        told: Event | None = None
        while told is None:
            try:
                told = self.take_event(*self._events.get(timeout=timeout))
            except queue.Empty:
                return None
        return told

    def take_event(self, process: _Process, event: Event) -> Event | None:
        """Return an event from the queue, with what it means for its process carried out; None if it was dropped."""
        if process.dropped:
            return None
        if isinstance(event, Done | Failed):
            del self._busy[event.key]
            # after running out of memory a process may not release it, a GPU library that failed once fails again, and
            # so does an import
            unusable = isinstance(event, Failed) and (
                event.reason in ("oom", "environment") or (event.reason == "crash" and bool(list_gpus()))
            )
            if unusable or not process.is_alive() or process.has_grown():
                process.end()
            else:
                self._idle.append(process)
        return event

    def answer(self, key: str, go_on: bool) -> None:
        self._busy[key].send({"go_on": go_on})

    def stop(self, key: str) -> str:
        process = self._busy.pop(key)
        process.interrogate()
        log = process.log()
        self._drop(process)
        return log

    def _drop(self, process: _Process) -> None:
        """End the process and discard its events that are still in the queue."""
        process.dropped = True
        process.end()

    def close(self) -> None:
        for process in [*self._idle, *self._busy.values()]:
            process.end()
        self._idle.clear()
        self._busy.clear()
        while not self._events.empty():
            self._events.get()


class _Process:
    """One worker process, and the thread that reads its events."""

    def __init__(
        self,
        program: Sequence[str],
        folder: Path,
        events: queue.Queue[tuple[_Process, Event]],
        gpus: Sequence[str] = (),
    ) -> None:
        self.dropped, self.gpus = False, gpus
        self._events = events
        self._job: Job | None = None
        self._kind: tuple[str, Any] = ("", None)  # kind and network of the last job
        self._memory: dict[tuple[str, Any], int] = {}  # bytes after the first job of each such kind
        self._ended = self._has_reported = False
        self._memory_kills = count_memory_kills()  # before its job
        self._lock = threading.Lock()  # guards _job and _ended
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - lives with self
        # a worker never talks to the tracking server, so it gets neither its address nor its password
        environment = package_environment(leave_out="MLFLOW_")
        if gpus:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
        try:
            self._process = subprocess.Popen(
                [sys.executable, *program, f"--folder={folder}"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                text=True,
                encoding="utf-8",
                env=environment | WORKER_ENVIRONMENT | {"TMPDIR": str(folder)},  # removed with the folder
                start_new_session=True,  # the driver handles Ctrl-C
            )
        except OSError as error:
            raise WorkerError(f"can't start a worker process: {error}") from error
        self._reader = threading.Thread(target=self._read_events, daemon=True)
        self._reader.start()

    def start(self, job: Job, folder: Path) -> None:
        self._kind = (job.kind, job.payload.get("architecture"))
        self._memory_kills = count_memory_kills()
        with self._lock:
            self._job = job
            ended = self._ended
        if ended:
            self._report_end()
        else:
            self.send({**dataclasses.asdict(job), "folder": str(folder)})

    def send(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        # the reading thread reports a worker that has just died
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()

    def has_grown(self) -> bool:
        """Check whether the process uses far more memory than after its first job of the same kind: a library leaks."""
        now = resident_memory(self._process.pid)
        if now is None:
            return False
        first = self._memory.setdefault(self._kind, now)
        return now > max(2 * first, first + MEMORY_GROWTH_LIMIT)

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def interrogate(self) -> None:
        """Ask the process to write its threads' stack traces to its log and end; wait a few seconds for it."""
        with self._lock:
            self._job = None
        # Windows has no such signal and raises ValueError; the process is then only killed
        with contextlib.suppress(subprocess.TimeoutExpired, ValueError):
            self._process.send_signal(signal.SIGABRT)
            self._process.wait(STACK_TRACE_SECONDS)

    def log(self) -> str:
        """Return the end of what the process wrote besides its events.

        Call it only when the process has ended or will be ended: reading moves the position at which it writes.
        """
        self._log.seek(0)
        return self._log.read()[-8000:]

    def end(self) -> None:
        """Kill the process; its job gets no more events."""
        with self._lock:
            self._job = None
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        self._log.close()

    def _read_events(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            try:
                event = _parse_event(json.loads(line))
            except (ValueError, TypeError, KeyError, AttributeError):
                continue  # printed before the worker redirected its output, or cut off when it died
            if isinstance(event, Done | Failed):
                with self._lock:
                    self._job = None
            self._has_reported = True
            self._events.put((self, event))
        self._process.wait()
        self._report_end()

    def _report_end(self) -> None:
        """Report the job as failed if the process ended without reporting its end."""
        with self._lock:
            job, self._job, self._ended = self._job, None, True
        if job is not None:
            how = (self._process.returncode, self.log(), self._has_reported, self._memory_kills)
            self._events.put((self, _crash_event(job.key, *how)))


def _parse_event(message: dict[str, Any]) -> Event:
    """Return the event that a worker's message describes.

    Raises:
        ValueError, TypeError, KeyError, AttributeError: it describes none.
    """
    kind = message.pop("kind")
    if kind == "epoch":
        return Epoch(message["key"], EpochRecord.from_json(message["record"]), message["asks"])
    if kind == "failed":
        return _with_memory_limit(Failed(**message))
    return {"alive": Alive, "progress": Progress, "done": Done}[kind](**message)


def _with_memory_limit(failed: Failed) -> Failed:
    """Return the failure with what limits the memory, if none was left, and without TensorFlow's internal names."""
    text, *rest = re.sub(r"\{\{[^{}]*\}\} ?", "", failed.message).split("\n")
    limit = address_space_limit() if failed.reason == "oom" else None
    if limit is not None:
        text += f"; the worker's address space is limited to {format_size(limit)} (`ulimit -v`)"
    return dataclasses.replace(failed, message="\n".join([text, *rest]))


def _crash_event(key: str, code: int, log: str, has_started: bool, memory_kills: int | None = None) -> Failed:
    """Return the failure of a job whose process ended without reporting its end.

    Args:
        memory_kills: what `count_memory_kills` returned before the job.
    """
    limit = address_space_limit()
    if limit is not None and (code in (-signal.SIGSEGV, -signal.SIGABRT) or "MemoryError" in log):
        ending = f"signal {-code}" if code < 0 else f"exit code {code}"
        text = (
            f"the worker process crashed ({ending}), as libraries do when no memory is left; its address space is "
            f"limited to {format_size(limit)} (`ulimit -v`)"
        )
        return Failed(key, "oom", text, log)
    how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    if code == -signal.SIGKILL:
        return _kill_event(key, how, log, memory_kills)
    if code >= 0 and not has_started:
        return Failed(key, "environment", f"the worker process could not start: it {how}", log)
    own = code >= 0 or -code in _CRASH_SIGNALS
    return Failed(key, "crash" if own else "environment", f"the worker process {how}", log)


def _kill_event(key: str, how: str, log: str, before: int | None) -> Failed:
    """Return the failure of a job whose process was killed: by Linux for lack of memory, or by somebody else."""
    now = count_memory_kills()
    if before is None or now is None:
        return Failed(key, "oom", f"the worker process {how}, perhaps for lack of memory", log, is_guess=True)
    if now > before:
        return Failed(key, "oom", "the system ended the worker process (signal 9) for lack of memory", log)
    text = f"the worker process {how}, by a program or person: the system has ended no process for lack of memory"
    return Failed(key, "environment", text, log)
