"""The driver's side of a slot on a Ray cluster: a thread that keeps one actor, and moves its jobs, events and files."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnnstudy.errors import CacheError, CnnstudyError
from cnnstudy.execution import Done, Epoch, Failed, Job, Progress
from cnnstudy.execution.node_files import CheckpointFetch, NodeFiles, describe_likeness
from cnnstudy.execution.parcels import PIECE, RECEIVED, Arrival, Parcel, measure, pack_job, read_piece
from cnnstudy.execution.ray_connection import Connection, describe_code, explain_loss, is_lasting, ray_errors
from cnnstudy.execution.ray_node import (
    POLL_SECONDS,
    SHARED_KIND,
    Heard,
    NodeFacts,
    NodeSlot,
    address_checkpoint,
    digest_messages,
)
from cnnstudy.system.cache import entry_folder
from cnnstudy.system.scratch import remove_tree
from cnnstudy.training import checkpoints

#: Seconds that a node may take to say what a hung worker is doing, and to end its workers.
STOP_SECONDS = 20.0
#: Seconds between two questions whether another slot of a node has received a file, and between two tries of a call
#: that did not reach its node.
_AGAIN_SECONDS = 0.5
#: How often a file that arrives damaged is sent.
_MOST_TIMES = 3


@dataclass(frozen=True)
class Joined:
    """A slot has started on a node; `refusal` says why it can't be used, "" if it can."""

    refusal: str


@dataclass(frozen=True)
class Gone:
    """A slot without a job is gone, and why; `is_lasting` says that another one would fail in the same way."""

    why: str
    is_lasting: bool


class _Closed(Exception):  # noqa: N818 - nothing went wrong
    """The slot is of no use any more."""


