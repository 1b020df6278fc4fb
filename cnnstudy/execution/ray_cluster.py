"""The executor for a Ray cluster: trials run on its nodes, an actor for each slot; other jobs run on this machine.

An actor (ray_node) passes jobs and events on to a worker process beside it. Actors that no node has room for yet wait
in the cluster, and take part when one has; an actor whose node is lost is replaced. Jobs about files of this machine,
such as decoding images and checking weights, run here; what trials need of them is sent once to each node.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cnnstudy.execution import Done, Event, Failed, Job, Waiting
from cnnstudy.execution.local import WORKER, LocalExecutor
from cnnstudy.execution.node_files import NodeFiles
from cnnstudy.execution.ray_connection import Connection, SlotNeeds
from cnnstudy.execution.ray_slot import Gone, Joined, RemoteSlot

#: The kinds of jobs that run on nodes.
REMOTE_KINDS = ("run_trial", "measure_speed")
#: Seconds between two reports that a job waits for a node.
_WAITING_INTERVAL = 5.0
#: The longest time in seconds before another actor is asked for after several came to nothing.
_LONGEST_DELAY = 30.0


class RayExecutor:
    """Up to `most` slots on the nodes of a Ray cluster; `slots` are those that are ready, but at least one.

    Args:
        most: slots.
        folder: for the files of trials, on this machine.
        needs: of each slot.
        address: of the cluster, as `ray.init` takes it; None: the one that runs on this machine, or a new one.
        program: the arguments with which Python runs a worker.

    Raises:
        WorkerError: Ray is missing, the cluster can't be reached, or no node has what a slot needs.
    """

    def __init__(
        self, most: int, folder: Path, needs: SlotNeeds, address: str | None = None, program: Sequence[str] = WORKER
    ) -> None:
        self.slots = 1
        self.deterministic = False
        self._events: queue.Queue[tuple[Any, Any]] = queue.Queue()
        self._home = LocalExecutor(1, folder, program, events=self._events)
        self._folder, self._program = folder, program
        self._connection = Connection(needs, address)
        self._files = NodeFiles()
        self._idle: list[RemoteSlot] = []
        self._busy: dict[str, RemoteSlot] = {}
        self._waiting: list[Job] = []
        self._told = 0.0  # when a job was last reported as waiting, in seconds
        self._in_vain = 0  # actors that came to nothing since one joined
        self._absent = [self._new_slot() for _ in range(most)]  # slots that no node has started yet
        self._refused: list[RemoteSlot] = []  # they keep their places, so that no other is started there
        self._refusal = ""  # of the last of them

    def _new_slot(self) -> RemoteSlot:
        delay = min(_LONGEST_DELAY, 2.0**self._in_vain - 1)
        return RemoteSlot(self._connection, self._files, self._events, self._folder, self._program, delay)

    # ---- the protocol

    def start_ahead(self, job: Job) -> None:
        """Start a job of this machine early; see `Executor.start_ahead`."""
        if job.kind not in REMOTE_KINDS:
            self._home.deterministic = self.deterministic
            self._home.start_ahead(job)

    def submit(self, job: Job) -> None:
        if job.kind in REMOTE_KINDS:
            self._waiting.append(job)
            self._hand_out()
        else:
            self._home.deterministic = self.deterministic
            self._home.submit(job)

    def next_event(self, timeout: float) -> Event | None:
        told: Event | None
        told = (self._give_up(self._refusal) if self._refusal else None) or self._tell_of_waiting()
        while told is None:
            try:
                source, event = self._events.get(timeout=timeout)
            except queue.Empty:
                return None
            told = self._take(source, event)
        return told

    def answer(self, key: str, go_on: bool) -> None:
        if key in self._busy:
            self._busy[key].answer(go_on)
        else:
            self._home.answer(key, go_on)

    def stop(self, key: str) -> str:
        if any(job.key == key for job in self._waiting):
            self._waiting = [job for job in self._waiting if job.key != key]
            return ""
        if key not in self._busy:
            return self._home.stop(key)
        slot = self._busy.pop(key)
        log = slot.stop(key)
        self._replace(slot)
        return log

    def close(self) -> None:
        self._home.close()
        slots = [*self._idle, *self._busy.values(), *self._absent, *self._refused]
        for members in (self._idle, self._busy, self._waiting, self._absent, self._refused):
            members.clear()
        RemoteSlot.end_all(slots)
        self._connection.close()
        while not self._events.empty():
            self._events.get()

    # ---- slots and jobs

    @property
    def ready(self) -> list[RemoteSlot]:
        """The slots on nodes, busy or not."""
        return [*self._idle, *self._busy.values()]

    def _take(self, source: Any, event: Any) -> Event | None:
        """Return an event of a worker, with what it means for its slot carried out; None if it is for nobody."""
        if not isinstance(source, RemoteSlot):
            return self._home.take_event(source, event)
        if source.dropped:
            return None
        if isinstance(event, Joined):
            return self._welcome(source, event)
        if isinstance(event, Gone):
            return self._dismiss(source, event)
        if isinstance(event, Done | Failed):
            del self._busy[event.key]
            if source.is_lost:
                self._replace(source)
            else:
                self._idle.append(source)
                self._hand_out()
        told: Event = event
        return told

    def _welcome(self, slot: RemoteSlot, joined: Joined) -> Failed | None:
        self._absent.remove(slot)
        if joined.refusal:
            self._refused.append(slot)
            self._refusal = joined.refusal
            return self._give_up(joined.refusal)
        self._in_vain = 0
        self._idle.append(slot)
        self._count()
        self._hand_out()
        return None

    def _dismiss(self, slot: RemoteSlot, gone: Gone) -> Failed | None:
        """Replace a slot that is gone without a job."""
        self._in_vain += slot in self._absent
        self._replace(slot)
        return self._give_up(gone.why) if gone.is_lasting else None

    def _give_up(self, why: str) -> Failed | None:
        """Return the failure of a job that waits, if no slot is there that can run it."""
        if self.ready or not self._waiting:
            return None
        return Failed(self._waiting.pop(0).key, "environment", why, "", error="WorkerError")

    def _replace(self, slot: RemoteSlot) -> None:
        slot.drop()
        for members in (self._idle, self._absent):
            if slot in members:
                members.remove(slot)
        self._absent.append(self._new_slot())
        self._count()

    def _count(self) -> None:
        self.slots = max(1, len(self.ready))

    def _hand_out(self) -> None:
        while self._idle and self._waiting:
            slot, job = self._idle.pop(), self._waiting.pop(0)
            self._busy[job.key] = slot
            slot.start(job, self.deterministic)

    def _tell_of_waiting(self) -> Waiting | None:
        now = time.monotonic()
        if not self._waiting or now < self._told + _WAITING_INTERVAL / len(self._waiting):
            return None
        self._told = now
        self._waiting.append(job := self._waiting.pop(0))  # each in turn
        return Waiting(job.key, "a node of the cluster")
