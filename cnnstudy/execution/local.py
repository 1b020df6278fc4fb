"""Workers as processes on this machine, sharing its cores."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cnnstudy
from cnnstudy.errors import WorkerError
from cnnstudy.execution import Alive, Done, Epoch, Event, Failed, Job, Progress
from cnnstudy.records import EpochRecord
from cnnstudy.system.processes import cores, gpus, resident_memory

#: Set before TensorFlow is imported, whatever the user's environment says: trials of a study compute alike. oneDNN is
#: off by default on processors without AVX-512, where it makes a step of these networks 1.3 to 2.7 times faster.
WORKER_ENVIRONMENT = {
    "TF_ENABLE_ONEDNN_OPTS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "PYTHONUNBUFFERED": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}

WORKER = ("-m", "cnnstudy.execution.worker")
#: A worker that hangs has so many seconds to write where it hangs.
SECONDS_TO_ANSWER = 5

#: A worker may grow by so many bytes, or to twice what it had; then another takes its place.
MEMORY_TO_SPARE = 2**30


class LocalExecutor:
    """`workers` processes, started when first needed, kept warm, replaced when they die.

    Args:
        folder: for the files of trials, and for what workers leave there.
        program: what Python runs as a worker.
    """

    def __init__(self, workers: int, folder: Path, program: Sequence[str] = WORKER) -> None:
        self.slots = workers
        self.deterministic = False
        self._threads = max(1, cores() // workers)
        self._folder = folder
        self._program = program
        self._events: queue.Queue[tuple[_Process, Event]] = queue.Queue()
        self._idle: list[_Process] = []
        self._busy: dict[str, _Process] = {}
        self._ahead: Job | None = None  # under way, though nobody has submitted it yet

    def start_ahead(self, job: Job) -> None:
        """Start the first worker, which imports TensorFlow while the driver has other things to do.

        Args:
            job: begun then too. Once it is submitted, its events are told; if another one is, it is dropped.
                Where its worker has died by then, another one takes its place.
        """
        process = self._new_process("--ahead")
        self._ahead, self._busy[job.key] = job, process
        process.start(job, self._folder)

    def submit(self, job: Job) -> None:
        ahead, self._ahead = self._ahead, None
        if ahead == job and self._busy[job.key].is_alive():
            return
        if ahead is not None:  # another, or one whose worker died
            self._drop(self._busy.pop(ahead.key))
        process = None
        while self._idle and process is None:  # one that died while it had nothing to do is replaced
            process = self._kept_if_alive(self._idle.pop())
        process = process or self._new_process()
        self._busy[job.key] = process
        process.start(job, self._folder)

    def _new_process(self, *options: str) -> _Process:
        # sums are rounded in an order that depends on the number of threads
        threads = ["--threads=1", "--deterministic"] if self.deterministic else [f"--threads={self._threads}"]
        return _Process([*self._program, *threads, *options], self._folder, self._events, self._card())

    def _card(self) -> str | None:
        """Of several GPUs the one that the fewest workers have; None: whatever there is."""
        cards = gpus()
        taken = [process.card for process in [*self._idle, *self._busy.values()]]
        return min(cards, key=taken.count) if len(cards) > 1 else None

    def next_event(self, timeout: float) -> Event | None:
        process: _Process | None = None
        while process is None or process.dropped:
            try:
                process, event = self._events.get(timeout=timeout)
            except queue.Empty:
                return None
        if isinstance(event, Done | Failed):
            del self._busy[event.key]
            # one that had no memory left may hold on to what it has, and a GPU's library that failed fails again
            spent = isinstance(event, Failed) and (event.reason == "oom" or (event.reason == "crash" and bool(gpus())))
            if spent or not process.is_alive() or process.has_grown():
                process.end()
            else:
                self._idle.append(process)
        return event

    def _kept_if_alive(self, process: _Process) -> _Process | None:
        if process.is_alive():
            return process
        process.end()
        return None

    def answer(self, key: str, go_on: bool) -> None:
        self._busy[key].send({"go_on": go_on})

    def stop(self, key: str) -> str:
        process = self._busy.pop(key)
        process.interrogate()
        log = process.log()
        self._drop(process)
        return log

    def _drop(self, process: _Process) -> None:
        """End it; what it has said that nobody has heard is not told any more."""
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
        self, program: Sequence[str], folder: Path, events: queue.Queue[tuple[_Process, Event]], card: str | None = None
    ) -> None:
        self.dropped, self.card = False, card
        self._events = events
        self._job: Job | None = None
        self._kind: tuple[str, Any] = ("", None)  # of the last job, and its network
        self._memory: dict[tuple[str, Any], int] = {}  # bytes after the first job of each
        self._ended = False
        self._lock = threading.Lock()  # over both
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - lives with self
        # The worker has no business with the tracking server: it gets neither its address nor its password.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
        root = str(Path(cnnstudy.__file__).parent.parent)
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, environment.get("PYTHONPATH")]))
        if card is not None:
            environment["CUDA_VISIBLE_DEVICES"] = card
        try:
            self._process = subprocess.Popen(
                [sys.executable, *program, f"--folder={folder}"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                text=True,
                encoding="utf-8",
                env=environment | WORKER_ENVIRONMENT | {"TMPDIR": str(folder)},  # what it leaves goes with the folder
                start_new_session=True,  # Ctrl-C is the driver's to handle
            )
        except OSError as error:
            raise WorkerError(f"can't start a worker process: {error}") from error
        self._reader = threading.Thread(target=self._read_events, daemon=True)
        self._reader.start()

    def start(self, job: Job, folder: Path) -> None:
        self._kind = (job.kind, job.payload.get("architecture"))
        with self._lock:
            self._job = job
            ended = self._ended
        if ended:
            self._report_end()
        else:
            self.send({**dataclasses.asdict(job), "folder": str(folder)})

    def send(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        # a worker that just died is reported by the reading thread
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()

    def has_grown(self) -> bool:
        """Whether it holds far more memory than after its first job of the last one's kind: a library leaks."""
        now = resident_memory(self._process.pid)
        if now is None:
            return False
        first = self._memory.setdefault(self._kind, now)
        return now > max(2 * first, first + MEMORY_TO_SPARE)

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def interrogate(self) -> None:
        """Let it write the stacks of its threads into its log and end, if it still can."""
        with self._lock:
            self._job = None
        # Windows can't send it, which is a ValueError: there it is only ended
        with contextlib.suppress(subprocess.TimeoutExpired, ValueError):
            self._process.send_signal(signal.SIGABRT)
            self._process.wait(SECONDS_TO_ANSWER)

    def log(self) -> str:
        """The end of what it wrote besides its events; only for one that has ended, or is to."""
        self._log.seek(0)
        return self._log.read()[-8000:]

    def end(self) -> None:
        """Kill it; its job gets no more events."""
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
                event = _event(json.loads(line))
            except (ValueError, TypeError, KeyError, AttributeError):
                continue  # printed before the worker took over its output, or cut off by its end
            if isinstance(event, Done | Failed):
                with self._lock:
                    self._job = None
            self._events.put((self, event))
        self._process.wait()
        self._report_end()

    def _report_end(self) -> None:
        """A process that ended without a word leaves its job failed."""
        with self._lock:
            job, self._job, self._ended = self._job, None, True
        if job is not None:
            self._events.put((self, _crash(job.key, self._process.returncode, self.log())))


def _event(message: dict[str, Any]) -> Event:
    """Raises ValueError, TypeError, KeyError or AttributeError where it is none."""
    kind = message.pop("kind")
    if kind == "epoch":
        return Epoch(message["key"], EpochRecord.from_json(message["record"]), message["asks"])
    return {"alive": Alive, "progress": Progress, "done": Done, "failed": Failed}[kind](**message)


def _crash(key: str, code: int, log: str) -> Failed:
    how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    # 9 without anybody's kill is how Linux takes back memory
    hint = "; the machine may have run out of memory" if code == -9 else ""
    return Failed(key, "oom" if code == -9 else "crash", f"the worker process {how}{hint}", log)
