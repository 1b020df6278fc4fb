"""One slot on a node of a Ray cluster: an actor that passes jobs and events on to a worker process beside it.

The driver makes the actor from the class, and calls its methods, any of them again if the network failed: a repeated
call changes nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import platform
import queue
import shutil
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnnstudy.execution import Alive, Done, Event, Job
from cnnstudy.execution.local import LocalExecutor
from cnnstudy.execution.parcels import (
    INCOMING,
    ArrivingEntry,
    Files,
    Parcel,
    measure,
    name_files,
    read_piece,
    unpack_job,
)
from cnnstudy.records import TrialSpec
from cnnstudy.system.cache import (
    ABOUT,
    cache_folder,
    entry_folder,
    entry_folders,
    find_unfinished,
    remove_unfinished,
    try_lock,
)
from cnnstudy.system.code_version import training_code
from cnnstudy.system.scratch import Scratch, remove_abandoned, remove_tree, scratch_folders
from cnnstudy.training import checkpoints

#: Seconds for which a call waits for events.
POLL_SECONDS = 10.0
#: Days after which what no driver has asked for is removed: parts of parcels, checkpoints.
UNUSED_DAYS = 30
#: The kind of entries that one node makes and others can use.
SHARED_KIND = "features"


@dataclass(frozen=True)
class NodeFacts:
    """What a driver has to know of a node."""

    node: str  # Ray's id
    host: str
    folder: str  # of the worker's files
    shares_cache: bool  # with the driver
    code: dict[str, Any]  # that trains, as Code.to_json
    messages: str  # `digest_messages` there


@dataclass(frozen=True)
class Heard:
    """The events since the last call, and which checkpoint the trial has written: its time and size; None: none."""

    events: tuple[tuple[int, Event], ...]
    checkpoint: tuple[int, int] | None


class NodeSlot:
    """Runs one job at a time in a worker process, which ends with the actor: its standard input closes.

    Args:
        program: the arguments with which Python runs a worker.
        threads, gpus: of the worker.
    """

    def __init__(self, program: Sequence[str], threads: int, gpus: int = 1) -> None:
        for name in list(os.environ):
            # a worker never talks to the tracking server; and Ray's one thread is not what its worker is told to use
            if name.startswith("MLFLOW_") or name == "OMP_NUM_THREADS":
                del os.environ[name]
        _tidy_node()
        self._scratch = Scratch()
        self._queue: queue.Queue[Any] = queue.Queue()
        self._executor = LocalExecutor(1, self._scratch.folder, program, threads, gpus, self._queue)
        self._lock = threading.RLock()  # guards the executor
        self._reading = threading.Lock()
        self._job = self._answered = self._heard = 0  # numbers of the last job, answer and event
        self._unread: list[tuple[int, Event]] = []
        self._checkpoint = ""  # address of the running trial's
        self._found: tuple[int, int] | None = None  # which one was here before
        self._before: set[str] = set()  # entries of SHARED_KIND before the job
        self._arriving: dict[str, ArrivingEntry] = {}

    def describe(self, mark: str) -> NodeFacts:
        """Return the node's facts.

        Args:
            mark: relative path of a file in the driver's cache, which shows whether the node has the same.
        """
        import ray

        node, shares = ray.get_runtime_context().get_node_id(), (cache_folder() / mark).is_file()
        code, messages = training_code(()).to_json(), digest_messages()
        return NodeFacts(node, platform.node(), str(self._scratch.folder), shares, code, messages)

    # ---- jobs and events

    def start(self, number: int, job: Job, deterministic: bool, checkpoint: str) -> tuple[int, int] | None:
        """Start a packed job; its number is one more than that of the job before.

        Args:
            checkpoint: the address of the trial's checkpoint; "": it writes none.

        Returns:
            Which checkpoint of it is here, as in Heard.
        """
        with self._lock:
            if number > self._job:
                self._job, self._answered = number, 0
                self._checkpoint, self._before = checkpoint, _list_shared()
                self._found = self._find_checkpoint()
                self._executor.deterministic = deterministic
                self._executor.submit(unpack_job(job))
            return self._found

    def answer(self, number: int, key: str, go_on: bool) -> None:
        """Pass on the answer of that number, from 1 for each job, to an epoch."""
        with self._lock:
            if number > self._answered:
                self._answered = number
                with contextlib.suppress(KeyError):  # the job was stopped meanwhile
                    self._executor.answer(key, go_on)

    def hear(self, after: int, patience: float = POLL_SECONDS) -> Heard:
        """Return the events with larger numbers; wait for one."""
        with self._reading:
            self._unread = [(number, event) for number, event in self._unread if number > after]
            until = time.monotonic() + patience
            while not self._unread and time.monotonic() < until:
                self._take(max(0.0, until - time.monotonic()))
            while not self._queue.empty():
                self._take(0)
            return Heard(tuple(self._unread), self._find_checkpoint())

    def _take(self, timeout: float) -> None:
        """Read an event from the worker; signs of life are told once."""
        try:
            item = self._queue.get(timeout=timeout)
        except queue.Empty:
            return
        with self._lock:
            event = self._executor.take_event(*item)
        if isinstance(event, Done) and isinstance(event.result, dict) and isinstance(event.result.get("files"), dict):
            named = name_files(event.result["files"], self._scratch.folder)
            event = dataclasses.replace(event, result={**event.result, "files": named})
        told_already = isinstance(event, Alive) and any(isinstance(one, Alive) for _, one in self._unread)
        if event is not None and not told_already:
            self._heard += 1
            self._unread.append((self._heard, event))

    def _find_checkpoint(self) -> tuple[int, int] | None:
        if self._checkpoint:
            with contextlib.suppress(OSError):  # none yet
                status = (entry_folder(checkpoints.KIND, self._checkpoint) / checkpoints.FILE).stat()
                return status.st_mtime_ns, status.st_size
        return None

    def stop(self, key: str) -> str:
        """End a job that hangs; return what its worker was doing."""
        with self._lock:
            return self._executor.stop(key)

    def close(self) -> None:
        """End the worker and remove its files; the actor is of no use any more."""
        with self._lock:
            self._executor.close()
        for arriving in self._arriving.values():
            arriving.close()
        self._scratch.close()

    # ---- files that come

    def expect(self, parcel: Parcel) -> tuple[str, tuple[str, int] | None]:
        """Get ready for an entry of the cache.

        Returns:
            "there": the cache has it; "busy": another slot of this node receives it; or "send", with the file that is
            to come next and how much of it is here.
        """
        name = f"{parcel.kind}/{parcel.address}"
        if name not in self._arriving:
            arriving = ArrivingEntry(parcel)
            if arriving.is_there or not arriving.is_ours:
                arriving.close()
                return ("there" if arriving.is_there else "busy"), None
            self._arriving[name] = arriving
        return "send", self._arriving[name].next_missing()

    def take(self, parcel: Parcel, name: str, offset: int, data: bytes) -> tuple[str, int] | None:
        """Take a piece of a file; return the next one that is to come, as `expect` does."""
        arriving = self._arriving[f"{parcel.kind}/{parcel.address}"]
        arriving.add(name, offset, data)
        return arriving.next_missing()

    def store(self, parcel: Parcel) -> list[str]:
        """Put an entry that has arrived into the cache; return the files that are not what was sent."""
        name = f"{parcel.kind}/{parcel.address}"
        arriving = self._arriving.get(name)
        if arriving is None:  # stored by the call that this one repeats
            return []
        if parcel.kind == checkpoints.KIND:
            altered = arriving.find_altered()
            if not altered:
                checkpoints.store_checkpoint(parcel.address, arriving.folder)
        else:
            altered = arriving.store()
        if not altered:
            self._arriving.pop(name).close()
        return altered

    def find_epoch(self, address: str) -> int:
        """Return the epoch that a checkpoint on this node has reached, or -1."""
        return checkpoints.find_epoch(address)

    # ---- files that go

    def list_files(self, place: str) -> Files:
        """Return the files in a place: relative to the worker's folder, or an entry as `kind/address`."""
        return measure(self._find(place))

    def read(self, place: str, name: str, offset: int) -> bytes:
        """Return a piece of one of a place's files."""
        path = self._find(place)
        return read_piece(path.parent if path.is_file() else path, name, offset)

    def _find(self, place: str) -> Path:
        shared = place.startswith(f"{SHARED_KIND}/")
        return cache_folder() / place if shared else self._scratch.folder / place

    def remove(self, place: str) -> None:
        """Remove a file or folder of the worker."""
        path = self._scratch.folder / place
        if path.is_file():
            path.unlink()
        else:
            remove_tree(path)

    def copy_checkpoint(self, place: str) -> Files:
        """Put the running trial's checkpoint, as it is now, into a place of the worker's folder; return its files."""
        source, target = entry_folder(checkpoints.KIND, self._checkpoint), self._scratch.folder / place
        if not target.is_dir():
            target.mkdir()
            for name in (ABOUT, checkpoints.TRIAL, checkpoints.FILE):
                try:  # a link keeps the content: checkpoints are replaced, not overwritten
                    os.link(source / name, target / name)
                except OSError:
                    shutil.copyfile(source / name, target / name)
        return measure(target)

    def end_trial(self, key: str, checkpoint: str) -> None:
        """Remove the files of a trial whose result the driver has, and its checkpoint."""
        self.remove(key)
        if checkpoint:
            checkpoints.remove_entry(entry_folder(checkpoints.KIND, checkpoint))

    def list_new(self, architecture: str) -> list[str]:
        """Return the addresses of a network's entries that other nodes can use, made during the last job."""
        made = []
        for address in sorted(_list_shared() - self._before):
            with contextlib.suppress(OSError):  # removed already, to make room
                about = (entry_folder(SHARED_KIND, address) / ABOUT).read_text(encoding="utf-8")
                # other slots of the node make entries, too
                made += [address] if about.startswith(f"{architecture} ") else []
        return made