class RemoteSlot:
    """One actor on the cluster, from the wish for it to its end; its events go into a queue, with the slot itself.

    Args:
        folder: for the files of trials, on this machine.
        delay: seconds until the actor is asked for.
    """

    def __init__(
        self,
        connection: Connection,
        files: NodeFiles,
        events: queue.Queue[Any],
        folder: Path,
        program: Sequence[str],
        delay: float,
    ) -> None:
        self.dropped = self.is_lost = False  # not wanted any more; not there any more
        self.facts: NodeFacts | None = None  # once it has joined
        self._connection, self._files, self._events, self._folder = connection, files, events, folder
        self._program, self._delay = program, delay
        self._actor: Any = None
        self._jobs: queue.Queue[tuple[Job, bool] | None] = queue.Queue()
        self._answers: queue.Queue[bool] = queue.Queue()
        self._ended = threading.Event()
        self._number = self._heard = 0  # of the last job and event
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    @property
    def node(self) -> str:
        """Ray's id of the node; "" before it has joined."""
        return self.facts.node if self.facts else ""

    @property
    def host(self) -> str:
        """The node's name."""
        return self.facts.host if self.facts else ""

    # ---- for the executor's thread

    def start(self, job: Job, deterministic: bool) -> None:
        """Run a job, the only one at a time."""
        self._answers = queue.Queue()
        self._jobs.put((job, deterministic))

    def answer(self, go_on: bool) -> None:
        """Answer the epoch of a job that asks."""
        self._answers.put(go_on)

    def stop(self, key: str) -> str:
        """End the job, so that no more of its events count; return what its worker was doing."""
        self.dropped = True
        silent: tuple[type[BaseException], ...] = (*ray_errors(), KeyError)  # KeyError: it had not begun there
        try:
            return str(self._connection.wait(self._actor.stop.remote(key), STOP_SECONDS))
        except silent:
            return f"the worker on node {self.host} did not answer"

    def drop(self) -> None:
        """End the actor; its events are for nobody any more."""
        self.dropped = True
        self._ended.set()
        self._jobs.put(None)
        self._answers.put(False)
        if self._actor is not None:
            self._connection.kill(self._actor)

    @staticmethod
    def end_all(slots: Sequence[RemoteSlot]) -> None:
        """End the workers of all slots, wait until they have ended, and drop the slots."""
        asked = []
        for slot in slots:
            slot.dropped = True
            slot._ended.set()
            if slot.facts is not None:
                with contextlib.suppress(*ray_errors()):
                    asked.append((slot._connection, slot._actor.close.remote()))
        for connection, answer in asked:
            with contextlib.suppress(Exception):  # lost meanwhile, or it can't remove its files
                connection.wait(answer, STOP_SECONDS)
        for slot in slots:
            slot.drop()
        for slot in slots:
            slot._thread.join(STOP_SECONDS)

    # ---- for other slots

    def call(self, method: str, *arguments: Any) -> Any:
        """Call the actor and wait, again if the call did not reach it.

        Raises:
            one of ray_errors(): the actor is lost.
            _Closed: the slot was dropped.
            Others that the method raised.
        """
        while True:
            if self._ended.is_set():
                raise _Closed
            try:
                return self._connection.wait(self.ask(method, *arguments))
            except self._connection.unavailable:
                self._ended.wait(_AGAIN_SECONDS)

    def ask(self, method: str, *arguments: Any) -> Any:
        """Call the actor and return what another call can take for its result, which need not be there yet."""
        return getattr(self._actor, method).remote(*arguments)

    # ---- in the slot's own thread

    def _serve(self) -> None:
        """Keep one actor until it is lost or dropped."""
        job: Job | None = None
        try:
            self._ended.wait(self._delay)
            self._enter()
            while (given := self._jobs.get()) is not None:
                job = given[0]
                ended = self._run(*given)
                job = None
                self._put(ended)
        except _Closed:
            pass
        except ray_errors() as error:
            if not self._ended.is_set():
                self.is_lost = True
                reason, why = explain_loss(error, self.node, self.host, self._connection)
                self._files.forget(self.node)
                self._put(Gone(why, is_lasting(error)) if job is None else Failed(job.key, reason, why, str(error)))
        except Exception as error:  # a mistake, which must not leave the study waiting
            if self._ended.is_set():
                return
            self.is_lost, why = True, f"{type(error).__name__}: {error}"
            self._put(Gone(why, True) if job is None else Failed(job.key, "crash", why, ""))
            raise

    def _put(self, event: Any) -> None:
        self._events.put((self, event))

    def _enter(self) -> None:
        if self._ended.is_set():
            raise _Closed
        needs = self._connection.needs
        self._actor = self._connection.make_actor(NodeSlot, tuple(self._program), needs.threads, needs.devices)
        mark = self._connection.mark
        facts: NodeFacts = self.call("describe", f"{mark.parent.name}/{mark.name}")
        self.facts = facts
        self._put(Joined(describe_code(facts.code, facts.messages == digest_messages(), facts.host)))

    def _run(self, job: Job, deterministic: bool) -> Done | Failed:
        """Run a job and return its last event, once everything that it leaves is here."""
        checkpoint = "" if self._shares_cache else address_checkpoint(job)
        try:
            packed, parcels = pack_job(job)
            for parcel, folder in parcels:
                self._send(job.key, parcel, _reader(folder))
            likeness = "" if self._shares_cache else describe_likeness(packed)
            self._pass_on(job.key, likeness)
            if checkpoint:
                self._send_checkpoint(job.key, checkpoint)
            self._number += 1
            written = self.call("start", self._number, packed, deterministic, checkpoint)
            last = self._listen(job, checkpoint, written)
            for address in self.call("list_new", job.payload["architecture"]) if likeness else ():
                self._files.note_made(likeness, f"{SHARED_KIND}/{address}", self)
            if isinstance(last, Failed) and last.reason == "data":  # the node may have cleared its cache
                self._files.forget(self.node)
            if isinstance(last, Done) and job.kind == "run_trial":
                last = self._fetch_result(last)
                self.call("end_trial", job.key, checkpoint)
            return last
        except CnnstudyError as error:
            return Failed(job.key, "environment", str(error), "", error=type(error).__name__)
        except OSError as error:
            if isinstance(error, ray_errors()):
                raise
            return Failed(job.key, "environment", f"files could not be moved to or from {self.host}: {error}", "")

    @property
    def _shares_cache(self) -> bool:
        return self.facts is not None and self.facts.shares_cache

    def _listen(self, job: Job, checkpoint: str, written: tuple[int, int] | None) -> Done | Failed:
        """Pass on the job's events and answers, and fetch its checkpoints meanwhile; return the last event.

        Args:
            checkpoint: the address of those that are fetched; "": none.
            written: the last one that is here.
        """
        answered, fetch, last = 0, None, None
        while last is None:
            heard: Heard = self.call("hear", self._heard, POLL_SECONDS if fetch is None else 0.0)
            for number, event in heard.events:
                self._heard = number
                if isinstance(event, Done | Failed):
                    last = event
                    continue
                self._put(event)
                if isinstance(event, Epoch) and event.asks:
                    answered += 1
                    self.call("answer", answered, job.key, self._answers.get())
            if checkpoint and fetch is None and heard.checkpoint not in (None, written):
                written = heard.checkpoint
                fetch = CheckpointFetch(self.call, checkpoint)
            if fetch is not None and fetch.go_on():
                fetch = None
        while fetch is not None and isinstance(last, Failed) and not fetch.go_on():
            pass  # the next attempt may be on another node
        if fetch is not None:
            fetch.close()
        return last

    # ---- files

    def _send(self, key: str, parcel: Parcel, read: Callable[[str, int], Any]) -> None:
        """Put an entry into the node's cache, unless it is there.

        Args:
            read: returns the piece of a file from there on, or what an actor takes for it.

        Raises:
            CacheError: it arrives damaged again and again.
        """
        entry = f"{parcel.kind}/{parcel.address}"
        if self._shares_cache and parcel.kind != RECEIVED:
            return
        with self._files.sending(self.node, entry):
            if self._files.has(self.node, entry):
                return
            for _ in range(_MOST_TIMES):
                while (reply := self.call("expect", parcel))[0] == "busy":
                    self._ended.wait(_AGAIN_SECONDS)
                    self._put(Progress(key, f"waiting for {entry} on {self.host}", 0, 0))
                state, missing = reply
                while missing is not None:
                    name, offset = missing
                    if parcel.bytes > PIECE:
                        self._put(Progress(key, f"sending {name} to {self.host}", offset, parcel.files[name][0]))
                    missing = self.call("take", parcel, name, offset, read(name, offset))
                altered = [] if state == "there" else self.call("store", parcel)
                if not altered:
                    self._files.note_sent(self.node, entry)
                    return
        raise CacheError(
            f"{altered[0]} of the cache entry {entry} arrived on node {self.host} {_MOST_TIMES} times with other "
            "content than was sent; check the memory and disks of both machines."
        )

    def _pass_on(self, key: str, likeness: str) -> None:
        """Send the node what trials like this one have made on other nodes; what can't be sent is made again."""
        no_matter: tuple[type[BaseException], ...] = (*ray_errors(), OSError, CnnstudyError, _Closed)
        for entry, holder in self._files.find_made(likeness) if likeness else ():
            if holder.node == self.node or holder.is_lost or self._files.has(self.node, entry):
                continue
            try:
                kind, _, address = entry.partition("/")
                parcel = Parcel(kind, address, holder.call("list_files", entry))
                self._send(key, parcel, functools.partial(holder.ask, "read", entry))
            except no_matter:
                self.call("find_epoch", "")  # raises if it is this node that is lost

    def _send_checkpoint(self, key: str, address: str) -> None:
        """Send the node the trial's checkpoint, if the one that is here is further than the node's own."""
        if checkpoints.find_epoch(address) > self.call("find_epoch", address):
            folder = entry_folder(checkpoints.KIND, address)
            parcel = Parcel(checkpoints.KIND, address, measure(folder))
            self._files.forget(self.node, f"{checkpoints.KIND}/{address}")  # another state of it may have been sent
            self._send(key, parcel, _reader(folder))

    def _fetch_result(self, done: Done) -> Done:
        """Bring the files of a result here, and return the result with their places here."""
        files = dict(done.result.get("files") or {})
        for top in {place.split("/")[0] for place in files.values() if not Path(place).is_absolute()}:
            remove_tree(self._folder / top)
            arrival = Arrival(self._folder / top, self.call("list_files", top))
            for _ in range(_MOST_TIMES):
                while (missing := arrival.next_missing()) is not None:
                    arrival.add(*missing, self.call("read", top, *missing))
                if not arrival.find_altered():
                    break
            else:
                raise CacheError(f"the files of {done.key} arrived from node {self.host} with other content than sent.")
        here = {name: str(self._folder / place) for name, place in files.items()}  # an absolute place stays
        return dataclasses.replace(done, result={**done.result, "files": here})


def _reader(folder: Path) -> Callable[[str, int], bytes]:
    return lambda name, offset: read_piece(folder, name, offset)