def digest_messages() -> str:
    """Return a digest of the code by which driver and node understand each other."""
    total = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        total.update(path.read_bytes())
    return total.hexdigest()


def address_checkpoint(job: Job) -> str:
    """Return the address of a trial's checkpoint; "" if it writes none."""
    try:
        spec = TrialSpec.from_json(job.payload) if job.kind == "run_trial" else None
    except (TypeError, ValueError):  # a mistake, which the worker reports
        return ""
    return checkpoints.checkpoint_address(spec) if spec is not None and spec.checkpoints != checkpoints.NONE else ""


def _list_shared() -> set[str]:
    return {folder.name for folder in entry_folders(SHARED_KIND)}


def _tidy_node() -> None:
    """Remove what killed processes left on this node, and what nobody has come back for."""
    for folder in scratch_folders():
        remove_abandoned(folder)
    for folder in find_unfinished():
        remove_unfinished(folder)
    oldest = time.time() - UNUSED_DAYS * 24 * 3600
    for folder in (cache_folder() / INCOMING).glob("*-*"):
        with contextlib.suppress(OSError), try_lock(folder) as lock:
            if folder.is_dir() and folder.stat().st_mtime < oldest and lock is not None:
                remove_tree(folder)
    for folder in entry_folders(checkpoints.KIND):
        with contextlib.suppress(OSError):  # a trial of this node has just ended
            if (folder / checkpoints.FILE).stat().st_mtime < oldest:
                checkpoints.remove_entry(folder)
